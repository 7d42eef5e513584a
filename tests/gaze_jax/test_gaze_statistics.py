"""Errors and intervals against closed forms and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from gaze_jax.judging import statistics
from gaze_jax.judging.statistics import Entry


def entry(person, error, n=10, **more):
    return Entry(
        person=person, n=n, angular_error_deg=error, pitch_error_deg=1.0, yaw_error_deg=2.0, **more
    )


def test_errors_of_turns_about_one_axis_are_exact():
    gaze = np.zeros((3, 2), np.float32)
    predicted = np.radians([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]).astype(np.float32)
    found = statistics.errors(predicted, gaze)
    np.testing.assert_allclose(found.angular_deg, [3.0, 4.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(found.pitch_deg, [3.0, 0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(found.yaw_deg, [0.0, 4.0, 0.0], atol=1e-4)


def test_yaws_on_both_sides_of_straight_back_are_near():
    found = statistics.errors(
        np.array([[0.0, math.pi - 0.01]], np.float32),
        np.array([[0.0, -math.pi + 0.01]], np.float32),
    )
    assert found.yaw_deg[0] == pytest.approx(math.degrees(0.02), rel=1e-4)
    assert found.angular_deg[0] == pytest.approx(math.degrees(0.02), rel=1e-3)


def test_the_headline_is_over_persons_not_pictures_and_draws_count_once():
    found = [
        entry("a", 2.0, n=100, draw=0),
        entry("a", 4.0, n=100, draw=1),
        entry("b", 9.0, n=50),
    ]
    means = statistics.headline(found)
    assert means["angular_error_deg"] == pytest.approx(6.0)
    assert means["images_deg"] == pytest.approx((100 * 3 + 50 * 9) / 150)
    assert (means["persons"], means["n"]) == (2.0, 150.0)
    with pytest.raises(ValueError, match="no person was judged"):
        statistics.headline([])


def test_bootstrap_is_scipys_percentile_interval():
    values = np.random.default_rng(0).gamma(4.0, 1.5, 15)
    ours = statistics.bootstrap(values, seed=3)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    # Two Monte Carlo estimates of the same quantiles.
    assert ours.low == pytest.approx(theirs.low, abs=0.08)
    assert ours.high == pytest.approx(theirs.high, abs=0.08)
    assert statistics.bootstrap(values, seed=3) == ours
    assert statistics.bootstrap(values, seed=4) != ours


def test_one_person_has_no_spread_and_no_person_is_an_error():
    assert statistics.bootstrap([4.5]) == (4.5, 4.5, 4.5)
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="expected finite errors"):
            statistics.bootstrap(values)


def test_pairing_by_person_takes_out_what_persons_have_in_common():
    rng = np.random.default_rng(1)
    hard = rng.uniform(2, 20, 12)
    theirs = {f"p{i}": float(x) for i, x in enumerate(hard)}
    ours = {name: x - 0.5 + 0.05 * rng.normal() for name, x in theirs.items()} | {"extra": 99.0}
    found = statistics.paired(ours, theirs)
    assert found.mean == pytest.approx(-0.5, abs=0.05)
    assert found.high < -0.4
    apart = statistics.bootstrap(ours[name] for name in theirs)
    assert apart.high - apart.low > 10 * (found.high - found.low)
    with pytest.raises(ValueError, match="without a common person"):
        statistics.paired({"a": 1.0}, {"b": 1.0})
