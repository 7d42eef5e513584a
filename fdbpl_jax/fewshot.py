"""Few-shot lists: CoOp's rule as a function of labels, and lists given as files."""

import array
import collections
import json
import operator
import pathlib
import random
from collections.abc import Iterable
from typing import Any

Path = pathlib.Path
FOLDER = "split_fewshot"
# CoOp tunes on few-shot validation lists of this many pictures per class at most.
VAL_SHOTS = 4


def few_shot_indices(
    train_labels: Iterable[int], val_labels: Iterable[int], *, shots: int, seed: int
) -> tuple[list[int], list[int]]:
    """The few-shot lists of CoOp and Dassl, as places in the full lists (arXiv 2109.01134).

    One `random.Random(seed)` serves both lists. Places are grouped by label, labels in order of first appearance;
    `shots` of each group are sampled, or all are kept, in order and without a draw, where there are fewer (older
    versions of Dassl filled such a group up by drawing from it again). Validation takes min(shots, 4).

    Args:
      train_labels: of the full training list, in its order: integers, names, or an array of them.
      val_labels: of the full validation list, likewise; empty where a set has none.
      shots: pictures per class, at least 1.
      seed: CoOp's are 1, 2 and 3.

    Returns:
      (places in the training list, places in the validation list), in the order in which CoOp lists the pictures.

    Raises:
      ValueError: shots is below 1.
    """
    if shots < 1:
        raise ValueError(f"shots={shots}: expected a number of pictures per class, at least 1")
    generator = random.Random(operator.index(seed))
    train = _draw(train_labels, shots, generator)
    return train, _draw(val_labels, min(shots, VAL_SHOTS), generator)


def _draw(labels: Any, shots: int, generator: random.Random) -> list[int]:
    # Eight bytes a place: the list may have millions.
    groups: dict[int, array.array] = collections.defaultdict(lambda: array.array("q"))
    # The elements of jax's and torch's arrays do not hash as their values do.
    for place, label in enumerate(labels.tolist() if hasattr(labels, "tolist") else labels):
        groups[label].append(place)
    chosen: list[int] = []
    for group in groups.values():
        count = len(group)
        within = generator.sample(range(count), shots) if count >= shots else range(count)
        chosen += [group[place] for place in within]
    return chosen


def path(lists: Path, shots: int, seed: int) -> Path:
    """Where a given few-shot list lies; CoOp keeps its own under the same name, pickled."""
    return lists / f"shot_{shots}-seed_{seed}.json"


def read(file: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """The rows of a given few-shot list, {"train": [[path, label, class name], ...], "val"?: ...}, and problems."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, [f"cannot be read: {error}"]
    kinds = rows if isinstance(rows, dict) else {}
    if not isinstance(kinds.get("train"), list) or not isinstance(kinds.get("val", []), list):
        return {}, ["must hold a list: train (and may hold another: val)"]
    return {kind: kinds[kind] for kind in ("train", "val") if kind in kinds}, []
