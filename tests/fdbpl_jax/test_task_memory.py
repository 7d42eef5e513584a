"""FDBPL on a mesh, in pieces, with less kept, in each precision: what a step computes stays the same."""

import json
import pathlib

import jax
import numpy as np
import pytest

from core_jax.train import step
from core_jax.train.settings import ConfigError
from fdbpl_jax import config, task
from tests.core_jax.train import eight

ONLINE = {"method": "kdpl", "teacher_source": "online", "data__fresh": "False"}
WAYS = {
    # Pairs of regions in PCD, weights in L_pos: nothing of it is a mean over pieces.
    "stored": {},
    "pictures": {"data__source": "images"},
    "online": ONLINE,
}


@pytest.fixture(scope="module", params=list(WAYS))
def way(request, built):
    """(changes, first step with them)."""
    changes = WAYS[request.param]
    return changes, first_step(built(**changes))


def first_step(values):
    made = task.build(values)
    params = made.init(step.init_key(1))
    return eight.slope(made, params, next(iter(made.train_data(1))))


def test_pieces_and_text_computed_again_change_nothing(way, built):
    changes, expected = way
    eight.same(first_step(built(**changes, accumulate=4, remat=True)), expected)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("stored", marks=pytest.mark.slow),
        pytest.param("pictures", marks=pytest.mark.slow),
        "online",
    ],
    indirect=True,
)
def test_bfloat16_is_near_and_parameters_stay_float32(way, built):
    changes, ((value, _), _) = way
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its norms
        (half, _), gradient = first_step(built(**changes, dtype="bfloat16"))
    np.testing.assert_allclose(half, value, rtol=0.1)
    assert {x.dtype.name for x in jax.tree.leaves(gradient)} == {"float32"}


def test_parity_computes_every_product_in_full_float32(built):
    try:
        lines = eight.products(eight.lowered(task.build(built(**ONLINE, dtype="parity"))))
        assert lines
        assert all("bf16" not in line and line.count("HIGHEST") == 2 for line in lines)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    with jax.numpy_dtype_promotion("standard"):
        lines = eight.products(eight.lowered(task.build(built(**ONLINE, dtype="bfloat16"))))
    assert any("bf16" in line for line in lines)
    assert not all("HIGHEST" in line for line in lines)


def test_values_that_cannot_be_used(built):
    with pytest.raises(ConfigError, match=r"config.dtype='half': .*\n.*config.accumulate=0"):
        config.read(built(dtype="half", accumulate=0))
    with pytest.raises(ConfigError, match=r"config\.accumulate=3: a batch of 8"):
        first_step(built(accumulate=3))


def on_eight(path):
    for values in json.loads(pathlib.Path(path).read_text()):
        eight.check(task.build(values))


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(built, tmp_path):
    path = tmp_path / "config.json"
    ways = [{"remat": True, "accumulate": 2}, ONLINE]
    path.write_text(json.dumps([built(**changes).to_dict() for changes in ways]))
    eight.run("tests.fdbpl_jax.test_task_memory.on_eight", str(path))
