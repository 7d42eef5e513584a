"""The plan of a region lookup: every input its bytes depend on, written first and repeated by its manifest."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from core_jax.data import files
from fdbpl_jax import datasets, layout, towers
from fdbpl_jax.regions import ATTEMPTS, STORED_RULE, CropRule

Path = pathlib.Path


class PlanMismatch(ValueError):
    """A folder that was begun with other inputs; the message lists every difference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a lookup is made.

    Attributes:
      regions: R per picture.
      top_k: k classes per region, or None for all (dense).
      seed: of the boxes.
      rule: their law.
      shard_size: pictures per file; a kill costs at most one file's teacher passes.
      batch_size: regions per forward pass.
      threads: that decode and crop; None takes one per core.
    """

    regions: int = 100
    top_k: int | None = 10
    seed: int = 0
    rule: CropRule = STORED_RULE
    shard_size: int = 256
    batch_size: int = 256
    threads: int | None = None


def choose_top_k(classes: int, top_k: int, dense: bool | None) -> int | None:
    """k, or None for dense: every class is stored up to 64 of them unless the config decides.

    Raises:
      ValueError: fewer than two classes, more than 65,535, or k too large for them.
    """
    if not 2 <= classes <= layout.MAX_CLASSES:
        raise ValueError(
            f"{classes} classes cannot be labelled: informativeness needs 2, and indices end at {layout.MAX_CLASSES}"
        )
    if dense or (dense is None and classes <= layout.DENSE_CLASSES):
        return None
    if not 1 <= top_k < classes:
        raise ValueError(
            f"config.lookup.top_k={top_k} with {classes} classes: expected 1 to {classes - 1}, or lookup.dense=True"
        )
    return top_k


def make_plan(
    dataset: datasets.Dataset,
    teacher: towers.Teacher,
    settings: Settings,
    images_sha256: str,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Every input of a lookup, as plan.json has them: what a resumed build must repeat and the manifest repeats."""
    count = len(dataset.train)
    record = layout.label_dtype(
        regions=settings.regions, classes=len(dataset.classes), top_k=settings.top_k
    )
    plan = {
        "format": "region-lookup",
        "version": layout.VERSION,
        "dataset": {"name": dataset.name, **origin},
        "images": {"count": count, "sha256": images_sha256},
        "classes": list(dataset.classes),
        "template": dataset.template,
        "teacher": {
            key: getattr(teacher, key)
            for key in ("name", "digest", "dtype", "logit_scale", "image_size", "mean", "std")
        },
        "crop": {
            "scale": settings.rule.scale,
            "ratio": settings.rule.ratio,
            "attempts": ATTEMPTS,
            "resize": "crop, then bicubic with antialiasing (pillow)",
        },
        "regions": settings.regions,
        "top_k": settings.top_k,
        "seed": settings.seed,
        "shard_size": settings.shard_size,
        "record_bytes": record.itemsize,
    }
    # As it comes back from the file: tuples are lists there.
    return json.loads(files.canonical_json(plan)) | {"classes": list(dataset.classes)}


def student_plan(student: towers.Student) -> dict[str, Any]:
    """Every input of a student's stored features."""
    keys = ("name", "digest", "dtype", "image_size", "mean", "std", "width")
    return json.loads(files.canonical_json({key: getattr(student, key) for key in keys}))


def check(
    dataset: datasets.Dataset, settings: Settings, job: int, jobs: int, *, named: bool = True
) -> None:
    """Refuses sizes that cannot work.

    Args:
      dataset: the pictures and the label space.
      settings: of the lookup.
      job: number of this job.
      jobs: how many there are.
      named: the label space is of these pictures; a dictionary may have none of their classes' names.

    Raises:
      ValueError: listing all of them.
    """
    problems = []
    if not dataset.train:
        problems.append("the list of pictures is empty")
    elif named and all(item.label < 0 for item in dataset.train):
        problems.append("no picture belongs to a class of the label space")
    if not 0 <= job < jobs:
        problems.append(f"--shards={job}/{jobs}: expected 0 <= i < n")
    for name in ("regions", "shard_size", "batch_size"):
        if getattr(settings, name) < 1:
            problems.append(f"{name}={getattr(settings, name)}: expected at least 1")
    devices = jax.local_device_count()
    if settings.batch_size % devices:
        problems.append(f"batch_size={settings.batch_size}: no multiple of the {devices} devices")
    try:
        k = settings.top_k
        choose_top_k(len(dataset.classes), k or 0, k is None)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("the lookup cannot be built: " + "; ".join(problems))


def compare(folder: Path, name: str, wanted: Mapping[str, Any]) -> None:
    """Refuses a folder whose plan of this name differs from the wanted one.

    Raises:
      PlanMismatch: listing every difference.
    """
    path = folder / name
    if not path.is_file():
        kind = "labels" if name == layout.PLAN else name.removesuffix(".json")
        # Of a build or grown, and of no student whose name begins with this one's.
        shard = re.compile(rf"{re.escape(kind)}-(\d{{5,}}-of-\d{{5,}}|[0-9a-f]{{16}})\.arrayrecord")
        if any(shard.fullmatch(path.name) for path in folder.rglob("*.arrayrecord")):
            raise PlanMismatch(
                f"{folder} holds {kind} shards but no {name}, so what they were made from is unknown: delete them, or "
                "build into a new folder"
            )
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlanMismatch(f"{path} is not JSON ({error}): build into a new folder") from error
    differences = layout.differences(wanted, found)
    if differences:
        raise PlanMismatch(
            f"{path} was written for other inputs; build into a new folder, or repeat the old command. "
            f"{len(differences)} difference{'s' if len(differences) != 1 else ''}:\n  - "
            + "\n  - ".join(differences)
        )
