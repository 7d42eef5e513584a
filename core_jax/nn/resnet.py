"""ResNet in Flax linen (arXiv 1512.03385), in the form that torchvision's weights have.

A 7x7 stem of stride 2, a 3x3 maximum of stride 2, and four stages of blocks at strides 4, 8, 16 and 32; no classifier.
Bottlenecks carry their stride in the 3x3 convolution, as torchvision's do. Shapes: B images, H and W pixels, E channels,
NHWC throughout. Activations follow `dtype`; statistics of batch normalisation are float32 (`core_jax.nn.batch_norm`).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn.batch_norm import BatchNorm
from core_jax.nn.convolution import convolve, max_pool

kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal with variance 2 / (k k E_out), torch's `kaiming_normal_(mode="fan_out")`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Blocks of each stage and channels of the first; ResNet-18 unless told otherwise.

    Attributes:
      block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 to four times the width).
      depths: blocks of the four stages.
      width: channels of the stem and of the first stage; every later stage has twice the channels.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    width: int = 64

    def __post_init__(self):
        if self.block not in ("basic", "bottleneck"):
            raise ValueError(f"ResNet: block {self.block!r} is not 'basic' or 'bottleneck'")

    @property
    def channels(self) -> int:
        """E, channels of the last map."""
        return 8 * self.width * (4 if self.block == "bottleneck" else 1)


RESNET18 = ResNetConfig()
RESNET50 = ResNetConfig(block="bottleneck", depths=(3, 4, 6, 3))


class Block(nn.Module):
    """A basic or a bottleneck block: (B, h, w, E) to (B, h / stride, w / stride, `width` or 4 `width`)."""

    kind: str
    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train):
        """Returns ReLU(F(x) + shortcut(x)); the shortcut is a 1x1 convolution where the shape changes."""
        if self.kind == "basic":
            plan = ((3, self.stride, self.width), (3, 1, self.width))
        else:
            plan = ((1, 1, self.width), (3, self.stride, self.width), (1, 1, 4 * self.width))
        y = x
        for i, (size, stride, width) in enumerate(plan, 1):
            y = conv(f"conv{i}", width, size, stride, self.dtype)(y)
            y = BatchNorm(dtype=self.dtype, name=f"bn{i}")(y, train)
            y = jax.nn.relu(y) if i < len(plan) else y
        if x.shape != y.shape:
            x = conv("down", plan[-1][2], 1, self.stride, self.dtype)(x)
            x = BatchNorm(dtype=self.dtype, name="down_bn")(x, train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """The trunk: (B, H, W, 3) normalised pixels to the maps of its stages.

    Variables: "params", and the running statistics in "batch_stats", mutable in training.
    """

    config: ResNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "B H W 3"], train: bool = False
    ) -> dict[str, Float[Array, "B h w E"]]:
        """The maps "res2" to "res5" at strides 4, 8, 16 and 32.

        Args:
          pixels: of any size from 32 x 32 on.
          train: normalise by the batch's statistics and move the running ones.

        Raises:
          ValueError: the picture is too small.
        """
        c = self.config
        if min(pixels.shape[1:3]) < 32:
            raise ValueError(
                f"pixels have shape {pixels.shape}, but a trunk of stride 32 needs at least 32 x 32: enlarge them"
            )
        x = conv("conv1", c.width, 7, 2, self.dtype)(pixels.astype(self.dtype))
        x = jax.nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train))
        x = max_pool(x, 3, 2, padding=1)
        maps = {}
        for stage, depth in enumerate(c.depths):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                name = f"layer{stage + 1}_{i}"
                x = Block(c.block, c.width * 2**stage, stride, self.dtype, name=name)(x, train)
            maps[f"res{stage + 2}"] = x
        return maps


def conv(name: str, width: int, size: int, stride: int, dtype) -> nn.Conv:
    """A convolution without bias, padded by size // 2 on all sides: torch's, where "SAME" would shift at stride 2."""
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming,
        conv_general_dilated=convolve,
        name=name,
    )
