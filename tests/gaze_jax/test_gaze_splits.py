"""Protocols share no person between training and test; references are never scored."""

import dataclasses

import numpy as np
import pytest

from gaze_jax import splits
from tests.gaze_jax.gaze_sets import random_set

SET = random_set(persons=6, per_person=8, size=(2, 2, 1))


def with_parts(parts):
    return dataclasses.replace(SET, part=tuple(parts))


def persons(rows):
    return set(SET.person[rows].tolist())


@pytest.mark.parametrize(
    ("protocol", "options", "count"),
    [
        ("lopo", {}, 6),
        ("clusters", {}, 4),
        ("clusters", {"clusters": 3}, 3),
        ("last", {"held_out": 2}, 1),
    ],
)
def test_folds_share_no_person_and_cover_everybody(protocol, options, count):
    chosen = {"clusters": options["clusters"]} if "clusters" in options else {}
    assert splits.folds(SET, protocol, **chosen) == count
    tested = []
    for fold in range(count):
        split = splits.make(SET, protocol, fold, **options)
        assert not persons(split.train) & persons(split.test)
        assert sorted([*split.train, *split.test]) == list(range(len(SET)))
        tested += list(split.test)
    assert sorted(tested) == (list(range(32, 48)) if protocol == "last" else list(range(len(SET))))


def test_names_say_what_was_held_out():
    assert splits.make(SET, "lopo", 2).name == "lopo-p02"
    assert splits.make(SET, "clusters", 1).name == "clusters-1"
    assert splits.make(SET, "all").name == "all"


def test_clusters_of_the_source_come_before_our_own():
    own = with_parts(f"cluster{[0, 0, 1, 1, 2, 2][person]}" for person in SET.person)
    assert splits.folds(own, "clusters") == 3
    assert persons(splits.make(own, "clusters", 1).test) == {2, 3}
    some = with_parts(["cluster1", "cluster2", "val"][person % 3] for person in SET.person)
    split = splits.make(some, "clusters", 0)
    assert (persons(split.train), persons(split.test)) == ({1, 4}, {0, 3})


def test_official_lists_and_the_frontal_half():
    own = with_parts(["train", "train", "train", "val", "test", "test"][p] for p in SET.person)
    gaze = own.gaze.copy()
    gaze[36, 1] = np.deg2rad(91)
    gaze[0, 1] = np.deg2rad(120)
    own = dataclasses.replace(own, gaze=gaze)
    split = splits.make(own, "official")
    assert persons(split.train) == {0, 1, 2}
    assert persons(split.test) == {4, 5}
    front = splits.make(own, "front")
    assert set(split.test) - set(front.test) == {36}
    assert list(front.train) == list(split.train)
    with pytest.raises(splits.SplitError, match="no official lists"):
        splits.make(SET, "official")


def test_a_person_on_both_sides_is_an_error():
    own = with_parts("test" if row % 8 == 0 and row < 9 else "train" for row in range(len(SET)))
    with pytest.raises(
        splits.SplitError, match=r"2 person\(s\) both in training and in test: p00, p01"
    ):
        splits.make(own, "official")


def test_within_cuts_every_person_in_blocks():
    seen = np.zeros(len(SET), int)
    for fold in range(splits.folds(SET, "within")):
        split = splits.make(SET, "within", fold)
        assert persons(split.train) == persons(split.test) == set(range(6))
        assert all(np.ptp(np.flatnonzero(SET.person[split.test] == p)) == 1 for p in range(6))
        seen[split.test] += 1
    assert np.all(seen == 1)


def test_all_trains_on_everything():
    split = splits.make(SET, "all")
    assert len(split.train) == len(SET)
    assert len(split.test) == 0


@pytest.mark.parametrize(
    ("protocol", "fold", "match"),
    [("lopo", 6, "6 fold"), ("lpoo", 0, "expected one of lopo"), ("last", 0, "nothing to train")],
)
def test_impossible_splits_say_so(protocol, fold, match):
    with pytest.raises(splits.SplitError, match=match):
        splits.make(SET, protocol, fold)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_references_are_never_scored_and_of_the_same_person(k, pool):
    rows = np.flatnonzero(SET.person >= 4)
    for draw in splits.references(SET, rows, k, draws=5, seed=1, pool_sides=pool):
        assert draw.references.shape == (len(draw.scored), k)
        assert not set(draw.scored) & set(draw.references.reshape(-1))
        assert {*draw.scored, *draw.references.reshape(-1)} == set(rows)
        assert len(draw.scored) == len(rows) - 2 * k * (1 if pool else 2)
        assert np.all(SET.person[draw.references] == SET.person[draw.scored][:, None])
        if not pool:
            assert np.all(SET.side[draw.references] == SET.side[draw.scored][:, None])
        assert all(len(set(own)) == k for own in draw.references)


def test_draws_differ_grow_with_k_and_do_not_depend_on_other_persons():
    few = splits.references(SET, np.arange(48), 1, draws=8, seed=0)
    more = splits.references(SET, np.flatnonzero(SET.person == 2), 3, draws=8, seed=0)
    firsts = []
    for small, large in zip(few, more, strict=True):
        own = {int(r[0]) for r, row in zip(small.references, small.scored) if SET.person[row] == 2}
        assert own <= set(large.references.reshape(-1).tolist())
        firsts.append(tuple(sorted(own)))
    assert len(set(firsts)) > 1
    again = splits.references(SET, np.arange(48), 1, draws=8, seed=0)
    assert all(np.array_equal(a.references, b.references) for a, b in zip(few, again, strict=True))


def test_too_few_pictures_for_references_are_named():
    with pytest.raises(splits.SplitError, match=r"p00:0 \(4\), p00:1 \(4\)"):
        splits.references(SET, np.flatnonzero(SET.person == 0), 4)
