"""The layers of cost aggregation against loops in NumPy and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax.hosts.cost_blocks import (
    ClassBlock,
    DoubleConv,
    Guided,
    Upsample,
    average,
    linear_attention,
    resize_aligned,
)
from gba_jax.hosts.cost_windows import WindowBlock, Windows

F = torch.nn.functional


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def _random(rng, tree):
    """Parameters of the same shapes, none of them zero."""
    return jax.tree.map(lambda leaf: 0.3 * _normal(rng, *leaf.shape), tree)


def _parameters(rng, module, *args):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    return _random(rng, shapes)["params"]


def _norm(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params["bias"]


def _linear(x, params):
    return x @ params["kernel"].reshape(-1, params["kernel"].shape[-1]) + params["bias"]


def _images_first(x):
    """(..., h, w, E) as torch's (N, E, h, w)."""
    return torch.tensor(np.moveaxis(x.reshape(-1, *x.shape[-3:]), -1, 1))


@pytest.mark.parametrize("size", [1, 3])
def test_a_guide_is_as_good_as_joined_channels(rng, size):
    x, guide = _normal(rng, 2, 3, 4, 5, 6), _normal(rng, 2, 1, 4, 5, 2)
    module = Guided(7, size)
    params = _parameters(rng, module, x, guide)
    joined = np.concatenate([x, np.broadcast_to(guide, (*x.shape[:-1], 2))], axis=-1)
    kernel = torch.tensor(params["kernel"].transpose(3, 2, 0, 1))
    expected = F.conv2d(
        _images_first(joined), kernel, torch.tensor(params["bias"]), padding=size // 2
    )
    got = module.apply({"params": params}, x, guide)
    np.testing.assert_allclose(_images_first(np.asarray(got)), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_upsampling_is_a_transposed_convolution(rng, scale):
    x = _normal(rng, 2, 3, 4, 5)
    module = Upsample(6, scale)
    params = _parameters(rng, module, x)
    kernel = params["kernel"].reshape(5, scale, scale, 6).transpose(0, 3, 1, 2)
    expected = F.conv_transpose2d(
        _images_first(x), torch.tensor(kernel), torch.tensor(params["bias"]), stride=scale
    )
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(_images_first(np.asarray(got)), expected, atol=1e-5)


def test_double_convolution_equals_torch(rng):
    x, guide = _normal(rng, 1, 2, 4, 5, 6), _normal(rng, 1, 4, 5, 2)
    module = DoubleConv(32)
    params = _parameters(rng, module, x, guide)
    y = np.concatenate([x, np.broadcast_to(guide[:, None], (1, 2, 4, 5, 2))], axis=-1)
    y = _images_first(y)
    for i in (1, 2):
        kernel = torch.tensor(params[f"conv{i}"]["kernel"].transpose(3, 2, 0, 1))
        norm = (torch.tensor(params[f"norm{i}"][name]) for name in ("scale", "bias"))
        y = F.relu(F.group_norm(F.conv2d(y, kernel, padding=1), 2, *norm))
    got = module.apply({"params": params}, x, guide)
    np.testing.assert_allclose(_images_first(np.asarray(got)), y, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"), [((3, 4), (6, 9)), ((1, 2), (3, 5)), ((4, 4), (4, 4))]
)
def test_aligned_resize_equals_torch(rng, before, after):
    x = _normal(rng, 2, *before, 3)
    expected = F.interpolate(_images_first(x), after, mode="bilinear", align_corners=True)
    got = np.asarray(resize_aligned(jnp.asarray(x), after))
    np.testing.assert_allclose(_images_first(got), expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)])
def test_pooling_equals_torch(rng, grid):
    x = _normal(rng, 2, *grid, 3)
    got = np.asarray(average(jnp.asarray(x), 2))
    np.testing.assert_allclose(_images_first(got), F.avg_pool2d(_images_first(x), 2), atol=1e-6)


def test_pooling_a_single_row_keeps_it(rng):
    assert average(jnp.asarray(_normal(rng, 1, 1, 5, 2)), 2).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("grid", [(8, 8), (7, 10), (3, 9), (4, 4)])
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_cut_and_joined(rng, grid, shifted):
    x = _normal(rng, 2, *grid, 3)
    windows = Windows(grid, 4, shifted)
    cut = windows.split(jnp.asarray(x))
    np.testing.assert_array_equal(windows.join(cut), x)
    visible = windows.visible()
    # A cell sees the cells of its window in a plane cut at multiples of 4, moved by 2 where there are several windows.
    index = np.arange(grid[0] * grid[1]).reshape(grid)[..., None] + 1
    cells = np.asarray(windows.split(jnp.asarray(index)))[..., 0]
    move = [2 if shifted and size > 4 else 0 for size in grid]
    window = lambda i: tuple((p - m) // 4 for p, m in zip(np.unravel_index(i - 1, grid), move))
    for n, row in enumerate(cells):
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                # What padding sees is nobody's business.
                if a > 0:
                    seen = visible is None or bool(visible[n, i, j])
                    assert seen == (b > 0 and window(a) == window(b))
    # Everybody of a window is there: no neighbour was lost on the other side of the roll.
    for a in range(1, index.size + 1):
        n = int(np.argwhere((cells == a).any(-1))[0, 0])
        mates = {b for b in range(1, index.size + 1) if window(b) == window(a)}
        assert mates <= set(cells[n].tolist())


@pytest.mark.parametrize(("grid", "shifted"), [((4, 4), True), ((6, 8), False), ((7, 6), True)])
def test_window_attention_equals_a_loop_over_windows(rng, grid, shifted):
    width, heads, size = 8, 2, 4
    x, guide = _normal(rng, 1, 2, *grid, width), _normal(rng, 1, *grid, 3)
    module = WindowBlock(heads, size, shifted, 2)
    params = _parameters(rng, module, x, guide)
    got = jax.jit(module.apply)({"params": params}, x, guide)

    y = _norm(x, params["norm1"])
    beside = np.concatenate([y, np.broadcast_to(guide[:, None], (*x.shape[:-1], 3))], axis=-1)
    q, k = _linear(beside, params["query"]), _linear(beside, params["key"])
    v, mixed = _linear(y, params["value"]), np.zeros_like(x)
    move = [size // 2 if shifted and cells > size else 0 for cells in grid]
    places = [(np.arange(cells) - m) // size for cells, m in zip(grid, move)]
    for c in range(2):
        for row in np.unique(places[0]):
            for column in np.unique(places[1]):
                inside = np.ix_(places[0] == row, places[1] == column)
                parts = (z[0, c][inside].reshape(-1, heads, width // heads) for z in (q, k, v))
                a, b, values = parts
                found = np.einsum("qhd,khd->hqk", a, b) / np.sqrt(width // heads)
                weights = np.exp(found - found.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                out = np.einsum("hqk,khd->qhd", weights, values)
                mixed[0, c][inside] = out.reshape(*mixed[0, c][inside].shape)
    z = x + _linear(mixed, params["out"])
    hidden = F.gelu(torch.tensor(_linear(_norm(z, params["norm2"]), params["fc1"]))).numpy()
    np.testing.assert_allclose(got, z + _linear(hidden, params["fc2"]), atol=2e-5)


def test_linear_attention_equals_the_weighted_mean(rng):
    shape = (2, 5, 2, 3, 2, 4)
    q, k, v = (_normal(rng, *shape) for _ in range(3))
    weight = np.asarray([[1, 0, 1, 1, 7], [0, 0, 0, 1, 0]], np.float32)
    feature = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    expected = np.zeros(shape)
    for b, i, y, x, h in np.ndindex(*shape[:-1]):
        mass = weight[b] * (feature(k[b, :, y, x, h]) @ feature(q[b, i, y, x, h]))
        expected[b, i, y, x, h] = mass @ v[b, :, y, x, h] / mass.sum()
    np.testing.assert_allclose(linear_attention(q, k, v, weight), expected, atol=1e-5)


def test_no_class_at_all_is_finite(rng):
    q = jnp.asarray(_normal(rng, 1, 3, 1, 1, 1, 2))
    assert not np.asarray(linear_attention(q, q, q, jnp.zeros((1, 3)))).any()


@pytest.fixture(scope="module")
def words():
    """A class block with a token for a vocabulary of 9, its parameters, and inputs of 5 classes, 2 of them padding."""
    rng = np.random.default_rng(1)
    x, guide = _normal(rng, 2, 5, 4, 6, 8), _normal(rng, 2, 5, 3)
    real = np.asarray([[True, True, False, True, False]] * 2)
    module = ClassBlock(2, 2, 2, vocabulary=9)
    return module, _parameters(rng, module, x, real, guide), x, real, guide


def test_the_token_stands_for_the_classes_that_are_missing(words):
    module, params, x, real, guide = words
    got = module.apply({"params": params}, x, real, guide)
    # The same with 6 explicit copies: an attention over 9 classes without weights, as the public implementation has it.
    pooled = x.reshape(2, 5, 2, 2, 3, 2, 8).mean((3, 5))[:, real[0]]
    pooled = np.concatenate([pooled, np.broadcast_to(params["token"], (2, 6, 2, 3, 8))], axis=1)
    guides = np.concatenate(
        [guide[:, real[0]], np.broadcast_to(params["token_guide"], (2, 6, 3))], axis=1
    )
    y = _norm(pooled, params["norm1"])
    beside = np.broadcast_to(guides[:, :, None, None], (*pooled.shape[:-1], 3))
    beside = np.concatenate([y, beside], axis=-1)
    heads = lambda z: z.reshape(*z.shape[:-1], 2, 4)
    mixed = linear_attention(
        heads(_linear(beside, params["query"])),
        heads(_linear(beside, params["key"])),
        heads(_linear(y, params["value"])),
        np.ones((2, 9), np.float32),
    )
    z = pooled + np.asarray(mixed).reshape(pooled.shape)
    z = z + _linear(np.maximum(_linear(_norm(z, params["norm2"]), params["fc1"]), 0), params["fc2"])
    z = F.interpolate(_images_first(z[:, :3]), (4, 6), mode="bilinear", align_corners=True)
    expected = x[:, real[0]] + np.moveaxis(z.numpy().reshape(2, 3, 8, 4, 6), 2, -1)
    np.testing.assert_allclose(np.asarray(got)[:, real[0]], expected, atol=2e-5)


def test_padding_does_not_reach_the_classes(words):
    module, params, x, real, guide = words
    got = np.asarray(module.apply({"params": params}, x, real, guide))
    other = np.where(real[:, :, None, None, None], x, 100.0).astype(np.float32)
    same = np.asarray(module.apply({"params": params}, other, real, guide))
    np.testing.assert_array_equal(got[real], same[real])
