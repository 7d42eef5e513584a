"""Long lists on disk, a JSON value a line: read like a sequence, and never held in memory.

A list of 10^6 pictures takes some hundred megabytes as Python objects. Here every 32nd line's place in the file is
kept, and the rest is read when it is asked for: iterating costs what reading the file costs, one value a few
microseconds.
"""

import array
import json
import operator
import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Path = pathlib.Path
T = TypeVar("T")

_STRIDE = 32
# Lists up to here stay in memory: a few megabytes, and no file.
HELD = 16_384


class Lines(Sequence[T]):
    """A file of JSON lines as a sequence; threads may share it, and worker processes get its path.

    Args:
      path: the file; it must not change as long as the sequence is in use.
      make: turns a line's JSON value into an element.
    """

    def __init__(self, path: str | os.PathLike, make: Callable[[Any], T]):
        self._open(Path(path), os.open(path, os.O_RDONLY), make)
        self._starts, self._count = _index(self._descriptor)

    @classmethod
    def of_file(cls, file: Any, make: Callable[[Any], T]) -> "Lines[T]":
        """The lines of an open file without a name; it may be closed, the space is free when the sequence is gone."""
        made = cls.__new__(cls)
        made._open(None, os.dup(file.fileno()), make)
        made._starts, made._count = _index(made._descriptor)
        return made

    def _open(self, path: Path | None, descriptor: int, make: Callable[[Any], T]) -> None:
        self._path, self._descriptor, self._make = path, descriptor, make
        weakref.finalize(self, os.close, descriptor)

    def __getstate__(self):
        if self._path is None:
            raise TypeError("a list in an unnamed temporary file cannot leave its process")
        return self._path, self._make, self._starts, self._count

    def __setstate__(self, state):
        path, make, self._starts, self._count = state
        self._open(path, os.open(path, os.O_RDONLY), make)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(self._count)))
        place = operator.index(index)
        place += self._count if place < 0 else 0
        if not 0 <= place < self._count:
            raise IndexError(f"line {index} of {self._count}")
        block, within = divmod(place, _STRIDE)
        return self._make(json.loads(self._block(block)[within]))

    def __iter__(self) -> Iterator[T]:
        for block in range(len(self._starts) - 1):
            for line in self._block(block):
                yield self._make(json.loads(line))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # pyright: ignore

    def __repr__(self) -> str:
        return f"Lines({str(self._path) if self._path else 'temporary'}, {self._count})"

    def _block(self, number: int) -> list[bytes]:
        start, end = self._starts[number], self._starts[number + 1]
        # A read at a place of its own: no shared position that threads could move.
        return os.pread(self._descriptor, end - start, start).removesuffix(b"\n").split(b"\n")


def _index(descriptor: int) -> tuple[array.array, int]:
    """Where every `_STRIDE`-th line begins and the last one ends, and how many there are."""
    starts, count, place = array.array("q"), 0, 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        for line in file:
            if count % _STRIDE == 0:
                starts.append(place)
            count, place = count + 1, place + len(line)
    starts.append(place)
    return starts, count


def read(path: str | os.PathLike, make: Callable[[Any], T]) -> Sequence[T]:
    """The elements of a file of JSON lines: a tuple up to `HELD`, else `Lines`."""
    found = Lines(path, make)
    return tuple(found) if len(found) <= HELD else found


class Spool(Generic[T]):
    """Collects a list of unknown length: in memory up to `HELD` values, beyond that in a temporary file.

    Args:
      make: turns a JSON value into an element.
    """

    def __init__(self, make: Callable[[Any], T]):
        self._make = make
        self._values: list[Any] = []
        self._file = None

    def append(self, value: Any) -> None:
        """Adds an element, given as its JSON value."""
        self._values.append(value)
        if len(self._values) > HELD:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed by `sequence`)
        for value in self._values:
            self._file.write(json.dumps(value).encode() + b"\n")
        self._values.clear()

    def sequence(self) -> Sequence[T]:
        """Everything that was added: a tuple, or `Lines`. Nothing can be added afterwards."""
        if self._file is None:
            return tuple(map(self._make, self._values))
        self._flush()
        with self._file as file:
            file.flush()
            return Lines.of_file(file, self._make)


def collect(values: Iterable[Any], make: Callable[[Any], T]) -> Sequence[T]:
    """The elements of JSON values as a tuple, or on disk where they are many."""
    spool = Spool(make)
    for value in values:
        spool.append(value)
    return spool.sequence()
