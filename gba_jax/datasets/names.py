"""Class names of data sets: from the data set's own files, else a shipped list, else the user's `classes.txt`."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence

from gba_jax.datasets.common import DatasetError, some
from gba_jax.vocabulary import VocabularyError, build, normalise

Path = pathlib.Path

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa"),
    *("train", "tv monitor"),
)
BACKGROUND = "background"
CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
# A label number, a share, two counts, perhaps a stuff flag, and the name with its synonyms.
_OBJECT_INFO = re.compile(r"\s*(\d+)\s+[\d.eE+-]+\s+\d+\s+\d+\s+(?:[01]\s+)?(\S.*?)\s*")
_NUMBERED = re.compile(r"\s*(\d+)\s*:\s*(\S.*?)\s*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where names may be: a file and how to read it; `classes.txt` unless said otherwise."""

    path: Path
    read: Callable[[Path], list[str]]


def find(
    sources: Sequence[Source],
    *,
    count: int | None,
    user: Path,
    given: Path | None,
    shipped: Sequence[str] = (),
) -> tuple[tuple[str, ...], str, list[str]]:
    """The names of a data set's classes.

    Args:
      sources: its own files, the first that exists counts.
      count: how many classes there are; None where the list itself says so.
      user: the `classes.txt` that is read where there is nothing else.
      given: a list that the caller prefers to everything.
      shipped: a list that comes with the package.

    Returns:
      (classes, where they come from, problems).
    """
    own = [source for source in sources if source.path.is_file()]
    if given is not None:
        chosen = Source(path=given, read=read_classes)
    elif own:
        chosen = own[0]
    elif shipped:
        return tuple(shipped), "a list that comes with the package", []
    elif user.is_file():
        chosen = Source(path=user, read=read_classes)
    else:
        places = [str(source.path) for source in sources]
        return (), "", [_nowhere(places, user)]
    try:
        classes = tuple(chosen.read(chosen.path))
    except (OSError, UnicodeDecodeError) as error:
        return (), "", [f"the class names in {chosen.path} cannot be read: {error}"]
    except DatasetError as error:
        return (), "", [str(error)]
    return classes, str(chosen.path), check(classes, count, str(chosen.path))


def check(classes: Sequence[str], count: int | None, source: str) -> list[str]:
    """What is wrong with a list of classes: their number, or names that make no vocabulary."""
    problems = []
    if count is not None and len(classes) != count:
        problems.append(f"{len(classes)} class names in {source}, expected {count}")
    try:
        build(classes)
    except VocabularyError as error:
        problems.append(f"the class names in {source}: {error}")
    return problems


def _nowhere(places: list[str], user: Path) -> str:
    looked = f"found neither {' nor '.join(places)}, nor" if places else "this layout has none, and"
    return (
        f"class names: {looked} your own {user}{'' if places else ' is missing'}. Write it: one class a line in label "
        "order, as 'name, synonym, ...'"
    )


def read_classes(path: Path) -> list[str]:
    """`classes.txt`: a class a line, in label order; empty lines may only stand at the end."""
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    blank = [i for i, line in enumerate(lines, 1) if not line.strip()]
    if blank:
        raise DatasetError(f"{path} has no class name in line {some(blank)}")
    return [line.strip() for line in lines]


def read_numbered(path: Path) -> dict[int, str]:
    """`labels.txt`: "number: name" a line, as COCO-Stuff and Pascal Context have it."""
    return _parse(path, _NUMBERED, header=False)


def read_object_info(path: Path) -> list[str]:
    """ADE20K's `objectInfo150.txt`: classes 1 to 150 with synonyms."""
    found = _parse(path, _OBJECT_INFO, header=True)
    missing = sorted(set(range(1, len(found) + 1)) - set(found))
    if missing:
        raise DatasetError(f"{path} has no line for class {some(missing)}")
    return without_shared([found[k].replace(";", ",") for k in sorted(found)])


def _parse(path: Path, line: re.Pattern, *, header: bool) -> dict[int, str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    numbered = [(i, text) for i, text in enumerate(lines, 1) if text.strip()]
    numbered = numbered[1:] if header else numbered
    matches = [(i, line.fullmatch(text)) for i, text in numbered]
    bad = [i for i, match in matches if match is None]
    if bad:
        raise DatasetError(f"{path} has no number and name in line {some(bad)}")
    return {int(match[1]): match[2] for _, match in matches if match}


def without_shared(classes: Sequence[str]) -> list[str]:
    """Classes without the synonyms that name several of them.

    Published lists give "ground" to earth and to land: a word that stands for two classes tells neither. It stays where it
    is the class's name, and goes where it is a synonym.
    """
    words = [[word.strip() for word in text.split(",")] for text in classes]
    names = [normalise(own[0]) for own in words]
    owners: dict[str, set[int]] = {}
    for i, own in enumerate(words):
        for word in own:
            owners.setdefault(normalise(word), set()).add(i)
    out = []
    for own in words:
        kept = {normalise(own[0]): own[0]}
        for word in own[1:]:
            key = normalise(word)
            if word and len(owners[key]) == 1 and key not in names:
                kept.setdefault(key, word)
        out.append(", ".join(kept.values()))
    return out
