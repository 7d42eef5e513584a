"""`data check`: everything that is wrong with a data set on disk, found in one go."""

import dataclasses
import os
import pathlib
from concurrent import futures

import tqdm

from core_jax.data import images
from fdbpl_jax import datasets

Path = pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a data set looks like: problems in words, and its sizes where the lists could be read."""

    name: str
    problems: tuple[str, ...]
    sizes: str = ""


def check(name: str, root: str | os.PathLike, *, threads: int = 8, progress: bool = False) -> Found:
    """Folders, split file, rows, counts, class names, and every picture, decoded.

    Args:
      name: of the data set, one of `datasets.NAMES`.
      root: the folder that holds the data set's folder.
      threads: that decode.
      progress: whether to show a bar, in a terminal, while pictures are decoded.
    """
    dataset, problems = datasets.load(name, root)
    if dataset is None:
        return Found(name=name, problems=tuple(problems))
    items = {item.path: item for split in datasets.SPLITS for item in getattr(dataset, split)}
    problems += _counts(dataset) + _overlaps(dataset)
    with futures.ThreadPoolExecutor(threads) as pool:
        looked = pool.map(lambda path: _unreadable(dataset.root / path), items)
        bar = tqdm.tqdm(
            looked,
            desc=name,
            total=len(items),
            unit=" pictures",
            leave=False,
            disable=None if progress else True,
        )
        problems += [problem for problem in bar if problem]
    sizes = ", ".join(f"{len(getattr(dataset, split)):,} {split}" for split in datasets.SPLITS)
    return Found(
        name=name,
        problems=tuple(problems),
        sizes=f"{len(dataset.classes)} classes; {sizes}",
    )


def report(found: Found, root: str | os.PathLike) -> str:
    """One line when all is well, otherwise every problem and what to fetch."""
    if found.problems:
        return datasets.describe(found.name, root, found.problems)
    return f"data set {found.name!r} below {root}: complete ({found.sizes})"


def _unreadable(path: Path) -> str | None:
    if not path.is_file():
        return f"the picture {path} is missing"
    try:
        images.decode(path)
    except images.ImageError as error:
        return str(error)
    return None


def _counts(dataset: datasets.Dataset) -> list[str]:
    if dataset.name not in datasets.LAYOUTS:
        return []
    layout = datasets.LAYOUTS[dataset.name]
    pairs = [
        ("classes", layout.classes, len(dataset.classes)),
        ("train pictures", layout.train, len(dataset.train)),
        ("test pictures", layout.test, len(dataset.test)),
    ]
    problems = [
        f"{found} {what}, expected {wanted}"
        for what, wanted, found in pairs
        if wanted not in (None, found)
    ]
    absent = sorted(set(layout.names) - set(dataset.classes))
    if absent:
        problems.append(
            f"class names {', '.join(absent)} are missing: this is not the split file with the renamed classes"
        )
    return problems


def _overlaps(dataset: datasets.Dataset) -> list[str]:
    trained = {item.path for item in dataset.train}
    shared = sorted({item.path for item in dataset.test} & trained)
    if not shared:
        return []
    return [f"{len(shared)} pictures are in train and in test, for example {shared[0]}"]
