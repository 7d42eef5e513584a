"""The simple feature pyramid of ViTDet (arXiv 2203.16527): a plain ViT's single map to four, so that it can host masks.

Shapes: B images, (h, w) the patch grid, E channels of the dense map, `width` channels of the pyramid. Norms run in
float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn import norm
from gba_jax.hosts.mask_layers import conv_init

_EPS = 1e-6


class SimplePyramid(nn.Module):
    """Four maps from one, at 4, 2, 1 and 1/2 of its resolution: "res2", "res3", "res4" and "res5"."""

    width: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, dense: Float[Array, "B h w E"]) -> dict[str, Float[Array, "B hi wi width"]]:
        """Sizes (4h, 4w), (2h, 2w), (h, w) and (ceil(h / 2), ceil(w / 2)), whatever the patch size."""
        x, channels = dense.astype(self.dtype), dense.shape[-1]
        finer = self._double(x, channels // 2, "res2_up_0")
        finer = jax.nn.gelu(norm("res2_up_norm", _EPS, self.dtype)(finer), approximate=False)
        maps = {
            "res2": self._double(finer, channels // 4, "res2_up_1"),
            "res3": self._double(x, channels // 2, "res3_up"),
            "res4": x,
            # Padded, so that an odd last row or column is kept and a grid of 1 x 1 has a coarser level too.
            "res5": nn.max_pool(x, (2, 2), (2, 2), "SAME"),
        }
        return {name: self._out(y, name) for name, y in maps.items()}

    def _double(self, x: Array, channels: int, name: str) -> Array:
        return nn.ConvTranspose(channels, (2, 2), (2, 2), dtype=self.dtype, name=name)(x)

    def _out(self, x: Array, name: str) -> Array:
        for size in (1, 3):
            x = nn.Conv(
                self.width,
                (size, size),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=conv_init,
                name=f"{name}_conv{size}",
            )(x)
            x = norm(f"{name}_norm{size}", _EPS, self.dtype)(x)
        return x
