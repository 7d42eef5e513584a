"""ArrayRecord shards with a JSON sidecar each, read through grain.

A shard `labels-00003-of-00032.arrayrecord` holds consecutive rows, one record a row, `group_size:1` for random access.
Its sidecar `labels-00003-of-00032.json` gives first row, count, bytes and SHA-256. Both are written atomically, the
sidecar last: a shard without a valid sidecar does not exist.
"""

import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from core_jax.data import files

Path = pathlib.Path


class RecordError(ValueError):
    """A shard or a record that is missing, truncated or corrupted; the message names it and what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """What the sidecar of a shard says: file name, first row, number of records, size in bytes, SHA-256."""

    name: str
    first_row: int
    count: int
    bytes: int
    sha256: str


def shard_name(kind: str, index: int, count: int) -> str:
    """The file name of shard `index` of `count`."""
    return f"{kind}-{index:05d}-of-{count:05d}.arrayrecord"


def sidecar_path(shard: str | os.PathLike) -> Path:
    """The sidecar that belongs to a shard."""
    return Path(shard).with_suffix(".json")


def write_shard(
    path: str | os.PathLike,
    records: Iterable[bytes],
    *,
    first_row: int,
    options: str = "group_size:1",
) -> Shard:
    """Writes a shard and then its sidecar, each under a temporary name, synced, and renamed.

    Args:
      path: the shard's file; its name becomes the sidecar's `name`.
      records: the payloads in row order.
      first_row: row of the first record in the whole.
      options: ArrayRecord's writer options; keep `group_size:1` for random access.

    Raises:
      files.DiskFullError: the device is full.
    """
    from array_record.python import array_record_module  # pyright: ignore

    path, count = Path(path), 0
    with files.atomic_path(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), options)
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
        size, sha256 = temporary.stat().st_size, files.sha256_file(temporary)
    shard = Shard(name=path.name, first_row=first_row, count=count, bytes=size, sha256=sha256)
    files.atomic_write(sidecar_path(path), json.dumps(dataclasses.asdict(shard), indent=1) + "\n")
    return shard


def read_sidecar(path: str | os.PathLike) -> Shard | None:
    """The sidecar of a shard, or None if it is absent or not one."""
    try:
        return Shard(**json.loads(sidecar_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def problems(folder: str | os.PathLike, shard: Shard, *, digest: bool) -> list[str]:
    """What is wrong with a shard's file, in words; empty when it is what its sidecar says.

    Args:
      folder: where the shard lies.
      shard: its sidecar or manifest entry.
      digest: whether to hash the file; otherwise only its presence and size are checked.
    """
    path = Path(folder) / shard.name
    if not path.is_file():
        return [f"shard {shard.name} is missing"]
    size = path.stat().st_size
    if size != shard.bytes:
        return [
            f"shard {shard.name} has {size} bytes, expected {shard.bytes}: truncated or replaced"
        ]
    if digest and files.sha256_file(path) != shard.sha256:
        return [
            f"shard {shard.name} is corrupted: its SHA-256 is not the recorded {shard.sha256[:12]}..."
        ]
    return []


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """What grain needs to know about a file so that it does not open all of them to count."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Reader:
    """Random access to the records of several shards: thread-safe, and sent to worker processes as file names only."""

    def __init__(self, folder: str | os.PathLike, shards: Sequence[Shard]):
        self._folder, self._shards = Path(folder), tuple(shards)
        self._source, self._lock = None, threading.Lock()

    def __getstate__(self):
        return {"_folder": self._folder, "_shards": self._shards}

    def __setstate__(self, state):
        self.__init__(state["_folder"], state["_shards"])

    def __len__(self) -> int:
        return sum(shard.count for shard in self._shards)

    def __getitem__(self, row: int) -> bytes:
        """The payload of one row.

        Raises:
          RecordError: the record cannot be read.
        """
        try:
            return self._open()[row]
        except (RuntimeError, IndexError) as error:
            raise self._corrupted(row, error) from error

    def read_all(self) -> list[bytes]:
        """Every payload, in row order, file by file.

        Raises:
          RecordError: a file cannot be read.
        """
        from array_record.python import array_record_module  # pyright: ignore

        payloads: list[bytes] = []
        for shard in self._shards:
            try:
                reader = array_record_module.ArrayRecordReader(str(self._folder / shard.name))
                found = reader.read_all()
                reader.close()
            except RuntimeError as error:
                raise self._corrupted(shard.first_row, error) from error
            if len(found) != shard.count:
                raise self._corrupted(shard.first_row, f"{len(found)} records, not {shard.count}")
            payloads.extend(found)
        return payloads

    def shard_of(self, row: int) -> str:
        """The name of the shard that holds a row."""
        for shard in self._shards:
            if shard.first_row <= row < shard.first_row + shard.count:
                return shard.name
        raise IndexError(f"row {row} is in none of {len(self)} records")

    def _open(self):
        with self._lock:
            if self._source is None:
                import grain

                files_of: list[Any] = [
                    _Instruction(str(self._folder / s.name), 0, s.count, s.count)
                    for s in self._shards
                ]
                self._source = grain.sources.ArrayRecordDataSource(files_of)
            return self._source

    def _corrupted(self, row: int, error: object) -> RecordError:
        name = self.shard_of(row)
        return RecordError(
            f"row {row} in {self._folder / name} cannot be read ({error}): the file is corrupted. Delete it and "
            f"{sidecar_path(name).name}, and run the command that wrote them again"
        )
