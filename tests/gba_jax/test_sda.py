"""SDA: the released equations (against torch in test_released.py), the trainable preset's promises, the ablation switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax.adapters import GBAConfig, StyleDiversification, bank, sda
from gba_jax.adapters.config import STYLES
from gba_jax.adapters.refine import GatedRefinement, MultiKernelConv, depthwise

KEY = jax.random.key(1)
E = 6


def _maps(shape=(3, 5, 7, E), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _random(tree, seed=0):
    """The same tree with random leaves, so that no initial 0 or identity hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), tree)


def _count(shape, preset, config):
    module = StyleDiversification(preset, config)
    state = sda.initial_state(shape[-1], preset, config)
    params = jax.eval_shape(lambda: module.init(KEY, jnp.zeros(shape), state))["params"]
    return sum(x.size for x in jax.tree.leaves(params))


def _build(x, preset="intent", random=False, **switches):
    config = GBAConfig(**switches)
    module = StyleDiversification(preset, config)
    state = sda.initial_state(x.shape[-1], preset, config)
    params = jax.jit(module.init)(KEY, x, state)["params"]
    return module, (_random(params) if random else params), state


def test_released_zero_banks_leave_the_bias_alone():
    x = _maps()
    module, params, state = _build(x, "released", random=True)
    y, _ = module.apply({"params": params}, x, state)
    without = x + np.asarray(params["bias"]) / 3
    refine = GatedRefinement(E, gated=False)
    np.testing.assert_allclose(y, refine.apply({"params": params["refine"]}, without), atol=1e-5)


def test_released_inner_term_is_scaled_input_plus_phase_only_image():
    x = _maps((2, 8, 8, E))
    module, params, state = _build(x, "released")
    params["refine"]["out"] = jnp.zeros((E, E))
    state["style_bank"] = {"mean": jnp.full((64, E), 0.3), "deviation": jnp.full((64, E), 0.7)}
    y, _ = module.apply({"params": params}, x, state)
    u = np.asarray(MultiKernelConv().apply({"params": params["convs"]}, x))
    normed = u / np.sqrt(1 + 1e-5)
    f = np.fft.fft2(normed, axes=(1, 2))
    phase_only = np.fft.ifft2(f / np.abs(f), axes=(1, 2)).real
    np.testing.assert_allclose(3 * (np.asarray(y) - x), 0.7 * normed + 0.3 * phase_only, atol=1e-4)
    np.testing.assert_allclose(np.sqrt((phase_only**2).mean((1, 2))), 1 / 8, rtol=1e-5)


def test_released_draws_styles_with_a_key():
    x = _maps()
    module, params, state = _build(x, "released", random=True)
    state = _random(state)
    state["sda_norm"]["var"] = jnp.ones(E)
    run = lambda key: np.asarray(module.apply({"params": params}, x, state, key=key)[0])
    assert np.abs(run(KEY) - run(None)).max() > 1e-2
    np.testing.assert_array_equal(run(KEY), run(KEY))


@pytest.mark.parametrize(
    ("channels", "preset", "width", "expected"),
    [
        (192, "released", "auto", 91_008),
        (192, "intent", "auto", 91_008),
        (128, "intent", "auto", 44_288),
        (768, "intent", "full", 1_248_768),
        (768, "intent", "auto", 113_024),
        (1024, "intent", "full", 2_189_312),
        (1024, "intent", "auto", 146_048),
    ],
)
def test_parameter_counts(channels, preset, width, expected):
    assert _count((1, 2, 2, channels), preset, GBAConfig(sda_width=width)) == expected


@pytest.mark.parametrize("width", ["full", "compact"])
@pytest.mark.parametrize("mode", ["perturb", "residual"])
def test_a_fresh_adapter_is_the_identity_and_holds_no_fft_at_eval(mode, width):
    x = _maps()
    module, params, _ = _build(x, sda_mode=mode, sda_width=width)
    run = jax.jit(lambda x: module.apply({"params": params}, x, {}))
    y, state = run(x)
    np.testing.assert_array_equal(y, x)
    assert state == {}
    assert "fft" not in run.lower(x).as_text().lower()
    half = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_array_equal(module.apply({"params": params}, half, {})[0], half)


@pytest.mark.parametrize("width", ["full", "compact"])
def test_a_fresh_residual_adapter_is_the_identity_in_training_too(width):
    x = _maps()
    module, params, state = _build(x, sda_mode="residual", sda_width=width)
    y, state = module.apply({"params": params}, x, state, train=True, key=KEY)
    np.testing.assert_array_equal(y, x)
    assert int(state["style_bank"]["pushed"]) == 3
    assert state["style_bank"]["mean"].shape == (64, E if width == "full" else sda.BOTTLENECK)


def test_training_is_reproducible_changes_about_half_and_fills_the_bank():
    x = _maps((32, 5, 4, E))
    module, params, state = _build(x)
    run = jax.jit(
        lambda state, key: module.apply({"params": params}, x, state, train=True, key=key)
    )
    y, after = run(state, KEY)
    np.testing.assert_array_equal(y, run(state, KEY)[0])
    changed = (np.asarray(y) != x).any((1, 2, 3))
    assert 6 <= changed.sum() <= 26
    assert np.abs(np.asarray(y) - x).max() > 0.05  # although no bank is ready
    assert int(after["style_bank"]["pushed"]) == 32
    styles = _maps((2, 2100, E))
    full = bank.fill(bank.empty(E), *np.abs(styles) * 3)
    styled = np.asarray(run({"style_bank": full}, KEY)[0])
    np.testing.assert_array_equal((styled != x).any((1, 2, 3)), changed)
    assert np.abs(styled - np.asarray(y)).max() > 0.05
    text = run.lower(state, KEY).compile().as_text()
    forward = [line for line in text.splitlines() if " fft(" in line or "fft_type" in line]
    assert len(forward) == 2, (
        forward
    )  # one there, one back: statistics and restyling share the spectrum


def test_training_needs_a_key():
    x = _maps()
    module, params, state = _build(x)
    with pytest.raises(ValueError, match="pass key="):
        module.apply({"params": params}, x, state, train=True)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_finite_reproducible_and_only_in_training(style):
    x = _maps((8, 5, 6, E))
    x[0] = 0.0
    module, params, state = _build(x, style=style)
    assert ("style_bank" in state) == (style in ("bank", "shade_bank"))

    def loss(x):
        y, after = module.apply({"params": params}, x, state, train=True, key=KEY)
        return jnp.sum(y**2), (y, after)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (y, after)), grad = run(x)
    assert np.isfinite(y).all()
    assert np.isfinite(grad).all()
    assert jax.tree.structure(after) == jax.tree.structure(state)
    changed = (np.abs(np.asarray(y) - x) > 1e-4).any((1, 2, 3))
    assert 0 < changed.sum() < 8
    np.testing.assert_array_equal(module.apply({"params": params}, x, state)[0], x)


@pytest.mark.parametrize("style", ["mixstyle", "dsu", "shade_bank"])
def test_spatial_styles_keep_the_normalised_map(style):
    x = _maps((6, 5, 6, E)) + 1.0
    module, params, state = _build(x, style=style)
    y = np.asarray(module.apply({"params": params}, x, state, train=True, key=KEY)[0])
    normal = lambda z: (z - z.mean((1, 2), keepdims=True)) / z.std((1, 2), keepdims=True)
    moved = (np.abs(y - x) > 1e-4).any((1, 2, 3))
    assert moved.any()
    turn = (normal(x) * normal(y))[moved].mean((1, 2))  # -1 where DSU drew a negative deviation
    np.testing.assert_allclose(np.abs(turn), 1.0, atol=1e-3)


@pytest.mark.parametrize("width", ["full", "compact"])
def test_gains_learn_at_step_one_and_every_leaf_by_step_three(width):
    x, target = _maps(), _maps(seed=1)
    module, params, state = _build(x, sda_width=width)
    grad = jax.jit(
        jax.grad(
            lambda p: jnp.mean(
                (module.apply({"params": p}, x, state, train=True, key=KEY)[0] - target) ** 2
            )
        )
    )
    seen = jax.tree.map(lambda _: False, params)
    for step in range(3):
        slope = grad(params)
        if step == 0:
            assert np.abs(slope["gain"]).min() > 0
        seen = jax.tree.map(lambda s, g: s or bool(jnp.any(g != 0)), seen, slope)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, slope)
    missing = [
        jax.tree_util.keystr(k) for k, v in jax.tree_util.tree_leaves_with_path(seen) if not v
    ]
    assert not missing


def test_depthwise_and_its_gradient_are_torchs():
    x, kernel = _maps((2, 4, 9, E)), _maps((7, 7, 1, E), seed=1)
    tx = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    tk = torch.tensor(kernel).permute(3, 2, 0, 1).requires_grad_()
    out = torch.nn.functional.conv2d(tx, tk, padding=3, groups=E)
    (out**2).sum().backward()
    value, grads = jax.value_and_grad(lambda x, k: jnp.sum(depthwise(x, k) ** 2), argnums=(0, 1))(
        x, kernel
    )
    np.testing.assert_allclose(value, (out**2).sum().item(), rtol=1e-5)
    assert tx.grad is not None
    assert tk.grad is not None
    np.testing.assert_allclose(grads[0], tx.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(grads[1], tk.grad.permute(2, 3, 1, 0).numpy(), rtol=1e-3, atol=1e-2)


def test_depthwise_sums_half_precision_maps_in_full():
    x, kernel = jnp.asarray(_maps((2, 4, 5, E)), jnp.bfloat16), _maps((7, 7, 1, E), seed=1)
    y = depthwise(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = depthwise(x.astype(jnp.float32), kernel)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    slopes = jax.grad(lambda x, k: jnp.sum(depthwise(x, k).astype(jnp.float32)), (0, 1))(x, kernel)
    assert [s.dtype for s in slopes] == [jnp.bfloat16, jnp.float32]


def test_zero_maps_have_finite_gradients():
    x = jnp.zeros((2, 3, 3, E))
    module, params, state = _build(x)
    run = lambda p, x, t: jnp.sum(module.apply({"params": p}, x, state, train=t, key=KEY)[0])
    slopes = jax.jit(jax.grad(run, argnums=(0, 1)), static_argnums=2)
    for train in (False, True):
        slope = slopes(_random(params), x, train)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(slope))
