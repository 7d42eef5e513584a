"""Whether a region lookup fits a training run: every reason why it does not, in words."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

from core_jax.data import files
from fdbpl_jax import layout
from fdbpl_jax.datasets import Item

Path = pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What a training run assumes of its lookup. A field that is None is not compared.

    Attributes:
      items: the run's training pictures; labels relative to `classes`.
      root: the picture folder; the files are then hashed and compared. None: they need not be there.
      classes: class names in label order.
      template: the sentence around them.
      teacher: the teacher's name in the config; compared only where no digest is given.
      teacher_digest: `clip.weights_digest` of the teacher.
      logit_scale: exp of the teacher's log logit scale.
      scale: bounds of the region area.
      regions_per_visit: K, regions drawn from an image at a time.
      source: "features" demands stored features of the student, "auto" uses them if there are any, "images" does not.
      student_digest: `clip.weights_digest` of the student whose features are wanted.
    """

    items: Sequence[Item]
    root: Path | None = None
    classes: Sequence[str]
    template: str
    teacher: str | None = None
    teacher_digest: str | None = None
    logit_scale: float | None = None
    scale: tuple[float, float] | None = None
    regions_per_visit: int
    source: str = "auto"
    student_digest: str | None = None


def find_student(manifest: Mapping[str, Any], expected: Expected) -> tuple[str | None, list[str]]:
    """The slug of the stored features that the run shall use, or None; and what stands against them."""
    if expected.source == "images":
        return None, []
    students = manifest["students"]
    for name, entry in students.items():
        if expected.student_digest is not None and entry["digest"] == expected.student_digest:
            return name, []
    if expected.source == "auto":
        return None, []
    stored = ", ".join(f"{name} ({s['digest'][:12]}...)" for name, s in students.items()) or "none"
    wanted = (expected.student_digest or "unknown")[:12]
    return None, [
        f"no features of this run's student ({wanted}...) are stored; stored are: {stored}. Run "
        "`build --features=STUDENT`, or set data.source=images"
    ]


def mismatches(
    manifest: Mapping[str, Any], images: Sequence[layout.ImageRow], expected: Expected
) -> list[str]:
    """Where the inputs of a lookup differ from the run's: classes, template, teacher, crops, K, pictures."""
    teacher, regions, per_visit = (
        manifest["teacher"],
        manifest["regions"],
        expected.regions_per_visit,
    )
    reasons = _class_reasons(manifest["classes"], list(expected.classes))
    pairs = [
        ("template", manifest["template"], expected.template),
        ("teacher digest", teacher["digest"], expected.teacher_digest),
        ("logit scale", teacher["logit_scale"], expected.logit_scale),
        ("region scale", manifest["crop"]["scale"], expected.scale and list(expected.scale)),
    ]
    if expected.teacher_digest is None:
        pairs.append(("teacher", teacher["name"], expected.teacher))
    for name, theirs, ours in pairs:
        if ours is None or theirs == ours:
            continue
        # The scale is read from a float32 logarithm: its last digits depend on the library that took the exponential.
        if name == "logit scale" and math.isclose(theirs, ours, rel_tol=1e-5):
            continue
        reasons.append(f"{name}: the lookup was built with {theirs!r}, this run has {ours!r}")
    if per_visit > regions:
        reasons.append(f"regions_per_visit={per_visit} exceeds the {regions} stored regions")
    elif per_visit < 1 or regions % per_visit:
        reasons.append(f"{regions} stored regions are no multiple of regions_per_visit={per_visit}")
    return reasons + _image_reasons(images, expected)


def _class_reasons(theirs: list[str], ours: list[str]) -> list[str]:
    if theirs == ours:
        return []
    if len(theirs) != len(ours):
        return [f"class names: the lookup has {len(theirs)} classes, this run has {len(ours)}"]
    if sorted(theirs) == sorted(ours):
        what = "class order"
    else:
        what = "class names"
    first = next(i for i, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1])
    return [
        f"{what}: class {first} is {theirs[first]!r} in the lookup and {ours[first]!r} in this run"
    ]


def absent_pictures(paths: Sequence[str]) -> str:
    """The reason given for training pictures without labels."""
    return (
        f"{len(paths)} training pictures have no labels in it, for example {', '.join(paths[:3])}"
    )


def _image_reasons(images: Sequence[layout.ImageRow], expected: Expected) -> list[str]:
    if not images:
        return []
    wanted = {item.path for item in expected.items}
    rows = {image.path: image for image in images if image.path in wanted}
    reasons = []
    absent = [item.path for item in expected.items if item.path not in rows]
    if absent:
        reasons.append(absent_pictures(absent))
    known = [item for item in expected.items if item.path in rows]
    moved = [item.path for item in known if rows[item.path].label != item.label]
    if moved:
        reasons.append(
            f"{len(moved)} training pictures carry another label, for example {moved[0]}"
        )
    if expected.root is not None:
        root = Path(expected.root)
        with futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda item: _file_digest(root / item.path), known))
        gone = [item.path for item, digest in zip(known, found) if digest is None]
        changed = [
            item.path
            for item, digest in zip(known, found)
            if digest is not None and digest != rows[item.path].sha256
        ]
        if gone:
            reasons.append(
                f"{len(gone)} training pictures are not below {root}, for example {gone[0]}"
            )
        if changed:
            reasons.append(
                f"{len(changed)} training pictures have changed since, for example {changed[0]}"
            )
    return reasons


def _file_digest(path: Path) -> str | None:
    try:
        return files.sha256_file(path)
    except OSError:
        return None
