"""`data check`: everything that is wrong with a data set on disk, found in one go."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import tqdm

from core_jax.data import images
from fdbpl_jax import catalogue, datasets, fewshot, label, readers
from fdbpl_jax.pictures import Dataset

Path = pathlib.Path
ABSENT, COMPLETE = "absent", "complete"
# A set without its pictures would name each of them.
_MOST = 20
_LIST = re.compile(r"shot_(\d+)-seed_(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a data set looks like.

    Attributes:
      name: of the data set.
      problems: in words.
      state: "absent", "complete", what is lacking, or what kinds of problems there are, in a few words.
      counts: classes, train, val and test pictures; empty where the lists cannot be read.
      notes: what is worth knowing and no problem.
    """

    name: str
    problems: tuple[str, ...] = ()
    state: str = COMPLETE
    counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> str:
        """The counts in words."""
        classes, *lists = self.counts
        pictures = (f"{n:,} {split}" for n, split in zip(lists, datasets.SPLITS, strict=True))
        return f"{classes} classes; {', '.join(pictures)}"


def check(
    name: str,
    root: str | os.PathLike,
    *,
    decode: bool = True,
    threads: int = 8,
    progress: bool = False,
) -> Found:
    """Folders, lists, rows, counts, class names, given few-shot lists, and every picture.

    Args:
      name: of the data set, one of `datasets.NAMES`.
      root: the folder that holds the data set's folder.
      decode: whether pictures are decoded, or only looked for.
      threads: that decode.
      progress: whether to show a bar, in a terminal, while pictures are looked at.
    """
    dataset, problems = datasets.load(name, root)
    if dataset is None:
        return Found(name=name, problems=tuple(problems), state=_without_lists(name, Path(root)))
    counts, names = _counts(dataset), _names(dataset) + _copy(name, Path(root))
    missing, damaged = _pictures(dataset, decode=decode, threads=threads, progress=progress)
    problems += _overlaps(dataset) + _lists(dataset)
    kinds = [
        (len(missing), f"{len(missing):,} picture{'s' * (len(missing) > 1)} missing"),
        (len(damaged), f"{len(damaged):,} damaged"),
        (len(counts), "other counts"),
        (len(names), "other class names"),
        (len(problems), "wrong lists"),
    ]
    return Found(
        name=name,
        problems=(*problems, *counts, *names, *_some(missing), *_some(damaged)),
        state=", ".join(words for number, words in kinds if number) or COMPLETE,
        counts=(len(dataset.classes), *(len(getattr(dataset, one)) for one in datasets.SPLITS)),
        notes=_notes(dataset),
    )


def _without_lists(name: str, root: Path) -> str:
    """The state of a data set whose lists cannot be had."""
    layout = datasets.LAYOUTS.get(name)
    folder = root / layout.folder if layout else root
    if not folder.is_dir():
        return ABSENT
    folders, names = readers.lacks(folder, layout) if layout else ([], [])
    if folders or names:
        return f"lacks {', '.join([*folders, *names])}"
    return "unreadable lists" if layout and layout.split else "other folders or names"


def report(found: Found, root: str | os.PathLike) -> str:
    """One line when all is well, otherwise every problem and what to fetch; notes below."""
    if found.problems:
        text = datasets.describe(found.name, root, found.problems)
    else:
        text = f"data set {found.name!r} below {root}: complete ({found.sizes})"
    return "\n".join([text, *(f"  note: {note}" for note in found.notes)])


def table(found: Sequence[Found]) -> str:
    """One line for each data set: its state and its counts, those expected where they differ."""
    rows: list[tuple[str, ...]] = [("data set", "classes", *datasets.SPLITS, "state")]
    for one in found:
        numbers = [f"{number:,}" for number in one.counts] or ["-"] * 4
        rows.append((one.name, *numbers, one.state))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if 0 < place < 5 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def _pictures(
    dataset: Dataset, *, decode: bool, threads: int, progress: bool
) -> tuple[list[str], list[str]]:
    """Problems of pictures: those that are missing and those that cannot be read."""
    missing, damaged = [], []

    def look(path: str) -> tuple[bool, str | None]:
        place = dataset.root / path
        if not place.is_file():
            return False, f"the picture {place} is missing"
        try:
            if decode:
                images.decode(place)
        except images.ImageError as error:
            return True, str(error)
        return True, None

    for there, problem in tqdm.tqdm(
        label.in_order(look, _paths(dataset), threads),
        desc=dataset.name,
        total=sum(len(getattr(dataset, split)) for split in datasets.SPLITS),
        unit=" pictures",
        leave=False,
        disable=None if progress else True,
    ):
        if problem:
            (damaged if there else missing).append(problem)
    return missing, damaged


def _paths(dataset: Dataset) -> Iterator[str]:
    lists = (getattr(dataset, split) for split in datasets.SPLITS)
    return (item.path for item in itertools.chain.from_iterable(lists))


def _some(problems: list[str]) -> list[str]:
    problems = list(dict.fromkeys(problems))
    more = len(problems) - _MOST
    return problems[:_MOST] + ([f"and {more:,} more such pictures"] if more > 0 else [])


def _counts(dataset: Dataset) -> list[str]:
    layout = datasets.LAYOUTS.get(dataset.name)
    if layout is None:
        return []
    pairs = [
        ("classes", layout.classes, len(dataset.classes)),
        ("train pictures", layout.train, len(dataset.train)),
        ("val pictures", layout.val, len(dataset.val)),
        ("test pictures", layout.test, len(dataset.test)),
    ]
    problems = [
        f"{found:,} {what}, expected {wanted:,}"
        for what, wanted, found in pairs
        if wanted not in (None, found)
    ]
    if layout.halves and not problems:
        middle = (len(dataset.classes) + 1) // 2
        base = sum(item.label < middle for item in dataset.test)
        found = (base, len(dataset.test) - base)
        if found != layout.halves:
            problems.append(
                f"{found[0]:,} test pictures of base and {found[1]:,} of new classes, expected "
                f"{layout.halves[0]:,} and {layout.halves[1]:,}: the classes have another order"
            )
    return problems


def _names(dataset: Dataset) -> list[str]:
    layout = datasets.LAYOUTS.get(dataset.name)
    if layout is None:
        return []
    problems = []
    absent = sorted(set(layout.names) - set(dataset.classes))
    if absent:
        problems.append(
            f"class names {', '.join(absent)} are missing: this is not CoOp's list of names"
        )
    odd = [name for name in dataset.classes if not re.fullmatch(layout.pattern or ".*", name)]
    if odd:
        problems.append(
            f"{len(odd)} class names are not as in CoOp's list ({layout.pattern}): {', '.join(odd[:10])}"
        )
    return problems


def _copy(name: str, root: Path) -> list[str]:
    """Whether a variant's names are ImageNet's: the same classes would stand in other sentences otherwise."""
    layout = datasets.LAYOUTS.get(name)
    if layout is None or not layout.test_only:
        return []
    files = [root / folder / catalogue.CLASSNAMES for folder in (layout.folder, "imagenet")]
    own, original = (list(readers.classnames(file)[0].items()) for file in files)
    if not original or own == original:
        return []
    first = next((a for a, b in zip(own, original) if a != b), None)
    what = f"the first other line is {' '.join(first)!r}" if first else "one is longer"
    return [f"{files[0]} is no copy of {files[1]}: {what}"]


def _overlaps(dataset: Dataset) -> list[str]:
    problems = []
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        known = {item.path for item in getattr(dataset, other)}
        shared = sorted(item.path for item in getattr(dataset, one) if item.path in known)
        if shared:
            problems.append(
                f"{len(shared)} pictures are in {one} and in {other}, for example {shared[0]}"
            )
    return problems


def _lists(dataset: Dataset) -> list[str]:
    """Problems of few-shot lists that are given as files."""
    problems = []
    for file in sorted(dataset.lists.glob("*.json")) if dataset.lists else []:
        numbers = _LIST.fullmatch(file.stem)
        if numbers is None:
            problems.append(f"{file}: expected a name such as shot_16-seed_1.json")
            continue
        shots, seed = map(int, numbers.groups())
        try:
            datasets.few_shot(dataset, shots, seed)
        except (datasets.DatasetError, ValueError) as error:
            problems.append(str(error))
    return problems


def _notes(dataset: Dataset) -> tuple[str, ...]:
    """CoOp pickles its few-shot lists; those of ImageNet depend on the disk they were drawn on."""
    if dataset.name != "imagenet" or dataset.lists is None:
        return ()
    pickled = [
        file.stem
        for file in sorted(dataset.lists.glob("*.pkl"))
        if not file.with_suffix(".json").is_file()
    ]
    if not pickled:
        return ()
    return (
        f"{dataset.lists} holds CoOp's own few-shot lists as pickles, which are not read ({', '.join(pickled)}): "
        f"docs/data.md shows how to turn them into {fewshot.FOLDER}/*.json, to train on exactly these pictures",
    )
