"""Everything that is wrong with a data set on disk, found in one go."""

import dataclasses
import functools
import os
import pathlib
from concurrent import futures

import tqdm

from core_jax.data import images
from gba_jax.datasets import registry
from gba_jax.datasets.common import Dataset, DatasetError

Path = pathlib.Path
_MOST = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a data set looks like: problems in words, and its sizes where the lists could be read."""

    name: str
    problems: tuple[str, ...]
    sizes: str = ""


def check(
    name: str,
    root: str | os.PathLike,
    *,
    split: str | None = None,
    classes: str | os.PathLike | None = None,
    threads: int = 8,
    progress: bool = False,
) -> Found:
    """Folders, lists, pairs and class names of every split that is there, and every picture with its labels, decoded.

    Args:
      name: one of `registry.NAMES`.
      root: the folder that holds what the layout names.
      split: the only one to look at; every one that is there unless given.
      classes: see `registry.read`.
      threads: that decode.
      progress: whether to show a bar, in a terminal, while pictures are decoded.
    """
    if name not in registry.LAYOUTS:
        return Found(name=name, problems=tuple(registry.load(name, root, "")[1]))
    layout, root = registry.LAYOUTS[name], Path(root)
    splits = layout.present(root)
    if not splits:
        wanted = [place for places in layout.splits.values() for place in places]
        looked = f"; looked for {', '.join(wanted)}" if wanted else ""
        return Found(name=name, problems=(f"no split of it is there{looked}",))
    if split is not None and split not in splits:
        return Found(
            name=name, problems=(f"there is no split {split!r}, only {', '.join(splits)}",)
        )
    problems, sizes, count = [], [], 0
    for part in splits if split is None else [split]:
        dataset, found = registry.load(name, root, part, classes=classes)
        problems += found
        if dataset is None:
            continue
        count = len(dataset.classes)
        sizes.append(f"{len(dataset):,} {part}")
        # Without the class list every label would be reported as unknown.
        if count:
            with futures.ThreadPoolExecutor(threads) as pool:
                looked = pool.map(functools.partial(_problem, dataset), range(len(dataset)))
                bar = tqdm.tqdm(
                    looked,
                    desc=f"{name} {part}",
                    total=len(dataset),
                    unit=" pictures",
                    leave=False,
                    disable=None if progress else True,
                )
                bad = [problem for problem in bar if problem]
            # One wrong class list spoils every file: its first messages say all there is to say.
            problems += bad[:_MOST]
            if len(bad) > _MOST:
                problems.append(f"{len(bad) - _MOST} more pictures of {part} have such problems")
    return Found(
        name=name,
        problems=tuple(dict.fromkeys(problems)),
        sizes=f"{count} classes; {', '.join(sizes)}",
    )


def report(found: Found, root: str | os.PathLike) -> str:
    """One line when all is well, otherwise every problem and what to fetch."""
    if found.problems:
        return registry.describe(found.name, root, found.problems)
    return f"data set {found.name!r} below {root}: complete ({found.sizes})"


def _problem(dataset: Dataset, index: int) -> str | None:
    item = dataset.items[index]
    paths = (item.image, item.labels, item.segments and item.segments.path)
    if any(path is not None and not path.is_file() for path in paths):
        return None  # listed with the missing files
    try:
        dataset[index]
    except (DatasetError, images.ImageError) as error:
        return str(error)
    return None
