"""What a data set of labelled pictures is: items, lists, class names, and the digests that pin them."""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from core_jax.data import files, lines
from fdbpl_jax import readers

Path = pathlib.Path
SPLITS = readers.SPLITS


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
    """Lists of labelled pictures below `root`; class names are in label order, `template` holds one {}.

    `lists` is the folder where few-shot lists may be given as files. A set that is only tested on has an empty `train`.
    """

    name: str
    root: Path
    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]
    classes: tuple[str, ...]
    template: str
    lists: Path | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the place on disk."""
        lists = {split: list_digest(getattr(self, split)) for split in SPLITS}
        return files.digest([self.name, self.template, self.classes, lists])


def list_digest(items: Iterable[Item]) -> str:
    """SHA-256 of a list of pictures: paths, labels and class names in order, as `files.digest` has it for lists."""
    found, before, rows = hashlib.sha256(b"["), "", iter(items)
    # One text for many rows: encoding each by itself takes four times as long.
    while chunk := [[one.path, one.label, one.name] for one in itertools.islice(rows, 1000)]:
        found.update((before + files.canonical_json(chunk)[1:-1]).encode())
        before = ","
    found.update(b"]")
    return found.hexdigest()


def same_paths(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Whether two lists of pictures name the same files in the same order."""
    return len(one) == len(two) and all(a.path == b.path for a, b in zip(one, two))


def texts(classes: Sequence[str], template: str) -> list[str]:
    """The sentences that stand for the classes: underscores of a name become spaces."""
    return [template.format(name.replace("_", " ")) for name in classes]


def item(row: Sequence[Any]) -> Item:
    """The item of a row [path, label, class name]."""
    return Item(*row)


def collect(items: Iterable[Item]) -> Sequence[Item]:
    """A list of items: in memory, or on disk where they are many."""
    return lines.collect(((one.path, one.label, one.name) for one in items), item)
