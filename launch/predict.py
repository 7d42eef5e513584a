"""Use what a run has learned, or a training-free segmenter, on pictures of your own.

  python -m launch.predict --workdir=runs/x --input=DIR [--out=DIR] [--classes=NAMES]

A classification run (task fdbpl) prints the best class of each picture and writes predictions.json and predictions.png, a
grid of pictures with their most probable classes; [--top=5] [--reject].

A segmentation run (task gba) writes a label map, an overlay with a legend, and segmentation.json; --classes are your words,
[--background=none|threshold:0.4|phrases:[wall,floor]|null] says what belongs to none of them, [--resize=1024] looks at large
pictures through windows, [--things=all] tells countable segments apart (hosts with mask queries). Without training:

  python -m launch.predict --config=configs/gba_maskclip.py --input=DIR --out=DIR --classes=cat,grass
  python -m launch.predict --clip=openai/clip-vit-base-patch16 --input=DIR --out=DIR --classes=cat,grass

A gaze run (task gaze) finds where the people in pictures, videos (DIR/clip.mp4) or a camera (--input=camera:0) look, and
writes gaze.jsonl, gaze.csv and pictures with arrows. It has to be told where the faces are: [--landmarks=FILE] or
[--boxes=FILE], CSV or JSON, or [--landmarker=face_landmarker.task], mediapipe's model; [--intrinsics=camera.yaml]
[--screen=screen.json] [--calibration=me.json --person=NAME] [--calibrate=targets.csv or dots:9] [--recentre] [--max_faces=1]
[--resume] [--show] [--draw=arrow,box,landmarks,head,crops,angles].

Needs the work directory and the model only: neither the pictures it was trained on nor a lookup, unless the class names
come from the data set.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from launch import config, gaze, pictures, runs, segment, start

Path = pathlib.Path
_MOST_PICTURES = 24


def main(argv: list[str]) -> None:
    """Predict, print, write."""
    del argv
    values = flags.FLAGS
    sources = ("workdir", "config", "clip")
    given = [name for name in sources if values[name].value is not None]
    if len(given) != 1:
        raise config.ConfigError(
            "expected one of --workdir (of a run), --config (of a host without training) and --clip (a model); got "
            + (" and ".join(f"--{name}" for name in given) or "none")
        )
    settings = config.from_workdir(values.workdir) if values.workdir else values.config
    task = "gba" if settings is None else str(settings.get("task"))
    if values.workdir and task not in ("fdbpl", "gba", "gaze"):
        raise config.ConfigError(
            f"--workdir={values.workdir}: a run of task {task}; expected fdbpl, gba or gaze"
        )
    _require_flags(task)
    if task == "gaze" and values.workdir:
        start.start()
        gaze.run(values)
        return
    paths = pictures.find_pictures(values.input, flag="--input")
    names = pictures.read_classes(values.classes) if values.classes is not None else None
    out = values.out or Path(values.workdir) / "predictions"
    start.start()
    if task == "fdbpl":
        predict(values.workdir, paths, out, names=names, top_k=values.top, reject=values.reject)
        return
    if settings is None:
        model = segment.from_clip(values.clip)
    elif values.workdir:
        import gba_jax

        model = gba_jax.load(values.workdir)
    else:
        model = segment.from_config(settings.to_dict())
    if values.resize is not None:
        model = segment.with_windows(model, values.resize)
    options = {"background": values.background, "things": values.things}
    segment.segment_files(model, paths, names or [], out, **options)


def _require_flags(task: str) -> None:
    """Name the flags that this task needs, and those that mean nothing to it."""
    values = flags.FLAGS
    needed = [] if values.workdir else ["out"]
    segmenting, classifying = ["background", "things", "resize"], ["top", "reject"]
    foreign = [*segmenting, *gaze.names()]
    if task == "gba":
        needed, foreign = [*needed, "classes"], [*classifying, *gaze.names()]
    if task == "gaze":
        foreign = [*segmenting, *classifying, "classes"]
    missing = [f"--{name} is missing" for name in needed if values[name].value is None]
    wrong = [
        f"--{name} is nothing that task {task} has" for name in foreign if values[name].present
    ]
    if missing or wrong:
        raise config.ConfigError("; ".join(missing + wrong))


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
    trainable, stats, pins = runs.arrays(workdir)
    predictor = fdbpl_jax.predictor(settings.to_dict(), trainable, stats=stats, classes=names)
    require_student(str(settings.student), pins, predictor.student.digest, workdir)
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


def require_student(
    student: str, pins: Mapping[str, str], digest: str, workdir: str | Path
) -> None:
    """Refuse a student whose weights are not those that a run was trained with.

    Raises:
      ConfigError: they differ.
    """
    if pins and pins["student"] != digest:
        raise config.ConfigError(
            f"the student {student} has other weights now ({digest[:12]}) than when {workdir} was trained "
            f"({pins['student'][:12]}): put the old ones back, or train again"
        )


if __name__ == "__main__":
    config.define()
    flags.DEFINE_string("workdir", None, "folder of the run")
    flags.DEFINE_string("clip", None, "a CLIP to segment with: folder, hub id, or world:student")
    flags.DEFINE_list("input", None, "files, folders or globs, separated by commas", required=True)
    flags.DEFINE_alias("images", "input")
    flags.DEFINE_string("out", None, "folder to write; default: predictions/ in the work directory")
    flags.DEFINE_string(
        "classes",
        None,
        "names separated by commas, or a text file with a class a line, where synonyms may follow after commas; "
        "default for classification: the data set's",
    )
    flags.DEFINE_string(
        "background",
        "none",
        "none, threshold:T, phrases:[wall,floor], or null (hosts with queries)",
    )
    flags.DEFINE_list("things", [], "countable classes, or all (hosts with queries)")
    flags.DEFINE_integer("resize", None, "look through windows at pictures of this side, in pixels")
    flags.DEFINE_integer("top", 5, "classes for each picture", lower_bound=1)
    flags.DEFINE_bool(
        "reject", False, "also print how far the positive prompt beats the negative one"
    )
    gaze.define(flags.FLAGS)
    config.run(main, runs.failures)
