"""A work directory that begins with arrays made elsewhere trains on as a run whose `init` had made them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import train
from core_jax.train import CheckpointError
from tests.core_jax.train import toy

CONFIG = {"name": "toy"}
W, B, STATS = jnp.array([1.0, 2.0, 3.0]), jnp.array(0.5), {"mean": jnp.array(4.0)}
OPTIONS = train.FitOptions(seed=3, log_every=5, progress=False)


def adopted(task, workdir):
    train.adopt(task, {"w": W, "b": B}, STATS, workdir=workdir, config_json=CONFIG, seed=3)


def test_training_from_adopted_arrays_is_training_from_an_init_that_made_them(tmp_path):
    task = toy.make(6, elastic=True)
    adopted(task, tmp_path / "adopted")
    params, step = train.restore(task, workdir=tmp_path / "adopted")
    assert step == 0
    np.testing.assert_array_equal(params.trainable["w"], W)
    np.testing.assert_array_equal(params.frozen["scale"], 2.0)
    arrays, _ = train.learned(tmp_path / "adopted", ("trainable", "stats"))
    np.testing.assert_array_equal(arrays["stats"]["mean"], 4.0)
    mine = train.fit(task, OPTIONS, workdir=tmp_path / "adopted", config_json=CONFIG, resume=True)

    def init(key):
        made = task.init(key)
        return dataclasses.replace(made, trainable={"w": W, "b": B}, stats=STATS)

    other = dataclasses.replace(task, init=init)
    theirs = train.fit(other, OPTIONS, workdir=tmp_path / "made", config_json=CONFIG)
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_what_cannot_be_adopted_is_listed_and_nothing_is_written(tmp_path):
    task = toy.make(6, elastic=True)
    wrong = {"w": jnp.ones(4), "c": B}
    with pytest.raises(train.AdoptError) as caught:
        train.adopt(task, wrong, STATS, workdir=tmp_path / "run", config_json=CONFIG, seed=3)
    for part in (
        "trainable/b: absent, expected float32[]",
        "trainable/c: float32[], expected nothing",
        "trainable/w: float32[4], expected float32[3]",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()
    adopted(task, tmp_path / "run")
    with pytest.raises(train.WorkdirError, match="already holds a run"):
        adopted(task, tmp_path / "run")


def test_data_that_cannot_begin_at_a_step_cannot_go_on(tmp_path):
    task = toy.make(6)
    adopted(task, tmp_path)
    with pytest.raises(CheckpointError, match="processes: 0 there, 1 now"):
        train.fit(task, OPTIONS, workdir=tmp_path, config_json=CONFIG, resume=True)
