"""A user's own folder of pictures and masks, and `world/scenes`, the embedded world's segmentation scenes on disk."""

import json
import pathlib

from core_jax.world.scene_sets import SCENES
from core_jax.world.segmentation import BACKGROUND
from gba_jax.datasets import names, pairs
from gba_jax.datasets.common import Dataset, Item, SegmentList
from gba_jax.datasets.labels import LabelTable, read_instances

Path = pathlib.Path

ALL = "all"


def load_folder(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`images/`, `masks/` (8 or 16 bits, grey or palette) and `classes.txt`, in the root or in a folder a split.

    A mask has its picture's path, with any suffix; 255 (8 bits) or 65535 (16 bits) is ignored.
    """
    base = root if split == ALL else root / split
    folders = base / "images", base / "masks"
    problems = pairs.absent(*folders)
    # One class list serves all splits, unless a split has its own.
    user = next((p / "classes.txt" for p in (base, root) if (p / "classes.txt").is_file()), None)
    classes, source, wrong = names.find(
        [], count=None, user=user or base / "classes.txt", given=given
    )
    if problems:
        return None, problems + wrong
    pictures, twice = pairs.collect(folders[0])
    masks, also_twice = pairs.collect(folders[1])
    items, lacking = pairs.match(pictures, masks)
    dataset = Dataset(
        name="folder",
        split=split,
        classes=classes,
        names_from=source,
        items=items,
        read_labels=LabelTable(tuple(range(len(classes))), largest=True),
    )
    return dataset, twice + also_twice + lacking + wrong


def load_world(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`world_scenes/{split}/{images,masks,instances}/`, `classes.txt`, `scenes.json`, as `core_jax.world` writes them.

    Every visible object is a segment, and so is the background, which is the only class that is no thing.
    """
    base = root / SCENES / split
    path = base / "scenes.json"
    problems = pairs.absent(base / "images", base / "masks", base / "instances")
    own = [names.Source(path=base / "classes.txt", read=names.read_classes)]
    classes, source, wrong = names.find(own, count=None, user=base / "classes.txt", given=given)
    problems += wrong
    try:
        scenes = json.loads(path.read_text(encoding="utf-8"))["scenes"]
        items = tuple(_item(base, scene) for scene in scenes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, [*problems, f"{path} is no list of scenes ({error!r})"]
    problems += pairs.missing_files(items) if not problems else []
    dataset = Dataset(
        name="world_scenes",
        split=split,
        classes=classes,
        names_from=source,
        is_thing=tuple(name != BACKGROUND for name in classes),
        items=items,
        read_labels=LabelTable(tuple(range(len(classes)))),
        read_ids=read_instances,
    )
    return dataset, problems


def _item(base: Path, scene: dict) -> Item:
    name, objects = scene["image"], scene["objects"]
    segments = SegmentList(
        path=base / "instances" / name,
        ids=(0, *(int(o["instance"]) for o in objects)),
        labels=(0, *(int(o["label"]) for o in objects)),
        crowd=(False,) * (len(objects) + 1),
    )
    return Item(Path(name).stem, base / "images" / name, base / "masks" / name, segments)
