"""Gaze networks on a mesh, in pieces, with less kept, in each precision: what a step computes stays the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.train import step
from core_jax.train.settings import ConfigError
from gaze_jax import inputs, task
from gaze_jax.networks import clip_towers
from gaze_jax.networks import registry as networks
from launch import config as launch_config
from tests.core_jax.train import eight
from tests.gaze_jax.gaze_sets import random_set, smooth_set
from tests.gaze_jax.small_dfenet import SmallCFE, small_vision

KEY = jax.random.key(3)


def drnet(**changes):
    """Every switch of it draws something."""
    small = {"input_size": (36, 60), "channels": 8, "hidden": 8, "backbone": "diffnn"}
    return {
        "task": "gaze",
        "model": "drnet",
        "drnet": {**small, "corrupt": 0.5, "augment": True},
        "recipe": {"epochs": 1, "batch_size": 8},
        "data": {"dataset": "eyes_A", "protocol": "lopo"},
        **changes,
    }


def lenet(**changes):
    """No batch normalisation, and a loss of pairs within the batch."""
    return drnet(**{"model": "lenet_eye", "pairwise": 0.25, **changes})


def dfenet(**changes):
    """All modules on small towers."""
    demo = launch_config.load("configs/gaze_dfenet_demo.py").to_dict()
    demo["recipe"]["batch_size"] = 8
    demo["data"]["held_out"] = 2
    demo["cfe"] |= {"image_size": 64, "width": 12, "heads": 2}
    return demo | {"steps": 1} | changes


def stand_in(patch, make=smooth_set):
    """Four persons with eight small eyes each, or six with four faces; small towers."""
    eyes = make(persons=4, per_person=8, name="eyes_A")
    faces = make("face", persons=6, per_person=4, size=(40, 40, 3), name="faces_A")
    patch(inputs, "open_set", lambda own, entry="": eyes if "eyes" in own.dataset else faces)
    patch(networks.dfenet, "CFE", SmallCFE)
    patch(clip_towers, "vision", small_vision)


@pytest.fixture(autouse=True)
def sets(monkeypatch):
    stand_in(monkeypatch.setattr)


def opened(values):
    made = task.build(values)
    batch = next(iter(made.train_data(1)))
    return (
        made,
        made.init(step.init_key(1)),
        {n: x for n, x in batch.items() if x.dtype.kind != "U"},
    )


def first_step(values):
    return eight.slope(*opened(values), KEY)


def test_pieces_change_nothing_of_a_loss_that_compares_the_batch():
    expected = first_step(lenet())
    assert "loss_pairwise" in expected[0][1].metrics
    eight.same(first_step(lenet(accumulate=4)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("values", [drnet, dfenet])
def test_what_is_computed_again_changes_nothing(values):
    eight.same(first_step(values(remat=True)), first_step(values()))


@pytest.mark.parametrize("values", [drnet, pytest.param(dfenet, marks=pytest.mark.slow)])
def test_normalising_by_the_batch_takes_no_pieces_unasked(values):
    with pytest.raises(
        ConfigError, match=r"config\.accumulate=2: .*statistics of the batch.*ghost"
    ):
        first_step(values(accumulate=2))


@pytest.mark.slow
def test_ghost_normalisation_is_that_of_each_piece_with_draws_of_its_own():
    made, params, batch = opened(drnet())
    stats, slopes = params.stats, []
    for piece in range(2):
        part = {name: x[piece::2] for name, x in batch.items()}
        key = jax.random.fold_in(KEY, piece)
        (value, aux), gradient = eight.slope(
            made, type(params)(trainable=params.trainable, stats=stats), part, key
        )
        slopes.append((value, gradient, aux.metrics))
        stats = aux.stats
    # Its loss is a mean over samples: of pieces of one size, it is the mean of theirs.
    value, gradient = jax.tree.map(lambda *x: sum(x) / 2, *[one[:2] for one in slopes])
    metrics = jax.tree.map(lambda *x: sum(x), *[one[2] for one in slopes])
    found = first_step(drnet(accumulate=2, ghost_norm=True))
    expected = (value, type(aux)(stats=stats, metrics=metrics)), gradient
    eight.same(found, expected)


@pytest.mark.slow
def test_half_precision_is_near_and_parity_is_full():
    (value, _), _ = first_step(drnet())
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its norms
        (half, _), gradient = first_step(drnet(dtype="bfloat16"))
    np.testing.assert_allclose(half, value, rtol=0.1)
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    try:
        for values in (drnet, dfenet):
            lines = eight.products(eight.lowered(task.build(values(dtype="parity"))))
            assert lines
            assert all("bf16" not in line and line.count("HIGHEST") == 2 for line in lines)
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def on_eight():
    # Noise: in smooth pictures neighbours are nearly equal, and rounding decides which one a maximum takes.
    stand_in(setattr, random_set)
    values: Any
    for values in (drnet(remat=True), lenet(accumulate=2), dfenet()):
        values["recipe"]["batch_size"] = 16
        eight.check(task.build(values))


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    eight.run("tests.gaze_jax.test_gaze_memory.on_eight")
