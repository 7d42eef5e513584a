"""What both adapters are made of: three depthwise convolutions in one, and the gated refinement.

Shapes: maps (B, h, w, E), r the width of the refinement. Parameters are float32; activations keep the dtype of the input,
cosines run in float32. So does everything that a parameter is broadcast over: its gradient is a sum over all pixels of the
batch, and in bfloat16 such a sum stops growing after 256 equal terms (XLA adds in the type it is given).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SIZES = (3, 5, 7)
# The norms of the cosine are floored at 1e-12. Flooring the square keeps the slope of the root finite at 0.
_SMALLEST_SQUARE = 1e-24


class Dense(nn.Module):
    """A linear layer of the channels: `nn.Dense`, its product in `dtype` and its bias added in float32.

    Attributes:
      features: channels of the result.
      dtype: of the product and the result.
      kernel_init: of the kernel.
    """

    features: int
    dtype: jnp.dtype
    kernel_init: jax.nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... features"]:
        """The mapped channels."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return (y.astype(jnp.float32) + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(
            self.dtype
        )


class MultiKernelConv(nn.Module):
    """D3(x) + D5(x) + D7(x), depthwise with biases and zero "same" padding.

    A sum of convolutions is the convolution with the sum of the kernels, each padded to 7 x 7: one pass over the map with
    49 products per pixel and channel instead of three passes with 83 (`depthwise`).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B h w E"]) -> Float[Array, "B h w E"]:
        """The sum of the three; divide by 3 where the mean is meant."""
        channels, widest = x.shape[-1], max(_SIZES)
        kernel, bias = jnp.zeros((widest, widest, 1, channels)), jnp.zeros(channels)
        for size in _SIZES:
            one = self.param(
                f"kernel{size}", nn.initializers.lecun_normal(), (size, size, 1, channels)
            )
            edge = (widest - size) // 2
            kernel += jnp.pad(one, ((edge, edge), (edge, edge), (0, 0), (0, 0)))
            bias += self.param(f"bias{size}", nn.initializers.zeros, (channels,))
        y = depthwise(x, kernel).astype(jnp.float32)
        return (y + bias[None, None, None]).astype(x.dtype)


class GatedRefinement(nn.Module):
    """R(Y) = Y + g2 * ((m * Z) P_out), Z = SiLU(W_p Y + b_p), m = clip(cos(Z, xi), 0, 1) per pixel.

    Attributes:
      width: r.
      gated: multiply by the gain g2, 0 at the start, which makes R the identity. The released form has none.
    """

    width: int
    gated: bool = True

    @nn.compact
    def __call__(self, y: Float[Array, "B h w E"]) -> Float[Array, "B h w E"]:
        """The refined map."""
        channels = y.shape[-1]
        square = self.width == channels
        identity = lambda _, shape: jnp.eye(*shape)
        prompt = self.param("prompt", nn.initializers.normal(1.0), (self.width,))
        out = self.param(
            "out",
            identity if square else nn.initializers.lecun_normal(),
            (self.width, channels),
        )
        z = nn.silu(Dense(self.width, y.dtype, name="project")(y))
        wide = z.astype(jnp.float32)
        cosine = (wide @ prompt) / (_norm(wide) * _norm(prompt))
        chosen = jnp.clip(cosine, 0.0, 1.0)[..., None].astype(y.dtype) * z
        added = chosen @ out.astype(y.dtype)
        return gated_sum(self, y, added) if self.gated else y + added


@jax.custom_vjp
def depthwise(
    x: Float[Array, "B h w E"], kernel: Float[Array, "k k 1 E"]
) -> Float[Array, "B h w E"]:
    """Depthwise convolution with zero "same" padding and an odd kernel, as a sum of shifted maps.

    XLA's grouped convolution took 13 to 27 times as long on CPU; the shifts fuse into one loop. The gradient is written out,
    because that of 49 slices is 49 padded maps.
    """
    # Summing 49 products in bfloat16 would lose what a convolution keeps.
    total = jnp.zeros(x.shape, jnp.float32)
    for (i, j), shifted in _shifts(x, kernel.shape[0]):
        total += shifted.astype(jnp.float32) * kernel[i, j, 0][None, None, None]
    return total.astype(x.dtype)


def _depthwise_forward(x, kernel):
    return depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved, g):
    x, kernel = saved
    size, edge = kernel.shape[0], kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))

    def entry(place):
        start = (0, place // size, place % size, 0)
        shifted = jax.lax.dynamic_slice(padded, start, x.shape)
        return jnp.sum(shifted.astype(jnp.float32) * g.astype(jnp.float32), axis=(0, 1, 2))

    # One small loop: unrolled into 49 reductions it runs 1.4 to 4 times as long and compiles for seconds.
    slope = jax.lax.map(entry, jnp.arange(size * size)).reshape(kernel.shape)
    return depthwise(g, kernel[::-1, ::-1]), slope


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _shifts(x: Array, size: int):
    edge, (height, width) = size // 2, x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    for i in range(size):
        for j in range(size):
            yield (i, j), padded[:, i : i + height, j : j + width]


def gated_sum(
    module: nn.Module, x: Float[Array, "B h w E"], branch: Float[Array, "B h w E"]
) -> Float[Array, "B h w E"]:
    """The sum x + g * branch, g a gain per channel, 0 at the start: a branch adds nothing until it has learned something.

    To be called inside the compact method of `module`, which owns the parameter "gain". The result has the dtype of x.
    """
    gain = module.param("gain", nn.initializers.zeros, (x.shape[-1],))[None, None, None]
    return (x.astype(jnp.float32) + gain * branch.astype(jnp.float32)).astype(x.dtype)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1), _SMALLEST_SQUARE))
