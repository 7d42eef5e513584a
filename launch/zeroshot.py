"""Rank class names for your own pictures with any CLIP, no training.

python -m launch.zeroshot --model=openai/clip-vit-base-patch32 --images='holiday,extra/*.png' \
    --classes='dog,cat,beach' [--template='a photo of a {}.' | --template=imagenet_80] [--top=5] [--out=DIR]

`--model` is a HuggingFace folder, a hub id, or the embedded pair's world:student and world:teacher. `--images` takes
files, folders (searched through) and globs. `--classes` takes names or a text file with one name a line. `--template` takes
sentences, repeated, or the name of a list of them (fdbpl_jax/templates.py); features are averaged. A table is printed;
`--out` receives ranking.json and ranking.png. Seconds on a CPU for tens of pictures.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import config, runs, start
from launch.pictures import find_pictures, read_classes

_MOST_IN_GRID = 60


def main(argv: Sequence[str]) -> None:
    """Rank, print, write."""
    del argv
    classes = read_classes(flags.FLAGS.classes)
    paths = find_pictures(flags.FLAGS.images)
    start.start()
    from core_jax.train import report
    from fdbpl_jax import templates
    from launch import figures

    sentences = templates.resolve(flags.FLAGS.template, own=None)
    rows = rank_files(
        flags.FLAGS.model,
        paths,
        classes,
        sentences,
        top=flags.FLAGS.top,
        batch=flags.FLAGS.batch_size,
    )
    print(report.terminal(table(rows)), end="")
    if flags.FLAGS.out is None:
        return
    from core_jax.data import files, images

    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    content = {"model": flags.FLAGS.model, "templates": sentences, "classes": classes}
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


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", None, "folder, hub id, world:student or world:teacher", required=True
    )
    flags.DEFINE_list("images", None, "files, folders or globs, separated by commas", required=True)
    flags.DEFINE_string("classes", None, "names separated by commas, or a text file", required=True)
    flags.DEFINE_multi_string(
        "template",
        ["a photo of a {}."],
        "sentence around a class name, or the name of a list of them; several are averaged",
    )
    flags.DEFINE_integer("top", 5, "classes shown for each picture", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "pictures per forward pass", lower_bound=1)
    flags.DEFINE_string("out", None, "folder for ranking.json and ranking.png")
    config.run(main, runs.failures)
