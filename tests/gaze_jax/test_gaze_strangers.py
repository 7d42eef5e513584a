"""What a run's kept-back persons say about its errors, and when they say nothing."""

import dataclasses
import types

import numpy as np
import pytest

from gaze_jax import calibrate, config
from gaze_jax.people import strangers
from tests.gaze_jax.gaze_sets import random_set
from tests.gaze_jax.gaze_toys import PARAMS, eye_toy

FOUND = random_set(persons=4, per_person=8)
ROWS = np.arange(8, 32)
PINS = {"data": "d", "rows": "r"}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run whose last three persons were kept back, whose parts a test may change."""
    settings = config.read({"data": {"root": str(tmp_path), "validation": 3}})
    made = types.SimpleNamespace(model=eye_toy(), params=PARAMS, config=settings, pins=dict(PINS))
    opened = types.SimpleNamespace(gaze_set=FOUND, validation=ROWS, pins=PINS)
    made.opened = lambda given: opened if given.data.fold >= 0 else None
    monkeypatch.setattr(strangers.trained, "load", lambda workdir, fold: made)
    monkeypatch.setattr(strangers.inputs, "open_inputs", lambda given: made.opened(given))
    monkeypatch.setattr(strangers.train, "learned", lambda workdir: ({}, made.pins))
    return made


def changed(run, **values):
    return dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, **values))


def known(*run):
    found = strangers.spreads(*run)
    assert found is not None
    return found


def test_spreads_are_those_of_the_persons_that_were_kept_back(run):
    off = FOUND.gaze[ROWS] - PARAMS.trainable["gaze"]
    expected = calibrate.spreads(off, FOUND.person[ROWS] * 3 + FOUND.side[ROWS])
    np.testing.assert_allclose(known("run"), expected, atol=1e-6)
    # All folds together: the fold that is asked for, whose rows have no pin of their own.
    run.config, run.pins = changed(run, fold=-1, protocol="lopo"), {"data": "d", "stacked": "s"}
    np.testing.assert_allclose(known("run", 2), expected, atol=1e-6)


def unreadable(given):
    raise ValueError("no file")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: {"config": changed(run, validation=1)}, "kept 1 persons back"),
        (lambda run: {"config": changed(run, root="absent")}, "not here (data.root=absent)"),
        (lambda run: {"model": eye_toy(predict="none", references=True)}, "says nothing of one"),
        (lambda run: {"pins": {"data": "d", "rows": "x"}}, "has changed since the run"),
        (lambda run: {"opened": unreadable}, "cannot be read: no file"),
    ],
    ids=["one person", "no folder", "no answer", "other rows", "unreadable"],
)
def test_without_them_nothing_is_known_and_the_reason_is_said(run, change, why, caplog):
    for name, value in change(run).items():
        setattr(run, name, value)
    assert strangers.spreads("run") is None
    assert "usual spreads of errors are assumed" in caplog.text
    assert why in caplog.text
