"""The benchmark's other side is the same network: torch's DRNet and GazeTR-Hybrid equal ours, and every row has both sides."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax.nn import ResNetConfig
from core_jax.train import Params
from gaze_jax.networks import cfe, drnet, eye_baselines
from gaze_jax.networks.cfe import CFEConfig
from launch.benchmarks import gaze, timing, torch_gaze

DRNET = dataclasses.replace(gaze.DRNET, dropout=0.0, hidden=8)
CFE = CFEConfig(
    dropout=0.0,
    image_size=64,
    width=8,
    layers=1,
    heads=2,
    mlp_width=8,
    trunk=ResNetConfig(width=4, depths=(1, 1, 1, 1)),
)
NETWORKS = {"drnet": (drnet.make(DRNET), DRNET), "cfe": (cfe.make(CFE), CFE)}


def _moved(tree):
    """Biases and statistics that are not those of a fresh network."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + jnp.asarray(rng.uniform(0, 0.2, x.shape), x.dtype) if x.ndim == 1 else x, tree
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_is_the_same_network(name):
    model, config = NETWORKS[name]
    params = model.init(jax.random.key(0))
    params = Params(trainable=_moved(params.trainable), stats=_moved(params.stats))
    batch = gaze.random_batch(model.size, 3)
    same = {
        key: torch.tensor(np.moveaxis(np.array(x), -1, 1) if x.ndim == 4 else np.array(x))
        for key, x in batch.items()
    }
    with torch.no_grad():
        if name == "drnet":
            network = torch_gaze.drnet(config, params).eval()
            expected = network.single(same["image"], same["head"])
        else:
            network = torch_gaze.gazetr(config, params).eval()
            expected = network(same["image"]).flip(1)
        loss = network.train().loss(same)
    got = jax.jit(model.predict)(params, batch["image"], batch["head"])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    value, _ = jax.jit(model.loss)(params.trainable, {}, params.stats, batch, jax.random.key(0))
    np.testing.assert_allclose(value, loss, atol=1e-5)
    for call in gaze.torch_calls(config, params, batch).values():
        call()


def test_every_work_gets_a_row_of_both_sides(monkeypatch):
    monkeypatch.setattr(
        gaze, "torch_calls", lambda *_: {"infer": lambda: None, "train": lambda: None}
    )
    rows, model = timing.Rows("title"), eye_baselines.make("mean")
    with jax.numpy_dtype_promotion("standard"):
        gaze.network_rows(rows, "toy", model, None, (1, 2), repeats=1)
        gaze.reference_rows(rows, DRNET, (1,), repeats=1)
        gaze.fold_rows(rows, model, 2, 2, repeats=1)
    assert [row["work"] for row in rows.rows] == [
        "infer toy, batch 1",
        "infer toy, batch 2",
        "train toy, batch 2",
        "DRNet, batch 1: one picture, 9 references",
        "train mean, 2 folds of batch 2: stacked, in a row",
    ]
    assert all(row["ratio"] == row["other"] / row["ours"] for row in rows.rows)


def test_torch_is_optional(monkeypatch):
    monkeypatch.setattr(gaze.importlib.util, "find_spec", lambda name: None)
    rows = timing.Rows("title")
    gaze.network_rows(rows, "toy", eye_baselines.make("mean"), None, (1,), repeats=1)
    assert [row["other"] for row in rows.rows] == [None]
