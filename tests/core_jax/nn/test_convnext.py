"""The ConvNeXt trunk: its arithmetic against torch's functions, and the taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import traverse_util

from core_jax.nn import TAPS, ConvNeXt, ConvNeXtConfig, untouched

CONFIG = ConvNeXtConfig(widths=(8, 12, 16, 24), depths=(1, 1, 2, 1))


@pytest.fixture(scope="module")
def params() -> dict:
    """Random everywhere: with layer scales of 1e-6 a block does nothing."""
    start = functools.partial(ConvNeXt(CONFIG).init, jax.random.key(0))
    tree = jax.eval_shape(start, jnp.zeros((1, 32, 32, 3), jnp.float32))
    rng = np.random.default_rng(0)
    fan_in = lambda x: max(1, int(np.prod(x.shape[:-1]))) ** 0.5
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) / fan_in(x), jnp.float32), tree["params"]
    )


def pixels(height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def run(params, x, tap=untouched, **options):
    return jax.jit(lambda p, x: ConvNeXt(CONFIG, **options).apply({"params": p}, x, tap))(params, x)


def in_torch(params: dict, x: np.ndarray) -> dict[str, np.ndarray]:
    """The trunk in torch's functions, from the equations of the paper."""
    p = {
        k: torch.from_numpy(np.array(v))
        for k, v in traverse_util.flatten_dict(params, sep="/").items()
    }

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)

    def conv(name, x, **options):
        kernel = p[f"{name}/kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, p[f"{name}/bias"], **options).permute(
            0, 2, 3, 1
        )

    def dense(name, x):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    x = norm("stem_norm", conv("stem", torch.from_numpy(x), stride=4))
    maps = {}
    for i, depth in enumerate(CONFIG.depths):
        if i:
            x = conv(f"stage_{i}/down", norm(f"stage_{i}/down_norm", x), stride=2)
        for j in range(depth):
            b = f"stage_{i}/block_{j}"
            y = norm(f"{b}/norm", conv(f"{b}/depthwise", x, padding=3, groups=x.shape[-1]))
            y = dense(f"{b}/fc1", y)
            y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
            x = x + p[f"{b}/gamma"] * dense(f"{b}/fc2", y)
        maps[TAPS[i]] = x.numpy()
    return maps


@pytest.mark.parametrize("size", [(64, 64), (71, 50)], ids=["multiple-of-32", "odd"])
def test_maps_are_torchs(params, size):
    x = pixels(*size)
    ours, theirs = run(params, x), in_torch(params, x)
    for name in TAPS:
        assert np.abs(theirs[name]).max() > 0.1
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(ours[name], ours[f"{name}/raw"])


def test_tap_sees_every_stage_in_order(params):
    seen = []
    maps = run(params, pixels(), lambda name, x: (seen.append((name, x.shape)), x)[1])
    assert seen == [
        ("res2", (2, 16, 16, 8)),
        ("res3", (2, 8, 8, 12)),
        ("res4", (2, 4, 4, 16)),
        ("res5", (2, 2, 2, 24)),
    ]
    assert maps.keys() == {*TAPS, *(f"{name}/raw" for name in TAPS)}


@pytest.mark.parametrize("where", ["res2", "res4"])
def test_the_trunk_continues_with_what_the_tap_returns(params, where):
    plain = in_torch(params, pixels())
    maps = run(params, pixels(), lambda name, x: x**2 if name == where else x)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    same(maps[f"{where}/raw"], plain[where])
    # Not an affine change, which the next norm would take away.
    same(maps[where], plain[where] ** 2)
    for name in TAPS:
        if name < where:
            same(maps[name], plain[name])
        if name > where:
            assert np.abs(maps[name] - plain[name]).max() > 1e-2, name


def test_gradients_pass_the_tap(params):
    """The tap runs once; it may hand gradients to what a host trains."""
    calls = []

    def loss(gain):
        def tap(name, x):
            calls.append(name)
            return x + gain * x**2 if name == "res2" else x

        maps = ConvNeXt(CONFIG).apply({"params": params}, pixels(32, 32), tap)
        return jnp.mean(maps["res5"] ** 2)

    gain = jnp.asarray(0.1, jnp.float32)
    gradient = jax.jit(jax.grad(loss))(gain)
    assert calls == list(TAPS)
    assert abs(gradient) > 1e-3


def test_a_tap_must_keep_shape_and_type(params):
    with pytest.raises(ValueError, match=r"'res3' .*\(2, 8, 8, 12\).*\(2, 8, 8, 6\)"):
        run(params, pixels(), lambda name, x: x[..., :6] if name == "res3" else x)
    with pytest.raises(ValueError, match=r"'res2' .*float32.*bfloat16"):
        run(params, pixels(), lambda name, x: x.astype(jnp.bfloat16))


def test_small_pictures_are_refused(params):
    with pytest.raises(ValueError, match=r"\(2, 64, 31, 3\).*32 x 32"):
        run(params, pixels(64, 31))


def test_bfloat16_stays_close(params):
    exact = in_torch(params, pixels())
    # flax's layers promote on their own account.
    with jax.numpy_dtype_promotion("standard"):
        rough = run(params, jnp.asarray(pixels(), jnp.bfloat16), dtype=jnp.bfloat16)
    for name in TAPS:
        assert rough[name].dtype == jnp.bfloat16
        a, b = (np.asarray(x[name], np.float32).ravel() for x in (rough, exact))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
