"""The networks for whole faces that CLIP-DFENet is compared with: a ResNet, the mean of its last map, and linear layers.

- `resnet18_face`, `resnet50_face`: two angles, L1, as ETH-XGaze's baseline (arXiv 2007.15837) is trained.
- `l2cs`: L2CS-Net (arXiv 2203.03339), a ResNet-50 that sorts each angle into bins and answers with the expectation.

Shapes: B faces, S side of a picture in pixels, E channels of the trunk, P = 2 angles (pitch, yaw) in radians, K bins.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.clip import resnet_weights
from core_jax.nn import RESNET18, RESNET50, STATS, ResNet, ResNetConfig
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.model import Batch, Model
from gaze_jax.networks.face_input import prepare
from gaze_jax.recipe import Recipe, every

_ETH = Recipe(
    lr=1e-4, epochs=25, batch_size=50, schedule="steps", milestones=every(10, 25), factor=0.1
)

RECIPES = {
    "resnet18_face": _ETH,
    "resnet50_face": _ETH,
    "l2cs": Recipe(lr=1e-5, epochs=50, batch_size=16, schedule="constant"),
}

NAMES = tuple(RECIPES)

TRUNKS = {"resnet18_face": RESNET18, "resnet50_face": RESNET50, "l2cs": RESNET50}


@dataclasses.dataclass(frozen=True)
class Bins:
    """K bins of `width_deg` degrees, symmetric around 0."""

    count: int
    width_deg: float

    @property
    def centres_deg(self) -> Float[Array, " K"]:
        """The middles of the bins, degrees."""
        return (jnp.arange(self.count, dtype=jnp.float32) - (self.count - 1) / 2) * self.width_deg


BINS = {"wide": Bins(90, 4.0), "narrow": Bins(28, 3.0)}
"""+-180 degrees as on Gaze360, +-42 degrees as on MPIIFaceGaze."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """Settings of the face baselines.

    Attributes:
      weights: safetensors file of an ImageNet trunk under torchvision's names; "" starts from random numbers.
      bins: of `l2cs`, one of `BINS`.
      image_size: S in pixels.
    """

    weights: str = ""
    bins: Literal["wide", "narrow"] = "wide"
    image_size: int = 224

    def __post_init__(self):
        problems = []
        if self.bins not in BINS:
            problems.append(f"bins {self.bins!r} is not one of {', '.join(BINS)}")
        if self.image_size < 32:
            problems.append(f"image_size {self.image_size} is below 32")
        if problems:
            raise ConfigError("face: " + "; ".join(problems))


class Network(nn.Module):
    """The trunk, the mean over its last map, and one linear layer in float32."""

    trunk: ResNetConfig
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "B S S 3"], train: bool
    ) -> tuple[Float[Array, "B outputs"], Float[Array, "B E"]]:
        """(outputs, features)."""
        x = ResNet(self.trunk, self.dtype, name="trunk")(pixels, train)["res5"]
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.outputs, name="head")(features), features


def make(name: str, config: FaceConfig = FaceConfig(), *, dtype: str = "float32") -> Model:
    """A baseline by its name; its published training is `RECIPES[name]`.

    Args:
      name: "resnet18_face", "resnet50_face" or "l2cs".
      config: start, bins and size.
      dtype: of activations.

    Raises:
      ValueError: an unknown name.
    """
    if name not in TRUNKS:
        raise ValueError(f"model {name!r}: expected one of {', '.join(NAMES)}")
    bins = BINS[config.bins] if name == "l2cs" else None
    answer: Callable[[Array], Array] = lambda outputs: outputs
    criterion: Callable[..., Any] = _regression
    if bins is not None:
        answer = functools.partial(expectation, bins=bins)
        criterion = functools.partial(binned_loss, bins=bins)
    network = Network(TRUNKS[name], 2 * bins.count if bins else 2, jnp.dtype(dtype))

    def run(params: Params, images: Array) -> Any:
        pixels = prepare(images, "imagenet", config.image_size, dtype)
        variables = {"params": params.trainable, STATS: params.stats}
        return network.apply(variables, pixels, False)

    def see(trainable: Any, frozen: Any, stats: Any, batch: Batch, key: Array) -> tuple[Array, Any]:
        del frozen, key
        pixels = prepare(batch["image"], "imagenet", config.image_size, dtype)
        variables = {"params": trainable, STATS: stats}
        (outputs, _), new = network.apply(variables, pixels, True, mutable=[STATS])
        return outputs, dict(new)[STATS]

    def judge(
        trainable: Any, frozen: Any, outputs: Array, batch: Batch, key: Array
    ) -> tuple[Array, Array, dict[str, losses.Pair]]:
        del trainable, frozen, key
        value, metrics = criterion(outputs, batch["gaze"])
        return answer(outputs), value, metrics

    return Model(
        name=name,
        kind="face",
        size=(config.image_size, config.image_size, 3),
        uses_head=False,
        init=functools.partial(_init, network, config),
        loss=losses.Loss(see=see, judge=judge),
        predict=lambda params, images, head: answer(run(params, images)[0]),
        features=lambda params, images, head: run(params, images)[1],
    )


def expectation(outputs: Float[Array, "B 2K"], bins: Bins) -> Float[Array, "B P"]:
    """sum_k softmax(z)_k c_k for both angles, over the middles c of the bins, in radians."""
    shares = jax.nn.softmax(_by_angle(outputs, bins), axis=-1)
    return jnp.deg2rad(shares @ bins.centres_deg)


def binned_loss(
    outputs: Float[Array, "B 2K"], gaze: Float[Array, "B P"], bins: Bins
) -> tuple[Float[Array, ""], dict[str, losses.Pair]]:
    """L2CS's loss: cross-entropy of the bin, plus the squared error of the expectation in degrees^2, of both angles.

    A label outside all bins counts as the outermost one for the cross-entropy and as itself for the squared error.

    Args:
      outputs: logits, pitch's before yaw's.
      gaze: labels in radians.
      bins: of each angle.

    Returns:
      (the sum over angles of both terms, averaged over faces; each term, and the share of labels outside the bins).
    """
    gaze_deg = jnp.rad2deg(gaze.astype(jnp.float32))
    place = jnp.floor(gaze_deg / bins.width_deg + bins.count / 2)
    inside = jnp.clip(place, 0, bins.count - 1)
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
        _by_angle(outputs, bins), inside.astype(jnp.int32)
    )
    squared = jnp.square(jnp.rad2deg(expectation(outputs, bins)) - gaze_deg)
    faces = jnp.asarray(gaze.shape[0], jnp.float32)
    labels = jnp.asarray(gaze.size, jnp.float32)
    metrics = {
        "loss_bins": (jnp.sum(entropy), faces),
        "loss_expectation_deg2": (jnp.sum(squared), faces),
        "outside_bins": (jnp.sum((place != inside).astype(jnp.float32)), labels),
    }
    value = losses.mean(metrics["loss_bins"]) + losses.mean(metrics["loss_expectation_deg2"])
    return value, metrics


def _regression(
    outputs: Float[Array, "B P"], gaze: Float[Array, "B P"]
) -> tuple[Float[Array, ""], dict[str, losses.Pair]]:
    pair = losses.l1(outputs, gaze)
    return losses.mean(pair), {"loss_gaze": pair}


def _by_angle(outputs: Float[Array, "B 2K"], bins: Bins) -> Float[Array, "B P K"]:
    return outputs.astype(jnp.float32).reshape(outputs.shape[0], 2, bins.count)


def _init(network: Network, config: FaceConfig, key: PRNGKeyArray) -> Params:
    """Fresh parameters and statistics, the file's trunk in their place."""
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3), jnp.float32)
    variables = jax.jit(lambda key: network.init(key, pixels, False))(key)
    trainable, stats = variables["params"], variables[STATS]
    if config.weights:
        trunk = resnet_weights.read_torchvision(config.weights, network.trunk)
        trainable = {**trainable, "trunk": trunk["params"]}
        stats = {**stats, "trunk": trunk["stats"]}
    return Params(trainable=trainable, stats=stats)
