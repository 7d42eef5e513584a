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
from fdbpl_jax import plan as plans
from fdbpl_jax.meter import Meter

Path = pathlib.Path
# Features are random bytes to a compressor, and dense reading of them is the point of storing them.
_OPTIONS = {"labels": "group_size:1", "features": "group_size:1,uncompressed"}
_SIDECAR = re.compile(r"-\d{5}-of-\d{5}\.json$")
_PACKAGES = ("array_record", "jax", "numpy", "pillow")


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
    top_k = plans.choose_top_k(len(picked.classes), chosen.top_k, chosen.dense)
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
        plans.Settings(
            regions=chosen.regions,
            top_k=top_k,
            seed=chosen.seed,
            rule=regions.CropRule(scale=chosen.scale),
            shard_size=chosen.shard_size,
            batch_size=chosen.batch_size,
        ),
        student=student,
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


def build(
    folder: str | Path,
    dataset: datasets.Dataset,
    teacher: towers.Teacher,
    settings: plans.Settings,
    *,
    student: towers.Student | None = None,
    origin: Mapping[str, Any] | None = None,
    shards: tuple[int, int] | None = None,
    progress: bool = False,
) -> Path:
    """Labels every training picture of a data set; what is already there and valid is kept.

    Args:
      folder: of the lookup; made if absent.
      dataset: `train` are the pictures, `classes` and `template` the teacher's label space.
      teacher: gives the logits.
      settings: R, k, boxes, sizes.
      student: also store this model's features; they can be added to a finished lookup.
      origin: further facts for the plan, such as few-shot digests; part of what must not change.
      shards: (i, n), this is job i of n; None takes JAX's process index and count.
      progress: on standard error.

    Raises:
      label.PictureErrors: unreadable pictures; nothing was written.
      plan.PlanMismatch: the folder was begun with other inputs.
      files.DiskFullError: no space; complete shards are kept.
    """
    folder = Path(folder)
    job, jobs = shards or (jax.process_index(), jax.process_count())
    plans.check(dataset, settings, job, jobs)
    rows = label.scan(dataset.root, dataset.train, threads=settings.threads)
    images = layout.dump_images(rows)
    plan = plans.make_plan(dataset, teacher, settings, images, origin or {})
    wanted = {layout.PLAN: plan}
    if student is not None:
        wanted[layout.features_plan(layout.slug(student.name))] = plans.student_plan(student)
    for name, value in wanted.items():
        plans.compare(folder, name, value)
    for name, value in wanted.items():
        if not (folder / name).is_file():
            files.atomic_write(folder / name, layout.dump(value))
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
    settings: plans.Settings,
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
    with Meter(total, "regions", "lookup", show=progress) as meter:
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
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"platform": jax.default_backend()},
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
