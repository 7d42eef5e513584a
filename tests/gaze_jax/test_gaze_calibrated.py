"""Judging with calibration, of persons and of whole sets, against loops over single pictures."""

import dataclasses

import numpy as np
import pytest

from core_jax.data import rng
from gaze_jax import calibrate, evaluate, splits
from tests.gaze_jax.judged_toys import MODEL, SETTINGS, angle_deg, gaze_set, make_params, of_persons


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture(scope="module")
def data():
    return gaze_set()


@pytest.mark.parametrize("kind", ["mean_offset", "offset", "affine"])
def test_calibration_is_a_loop_over_persons_and_sides(params, data, kind):
    settings = dataclasses.replace(SETTINGS, k=(1, 7), calibrations=(kind,))
    rows, strangers = np.flatnonzero(data.person != 2), gaze_set(seed=5)
    held_out = (strangers, np.arange(len(strangers)))
    found = evaluate.calibrated(MODEL, params, data, rows, held_out, settings)
    assert {e.k for e in found} == ({7} if kind == "affine" else {1, 7})
    off = strangers.gaze - evaluate.predict_rows(MODEL, params, strangers, held_out[1])
    between, within = calibrate.spreads(off, strangers.person * 3 + strangers.side)
    predicted = evaluate.predict_rows(MODEL, params, data, np.arange(len(data)))
    for draw, picks in enumerate(splits.references(data, rows, 7, settings.draws)):
        for k in sorted({e.k or 0 for e in found}):
            errors = {}
            for row, references in zip(picks.scored, picks.references[:, :k]):
                residual = data.gaze[references] - predicted[references]
                if kind == "affine":
                    fitted = calibrate.fit(
                        kind,
                        predicted[references],
                        data.gaze[references],
                        between_sd=between,
                        within_sd=within,
                    )
                    made = calibrate.apply(fitted, predicted[row][None])[0]
                else:
                    shrunk = k * between**2 / (k * between**2 + within**2)
                    share = 1.0 if kind == "mean_offset" else shrunk
                    made = predicted[row] + share * residual.mean(0)
                name = data.persons[data.person[row]]
                errors.setdefault(name, []).append(angle_deg(made, data.gaze[row]))
            expected = {name: float(np.mean(values)) for name, values in errors.items()}
            assert of_persons(found, mode=kind, k=k, draw=draw) == pytest.approx(expected, rel=1e-4)


def test_adaptation_is_one_correction_for_a_whole_set(params, data):
    settings = dataclasses.replace(SETTINGS, adapt_k=(2, 9))
    found = evaluate.adapted(MODEL, params, data, settings)
    assert {(e.mode, e.k, e.draw) for e in found} == {
        (mode, k, draw)
        for mode, k in (("adapt_offset", 2), ("adapt_offset", 9), ("adapt_affine", 9))
        for draw in range(settings.draws)
    }
    predicted = evaluate.predict_rows(MODEL, params, data, np.arange(len(data)))
    for draw in range(settings.draws):
        order = rng.permutation(f"adapt:0:{draw}:toy", len(data))
        for k in settings.adapt_k:
            move = (data.gaze - predicted)[order[:k]].mean(0)
            errors: dict[str, list[float]] = {}
            for row in order[9:]:
                name = data.persons[data.person[row]]
                errors.setdefault(name, []).append(angle_deg(predicted[row] + move, data.gaze[row]))
            expected = {name: float(np.mean(values)) for name, values in errors.items()}
            made = of_persons(found, mode="adapt_offset", k=k, draw=draw)
            assert made == pytest.approx(expected, rel=1e-4)
    assert evaluate.adapted(dataclasses.replace(MODEL, predict=None), params, data, settings) == []
    assert evaluate.adapted(MODEL, params, data, SETTINGS) == []
    with pytest.raises(ValueError, match=r"adapt_k=\(100,\) needs more than 100 pictures"):
        evaluate.adapted(MODEL, params, data, dataclasses.replace(SETTINGS, adapt_k=(100,)))
    with pytest.raises(ValueError, match=r"adapt_k=\(101,\): expected numbers of 1 to 100"):
        evaluate.JudgeConfig(adapt_k=(101,))


def test_nobody_is_calibrated_without_strangers(params, data):
    rows = np.arange(len(data))
    one = (data, np.flatnonzero(data.person == 0))
    assert evaluate.calibrated(MODEL, params, data, rows, one, SETTINGS) == []
    blind = dataclasses.replace(MODEL, predict=None)
    assert evaluate.calibrated(blind, params, data, rows, (data, rows), SETTINGS) == []


def test_points_are_random_or_on_a_grid():
    with pytest.raises(ValueError, match="points holds 'x': expected of random, grid"):
        JudgeConfig(points="x")
