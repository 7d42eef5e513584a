"""What a classification run has learned as a folder that others can use: class embeddings, prompts, a model card.

classifier.safetensors holds `class_embeddings` (C, D), unit norm, in the order of the class names in its metadata, and
`negative_embeddings` where a negative prompt was learned; prompts.safetensors what was learned, under the public repositories'
names; config.json the run's configuration; README.md says how to use it. Docs: docs/prompts.md.
"""

import functools
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch import config as config_lib
from launch import predict, runs
from launch import prompts as prompts_lib

Path = pathlib.Path
CLASSIFIER, PROMPTS = "classifier.safetensors", "prompts.safetensors"

_CARD = """{front}
# {learner}, {supervision}: prompts for {student}

A classifier of {count} classes: unit text features under learned prompts, to be compared with the picture features of
{student} (logit scale {scale:.4f}). Made by `python -m launch.export`.

| | |
|---|---|
| student | {student}, weights SHA-256 {digest} |
| learner, method | {learner}, {method} |
| trained on | {trained} |
| classes | {classes} |

## Results

{results}

## Use

{use}
"""
_PLAIN = """The picture features are those of the CLIP as it is, so any library that runs it will do:

```python
import json

from PIL import Image
from safetensors import safe_open
from transformers import CLIPImageProcessor, CLIPModel
{lines}
with safe_open("{classifier}", "pt") as file:
    facts, weights = file.metadata(), file.get_tensor("class_embeddings")
classes = json.loads(facts["class_names"])
model = CLIPModel.from_pretrained({source})
process = CLIPImageProcessor.from_pretrained({source})
pixels = process(images=Image.open("picture.jpg"), return_tensors="pt")["pixel_values"]
features = model.visual_projection(model.vision_model(pixels).pooler_output)
features = features / features.norm(dim=-1, keepdim=True)
chances = (float(facts["scale"]) * features @ weights.T).softmax(dim=-1)[0]
print(classes[int(chances.argmax())], float(chances.max()))
```
"""
_OWN = """{why} A work directory of this project's does that, made of the prompts in this folder:

```
python -m launch.prompts import --prompts={prompts} --workdir=DIR --without_data --config=configs/fdbpl_folder.py \\
    {changes}
python -m launch.predict --workdir=DIR --input=PICTURES --classes=NAMES
```
"""
_VISUAL = "The picture features are those of the image tower with the learned visual tokens in it."
_PROJECTED = (
    "The picture features are those of the image tower with the learned visual tokens in it, projected into the space of "
    "{teacher}, whose text features the classes are."
)
_FOREIGN = (
    "The picture features are those of the CLIP as it is, which transformers' CLIPModel does not open. With any library that "
    "does, probabilities are softmax(scale * cosine with `class_embeddings`)."
)
_MOST_NAMES = 12


def export(workdir: str | Path, out: str | Path, *, names: Sequence[str] | None = None) -> str:
    """Write the folder of a run.

    Args:
      workdir: of a run of task fdbpl that learned something; its student must be there, its data set only for the names.
      out: folder to write; made if missing.
      names: class names; None takes those of the run's data set.

    Returns:
      The card, as it stands in README.md.

    Raises:
      ConfigError: a run without class embeddings: zero-shot, CoCoOp, or of another task.
      ValueError: names or student cannot be used.
    """
    import safetensors.numpy

    import fdbpl_jax
    from core_jax.data import files
    from fdbpl_jax import average, exchange, towers

    config, trainable, stats, pins = prompts_lib.learned(workdir)
    if "meta" in trainable:
        raise config_lib.ConfigError(
            f"--workdir={workdir}: learner {config.learner} gives every picture class embeddings of its own; "
            "python -m launch.prompts export writes its prompts"
        )
    predictor = fdbpl_jax.predictor(config.to_dict(), trainable, stats=stats, classes=names)
    predict.require_student(str(config.student), pins, predictor.student.digest, workdir)
    assert predictor.positive is not None
    tensors = {"class_embeddings": predictor.positive}
    if predictor.negative is not None:
        tensors["negative_embeddings"] = predictor.negative
    facts = {
        "class_names": json.dumps(list(predictor.names), ensure_ascii=False),
        "scale": repr(predictor.scale),
        **prompts_lib.about(config, pins),
    }
    out = Path(out)
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    files.atomic_write(out / CLASSIFIER, safetensors.numpy.save(tensors, {"format": "pt", **facts}))
    student, facts = towers.load(config.student), prompts_lib.about(config, pins)
    exchange.write_file(out / PROMPTS, trainable, stats, student, about=facts)
    config_text = json.dumps(config_lib.to_json(config), indent=2, sort_keys=True)
    files.atomic_write(out / "config.json", config_text + "\n")
    use = _use(config, average.judged(trainable))
    card = _card(config, predictor, use, _last_results(workdir), Path(workdir) / runs.ORIGIN)
    files.atomic_write(out / "README.md", card)
    return card


def _last_results(workdir: str | Path) -> list[dict[str, Any]]:
    """The newest line of each data set and part of its classes in results.jsonl; none before an evaluation."""
    from core_jax.train import writers

    lines = writers.read_jsonl(Path(workdir) / runs.RESULTS)
    return list({(line["dataset"], line["split"]): line for line in lines}.values())


def _use(config: Any, prompts: Any) -> str:
    own = functools.partial(_OWN.format, prompts=PROMPTS, changes=_changes(config, prompts))
    if "projector" in prompts:
        return own(why=_PROJECTED.format(teacher=config.teacher))
    if "visual" in prompts or "coupling" in prompts:
        return own(why=_VISUAL)
    name = str(config.student)
    if name.startswith("world:"):
        source = f'world.pair("{name.removeprefix("world:")}")'
        lines = "\nfrom core_jax import world\n"
        return _PLAIN.format(classifier=CLASSIFIER, source=source, lines=lines)
    if not _is_huggingface(name):
        return own(why=_FOREIGN)
    return _PLAIN.format(classifier=CLASSIFIER, source=json.dumps(name), lines="")


def _changes(config: Any, prompts: Any) -> str:
    """The flags that make another configuration the run's, as far as neither tensors nor their metadata say it."""
    from fdbpl_jax import datasets

    values = {"student": config.student}
    if "projector" in prompts:
        values["teacher"] = config.teacher
    if "positive" not in prompts.get("context", {}):
        # Nothing of the sentences was learned.
        layout = datasets.LAYOUTS.get(config.data.dataset)
        values["data.template"] = config.data.template or (layout.template if layout else "")
        values["data.templates"] = (
            repr(tuple(config.data.templates)) if config.data.templates else ""
        )
    given = {name: value for name, value in values.items() if value}
    return " ".join(f"--config.{name}={shlex.quote(value)}" for name, value in given.items())


def _is_huggingface(student: str) -> bool:
    """Whether transformers opens a model: its config.json describes both towers, as timm's beside OpenCLIP's does not."""
    from core_jax import clip

    path = clip.resolve(student) / "config.json"
    return path.is_file() and "vision_config" in json.loads(path.read_text(encoding="utf-8"))


def _card(config: Any, predictor: Any, use: str, results: Sequence[dict], origin: Path) -> str:
    names = predictor.names
    rows = [
        f"| {line['dataset']} | {line['split']} | {line['accuracy']:.2f} | {line['correct']} / {line['total']} | "
        f"{line['pictures']} | {line['steps']:,} | {line['seed']} |"
        for line in results
    ]
    header = [
        "| data set | classes | accuracy, % | correct | pictures | steps | seed |",
        "|---|---|---|---|---|---|---|",
    ]
    supervision = {"ce": "hard labels", "kdpl": "KDPL", "fdbpl": "FDBPL"}[config.method]
    data, shots = config.data, config.data.shots
    trained = (
        f"{data.dataset}, {data.split} classes, {f'{shots} shots' if shots else 'all pictures'}"
    )
    if origin.is_file():
        file = json.loads(origin.read_text(encoding="utf-8"))["file"]
        supervision = f"imported from {file}"
        here = f", then {trained}" if runs.is_trained(origin.parent) else ""
        trained = f"what {file} was trained on{here}"
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    return _CARD.format(
        front=_front(config, results),
        learner=config.learner,
        supervision=supervision,
        method=config.method,
        student=config.student,
        digest=predictor.student.digest,
        count=len(names),
        scale=predictor.scale,
        trained=trained,
        classes=shown,
        results="\n".join(header + rows)
        if rows
        else "Not evaluated (`python -m launch.evaluate`).",
        use=use.strip(),
    )


def _front(config: Any, results: Sequence[dict]) -> str:
    """The metadata that HuggingFace reads, as YAML; JSON values are YAML."""
    fields: dict[str, Any] = {
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "prompt-learning", str(config.learner), str(config.method)],
    }
    student = str(config.student)
    # A hub id; folders and the embedded models are nothing that the hub could link to.
    if student.count("/") == 1 and not Path(student).exists():
        fields["base_model"] = student
    if results:
        fields["model-index"] = [
            {
                "name": f"{config.learner} {config.method}",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": f"{line['dataset']}, {line['split']} classes",
                            "type": line["dataset"],
                        },
                        "metrics": [
                            {"type": "accuracy", "value": round(line["accuracy"] / 100, 6)}
                        ],
                    }
                    for line in results
                ],
            }
        ]
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])
