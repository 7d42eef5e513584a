"""Convolution and maximum whose gradients are quick on CPUs too; on accelerators they are XLA's own.

Shapes: B pictures, H, W pixels, c channels before and E after, h, w pixels after, NHWC; kernels are (k, l, c, E).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Below this many channels a product per place of the kernel is too thin.
_THIN = 8

Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: Float[Array, "B H W c"],
    kernel: Float[Array, "k l c E"],
    strides: tuple[int, int],
    padding: Any,
    **others: Any,
) -> Float[Array, "B h w E"]:
    """`jax.lax.conv_general_dilated`, which it can stand for in `flax.linen.Conv(conv_general_dilated=convolve)`.

    On CPUs the gradient of the kernel is one matrix product for each of its places: XLA's own takes up to five times as
    long, more than the rest of a training step together.

    Args:
      x: maps.
      kernel: the weights.
      strides: of rows and columns.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      others: what linen names besides; dilated and grouped convolutions, and other layouts, are left to XLA.
    """
    usual = {
        "lhs_dilation": (None, (1, 1)),
        "rhs_dilation": (None, (1, 1)),
        "feature_group_count": (1,),
        "precision": (None,),
        "preferred_element_type": (None,),
        "dimension_numbers": (
            None,
            jax.lax.conv_dimension_numbers(x.shape, kernel.shape, _NUMBERS),
        ),
    }
    if x.shape[-1] < _THIN or any(value not in usual[name] for name, value in others.items()):
        others.setdefault("dimension_numbers", _NUMBERS)
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **others)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _convolve(x, kernel, tuple(strides), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_NUMBERS)


def _forward(x, kernel, strides, pads):
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, saved, cotangent):
    x, kernel = saved
    plain = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_NUMBERS
    )
    of_maps = jax.linear_transpose(lambda x: plain(x, kernel), x)
    of_kernel = jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)
    products = functools.partial(_kernel_gradient, kernel.shape, strides, pads)
    return of_maps(cotangent)[0], jax.lax.platform_dependent(
        x, cotangent, cpu=products, default=lambda _, cotangent: of_kernel(cotangent)[0]
    )


_convolve.defvjp(_forward, _backward)


def _kernel_gradient(shape, strides, pads, x, cotangent):
    """One product of pixels by channels for each place of the kernel, summed in float32."""
    (height, width), (down, right) = cotangent.shape[1:3], strides
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    products = []
    for i in range(shape[0]):
        for j in range(shape[1]):
            seen = x[:, i : i + (height - 1) * down + 1 : down]
            seen = seen[:, :, j : j + (width - 1) * right + 1 : right].reshape(-1, shape[2])
            products.append(jnp.matmul(seen.T, rows, preferred_element_type=jnp.float32))
    return jnp.stack(products).reshape(shape).astype(x.dtype)


def larger(one: Array, other: Array) -> Array:
    """The maximum; its gradient goes to the value that was chosen, to the first where both are equal.

    That of `jnp.maximum` goes to the value that equals the answer. A compiler that computes the values again for it, with
    another rounding, leaves none that does: the gradient is lost.
    """
    return jnp.where(one >= other, one, other)


def max_pool(
    x: Float[Array, "B H W E"], size: int = 2, stride: int = 2, padding: int = 0
) -> Float[Array, "B h w E"]:
    """The maximum of each window; rows and columns that fill none are left out, and padding never wins.

    Written out as maxima of shifted maps: the gradient of a window reduction takes a third of DRNet's training step on CPUs.
    """
    if padding:
        around = (padding, padding)
        x = jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        last = x.shape[axis] - size + 1
        places = [jax.lax.slice_in_dim(x, i, last + i, stride, axis) for i in range(size)]
        x = functools.reduce(larger, places)
    return x
