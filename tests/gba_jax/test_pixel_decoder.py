"""Sine positions, deformable attention and the pixel decoders against numpy loops and torch; the simple pyramid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.extend import core
from torch.nn import functional as F

from gba_jax.hosts import deformable, mask_layers
from gba_jax.hosts.pixel_decoder import PixelDecoder
from gba_jax.hosts.pyramid import SimplePyramid

# From the finest to the coarsest: exact halves of a 7 x 9 grid's doubles, and a trunk that drops odd rows and columns.
EVEN = {"res2": (56, 72), "res3": (28, 36), "res4": (14, 18), "res5": (7, 9)}
ODD = {"res2": (7, 9), "res3": (3, 4), "res4": (1, 2), "res5": (1, 1)}
CHANNELS = {"res2": 5, "res3": 6, "res4": 7, "res5": 9}
HEADS, GROUPS, WIDTH = 2, 4, 16


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _decoder(kind, layers=1):
    return PixelDecoder(
        kind=kind,
        width=WIDTH,
        layers=layers,
        heads=HEADS,
        feed_forward=12,
        points=2,
        groups=GROUPS,
    )


def _maps(rng, sizes, batch=2):
    return {
        name: jnp.asarray(rng.normal(size=(batch, *size, CHANNELS[name])), jnp.float32)
        for name, size in sizes.items()
    }


def _random_like(shapes, rng):
    """Parameters without compiling `init`: norms near 1, the rest of the usual size."""
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4, jnp.float32)
    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 4), (7, 9, 8), (4, 3, 32)])
def test_sine_positions_equal_a_loop(height, width, channels):
    got = np.asarray(mask_layers.sine_positions(height, width, channels))
    half = channels // 2
    for y in range(height):
        for x in range(width):
            for part, place in ((0, (y + 1) / height), (half, (x + 1) / width)):
                for c in range(half):
                    angle = 2 * np.pi * place / 10_000 ** (2 * (c // 2) / half)
                    expected = np.sin(angle) if c % 2 == 0 else np.cos(angle)
                    assert got[y, x, part + c] == pytest.approx(expected, abs=2e-6)


def test_centres_are_those_of_pixels():
    got = deformable.centres([(1, 2), (2, 1)])
    np.testing.assert_allclose(got, [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]])


SIZES = ((2, 3), (4, 5))
attend = jax.jit(deformable.attend, static_argnums=1)


def _samples(rng, heads=2, depth=3, count=2):
    """Values, places (some outside, some exactly on pixels) and weights for all tokens of SIZES."""
    tokens = sum(h * w for h, w in SIZES)
    shape = (2, tokens, heads, len(SIZES), count)
    places = rng.uniform(-0.3, 1.3, size=(*shape, 2))
    places[:, 0, 0] = [0.5, 0.75]
    values = rng.normal(size=(2, tokens, heads, depth))
    return tuple(x.astype(np.float32) for x in (values, places, rng.uniform(size=shape)))


def _bilinear(level, x, y):
    """One sample of (h, w, d) in pixels, zero outside."""
    total = np.zeros(level.shape[-1])
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= i < level.shape[0] and 0 <= j < level.shape[1]:
                total += max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j)) * level[i, j]
    return total


def test_deformable_attention_equals_a_loop(rng):
    values, places, weights = _samples(rng)
    got = np.asarray(attend(values, SIZES, places, weights))
    expected = np.zeros_like(got)
    start = 0
    for i, (h, w) in enumerate(SIZES):
        for b, n, m, p in np.ndindex(*weights.shape[:3], weights.shape[-1]):
            level = values[b, start : start + h * w, m].reshape(h, w, -1)
            x, y = places[b, n, m, i, p] * (w, h) - 0.5
            expected[b, n, m] += weights[b, n, m, i, p] * _bilinear(level, x, y)
        start += h * w
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_gradients_of_deformable_attention_equal_torch(rng):
    """Places on pixel centres included: that is where training starts."""
    values, places, weights = _samples(rng)
    slope = rng.normal(size=values.shape).astype(np.float32)
    theirs = [torch.tensor(x, requires_grad=True) for x in (values, places, weights)]
    total, start = 0, 0
    for i, (h, w) in enumerate(SIZES):
        level = theirs[0][:, start : start + h * w].permute(0, 2, 3, 1).reshape(4, -1, h, w)
        start += h * w
        grid = 2 * theirs[1][:, :, :, i].transpose(1, 2).flatten(0, 1) - 1
        found = F.grid_sample(level, grid, align_corners=False)
        found = (found * theirs[2][:, :, :, i].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        total = total + found.unflatten(0, (2, 2)).permute(0, 3, 1, 2)
    (total * torch.tensor(slope)).sum().backward()
    loss = lambda *args: jnp.sum(deformable.attend(args[0], SIZES, *args[1:]) * slope)
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(values, places, weights)
    for ours, their in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(ours, their.grad.numpy(), atol=1e-4)


def test_deformable_attention_starts_with_rays():
    """Eight heads look right, down right, down, ... one to P pixels away, with equal weights."""
    module = deformable.DeformableAttention(heads=8, points=3)
    x = jnp.zeros((1, 6, 8))
    params = module.init(jax.random.key(0), x, x, ((2, 3),))["params"]
    rays = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = [[[(k * a, k * b) for k in (1, 2, 3)]] for a, b in rays]
    bias = params["offsets"]["bias"].reshape(8, 1, 3, 2)
    np.testing.assert_allclose(bias, expected, atol=1e-6)
    for name in ("offsets", "weights"):
        assert not np.any(params[name]["kernel"])
    assert not np.any(params["weights"]["bias"])


@pytest.mark.parametrize("kind", ["fpn_attn", "deform"])
@pytest.mark.parametrize("sizes", [EVEN, ODD])
def test_sizes_are_those_of_the_maps(rng, kind, sizes):
    maps = {**_maps(rng, sizes), "res5/raw": jnp.zeros(1)}
    got, variables = jax.eval_shape(_decoder(kind).init_with_output, jax.random.key(0), maps)
    for level, name in zip(got.levels, ("res5", "res4", "res3"), strict=True):
        assert level.shape == (2, *sizes[name], WIDTH)
    assert got.features.shape == (2, *sizes["res2"], WIDTH)
    laterals = {name for name in variables["params"] if name.startswith("lateral")}
    assert len(laterals) == (3 if kind == "fpn_attn" else 1)


def _torch_fpn(params, maps, layers):
    """The kind "fpn_attn" in torch, from our parameters; maps are (B, E, h, w)."""
    t = lambda x: torch.tensor(np.asarray(x))

    def normed(x, p):
        bias = t(p["conv"]["bias"]) if "bias" in p["conv"] else None
        kernel = t(p["conv"]["kernel"]).permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)
        return F.group_norm(x, GROUPS, t(p["norm"]["scale"]), t(p["norm"]["bias"]), 1e-5)

    linear = lambda x, p: x @ t(p["kernel"]) + t(p["bias"])
    norm = lambda x, p: F.layer_norm(x, x.shape[-1:], t(p["scale"]), t(p["bias"]), 1e-5)
    x = normed(maps["res5"], params["project_res5"])
    size = x.shape[2:]
    position = t(mask_layers.sine_positions(*size, WIDTH)).flatten(0, 1)
    x = x.flatten(2).transpose(1, 2)
    for i in range(layers):
        layer = params[f"self_{i}"]
        parts = [layer["attention"][name] for name in ("query", "key", "value")]
        attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict(
            {
                "in_proj_weight": torch.cat([t(p["kernel"]).T for p in parts]),
                "in_proj_bias": torch.cat([t(p["bias"]) for p in parts]),
                "out_proj.weight": t(layer["attention"]["out"]["kernel"]).T,
                "out_proj.bias": t(layer["attention"]["out"]["bias"]),
            }
        )
        x = norm(x + attention(x + position, x + position, x)[0], layer["norm"])
        ffn = params[f"ffn_{i}"]
        x = norm(x + linear(linear(x, ffn["fc1"]).relu(), ffn["fc2"]), ffn["norm"])
    levels = [x.transpose(1, 2).unflatten(2, size)]
    for name in ("res4", "res3", "res2"):
        lateral = normed(maps[name], params[f"lateral_{name}"])
        above = F.interpolate(levels[-1], size=lateral.shape[2:], mode="bilinear")
        levels.append(normed(lateral + above, params[f"output_{name}"]).relu())
    kernel = t(params["features"]["kernel"]).permute(3, 2, 0, 1)
    return levels[:3], F.conv2d(levels[3], kernel, t(params["features"]["bias"]))


def test_the_attention_pyramid_equals_torch(rng):
    sizes = {"res2": (13, 17), "res3": (6, 8), "res4": (3, 4), "res5": (1, 2)}
    maps, decoder = _maps(rng, sizes), _decoder("fpn_attn", layers=2)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), maps)["params"]
    params = _random_like(shapes, rng)
    got = jax.jit(decoder.apply)({"params": params}, maps)
    nchw = {name: torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) for name, x in maps.items()}
    with torch.no_grad():
        levels, features = _torch_fpn(params, nchw, layers=2)
    for ours, theirs in zip((*got.levels, got.features), (*levels, features), strict=True):
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("kind", ["fpn_attn", "deform"])
def test_norms_and_softmax_of_half_precision_run_in_float32(rng, kind):
    maps = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _maps(rng, ODD))
    decoder = _decoder(kind).clone(dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(decoder.init, jax.random.key(0), maps)
        program = jax.make_jaxpr(decoder.apply)(shapes, maps).jaxpr
    assert _input_types(program, ("rsqrt", "exp")) == {"float32"}
    assert "bfloat16" in _input_types(program, ("dot_general",))
    assert _input_types(program, ("conv_general_dilated",)) == {"bfloat16"}
    assert {x.aval.dtype.name for x in program.outvars} == {"bfloat16"}


def _input_types(jaxpr, names):
    """The types that these operations read, inner programs included."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in names:
            found |= {x.aval.dtype.name for x in equation.invars}
        for inner in core.jaxprs_in_params(equation.params):
            found |= _input_types(inner, names)
    return found


@pytest.mark.parametrize("size", [(7, 9), (4, 4), (1, 1)])
def test_the_simple_pyramid_has_four_scales(size):
    height, width = size
    dense = jnp.zeros((2, height, width, 12))
    got, _ = jax.eval_shape(SimplePyramid(width=8).init_with_output, jax.random.key(0), dense)
    expected = {
        "res2": (4 * height, 4 * width),
        "res3": (2 * height, 2 * width),
        "res4": size,
        "res5": (-(-height // 2), -(-width // 2)),
    }
    assert {name: x.shape for name, x in got.items()} == {
        name: (2, *shape, 8) for name, shape in expected.items()
    }


def test_the_simple_pyramid_equals_torch(rng):
    module, dense = SimplePyramid(width=8), rng.normal(size=(1, 3, 5, 8)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), dense)["params"]
    params = _random_like(shapes, rng)
    got = jax.jit(module.apply)({"params": params}, dense)
    t = lambda x: torch.tensor(np.asarray(x))

    def norm(x, name):
        x = x.permute(0, 2, 3, 1)
        p = params[name]
        return F.layer_norm(x, x.shape[-1:], t(p["scale"]), t(p["bias"]), 1e-6).permute(0, 3, 1, 2)

    def double(x, name):
        # Flax slides the kernel over the enlarged map, torch spreads it: mirrored to each other.
        kernel = t(params[name]["kernel"]).flip(0, 1).permute(2, 3, 0, 1)
        return F.conv_transpose2d(x, kernel, t(params[name]["bias"]), stride=2)

    x = torch.tensor(dense).permute(0, 3, 1, 2)
    finer = F.gelu(norm(double(x, "res2_up_0"), "res2_up_norm"))
    maps = {
        "res2": double(finer, "res2_up_1"),
        "res3": double(x, "res3_up"),
        "res4": x,
        "res5": F.max_pool2d(x, 2, 2, ceil_mode=True),
    }
    for name, y in maps.items():
        for kernel_size in (1, 3):
            kernel = t(params[f"{name}_conv{kernel_size}"]["kernel"]).permute(3, 2, 0, 1)
            y = norm(F.conv2d(y, kernel, padding=kernel_size // 2), f"{name}_norm{kernel_size}")
        np.testing.assert_allclose(got[name], y.permute(0, 2, 3, 1), atol=1e-4)
