"""A run from configuration to predictor on a tiny embedded world: settings, training, resuming, judging, starting anew."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import train, world
from core_jax.world.scene_sets import SCENE_SPLITS
from gba_jax import config, inputs, task, trained, vocabulary
from launch import config as launch_config

CONFIGS = sorted(pathlib.Path("configs").glob("gba_*.py"))
COST = {"width": 8, "heads": 2, "layers": 1, "window": 4, "guide": 8, "lateral": (8, 8)}
COST |= {"features": (8, 4), "guides": (4, 2), "vocabulary": 0, "expansion": 1, "most_classes": 8}
OPTIONS = train.FitOptions(seed=1, log_every=1, save_every=2, progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes of 32 pixels: 6 to train on, 3 in every other split."""
    folder = tmp_path_factory.mktemp("world")
    counts = {"train": 6}
    splits = tuple(dataclasses.replace(s, count=counts.get(s.name, 3)) for s in SCENE_SPLITS)
    world.write_scenes(folder, size=32, splits=splits, progress=False)
    return folder


@pytest.fixture(scope="module")
def settings(root):
    """Makes a configuration with some values changed, such as adapters={"use": "sda"}."""

    def make(**changes):
        data = {"root": str(root), "unseen": "world", "judge": ("val", "novel"), "slots": 4}
        base = {
            "task": "gba",
            "clip": "world:student",
            "image_size": 32,
            "templates": "single",
            "data": data | changes.pop("data", {}),
            "cost": {"train_classes": 8, **COST},
            "batch_size": 2,
            "steps": 4,
            "test": {"batch_size": 3},
            "adapters": {"use": "both"},
        }
        return base | changes

    return make


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """(task, work directory) of a finished run with both adapters."""
    folder, built = tmp_path_factory.mktemp("runs") / "whole", task.build(settings())
    train.fit(built, OPTIONS, workdir=folder)
    return built, folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_can_be_read(path):
    found = config.read(launch_config.load(path))
    assert found.host in config.HOSTS
    assert found.adapters.use == ("none" if found.host == "maskclip" else "both")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "fcclip"}, "config.host='fcclip': expected one of maskclip, cost, masks"),
        ({"adapters": {"nrom": "none"}}, "config.adapters.nrom='none'.*config.adapters.norm"),
        ({"adapters": {"norm": "batch"}}, "config.adapters: .*norm='batch', expected one of"),
        ({"host": "maskclip"}, "a training-free host has no taps"),
        ({"data": {"judge": ("coco:val",)}}, "no data set 'coco'; there are coco_panoptic"),
        ({"adapters": {"refresh_steps": 5}}, "refresh_steps from refresh_epochs; set that"),
        (
            {"cost": {"form": "pyramid"}, "adapters": {"use": "sda", "sda_flow": "stop"}},
            "no gradient would reach SDA",
        ),
        ({"alpha": 1.5}, "config.alpha=1.5: expected 0 to 1"),
        ({"cost": {"width": 30}}, "config.cost: .*heads=4 do not divide a width of 30"),
        ({"adapters": {"use": "cca", "fill_bank": True}}, "there is no style bank to fill"),
        ({"host": "masks", "clip_finetune": "qv"}, "only config.host=cost trains"),
    ],
)
def test_settings_that_cannot_be_used(settings, changes, message):
    with pytest.raises(config.ConfigError, match=message.replace("(", r"\(")):
        config.read(settings(**changes))


def test_an_interrupted_run_goes_on_bit_for_bit(finished, tmp_path):
    built, folder = finished
    train.fit(dataclasses.replace(built, total_steps=2), OPTIONS, workdir=tmp_path)
    state = train.fit(built, OPTIONS, workdir=tmp_path, resume=True)
    whole, _ = train.learned(folder, ("trainable", "stats"))
    assert int(state["stats"]["gba"]["style_bank"]["pushed"]) == 8
    same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for group in ("trainable", "stats"):
        jax.tree.map(same, dict(state[group]), whole[group])


def test_results_say_what_was_judged_on_what(finished, settings):
    built, folder = finished
    params, step = train.restore(built, workdir=folder)
    assert step == 4
    found = built.evaluate(params.trainable, params.frozen, params.stats)
    lines = task.result_lines(settings(), found, built.pins)
    assert [line["split"] for line in lines] == ["val", "novel"]
    for line in lines:
        assert (line["task"], line["host"], line["adapters"]) == ("gba", "cost", "both")
        assert (line["dataset"], line["images"], line["vocabulary"]) == ("world_scenes", 3, 65)
        assert 0 <= line["miou"] <= 100
        assert line["shift"] is None
        assert line["clip_digest"] == built.pins["clip"]
    # Only seen words in one split: nothing to say of unseen ones.
    assert lines[0]["unseen"] is None
    assert lines[1]["unseen"] is not None


def test_a_run_as_a_predictor_needs_its_work_directory_alone(finished, settings):
    built, folder = finished
    arrays, pins = train.learned(folder, ("trainable", "stats"))
    assert pins["clip"] == built.pins["clip"]
    elsewhere = settings(data={"root": "/nowhere"})
    model = trained.predictor(elsewhere, arrays["trainable"], arrays["stats"])
    assert set(model.training.rows) == {"background", *world.SCENE_CLASSES} - world.SCENE_UNSEEN
    words = vocabulary.build(["red striped ring", "background"])
    opened = built.evaluate.args[0]
    text = opened.rows(words)
    seen = opened.seen(words, len(text.class_mask))
    images = opened.train[0].image[None]
    params, _ = train.restore(built, workdir=folder)
    ask = task.functions(opened.segmenter, params, text, seen)["score"]
    np.testing.assert_allclose(
        model.score(images, text, jnp.asarray(seen)), ask(images), rtol=0, atol=1e-6
    )


def test_a_host_can_start_from_another_run(finished):
    built, folder = finished
    there = train.learned(folder)[0]["trainable"]
    fresh = jax.tree.map(jnp.zeros_like, train.restore(built, workdir=folder)[0].trainable)
    anew = trained.start_from(str(folder), fresh)
    same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    jax.tree.map(same, anew["host"], there["host"])
    assert all(not leaf.any() for leaf in jax.tree.leaves(anew["gba"]))
    wider = fresh | {"host": fresh["host"] | {"embed": {"kernel": jnp.zeros((7, 7, 1, 16))}}}
    with pytest.raises(config.ConfigError, match=r"has another host \(2 differences\)") as error:
        trained.start_from(str(folder), wider)
    assert "host/embed/kernel: (7, 7, 1, 8) there, (7, 7, 1, 16) here" in str(error.value)
    with pytest.raises(config.ConfigError, match="no checkpoint yet"):
        trained.start_from("/nowhere", fresh)


def test_training_can_start_with_a_full_style_bank(settings, monkeypatch):
    def fill(backbone, clip_params, gba, params, batches, *, key):
        del backbone, clip_params, params, key
        assert gba.shallow == "block_0"
        assert next(iter(batches)).shape == (2, 32, 32, 3)
        return {"ready": jnp.ones((), bool)}

    monkeypatch.setattr(task, "fill_bank", fill)
    built = task.build(settings(adapters={"use": "sda", "fill_bank": True}))
    assert built.init(jax.random.key(0)).stats["gba"]["style_bank"] == {"ready": True}


@pytest.mark.parametrize(
    ("use", "shallow", "deep"),
    [("sda", "block_0", None), ("cca", None, "dense"), ("both", "block_0", "dense")],
)
def test_one_setting_chooses_the_adapters(settings, use, shallow, deep):
    built = inputs.open_inputs(config.read(settings(adapters={"use": use})))
    gba = built.segmenter.gba
    assert (gba.shallow, gba.deep) == (shallow, deep)
    # Three epochs of three batches.
    assert gba.config.refresh_steps == 9
    plain = inputs.open_inputs(config.read(settings(adapters={"use": "none"})))
    assert plain.segmenter.gba is None


def test_unseen_classes_are_masked(settings, tmp_path):
    opened = inputs.open_inputs(config.read(settings()))
    names = opened.train.classes
    left_out = {n for n, real in zip(names, np.asarray(opened.text.class_mask)) if not real}
    assert left_out == world.SCENE_UNSEEN
    path = tmp_path / "unseen.txt"
    path.write_text("Red striped  ring\n\ngreen plain square, lawn\n")
    words = opened.train.vocabulary
    assert np.asarray(words.classes)[inputs.unseen(str(path), words)].tolist() == sorted(
        ("red striped ring", "green plain square"), key=words.classes.index
    )
    path.write_text("purple cow\nred striped ring\nzebra\n")
    with pytest.raises(config.ConfigError, match="no class has the word 'purple cow', 'zebra'"):
        inputs.unseen(str(path), words)
    with pytest.raises(config.ConfigError, match="no readable text file"):
        inputs.unseen(str(tmp_path / "none.txt"), words)


def test_plans_that_a_tower_cannot_take(settings):
    opened = inputs.open_inputs(config.read(settings()))
    plan = lambda **test: inputs.plan(config.read(settings(test=test)), opened.clip.backbone)
    assert plan() == plan(plan="whole")
    with pytest.raises(config.ConfigError, match="a ViT takes squares of 32 pixels"):
        plan(plan="padded")
    with pytest.raises(config.ConfigError, match=r"config.test: .*stride <= window"):
        plan(plan="sliding", resize=64, stride=40)


def test_a_form_of_cost_aggregation_fits_one_kind_of_tower(settings):
    with pytest.raises(config.ConfigError, match=r"set config\.cost\.form=window"):
        inputs.open_inputs(config.read(settings(cost={"form": "pyramid"})))


def test_learning_rates_and_decay():
    base = config.Config(lr=1.0, steps=270, warmup=10)
    cosine = task.learning_rate(base)
    np.testing.assert_allclose([cosine(0), cosine(5), cosine(10)], [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(cosine(140), 0.5, atol=1e-6)
    steps = task.learning_rate(dataclasses.replace(base, schedule="steps"))
    np.testing.assert_allclose(
        [steps(239), steps(241), steps(259), steps(261)], [1, 0.1, 0.1, 0.01], rtol=1e-5
    )
    ones = lambda *shape: jnp.ones(shape)
    params = {
        "host": {"fc": {"kernel": ones(2, 2), "bias": ones(2)}, "norm": {"scale": ones(2)}},
        "gba": {
            "sda": {
                "gain": ones(2),
                "kernel3": ones(3, 3, 1, 2),
                "refine": {"out": ones(2, 2), "prompt": ones(2)},
            }
        },
        "clip": {"vision": {"kernel": ones(2, 2)}},
    }
    chosen = task.decayed(params)
    assert chosen["host"] == {
        "fc": {"kernel": True, "bias": False},
        "norm": {"scale": False},
    }
    own = chosen["gba"]["sda"]
    assert own == {"gain": False, "kernel3": True, "refine": {"out": True, "prompt": False}}
    settings = dataclasses.replace(base, warmup=0, weight_decay=0.0, host_lr=0.1)
    optimizer = task.optimizer(settings)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        moved, _ = optimizer.update(params, optimizer.init(params), params)
    # Adam's first step is the rate itself, whatever the gradient.
    for group, rate in {"gba": 1.0, "host": 0.1, "clip": 0.01}.items():
        for leaf in jax.tree.leaves(moved[group]):
            np.testing.assert_allclose(leaf, -rate, rtol=1e-4)
