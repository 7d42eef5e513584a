"""Labelled pictures: CoOp's folder layout, any image folder, few-shot lists, base and new classes.

CoOp's layout (github.com/KaiyangZhou/CoOp) is one root with a folder per data set and a split file in it,
{"train" | "val" | "test": [[path relative to the image folder, label, class name], ...]}. Few-shot lists equal
CoOp's for the same seed. Long lists lie in temporary files (core_jax.data.lines). Docs: docs/data.md.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core_jax.data import files, lines
from fdbpl_jax import folders

Path = pathlib.Path
SPLITS = folders.SPLITS


class DatasetError(ValueError):
    """A data set that cannot be used; the message lists every problem found."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A labelled picture: path relative to the image folder, label, class name.

    The label is -1 where the class is none of the data set's: only after `relabel`.
    """

    path: str
    label: int
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Lists of labelled pictures below `root`; class names are in label order, `template` holds one {}."""

    name: str
    root: Path
    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]
    classes: tuple[str, ...]
    template: str

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the place on disk."""
        lists = {split: list_digest(getattr(self, split)) for split in SPLITS}
        return files.digest([self.name, self.template, self.classes, lists])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set of CoOp's collection lies, its template, and what is known of its contents.

    `names` are class names that differ from the picture folders' (the split file holds the renames); `fetch` tells
    where the files come from.
    """

    folder: str
    images: str
    split: str
    template: str
    classes: int | None = None
    train: int | None = None
    test: int | None = None
    names: tuple[str, ...] = ()
    fetch: str


LAYOUTS = {
    "caltech101": Layout(
        folder="caltech-101",
        images="101_ObjectCategories",
        split="split_zhou_Caltech101.json",
        template="a photo of a {}.",
        classes=100,
        train=4128,
        test=2465,
        names=("airplane", "face", "leopard", "motorbike"),
        fetch="101_ObjectCategories.tar.gz (Caltech's data repository) and split_zhou_Caltech101.json (the "
        "DATASETS.md of github.com/KaiyangZhou/CoOp)",
    ),
    "world_objects": Layout(
        folder="world_objects",
        images="images",
        split="split_zhou_WorldObjects.json",
        template="a {}.",
        fetch="nothing: python -m launch.data world --root=DIR writes it",
    ),
}
FOLDER = "folder"
NAMES = (*LAYOUTS, FOLDER)


def list_digest(items: Iterable[Item]) -> str:
    """SHA-256 of a list of pictures: paths, labels and class names in order, as `files.digest` has it for lists."""
    found, before = hashlib.sha256(b"["), ""
    for item in items:
        found.update((before + files.canonical_json([item.path, item.label, item.name])).encode())
        before = ","
    found.update(b"]")
    return found.hexdigest()


def same_paths(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Whether two lists of pictures name the same files in the same order."""
    return len(one) == len(two) and all(a.path == b.path for a, b in zip(one, two))


def texts(classes: Sequence[str], template: str) -> list[str]:
    """The sentences that stand for the classes: underscores of a name become spaces."""
    return [template.format(name.replace("_", " ")) for name in classes]


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
    return f"data set {name!r} below {root}: {count}\n  - " + "\n  - ".join(problems) + fetch


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
    folder, template = root / layout.folder, template or layout.template
    if not folder.is_dir():
        return None, [f"the folder {folder} does not exist"]
    problems = []
    if not (folder / layout.images).is_dir():
        problems.append(f"the picture folder {folder / layout.images} does not exist")
    split = folder / layout.split
    if not split.is_file():
        problems.append(f"the split file {split} does not exist; none is ever made up")
    if problems:
        return None, problems
    return _from_split_file(name, folder / layout.images, split, template)


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
        return _from_split_file(FOLDER, root, root / "split.json", template)
    rows, problems = folders.list_pictures(root, seed)
    if problems:
        return None, problems
    return _build(FOLDER, root, rows, template)


def _from_split_file(
    name: str, root: Path, split: Path, template: str
) -> tuple[Dataset | None, list[str]]:
    try:
        rows = json.loads(split.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, [f"the split file {split} cannot be read: {error}"]
    if not isinstance(rows, dict) or not all(isinstance(rows.get(key), list) for key in SPLITS):
        return None, [f"the split file {split} must hold three lists: train, val, test"]
    return _build(name, root, rows, template)


def _build(
    name: str, root: Path, rows: Mapping[str, Iterable[Any]], template: str
) -> tuple[Dataset | None, list[str]]:
    """Lists of [path, label, class name] as a data set; every row is checked."""
    problems: list[str] = []
    lists: dict[str, Sequence[Item]] = {}
    names: dict[int, str] = {}
    if template.count("{}") != 1:
        problems.append(f"the template {template!r} must hold {{}} exactly once")
    for split in SPLITS:
        spool = lines.Spool(_item)
        for number, row in enumerate(rows[split]):
            problem = _row_problem(row, names)
            if problem:
                problems.append(f"{split} row {number}, {row!r}: {problem}")
            else:
                spool.append(row)
        lists[split] = spool.sequence()
    seen = sorted({item.label for item in lists["train"]})
    if seen != list(range(len(seen))):
        missing = sorted(set(range(seen[-1] + 1)) - set(seen)) if seen else []
        problems.append(f"labels of the train list must be 0 to C - 1; missing are {missing[:20]}")
    problems += [
        f"label {label} ({names[label]!r}) occurs in val or test but not in train"
        for label in sorted(set(names) - set(seen))
    ]
    if not seen:
        problems.append("the train list is empty")
    doubled = sorted(
        value for value in set(names.values()) if list(names.values()).count(value) > 1
    )
    problems += [f"the class name {value!r} stands for several labels" for value in doubled]
    dataset = Dataset(
        name=name,
        root=root,
        classes=tuple(names[label] for label in sorted(names)),
        template=template,
        **lists,
    )
    return dataset, problems


def _item(row: Sequence[Any]) -> Item:
    return Item(*row)


def _list(items: Iterable[Item]) -> Sequence[Item]:
    return lines.collect(((item.path, item.label, item.name) for item in items), _item)


def _row_problem(row: object, names: dict[int, str]) -> str | None:
    if not (
        isinstance(row, list) and [type(value) for value in row] == [str, int, str] and row[1] >= 0
    ):
        return "expected [path, label >= 0, class name]"
    if os.path.isabs(row[0]) or ".." in Path(row[0]).parts:
        return "the path must stay below the picture folder"
    if names.setdefault(row[1], row[2]) != row[2]:
        return f"label {row[1]} is called {names[row[1]]!r} elsewhere"
    return None


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """The same data set with CoOp's few-shot train and val lists; call it before `half`.

    One `random.Random(seed)` serves both lists. Pictures are grouped by label in order of first appearance; `shots`
    of each are sampled, or all are kept without a draw where there are fewer. Validation takes min(shots, 4).

    Args:
      dataset: with full lists.
      shots: pictures per class; 0 keeps every picture.
      seed: CoOp's are 1, 2 and 3.

    Raises:
      ValueError: shots is negative.
    """
    if shots < 0:
        raise ValueError(f"shots={shots}: expected a number of pictures per class, or 0 for all")
    if shots == 0:
        return dataset
    generator = random.Random(seed)
    train = _sample(dataset.train, shots, generator)
    return dataclasses.replace(
        dataset, train=train, val=_sample(dataset.val, min(shots, 4), generator)
    )


def _sample(items: Sequence[Item], shots: int, generator: random.Random) -> tuple[Item, ...]:
    counts = collections.Counter(item.label for item in items)
    # Sampling the places in a group draws what sampling its pictures would, without holding those.
    places = {
        label: generator.sample(range(count), shots) if count >= shots else range(count)
        for label, count in counts.items()
    }
    wanted = {(label, place) for label, chosen in places.items() for place in chosen}
    found: dict[tuple[int, int], Item] = {}
    seen: collections.Counter[int] = collections.Counter()
    for item in items:
        key = (item.label, seen[item.label])
        seen[item.label] += 1
        if key in wanted:
            found[key] = item
    return tuple(found[label, place] for label, chosen in places.items() for place in chosen)


def union(dataset: Dataset, shots: int, seeds: Sequence[int]) -> Dataset:
    """The data set whose train list is the union of several seeds' few-shot lists, in the full list's order."""
    if shots == 0:
        return dataset
    chosen = {item for seed in seeds for item in few_shot(dataset, shots, seed).train}
    return dataclasses.replace(
        dataset, train=tuple(item for item in dataset.train if item in chosen)
    )


def half(dataset: Dataset, part: str) -> Dataset:
    """The base or the new classes: labels of the train list, sorted, the first ceil(n / 2) and the rest.

    Args:
      dataset: few-shot sampling, if any, comes before the cut.
      part: "base", "new" or "all".

    Returns:
      The data set cut to those classes, labels counted from 0 within them.

    Raises:
      ValueError: another part, or a single class to halve.
    """
    if part == "all":
        return dataset
    if part not in ("base", "new"):
        raise ValueError(f"split={part!r}: expected base, new or all")
    labels = sorted({item.label for item in dataset.train})
    if len(labels) < 2:
        raise ValueError(f"{dataset.name} has {len(labels)} class(es): there are no halves of that")
    cut = (len(labels) + 1) // 2
    kept = labels[:cut] if part == "base" else labels[cut:]
    position = {label: i for i, label in enumerate(kept)}

    def relabel(items: Sequence[Item]) -> Sequence[Item]:
        return _list(
            dataclasses.replace(item, label=position[item.label])
            for item in items
            if item.label in position
        )

    return dataclasses.replace(
        dataset,
        classes=tuple(dataset.classes[label] for label in kept),
        **{split: relabel(getattr(dataset, split)) for split in SPLITS},
    )


def relabel(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The same pictures in another label space: labels count within `classes`, -1 for pictures of other classes."""
    position = {name: i for i, name in enumerate(classes)}

    def within(items: Sequence[Item]) -> Sequence[Item]:
        return _list(dataclasses.replace(item, label=position.get(item.name, -1)) for item in items)

    return dataclasses.replace(
        dataset,
        classes=tuple(classes),
        **{split: within(getattr(dataset, split)) for split in SPLITS},
    )
