"""The pictures of a lookup before the first label: digest and size of each, and which cannot be labelled.

Every picture is decoded once, in parts of consecutive rows; a part is a file in `<lookup>.scan`, beside the lookup's
folder, until that is complete. Processes take turns with the parts, and a build that was killed keeps those it has.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from core_jax.data import files, images
from fdbpl_jax import crew as crews
from fdbpl_jax import label, layout, regions
from fdbpl_jax.datasets import Item
from fdbpl_jax.meter import Meter

Path = pathlib.Path
# Rows of a part: what a kill costs at most, some seconds of decoding.
PART_ROWS = 1024
# A wrong folder makes a problem of every picture; more of them than this say nothing new.
_MOST_TOLD = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """The parts of a list of pictures.

    Attributes:
      folder: of the part files.
      root: the picture folder.
      items: the list.
      part_rows: rows of a part.
      threads: that decode.
    """

    folder: Path
    root: Path
    items: Sequence[Item] = dataclasses.field(repr=False)
    part_rows: int = PART_ROWS
    threads: int | None = None

    @property
    def ranges(self) -> list[range]:
        """Rows of every part."""
        return layout.shard_rows(len(self.items), self.part_rows)

    def path(self, rows: range) -> Path:
        """The file of a part."""
        return self.folder / f"rows-{rows.start:09d}-{rows.stop:09d}.jsonl"

    def __iter__(self) -> Iterator[layout.ImageRow]:
        """Every row once all parts are there; labels are -1."""
        for rows in self.ranges:
            yield from layout.load_images(self.path(rows))

    def has(self, rows: range) -> bool:
        """Whether a part is there and belongs to this list."""
        path = self.path(rows)
        if not path.is_file():
            return False
        found = layout.load_images(path)
        return len(found) == len(rows) and all(
            one.path == item.path for one, item in zip(found, self.items[rows.start : rows.stop])
        )

    def make(self, rows: range) -> list[str]:
        """Writes a part, unless a picture of it cannot be labelled; returns these pictures' problems."""
        problems, found = [], []
        items = self.items[rows.start : rows.stop]
        paths = [item.path for item in items]
        for path, seen in zip(
            paths, label.in_order(lambda path: _look(self.root, path), paths, self.threads)
        ):
            if isinstance(seen, str):
                problems.append(seen)
            else:
                sha256, height, width = seen
                found.append(layout.ImageRow(path, sha256, height, width, -1))
        if not problems:
            files.atomic_write(self.path(rows), "".join(map(layout.dump_image, found)))
        return problems


def scan(parts: Scan, *, share: tuple[int, int], crew: crews.Crew, progress: bool = False) -> None:
    """Makes the parts that are missing; afterwards all of them are there.

    Args:
      parts: of the list of pictures.
      share: (i, n): parts i, i + n, ... are this process' own. One without a crew makes those of the others after its
        own, if they are still missing then.
      crew: who builds together; each process calls this function.
      progress: on standard error.

    Raises:
      label.PictureErrors: in every process, listing the pictures that are missing, unreadable, too large, or twice on
        the list.
    """
    ranges = parts.ranges
    own = ranges[share[0] :: share[1]]
    others = [rows for i, rows in enumerate(ranges) if i % share[1] != share[0]]
    todo = own + (others if crew.processes == 1 else [])

    def make() -> tuple[int, list[str]]:
        problems = doubled(parts.items) if crew.leads else []
        count = len(problems)
        with Meter(sum(map(len, todo)), "pictures", "scan", show=progress) as meter:
            for rows in todo:
                if not parts.has(rows):
                    found = parts.make(rows)
                    count += len(found)
                    problems = (problems + found)[:_MOST_TOLD]
                meter.advance(len(rows))
        return count, problems

    answers = crew.share(make)
    count = sum(number for number, _ in answers)
    if not count:
        return
    told = [problem for _, problems in answers for problem in problems][:_MOST_TOLD]
    more = [f"and {count - len(told)} more"] if count > len(told) else []
    raise label.PictureErrors(
        f"{count} of {len(parts.items)} pictures below {parts.root} cannot be labelled; the lookup was not begun:\n  - "
        + "\n  - ".join(told + more)
    )


def doubled(items: Sequence[Item]) -> list[str]:
    """Names the pictures that are on the list more than once; holds eight bytes of each."""
    hashes = np.fromiter((hash(item.path) for item in items), np.int64, len(items))
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    # Different paths may share a hash: count the few that do by name.
    counts = collections.Counter(item.path for item in items if hash(item.path) in twice)
    return [f"{path} is on the list twice" for path, count in counts.items() if count > 1]


def _look(root: Path, path: str) -> tuple[str, int, int] | str:
    try:
        data, image = label.read(root / path)
    except images.ImageError as error:
        return str(error)
    height, width = image.shape[:2]
    if max(height, width) > regions.MAX_SIDE:
        return f"{root / path} is {height} x {width} pixels: sides may have {regions.MAX_SIDE}"
    return hashlib.sha256(data).hexdigest(), height, width
