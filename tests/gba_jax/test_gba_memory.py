"""GBA on a mesh, in pieces, with less kept, in each precision: what a step computes stays the same."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from core_jax import world
from core_jax.train import step
from core_jax.train.settings import ConfigError
from core_jax.world.scene_sets import SCENE_SPLITS
from gba_jax import config, task
from tests.core_jax.train import eight
from tests.gba_jax.test_task import COST

MASKS = {"queries": 4, "layers": 1, "heads": 2, "width": 16, "feed_forward": 16, "groups": 4}
MASKS |= {"pixel_decoder": "fpn_attn", "pixel_layers": 1, "pixel_feed_forward": 16}
LOSS = {"points": 32, "match": {"points": 32}}
CCA = {"use": "cca", "sample_vocabulary": 0.0}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A function (changes) -> configuration on scenes of 32 pixels."""
    root = tmp_path_factory.mktemp("world")
    splits = tuple(dataclasses.replace(s, count={"train": 8}.get(s.name, 1)) for s in SCENE_SPLITS)
    world.write_scenes(root, size=32, splits=splits, progress=False)

    def make(**changes):
        base = {
            "task": "gba",
            "clip": "world:student",
            "image_size": 32,
            "templates": "single",
            "data": {"root": str(root), "unseen": "world", "judge": ["val"], "slots": 4},
            "cost": {
                "train_classes": 8,
                **{k: list(v) if isinstance(v, tuple) else v for k, v in COST.items()},
            },
            "masks": MASKS,
            "mask_loss": LOSS,
            "batch_size": 8,
            "steps": 2,
            "adapters": {"use": "none"},
        }
        return base | changes

    return make


def first_step(given):
    made = task.build(given)
    params = made.init(step.init_key(1))
    return eight.slope(made, params, next(iter(made.train_data(1))))


@pytest.mark.slow
def test_pieces_change_nothing(values):
    expected = first_step(values(adapters=CCA))
    eight.same(first_step(values(adapters=CCA, accumulate=2)), expected)


@pytest.mark.slow
def test_what_is_computed_again_changes_nothing_whatever_the_adapters(values):
    both = {"use": "both"}
    expected = first_step(values(adapters=both))
    eight.same(first_step(values(adapters=both, remat=True)), expected)


@pytest.mark.slow
def test_pieces_of_mask_classification_change_nothing(values):
    expected = first_step(values(host="masks"))
    eight.same(first_step(values(host="masks", accumulate=4, remat=True)), expected)


@pytest.mark.slow
def test_half_precision_is_near_and_parity_is_full(values):
    (value, _), _ = first_step(values())
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its norms
        (half, _), gradient = first_step(values(dtype="bfloat16"))
    np.testing.assert_allclose(half, value, rtol=0.05)
    assert {x.dtype.name for x in jax.tree.leaves(gradient)} == {"float32"}
    try:
        lines = eight.products(eight.lowered(task.build(values(dtype="parity"))))
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert lines
    assert all("bf16" not in line and line.count("HIGHEST") == 2 for line in lines)


@pytest.mark.parametrize(
    ("adapters", "reason"),
    [
        ({"use": "both"}, "SDA draws styles from the other pictures"),
        ({"use": "cca"}, "CCA draws one vocabulary for the batch"),
        ({**CCA, "norm": "pcnorm_bn"}, "pcnorm_bn normalises by the batch"),
    ],
)
def test_adapters_that_look_at_the_whole_batch_take_no_pieces(values, adapters, reason):
    with pytest.raises(ConfigError, match=rf"config\.accumulate=2: .*{reason}.*config\.remat=True"):
        config.read(values(adapters=adapters, accumulate=2))


def on_eight(path):
    for given in json.loads(pathlib.Path(path).read_text()):
        eight.check(task.build(given))


@pytest.mark.slow
def test_eight_devices_compute_what_one_does_with_a_tower_that_is_cut(values, tmp_path):
    path = tmp_path / "config.json"
    ways = [values(adapters={"use": "both"}), values(adapters=CCA, remat=True, accumulate=2)]
    path.write_text(json.dumps([*ways, values(host="masks")]))
    eight.run("tests.gba_jax.test_gba_memory.on_eight", str(path))
