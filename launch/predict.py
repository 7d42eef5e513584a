"""Classify pictures of your own with what a run has learned.

python -m launch.predict --workdir=runs/x --images=DIR [--out=DIR] [--classes=NAMES] [--top=5] [--reject]

Needs the work directory and the student only: neither the pictures it was trained on nor the lookup, unless the class
names come from the data set. Prints the best class of each picture and writes predictions.json and predictions.png, a
grid of pictures with their most probable classes.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import config, pictures, runs, start

Path = pathlib.Path
_MOST_PICTURES = 24


def main(argv: list[str]) -> None:
    """Predict, print, write."""
    del argv
    values = flags.FLAGS
    paths = pictures.find_pictures(values.images)
    names = pictures.read_classes(values.classes) if values.classes else None
    start.start()
    predict(
        values.workdir,
        paths,
        values.out or Path(values.workdir) / "predictions",
        names=names,
        top_k=values.top,
        reject=values.reject,
    )


def predict(
    workdir: str | Path,
    paths: Sequence[Path],
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    top_k: int = 5,
    reject: bool = False,
) -> list[dict[str, Any]]:
    """Classify picture files with a run, print the best classes, write predictions.json and predictions.png.

    Args:
      workdir: of the run.
      paths: pictures.
      out: folder to write into; made if missing.
      names: class names; None takes those of the run's data set.
      top_k: classes for each picture.
      reject: add the score of how far the positive prompt beats the negative one.

    Returns:
      One dict for each picture, as written: file, names, probabilities, and accept where asked for.

    Raises:
      ValueError: the run, the pictures or the class names cannot be used; nothing was written.
    """
    import fdbpl_jax
    from core_jax.data import files, images
    from core_jax.train import report
    from launch import figures

    settings = config.from_workdir(workdir)
    if settings.get("task") != "fdbpl":
        raise config.ConfigError(
            f"--workdir={workdir}: a run of task {settings.get('task')}; expected fdbpl"
        )
    trainable, pins = runs.learned(workdir)
    predictor = fdbpl_jax.predictor(settings.to_dict(), trainable, classes=names)
    if pins and pins["student"] != predictor.student.digest:
        raise config.ConfigError(
            f"the student {settings.student} has other weights now ({predictor.student.digest[:12]}) than when "
            f"{workdir} was trained ({pins['student'][:12]}): put the old ones back, or train again"
        )
    top_k = min(top_k, len(predictor.names))
    prediction = predictor(paths, top_k=top_k, reject=reject, progress=True)
    rows = [{"file": str(path), **row} for path, row in zip(paths, prediction.rows(), strict=True)]
    columns = ("picture", "class", "probability %", *(["accept %"] if reject else []))
    cells = tuple(
        (
            row["file"],
            row["names"][0],
            100.0 * row["probabilities"][0],
            *([100.0 * row["accept"]] if reject else []),
        )
        for row in rows
    )
    table = report.Table(title="Most probable classes", columns=columns, rows=cells, digits=1)
    titles = [row["title"] for row in rows]
    shown = [
        {
            **row,
            "image": images.decode(path),
            # Data sets number the pictures of each class alike: then the folder says which it is.
            "title": "/".join(path.parts[-2:]) if titles.count(row["title"]) > 1 else row["title"],
        }
        for path, row in zip(paths[:_MOST_PICTURES], rows)
    ]
    out = Path(out)
    print(report.terminal(dataclasses.replace(table, rows=cells[:_MOST_PICTURES])))
    files.atomic_write(out / "predictions.json", json.dumps(rows, indent=2) + "\n")
    report.save_figure(figures.picture_grid(shown), out / "predictions.png")
    print(f"{len(rows)} pictures: {out / 'predictions.json'}, {out / 'predictions.png'}")
    return rows


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_list("images", None, "files, folders or globs, separated by commas", required=True)
    flags.DEFINE_string("out", None, "folder to write; default: predictions/ in the work directory")
    flags.DEFINE_string(
        "classes",
        None,
        "names separated by commas, or a text file; default: the data set's",
    )
    flags.DEFINE_integer("top", 5, "classes for each picture", lower_bound=1)
    flags.DEFINE_bool(
        "reject", False, "also print how far the positive prompt beats the negative one"
    )
    config.run(main, runs.failures)
