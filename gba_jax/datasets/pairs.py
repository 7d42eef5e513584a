"""Finding the files of a layout, and the pictures and labels that lack their other half."""

import pathlib
from collections.abc import Iterable, Mapping

from core_jax.data import images
from gba_jax.datasets.common import Item, SegmentList, some

Path = pathlib.Path


def absent(*folders: Path) -> list[str]:
    """A problem for each folder that does not exist."""
    return [f"the folder {folder} does not exist" for folder in folders if not folder.is_dir()]


def collect(
    folder: Path, ending: str = "", *, suffixes: Iterable[str] = images.SUFFIXES
) -> tuple[dict[str, Path], list[str]]:
    """The files below a folder, subfolders included, by their path without suffix and `ending`.

    Args:
      folder: where to look.
      ending: what a file's stem must end in, for example "_leftImg8bit".
      suffixes: which files count, in lower case.

    Returns:
      (key to file, in the order of keys; problems: several files of one key).
    """
    found: dict[str, list[Path]] = {}
    endings = tuple(ending + suffix for suffix in suffixes)
    for path in sorted(folder.rglob("*")):
        name = path.name
        if name.startswith(".") or not name.lower().endswith(tuple(e.lower() for e in endings)):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        found.setdefault(key.removesuffix(ending), []).append(path)
    doubled = [f"{key} ({', '.join(p.name for p in ps)})" for key, ps in found.items() if ps[1:]]
    problems = [f"several files of one name below {folder}: {some(doubled)}"] if doubled else []
    return {key: paths[0] for key, paths in found.items()}, problems


def match(
    pictures: Mapping[str, Path],
    labels: Mapping[str, Path],
    segments: Mapping[str, SegmentList] | None = None,
) -> tuple[tuple[Item, ...], list[str]]:
    """Pictures with their labels, and with their segments where the data set has them.

    Returns:
      (items in the order of keys, problems: every picture without labels, and the other way round).
    """
    problems = [] if pictures else ["there are no pictures"]
    problems += _lacking("pictures without labels", pictures, labels)
    problems += _lacking("labels without a picture", labels, pictures)
    if segments is not None:
        problems += _lacking("pictures without segments", pictures, segments)
        problems += _lacking("segments without a picture", segments, pictures)
    keys = sorted(set(pictures) & set(labels))
    items = (Item(key, pictures[key], labels[key], (segments or {}).get(key)) for key in keys)
    return tuple(items), problems


def listed(
    path: Path, pictures: tuple[Path, str], labels: tuple[Path, str]
) -> tuple[tuple[Item, ...], list[str]]:
    """The pictures that a text file lists, an id a line.

    Args:
      path: the list.
      pictures: (folder, suffix) of the pictures.
      labels: (folder, suffix) of the labels.
    """
    try:
        ids = [
            line.split()[0]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        return (), [f"the list {path} cannot be read: {error}"]
    items = tuple(
        Item(i, pictures[0] / f"{i}{pictures[1]}", labels[0] / f"{i}{labels[1]}") for i in ids
    )
    return items, missing_files(items) + ([] if ids else [f"the list {path} is empty"])


def missing_files(items: Iterable[Item]) -> list[str]:
    """Every file that items name and that is not there, pictures, labels and segments apart."""
    items = tuple(items)
    groups = {
        "pictures": [item.image for item in items],
        "labels": [item.labels for item in items if item.labels],
        "segments": [item.segments.path for item in items if item.segments],
    }
    # One listing a folder: asking a network disk file by file takes minutes for a large set.
    folders = {path.parent for paths in groups.values() for path in paths}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    problems = []
    for what, paths in groups.items():
        lost = [path for path in paths if path not in there]
        if lost:
            problems.append(f"{len(lost)} {what} are listed but missing: {some(lost)}")
    return problems


def _lacking(what: str, there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    lost = sorted(set(there) - set(wanted))
    return [f"{len(lost)} {what}: {some(lost)}"] if lost else []
