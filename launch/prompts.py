"""Learned prompts: in and out under the names of the public PyTorch code, and as the words that they are nearest to.

  python -m launch.prompts import --prompts=FILE.safetensors --config=configs/fdbpl_caltech101.py --workdir=runs/x
      [--learner=promptsrc] [--without_data]
  python -m launch.prompts export --workdir=runs/x --out=FILE.safetensors [--dtype=float16]
  python -m launch.prompts words --workdir=runs/x [--count=5] [--out=FILE.json]
  python -m launch.prompts words --prompts=FILE.safetensors --student=openai/clip-vit-base-patch16

`import` reads a checkpoint of CoOp, CoCoOp, KgCoOp, ProGrad, KDPL, MaPLe, IVLP, VPT, PromptSRC or PromptKD, given as
safetensors, and makes a work directory of it: launch.evaluate, launch.predict and `launch.train --resume` take it for a run.
The configuration names student and data set; learner, number of vectors and depth come from the file. --without_data is for
pictures of your own: the data set is not opened, and the work directory serves launch.predict --classes and the commands here.
Seconds. Docs: docs/prompts.md.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from launch import config as config_lib
from launch import runs, start, tasks

Path = pathlib.Path
WORDS = ("import", "export", "words")
# What a run remembers of where its prompts came from.
ORIGIN = runs.ORIGIN
_MOST_CLASSES = 5


def main(argv: Sequence[str]) -> None:
    """Do one of `WORDS`."""
    values, word = flags.FLAGS, argv[1]
    needed = {"import": ("prompts", "config", "workdir"), "export": ("workdir", "out"), "words": ()}
    missing = [f"--{name}" for name in needed[word] if values[name].value is None]
    if missing:
        raise config_lib.ConfigError(f"{word} needs {', '.join(missing)}")
    start.start()
    if word == "import":
        bring_in(
            values.config,
            values.prompts,
            values.workdir,
            learner=values.learner,
            without_data=values.without_data,
        )
    elif word == "export":
        send_out(values.workdir, values.out, dtype=values.dtype)
    else:
        show_words(values)


def bring_in(
    config: ml_collections.ConfigDict,
    prompts: str | Path,
    workdir: str | Path,
    *,
    learner: str = "",
    without_data: bool = False,
) -> ml_collections.ConfigDict:
    """Make a work directory of a public checkpoint, and print what its configuration became.

    Args:
      config: of task fdbpl; the student is the one that the prompts were learned with.
      prompts: safetensors file.
      workdir: must not hold a run.
      learner: whose prompts they are, where the file leaves that open.
      without_data: do not open the data set; the work directory can then predict, but not be evaluated.

    Returns:
      The configuration of the work directory.

    Raises:
      ConfigError: a configuration of another task, or without a line that the prompts need.
      ExchangeError: the file does not fit the student.
      WorkdirError: `workdir` holds something already.
    """
    from core_jax import clip
    from core_jax import train as train_lib
    from core_jax.data import files
    from core_jax.train import report
    from fdbpl_jax import exchange, towers

    if config.get("task") != "fdbpl":
        raise config_lib.ConfigError(
            f"--config: prompts are imported into a run of task fdbpl, not {config.get('task')}"
        )
    student = towers.load(str(config.student))
    found = exchange.read_file(prompts, student, learner=learner)
    changes = {**_supervision(found.learner), **found.settings}
    before, config = config, config_lib.override(config, changes)
    values = config_lib.to_json(config)
    if without_data:
        import fdbpl_jax.config

        fdbpl_jax.config.read(config)
        train_lib.write_first(
            {"trainable": found.trainable, "stats": found.stats},
            {"student": clip.weights_digest(student.params)},
            workdir=workdir,
            config_json=values,
            seed=values["seed"],
        )
    else:
        task = tasks.build(config)
        train_lib.adopt(
            task,
            found.trainable,
            found.stats,
            workdir=workdir,
            config_json=values,
            seed=values["seed"],
        )
    origin = {
        "file": Path(prompts).name,
        "sha256": files.sha256_file(prompts),
        "family": found.family,
        "learner": found.learner,
        "notes": found.notes,
    }
    files.atomic_write(Path(workdir) / ORIGIN, json.dumps(origin, indent=2) + "\n")
    rows = tuple(
        (f"config.{key}", repr(value), repr(old))
        for key, value in changes.items()
        if (old := _get(before, key)) != value
    )
    table = report.Table(
        title=f"{Path(prompts).name}: prompts of {found.family}, learner {found.learner}",
        columns=("changed", "now", "before"),
        rows=rows,
        note="\n".join(found.notes),
    )
    print(report.terminal(table))
    uses = "predict --input=... --classes=..." if without_data else "evaluate"
    print(f"{workdir}: python -m launch.{uses} --workdir={workdir}")
    return config


def _supervision(learner: str) -> dict[str, Any]:
    """What makes a run of a learner that needs no lookup: it will be judged, or trained on."""
    from fdbpl_jax.learners import LEARNERS

    return {
        "method": LEARNERS[learner].method,
        "teacher_source": "online",
        "data.source": "auto",
        "data.fresh": "auto",
        "data.resident": "auto",
        "seeds": (),
        "lrs": (),
    }


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def send_out(workdir: str | Path, out: str | Path, *, dtype: str = "float32") -> list[str]:
    """Write a run's prompts as the public repository of its learner names them, and print these names.

    Args:
      workdir: of a run of task fdbpl.
      out: safetensors file.
      dtype: float32, float16 or bfloat16.

    Returns:
      The names of the tensors.

    Raises:
      ConfigError: a run of another task, or one that learned nothing.
      ExchangeError: nothing that was learned has a name there.
    """
    from fdbpl_jax import exchange, towers

    config, trainable, stats, pins = learned(workdir)
    student = towers.load(config.student)
    facts = about(config, pins)
    tensors = exchange.write_file(out, trainable, stats, student, dtype=dtype, about=facts)
    print(f"{out}: {', '.join(sorted(tensors))}")
    if "negative" in trainable.get("context", {}):
        print("(the negative prompt stays behind: the public repositories have no name for it)")
    return sorted(tensors)


def learned(
    workdir: str | Path,
) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, str]]:
    """(configuration, trained parameters, statistics, digests) of a run of task fdbpl, from its work directory alone.

    Raises:
      ConfigError: a run of another task, of several seeds, or one that learned nothing.
    """
    config = runs.require_one(config_lib.from_workdir(workdir), workdir)
    if config.get("task") != "fdbpl":
        raise config_lib.ConfigError(
            f"--workdir={workdir}: a run of task {config.get('task')}; expected fdbpl"
        )
    if config.method == "zeroshot":
        raise config_lib.ConfigError(f"--workdir={workdir}: method=zeroshot learns no prompts")
    return (config, *runs.arrays(workdir))


def about(config: Any, pins: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of an exported file says of a run: `exchange.SAID`, and the method."""
    said = {name: str(config[name]) for name in ("learner", "method", "student")}
    said |= {name: str(config.prompt[name]) for name in ("words", "class_token_position")}
    return said | {"student_digest": pins["student"]}


def show_words(values: Any) -> None:
    """Print the table of nearest words that the flags ask for, and write it where --out says."""
    from core_jax.data import files
    from core_jax.train import report
    from fdbpl_jax import average, exchange, towers

    given = [name for name in ("workdir", "prompts") if values[name].value is not None]
    if len(given) != 1:
        raise config_lib.ConfigError(
            "words needs one of --workdir (of a run) and --prompts (a file, with --student)"
        )
    if values.workdir:
        config, trainable, _, _ = learned(values.workdir)
        student = towers.load(config.student)
    elif values.student:
        student = towers.load(values.student)
        trainable = exchange.read_file(values.prompts, student, learner=values.learner).trainable
    else:
        raise config_lib.ConfigError("--prompts needs --student: the CLIP they were learned with")
    found = words(average.judged(trainable), student, count=values.count)
    for table in found.values():
        print(report.terminal(table))
    if values.out is not None:
        content = {
            title: [dict(zip(table.columns, row)) for row in table.rows]
            for title, table in found.items()
        }
        files.atomic_write(values.out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {values.out}")


def words(prompts: Mapping[str, Any], student: Any, *, count: int) -> dict[str, Any]:
    """Tables of the vocabulary words nearest to each learned vector, as CoOp prints them (section 4.3 of its paper).

    Args:
      prompts: what was learned; the first layer's vectors alone are looked at.
      student: core_jax.clip.Clip.
      count: words for each vector.

    Returns:
      {name of the context: core_jax.train.report.Table}; of contexts per class the first few classes'.

    Raises:
      ConfigError: no text context was learned.
    """
    from core_jax.train import report
    from fdbpl_jax import prompts as text_prompts

    if not prompts.get("context"):
        raise config_lib.ConfigError(
            "no text context was learned (learner vpt or promptkd): there are no words to look for"
        )
    notes = ["Euclidean distances to the token embeddings."]
    if "deep" in prompts:
        notes.append(
            "The first layer's vectors only: those of deeper layers stand among states, which are no words' embeddings."
        )
    tables = {}
    for sign, context in prompts["context"].items():
        parts = {sign: context}
        if context.ndim == 3:
            parts = {f"{sign}, class {c}": one for c, one in enumerate(context[:_MOST_CLASSES])}
            notes = [*notes, f"The first {len(parts)} of {len(context)} classes."]
        for title, vectors in parts.items():
            near = text_prompts.nearest_words(vectors, student, count=count)
            tables[title] = report.Table(
                title=f"Words nearest to the {title} context",
                columns=("vector", *(f"{i + 1}." for i in range(count))),
                rows=tuple(
                    (str(m + 1), *(f"{word} {distance:.4f}" for word, distance in row))
                    for m, row in enumerate(near)
                ),
                note="\n".join(dict.fromkeys(notes)),
            )
    return tables


if __name__ == "__main__":
    config_lib.define()
    flags.DEFINE_string("prompts", None, "safetensors file of learned prompts")
    flags.DEFINE_string("workdir", None, "folder of the run; import: of the run to be made")
    flags.DEFINE_string("out", None, "export: the safetensors file; words: a JSON file")
    flags.DEFINE_string("learner", "", "whose prompts they are, where the file leaves that open")
    flags.DEFINE_string("student", None, "words --prompts: the CLIP that they were learned with")
    flags.DEFINE_bool("without_data", False, "import: the data set is not here, and not opened")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16", "bfloat16"], "export: of tensors")
    flags.DEFINE_integer("count", 3, "words: how many for each vector", lower_bound=1)
    config_lib.run(main, runs.failures, words=WORDS)
