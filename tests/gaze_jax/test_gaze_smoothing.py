"""One-Euro: what stands still stays, what moves is followed, blinks are held, absences forgotten."""

import numpy as np
import pytest

from gaze_jax.people.smoothing import OneEuro, Smoother

TIMES_S = np.arange(60) / 30


def test_a_constant_stays_exactly():
    steady = OneEuro()
    for time_s in TIMES_S:
        np.testing.assert_array_equal(steady(np.array([3.25, -170.5]), time_s), [3.25, -170.5])


def test_a_step_is_approached_monotonously_and_never_overshot():
    steady = OneEuro()
    steady(np.zeros(2), 0.0)
    values = np.array([steady(np.array([10.0, -20.0]), t) for t in TIMES_S[1:]])
    assert (np.diff(values[:, 0]) > 0).all()
    assert (np.diff(values[:, 1]) < 0).all()
    assert values[-1] == pytest.approx([10, -20], abs=0.2)
    assert (values[:, 0] <= 10).all()


def test_the_filter_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    measured = rng.normal(0, 8, 40)
    times_s = np.cumsum(rng.uniform(0.01, 0.1, 40))
    steady = OneEuro()
    found = [steady(np.array([m, 0.0]), t)[0] for m, t in zip(measured, times_s)]
    value, speed, expected = measured[0], 0.0, [measured[0]]
    for i in range(1, 40):
        period = times_s[i] - times_s[i - 1]
        share = lambda cutoff, period=period: 1 / (1 + 1 / (2 * np.pi * cutoff) / period)
        speed = share(1.0) * (measured[i] - value) / period + (1 - share(1.0)) * speed
        a = share(1.0 + 0.05 * abs(speed))
        value = a * measured[i] + (1 - a) * value
        expected.append(value)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_noise_shrinks_and_fast_moves_lag_little():
    rng = np.random.default_rng(1)
    steady = OneEuro()
    values = np.array([steady(rng.normal(0, 1, 2), t) for t in TIMES_S])
    assert values[10:].std() < 0.6
    slow = [OneEuro()(np.zeros(2), 0.0)]
    moving = OneEuro()
    slow = [moving(np.array([0.0, 60.0 * t]), t)[1] for t in TIMES_S]
    assert 60.0 * TIMES_S[-1] - slow[-1] < 4.0


def test_yaw_past_180_degrees_is_no_jump():
    steady = OneEuro()
    steady(np.array([0.0, 179.0]), 0.0)
    yaw = steady(np.array([0.0, -179.0]), 1 / 30)[1]
    assert abs(yaw) > 178.9


def test_a_frame_of_the_same_time_changes_nothing():
    steady = OneEuro()
    steady(np.zeros(2), 1.0)
    np.testing.assert_array_equal(steady(np.ones(2), 1.0), [0, 0])


def test_blinks_hold_and_absences_forget():
    smooth = Smoother()
    smooth(0, np.array([1.0, 2.0]), 0.0)
    np.testing.assert_array_equal(smooth(0, np.array([-30.0, 2.0]), 0.1, blink=True), [1, 2])
    np.testing.assert_array_equal(smooth(1, np.array([7.0, 7.0]), 0.1), [7, 7])
    assert smooth(0, np.array([1.5, 2.0]), 0.2)[0] < 1.5
    np.testing.assert_array_equal(smooth(0, np.array([9.0, 9.0]), 0.8), [9, 9])
    np.testing.assert_array_equal(smooth(2, np.array([-30.0, 0.0]), 0.0, blink=True), [-30, 0])
    np.testing.assert_array_equal(smooth(2, np.array([5.0, 5.0]), 0.1), [5, 5])
