"""Parts of a data set: few-shot lists, their union, base and new classes, the same pictures in other classes."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

from absl import logging

from fdbpl_jax import fewshot, pictures
from fdbpl_jax.fewshot import few_shot_indices
from fdbpl_jax.pictures import SPLITS, Dataset, DatasetError, Item

Path = pathlib.Path


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """The same data set with few-shot train and val lists; call it before `half`.

    The lists are those of `few_shot_indices`, or of a file <folder of the data set>/split_fewshot/shot_N-seed_S.json.

    Args:
      dataset: with full lists.
      shots: pictures per class; 0 keeps every picture.
      seed: CoOp's are 1, 2 and 3.

    Raises:
      ValueError: shots is negative.
      DatasetError: a file gives the lists, and some of its rows are none of the data set's.
    """
    if shots < 0:
        raise ValueError(f"shots={shots}: expected a number of pictures per class, or 0 for all")
    if shots == 0:
        return dataset
    indices = few_shot_indices(
        (item.label for item in dataset.train),
        (item.label for item in dataset.val),
        shots=shots,
        seed=seed,
    )
    chosen = {
        split: tuple(getattr(dataset, split)[place] for place in places)
        for split, places in zip(("train", "val"), indices)
    }
    if dataset.lists is not None and fewshot.path(dataset.lists, shots, seed).is_file():
        chosen |= _given(dataset, fewshot.path(dataset.lists, shots, seed), shots)
    return dataclasses.replace(dataset, **chosen)


def _given(dataset: Dataset, file: Path, shots: int) -> dict[str, tuple[Item, ...]]:
    """The few-shot lists in a file, its rows found in the data set's own lists."""
    rows, problems = fewshot.read(file)
    chosen = {}
    for split, given in rows.items():
        paths = {_path(row) for row in given}
        known = {item.path: item for item in getattr(dataset, split) if item.path in paths}
        found = []
        for number, row in enumerate(given):
            item = known.get(_path(row))
            if item is None:
                problems.append(f"{split} row {number}, {row!r}: no picture of the {split} list")
            elif row != [item.path, item.label, item.name]:
                problems.append(
                    f"{split} row {number}, {row!r}: the {split} list has label {item.label}, {item.name!r}"
                )
            else:
                found.append(item)
        counted = collections.Counter(item.label for item in found)
        problems += [
            f"{split}: {count} pictures of label {label}, and the file is called a list of {shots} shots"
            for label, count in counted.items()
            if count > shots
        ]
        chosen[split] = tuple(found)
    if problems:
        raise DatasetError(
            f"the few-shot list {file} does not belong to data set {dataset.name!r}: {len(problems)} problems\n  - "
            + "\n  - ".join(problems[:50])
        )
    logging.info("few-shot lists of %d shots are those of %s", shots, file)
    return chosen


def _path(row: object) -> str:
    """The path in a row of a file; empty where it is no row."""
    return row[0] if isinstance(row, list) and row and isinstance(row[0], str) else ""


def union(dataset: Dataset, shots: int, seeds: Sequence[int]) -> Dataset:
    """The data set whose train list is the union of several seeds' few-shot lists, in the full list's order."""
    if shots == 0:
        return dataset
    chosen = {item for seed in seeds for item in few_shot(dataset, shots, seed).train}
    return dataclasses.replace(
        dataset, train=tuple(item for item in dataset.train if item in chosen)
    )


def half(dataset: Dataset, part: str) -> Dataset:
    """The base or the new classes: labels in order, the first ceil(n / 2) and the rest.

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
    labels = list(range(len(dataset.classes)))
    if len(labels) < 2:
        raise ValueError(f"{dataset.name} has {len(labels)} class(es): there are no halves of that")
    cut = (len(labels) + 1) // 2
    kept = labels[:cut] if part == "base" else labels[cut:]
    position = {label: i for i, label in enumerate(kept)}

    def relabel(items: Sequence[Item]) -> Sequence[Item]:
        return pictures.collect(
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
    """The same pictures in another label space: labels count within `classes`, -1 for pictures of other classes.

    Where a name stands for several classes, its first in one space is its first in the other, and so on.
    """
    position = {key: i for i, key in enumerate(_numbered(classes))}
    keys = _numbered(dataset.classes)

    def place(item: Item) -> int:
        return position.get(keys[item.label] if item.label >= 0 else (item.name, 0), -1)

    def within(items: Sequence[Item]) -> Sequence[Item]:
        return pictures.collect(dataclasses.replace(item, label=place(item)) for item in items)

    return dataclasses.replace(
        dataset,
        classes=tuple(classes),
        **{split: within(getattr(dataset, split)) for split in SPLITS},
    )


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how often it stands before."""
    seen: collections.Counter[str] = collections.Counter()
    keys = []
    for name in names:
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys
