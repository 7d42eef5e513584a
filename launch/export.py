"""Write what a run has learned as a HuggingFace-style folder with a model card.

  python -m launch.export --workdir=runs/world_teacher --out=teacher
  python -m launch.export --workdir=runs/x --out=DIR [--classes=NAMES]

Of a contrastive run the CLIP: the towers are stored in float16, the auxiliary heads stay behind, and the card's zero-shot
accuracy is that of what was written, after the rounding. Of a classification run (task fdbpl) the learned classifier: class
embeddings, prompts, and how to use them (launch/classifier.py); --classes are its classes, the data set's unless given.
Under a minute. `python -m launch.prompts export` writes the prompts alone.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from core_jax import clip
from core_jax.data import files
from launch import config as config_lib
from launch import runs

Path = pathlib.Path

_CARD = """# The {name} of the embedded world's CLIP pair

A CLIP of {parameters:,} parameters for the rendered {size} px pictures of `core_jax.world`, in HuggingFace's layout,
float16. It knows {words} words and nothing outside that world.

- Made by `python -m launch.train --config=configs/world_clip.py:{name} --workdir=RUN`, then
  `python -m launch.export --workdir=RUN --out=DIR`.
- {steps:,} steps of {batch} pictures, {minutes:.0f} minutes.
- Towers: vision {vision[width]} x {vision[layers]} layers, patch {vision[patch_size]}; text {text[width]} x
  {text[layers]} layers, {text[context_length]} tokens.
- Trained on `world/pretrain` (90 % clean, 5 % sketch, 5 % grain); {held_out} of {classes} compositions never appeared.

Zero-shot accuracy in percent on {scenes} validation scenes of each style, over all {classes} classes ("{template}"), and
the share of pictures whose attribute is named rightly:

| style | class | shape | colour | texture |
|---|---|---|---|---|
{rows}
"""


def main(argv: Sequence[str]) -> None:
    """Export what the flags name."""
    del argv
    from launch import classifier, pictures

    values: Any = flags.FLAGS
    if config_lib.from_workdir(values.workdir).get("task") == "fdbpl":
        names = None if values.classes is None else pictures.read_classes(values.classes)
        print(classifier.export(values.workdir, values.out, names=names))
        return
    if values.classes is not None:
        raise config_lib.ConfigError("--classes: only runs of task fdbpl are classifiers")
    print(export(values.workdir, values.out))


def export(workdir: str | Path, out: str | Path) -> str:
    """Write the towers of a finished contrastive run and measure what was written.

    Args:
      workdir: of the run.
      out: folder that receives config.json, model.safetensors, tokenizer.json and README.md.

    Returns:
      The card, as it stands in README.md.

    Raises:
      ConfigError: the run is of another task, or not finished.
    """
    from core_jax import world
    from core_jax.train import contrastive, contrastive_data

    task = config_lib.from_workdir(workdir).task
    if task != "contrastive":
        raise config_lib.ConfigError(
            f"{workdir} holds a run of task {task!r}; only contrastive runs train a CLIP"
        )
    run = runs.restore(workdir)
    seconds = runs.training_seconds(workdir)
    if seconds is None:
        raise config_lib.ConfigError(
            f"{workdir} holds an unfinished run (step {run.step}): go on with launch.train --resume"
        )
    settings = contrastive.read_config(run.config)
    model = contrastive.model_config(settings)
    towers = jax.tree.map(np.asarray, run.params.trainable["clip"])
    out = Path(out)
    tokenizer = {"tokenizer.json": clip.word_level(contrastive_data.vocabulary())}
    clip.save(out, model, towers, tokenizer_files=tokenizer, dtype="float16")
    written = clip.load(out)
    results = contrastive.evaluate(
        model, settings, written.tokenizer, {"clip": written.params}, {}, {}
    )
    cells = ("zeroshot", *contrastive_data.ATTRIBUTES)
    card = _CARD.format(
        name=run.config.name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(towers)),
        size=model.vision.image_size,
        words=len(contrastive_data.vocabulary()),
        steps=run.step,
        batch=settings.batch_size,
        minutes=seconds / 60,
        vision=settings.vision,
        text=settings.text,
        held_out=len(world.HELD_OUT),
        classes=len(world.CLASSES),
        scenes=settings.eval_scenes,
        template=contrastive.TEMPLATE,
        rows="\n".join(
            f"| {style} | "
            + " | ".join(f"{results[f'{cell}/{style}/percent']:.1f}" for cell in cells)
            + " |"
            for style in world.TRAIN_STYLES
        ),
    )
    files.atomic_write(out / "README.md", card)
    return card


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("out", None, "folder to write", required=True)
    flags.DEFINE_string(
        "classes", None, "names separated by commas, or a text file with a class a line"
    )
    config_lib.run(main, runs.failures)
