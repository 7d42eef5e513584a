"""The pictures of any image folder, class by class: only one class's names are held at a time."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from core_jax.data import images, lines, rng

Path = pathlib.Path
SPLITS = ("train", "val", "test")


def list_pictures(root: Path, seed: int) -> tuple[dict[str, Iterable[list[Any]]], list[str]]:
    """The lists of a folder with train/, val/ (optional) and test/, or with nothing but a folder per class.

    Args:
      root: with a folder per class in each of its splits' folders, or in itself.
      seed: of the split 50 : 20 : 30 where the folder has none; a class's split depends on its name alone.

    Returns:
      (for each of `SPLITS`, rows [path below root, label, class name], to be iterated once; problems, and then no rows).
    """
    problems: list[str] = []
    spools = {split: lines.Spool(tuple) for split in SPLITS}
    # Folders come in sorted order, so a class's label is its place among the names.
    label: dict[str, int] = {}
    if (root / "train").is_dir():
        for split, names in zip(SPLITS, (("train",), ("val", "valid", "validation"), ("test",))):
            for name in names:
                for folder, paths in _class_folders(root, root / name, problems):
                    if split == "train" and paths:
                        label.setdefault(folder, len(label))
                    for path in paths:
                        spools[split].append((path, folder))
    else:
        for folder, paths in _class_folders(root, root, problems):
            if paths:
                label.setdefault(folder, len(label))
            order = rng.permutation(f"split:{seed}:{folder}", len(paths))
            tests, vals = int(0.3 * len(paths)), int(0.2 * len(paths))
            for split, part in zip(
                SPLITS, (order[tests + vals :], order[tests : tests + vals], order[:tests])
            ):
                for i in sorted(part):
                    spools[split].append((paths[i], folder))
    found = {split: spool.sequence() for split, spool in spools.items()}
    # Without pictures set aside for testing, those for validation are what there is to judge by.
    found["test"] = found["test"] or found["val"]
    if not label and not problems:
        problems.append(f"{root} holds no class folder with pictures in it")
    for split in ("val", "test"):
        unknown = sorted({name for _, name in found[split]} - label.keys())
        problems += [
            f"class {name!r} has {split} pictures but none to train on" for name in unknown
        ]
    if problems:
        return {}, problems
    return {
        split: ([path, label[name], name] for path, name in found[split]) for split in SPLITS
    }, []


def _class_folders(
    root: Path, folder: Path, problems: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """Class folders in order, each with its pictures, relative to root, sorted; classes without any are problems."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        names = sorted(filter(images.is_image_name, os.listdir(entry)))
        if not names:
            problems.append(
                f"the class folder {entry} holds no picture ({', '.join(images.SUFFIXES)})"
            )
        below = entry.relative_to(root).as_posix()
        yield entry.name, [f"{below}/{name}" for name in names]
