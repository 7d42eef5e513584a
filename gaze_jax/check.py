"""Everything that is wrong with a gaze data set, found in one go: `check.json`, `check.png`, and a text for people.

Looked at: what the reader could not read, every picture, labels that are no angles in radians, rotations and scales of the
normalisation, pictures that occur twice, and whether labels and pixels agree (`self_test`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import tqdm
from jaxtyping import UInt8

from core_jax.data import files, images, records
from gaze_jax import readers, samples_picture, self_test
from gaze_jax.gaze_set import GazeSet

Path = pathlib.Path
JSON, PNG = "check.json", "check.png"
_CHUNK = 128
_MOST = 20
_SHOWN = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a data set looks like.

    Attributes:
      name: of the set.
      problems: in words; empty when all is well.
      notes: what could not be tested.
      samples: how many the set has.
      persons: name -> samples.
      parts: official part -> samples; empty without parts.
      ranges_deg: "gaze_pitch", "gaze_yaw", "head_pitch", "head_yaw" -> (smallest, largest), degrees.
      test: correlations of the self-test.
      digest: of the set.
    """

    name: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    samples: int = 0
    persons: dict[str, int] = dataclasses.field(default_factory=dict)
    parts: dict[str, int] = dataclasses.field(default_factory=dict)
    ranges_deg: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    test: self_test.SelfTest = dataclasses.field(default_factory=self_test.SelfTest)
    digest: str = ""

    def text(self) -> str:
        """The report for people: counts, ranges, verdict, and every problem."""
        lines = [f"data set {self.name!r}: {self.samples:,} samples of {len(self.persons)} persons"]
        if self.persons:
            counts = list(self.persons.values())
            lines.append(f"  samples a person: {min(counts):,} to {max(counts):,}")
        if self.parts:
            lines.append("  parts: " + ", ".join(f"{n:,} {name}" for name, n in self.parts.items()))
        for name, (low, high) in self.ranges_deg.items():
            lines.append(f"  {name.replace('_', ' ')}: {low:.1f} to {high:.1f} deg")
        if self.test.persons:
            lines.append(
                f"  pupils against labels, {self.test.persons} persons: yaw in x {self.test.yaw_x:+.2f}, pitch in y "
                f"{self.test.pitch_y:+.2f}; crossed {self.test.pitch_x:+.2f}, {self.test.yaw_y:+.2f}"
            )
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  PROBLEM: {problem}" for problem in self.problems]
        return "\n".join([*lines, "  complete" if not self.problems else ""]).rstrip()


def check(
    name: str,
    root: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> Report:
    """Reads a data set and checks it.

    Args:
      name: one of `readers.NAMES`.
      root: its folder.
      out: gets `check.json` and, where there is a sample, `check.png`; nothing is written without it.
      progress: whether to show a bar, in a terminal.
      options: of the reader.

    Raises:
      ReaderError: no such data set or option.
    """
    gaze_set, problems = readers.load(name, root, **options)
    if gaze_set is None:
        report, shown = Report(name=name, problems=tuple(problems)), None
    else:
        report, shown = check_set(gaze_set, problems, progress=progress)
    if out is not None:
        text = json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False) + "\n"
        files.atomic_write(Path(out) / JSON, text)
        if gaze_set is not None and shown is not None:
            samples_picture.write(Path(out) / PNG, gaze_set, *shown)
    return report


def check_set(
    gaze_set: GazeSet, problems: list[str] | tuple[str, ...] = (), *, progress: bool = False
) -> tuple[Report, tuple[np.ndarray, np.ndarray] | None]:
    """Checks a set that has been read.

    Args:
      gaze_set: the set.
      problems: of reading it.
      progress: whether to show a bar, in a terminal.

    Returns:
      (the report, rows and pictures of samples to look at, spread over the set, None if none can be read).
    """
    looked = _Looked(gaze_set)
    starts = range(0, len(gaze_set), _CHUNK)
    bar = tqdm.tqdm(starts, desc=gaze_set.name, leave=False, disable=None if progress else True)
    for start in bar:
        looked.look(np.arange(start, min(start + _CHUNK, len(gaze_set))))
    verdict = self_test.judge(gaze_set, looked.dark)
    found = [*problems, *_few(looked.unreadable, "pictures that cannot be read")]
    found += [*_labels(gaze_set), *_normalisation(gaze_set), *_twice(gaze_set, looked.digests)]
    present, counts = np.unique(gaze_set.person, return_counts=True)
    names, amounts = np.unique(np.array(gaze_set.part, str), return_counts=True)
    report = Report(
        name=gaze_set.name,
        problems=(*found, *verdict.problems),
        notes=(verdict.note,) if verdict.note else (),
        samples=len(gaze_set),
        persons={gaze_set.persons[p]: int(n) for p, n in zip(present, counts, strict=True)},
        parts={str(name): int(n) for name, n in zip(names, amounts, strict=True)},
        ranges_deg=_ranges(gaze_set),
        test=verdict,
        digest=gaze_set.digest,
    )
    return report, looked.shown()


class _Looked:
    """What one pass over all pictures collects."""

    def __init__(self, gaze_set: GazeSet):
        self._set, self._eyes = gaze_set, self_test.Eyes(gaze_set)
        wanted = np.linspace(0, len(gaze_set) - 1, min(_SHOWN, len(gaze_set)))
        self._wanted = set(wanted.round().astype(int).tolist())
        self._shown: dict[int, np.ndarray] = {}
        self.dark = np.full((len(gaze_set), 2), np.nan)
        self.digests: dict[int, str] = {}
        self.unreadable: list[str] = []

    def look(self, rows: np.ndarray) -> None:
        try:
            pictures = self._set.images.take(rows)
        except (images.ImageError, records.RecordError, OSError) as error:
            if len(rows) == 1:
                self.unreadable.append(str(error))
            else:
                # Which ones, a picture at a time.
                for row in rows:
                    self.look(np.array([row]))
            return
        for row, picture in zip(rows.tolist(), pictures, strict=True):
            self._one(row, picture)

    def _one(self, row: int, picture: UInt8[np.ndarray, "H W c"]) -> None:
        data = np.ascontiguousarray(picture).tobytes()
        self.digests[row] = hashlib.sha256(data).hexdigest()
        if self._eyes.known and np.isfinite(self._set.head[row]).all():
            self.dark[row] = self._eyes.dark(row, picture)
        if row in self._wanted:
            self._shown[row] = picture

    def shown(self) -> tuple[np.ndarray, np.ndarray] | None:
        if not self._shown:
            return None
        rows = sorted(self._shown)
        return np.array(rows), np.stack([self._shown[row] for row in rows])


def _few(problems: list[str], what: str) -> list[str]:
    if len(problems) <= _MOST:
        return problems
    return [*problems[:_MOST], f"{len(problems) - _MOST} more {what}"]


def _labels(gaze_set: GazeSet) -> list[str]:
    problems = []
    for name, angles in (("gaze", gaze_set.gaze), ("head", gaze_set.head[gaze_set.has_head])):
        bad = ~np.isfinite(angles).all(axis=1)
        if bad.any():
            problems.append(f"{bad.sum()} labels of the {name} are not finite")
        size = np.abs(angles[~bad])
        beyond = (size > np.pi + 1e-4).any(axis=1)
        steep = (size[:, 0] > np.pi / 2 + 1e-4) & ~beyond
        if beyond.any():
            problems.append(
                f"{beyond.sum()} labels of the {name} are larger than pi, up to {size.max():.1f}: degrees, not radians"
            )
        if steep.any():
            problems.append(
                f"{steep.sum()} pitches of the {name} are beyond 90 degrees, up to {np.rad2deg(size[:, 0].max()):.0f}: "
                "another order or unit"
            )
    return problems


def _normalisation(gaze_set: GazeSet) -> list[str]:
    problems, norm = [], gaze_set.norm.astype(np.float64)
    off = np.abs(norm @ norm.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    bad = ~(off < 1e-3) | ~(np.linalg.det(np.nan_to_num(norm)) > 0)
    if bad.any():
        problems.append(f"{bad.sum()} rotations of the normalisation are no rotations")
    wrong = ~(gaze_set.scale > 0)
    if wrong.any():
        problems.append(f"{wrong.sum()} scales of the normalisation are not positive")
    return problems


def _twice(gaze_set: GazeSet, digests: dict[int, str]) -> list[str]:
    first: dict[str, int] = {}
    same = []
    for row, digest in digests.items():
        if digest in first:
            same.append(f"{gaze_set.source[first[digest]]} = {gaze_set.source[row]}")
        else:
            first[digest] = row
    if not same:
        return []
    shown = ", ".join(same[:3]) + (", ..." if len(same) > 3 else "")
    return [f"{len(same)} pictures occur more than once: {shown}"]


def _ranges(gaze_set: GazeSet) -> dict[str, tuple[float, float]]:
    found = {}
    for name, angles in (("gaze", gaze_set.gaze), ("head", gaze_set.head[gaze_set.has_head])):
        for axis, column in (("pitch", angles[:, 0]), ("yaw", angles[:, 1])):
            finite = np.rad2deg(column[np.isfinite(column)].astype(np.float64))
            if len(finite):
                found[f"{name}_{axis}"] = float(finite.min()), float(finite.max())
    return found
