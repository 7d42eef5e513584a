"""What a run's kept-back persons say about its errors, and when they say nothing."""

import dataclasses
import functools
import json
import types

import numpy as np
import pytest

from core_jax.train import Params
from gaze_jax import calibrate, config, evaluate
from gaze_jax.people import calibration_file, strangers
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


COMPARING = eye_toy(references=True)
# Everybody looks aside, which references say and this network's own answer (straight ahead) does not.
ASIDE = dataclasses.replace(FOUND, gaze=0.1 * FOUND.gaze + np.float32(0.3))


def test_the_blend_is_that_of_judging_and_is_kept_with_the_run(run, tmp_path, caplog, monkeypatch):
    # Few values are tried, which compiles faster.
    monkeypatch.setattr(evaluate, "fit_blend", functools.partial(evaluate.fit_blend, steps=2))
    given = {"root": str(tmp_path), "validation": 1}
    test = {"k": (1, 2), "draws": 2, "seed": 3, "batch_size": 8}
    run.model, run.config = COMPARING, config.read({"data": given, "test": test})
    opened = types.SimpleNamespace(gaze_set=ASIDE, validation=ROWS, pins=PINS)
    run.opened = lambda given: opened
    judged = evaluate.fit_blend(COMPARING, PARAMS, ASIDE, ROWS, run.config.test)
    assert judged[1] >= 0.5
    assert {k: strangers.blend(tmp_path, k) for k in (1, 2)} == judged
    kept = json.loads((tmp_path / "blend.json").read_text())["folds"]["0"]
    assert kept["blend"] == {"1": judged[1], "2": judged[2]}
    assert kept["model_digest"] == calibration_file.model_digest(PARAMS)
    # A number of references that judging does not ask for is fitted beside them.
    fitted = strangers.blend(tmp_path, 3)
    alone = dataclasses.replace(run.config.test, k=(3,))
    assert fitted == evaluate.fit_blend(COMPARING, PARAMS, ASIDE, ROWS, alone)[3]
    assert strangers.blend(tmp_path, 1, fold=0) == judged[1]
    # What was kept needs no data set; what was not, and another network, does.
    run.opened = unreadable
    assert [strangers.blend(tmp_path, k) for k in (1, 2, 3)] == [*judged.values(), fitted]
    assert not caplog.text
    assert strangers.blend(tmp_path, 4) is None
    assert "the usual blend is assumed: the run's data set cannot be read" in caplog.text
    run.params = Params(trainable={"gaze": np.zeros(2, np.float32)})
    assert strangers.blend(tmp_path, 1) is None


def test_without_a_blend_the_reason_is_said(run, tmp_path, caplog):
    # One head alone has nothing to mix.
    for model in (eye_toy(), eye_toy(references=True, predict="none")):
        run.model = model
        assert strangers.blend(tmp_path, 1) is None
    assert not caplog.text
    run.model = COMPARING
    assert strangers.blend(tmp_path, 9) is None
    assert "usual blend is assumed: random: nobody has more than k=9 pictures" in caplog.text
    run.config = changed(run, validation=0)
    assert strangers.blend(tmp_path, 1) is None
    assert "kept 0 persons back" in caplog.text
    assert not (tmp_path / "blend.json").exists()
    (tmp_path / "blend.json").write_text("{}")
    with pytest.raises(ValueError, match=r"blend\.json: expected format .* delete it"):
        strangers.blend(tmp_path, 1)
