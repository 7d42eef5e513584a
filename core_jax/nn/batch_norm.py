"""Batch normalisation as torch does it (arXiv 1502.03167), in Flax linen.

Shapes: B images, h and w pixels, E channels, NHWC. Statistics are float32 whatever the activations are. Torch divides the
variance that normalises by n, and the one it keeps by n - 1; linen's own layer keeps the first, which after a while is
another network on small batches.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STATS = "batch_stats"
"""The collection of running statistics: (E,) "mean" and "var" of every layer."""


class BatchNorm(nn.Module):
    """Scale and shift after normalising by the batch's statistics, or by the running ones.

    `momentum` is the share of the old running value that a step keeps (torch's `momentum` is one minus it).
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"], train: bool = False) -> Float[Array, "... E"]:
        """Normalises over all axes but the last.

        Args:
          x: activations.
          train: use the batch's statistics and move the running ones, which must then be mutable.

        Raises:
          ValueError: in training, a channel with a single value, which has no variance.
        """
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        kept_mean = self.variable(STATS, "mean", jnp.zeros, (width,), jnp.float32)
        kept_var = self.variable(STATS, "var", jnp.ones, (width,), jnp.float32)
        if not train:
            mean, var = kept_mean.value, kept_var.value
        else:
            count = x.size // width
            if count < 2:
                raise ValueError(
                    f"batch normalisation of shape {x.shape}: one value a channel has no variance; train on larger "
                    "batches or larger pictures"
                )
            mean, var = _moments(x)
            if not self.is_initializing():
                keep, unbiased = self.momentum, count / (count - 1)
                kept_mean.value = keep * kept_mean.value + (1 - keep) * mean
                kept_var.value = keep * kept_var.value + (1 - keep) * unbiased * var
        factor = scale * jax.lax.rsqrt(var + self.eps)
        shift = bias - mean * factor
        over = (None,) * (x.ndim - 1)
        # In the activations' own type: the statistics are exact, and the map is read and written once.
        return x * factor.astype(self.dtype)[over] + shift.astype(self.dtype)[over]


def _moments(x: Float[Array, "... E"]) -> tuple[Float[Array, " E"], Float[Array, " E"]]:
    """Mean and variance (divided by n) in float32; two passes, because E[x^2] - E[x]^2 cancels."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    centred = x - mean[(None,) * len(axes)]
    return mean, jnp.mean(centred * centred, axes)
