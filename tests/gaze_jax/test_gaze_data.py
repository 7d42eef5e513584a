"""The training stream of gaze: every row once a pass, honest references, one order for all processes and workers."""

import itertools
import json

import numpy as np
import pytest

from core_jax.data import stream
from gaze_jax import data
from tests.gaze_jax.gaze_sets import random_set

SET = random_set(persons=3, per_person=8, size=(4, 6, 1))
ROWS = np.flatnonzero(SET.person != 1)


def batches(count, **options):
    options = {"batch_size": 4, "seed": 3, "process_index": 0, "process_count": 1} | options
    with_pairs = data.train_data(SET, ROWS, **options)
    return list(itertools.islice(iter(with_pairs), count))


def same(first, second):
    return all(
        set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(first, second, strict=True)
    )


def test_every_pass_reads_each_training_row_once():
    index = np.concatenate([batch["index"] for batch in batches(8)]).reshape(2, 16)
    assert [sorted(part) for part in index] == [list(ROWS)] * 2
    assert list(index[0]) != list(index[1])
    assert not same(batches(2), batches(2, seed=4))


def test_a_batch_is_what_the_set_says():
    batch = batches(1, pairs=data.Pairs())[0]
    for prefix, names in (
        ("", ("image", "gaze", "head", "person", "side", "norm", "scale", "has_head")),
        ("ref_", ("image", "gaze", "head")),
    ):
        expected = SET.batch(batch[f"{prefix}index"])
        for name in names:
            np.testing.assert_array_equal(batch[prefix + name], expected[name])
    assert batch["image"].dtype == np.uint8
    assert batch["index"].dtype == batch["ref_index"].dtype == np.int32


@pytest.mark.parametrize("pool", [False, True])
def test_references_are_other_pictures_of_the_same_person_each_alike(pool):
    share = stream.Share(per_step=16, process=0, processes=1)
    order = data.Order(SET, ROWS, seed=0, share=share, pairs=data.Pairs(pool_sides=pool))
    steps = [order.step(number) for number in range(400)]
    query, reference = (
        np.concatenate([step[name] for step in steps]) for name in ("index", "ref_index")
    )
    assert np.all(SET.person[query] == SET.person[reference])
    assert np.all(query != reference)
    assert np.isin(reference, ROWS).all()
    assert np.all(SET.side[query] == SET.side[reference]) != pool
    # 400 visits of a row, spread over 3 (or 7) candidates: within five standard deviations of equal.
    seen = np.bincount(reference[query == ROWS[0]], minlength=len(SET))
    candidates = 7 if pool else 3
    assert np.count_nonzero(seen) == candidates
    expected = 400 / candidates
    assert abs(seen[seen > 0] - expected).max() < 5 * expected**0.5


def test_self_pairs_come_as_often_as_asked():
    share = stream.Share(per_step=16, process=0, processes=1)
    for probability, low, high in ((1.0, 1, 1), (0.25, 0.2, 0.3)):
        pairs = data.Pairs(self_probability=probability)
        order = data.Order(SET, ROWS, seed=0, share=share, pairs=pairs)
        steps = [order.step(number) for number in range(100)]
        itself = np.mean([step["index"] == step["ref_index"] for step in steps])
        assert low <= itself <= high


def test_processes_read_slices_of_the_same_steps():
    whole = batches(3, pairs=data.Pairs())
    halves = [batches(3, pairs=data.Pairs(), process_index=p, process_count=2) for p in (0, 1)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    assert same(whole, joined)


@pytest.mark.slow
def test_workers_change_nothing():
    assert same(batches(5, pairs=data.Pairs()), batches(5, pairs=data.Pairs(), workers=2))


def test_a_restored_iterator_goes_on():
    iterator = iter(data.train_data(SET, ROWS, batch_size=4, seed=3, pairs=data.Pairs()))
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(3)]
    other = iter(data.train_data(SET, ROWS, batch_size=4, seed=3, pairs=data.Pairs()))
    other.set_state(state)
    assert same(expected, [next(other) for _ in range(3)])


def test_what_does_not_fit_is_said_at_once():
    with pytest.raises(ValueError, match=r"different numbers below 24.*multiple of 2.*between"):
        data.train_data(
            SET,
            np.array([1, 1]),
            batch_size=3,
            seed=0,
            pairs=data.Pairs(self_probability=2.0),
            process_index=0,
            process_count=2,
        )
    with pytest.raises(ValueError, match=r"only one of p00 \(side 0\), p00 \(side 1\)"):
        data.train_data(SET, np.array([0, 1]), batch_size=1, seed=0, pairs=data.Pairs())


def test_steps_of_a_run():
    assert data.total_steps(100, 32, 4) == 12
    assert data.total_steps(10, 32, 4) == 4
