"""Judging calibrations whose pictures lie on a grid over a person's labels, against a loop over persons."""

import numpy as np
import pytest

from gaze_jax import calibrate
from gaze_jax.evaluate import JudgeConfig
from gaze_jax.judging.calibrated import judge_calibrated
from tests.gaze_jax.gaze_sets import random_set
from tests.gaze_jax.gaze_toys import angle_deg, vector

BETWEEN, WITHIN = np.array([0.05, 0.08]), np.array([0.06, 0.04])


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "by side"])
def test_calibration_with_points_on_a_grid(pooled):
    data = random_set(persons=3, per_person=28)
    rng = np.random.default_rng(4)
    predicted = data.gaze + rng.normal(0, 0.1, (3, 2))[data.person] + rng.normal(0, 0.05, (84, 2))
    rows = np.flatnonzero(data.person != 2)
    settings = JudgeConfig(k=(3, 9, 50), calibrations=("offset",), points="grid", pool_sides=pooled)
    found = judge_calibrated(predicted[rows], data, rows, (BETWEEN, WITHIN), settings)
    # One draw, and no grid of fifty.
    assert {(e.k, e.draw) for e in found} == {(3, 0), (9, 0)}
    for k in (3, 9):
        expected = {}
        for person in (0, 1):
            errors = []
            for side in (None,) if pooled else (0, 1):
                mine = (data.person == person) & ((data.side == side) | (side is None))
                own = np.flatnonzero(mine)
                points = own[calibrate.grid(data.gaze[own], 9)]
                residual = (data.gaze - predicted)[points[:k]].mean(0)
                move = k * BETWEEN**2 / (k * BETWEEN**2 + WITHIN**2) * residual
                for row in sorted({*own.tolist()} - {*points.tolist()}):
                    truth = vector(*data.gaze[row])
                    errors.append(angle_deg(vector(*(predicted[row] + move)), truth))
            expected[data.persons[person]] = np.mean(errors)
        made = {e.person: e.angular_error_deg for e in found if e.k == k}
        assert made == pytest.approx(expected, rel=1e-4)


def test_points_are_random_or_on_a_grid():
    with pytest.raises(ValueError, match="points holds 'x': expected of random, grid"):
        JudgeConfig(points="x")
