"""The offline pass over pictures: the statistics are those of the features, and 64 of them become the bank."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip
from gba_jax import fourier
from gba_jax.adapters import GBA, GBAConfig, bank, init
from gba_jax.backbones import Backbone
from gba_jax.fill_bank import _rows, _shallow_alone, fill_bank

KEY = jax.random.key(0)
WIDTH, BATCH = 8, 256


@pytest.fixture(scope="module")
def tower():
    """(backbone, parameters) of a ViT with a 3 x 3 grid and three blocks."""
    vision = clip.VisionConfig(
        image_size=12, patch_size=4, width=WIDTH, layers=3, heads=2, mlp_width=8
    )
    text = clip.TextConfig(vocab_size=99, context_length=8, width=8, layers=1, heads=2, mlp_width=8)
    config = clip.ClipConfig(vision=vision, text=text, projection_dim=8)
    params = jax.jit(lambda key: clip.init(config, key=key))(KEY)
    return Backbone(config=config), params


def _batches(count=bank.FIFO, seed=0):
    rng = np.random.default_rng(seed)
    for first in range(0, count, BATCH):
        shape = (min(BATCH, count - first), 12, 12, 3)
        low, high = sorted(rng.integers(1, 256, 2))
        yield rng.integers(low // 2, high + 1, shape).astype(np.uint8)


def _adapters(backbone, **switches):
    module = GBA(backbone.taps, "block_0", "dense", "intent", GBAConfig(**switches))
    return module, jax.jit(lambda key: init(module, 8, key=key)[0])(KEY)


def _fill(tower, batches, *, progress=False, changes: Mapping[str, Any] | None = None, **switches):
    backbone, params = tower
    module, gba = _adapters(backbone, **switches)
    module = module.clone(**(changes or {}))
    return fill_bank(backbone, params, module, gba, batches, progress=progress, key=KEY)


def _amplitudes(x):
    return fourier.amplitude_statistics(x)


def _moments(x):
    return jnp.mean(x, (1, 2)), jnp.sqrt(jnp.var(x, (1, 2)) + 1e-6)


@pytest.mark.parametrize(("style", "measure"), [("bank", _amplitudes), ("shade_bank", _moments)])
def test_rows_are_the_statistics_of_the_features_at_the_tap(tower, style, measure):
    backbone, params = tower
    filled = _fill(tower, _batches(), style=style)
    plain = jax.jit(lambda x: measure(backbone.features(params, x)["block_0"]))
    parts = [np.concatenate(plain(images), axis=1) for images in _batches()]
    expected = np.concatenate(parts)
    np.testing.assert_allclose(filled["fifo"], expected, rtol=1e-3, atol=1e-5)
    chosen = np.concatenate([filled["mean"], filled["deviation"]], axis=1)
    distances = np.abs(chosen[:, None] - np.asarray(filled["fifo"])[None]).max(-1)
    np.testing.assert_array_equal(distances.min(1), 0.0)
    assert len(np.unique(distances.argmin(1))) == bank.STYLES
    assert bool(filled["ready"])
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(filled) == types(bank.empty(WIDTH))


def test_only_as_many_pictures_are_read_as_are_asked_for(tower):
    endless = itertools.cycle(_batches(2 * BATCH))
    filled = _fill(tower, endless, progress=True)
    assert int(filled["pushed"]) == bank.FIFO


def test_the_branch_that_residual_mode_restyles_is_measured(tower):
    filled = _fill(tower, _batches(), sda_mode="residual", sda_width="compact")
    assert filled["mean"].shape == (bank.STYLES, 64)
    assert np.asarray(filled["deviation"]).std() > 0


def test_what_cannot_be_filled_is_refused(tower):
    with pytest.raises(ValueError, match="300 images are too few"):
        _fill(tower, _batches(300))
    with pytest.raises(ValueError, match="0 images are too few"):
        _fill(tower, [])
    with pytest.raises(ValueError, match=r"there is no SDA.*draws from no bank"):
        _fill(tower, [], changes={"shallow": None})
    with pytest.raises(ValueError, match="style='apr' draws from no bank"):
        _fill(tower, [], style="apr")
    with pytest.raises(ValueError, match="preset='released'"):
        _fill(tower, [], changes={"preset": "released"})
    backbone, params = tower
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    with pytest.raises(ValueError, match="pictures 0 to 255 give features at 'block_0'"):
        _fill((backbone, broken), _batches())


def test_what_lies_behind_the_tap_is_not_computed(tower):
    backbone, params = tower
    module, gba = _adapters(backbone)
    images = jnp.asarray(next(_batches())[:2])
    whole = jax.jit(lambda p: backbone.features(p, images)["dense"])
    rows = jax.jit(lambda p: _rows(backbone, _shallow_alone(module), p, gba, images, KEY))
    found = []
    for run in (whole, rows):
        text = run.lower(params).compile().as_text() or ""
        found.append([name for name in ("block_0", "block_1", "block_2") if f"{name}/" in text])
    assert found == [["block_0", "block_1", "block_2"], ["block_0"]]
