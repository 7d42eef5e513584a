"""The convolutions that eye networks start with: maps of an eye patch, in Flax linen.

Diff-NN's trunk (arXiv 1904.09459) is DRNet's own; VGG-16 (arXiv 1409.1556) and ResNet-18 are the others. Shapes: B
pictures, H, W pixels, c channels, NHWC. Activations follow `dtype`; batch statistics are float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn import RESNET18, BatchNorm, ResNet

TRUNKS = ("diffnn", "vgg16", "resnet18")

_VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def max_pool(x: Float[Array, "B H W E"], stride: int = 2) -> Float[Array, "B h w E"]:
    """The maximum of each 2 x 2 window; rows and columns that fill none are left out.

    Written out as a maximum of four: the gradient of a window reduction takes a third of DRNet's training step on CPUs. Where
    values tie, the gradient is shared among them.
    """
    height, width = x.shape[1:3]
    rows, columns = (
        [slice(first, size - 1 + first, stride) for first in (0, 1)] for size in (height, width)
    )
    upper, lower = (jnp.maximum(x[:, i, columns[0]], x[:, i, columns[1]]) for i in rows)
    return jnp.maximum(upper, lower)


class DiffNNTrunk(nn.Module):
    """conv5-32 BN ReLU pool2, conv5-32 BN ReLU pool2, conv4-64 BN ReLU, without padding: (B, 48, 72, c) to (B, 6, 12, 64)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B h w 64"]:
        """The maps; statistics are those of the batch in training."""
        x = x.astype(self.dtype)
        for i, (size, width) in enumerate(((5, 32), (5, 32), (4, 64))):
            x = nn.Conv(width, (size, size), padding="VALID", dtype=self.dtype, name=f"conv_{i}")(x)
            x = jax.nn.relu(BatchNorm(dtype=self.dtype, name=f"norm_{i}")(x, train))
            if i < 2:
                x = max_pool(x)
        return x


class VGG16(nn.Module):
    """The thirteen 3x3 convolutions of VGG-16 with ReLU, a 2x2 maximum after each of the five stages.

    `pool_strides` are the strides of the maxima: GazeNet keeps the first two at 1, since eye patches are small.
    """

    pool_strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B h w 512"]:
        """The maps of the last stage; nothing differs in training."""
        del train
        x = x.astype(self.dtype)
        for i, ((width, depth), stride) in enumerate(zip(_VGG_STAGES, self.pool_strides)):
            for j in range(depth):
                conv = nn.Conv(
                    width,
                    (3, 3),
                    padding="SAME",
                    dtype=self.dtype,
                    kernel_init=nn.initializers.he_normal(),
                    name=f"conv_{i}_{j}",
                )
                x = jax.nn.relu(conv(x))
            x = max_pool(x, stride)
        return x


class ResNet18(nn.Module):
    """ResNet-18 to its last map, at stride 32. Its stem takes three channels: grey pictures are given three times."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B h w 512"]:
        """The maps; statistics are those of the batch in training."""
        x = jnp.broadcast_to(x, (*x.shape[:3], 3))
        return ResNet(RESNET18, self.dtype, name="resnet")(x, train)["res5"]


def make(backbone: str, dtype) -> nn.Module:
    """A trunk by its name, called as trunk(pictures, train).

    Raises:
      ValueError: an unknown name.
    """
    if backbone == "diffnn":
        return DiffNNTrunk(dtype=dtype)
    if backbone == "vgg16":
        return VGG16((1, 1, 2, 2, 2), dtype=dtype)
    if backbone == "resnet18":
        return ResNet18(dtype=dtype)
    raise ValueError(f"backbone={backbone!r}: expected one of {', '.join(TRUNKS)}")
