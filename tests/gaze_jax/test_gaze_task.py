"""A gaze run from configuration to what is loaded again: settings, training, resuming, folds, judging, results."""

import dataclasses
import math
import pathlib

import jax
import numpy as np
import pytest

from core_jax import train
from gaze_jax import config, inputs, task, trained
from launch import config as launch_config
from tests.gaze_jax.gaze_sets import smooth_set

CONFIGS = sorted(pathlib.Path("configs").glob("gaze_*.py"))
OPTIONS = train.FitOptions(seed=1, log_every=1, save_every=2, progress=False)


@pytest.fixture(autouse=True)
def eyes(monkeypatch):
    """Any data set is four persons with eight small eyes each."""
    found = smooth_set(persons=4, per_person=8, name="eyes_A")
    monkeypatch.setattr(inputs, "open_set", lambda settings, entry="": other(found, entry))
    return found


def other(found, entry):
    return dataclasses.replace(found, name=entry) if entry else found


def settings(**changes):
    """A configuration with some values changed, such as data={"fold": 1}."""
    base = {
        "task": "gaze",
        "model": "drnet",
        "drnet": {"input_size": (36, 60), "channels": 8, "hidden": 8, "backbone": "diffnn"},
        "recipe": {"epochs": 2, "batch_size": 8, "warmup_epochs": 0.0},
        "data": {"dataset": "eyes_A", "protocol": "lopo"},
        "test": {"k": (1, 2), "draws": 2, "batch_size": 16},
    }
    return {
        key: base.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in (base | changes).items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Work directory and last state of a run of one fold."""
    folder = tmp_path_factory.mktemp("runs") / "fold"
    with pytest.MonkeyPatch.context() as patch:
        found = smooth_set(persons=4, per_person=8, name="eyes_A")
        patch.setattr(inputs, "open_set", lambda settings, entry="": other(found, entry))
        values = settings()
        state = train.fit(task.build(values), OPTIONS, workdir=folder, config_json=values)
    return folder, state


def params_of(state):
    return train.Params(trainable=state["trainable"], stats=state["stats"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_can_be_read(path):
    found = config.read(launch_config.load(path))
    assert found.model in ("drnet", "dfenet")
    assert found.recipe.epochs > 0


def test_preset_and_recipe_come_first_and_single_values_replace_them():
    found = config.read({"preset": "faithful", "drnet": {"weight": 0.25}, "recipe": {"epochs": 3}})
    assert (found.drnet.weight, found.drnet.normalise, found.drnet.corrupt) == (0.25, "scale", 0.0)
    assert (found.recipe.epochs, found.recipe.weight_decay, found.data.self_pair) == (3, 1e-4, 0.0)
    assert config.read({"model": "lenet_eye"}).recipe.optimizer == "sgd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "drnett"}, "config.model='drnett': expected one of drnet, dfenet"),
        ({"data": {"protocl": "lopo"}}, "config.data.protocl='lopo'.*config.data.protocol"),
        ({"data": {"protocol": "last", "fold": -1}}, "one fold only"),
        ({"data": {"cross": ("moon",)}}, "no data set 'moon'"),
        ({"pairwise": 0.25}, "a loss of differences already"),
        ({"data": {"self_pair": 1.5}}, "expected a probability"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.read(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gazetr_hybrid"}, "looks at faces and eyes_A has eyes"),
        ({"recipe": {"batch_size": 100}}, "more than the 24 training samples"),
        ({"data": {"validation": 3}}, "somebody must be left to train on"),
    ],
)
def test_what_does_not_fit_together_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        task.build(settings(**changes))


def test_head_pose_that_is_missing_is_named(eyes, monkeypatch):
    without = dataclasses.replace(eyes, has_head=np.zeros(len(eyes), bool))
    monkeypatch.setattr(inputs, "open_set", lambda settings: without)
    with pytest.raises(ValueError, match=r"32 of 32 samples.*uses_head=False"):
        task.build(settings())


def test_nobody_is_trained_on_and_judged():
    opened = task.opened_folds(config.read(settings(data={"fold": 1, "validation": 1})))[0]
    persons = lambda rows: set(opened.gaze_set.person[rows].tolist())
    assert persons(opened.split.test) == {1}
    assert persons(opened.validation) == {3}
    assert persons(opened.train) == {0, 2}


def test_resumed_equals_uninterrupted(finished, tmp_path):
    values, (_, straight) = settings(), finished
    cut = dataclasses.replace(task.build(values), total_steps=2)
    train.fit(cut, OPTIONS, workdir=tmp_path / "cut", config_json=values)
    (tmp_path / "cut" / "timing.json").unlink()
    resumed = train.fit(
        task.build(values), OPTIONS, workdir=tmp_path / "cut", config_json=values, resume=True
    )
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_folds_side_by_side_are_the_folds_alone(tmp_path):
    # Adam would turn the rounding of tiny gradients into steps of full size.
    plain = {"optimizer": "sgd", "lr": 1e-2, "weight_decay": 0.0}
    own = {"drnet": {"use": "absolute"}, "recipe": plain, "steps": 2, "test": {"modes": ()}}
    values = settings(**own, data={"protocol": "clusters", "clusters": 2, "fold": -1})
    together = train.fit(task.build(values), OPTIONS, workdir=tmp_path, config_json=values)
    values["data"]["fold"] = 1
    alone = train.fit(task.build(values), OPTIONS, workdir=tmp_path / "1", config_json=values)
    for group in ("trainable", "stats"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5),
            together[group],
            alone[group],
        )
    values["data"]["fold"] = -1
    lines = task.result_lines(values, params_of(together))
    assert {(line["fold"], line["person"]) for line in lines} == {
        (0, "p00"), (0, "p02"), (1, "p01"), (1, "p03")
    }  # fmt: skip
    assert trained.load(tmp_path, fold=1).params.trainable.keys() == alone["trainable"].keys()
    with pytest.raises(config.ConfigError, match="fold 2: expected 0 to 1"):
        trained.load(tmp_path, fold=2)


def test_results_of_every_mode_and_unseen_set(finished):
    values = settings(data={"cross": ("faces_B",), "validation": 1})
    values["data"]["cross"] = ("eyes_B",)
    lines = task.result_lines(values, params_of(finished[1]))
    assert {line["dataset"] for line in lines} == {"eyes_A", "eyes_B"}
    assert {line["protocol"] for line in lines} == {"lopo", "cross"}
    own = [line for line in lines if line["protocol"] == "lopo"]
    assert {line["mode"] for line in own} == {"single", "calib", "diffnn", "blend"}
    assert all(math.isfinite(line["angular_error_deg"]) for line in lines)
    found = task.build(values).evaluate(finished[1]["trainable"], {}, finished[1]["stats"])
    single = next(line for line in own if line["mode"] == "single")
    np.testing.assert_allclose(found["error_deg"], single["angular_error_deg"], rtol=1e-5)
    assert {"calib_k2_error_deg", "eyes_B/error_deg"} <= set(found)


def test_a_run_is_loaded_without_its_data(finished, monkeypatch):
    monkeypatch.setattr(inputs, "open_set", None)
    found = trained.load(finished[0])
    assert (found.model.name, found.camera.name) == ("drnet", "mpiigaze_eye")
    jax.tree.map(np.testing.assert_array_equal, found.params.trainable, finished[1]["trainable"])


def test_what_is_no_gaze_run_is_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"no config\.json"):
        trained.load(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "gba"}')
    with pytest.raises(config.ConfigError, match="task gba; expected gaze"):
        trained.load(tmp_path)


def test_a_model_to_deploy_is_trained_on_everybody():
    opened = task.opened_folds(config.read(settings(data={"protocol": "all"})))[0]
    assert len(opened.train) == 32
    assert task.judged(opened) == []
