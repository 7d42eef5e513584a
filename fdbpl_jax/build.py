"""Building a region lookup: the teacher's labels of many regions per picture, made once. Docs: docs/formats.md.

Every file is complete or absent; a killed build goes on where it stopped and ends in the same bytes. The processes of a
JAX job share the work: each looks at its part of the pictures, process 0 writes the plan and the list, the shards that
are missing are dealt out, process 0 writes the manifest, and each ends with its digest. Independent jobs (`shards=(i, n)`)
do not talk: shard s belongs to job s mod n, and whoever finds all shards present writes the manifest. Nothing grows with
the number of pictures but eight bytes for each, while twins are looked for. A second lookup, of the same regions in
another label space, costs one more matmul on the teacher's image features.
"""

import dataclasses
import json
import pathlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from core_jax.data import files, records
from fdbpl_jax import config as configs
from fdbpl_jax import crew as crews
from fdbpl_jax import datasets, grow, label, layout, towers
from fdbpl_jax import plan as plans
from fdbpl_jax.begin import begin, scan_folder
from fdbpl_jax.meter import Meter
from fdbpl_jax.target import Part, Target, check_alike, from_config

Path = pathlib.Path
_SIDECAR = re.compile(r"-\d{5,}-of-\d{5,}\.json$")
_PACKAGES = ("array_record", "jax", "numpy", "pillow")


def build_from_config(
    config: Mapping[str, Any],
    *,
    features: bool | str | None = None,
    shards: tuple[int, int] | None = None,
    also: str | Path | None = None,
    also_split: str | None = None,
    also_template: str | None = None,
    progress: bool = True,
) -> Path:
    """Builds, or finishes, the lookup that a run's configuration names.

    Args:
      config: a ConfigDict or nested mapping as `fdbpl_jax.config.read` takes it; `lookup.dir` is the folder.
      features: also store features: of the config's student (True), of another model (its name), or not (False).
        None stores the config's student's unless data.source is "images".
      shards: (i, n) makes this the i-th of n independent jobs; None shares the work with all processes of JAX's job,
        each of which has to call this with the same arguments and see the same folders.
      also: folder of a second lookup: the same pictures in another label space, without features, in the same pass.
      also_split: its classes, "base", "new" or "all"; None takes data.split's.
      also_template: its sentence around a class name; None takes the config's.
      progress: regions per second and time left, on standard error.

    Returns:
      The lookup's folder; complete unless other jobs are still at work.

    Raises:
      ValueError: bad configuration, data set, pictures, model or folder, each with its own message; nothing is written.
    """
    targets = from_config(
        configs.read(config),
        features=features,
        also=also,
        also_split=also_split,
        also_template=also_template,
    )
    build_all(targets, shards=shards, progress=progress)
    return targets[0].folder


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
    """`build_all` of one lookup; returns its folder. Arguments as in `Target` and there."""
    target = Target(
        folder=Path(folder),
        dataset=dataset,
        teacher=teacher,
        settings=settings,
        student=student,
        origin=origin or {},
    )
    build_all([target], shards=shards, progress=progress)
    return target.folder


def build_all(
    targets: Sequence[Target], *, shards: tuple[int, int] | None = None, progress: bool = False
) -> None:
    """Labels every training picture; what is already there and valid is kept.

    Args:
      targets: lookups of the same regions of the same pictures in different label spaces. They are written in one pass,
        each byte for byte as in a build of its own; teachers that share their `features` run once.
      shards: (i, n), this is job i of n that do not talk; None: one of the processes of JAX's job.
      progress: on standard error.

    Raises:
      ValueError: sizes that cannot work, or targets that differ in more than their label space and k.
      label.PictureErrors: unreadable pictures; no lookup was begun.
      plan.PlanMismatch: a folder was begun with other inputs; nothing was written.
      files.DiskFullError: no space; complete shards are kept.
      crew.CrewError: another process of the job failed, has other inputs, or does not see the same folders.
    """
    crew = crews.Crew(0, 1) if shards else crews.Crew.of_job()
    share = shards or (crew.process, crew.processes)
    check_alike(targets)
    for target in targets:
        named = target.origin.get("label_space") != "dictionary"
        plans.check(target.dataset, target.settings, *share, named=named)
    images = begin(targets, share=share, crew=crew, progress=progress)
    first, settings = targets[0], targets[0].settings
    parts = [part for target in targets for part in target.parts()]
    labeller = label.Labeller(
        root=first.dataset.root,
        images=images,
        regions=settings.regions,
        seed=settings.seed,
        rule=settings.rule,
        batch_size=settings.batch_size,
        threads=settings.threads,
    )
    labeller = grow.remember(labeller, parts)
    _write_missing(parts, labeller, settings.shard_size, share, crew, progress)
    _finish_all(targets, parts, crew)


def _is_done(path: Path, rows: range) -> bool:
    shard = records.read_sidecar(path)
    return (
        shard is not None
        and (shard.name, shard.first_row, shard.count) == (path.name, rows.start, len(rows))
        and not records.problems(path.parent, shard, digest=True)
    )


def _write_missing(
    parts: Sequence[Part],
    labeller: label.Labeller,
    shard_size: int,
    share: tuple[int, int],
    crew: crews.Crew,
    progress: bool,
) -> None:
    ranges = layout.shard_rows(len(labeller.images), shard_size)

    def shard(part: Part, index: int) -> Path:
        return part.folder / records.shard_name(part.kind, index, len(ranges))

    def lost() -> list[tuple[int, list[int]]]:
        """Shards of this process' share that are not whole: their number, and which of the parts lack them."""
        found = []
        for index in range(share[0], len(ranges), share[1]):
            todo = [
                number
                for number, part in enumerate(parts)
                if not _is_done(shard(part, index), ranges[index])
            ]
            if todo:
                found.append((index, todo))
        return found

    # What a process that was lost has left undone is all of one share: dealt out anew, everybody gets some of it.
    dealt = sorted(entry for entries in crew.share(lost) for entry in entries)
    mine = dealt[crew.process :: crew.processes]

    def write() -> None:
        total = sum(len(ranges[index]) for index, _ in mine) * labeller.regions
        with Meter(total, "regions", "lookup", show=progress) as meter:
            for index, todo in mine:
                paths = [(parts[number], shard(parts[number], index)) for number in todo]
                _write_shards(ranges[index], paths, labeller, meter)

    crew.share(write)


def _write_shards(
    rows: range, todo: Sequence[tuple[Part, Path]], labeller: label.Labeller, meter: Meter
) -> None:
    """Labels some rows and writes a shard of each part, to its path."""
    start = time.perf_counter()
    found = labeller(rows, [part.output for part, _ in todo], tick=meter.advance)
    images = labeller.images[rows.start : rows.stop]
    for (part, path), arrays in zip(todo, found):
        payloads = part.encode(rows, images, arrays)
        records.write_shard(path, payloads, first_row=rows.start, options=part.options)
    seconds = time.perf_counter() - start
    for folder in dict.fromkeys(path.parent for _, path in todo):
        names = [path.name for _, path in todo if path.parent == folder]
        _log_time(folder, names, len(rows) * labeller.regions, seconds)


def _log_time(folder: Path, names: Sequence[str], count: int, seconds: float) -> None:
    # A log beside the lookup, no part of it: an interrupted build must end in the same manifest.
    line = files.canonical_json({"shards": names, "regions": count, "seconds": round(seconds, 3)})
    with open(folder / layout.TIMING, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _finish_all(targets: Sequence[Target], parts: Sequence[Part], crew: crews.Crew) -> None:
    def write() -> list[str | None]:
        if crew.processes > 1:
            _await_shards(targets)
        done = [finish(target.folder) for target in targets]
        if all(done):
            shutil.rmtree(scan_folder(targets[0]), ignore_errors=True)
            grow.forget(parts)
        paths = [target.folder / layout.MANIFEST for target in targets]
        return [files.sha256_file(path) if ok else None for path, ok in zip(paths, done)]

    digests = crew.share(lambda: write() if crew.leads else None)[0]
    if crew.processes > 1:

        def see() -> None:
            for target, digest in zip(targets, digests):
                crews.await_digest(target.folder / layout.MANIFEST, digest)

        crew.share(see)


def _await_shards(targets: Sequence[Target]) -> None:
    for target in targets:
        ranges = layout.shard_rows(len(target.dataset.train), target.settings.shard_size)
        for part in target.parts():
            crews.wait(
                lambda part=part, ranges=ranges: (
                    _present(part.folder, part.kind, ranges) is not None
                ),
                crews.unseen(part.folder / f"{part.kind}-*.arrayrecord"),
            )


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
