"""CCA: PCNorm against its FFT definition, the released equations (torch: test_released.py), masks, norms, vocabulary sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax.adapters import (
    CorrelationConstraint,
    GBAConfig,
    cca,
    pcnorm,
    present_classes,
    sample_vocabulary,
)
from gba_jax.adapters.config import NORMS

KEY = jax.random.key(2)
E, D, V = 6, 5, 7


def _maps(shape=(2, 3, 4, E), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _words(rows=V, width=D, seed=3):
    text = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


def _random(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), tree)


def _build(x, preset="intent", random=False, **switches):
    config = GBAConfig(**switches)
    module = CorrelationConstraint(preset, config)
    state = cca.initial_state(x.shape[-1], preset, config)
    void = jnp.ones(D) if config.host_void else None
    params = jax.jit(module.init)(KEY, x, _words(), jnp.ones(V, bool), state, void=void)["params"]
    return module, (_random(params) if random else params), state


def _pcnorm_by_fft(x, mean, scale):
    """The definition: amplitude of the normalised map, phase of the map itself."""
    x = x.astype(np.float64)
    normed = np.fft.fft2((x - mean) / scale, axes=(1, 2))
    # The phase of a real DC bin is 0 or pi: rounding must not turn it.
    phase = np.angle(np.fft.fft2(x, axes=(1, 2)))
    phase[:, 0, 0] = np.where(x.mean((1, 2)) < 0, np.pi, 0.0)
    return np.fft.ifft2(np.abs(normed) * np.exp(1j * phase), axes=(1, 2)).real


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (6, 9), (1, 4), (1, 1)])
@pytest.mark.parametrize("shift", [-0.7, 0.4])
def test_pcnorm_in_closed_form_equals_its_fft_definition(height, width, shift):
    x = _maps((2, height, width, 3)) + np.float32(shift)
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(1, 1, 1, 3)).astype(np.float32)
    scale = rng.uniform(0.5, 2.0, (1, 1, 1, 3)).astype(np.float32)
    got = pcnorm.pcnorm(x, mean, scale)
    np.testing.assert_allclose(got, _pcnorm_by_fft(x, mean, scale), atol=1e-4)
    same = pcnorm.pcnorm(x, jnp.zeros((1, 1, 1, 3)), jnp.ones((1, 1, 1, 3)))
    np.testing.assert_allclose(same, x, atol=1e-6)


def test_pcnorm_in_is_instance_norm_and_sees_valid_pixels_only():
    x = _maps((2, 4, 6, 3)) * 3 + 1
    expected = torch.nn.functional.instance_norm(torch.tensor(x).permute(0, 3, 1, 2), eps=1e-5)
    np.testing.assert_allclose(pcnorm.instance(x), expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)
    padded = np.concatenate([x, np.full((2, 4, 2, 3), 99, np.float32)], 2)
    mask = np.arange(8)[None, None] < np.full((2, 4, 1), 6)
    np.testing.assert_allclose(
        pcnorm.instance(padded, mask)[:, :, :6], pcnorm.instance(x), atol=1e-5
    )
    assert np.isfinite(pcnorm.instance(x, np.zeros((2, 4, 6), bool))).all()


def test_pcnorm_bn_trains_on_the_batch_and_evaluates_with_running_statistics():
    x = _maps((3, 4, 5, 2)) * 2 + np.float32([1.0, -1.0])
    state = pcnorm.initial_state(2)
    y, new = pcnorm.batch(x, state, train=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = _pcnorm_by_fft(x, mean, np.sqrt(variance + 1e-5))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    reference = torch.nn.BatchNorm2d(2, affine=False)
    reference(torch.tensor(x).permute(0, 3, 1, 2))
    assert reference.running_mean is not None
    assert reference.running_var is not None
    np.testing.assert_allclose(new["mean"], reference.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(new["var"], reference.running_var.numpy(), rtol=1e-5)
    y, same = pcnorm.batch(x, new, train=False)
    expected = _pcnorm_by_fft(x, np.asarray(new["mean"]), np.sqrt(np.asarray(new["var"]) + 1e-5))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert same is new


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 1)])
def test_highpass_is_a_radial_gain(height, width):
    x = _maps((2, height, width, 32))
    ones = jnp.ones((pcnorm.GROUPS, pcnorm.KNOTS))
    radial_gain = jax.jit(pcnorm.radial_gain)
    np.testing.assert_allclose(radial_gain(x, ones), x, atol=1e-5)
    gains = np.random.default_rng(1).uniform(0, 2, (16, 8)).astype(np.float32)
    ky, kx = np.fft.fftfreq(height), np.fft.fftfreq(width)
    radius = np.sqrt(ky[:, None] ** 2 + kx[None] ** 2)
    radius = radius / max(radius.max(), 1e-9)
    gain = np.stack([np.interp(radius, np.linspace(0, 1, 8), row) for row in gains], -1)
    spectrum = np.fft.fft2(x, axes=(1, 2)) * np.repeat(gain, 2, -1)
    expected = np.fft.ifft2(spectrum, axes=(1, 2)).real
    np.testing.assert_allclose(radial_gain(x, gains), expected, atol=1e-4)
    start = pcnorm.highpass_gains(pcnorm.initial_knots())
    np.testing.assert_allclose(start[3], [0, 0.5, 1, 1, 1, 1, 1, 1], atol=1e-4)
    assert pcnorm.initial_knots().size == 112
    filtered = np.asarray(radial_gain(x, start))
    np.testing.assert_allclose(filtered.mean((1, 2)), 0.0, atol=1e-5)


def test_released_output_has_nothing_to_do_with_its_input_at_init():
    x = _maps((2, 6, 6, 64))
    module, params, state = _build(x, "released")
    run = lambda x: module.apply({"params": params}, x, _words(), np.ones(V, bool), state)[0]
    y = np.asarray(run(x))
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    assert abs(cosine.mean()) < 0.05
    slope = jax.grad(lambda x: jnp.sum(run(x) ** 2))(x)
    np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.parametrize(
    ("channels", "width", "preset", "switches", "expected"),
    [
        (1536, 768, "released", {"host_void": True}, 11_945_472),
        (1024, 640, "released", {"host_void": True}, 5_604_608),
        (768, 512, "released", {"host_void": True}, 3_220_480),
        (1024, 768, "released", {"host_void": True}, 5_867_008),
        (1536, 768, "released", {}, 11_945_472 + 768),
        (1536, 768, "intent", {}, 2_111_744 + 2 * 768),
        (1024, 640, "intent", {}, 1_474_048 + 2 * 640),
        (768, 512, "intent", {}, 1_122_304 + 2 * 512),
        (1024, 768, "intent", {"host_void": True}, 1_539_840 + 768),
        (768, 512, "intent", {"norm": "highpass"}, 1_122_304 + 2 * 512 + 112),
    ],
)
def test_parameter_counts(channels, width, preset, switches, expected):
    config = GBAConfig(**switches)
    module = CorrelationConstraint(preset, config)
    state = cca.initial_state(channels, preset, config)
    void = jnp.ones(width) if config.host_void else None
    args = jnp.zeros((1, 1, 1, channels)), jnp.zeros((2, width)), jnp.ones(2, bool), state
    params = jax.eval_shape(lambda: module.init(KEY, *args, void=void))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("norm", NORMS)
def test_a_fresh_adapter_is_the_identity_and_the_default_holds_no_fft(norm):
    x, mask = _maps(), np.ones(V, bool)
    module, params, state = _build(x, norm=norm)
    for train in (False, True):
        run = jax.jit(
            lambda x, s, t=train: module.apply({"params": params}, x, _words(), mask, s, train=t)
        )
        np.testing.assert_array_equal(run(x, state)[0], x)
        # Gains of 0 must not let the compiler drop what is looked for: parameters are arguments here.
        text = (
            jax.jit(
                lambda p, s, t=train: module.apply({"params": p}, x, _words(), mask, s, train=t)
            )
            .lower(params, state)
            .as_text()
        )
        assert ("fft" in text.lower()) == (norm == "highpass")
    half = jnp.asarray(x, jnp.bfloat16)
    y, _ = module.apply({"params": params}, half, _words(), mask, state)
    np.testing.assert_array_equal(y, half)


@pytest.mark.parametrize(
    ("preset", "norm", "atol"),
    [
        ("intent", "none", 2e-6),
        ("intent", "pcnorm_bn", 2e-6),
        # Dividing by a small deviation magnifies the rounding of the attention's sums.
        ("intent", "pcnorm_in", 3e-5),
        ("released", "none", 2e-6),
    ],
)
def test_order_and_padding_of_the_rows_change_nothing(preset, norm, atol):
    x, text, mask = _maps(), _words(), np.ones(V, bool)
    mask[2] = False
    module, params, state = _build(x, preset, random=True, norm=norm)
    run = lambda t, m: np.asarray(module.apply({"params": params}, x, t, m, state)[0])
    y = run(text, mask)
    order = np.random.default_rng(4).permutation(V)
    np.testing.assert_allclose(run(text[order], mask[order]), y, atol=atol)
    padded = np.concatenate([text, 5 * _words(9, seed=8)])
    np.testing.assert_allclose(run(padded, np.concatenate([mask, np.zeros(9, bool)])), y, atol=atol)
    np.testing.assert_allclose(run(text[mask], mask[mask]), y, atol=atol)
    assert np.abs(run(text[::2], mask[::2]) - y).max() > 1e-3


def test_one_key_gives_no_response_and_one_pixel_is_finite():
    x, text = _maps(), _words()
    module, params, state = _build(x, random=True)
    params["bias"], params["gain"] = jnp.zeros(E), jnp.ones(E)
    params["refine"]["gain"] = jnp.zeros(E)
    # With every word masked and both null rows equal, all pixels read the same value.
    params["null"] = jnp.broadcast_to(params["null"][:1], (2, D))
    none = np.zeros(V, bool)
    y, _ = module.apply({"params": params}, x, text, none, state)
    np.testing.assert_allclose(y, x, atol=1e-4)
    one = x[:, :1, :1]
    value, slope = jax.value_and_grad(
        lambda x: jnp.sum(module.apply({"params": params}, x, text, ~none, state)[0] ** 2)
    )(one)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


# Softmax does not see what all keys share; a norm that takes the mean out does not see what all pixels share.
_KEY_BIAS = {"attention/key/bias"}
_SHARED = {"attention/key/bias", "attention/value/bias", "attention/out/bias", "key_norm/bias"}


@pytest.mark.parametrize(
    ("switches", "inert"),
    [
        ({}, _SHARED),
        ({"cca_width": "full"}, _SHARED),
        ({"norm": "highpass"}, _SHARED),
        ({"norm": "none"}, _KEY_BIAS),
        ({"norm": "pcnorm_bn"}, _SHARED),
    ],
    ids=["default", "full", "highpass", "none", "pcnorm_bn"],
)
def test_gains_learn_at_step_one_and_every_leaf_by_step_three(switches, inert):
    # Pixels far apart from each other: what the branch learns must not drown in rounding.
    x, target, text = 3 * _maps(), _maps(seed=1), _words()
    module, params, state = _build(x, **switches)
    run = lambda p: module.apply({"params": p}, x, text, np.ones(V, bool), state, train=True)[0]
    grad = jax.jit(jax.grad(lambda p: jnp.mean((run(p) - target) ** 2)))
    name = lambda path: "/".join(part.key for part in path)
    largest: dict[str, float] = {}
    for step in range(3):
        slope = grad(params)
        if step == 0:
            assert np.abs(slope["gain"]).min() > 0
            assert np.abs(slope["refine"]["gain"]).min() > 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(slope):
            here = float(jnp.max(jnp.abs(leaf)))
            largest[name(path)] = max(largest.get(name(path), 0.0), here)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, slope)
    rounding = 1e-4 * largest["attention/key/kernel"]
    assert all(largest[leaf] < rounding for leaf in inert), largest
    assert all(size > 0 for size in largest.values()), largest


def test_the_vocabulary_gets_no_gradient_and_a_wrong_void_is_named():
    x, mask = _maps(), np.ones(V, bool)
    module, params, state = _build(x, random=True)
    run = lambda text: jnp.sum(module.apply({"params": params}, x, text, mask, state)[0] ** 2)
    np.testing.assert_array_equal(jax.grad(run)(_words()), 0.0)
    with pytest.raises(ValueError, match="host_void=False, but void is given"):
        module.apply({"params": params}, x, _words(), mask, state, void=jnp.ones(D))
    with pytest.raises(ValueError, match=r"row_mask \(3,\)"):
        module.apply({"params": params}, x, _words(), mask[:3], state)


def test_sampled_vocabularies_hold_the_present_classes_and_whole_synonym_sets():
    classes, padded, rows = 40, 48, 128
    class_of_row = np.concatenate([np.arange(classes), np.arange(classes), np.zeros(48)])
    class_of_row, mask = class_of_row.astype(np.int32), np.arange(rows) < 80
    present = np.asarray(present_classes(jnp.asarray([[3, -1], [39, 3], [7, 7]]), padded))
    np.testing.assert_array_equal(np.flatnonzero(present), [3, 7, 39])
    draw = jax.jit(lambda key: sample_vocabulary(mask, class_of_row, present, key=key))
    kept = np.asarray(jax.vmap(draw)(jax.random.split(KEY, 400)))
    assert not kept[:, ~mask].any()
    np.testing.assert_array_equal(kept[:, :40], kept[:, 40:80])
    assert kept[:, [3, 7, 39]].all()
    totals = kept[:, :40].sum(1)
    whole = totals == 40
    assert 0.4 < whole.mean() < 0.62  # half the draws, and one in 25 of the others
    assert totals.min() == 16
    np.testing.assert_allclose(totals[~whole].mean(), (16 + 39) / 2, atol=2.0)
    others = np.setdiff1d(np.arange(40), [3, 7, 39])
    share = kept[~whole][:, others].mean(0)
    assert share.max() - share.min() < 0.25
    few = np.arange(rows) < 10
    same = sample_vocabulary(few, class_of_row, present, probability=1.0, key=KEY)
    np.testing.assert_array_equal(same, few)
