"""The layers that refine cost maps: linear maps and convolutions with guides, attention over classes, decoder stages.

From CAT-Seg (arXiv 2303.11797); the attention over classes is linear (arXiv 2006.16236). Shapes: B images, K classes, (h, w)
grid, E channels, G channels of a guide. Cost features are (B, K, h, w, E); a guide lacks K (it belongs to the picture) or h
and w (it belongs to the class).

A class never sees another one but in `ClassBlock`, where classes that are not real weigh nothing: how many of them there are
changes no result.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from core_jax.nn import norm

EPS = 1e-5
_SMALLEST_SUM = 1e-6
# Channels of a group of the decoders' norms.
_GROUP = 16

xavier = nn.initializers.xavier_uniform()


class Guided(nn.Module):
    """A convolution (size 1: a linear map) of [x, guide], as if both had been joined along their channels.

    It is linear, so the guide's share is computed once and added to all classes or pixels that the guide is common to.

    Attributes:
      features: channels of the result.
      size: of the kernel, "same" padding.
      bias: whether there is one.
      kernel_init: of the kernel of [x, guide].
      dtype: of the computation.
    """

    features: int
    size: int = 1
    bias: bool = True
    kernel_init: jax.nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, guide):
        """Map x (..., h, w, E) with a guide of equal rank, whose axes may be 1, or with None."""
        own, total = x.shape[-1], x.shape[-1] + (0 if guide is None else guide.shape[-1])
        shape = (self.size, self.size, total, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = _convolve(x, kernel[:, :, :own])
        if guide is not None:
            y = y + _convolve(guide, kernel[:, :, own:])
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Upsample(nn.Module):
    """A transposed convolution whose stride is its kernel: no overlap, so a linear map to scale^2 pixels of each pixel."""

    features: int
    scale: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w E"]) -> Float[Array, "... H W features"]:
        """To (h, w) times `scale`."""
        *lead, height, width, channels = x.shape
        s = self.scale
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (channels, s * s * self.features)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        y = x.reshape(-1, height, width, channels) @ kernel.astype(self.dtype)
        y = y.reshape(-1, height, width, s, s, self.features).swapaxes(2, 3)
        y = y.reshape(*lead, height * s, width * s, self.features)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class DoubleConv(nn.Module):
    """Twice: convolution 3x3 without bias, GroupNorm of groups of 16 channels, ReLU; the first one also reads a guide."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B K h w E"], guide: Float[Array, "B h w G"]
    ) -> Float[Array, "B K h w features"]:
        """Each class by itself, the guide of its picture beside it."""
        conv = functools.partial(Guided, self.features, 3, bias=False, dtype=self.dtype)
        x = self._settle("norm1", conv(name="conv1")(x, guide[:, None]))
        return self._settle("norm2", conv(name="conv2")(x, None))

    def _settle(self, name, x):
        normed = nn.GroupNorm(
            num_groups=max(1, self.features // _GROUP),
            epsilon=EPS,
            use_fast_variance=False,
            # Of one class of one picture: by default K would count as space.
            reduction_axes=(-3, -2, -1),
            name=name,
        )
        return jax.nn.relu(normed(x.astype(jnp.float32)).astype(self.dtype))


class Up(nn.Module):
    """A decoder stage: twice the resolution, in - G channels, the guide's G joined, double convolution."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, guide, extra=None):
        """Join x (B, K, h, w, E), guide (B, 2h, 2w, G) and, of each class, extra (B, K, 2h, 2w, G') or None."""
        x = Upsample(x.shape[-1] - guide.shape[-1], 2, self.dtype, name="up")(x)
        x = x if extra is None else jnp.concatenate([x, extra], axis=-1)
        return DoubleConv(self.features, self.dtype, name="convs")(x, guide)


class ClassBlock(nn.Module):
    """Linear attention of every pixel's classes to each other, on a coarser grid; the result is added to x.

    Attributes:
      heads: of the attention.
      pool: mean over pool x pool pixels first.
      expansion: of the MLP.
      vocabulary: with more than 0, a learned token (and guide) stands for every class that a vocabulary has less than this
        many; it is weighed by their number, so the result depends on the real classes only.
      dtype: of the activations; the sums run in float32.
    """

    heads: int
    pool: int
    expansion: int
    vocabulary: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B K h w E"],
        real: Bool[Array, "B K"],
        guide: Float[Array, "B K G"] | None = None,
    ) -> Float[Array, "B K h w E"]:
        """With p = pooled x and z = p + attention(norm(p), guide): x + resize(z + MLP(norm(z))), corners aligned."""
        _, classes, *grid, width = x.shape
        pooled, weight = average(x, self.pool), real.astype(jnp.float32)
        if self.vocabulary:
            missing = jnp.maximum(self.vocabulary - jnp.sum(weight, axis=1, keepdims=True), 0.0)
            weight = jnp.concatenate([weight, missing], axis=1)
            pooled = self._append("token", pooled)
            guide = None if guide is None else self._append("token_guide", guide)
        y = layer_norm("norm1", pooled)
        beside = None if guide is None else guide[:, :, None, None]
        linear = functools.partial(Guided, width, kernel_init=xavier, dtype=self.dtype)
        heads = lambda z: z.reshape(*z.shape[:-1], self.heads, width // self.heads)
        mixed = linear_attention(
            heads(linear(name="query")(y, beside)),
            heads(linear(name="key")(y, beside)),
            heads(linear(name="value")(y, None)),
            weight,
        )
        z = (pooled + mixed.reshape(pooled.shape).astype(self.dtype))[:, :classes]
        hidden = layer_norm("norm2", z)
        z = z + mlp(hidden, self.expansion, jax.nn.relu, self.dtype)
        return x + resize_aligned(z, (grid[0], grid[1]))

    def _append(self, name, values):
        """(B, K, ..., E) with one more class: a learned vector, the same in every picture and pixel."""
        token = self.param(name, nn.initializers.zeros, values.shape[-1:]).astype(values.dtype)
        shape = (values.shape[0], 1, *values.shape[2:])
        token = jnp.broadcast_to(token.reshape((1,) * (len(shape) - 1) + (-1,)), shape)
        return jnp.concatenate([values, token], axis=1)


def linear_attention(
    query: Float[Array, "B K h w heads d"],
    key: Float[Array, "B K h w heads d"],
    value: Float[Array, "B K h w heads d"],
    weight: Float[Array, "B K"],
) -> Float[Array, "B K h w heads d"]:
    """Attention over K whose kernel is the dot product of elu(x) + 1, so that its cost is linear in K (arXiv 2006.16236).

      out_i = sum_j w_j (f(q_i) . f(k_j)) v_j / sum_j w_j (f(q_i) . f(k_j)),  f(x) = elu(x) + 1

    Args:
      query: of every class and pixel.
      key: likewise.
      value: likewise.
      weight: how often a class counts; 0 leaves it out.

    Returns:
      The means in float32; 0 where no class counts.
    """
    feature = lambda x: jax.nn.elu(x.astype(jnp.float32)) + 1.0
    query, key = feature(query), feature(key) * weight[:, :, None, None, None, None]
    memory = jnp.einsum("bkyxhd,bkyxhe->byxhde", key, value.astype(jnp.float32))
    total = jnp.einsum("bkyxhd,byxhd->bkyxh", query, jnp.sum(key, axis=1)) + _SMALLEST_SUM
    return jnp.einsum("bkyxhd,byxhde->bkyxhe", query, memory) / total[..., None]


def average(x: Float[Array, "... h w E"], size: int) -> Float[Array, "... H W E"]:
    """Means over size x size cells; as in torch, cells that do not fill one are left out. Smaller grids give one row."""
    *lead, height, width, channels = x.shape
    high, wide = min(size, height), min(size, width)
    rows, columns = height // high, width // wide
    x = x[..., : rows * high, : columns * wide, :]
    return jnp.mean(x.reshape(*lead, rows, high, columns, wide, channels), axis=(-4, -2))


def resize_aligned(
    x: Float[Array, "... h w E"], size: tuple[int, int]
) -> Float[Array, "... H W E"]:
    """Bilinear resize whose corner cells are the corners of the result (torch's align_corners=True)."""
    if x.shape[-3:-1] == tuple(size):
        return x
    rows, columns = (
        jnp.asarray(_aligned(before, after), x.dtype) for before, after in zip(x.shape[-3:-1], size)
    )
    return jnp.einsum("Yy,...yxe,Xx->...YXe", rows, x, columns)


def _aligned(before: int, after: int) -> np.ndarray:
    """(after, before) weights of linear interpolation between aligned ends."""
    place = np.linspace(0.0, before - 1.0, after)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(before)[None]))


def _convolve(x, kernel):
    """(..., h, w, E) with a kernel (s, s, E, F): "same" padding, all leading axes are batch."""
    if kernel.shape[0] == 1:
        return x @ kernel[0, 0]
    lead, dimensions = x.shape[:-3], ("NHWC", "HWIO", "NHWC")
    flat = x.reshape(-1, *x.shape[-3:])
    y = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return y.reshape(*lead, *y.shape[1:])


def layer_norm(name: str, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Norm over channels in float32, back in the dtype of x: to be called inside a module's compact method."""
    return norm(name, EPS, jnp.float32)(x.astype(jnp.float32)).astype(x.dtype)


def mlp(
    x: Float[Array, "... E"], expansion: int, activation: Callable[[Array], Array], dtype
) -> Float[Array, "... E"]:
    """Two linear layers, E to `expansion` E and back: to be called inside a module's compact method."""
    hidden = nn.Dense(expansion * x.shape[-1], dtype=dtype, name="fc1")(x)
    return nn.Dense(x.shape[-1], dtype=dtype, name="fc2")(activation(hidden))
