"""COCO 2017: panoptic (133 classes, from the JSON) and COCO-Stuff (171 classes, label maps)."""

import pathlib

from gba_jax.datasets import names, pairs, panoptic
from gba_jax.datasets.common import Dataset, DatasetError, Item, some
from gba_jax.datasets.labels import LabelTable, read_ids

Path = pathlib.Path

# Numbers below 182 that COCO-Stuff has reserved and never used; what is left are its 171 classes.
GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
STUFF_VALUES = tuple(value for value in range(182) if value not in GAPS)
# Things come first: raw values up to 90.
STUFF_IS_THING = tuple(value <= 90 for value in STUFF_VALUES)


def load_panoptic(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`{split}2017/`, `panoptic_{split}2017/`, `annotations/panoptic_{split}2017.json`."""
    pictures, maps = root / f"{split}2017", root / f"panoptic_{split}2017"
    path = root / "annotations" / f"panoptic_{split}2017.json"
    problems = pairs.absent(pictures, maps)
    found, wrong = panoptic.read(path, maps)
    problems += wrong
    if found is None:
        return None, problems
    unnamed = [stem for stem, name in found.pictures.items() if not name]
    if unnamed:
        problems.append(f"{path} has no picture for the annotations {some(unnamed)}")
    items = tuple(
        Item(stem, pictures / name, None, found.segments[stem])
        for stem, name in sorted(found.pictures.items())
        if name and stem in found.segments
    )
    problems += pairs.missing_files(items) if not pairs.absent(pictures, maps) else []
    problems += [] if items else [f"{path} annotates no picture"]
    classes, source, wrong = _classes(found.classes, path, given)
    dataset = Dataset(
        name="coco_panoptic",
        split=split,
        classes=classes,
        names_from=source,
        is_thing=found.is_thing,
        items=items,
        read_ids=read_ids,
    )
    return dataset, problems + wrong


def _classes(
    own: tuple[str, ...], path: Path, given: Path | None
) -> tuple[tuple[str, ...], str, list[str]]:
    if given is None:
        return own, str(path), names.check(own, None, str(path))
    return names.find([], count=len(own), user=given, given=given)


def load_stuff(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`images/{split}2017/*.jpg`, `annotations/{split}2017/*.png`, names in `labels.txt`."""
    folders = root / "images" / f"{split}2017", root / "annotations" / f"{split}2017"
    problems = pairs.absent(*folders)
    if problems:
        return None, problems
    pictures, twice = pairs.collect(folders[0])
    labels, also_twice = pairs.collect(folders[1], suffixes=(".png",))
    items, lacking = pairs.match(pictures, labels)
    own = [
        names.Source(path=place / "labels.txt", read=_stuff_names)
        for place in (root, root / "annotations")
    ]
    classes, source, wrong = names.find(
        own, count=len(STUFF_VALUES), user=root / "classes.txt", given=given
    )
    dataset = Dataset(
        name="coco_stuff",
        split=split,
        classes=classes,
        names_from=source,
        is_thing=STUFF_IS_THING,
        items=items,
        read_labels=LabelTable(STUFF_VALUES, largest=True),
    )
    return dataset, twice + also_twice + lacking + wrong


def _stuff_names(path: Path) -> list[str]:
    """The file counts from 1 (0 is unlabelled) and names the gaps, too."""
    found = names.read_numbered(path)
    missing = [value + 1 for value in STUFF_VALUES if value + 1 not in found]
    if missing:
        raise DatasetError(f"{path} has no line for class {some(missing)}")
    return [found[value + 1] for value in STUFF_VALUES]
