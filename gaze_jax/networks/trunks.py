"""The convolutions that eye networks start with: maps of an eye patch, in Flax linen.

Diff-NN's trunk (arXiv 1904.09459) is DRNet's own; VGG-16 (arXiv 1409.1556) and ResNet-18 are the others. Shapes: B
pictures, H, W pixels, c channels, NHWC. Activations follow `dtype`; batch statistics are float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn import RESNET18, BatchNorm, ResNet, convolve, larger, max_pool

TRUNKS = ("diffnn", "vgg16", "resnet18")

_VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class PhaseConv(nn.Module):
    """An odd-sized convolution without padding, whose answers come in the 2 x 2 windows that a maximum is taken of.

    The same numbers as `nn.Conv`, of which it has the parameters. Windows of the picture become channels and the kernel is
    written out once for each place in a window: a third more arithmetic in a form that CPUs run faster, 1.5 times with
    gradients for the middle layer of DRNet's trunk.
    """

    size: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"]) -> Float[Array, "B h w 4 E"]:
        """The windows of the map; H and W are even."""
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        x, kernel = windows(x), _of_windows(kernel)
        if x.shape[-1] > 4:
            y = convolve(x, kernel, (1, 1), "VALID")
        else:
            # Grey pictures: patches are small, and a matrix product is quicker, its gradient above all.
            count = kernel.shape[0]
            height, width = (size - count + 1 for size in x.shape[1:3])
            places = [(i, j) for i in range(count) for j in range(count)]
            patches = [x[:, i : i + height, j : j + width] for i, j in places]
            rows = jnp.concatenate(patches, axis=-1).reshape(-1, count * count * x.shape[-1])
            y = (rows @ kernel.reshape(rows.shape[-1], -1)).reshape(
                -1, height, width, 4 * self.width
            )
        y = y.reshape(*y.shape[:3], 4, self.width)
        return y + bias[None, None, None, None]


def windows(x: Float[Array, "B H W E"]) -> Float[Array, "B h w D"]:
    """2 x 2 windows as channels, row by row: D = 4 E."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def _of_windows(kernel: Float[Array, "k k c E"]) -> Float[Array, "n n C D"]:
    """The kernel that maps windows to windows: C = 4 c, D = 4 E, n = (k + 1) / 2."""
    size, _, channels, width = kernel.shape
    count = (size + 1) // 2
    # In window (a, b), the place (u, v) sees the kernel moved by (u, v).
    moved = jnp.stack(
        [
            jnp.pad(kernel, ((u, 2 * count - size - u), (v, 2 * count - size - v), (0, 0), (0, 0)))
            for u in (0, 1)
            for v in (0, 1)
        ]
    )
    moved = moved.reshape(4, count, 2, count, 2, channels, width).transpose(1, 3, 2, 4, 5, 0, 6)
    return moved.reshape(count, count, 4 * channels, 4 * width)


class DiffNNTrunk(nn.Module):
    """conv5-32 BN ReLU pool2, conv5-32 BN ReLU pool2, conv4-64 BN ReLU, without padding: (B, 48, 72, c) to (B, 6, 12, 64)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B h w 64"]:
        """The maps; statistics are those of the batch in training. H and W are multiples of 4."""
        x = x.astype(self.dtype)
        for i in range(2):
            x = PhaseConv(5, 32, self.dtype, name=f"conv_{i}")(x)
            x = jax.nn.relu(BatchNorm(dtype=self.dtype, name=f"norm_{i}")(x, train))
            x = larger(larger(x[:, :, :, 0], x[:, :, :, 1]), larger(x[:, :, :, 2], x[:, :, :, 3]))
        x = nn.Conv(
            64,
            (4, 4),
            padding="VALID",
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv_2",
        )(x)
        return jax.nn.relu(BatchNorm(dtype=self.dtype, name="norm_2")(x, train))


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
                    conv_general_dilated=convolve,
                    name=f"conv_{i}_{j}",
                )
                x = jax.nn.relu(conv(x))
            x = max_pool(x, stride=stride)
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
