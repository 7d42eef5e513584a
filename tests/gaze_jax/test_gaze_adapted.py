"""Judging a set that a network was adapted to with some of its labels, against a loop over pictures."""

import types
from typing import Any

import numpy as np
import pytest

from core_jax.data import rng
from core_jax.train import Params
from gaze_jax import calibrate, evaluate
from gaze_jax.judging.calibrated import judge_adapted
from gaze_jax.judging.statistics import Entry
from tests.gaze_jax.gaze_sets import random_set
from tests.gaze_jax.gaze_toys import angle_deg, vector

DATA = random_set(persons=3, per_person=10, size=(2, 2, 1))
SETTINGS = evaluate.JudgeConfig(adapt_k=(2, 9), draws=2)
# Off by the same turn everywhere, and by a little of their own.
PREDICTED = DATA.gaze + np.array([0.3, -0.2]) + np.random.default_rng(4).normal(0, 0.05, (30, 2))


@pytest.fixture(scope="module")
def found():
    return judge_adapted(PREDICTED, DATA, SETTINGS)


def test_a_network_is_adapted_in_each_way_that_k_allows(found):
    ways = (("adapt_offset", 2), ("adapt_offset", 9), ("adapt_affine", 9))
    assert {(e.mode, e.k, e.draw) for e in found} == {(*way, d) for way in ways for d in (0, 1)}


@pytest.mark.parametrize(("kind", "k"), [("offset", 2), ("offset", 9), ("affine", 9)])
@pytest.mark.parametrize("draw", [0, 1])
def test_one_correction_serves_the_whole_set(found, kind, k, draw):
    order = rng.permutation(f"adapt:0:{draw}:random", len(DATA))
    seen = order[:k]
    off = DATA.gaze[seen] - PREDICTED[seen]
    made = PREDICTED + off.mean(0)
    if kind == "affine":
        fitted = calibrate.fit(
            kind, PREDICTED[seen], DATA.gaze[seen], between_sd=1e6, within_sd=off.std(0)
        )
        made = calibrate.apply(fitted, PREDICTED)
    errors: dict[str, list[float]] = {}
    # Of every k the same pictures are scored: those that no correction of the draw has seen.
    for row in order[9:]:
        error = angle_deg(vector(*made[row]), vector(*DATA.gaze[row]))
        errors.setdefault(DATA.persons[DATA.person[row]], []).append(error)
    own: list[Entry] = [e for e in found if (e.mode, e.k, e.draw) == (f"adapt_{kind}", k, draw)]
    expected = {name: float(np.mean(values)) for name, values in errors.items()}
    assert {e.person: e.angular_error_deg for e in own} == pytest.approx(expected, rel=1e-4)
    assert sum(e.n for e in own) == len(DATA) - 9


def test_nothing_is_adapted_unless_that_is_asked_and_possible():
    assert judge_adapted(PREDICTED, DATA, evaluate.JudgeConfig()) == []
    blind: Any = types.SimpleNamespace(predict=None)
    assert evaluate.adapted(blind, Params(trainable={}), DATA, SETTINGS) == []
    with pytest.raises(ValueError, match=r"adapt_k=\(30,\) needs more than 30 pictures"):
        judge_adapted(PREDICTED, DATA, evaluate.JudgeConfig(adapt_k=(30,)))
    with pytest.raises(ValueError, match=r"adapt_k=\(0, 101\): expected numbers of 1 to 100"):
        evaluate.JudgeConfig(adapt_k=(0, 101))
