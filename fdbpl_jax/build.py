"""Building a region lookup: the teacher's labels of many regions per picture, made once. Docs: docs/formats.md.

Every file is complete or absent; a killed build goes on where it stopped and ends in the same bytes. Shard s belongs to
job s mod n, without any talk between jobs; whoever finds all shards present writes the manifest.
"""

import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from core_jax.data import files, records
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, label, layout, regions, towers
from fdbpl_jax.meter import Meter

Path = pathlib.Path
# Features are random bytes to a compressor, and dense reading of them is the point of storing them.
_OPTIONS = {"labels": "group_size:1", "features": "group_size:1,uncompressed"}
_SIDECAR = re.compile(r"-\d{5}-of-\d{5}\.json$")
_PACKAGES = ("array_record", "jax", "numpy", "pillow")


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
    rule: regions.CropRule = regions.STORED_RULE
    shard_size: int = 256
    batch_size: int = 256
    threads: int | None = None


def build_from_config(
    config: Mapping[str, Any],
    *,
    features: bool | str | None = None,
    shards: tuple[int, int] | None = None,
    progress: bool = True,
) -> Path:
    """Builds, or finishes, the lookup that a run's configuration names.

    Args:
      config: a ConfigDict or nested mapping as `fdbpl_jax.config.read` takes it; `lookup.dir` is the folder.
      features: also store features: of the config's student (True), of another model (its name), or not (False).
        None stores the config's student's unless data.source is "images".
      shards: (i, n) makes this the i-th of n independent jobs; None splits over `jax.process_count()`.
      progress: regions per second and time left, on standard error.

    Returns:
      The lookup's folder; complete unless other jobs are still at work.

    Raises:
      ValueError: bad configuration, data set, pictures, model or folder, each with its own message; nothing is written.
    """
    settings = configs.read(config)
    if not settings.lookup.dir:
        raise configs.ConfigError("config.lookup.dir is empty: name the folder to build into")
    data, chosen = settings.data, settings.lookup
    full = datasets.read(data.dataset, data.root, template=data.template or None)
    seeds = chosen.seeds or (data.seed,)
    picked = datasets.half(datasets.union(full, data.shots, seeds), data.split)
    lists = {
        str(seed): datasets.list_digest(
            datasets.half(datasets.few_shot(full, data.shots, seed), data.split).train
        )
        for seed in seeds
    }
    top_k = choose_top_k(len(picked.classes), chosen.top_k, chosen.dense)
    teacher = towers.teacher(
        towers.load(settings.teacher),
        settings.teacher,
        picked.classes,
        picked.template,
        dtype=settings.dtype,
    )
    if features is None:
        features = data.source != "images"
    name = settings.student if features is True else features
    student = towers.student(towers.load(name), name, dtype=settings.dtype) if name else None
    return build(
        chosen.dir,
        picked,
        teacher,
        student,
        Settings(
            regions=chosen.regions,
            top_k=top_k,
            seed=chosen.seed,
            rule=regions.CropRule(scale=tuple(chosen.scale)),
            shard_size=chosen.shard_size,
            batch_size=chosen.batch_size,
        ),
        origin={
            "split": data.split,
            "shots": data.shots,
            "seeds": list(seeds),
            "dataset_digest": full.digest,
            "few_shot_digests": lists,
        },
        shards=shards,
        progress=progress,
    )


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


def build(
    folder: str | Path,
    dataset: datasets.Dataset,
    teacher: towers.Teacher,
    student: towers.Student | None = None,
    settings: Settings = Settings(),
    *,
    origin: Mapping[str, Any] | None = None,
    shards: tuple[int, int] | None = None,
    progress: bool = False,
) -> Path:
    """Labels every training picture of a data set; what is already there and valid is kept.

    Args:
      folder: of the lookup; made if absent.
      dataset: `train` are the pictures, `classes` and `template` the teacher's label space.
      teacher: gives the logits.
      student: also store this model's features; they can be added to a finished lookup.
      settings: R, k, boxes, sizes.
      origin: further facts for the plan, such as few-shot digests; part of what must not change.
      shards: (i, n), this is job i of n; None takes JAX's process index and count.
      progress: on standard error.

    Raises:
      label.PictureErrors: unreadable pictures; nothing was written.
      PlanMismatch: the folder was begun with other inputs.
      files.DiskFullError: no space; complete shards are kept.
    """
    folder = Path(folder)
    job, jobs = shards or (jax.process_index(), jax.process_count())
    _check(dataset, settings, job, jobs)
    rows = label.scan(dataset.root, dataset.train, threads=settings.threads)
    images = layout.dump_images(rows)
    plan = make_plan(dataset, teacher, settings, images, origin or {})
    plans = {layout.PLAN: plan}
    if student is not None:
        plans[layout.features_plan(layout.slug(student.name))] = _student_plan(student)
    for name, wanted in plans.items():
        _compare_plan(folder, name, wanted)
    for name, wanted in plans.items():
        if not (folder / name).is_file():
            files.atomic_write(folder / name, layout.dump(wanted))
    if (
        not (folder / layout.IMAGES).is_file()
        or files.sha256_file(folder / layout.IMAGES) != plan["images"]["sha256"]
    ):
        files.atomic_write(folder / layout.IMAGES, images)
    files.remove_leftovers(folder)
    labeller = label.Labeller(
        root=dataset.root,
        images=rows,
        regions=settings.regions,
        seed=settings.seed,
        rule=settings.rule,
        top_k=settings.top_k,
        batch_size=settings.batch_size,
        threads=settings.threads,
    )
    _write_missing(folder, labeller, settings, teacher, student, (job, jobs), progress)
    finish(folder)
    return folder


def make_plan(
    dataset: datasets.Dataset,
    teacher: towers.Teacher,
    settings: Settings,
    images: str,
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
        "images": {"count": count, "sha256": files.digest_text(images)},
        "classes": list(dataset.classes),
        "template": dataset.template,
        "teacher": {
            key: getattr(teacher, key)
            for key in ("name", "digest", "dtype", "logit_scale", "image_size", "mean", "std")
        },
        "crop": {
            "scale": settings.rule.scale,
            "ratio": settings.rule.ratio,
            "attempts": regions.ATTEMPTS,
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


def _student_plan(student: towers.Student) -> dict[str, Any]:
    keys = ("name", "digest", "dtype", "image_size", "mean", "std", "width")
    return json.loads(files.canonical_json({key: getattr(student, key) for key in keys}))


def _check(dataset: datasets.Dataset, settings: Settings, job: int, jobs: int) -> None:
    problems = []
    if not dataset.train:
        problems.append("the list of pictures is empty")
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


def _compare_plan(folder: Path, name: str, wanted: Mapping[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        kind = "labels" if name == layout.PLAN else name.removesuffix(".json")
        if any(folder.glob(f"{kind}-*.arrayrecord")):
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


def _is_done(folder: Path, name: str, rows: range) -> bool:
    shard = records.read_sidecar(folder / name)
    return (
        shard is not None
        and (shard.name, shard.first_row, shard.count) == (name, rows.start, len(rows))
        and not records.problems(folder, shard, digest=True)
    )


def _write_missing(
    folder: Path,
    labeller: label.Labeller,
    settings: Settings,
    teacher: towers.Teacher,
    student: towers.Student | None,
    share: tuple[int, int],
    progress: bool,
) -> None:
    ranges = layout.shard_rows(len(labeller.images), settings.shard_size)
    kinds = ["labels"]
    if student is not None:
        kinds.append(layout.features_kind(layout.slug(student.name)))
    missing = []
    for index, rows in list(enumerate(ranges))[share[0] :: share[1]]:
        names = [records.shard_name(kind, index, len(ranges)) for kind in kinds]
        todo = [name for name in names if not _is_done(folder, name, rows)]
        if todo:
            missing.append((rows, todo))
    total = sum(len(rows) for rows, _ in missing) * labeller.regions
    with progress.Progress(total, "regions", "lookup", show=show_progress) as bar:
        for rows, todo in missing:
            start = time.perf_counter()
            labels = todo[0].startswith("labels-")
            features = todo[-1].startswith("features-")
            found = labeller(
                rows,
                teacher if labels else None,
                student if features else None,
                tick=meter.advance,
            )
            for name in todo:
                kind = "labels" if name.startswith("labels-") else "features"
                encode = layout.encode_labels if kind == "labels" else layout.encode_features
                payloads = encode(rows, [labeller.images[row] for row in rows], found)
                records.write_shard(
                    folder / name, payloads, first_row=rows.start, options=_OPTIONS[kind]
                )
            _log_time(folder, todo, len(rows) * labeller.regions, time.perf_counter() - start)


def _log_time(folder: Path, names: Sequence[str], count: int, seconds: float) -> None:
    # A log beside the lookup, no part of it: an interrupted build must end in the same manifest.
    line = files.canonical_json({"shards": names, "regions": count, "seconds": round(seconds, 3)})
    with open(folder / layout.TIMING, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def finish(folder: str | Path) -> bool:
    """Writes manifest.json if every label shard is present; features join it once all of theirs are.

    Returns:
      Whether the lookup is complete.
    """
    folder = Path(folder)
    plan = json.loads((folder / layout.PLAN).read_text(encoding="utf-8"))
    ranges = layout.shard_rows(plan["images"]["count"], plan["shard_size"])
    labels = _present(folder, "labels", ranges)
    if labels is None:
        return False
    students = {}
    for path in sorted(folder.glob("features-*.json")):
        if _SIDECAR.search(path.name):
            continue
        kind = path.name.removesuffix(".json")
        shards = _present(folder, kind, ranges)
        if shards is not None:
            student = json.loads(path.read_text(encoding="utf-8"))
            students[kind.removeprefix("features-")] = student | {"shards": shards}
    manifest = plan | {
        "shards": labels,
        "students": students,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "complete": True,
    }
    text, path = layout.dump(manifest), folder / layout.MANIFEST
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.atomic_write(path, text)
    files.remove_leftovers(folder)
    return True


def _present(folder: Path, kind: str, ranges: Sequence[range]) -> list[dict[str, Any]] | None:
    found = []
    for path, rows in zip(layout.shard_paths(folder, kind, len(ranges)), ranges):
        shard = records.read_sidecar(path)
        if shard is None or (shard.first_row, shard.count) != (rows.start, len(rows)):
            return None
        if records.problems(folder, shard, digest=False):
            return None
        found.append(dataclasses.asdict(shard))
    return found
