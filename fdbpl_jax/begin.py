"""The head of a region lookup, written before the first shard: plan.json, the students' plans, images.jsonl."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core_jax.data import files
from fdbpl_jax import crew as crews
from fdbpl_jax import datasets, layout, scan
from fdbpl_jax import plan as plans
from fdbpl_jax.target import Target

Path = pathlib.Path


def begin(
    targets: Sequence[Target],
    *,
    share: tuple[int, int],
    crew: crews.Crew,
    progress: bool = False,
) -> Sequence[layout.ImageRow]:
    """Looks at every picture and writes the head of each lookup; what is there already is kept, and not looked at again.

    Args:
      targets: as in `build.build_all`.
      share: (i, n): this process' part of the pictures.
      crew: who builds together; each process calls this function.
      progress: on standard error.

    Returns:
      The rows of the first lookup, as its images.jsonl has them.

    Raises:
      ValueError: see `build.build_all`.
    """
    first = targets[0]
    items = first.dataset.train
    _check_same(targets, crew)
    parts = scan.Scan(
        folder=scan_folder(first),
        root=first.dataset.root,
        items=items,
        threads=first.settings.threads,
    )
    known = None

    def look() -> bool:
        nonlocal known
        known = _known(targets) if crew.leads else None
        return known is not None

    if not crew.share(look)[0]:
        scan.scan(parts, share=share, crew=crew, progress=progress)

    def write() -> str:
        if known is None:
            for rows in parts.ranges:
                crews.wait(parts.path(rows).is_file, crews.unseen(parts.path(rows)))
        rows = parts if known is None else known
        wanted = [target.plans(_digest(target.rows(rows))) for target in targets]
        for target, files_of in zip(targets, wanted):
            for name, value in files_of.items():
                plans.compare(target.folder, name, value)
        for target, files_of in zip(targets, wanted):
            _write_head(target, rows, files_of)
        return wanted[0][layout.PLAN]["images"]["sha256"]

    digest = crew.share(lambda: write() if crew.leads else None)[0]
    path = first.folder / layout.IMAGES
    crew.share(lambda: crews.await_digest(path, digest))
    return layout.load_images(path)


def scan_folder(target: Target) -> Path:
    """Where the scan of a lookup's pictures is kept until the lookup is complete."""
    folder = target.folder.resolve()
    return folder.with_name(folder.name + ".scan")


def _check_same(targets: Sequence[Target], crew: crews.Crew) -> None:
    """Refuses processes that were started with other inputs."""
    if crew.processes == 1:
        return

    def inputs() -> str:
        lists = [datasets.list_digest(target.dataset.train) for target in targets]
        return files.digest([[target.plans("") for target in targets], lists])

    found = crew.share(inputs)
    other = [str(number) for number, digest in enumerate(found) if digest != found[0]]
    if other:
        raise crews.CrewError(
            f"process {', '.join(other)} of {crew.processes} would build another lookup than process 0: start all with "
            "the same command, models and pictures"
        )


def _known(targets: Sequence[Target]) -> Sequence[layout.ImageRow] | None:
    """The rows of a build that was begun before, if one of the folders has them.

    Raises:
      plan.PlanMismatch: a folder holds the rows of other pictures.
    """
    found = None
    for target in targets:
        path = target.folder / layout.IMAGES
        plan = target.folder / layout.PLAN
        if not (path.is_file() and plan.is_file()):
            continue
        try:
            whole = json.loads(plan.read_text(encoding="utf-8"))["images"]["sha256"]
        except (ValueError, KeyError, TypeError):
            continue
        if files.sha256_file(path) != whole:
            continue
        rows = layout.load_images(path)
        if datasets.same_paths(rows, target.dataset.train):
            found = rows
        else:
            # Told before hours are spent on looking at the pictures.
            for name, value in target.plans("of another list of pictures").items():
                plans.compare(target.folder, name, value)
    return found


def _digest(rows: Iterable[layout.ImageRow]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(layout.dump_image(row).encode())
    return found.hexdigest()


def _write_head(
    target: Target, rows: Iterable[layout.ImageRow], wanted: Mapping[str, dict[str, Any]]
) -> None:
    folder = target.folder
    for name, value in wanted.items():
        if not (folder / name).is_file():
            files.atomic_write(folder / name, layout.dump(value))
        # Another job may have begun it with other inputs at this moment.
        plans.compare(folder, name, value)
    path = folder / layout.IMAGES
    if not path.is_file() or files.sha256_file(path) != wanted[layout.PLAN]["images"]["sha256"]:
        with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
            for row in target.rows(rows):
                file.write(layout.dump_image(row).encode())
    files.remove_leftovers(folder)
