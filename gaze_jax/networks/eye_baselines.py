"""The networks for single eyes that DRNet is compared with, and the mean of the labels, which any of them must beat.

- `lenet_eye`: Zhang et al., CVPR 2015; layers and training of the public pytorch_mpiigaze.
- `resnet8_eye`: a pre-activation ResNet with one block a stage, of the same source.
- `gazenet_eye`: Zhang et al., TPAMI 2019, on VGG-16's convolutions; the dense part is smaller than the published one.
- `mean`: one answer for everybody.

Shapes: B pictures of (36, 60, c), P = 2 angles in radians. The angles of the head join the last layer.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.nn import STATS, BatchNorm, convolve, max_pool
from core_jax.train import Aux, Params
from gaze_jax import augment, losses
from gaze_jax.model import Batch, Model
from gaze_jax.networks import trunks
from gaze_jax.recipe import Recipe

RECIPES = {
    "lenet_eye": Recipe(
        optimizer="sgd",
        lr=0.01,
        epochs=10,
        batch_size=32,
        schedule="steps",
        milestones=(8, 9),
        weight_decay=1e-4,
    ),
    "resnet8_eye": Recipe(
        optimizer="sgd",
        lr=0.1,
        epochs=40,
        batch_size=32,
        schedule="steps",
        milestones=(30, 35),
        weight_decay=1e-4,
    ),
    "gazenet_eye": Recipe(lr=1e-4, epochs=15, batch_size=32, schedule="constant"),
    "mean": Recipe(optimizer="sgd", lr=1.0, epochs=1, schedule="average", momentum=0.0),
}

NAMES = tuple(RECIPES)

EYE_SIZE = (36, 60, 1)


class LeNet(nn.Module):
    """conv5-20 pool2 conv5-50 pool2 without padding and without ReLU, Dense 500 ReLU."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B 500"]:
        """The units that the head's angles join; nothing differs in training."""
        del train
        for i, width in enumerate((20, 50)):
            conv = nn.Conv(
                width,
                (5, 5),
                padding="VALID",
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"conv_{i}",
            )
            x = max_pool(conv(x))
        x = nn.Dense(500, dtype=self.dtype, name="fc")(x.reshape(x.shape[0], -1))
        return jax.nn.relu(x)


class ResNet8(nn.Module):
    """conv3-16, a pre-activation block each of 16, 32, 64 channels at strides 1, 2, 2, BN ReLU, mean over positions."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B 64"]:
        """The units that the head's angles join; statistics are those of the batch in training."""
        norm = lambda name: BatchNorm(dtype=self.dtype, name=name)
        x = self._conv("conv", 16, 3, 1)(x)
        for i, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
            # The shortcut starts behind the first activation, as in the public code.
            x = jax.nn.relu(norm(f"norm_{i}_0")(x, train))
            y = self._conv(f"conv_{i}_0", width, 3, stride)(x)
            y = jax.nn.relu(norm(f"norm_{i}_1")(y, train))
            y = self._conv(f"conv_{i}_1", width, 3, 1)(y)
            x = y + (x if x.shape == y.shape else self._conv(f"down_{i}", width, 1, stride)(x))
        return jnp.mean(jax.nn.relu(norm("norm")(x, train)), axis=(1, 2))

    def _conv(self, name: str, width: int, size: int, stride: int) -> nn.Conv:
        return nn.Conv(
            width,
            (size, size),
            (stride, stride),
            size // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=convolve,
            name=name,
        )


class GazeNet(nn.Module):
    """VGG-16's convolutions, whose first two maxima keep the size, Dense 512 ReLU."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"], train: bool) -> Float[Array, "B 512"]:
        """The units that the head's angles join; nothing differs in training."""
        x = trunks.VGG16((1, 1, 2, 2, 2), dtype=self.dtype, name="trunk")(x, train)
        return jax.nn.relu(nn.Dense(512, dtype=self.dtype, name="fc")(x.reshape(x.shape[0], -1)))


class Regressor(nn.Module):
    """Units, the head's angles beside them, and a linear layer in float32."""

    units: nn.Module

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W c"], head: Float[Array, "B P"], train: bool
    ) -> tuple[Float[Array, "B P"], Float[Array, "B F"]]:
        """(gaze, units)."""
        units = self.units(x, train).astype(jnp.float32)
        joined = jnp.concatenate([units, head.astype(jnp.float32)], axis=-1)
        return nn.Dense(2, name="out")(joined), units


_UNITS = {
    "lenet_eye": (LeNet, losses.l2),
    "resnet8_eye": (ResNet8, losses.l2),
    "gazenet_eye": (GazeNet, losses.l1),
}


def make(
    name: str,
    size: tuple[int, int, int] = EYE_SIZE,
    *,
    kind: str = "eye",
    dtype: str = "float32",
) -> Model:
    """A baseline by its name; its published training is `RECIPES[name]`.

    Args:
      name: "lenet_eye", "resnet8_eye", "gazenet_eye" or "mean".
      size: (H, W, c) of the pictures.
      kind: "eye" or "face": what "mean" is the mean of; the others look at eyes.
      dtype: of activations.

    Raises:
      ValueError: an unknown name.
    """
    if name == "mean":
        return _mean(size, kind)
    if name not in _UNITS:
        raise ValueError(f"model {name!r}: expected one of {', '.join(NAMES)}")
    units, criterion = _UNITS[name]
    network = Regressor(units(dtype=jnp.dtype(dtype)))
    bind = lambda function: functools.partial(function, network)
    return Model(
        name=name,
        kind="eye",
        size=size,
        uses_head=True,
        init=functools.partial(init, network, size),
        loss=losses.Loss(
            see=functools.partial(see, network), judge=functools.partial(judge, criterion)
        ),
        predict=lambda params, images, head: bind(ask)(params, images, head)[0],
        features=lambda params, images, head: bind(ask)(params, images, head)[1],
    )


def init(network: Regressor, size: tuple[int, int, int], key: PRNGKeyArray) -> Params:
    """Fresh parameters and statistics."""
    picture, head = jnp.zeros((1, *size), jnp.float32), jnp.zeros((1, 2), jnp.float32)
    variables = jax.jit(lambda key: network.init(key, picture, head, False))(key)
    return Params(trainable=variables["params"], stats=variables.get(STATS, {}))


def see(
    network: Regressor, trainable: Any, frozen: Any, stats: Any, batch: Batch, key: Array
) -> tuple[Array, Any]:
    """What `losses.Loss` asks of a model; nothing is random and nothing frozen."""
    del frozen, key
    (gaze, _), new = network.apply(
        {"params": trainable, STATS: stats},
        augment.normalise(batch["image"], "scale"),
        batch["head"],
        True,
        mutable=[STATS],
    )
    return gaze, dict(new).get(STATS, {})


def judge(
    criterion: Any, trainable: Any, frozen: Any, gaze: Array, batch: Batch, key: Array
) -> tuple[Array, Array, dict[str, losses.Pair]]:
    """Likewise: (gaze, the loss, metrics)."""
    del trainable, frozen, key
    pair = criterion(gaze, batch["gaze"])
    return gaze, losses.mean(pair), {"loss_gaze": pair}


def ask(
    network: Regressor, params: Params, images: Array, head: Array
) -> tuple[Float[Array, "B P"], Float[Array, "B F"]]:
    """(gaze, units) outside training."""
    variables = {"params": params.trainable, STATS: params.stats}
    return network.apply(variables, augment.normalise(images, "scale"), head, False)  # pyright: ignore


def _mean(size: tuple[int, int, int], kind: str) -> Model:
    def answer(trainable: Any, images: Array) -> Float[Array, "B P"]:
        return jnp.broadcast_to(trainable["mean"][None], (images.shape[0], 2))

    def loss(trainable, frozen, stats, batch, key) -> tuple[Array, Aux]:
        del frozen, key
        pair = losses.l2(answer(trainable, batch["image"]), batch["gaze"])
        # Squares averaged over two angles: the gradient is just the distance to the batch's mean, which `Recipe` steps by
        # 1 / (t + 1): the mean of all labels so far.
        return losses.mean(pair), Aux(stats=stats, metrics={"loss_gaze": pair})

    predict = lambda params, images, head: answer(params.trainable, images)
    return Model(
        name="mean",
        kind=kind,
        size=size,
        uses_head=False,
        init=lambda key: Params(trainable={"mean": jnp.zeros(2, jnp.float32)}),
        loss=loss,
        predict=predict,
        features=predict,
    )
