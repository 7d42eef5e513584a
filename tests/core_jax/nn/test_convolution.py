"""Convolution and maximum with gradients of our own, against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax.nn import convolve, larger, max_pool


def _torchs(x):
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)


def _ours(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1))),
        ((3, 2), (2, 1), ((0, 0), (2, 2))),
        ((4, 4), (3, 2), ((1, 1), (0, 0))),
        ((1, 1), (2, 2), ((0, 0), (0, 0))),
    ],
)
def test_gradients_are_torchs(kernel, strides, pads):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 8)).astype(np.float32)
    weight = rng.normal(size=(*kernel, 8, 5)).astype(np.float32)
    theirs, theirs_weight = _torchs(x), torch.tensor(weight.transpose(3, 2, 0, 1).copy())
    theirs_weight.requires_grad_()
    expected = torch.nn.functional.conv2d(
        theirs, theirs_weight, stride=strides, padding=(pads[0][0], pads[1][0])
    )
    expected.square().sum().backward()

    def loss(x, weight):
        y = convolve(x, weight, strides, pads)
        return jnp.sum(y**2), y

    (_, y), (of_x, of_weight) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        x, weight
    )
    close = lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs, atol=1e-5 * np.abs(theirs).max()
    )
    close(y, _ours(expected))
    close(of_x, np.moveaxis(theirs.grad.numpy(), 1, -1))
    close(of_weight, theirs_weight.grad.numpy().transpose(2, 3, 1, 0))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_named_padding_is_xlas(padding, strides):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 7, 6, 8)).astype(np.float32)
    weight = rng.normal(size=(3, 3, 8, 4)).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    plain = lambda weight: jax.lax.conv_general_dilated(
        x, weight, strides, padding, dimension_numbers=numbers
    )
    ours = lambda weight: convolve(x, weight, strides, padding)
    np.testing.assert_array_equal(ours(weight), plain(weight))
    grads = (jax.jit(jax.grad(lambda w, f=f: jnp.sum(f(w) ** 2)))(weight) for f in (ours, plain))
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-4)


def test_groups_are_left_to_xla():
    x, weight = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 1, 8))
    y = convolve(x, weight, (1, 1), "VALID", feature_group_count=8)
    np.testing.assert_array_equal(y, np.full((1, 2, 2, 8), 9.0))


def test_stacked_networks_have_the_gradients_of_each():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 2, 6, 6, 8)).astype(np.float32)
    weight = rng.normal(size=(3, 3, 3, 8, 4)).astype(np.float32)
    grad = jax.grad(lambda w, x: jnp.sum(convolve(x, w, (1, 1), "SAME") ** 2))
    together = jax.jit(jax.vmap(grad))(weight, x)
    for i in range(3):
        np.testing.assert_allclose(together[i], grad(weight[i], x[i]), rtol=1e-4, atol=1e-4)


def test_bfloat16_sums_in_float32():
    x = jnp.ones((1, 40, 40, 8), jnp.bfloat16)
    weight = jnp.zeros((1, 1, 8, 2), jnp.bfloat16)
    grad = jax.jit(jax.grad(lambda w: jnp.sum(convolve(x, w, (1, 1), "VALID"), dtype=jnp.float32)))
    # 1,600 ones: a sum in bfloat16 would stop at 256.
    np.testing.assert_array_equal(grad(weight), np.full((1, 1, 8, 2), 1600.0))
    assert grad(weight).dtype == jnp.bfloat16


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 1, 0), (2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_the_maximum_of_windows_is_torchs(size, window, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    theirs = _torchs(x)
    expected = torch.nn.functional.max_pool2d(theirs, window, stride, padding)
    expected.square().sum().backward()
    pool = lambda x: max_pool(x, window, stride, padding)
    np.testing.assert_array_equal(jax.jit(pool)(x), _ours(expected))
    grad = jax.jit(jax.grad(lambda x: jnp.sum(pool(x) ** 2)))(x)
    np.testing.assert_allclose(grad, np.moveaxis(theirs.grad.numpy(), 1, -1), rtol=1e-6)


def test_of_two_equal_values_the_first_has_the_gradient():
    grads = jax.grad(lambda a, b: larger(a, b), argnums=(0, 1))(1.0, 1.0)
    assert grads == (1.0, 0.0)
