"""From what lies in a data set's folder to rows [path below the picture folder, label, class name], none of them checked.

Four ways beside CoOp's split files: FGVC Aircraft's own text files, ImageNet's class folders, and its variants' class
folders, by WordNet id or by number. ImageNet's rows are made while they are read: 1.3 million are never held.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from core_jax.data import images
from fdbpl_jax import catalogue

Path = pathlib.Path
Row = list[Any]
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of each list, to be iterated once."""

    train: Iterable[Row] = ()
    val: Iterable[Row] = ()
    test: Iterable[Row] = ()


Read = tuple[Rows | None, list[str]]
"""Rows, and problems in words. Without rows, the problems say why; beside rows, only details are wrong."""


def read(folder: Path, layout: catalogue.Layout) -> Read:
    """The rows of a data set of the catalogue.

    Args:
      folder: of the data set.
      layout: of the data set.
    """
    if not folder.is_dir():
        return None, [f"the folder {folder} does not exist"]
    folders, names = lacks(folder, layout)
    problems = [f"the picture folder {folder / name} does not exist" for name in folders]
    for name in names:
        what = "split file" if name == layout.split else "file"
        problems.append(f"the {what} {folder / name} does not exist; none is ever made up")
    if problems:
        return None, problems
    return READERS[layout.reader](folder, layout)


def lacks(folder: Path, layout: catalogue.Layout) -> tuple[list[str], list[str]]:
    """The picture folders and the files that a data set's folder should hold and does not."""
    folders, names = (layout.images,), (catalogue.CLASSNAMES,)
    if layout.reader == "split":
        names = (layout.split,)
    elif layout.reader == "aircraft":
        names = AIRCRAFT
    elif layout.reader == "imagenet":
        folders = tuple(f"{layout.images}/{split}" for split in IMAGENET)
    return (
        [name for name in folders if not (folder / name).is_dir()],
        [name for name in names if not (folder / name).is_file()],
    )


def split_file(path: Path) -> Read:
    """The rows of a split file, {"train" | "val" | "test": [[path, label, class name], ...]}."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, [f"the split file {path} cannot be read: {error}"]
    if not isinstance(rows, dict) or not all(isinstance(rows.get(key), list) for key in SPLITS):
        return None, [f"the split file {path} must hold three lists: train, val, test"]
    return Rows(**{split: rows[split] for split in SPLITS}), []


AIRCRAFT = ("variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS))


def _aircraft(folder: Path, layout: catalogue.Layout) -> Read:
    """FGVC Aircraft: a line of variants.txt is a class, a line of the lists "id name"."""
    variants, problems = _text(folder / AIRCRAFT[0])
    label = {name: number for number, name in enumerate(variants)}
    if len(label) < len(variants):
        doubled = sorted({name for name in variants if variants.count(name) > 1})
        problems.append(f"{folder / AIRCRAFT[0]} names a class twice: {', '.join(doubled)}")
    lists: list[list[Row]] = []
    for name in AIRCRAFT[1:]:
        found, wrong = _text(folder / name)
        problems += wrong
        rows = [(number, *line.partition(" ")) for number, line in enumerate(found, 1)]
        problems += [
            f"{folder / name}, line {number}: {variant!r} is no line of {AIRCRAFT[0]}"
            for number, _, _, variant in rows
            if variant not in label
        ]
        lists.append(
            [
                [f"{picture}.jpg", label[variant], variant]
                for _, picture, _, variant in rows
                if variant in label
            ]
        )
    return Rows(*lists), problems


IMAGENET = ("train", "val")


def _imagenet(folder: Path, layout: catalogue.Layout) -> Read:
    """ImageNet: train/ and val/ hold a folder per class; a class's label is its folder's rank, val is judged."""
    names, problems = classnames(folder / catalogue.CLASSNAMES)
    base = folder / layout.images
    found = {split: _folders(base / split) for split in IMAGENET}
    for place in (base / split for split in IMAGENET if not found[split]):
        what = "pictures" if any(map(images.is_image_name, os.listdir(place))) else "nothing"
        problems.append(f"{place} holds {what} where a folder for each class was expected")
    if problems:
        return None, problems
    train, val = found["train"], found["val"]
    problems += _unnamed(base / "train", train, names)
    for one, other, few in (("train", "val", val), ("val", "train", train)):
        lost = sorted(set(found[one]) - set(few))
        if lost:
            # A rank counted among fewer folders would be another class's label.
            problems.append(
                f"{base / other} lacks {len(lost)} of the class folders of {one}/: {_some(lost)}"
            )
    if problems:
        return None, problems
    label = {name: rank for rank, name in enumerate(train)}
    rows = {split: _pictures(base, split, found[split], label, names) for split in found}
    return Rows(train=rows["train"], test=rows["val"]), []


def _variant(folder: Path, layout: catalogue.Layout) -> Read:
    """A variant of ImageNet with class folders called by WordNet id: those that are there, by rank."""
    names, problems = classnames(folder / catalogue.CLASSNAMES)
    base = folder / layout.images
    there = _folders(base)
    if not there:
        problems.append(f"{base} holds no class folder")
    problems += _unnamed(base, there, names) if names else []
    if problems:
        return None, problems
    label = {name: rank for rank, name in enumerate(there)}
    return Rows(test=_pictures(base, "", there, label, names)), []


def _numbers(folder: Path, layout: catalogue.Layout) -> Read:
    """ImageNetV2: class folders 0, 1, ..., one for each line of classnames.txt, in that order."""
    names, problems = classnames(folder / catalogue.CLASSNAMES)
    base = folder / layout.images
    wanted = [str(number) for number in range(len(names))]
    there = set(_folders(base))
    for what, some in (
        ("lacks", [one for one in wanted if one not in there]),
        ("has beside them", sorted(there - set(wanted))),
    ):
        if some and names:
            problems.append(
                f"{base} must hold the folders 0 to {len(names) - 1}, one for each line of {catalogue.CLASSNAMES}; it "
                f"{what} {len(some)}: {_some(some)}"
            )
    if problems:
        return None, problems
    label = {number: int(number) for number in wanted}
    called = dict(zip(wanted, names.values()))
    return Rows(test=_pictures(base, "", wanted, label, called)), []


READERS: dict[str, Callable[[Path, catalogue.Layout], Read]] = {
    "split": lambda folder, layout: split_file(folder / layout.split),
    "aircraft": _aircraft,
    "imagenet": _imagenet,
    "folders": _variant,
    "numbers": _numbers,
}


def classnames(path: Path) -> tuple[dict[str, str], list[str]]:
    """The names in a classnames.txt by WordNet id, in the order of its lines "id name", and problems."""
    lines, problems = _text(path)
    names: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        wnid, _, name = line.partition(" ")
        if not name:
            problems.append(f"{path}, line {number}, {line!r}: expected a WordNet id and a name")
        elif names.setdefault(wnid, name) != name:
            problems.append(f"{path}, line {number}: {wnid} is called {names[wnid]!r} above")
    if not lines and not problems:
        problems.append(f"{path} is empty")
    return names, problems


def _text(path: Path) -> tuple[list[str], list[str]]:
    """The stripped lines of a text file, up to the last that is not empty; and problems."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        return [line.strip() for line in text.splitlines()], []
    except (OSError, ValueError) as error:
        return [], [f"the file {path} cannot be read: {error}"]


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(one.name for one in entries if one.is_dir() and not one.name.startswith("."))


def _pictures(
    base: Path, split: str, there: Sequence[str], label: dict[str, int], names: dict[str, str]
) -> Iterator[Row]:
    """The pictures of class folders, sorted within each: a file system's own order would differ from disk to disk."""
    for name in there:
        below = f"{split}/{name}" if split else name
        for picture in sorted(filter(images.is_image_name, os.listdir(base / below))):
            yield [f"{below}/{picture}", label[name], names[name]]


def _unnamed(base: Path, there: Sequence[str], names: dict[str, str]) -> list[str]:
    unknown = [name for name in there if name not in names]
    if not unknown or not names:
        return []
    return [
        f"{len(unknown)} class folders of {base} are not in {catalogue.CLASSNAMES}: {_some(unknown)}"
    ]


def _some(names: Sequence[str], count: int = 10) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
