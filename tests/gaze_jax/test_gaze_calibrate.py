"""Personal calibration against closed forms, regularised least squares written out, and simulated persons."""

from typing import Any

import numpy as np
import pytest

from gaze_jax import calibrate

SP, SE = 0.05, 0.08


def _data(k, seed=0):
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(-0.4, 0.4, (k, 2))
    return rng, predicted, predicted + rng.normal(0.03, SE, (k, 2))


def _fit(kind, predicted, true, features=None, between: Any = SP, within=SE):
    return calibrate.fit(kind, predicted, true, features, between_sd=between, within_sd=within)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_offset_is_the_shrunk_mean_residual(k):
    _, predicted, true = _data(k)
    got = _fit("offset", predicted, true, between=np.array([SP, 2 * SP]))
    for angle, sp in enumerate((SP, 2 * SP)):
        share = k * sp**2 / (k * sp**2 + SE**2)
        mean = np.mean(true[:, angle] - predicted[:, angle])
        np.testing.assert_allclose(got.offset_rad[angle], share * mean)
    np.testing.assert_allclose(calibrate.apply(got, predicted), predicted + got.offset_rad)
    assert (got.kind, got.count, got.weight.shape) == ("offset", k, (0, 2))


def test_persons_who_do_not_differ_get_no_offset():
    _, predicted, true = _data(5)
    assert not _fit("offset", predicted, true, between=0.0).offset_rad.any()


@pytest.mark.parametrize("k", [7, 20])
def test_the_affine_map_is_least_squares_ridged_to_the_identity(k):
    _, predicted, true = _data(k)
    got = _fit("affine", predicted, true)
    centred = predicted - predicted.mean(0)
    # Unknowns of one angle: offset, two slopes of the residual; priors as extra rows.
    rows = np.concatenate([np.c_[np.ones(k), centred] / SE, np.diag([1 / SP, 10, 10])])
    for angle in range(2):
        residual = true[:, angle] - predicted[:, angle]
        answer = np.linalg.lstsq(rows, np.r_[residual / SE, 0, 0, 0])[0]
        expected = predicted[:, angle] + answer[0] + centred @ answer[1:]
        np.testing.assert_allclose(calibrate.apply(got, predicted)[:, angle], expected)


@pytest.mark.parametrize("width", [4, 40])
def test_the_ridge_on_features_is_regularised_least_squares(width):
    rng, predicted, true = _data(12)
    features = rng.normal(3, 2, (12, width))
    got = _fit("ridge", predicted, true, features)
    centred = features - features.mean(0)
    size = np.sqrt(np.mean(np.sum(centred**2, 1)))
    rows = np.concatenate([centred / size / SE, np.eye(width) / SP])
    share = 12 * SP**2 / (12 * SP**2 + SE**2)
    fresh = rng.normal(3, 2, (5, width))
    moved = calibrate.apply(got, np.zeros((5, 2)), fresh)
    for angle in range(2):
        residual = true[:, angle] - predicted[:, angle]
        stacked = np.r_[(residual - residual.mean()) / SE, np.zeros(width)]
        answer = np.linalg.lstsq(rows, stacked)[0]
        expected = share * residual.mean() + (fresh - features.mean(0)) / size @ answer
        np.testing.assert_allclose(moved[:, angle], expected, atol=1e-12)


@pytest.mark.parametrize(("kind", "least"), [("affine", 7), ("ridge", 9)])
def test_with_fewer_pictures_it_is_an_offset_and_says_so(kind, least, caplog):
    _, predicted, true = _data(least - 1)
    got = _fit(kind, predicted, true, np.ones((least - 1, 3)))
    assert got.kind == "offset"
    np.testing.assert_array_equal(got.offset_rad, _fit("offset", predicted, true).offset_rad)
    assert f"{kind} calibration needs {least} labelled pictures and has {least - 1}" in caplog.text


def test_more_is_only_done_when_it_helps():
    """Persons with offsets only: an affine map of many pictures stays near the identity and no worse than the offset."""
    rng, errors = np.random.default_rng(1), {kind: [] for kind in ("none", "offset", "affine")}
    for _ in range(60):
        bias = rng.normal(0, SP, 2)
        true = rng.uniform(-0.4, 0.4, (209, 2))
        predicted = true - bias + rng.normal(0, SE, true.shape)
        errors["none"].append(np.abs(true - predicted)[9:].mean())
        for kind in ("offset", "affine"):
            fitted = _fit(kind, predicted[:9], true[:9])
            moved = calibrate.apply(fitted, predicted[9:])
            errors[kind].append(np.abs(true[9:] - moved).mean())
    means = {kind: np.mean(values) for kind, values in errors.items()}
    assert means["offset"] < 0.95 * means["none"]
    assert means["affine"] < 1.03 * means["offset"]


def test_one_picture_does_not_hurt():
    """A plain offset of one noisy picture does; the shrunk one is better than none."""
    rng, none, plain, shrunk = np.random.default_rng(2), [], [], []
    for _ in range(300):
        bias = rng.normal(0, SP, 2)
        error = bias + rng.normal(0, SE, (50, 2))
        fitted = _fit("offset", np.zeros((1, 2)), error[:1])
        none.append(np.abs(error[1:]).mean())
        plain.append(np.abs(error[1:] - error[0]).mean())
        shrunk.append(np.abs(error[1:] - fitted.offset_rad).mean())
    assert np.mean(plain) > np.mean(none) > np.mean(shrunk)


def test_yaws_are_compared_the_short_way_round():
    predicted, true = np.array([[0.0, 3.1], [0, -3.1]]), np.array([[0.0, -3.1], [0.0, -3.0]])
    got = _fit("offset", predicted, true, between=1e3)
    np.testing.assert_allclose(got.offset_rad, [0, (2 * np.pi - 6.2 + 0.1) / 2], atol=1e-6)
    moved = calibrate.apply(got, predicted)
    assert np.abs(moved[:, 1]).max() <= np.pi


def test_spreads_between_and_within_persons():
    rng = np.random.default_rng(3)
    persons = np.repeat(np.arange(400), rng.integers(2, 12, 400))
    bias = rng.normal(0.02, [0.05, 0.1], (400, 2))
    errors = bias[persons] + rng.normal(0, [0.08, 0.03], (len(persons), 2))
    between, within = calibrate.spreads(errors, persons)
    np.testing.assert_allclose(between, [0.05, 0.1], rtol=0.1)
    np.testing.assert_allclose(within, [0.08, 0.03], rtol=0.1)
    # Equal groups: the textbook mean squares.
    equal, who = errors[:60], np.repeat(["a", "b", "c"], 20)
    means = equal.reshape(3, 20, 2).mean(1)
    msb = 20 * means.var(0, ddof=1)
    msw = equal.reshape(3, 20, 2).var(1, ddof=1).mean(0)
    between, within = calibrate.spreads(equal, who)
    np.testing.assert_allclose(within, np.sqrt(msw))
    np.testing.assert_allclose(between, np.sqrt(np.maximum(msb - msw, 0) / 20))


def test_the_grid_is_what_lies_nearest_to_it():
    places = np.stack(np.meshgrid([-0.3, -0.1, 0.1], [-0.4, 0, 0.4], indexing="ij"), -1)
    places = places.reshape(-1, 2)
    rng = np.random.default_rng(4)
    others = rng.uniform([-0.25, -0.3], [0.05, 0.3], (50, 2))
    others = others[np.abs(others[:, None] - places).max(-1).min(-1) > 0.02]
    labels = np.concatenate([others, places])
    rows = calibrate.grid(labels)
    assert set(rows) == set(range(len(others), len(labels)))
    assert rows[0] == len(others) + 4, "the middle comes first"
    np.testing.assert_array_equal(calibrate.grid(labels, 5), rows[:5])
    assert len(set(calibrate.grid(np.zeros((9, 2))))) == 9
    for count in (0, 10):
        with pytest.raises(ValueError, match=f"{count} points of a grid"):
            calibrate.grid(labels, count)


def test_what_cannot_be_fitted_is_refused():
    _, predicted, true = _data(9)
    with pytest.raises(ValueError, match="'spline': expected one of offset, affine, ridge"):
        _fit("spline", predicted, true)
    with pytest.raises(ValueError, match="k >= 1"):
        _fit("offset", predicted[:0], true[:0])
    with pytest.raises(ValueError, match="features of shape None for 9 predictions"):
        _fit("ridge", predicted, true)
    with pytest.raises(ValueError, match="between >= 0 and within > 0"):
        _fit("offset", predicted, true, within=0.0)
    true[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 9 in labels"):
        _fit("offset", predicted, true)
    ridge = _fit("ridge", predicted, predicted, np.ones((9, 4)))
    with pytest.raises(ValueError, match="features of width 3: the calibration was fitted on 4"):
        calibrate.apply(ridge, predicted, np.ones((9, 3)))
    with pytest.raises(ValueError, match="at least two persons"):
        calibrate.spreads(np.zeros((3, 2)), np.zeros(3))
