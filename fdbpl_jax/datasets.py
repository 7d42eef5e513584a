"""Labelled pictures: CoOp's folder layout, any image folder, few-shot lists, base and new classes.

CoOp's layout (github.com/KaiyangZhou/CoOp) is one root with a folder per data set; `catalogue.LAYOUTS` lists them. Lists
come from a split file there, {"train" | "val" | "test": [[path relative to the image folder, label, class name], ...]},
or as `readers` says. Few-shot lists equal CoOp's for the same seed. Long lists lie in temporary files
(core_jax.data.lines). Docs: docs/data.md.
"""

import collections
import os
import pathlib
from collections.abc import Sequence

from core_jax.data import lines
from fdbpl_jax import fewshot, folders, pictures, readers
from fdbpl_jax.catalogue import FOLDER, LAYOUTS, NAMES, Layout
from fdbpl_jax.fewshot import few_shot_indices
from fdbpl_jax.pictures import (
    SPLITS,
    Dataset,
    DatasetError,
    Item,
    list_digest,
    same_paths,
    texts,
)
from fdbpl_jax.subsets import few_shot, half, relabel, union

__all__ = [
    "FOLDER",
    "LAYOUTS",
    "NAMES",
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Item",
    "Layout",
    "describe",
    "few_shot",
    "few_shot_indices",
    "half",
    "list_digest",
    "load",
    "read",
    "read_folder",
    "relabel",
    "same_paths",
    "texts",
    "union",
]

Path = pathlib.Path
# One wrong file can spoil every row.
_MOST_TOLD = 100


def read(name: str, root: str | os.PathLike, *, template: str | None = None) -> Dataset:
    """Reads the lists of a data set; no picture is opened.

    Args:
      name: a key of `LAYOUTS`, or "folder" for `read_folder`.
      root: the folder that holds the data set's folder (for "folder": the folder of the classes).
      template: replaces the data set's own, for example "a sketch of a {}.".

    Raises:
      DatasetError: listing everything that is wrong with folders, split file, rows, labels and names.
    """
    dataset, problems = load(name, root, template=template)
    if problems or dataset is None:
        raise DatasetError(describe(name, root, problems))
    return dataset


def describe(name: str, root: str | os.PathLike, problems: Sequence[str]) -> str:
    """One message for all problems of a data set, with what to fetch."""
    fetch = f"\nwhat to fetch: {LAYOUTS[name].fetch}" if name in LAYOUTS else ""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    told, more = list(problems[:_MOST_TOLD]), len(problems) - _MOST_TOLD
    told += [f"and {more:,} more"] if more > 0 else []
    return f"data set {name!r} below {root}: {count}\n  - " + "\n  - ".join(told) + fetch


def load(
    name: str, root: str | os.PathLike, *, template: str | None = None
) -> tuple[Dataset | None, list[str]]:
    """As `read`, but returns (data set or None, problems) instead of raising."""
    root = Path(root)
    if name == FOLDER:
        return _load_folder(root, template or "a photo of a {}.", seed=0)
    if name not in LAYOUTS:
        return None, [f"there is no reader of this name; known are {', '.join(NAMES)}"]
    layout = LAYOUTS[name]
    folder = root / layout.folder
    rows, problems = readers.read(folder, layout)
    if rows is None:
        return None, problems
    dataset, more = _build(
        name, folder / layout.images, rows, template or layout.template, folder / fewshot.FOLDER
    )
    return dataset, problems + more


def read_folder(
    root: str | os.PathLike, *, template: str = "a photo of a {}.", seed: int = 0
) -> Dataset:
    """Reads any image folder; class names are the folders' names, in sorted order.

    Args:
      root: holds `split.json` (CoOp's format, paths relative to root), or train/, val/ (optional) and test/ with a
        folder per class in each, or just a folder per class. In the last case the pictures of each class are split
        50 : 20 : 30 by a permutation that depends on the seed and the class's name only.
      template: the sentence a class name is put into.
      seed: of that permutation.

    Raises:
      DatasetError: listing every problem, such as class folders without a picture.
    """
    dataset, problems = _load_folder(Path(root), template, seed)
    if problems or dataset is None:
        raise DatasetError(describe(FOLDER, root, problems))
    return dataset


def _load_folder(root: Path, template: str, seed: int) -> tuple[Dataset | None, list[str]]:
    if not root.is_dir():
        return None, [f"the folder {root} does not exist"]
    if (root / "split.json").is_file():
        rows, problems = readers.split_file(root / "split.json")
        lists = root / fewshot.FOLDER
    else:
        lists = None
        found, problems = folders.list_pictures(root, seed)
        rows = None if problems else readers.Rows(**found)
    if rows is None:
        return None, problems
    return _build(FOLDER, root, rows, template, lists)


def _build(
    name: str, root: Path, rows: readers.Rows, template: str, few_shot_lists: Path | None
) -> tuple[Dataset | None, list[str]]:
    """Lists of [path, label, class name] as a data set; every row is checked."""
    problems: list[str] = []
    lists: dict[str, Sequence[Item]] = {}
    names: dict[int, str] = {}
    labels: dict[str, set[int]] = {split: set() for split in SPLITS}
    if template.count("{}") != 1:
        problems.append(f"the template {template!r} must hold {{}} exactly once")
    for split in SPLITS:
        spool = lines.Spool(pictures.item)
        for number, row in enumerate(getattr(rows, split)):
            problem = _row_problem(row, names)
            if problem:
                problems.append(f"{split} row {number}, {row!r}: {problem}")
            else:
                spool.append(row)
                labels[split].add(row[1])
        lists[split] = spool.sequence()
    layout = LAYOUTS.get(name)
    given = "test" if layout is not None and layout.test_only else "train"
    seen = sorted(labels[given])
    if seen != list(range(len(seen))):
        missing = sorted(set(range(seen[-1] + 1)) - set(seen)) if seen else []
        problems.append(
            f"labels of the {given} list must be 0 to C - 1; missing are {missing[:20]}"
        )
    problems += [
        f"label {label} ({names[label]!r}) occurs in val or test but not in train"
        for label in sorted(set(names) - set(seen))
    ]
    if not seen:
        problems.append(f"the {given} list is empty")
    if layout is None or not layout.repeated:
        counted = collections.Counter(names.values())
        problems += [
            f"the class name {value!r} stands for several labels"
            for value, count in sorted(counted.items())
            if count > 1
        ]
    dataset = Dataset(
        name=name,
        root=root,
        classes=tuple(names[label] for label in sorted(names)),
        template=template,
        lists=few_shot_lists,
        **lists,
    )
    return dataset, problems


def _row_problem(row: object, names: dict[int, str]) -> str | None:
    if not (
        isinstance(row, list) and [type(value) for value in row] == [str, int, str] and row[1] >= 0
    ):
        return "expected [path, label >= 0, class name]"
    if os.path.isabs(row[0]) or ".." in row[0].split("/"):
        return "the path must stay below the picture folder"
    if names.setdefault(row[1], row[2]) != row[2]:
        return f"label {row[1]} is called {names[row[1]]!r} elsewhere"
    return None
