"""A set that lies on the device against the same set streamed: batches, runs, folds, resuming."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import train
from gaze_jax import config, data, inputs, resident, task
from gaze_jax.model import Model, References
from tests.gaze_jax.gaze_sets import random_set, smooth_set

SET = random_set(persons=3, per_person=8, size=(4, 6, 1))
OPTIONS = train.FitOptions(seed=1, log_every=1, save_every=3, progress=False)


@pytest.mark.parametrize("pairs", [None, data.Pairs(self_probability=0.3)])
def test_gathered_batches_are_those_of_the_stream(pairs):
    streamed, numbers = (
        iter(data.train_data(SET, np.arange(16), batch_size=4, seed=3, pairs=pairs, rows_only=only))
        for only in (False, True)
    )
    init = lambda key: train.Params(trainable={"w": key})
    found = resident.init(init, SET, jax.random.key(0)).frozen["set"]
    gather = jax.jit(resident.gather)
    for expected, rows in itertools.islice(zip(streamed, numbers, strict=True), 9):
        assert set(rows) == {"index"} | ({"ref_index"} if pairs else set())
        batch = gather(found, rows)
        assert set(batch) == set(expected)
        for name, array in batch.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


def linear(config, size, *_, kind):
    """A network that compares, and is compiled in no time."""
    del config

    def loss(trainable, frozen, stats, batch, key):
        del frozen
        see = lambda name: batch[name].reshape(len(batch[name]), -1).astype(jnp.float32) / 255
        found = see("image") @ trainable["w"] - see("ref_image") @ trainable["w"]
        noise = jax.random.normal(key, found.shape)
        error = found + noise - (batch["gaze"] - batch["ref_gaze"]) + batch["ref_head"]
        return jnp.mean(error**2), train.Aux(stats=stats)

    return Model(
        name="drnet",
        kind=kind,
        size=size,
        uses_head=False,
        init=lambda key: train.Params(
            trainable={"w": jax.random.normal(key, (math.prod(size), 2))},
            stats={"mean": jnp.zeros(2)},
        ),
        loss=loss,
        predict=None,
        features=lambda *_: jnp.zeros((0, 0)),
        references=References(encode=lambda *_: {}, compare=lambda *_: (None, None)),
    )


def settings(where, **changes):
    return {
        "task": "gaze",
        "drnet": {"input_size": (36, 60), "channels": 8, "hidden": 8, "backbone": "diffnn"},
        "recipe": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0.0},
        "data": {"protocol": "clusters", "clusters": 2, "resident": where} | changes,
    }


@pytest.mark.parametrize(
    ("network", "fold"),
    [
        ("linear", -1),
        pytest.param("drnet", 0, marks=pytest.mark.slow),
        pytest.param("drnet", -1, marks=pytest.mark.slow),
    ],
)
def test_a_set_on_the_device_changes_no_run_and_no_resumed_one(
    network, fold, monkeypatch, tmp_path
):
    eyes = smooth_set(persons=4, per_person=6, name="eyes_A")
    monkeypatch.setattr(inputs, "open_set", lambda settings, entry="": eyes)
    if network == "linear":
        monkeypatch.setattr(inputs.networks, "build", linear)
    fit = lambda built, name, **more: train.fit(built, OPTIONS, workdir=tmp_path / name, **more)
    streamed = fit(task.build(settings("False", fold=fold)), "streamed")
    built = task.build(settings(True, fold=fold))
    assert set(next(iter(built.train_data(1)))) == {"index", "ref_index"}
    fit(dataclasses.replace(built, total_steps=3), "cut")
    # The first part of the run is all that a killed one would have left.
    (tmp_path / "cut" / "timing.json").unlink()
    resumed = fit(built, "cut", resume=True)
    jax.tree.map(np.testing.assert_array_equal, streamed, resumed)
    params, _ = train.restore(built, workdir=tmp_path / "cut")
    assert set(params.frozen) == {"set"}


def test_sets_in_memory_lie_on_accelerators(monkeypatch):
    lazy: Any = dataclasses.replace(SET, images=list(range(len(SET))))
    choices = lambda: [resident.chosen("auto", one) for one in (SET, lazy)]
    assert choices() == [False, False]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choices() == [True, False]
    assert not resident.chosen("False", SET)
    assert resident.chosen("True", lazy)
    monkeypatch.setattr(resident, "RESIDENT_BYTES", 24 * 4 * 6 - 1)
    assert choices() == [False, False]


def test_whether_a_set_is_resident_is_one_of_three_words():
    assert config.read(settings(False)).data.resident == "False"
    with pytest.raises(config.ConfigError, match=r"data\.resident='maybe': expected one of auto"):
        config.read(settings("maybe"))
