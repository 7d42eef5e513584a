"""`world/scenes` on disk: segmentation scenes with masks, instances and boxes, in five splits.

The scenes hold squares and rings in all colours and textures: 64 classes. Shape is what the embedded pair is weakest at, and
with all eight shapes little else would be measured. A third of the classes never appears in training: every composition
that pre-training never saw either, and such others that each colour, texture and shape is left with several seen classes.
"""

import dataclasses
import os
import pathlib

import numpy as np

from core_jax.world import attributes as attrs
from core_jax.world import disk, scenes, segmentation
from core_jax.world import styles as looks
from core_jax.world.styles import StyleMix

SCENES = "world_scenes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneSplit:
    """One split of `world/scenes`.

    Attributes:
      name: its folder and its random stream.
      count: number of scenes.
      styles: a style name, or (name, share) pairs.
      among: the classes that are drawn; None draws all.
    """

    name: str
    count: int
    styles: StyleMix
    among: tuple[str, ...] | None = None


SCENE_SHAPES = ("square", "ring")


def _is_unseen(name: str) -> bool:
    shape, colour, texture = attrs.CLASS_ATTRIBUTES[attrs.class_index(name)]
    return name in attrs.HELD_OUT or (colour + 3 * texture + 2 * shape) % 4 == 0


SCENE_CLASSES = tuple(name for name in attrs.CLASSES if name.split()[-1] in SCENE_SHAPES)
SCENE_UNSEEN = frozenset(name for name in SCENE_CLASSES if _is_unseen(name))
_SEEN = tuple(name for name in SCENE_CLASSES if name not in SCENE_UNSEEN)
_HELD = tuple(name for name in SCENE_CLASSES if name in SCENE_UNSEEN)
_TRAIN_MIX = tuple((name, 1.0) for name in looks.TRAIN_STYLES)
_TEST_MIX = tuple((name, 1.0) for name in looks.TEST_STYLES)
SCENE_SPLITS: tuple[SceneSplit, ...] = (
    SceneSplit(name="train", count=2_000, styles=_TRAIN_MIX, among=_SEEN),
    SceneSplit(name="val", count=200, styles=_TRAIN_MIX, among=_SEEN),
    SceneSplit(name="novel", count=200, styles=_TRAIN_MIX, among=_HELD),
    SceneSplit(name="style", count=200, styles=_TEST_MIX, among=_SEEN),
    SceneSplit(name="both", count=200, styles=_TEST_MIX, among=_HELD),
)


def write_scenes(
    root: str | os.PathLike,
    *,
    size: int = 128,
    seed: int = 0,
    splits: tuple[SceneSplit, ...] = SCENE_SPLITS,
    classes: tuple[str, ...] = SCENE_CLASSES,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `world/scenes`: segmentation scenes with masks, instances and boxes.

    Every split is a folder of its own: `images/<number>.png`, `masks/<number>.png` and `instances/<number>.png` (16-bit
    grey), `classes.txt` (line k is label k, line 0 "background"), `scenes.json`: {"boxes": "top, left, height, width in
    pixels", "scenes": [{"image", "style", "objects": [{"class", "label", "instance", "box", "area"}, ...]}, ...]}.

    Args:
      root: folder that receives `world_scenes`.
      size: side of the pictures in pixels.
      seed: seed of the world.
      splits: the splits; by default train, val, novel (unseen classes), style (test styles) and both.
      classes: class names behind the labels 1, 2, ...
      progress: whether to show a progress bar.

    Returns:
      root / "world_scenes".

    Raises:
      ValueError: an argument is out of range.
      WorldFolderError: the folder holds something else.
    """
    classes = tuple(classes)
    attrs.check_classes(classes)
    disk.check_positive(**{f"count of split {split.name}": split.count for split in splits})
    names = [split.name for split in splits]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"split names {names}: expected at least one and no repetition")
    for split in splits:
        scenes.check_arguments(size, split.styles)
        segmentation.drawable(classes, split.among)
    parameters = {
        "kind": "scenes",
        "size": size,
        "seed": seed,
        "classes": classes,
        "splits": [dataclasses.asdict(split) for split in splits],
    }

    def fill(writer: disk.Writer) -> None:
        for split in splits:
            rows = []
            for numbers in disk.blocks(split.count, 32):
                rows += _write_block(writer, seed, split, numbers, size, classes)
                writer.tick(len(numbers))
            names = (segmentation.BACKGROUND, *classes)
            writer.text(f"{split.name}/classes.txt", "".join(f"{name}\n" for name in names))
            table = {"boxes": "top, left, height, width in pixels", "scenes": rows}
            writer.text(f"{split.name}/scenes.json", disk.json_text(table))

    total = sum(split.count for split in splits)
    return disk.build(pathlib.Path(root) / SCENES, parameters, total, fill, progress=progress)


def _write_block(
    writer: disk.Writer,
    seed: int,
    split: SceneSplit,
    numbers: np.ndarray,
    size: int,
    classes: tuple[str, ...],
) -> list[dict]:
    rendered = segmentation.render_segmentation_batch(
        seed,
        f"scenes/{split.name}",
        numbers,
        style=split.styles,
        size=size,
        classes=classes,
        among=split.among,
    )
    rows = []
    for number, scene in zip(numbers.tolist(), rendered, strict=True):
        name = f"{number:05d}.png"
        writer.png(f"{split.name}/images/{name}", scene.image)
        writer.png(f"{split.name}/masks/{name}", scene.semantic.astype(np.uint16))
        writer.png(f"{split.name}/instances/{name}", scene.instance.astype(np.uint16))
        objects = [
            {
                "class": o.name,
                "label": o.label,
                "instance": o.instance,
                "box": o.box,
                "area": o.area,
            }
            for o in scene.objects
        ]
        style = looks.STYLE_NAMES[scene.style]
        rows.append({"image": name, "style": style, "objects": objects})
    return rows
