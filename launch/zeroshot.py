"""Rank class names for your own pictures with any CLIP, no training.

python -m launch.zeroshot --model=openai/clip-vit-base-patch32 --images='holiday,extra/*.png' \
    --classes='dog,cat,beach' [--template='a photo of a {}.'] [--top=5] [--out=DIR]

`--model` is a HuggingFace folder, a hub id, or the embedded pair's world:student and world:teacher. `--images` takes
files, folders (searched through) and globs. `--classes` takes names or a text file with one name a line. A table is
printed; `--out` receives ranking.json and ranking.png. Seconds on a CPU for tens of pictures.
"""

import glob
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from launch import config, start

_MODEL = flags.DEFINE_string(
    "model", None, "folder, hub id, world:student or world:teacher", required=True
)
_IMAGES = flags.DEFINE_list(
    "images", None, "files, folders or globs, separated by commas", required=True
)
_CLASSES = flags.DEFINE_string(
    "classes", None, "names separated by commas, or a text file", required=True
)
_TEMPLATE = flags.DEFINE_multi_string(
    "template", ["a photo of a {}."], "sentence around a class name; several are averaged"
)
_TOP = flags.DEFINE_integer("top", 5, "classes shown for each picture", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 32, "pictures per forward pass", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "folder for ranking.json and ranking.png")
_MOST_IN_GRID = 60


def main(argv: Sequence[str]) -> None:
    """Rank, print, write."""
    del argv
    classes = read_classes(_CLASSES.value)
    paths = find_pictures(_IMAGES.value)
    start.start()
    from core_jax.train import report
    from launch import figures

    rows = rank_files(
        _MODEL.value, paths, classes, _TEMPLATE.value, top=_TOP.value, batch=_BATCH.value
    )
    print(report.terminal(table(rows)), end="")
    if _OUT.value is None:
        return
    from core_jax.data import files, images

    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    content = {"model": _MODEL.value, "templates": _TEMPLATE.value, "classes": classes}
    files.atomic_write(
        out / "ranking.json", json.dumps(content | {"pictures": rows}, indent=2, ensure_ascii=False)
    )
    shown = [
        {
            "image": images.decode(row["path"]),
            "title": pathlib.Path(row["path"]).name,
            "names": [entry["class"] for entry in row["ranking"]],
            "probabilities": [entry["probability"] for entry in row["ranking"]],
        }
        for row in rows[:_MOST_IN_GRID]
    ]
    report.save_figure(figures.picture_grid(shown), out / "ranking.png")
    print(f"written: {out / 'ranking.json'}, {out / 'ranking.png'}")
    if len(rows) > _MOST_IN_GRID:
        print(f"(ranking.png shows the first {_MOST_IN_GRID} of {len(rows)} pictures)")


def read_classes(value: str) -> list[str]:
    """Class names from a comma-separated list or from a file with one name a line.

    Raises:
      ValueError: there are none, or a file was meant that does not exist.
    """
    path = pathlib.Path(value)
    # A list of many names is longer than any file name may be, and asking for such a file is an error.
    if len(value) < 4096 and os.path.isfile(path):
        names = path.read_text(encoding="utf-8").splitlines()
    elif "," not in value and path.suffix in (".txt", ".csv", ".lst"):
        raise ValueError(f"--classes={value}: there is no such file")
    else:
        names = value.split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"--classes={value}: there is no class name in it")
    return names


def find_pictures(patterns: Sequence[str]) -> list[pathlib.Path]:
    """Files by name, folders searched through, globs ("**" crosses folders); each file once, in this order.

    Raises:
      FileNotFoundError: patterns that lead to no picture; all are listed.
    """
    found: dict[pathlib.Path, None] = {}
    empty = []
    for pattern in patterns:
        paths = list(_expand(os.path.expanduser(pattern.strip())))
        found |= dict.fromkeys(paths)
        if not paths:
            empty.append(pattern)
    if empty:
        raise FileNotFoundError(
            f"--images: no pictures at {', '.join(map(repr, empty))} (seen from {os.getcwd()}); give files, folders or "
            "globs, and put globs in quotes"
        )
    return list(found)


def rank_files(
    model: str,
    paths: Sequence[pathlib.Path],
    classes: Sequence[str],
    templates: Sequence[str],
    *,
    top: int,
    batch: int,
) -> list[dict[str, Any]]:
    """Ranks `classes` for every picture.

    Args:
      model: as `--model`.
      paths: pictures.
      classes: names.
      templates: sentences with one "{}".
      top: how many classes each picture gets.
      batch: pictures per forward pass.

    Returns:
      One {"path", "ranking": [{"class", "probability"}, ...]} a picture, best class first.

    Raises:
      ImageError: unreadable pictures; all are listed, and nothing is ranked.
    """
    import jax
    import numpy as np
    import tqdm

    from core_jax import clip
    from core_jax.data import images

    loaded = load_model(model)
    weights = clip.zeroshot.classifier(loaded, classes, templates)
    rank = jax.jit(clip.zeroshot.rank, static_argnums=1, static_argnames="count")
    size, batch = loaded.config.vision.image_size, min(batch, len(paths))
    rows, problems = [], []
    bar = tqdm.tqdm(total=len(paths), desc="ranking", unit="picture", disable=None)
    for first in range(0, len(paths), batch):
        pixels = np.zeros((batch, size, size, 3), np.uint8)
        part = paths[first : first + batch]
        for i, path in enumerate(part):
            try:
                pixels[i] = clip.preprocess(images.decode(path), size)
            except images.ImageError as error:
                problems.append(str(error))
            bar.update()
        if problems:
            # Nothing will be ranked any more; the rest is read so that all bad pictures can be named.
            continue
        indices, probabilities = jax.device_get(
            rank(loaded.params, loaded.config, pixels, weights, count=min(top, len(classes)))
        )
        for path, order, chances in zip(part, indices, probabilities):
            ranking = [
                {"class": classes[i], "probability": float(p)} for i, p in zip(order, chances)
            ]
            rows.append({"path": str(path), "ranking": ranking})
    bar.close()
    if problems:
        raise images.ImageError(
            f"{len(problems)} of {len(paths)} pictures cannot be read, nothing was ranked:\n  "
            + "\n  ".join(problems)
        )
    return rows


def load_model(name: str) -> Any:
    """A `Clip` by folder, hub id, or as world:student, world:teacher."""
    from core_jax import clip, world

    if name.startswith("world:"):
        return clip.load(world.pair(name.removeprefix("world:")))
    return clip.load(name)


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The ranking as a table: a line a picture, a column a rank."""
    from core_jax.train import report

    count = len(rows[0]["ranking"])
    return report.Table(
        title="Classes by probability",
        columns=("picture", *(f"{i + 1}." for i in range(count))),
        rows=tuple(
            (
                row["path"],
                *(f"{e['class']} {100 * e['probability']:.1f} %" for e in row["ranking"]),
            )
            for row in rows
        ),
    )


def _expand(pattern: str) -> Iterator[pathlib.Path]:
    from core_jax.data import images

    if os.path.isdir(pattern):
        yield from sorted(
            pathlib.Path(folder) / name
            for folder, _, names in os.walk(pattern)
            for name in names
            if images.is_image_name(name)
        )
    elif os.path.isfile(pattern):
        yield pathlib.Path(pattern)
    else:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if os.path.isfile(path) and images.is_image_name(os.path.basename(path)):
                yield pathlib.Path(path)


if __name__ == "__main__":
    config.run(main)
