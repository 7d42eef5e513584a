"""The data sets of the embedded world, written to disk as real files, so that the readers meet files, not generators.

| function | folder | content |
|---|---|---|
| `write_objects` | `world_objects` | classification in CoOp's layout, styles sketch and grain |
| `write_pretrain` | `world_pretrain` | pictures and captions, about a tenth of the compositions held out |
| `scene_sets.write_scenes` | `world_scenes` | segmentation: pictures, masks, instances, boxes |

Every split has a random stream of its own. A call with the same arguments finds the folder complete, or completes it
after an interruption; a folder with other parameters is refused.
"""

import os
import pathlib
from collections.abc import Collection

import numpy as np

from core_jax.world import attributes as attrs
from core_jax.world import disk, scenes
from core_jax.world import styles as looks
from core_jax.world.captions import captions
from core_jax.world.styles import StyleMix

OBJECTS, PRETRAIN = "world_objects", "world_pretrain"
OBJECTS_SPLIT = "split_zhou_WorldObjects.json"
OBJECT_STYLES: StyleMix = (("sketch", 0.5), ("grain", 0.5))
# Room in the random stream for this many pictures of a class: a picture then depends on its class and number alone.
_CLASS_STRIDE = 1_000_000


def write_objects(
    root: str | os.PathLike,
    *,
    size: int = 64,
    seed: int = 0,
    train_per_class: int = 16,
    val_per_class: int = 4,
    test_per_class: int = 20,
    styles: StyleMix = OBJECT_STYLES,
    classes: tuple[str, ...] = attrs.CLASSES_BY_SHAPE,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `world/objects`: one object a picture, in CoOp's layout.

    Files: `images/<split>/<class>/<number>.png` and `split_zhou_WorldObjects.json`, {"train" | "val" | "test":
    [[path below images, label, class name], ...]}. Labels follow the order of `classes`. A picture depends on seed,
    split, class and number only, so smaller sets are parts of larger ones.

    Args:
      root: folder that receives `world_objects`.
      size: side of the pictures in pixels.
      seed: seed of the world.
      train_per_class: pictures a class in the training split.
      val_per_class: the same for validation.
      test_per_class: the same for testing.
      styles: a style name, or (name, share) pairs.
      classes: class names, by default all 256, those of four shapes first; their order is the label order.
      progress: whether to show a progress bar.

    Returns:
      root / "world_objects".

    Raises:
      ValueError: an argument is out of range.
      WorldFolderError: the folder holds something else.
    """
    counts = {"train": train_per_class, "val": val_per_class, "test": test_per_class}
    disk.check_positive(**{f"{split}_per_class": count for split, count in counts.items()})
    classes = tuple(classes)
    attrs.check_classes(classes)
    scenes.check_arguments(size, styles)
    known = np.asarray([attrs.class_index(name) for name in classes])
    parameters = {
        "kind": "objects",
        "size": size,
        "seed": seed,
        "styles": styles,
        "classes": classes,
        **{f"{split}_per_class": count for split, count in counts.items()},
    }

    def fill(writer: disk.Writer) -> None:
        table: dict[str, list[list[str | int]]] = {split: [] for split in counts}
        for split, count in counts.items():
            for flat in disk.blocks(count * len(classes)):
                label, number = np.divmod(flat, count)
                batch = scenes.render_indices(
                    seed,
                    f"objects/{split}",
                    known[label] * _CLASS_STRIDE + number,
                    size=size,
                    style=styles,
                    attributes=np.asarray(attrs.CLASS_ATTRIBUTES)[known[label]],
                )
                for k, image in enumerate(batch["image"]):
                    name = classes[label[k]]
                    path = f"{split}/{name.replace(' ', '_')}/{number[k]:04d}.png"
                    writer.png(f"images/{path}", image)
                    table[split].append([path, int(label[k]), name])
                writer.tick(len(flat))
        writer.text(OBJECTS_SPLIT, disk.json_text(table))

    total = sum(counts.values()) * len(classes)
    return disk.build(pathlib.Path(root) / OBJECTS, parameters, total, fill, progress=progress)


def write_pretrain(
    root: str | os.PathLike,
    *,
    size: int = 64,
    seed: int = 0,
    train: int = 20_000,
    val: int = 2_000,
    styles: StyleMix = scenes.PRETRAIN_STYLES,
    held_out: Collection[str] = attrs.HELD_OUT,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `world/pretrain`: pictures with captions.

    Files: `images/<split>/<thousands>/<number>.png` and `captions_<split>.jsonl`, a line a picture: {"image", "caption",
    "class", "style"}. The training split is the stream "pretrain" that `render_batch` draws from during training.

    Args:
      root: folder that receives `world_pretrain`.
      size: side of the pictures in pixels.
      seed: seed of the world.
      train: number of training pictures.
      val: number of validation pictures.
      styles: a style name, or (name, share) pairs.
      held_out: class names that never appear.
      progress: whether to show a progress bar.

    Returns:
      root / "world_pretrain".

    Raises:
      ValueError: an argument is out of range.
      WorldFolderError: the folder holds something else.
    """
    disk.check_positive(train=train, val=val)
    scenes.check_arguments(size, styles)
    scenes.draw_attributes(np.zeros(1), held_out)
    parameters = {
        "kind": "pretrain",
        "size": size,
        "seed": seed,
        "train": train,
        "val": val,
        "styles": styles,
        "held_out": sorted(held_out),
    }

    def fill(writer: disk.Writer) -> None:
        for split, stream, count in (("train", "pretrain", train), ("val", "pretrain/val", val)):
            rows = []
            for numbers in disk.blocks(count):
                first = int(numbers[0])
                batch = scenes.render_batch(
                    seed, stream, first, len(numbers), size=size, styles=styles, held_out=held_out
                )
                triple = batch["shape"], batch["colour"], batch["texture"]
                texts = captions(seed, stream, first, *triple).texts
                for k, number in enumerate(numbers.tolist()):
                    path = f"{split}/{number // 1000:03d}/{number:06d}.png"
                    writer.png(f"images/{path}", batch["image"][k])
                    row = {"image": path, "caption": texts[k]}
                    row["class"] = attrs.class_name(*(int(v[k]) for v in triple))
                    row["style"] = looks.STYLE_NAMES[batch["style"][k]]
                    rows.append(row)
                writer.tick(len(numbers))
            writer.text(f"captions_{split}.jsonl", disk.json_lines(rows))

    folder = pathlib.Path(root) / PRETRAIN
    return disk.build(folder, parameters, train + val, fill, progress=progress)
