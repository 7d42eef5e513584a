"""A gaze run from configuration to what is loaded again: settings, training, resuming, folds, judging, results."""

import dataclasses
import json
import math
import pathlib
import types
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from core_jax import train
from core_jax.train.step import init_key
from gaze_jax import config, inputs, task, trained
from gaze_jax.networks import clip_towers
from gaze_jax.networks import registry as networks
from launch import config as launch_config
from launch import runs
from tests.gaze_jax.gaze_sets import smooth_set
from tests.gaze_jax.small_dfenet import SmallCFE, small_vision

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


@pytest.mark.parametrize("name", ["drnet", "dfenet"])
def test_variants_of_the_demos_have_their_preset(name):
    base = launch_config.load(f"configs/gaze_{name}_demo.py")
    faithful = config.read(launch_config.override(base, {"preset": "faithful"}))
    presets = {"drnet": networks.drnet.PRESETS, "dfenet": networks.dfenet.PRESETS}[name]
    found = dataclasses.asdict(getattr(faithful, name))
    assert {key: found[key] for key in presets["faithful"]} == presets["faithful"]
    assert faithful.data.self_pair == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "drnett"}, "config.model='drnett': expected one of drnet, dfenet"),
        ({"data": {"protocol_": "lopo"}}, "config.data.protocol_='lopo'.*config.data.protocol"),
        ({"data": {"protocol": "last", "fold": -1}}, "one fold only"),
        ({"data": {"cross": ("moon",)}}, "no data set 'moon'"),
        ({"data": {"cross": ("eyes_A",)}}, "which is what this run trains on"),
        (
            {"model": "dfenet", "dfenet": {"cuts": "quantile"}, "data": {"fold": -1}},
            "cuts would come from labels that other folds are judged on",
        ),
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


def test_signs_of_a_configuration_are_those_of_the_readers():
    from gaze_jax.readers.convention import negated_of

    for sign in ("ours", "negated"):
        found = config.read(settings(data={"sign": sign}))
        assert negated_of(found.data.sign) == (sign == "negated")


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
    own = task.result_lines(values, params_of(together), step=1, best=[1])
    known = {(line["fold"], line["selection"], line["epoch"]) for line in own}
    assert known == {(1, "best", 0)}
    assert trained.load(tmp_path, fold=1).params.trainable.keys() == alone["trainable"].keys()
    with pytest.raises(config.ConfigError, match="fold 2: expected 0 to 1"):
        trained.load(tmp_path, fold=2)


def test_results_of_every_mode_and_unseen_set(finished):
    values = settings(data={"cross": ("faces_B",), "validation": 1})
    values["data"]["cross"] = ("eyes_B",)
    values["test"]["adapt_k"] = (2,)
    lines = task.result_lines(values, params_of(finished[1]))
    assert {line["dataset"] for line in lines} == {"eyes_A", "eyes_B"}
    assert {line["protocol"] for line in lines} == {"lopo", "cross", "adapted"}
    apart = {line["protocol"] for line in lines if line["mode"].startswith("adapt_")}
    assert apart == {"adapted"}
    assert {line["dataset"] for line in lines if line["protocol"] == "adapted"} == {"eyes_B"}
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


def test_a_run_is_loaded_without_the_files_it_started_from(monkeypatch, tmp_path):
    draw = lambda key: train.Params(trainable={}, frozen={"clip": jax.random.normal(key, (3,))})
    built = []

    def build(settings, size, *, kind):
        files = settings.cfe.trunk_init, settings.face.weights, settings.dfenet.ldm
        built.append((*files, size, kind))
        return types.SimpleNamespace(init=draw)

    found = {"trainable": {"w": np.ones(2)}, "stats": {}}
    pins = {"clip": "a", "anchors": "b", "size": "8x6x3", "kind": "face", "camera": "eth_face"}
    monkeypatch.setattr(trained.networks, "build", build)
    monkeypatch.setattr(trained.networks, "pins", lambda settings: {"clip": "a"})
    monkeypatch.setattr(trained.train, "learned", lambda *_: (found, pins))
    values = {"task": "gaze", "model": "dfenet", "seed": 3, "face": {"weights": "gone"}}
    values["cfe"] = {"trunk_init": "gazetr", "weights": "gone"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    own = trained.load(tmp_path)
    assert built == [("scratch", "", False, (8, 6, 3), "face")]
    # A tower of random numbers is that of the run's seed, as the loop made it.
    np.testing.assert_array_equal(own.params.frozen["clip"], draw(init_key(3)).frozen["clip"])
    pins["clip"] = "another"
    with pytest.raises(config.ConfigError, match=r"the clip of config\.dfenet\.clip"):
        trained.load(tmp_path)


def test_what_is_no_gaze_run_is_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"no config\.json"):
        trained.load(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "gba"}')
    with pytest.raises(config.ConfigError, match="task gba; expected gaze"):
        trained.load(tmp_path)


def test_the_last_and_the_best_step_are_judged(monkeypatch, tmp_path):
    faces = smooth_set("face", persons=3, per_person=8, size=(8, 8, 3), name="faces_A")
    monkeypatch.setattr(inputs, "open_set", lambda settings: faces)
    values = settings(model="mean", recipe={"lr": 1.0, "epochs": 3, "batch_size": 8})
    values |= {"seed": 1, "fit": {"eval_every": 1, "keep": 1, "log_every": 1}}
    values["data"]["dataset"] = "faces_A"
    runs.train(ml_collections.ConfigDict(values), tmp_path, progress=False)
    lines = runs.evaluate(tmp_path)
    seen = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = {line["step"]: line["eval/error_deg"] for line in seen if "eval/error_deg" in line}
    best = min(errors, key=lambda step: errors[step])
    assert best < 6  # Else the test says nothing.
    found = {line["selection"]: line for line in lines}
    assert {name: (line["steps"], line["epoch"]) for name, line in found.items()} == {
        "last": (6, 3),
        "best": (best, best // 2),
    }
    for line in lines:
        assert line["angular_error_deg"] == pytest.approx(errors[line["steps"]], rel=1e-5)


def test_schedules_end_with_the_last_step():
    plain = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "epochs": 20, "schedule": "cosine"}
    values = settings(recipe=plain | {"weight_decay": 0.0, "warmup_epochs": 0.0}, steps=3)
    opened: Any = types.SimpleNamespace(config=config.read(values), steps_per_epoch=50)
    optimizer = inputs.optimizer(opened)
    state, sizes = optimizer.init(np.zeros(1, np.float32)), []
    for _ in range(4):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(np.ones(1, np.float32), state)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [1, 0.75, 0.25, 0], atol=1e-6)


@pytest.mark.parametrize("parts", ["small", pytest.param("real", marks=pytest.mark.slow)])
def test_the_demo_of_faces_trains_and_is_judged(parts, monkeypatch, tmp_path):
    faces = smooth_set("face", persons=6, per_person=4, size=(40, 40, 3), name="faces_A")
    monkeypatch.setattr(inputs, "open_set", lambda settings: faces)
    demo = launch_config.load("configs/gaze_dfenet_demo.py").to_dict()
    demo["recipe"]["batch_size"] = demo["test"]["batch_size"] = 4
    demo["data"]["held_out"] = 4
    demo["steps"] = 1
    if parts == "small":
        monkeypatch.setattr(networks.dfenet, "CFE", SmallCFE)
        monkeypatch.setattr(clip_towers, "vision", small_vision)
        demo["cfe"] |= {"image_size": 64, "width": 12, "heads": 2}
    built = task.build(demo)
    state = train.fit(built, OPTIONS, workdir=tmp_path, config_json=demo)
    lines = task.result_lines(demo, train.restore(built, workdir=tmp_path)[0])
    assert {(line["method"], line["anchors"]) for line in lines} == {("all", "ordinal")}
    assert {line["person"] for line in lines} == {"p02", "p03", "p04", "p05"}
    assert all(math.isfinite(line["angular_error_deg"]) for line in lines)
    assert set(state["trainable"]) == {"cfe", "fusion", "projection"}
    assert {"clip", "anchors"} <= set(built.pins)


def test_a_model_to_deploy_is_trained_on_everybody():
    opened = task.opened_folds(config.read(settings(data={"protocol": "all"})))[0]
    assert len(opened.train) == 32
    assert task.judged(opened) == []
