"""The ConvNeXt trunk in Flax linen (arXiv 2201.03545), in the form that timm's weights have.

A stem of stride 4 and four stages of blocks at strides 4, 8, 16 and 32; no classifier. Shapes: B images, H and W pixels, E
channels of a stage, NHWC throughout. Activations follow `dtype`; norms run in float32.

The trunk publishes its stages as taps: `res2` to `res5`, the names of detection and segmentation. A callback given to it
sees the output of every stage and may replace it; the next stage continues with what the callback returns.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (name of the tap, its map) to the map that the backbone continues with.
Tap = Callable[[str, Array], Array]

TAPS = ("res2", "res3", "res4", "res5")

_kernel_init = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Channels and number of blocks of each stage; ConvNeXt-B unless told otherwise.

    `layer_norm_eps` is timm's for every size up to XL; XXL has 1e-5.
    """

    widths: tuple[int, int, int, int] = (128, 256, 512, 1024)
    depths: tuple[int, int, int, int] = (3, 3, 27, 3)
    layer_norm_eps: float = 1e-6


def untouched(name: str, x: Array) -> Array:
    """The tap that changes nothing."""
    del name
    return x


class Block(nn.Module):
    """Depthwise 7x7, norm, two linear layers around an exact GELU, layer scale, residual: (B, h, w, E) to the same."""

    eps: float
    dtype: jnp.dtype
    size: int = 7
    scale: float = 1e-6

    @nn.compact
    def __call__(self, x):
        """Returns x + gamma * fc2(gelu(fc1(norm(depthwise(x)))))."""
        width = x.shape[-1]
        y = nn.Conv(
            width,
            (self.size, self.size),
            padding=self.size // 2,
            feature_group_count=width,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="depthwise",
        )(x)
        y = norm("norm", self.eps, self.dtype)(y)
        y = nn.Dense(4 * width, dtype=self.dtype, kernel_init=_kernel_init, name="fc1")(y)
        y = jax.nn.gelu(y, approximate=False)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=_kernel_init, name="fc2")(y)
        gamma = self.param("gamma", nn.initializers.constant(self.scale), (width,))
        return x + gamma.astype(self.dtype)[None, None, None] * y


class Stage(nn.Module):
    """`depth` blocks of `width` channels, behind a norm and a 2x2 convolution of stride 2 when `halves`."""

    width: int
    depth: int
    halves: bool
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """(B, h, w, E) to (B, h // 2, w // 2, width), or to (B, h, w, E) when it does not halve."""
        if self.halves:
            x = norm("down_norm", self.eps, self.dtype)(x)
            x = _patches("down", self.width, 2, self.dtype)(x)
        for i in range(self.depth):
            x = Block(self.eps, self.dtype, name=f"block_{i}")(x)
        return x


class ConvNeXt(nn.Module):
    """The trunk: (B, H, W, 3) normalised pixels to the maps of its stages."""

    config: ConvNeXtConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "B H W 3"], tap: Tap = untouched
    ) -> dict[str, Float[Array, "B h w E"]]:
        """The maps by name.

        Args:
          pixels: of any size from 32 x 32 on; rows and columns that do not fill a stride are left out, as in torch.
          tap: called as tap("res2", map) to tap("res5", map); must return a map of the same shape and type.

        Returns:
          "res2" to "res5" as `tap` returned them, and "res2/raw" to "res5/raw" as `tap` received them.

        Raises:
          ValueError: the picture is too small, or `tap` returned another shape or type.
        """
        c = self.config
        if min(pixels.shape[1:3]) < 32:
            raise ValueError(
                f"pixels have shape {pixels.shape}, but a trunk of stride 32 needs at least 32 x 32: enlarge them"
            )
        x = _patches("stem", c.widths[0], 4, self.dtype)(pixels)
        x = norm("stem_norm", c.layer_norm_eps, self.dtype)(x)
        maps = {}
        for i, name in enumerate(TAPS):
            x = Stage(
                c.widths[i], c.depths[i], i > 0, c.layer_norm_eps, self.dtype, name=f"stage_{i}"
            )(x)
            maps[f"{name}/raw"] = x
            maps[name] = tap(name, x)
            _check(name, x, maps[name])
            x = maps[name]
        return maps


def norm(name: str, eps: float, dtype) -> nn.LayerNorm:
    """LayerNorm over channels in float32, two-pass variance: E[x^2] - E[x]^2 loses digits where activations are large."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


def _patches(name: str, width: int, size: int, dtype) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        (size, size),
        "VALID",
        dtype=dtype,
        kernel_init=_kernel_init,
        name=name,
    )


def _check(name: str, before: Array, after: Array) -> None:
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        raise ValueError(
            f"tap {name!r} received {before.dtype} {before.shape} and returned {after.dtype} {after.shape}: "
            "it must keep both"
        )
