"""Who is trained on and who is judged: the protocols of the field, and the calibration pictures of a person.

| protocol | folds | training | test |
|---|---|---|---|
| lopo | one a person | all other persons | one person |
| clusters | k, 4 unless given | the other clusters of persons | one cluster |
| official | 1 | what the source's lists call "train" | what they call "test" |
| front | 1 | as official | the test samples with |yaw| <= 90 deg |
| last | 1 | all but the last persons, 10 unless given | these |
| within | k, 4 unless given | the rest of every person's pictures | one block of every person's pictures |
| all | 1 | everything: the one model to deploy, or a set that is judged whole | nothing |

Only "within" may have a person on both sides; anywhere else that is an error.
"""

import dataclasses

import numpy as np
from jaxtyping import Int64

from core_jax.data import rng
from gaze_jax.gaze_set import GazeSet

PROTOCOLS = ("lopo", "clusters", "official", "front", "last", "within", "all")
_SHOWN = 10
Rows = Int64[np.ndarray, " n"]


class SplitError(ValueError):
    """A protocol that cannot be followed on this set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Rows to train on and rows to judge, both rising.

    Attributes:
      train: rows of the training samples.
      test: rows of the judged samples; empty for "all".
      name: such as "lopo-p03".
      protocol: one of `PROTOCOLS`.
      fold: which of the protocol's folds.
    """

    train: Rows
    test: Rows
    name: str
    protocol: str
    fold: int = 0


def folds(gaze_set: GazeSet, protocol: str, *, clusters: int = 4) -> int:
    """How many folds a protocol has on a set.

    Raises:
      SplitError: there is no such protocol.
    """
    if protocol == "lopo":
        return len(np.unique(gaze_set.person))
    if protocol == "clusters":
        return len(_cluster_names(gaze_set)) or clusters
    if protocol == "within":
        return clusters
    if protocol in PROTOCOLS:
        return 1
    raise SplitError(f"protocol={protocol!r}: expected one of {', '.join(PROTOCOLS)}")


def make(
    gaze_set: GazeSet, protocol: str, fold: int = 0, *, clusters: int = 4, held_out: int = 10
) -> Split:
    """One fold of a protocol.

    Args:
      gaze_set: the set.
      protocol: one of `PROTOCOLS`.
      fold: which of `folds`.
      clusters: k of "clusters", where the set has no clusters of its own (persons are then dealt round-robin), and of
        "within".
      held_out: persons at the end of the list that "last" judges.

    Raises:
      SplitError: no such protocol or fold, a side without samples, or a person on both sides.
    """
    count = folds(gaze_set, protocol, clusters=clusters)
    if not 0 <= fold < count:
        raise SplitError(
            f"fold={fold}: protocol {protocol!r} has {count} fold(s) on {gaze_set.name}, 0 to {count - 1}"
        )
    train, test, label = _sides(gaze_set, protocol, fold, clusters, held_out)
    split = Split(
        train=np.flatnonzero(train),
        test=np.flatnonzero(test),
        name=f"{protocol}-{label}" if label else protocol,
        protocol=protocol,
        fold=fold,
    )
    _check(gaze_set, split)
    return split


def _sides(
    gaze_set: GazeSet, protocol: str, fold: int, clusters: int, held_out: int
) -> tuple[np.ndarray, np.ndarray, str]:
    present = np.unique(gaze_set.person)
    if protocol == "all":
        return np.ones(len(gaze_set), bool), np.zeros(len(gaze_set), bool), ""
    if protocol == "lopo":
        test = gaze_set.person == present[fold]
        return ~test, test, gaze_set.persons[present[fold]]
    if protocol == "clusters":
        names = _cluster_names(gaze_set)
        if names:
            part = np.array(gaze_set.part)
            # What lies in no cluster, such as a list for validation, is on neither side.
            return np.isin(part, names) & (part != names[fold]), part == names[fold], str(fold)
        test = np.isin(gaze_set.person, present[fold::clusters])
        return ~test, test, str(fold)
    if protocol == "last":
        if held_out < 1:
            raise SplitError(f"held_out={held_out}: expected at least one person")
        test = np.isin(gaze_set.person, present[-held_out:])
        return ~test, test, ""
    if protocol == "within":
        test = np.zeros(len(gaze_set), bool)
        for person in present:
            # Blocks, not a random choice: neighbouring frames look alike and would be learned by heart.
            test[np.array_split(np.flatnonzero(gaze_set.person == person), clusters)[fold]] = True
        return ~test, test, str(fold)
    part = np.array(gaze_set.part, object)
    if not {"train", "test"} <= set(gaze_set.part):
        raise SplitError(
            f"{gaze_set.name} has no official lists of training and test samples (its parts: "
            f"{', '.join(sorted(set(gaze_set.part))) or 'none'}); choose lopo, clusters, last, within or all"
        )
    test = part == "test"
    if protocol == "front":
        test = test & (np.abs(gaze_set.gaze[:, 1]) <= np.pi / 2)
    return part == "train", test, ""


def _cluster_names(gaze_set: GazeSet) -> list[str]:
    return sorted({part for part in gaze_set.part if part.startswith("cluster")})


def _check(gaze_set: GazeSet, split: Split) -> None:
    sides = {"train": split.train} | ({"test": split.test} if split.protocol != "all" else {})
    empty = [name for name, rows in sides.items() if not len(rows)]
    if empty:
        raise SplitError(
            f"{split.name} of {gaze_set.name}: nothing to {' and '.join(empty)} "
            f"({len(gaze_set)} samples of {len(np.unique(gaze_set.person))} person(s))"
        )
    if split.protocol == "within":
        return
    both = np.intersect1d(gaze_set.person[split.train], gaze_set.person[split.test])
    if len(both):
        shown = ", ".join(gaze_set.persons[person] for person in both[:_SHOWN])
        raise SplitError(
            f"{split.name} of {gaze_set.name}: {len(both)} person(s) both in training and in test: {shown}. "
            "Their errors would not be those of unseen persons; correct the lists"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """One choice of every person's calibration pictures.

    Attributes:
      scored: m rows that are judged, rising; none of them is anybody's reference in this draw.
      references: (m, k) the rows each of them refers to: of the same person, and of the same side unless sides are pooled.
    """

    scored: Rows
    references: Int64[np.ndarray, "m k"]


def references(
    gaze_set: GazeSet,
    rows: Rows,
    k: int,
    draws: int = 20,
    seed: int = 0,
    *,
    pool_sides: bool = False,
) -> list[Draw]:
    """The references of judged rows: k a person and side, drawn several times, never scored.

    The draws of a person and side are the beginnings of seeded permutations, so those of a smaller k are among those of a
    larger one, and other persons in `rows` change nothing.

    Args:
      gaze_set: the set.
      rows: the judged rows, those of the references among them.
      k: references a person and side.
      draws: how many choices.
      seed: of all of them.
      pool_sides: whether k references serve both sides of a person.

    Raises:
      SplitError: some persons have no more than k pictures, all of them named.
    """
    rows = np.sort(np.asarray(rows, np.int64))
    side = np.zeros_like(gaze_set.side) if pool_sides else gaze_set.side
    keys, group = np.unique(
        np.stack([gaze_set.person[rows], side[rows]], axis=1), axis=0, return_inverse=True
    )
    members = [rows[group.reshape(-1) == number] for number in range(len(keys))]
    names = [
        f"{gaze_set.persons[person]}" + ("" if pool_sides else f":{side}") for person, side in keys
    ]
    few = [f"{name} ({len(own)})" for name, own in zip(names, members) if len(own) <= k]
    if k < 1 or few:
        raise SplitError(
            f"{gaze_set.name}: k={k} references a person and side need more than k pictures, and at least one "
            f"reference; too few have {', '.join(few) or 'none'}"
        )
    return [_draw(names, members, k, number, seed) for number in range(draws)]


def _draw(names: list[str], members: list[np.ndarray], k: int, number: int, seed: int) -> Draw:
    scored, chosen = [], []
    for name, own in zip(names, members, strict=True):
        order = rng.permutation(f"references:{seed}:{number}:{name}", len(own))
        scored.append(np.sort(own[order[k:]]))
        chosen.append(np.repeat(own[order[:k]][None], len(own) - k, axis=0))
    rows, refer = np.concatenate(scored), np.concatenate(chosen)
    order = np.argsort(rows, kind="stable")
    return Draw(scored=rows[order], references=refer[order])
