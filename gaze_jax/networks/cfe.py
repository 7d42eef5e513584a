"""CFE, the core feature extractor of CLIP-DFENet (arXiv 2502.20128): a ResNet-18 and a Transformer over its last map.

With a linear layer behind it, it is GazeTR-Hybrid (arXiv 2105.14424). Shapes: B faces, S side of a picture in pixels, g = S /
32 side of the map (7), F = 32 width of a token, P = 2 angles (pitch, yaw) in radians.

    map of the trunk (B, g, g, 512) -> 1x1 convolution, BN, ReLU: X (B, g, g, F) -> `fuse` -> g g tokens behind a learned one
    -> six post-norm layers, positions added to queries and keys of each -> norm -> the learned token: f (B, F) -> Dense: gaze
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from core_jax.nn import RESNET18, STATS, BatchNorm, ResNet, ResNetConfig, norm
from core_jax.nn.resnet import kaiming
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.model import Model
from gaze_jax.networks.face_input import INPUTS, prepare
from gaze_jax.recipe import Recipe, every

NAME = "gazetr_hybrid"
Fuse = Callable[[Float[Array, "B g g F"]], Float[Array, "B g g F"]]

# On MPIIFaceGaze; Gaze360 has batches of 256, EyeDiap of 16.
RECIPE = Recipe(
    lr=5e-4,
    betas=(0.9, 0.95),
    batch_size=512,
    epochs=80,
    warmup_epochs=5,
    schedule="steps",
    milestones=every(60, 80),
    factor=0.5,
)

_EPS = 1e-5
_TRUNK_INITS = ("scratch", "gazetr", "torchvision")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CFEConfig:
    """Sizes and start of the extractor; the published ones unless told otherwise.

    Attributes:
      input: what the pixels become, one of `face_input.INPUTS`; the weights dictate it.
      trunk_init: "scratch", "gazetr" (a whole GazeTR-Hybrid) or "torchvision" (an ImageNet ResNet for the trunk alone).
      weights: the safetensors file of the last two.
      dropout: of attention, FFN and residuals.
      image_size: S in pixels, a multiple of 32.
      width, layers, heads, mlp_width: of the Transformer.
      trunk: the ResNet.
    """

    input: Literal["bgr", "imagenet"] = "imagenet"
    trunk_init: Literal["scratch", "gazetr", "torchvision"] = "scratch"
    weights: str = ""
    dropout: float = 0.1
    image_size: int = 224
    width: int = 32
    layers: int = 6
    heads: int = 8
    mlp_width: int = 512
    trunk: ResNetConfig = RESNET18

    def __post_init__(self):
        problems = []
        if self.input not in INPUTS:
            problems.append(f"input {self.input!r} is not one of {', '.join(INPUTS)}")
        if self.trunk_init not in _TRUNK_INITS:
            problems.append(f"trunk_init {self.trunk_init!r} is not one of {_TRUNK_INITS}")
        elif (self.trunk_init != "scratch") != bool(self.weights):
            problems.append(
                f"trunk_init {self.trunk_init!r} with weights {self.weights!r}: a file needs trunk_init 'gazetr' or "
                "'torchvision', and those need a file; without one say 'scratch'"
            )
        if self.image_size < 32 or self.image_size % 32:
            problems.append(f"image_size {self.image_size} is not a multiple of 32")
        if self.width % self.heads:
            problems.append(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout {self.dropout} is not in [0, 1)")
        if problems:
            raise ConfigError("cfe: " + "; ".join(problems))

    @property
    def tokens(self) -> int:
        """Length of the sequence: the learned token and one for every place of the map."""
        return 1 + (self.image_size // 32) ** 2


def untouched(x: Float[Array, "B g g F"]) -> Float[Array, "B g g F"]:
    """The fusion that changes nothing."""
    return x


class Layer(nn.Module):
    """One post-norm layer: (B, L, F) to the same; positions reach queries and keys, never values."""

    config: CFEConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, position, train):
        """Returns LN(y + FFN(y)) with y = LN(x + attention(x))."""
        c = self.config
        drop = lambda y: nn.Dropout(c.dropout, deterministic=not train)(y)
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:2], c.heads, c.width // c.heads)
        placed = x + position[None]
        query = split(dense(c.width, "query")(placed)) * (c.width // c.heads) ** -0.5
        key, value = split(dense(c.width, "key")(placed)), split(dense(c.width, "value")(x))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
        weights = drop(jax.nn.softmax(scores, axis=-1).astype(self.dtype))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        x = norm("norm1", _EPS, self.dtype)(x + drop(dense(c.width, "out")(mixed)))
        hidden = drop(jax.nn.relu(dense(c.mlp_width, "fc1")(x)))
        return norm("norm2", _EPS, self.dtype)(x + drop(dense(c.width, "fc2")(hidden)))


class Network(nn.Module):
    """Everything up to f: (B, S, S, 3) prepared pixels to (f (B, F), X (B, g, g, F))."""

    config: CFEConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels, train=False, fuse: Fuse = untouched):
        """Returns (f, X as `fuse` received it)."""
        c = self.config
        x = ResNet(c.trunk, self.dtype, name="trunk")(pixels, train)["res5"]
        x = nn.Conv(c.width, (1, 1), dtype=self.dtype, kernel_init=kaiming, name="reduce")(x)
        x = jax.nn.relu(BatchNorm(dtype=self.dtype, name="reduce_bn")(x, train))
        fused = fuse(x)
        if fused.shape != x.shape:
            raise ValueError(
                f"fuse received {x.shape} and returned {fused.shape}: it must keep its shape"
            )
        standard = nn.initializers.normal(1.0)
        first = self.param("first", standard, (c.width,)).astype(self.dtype)
        position = self.param("position", standard, (c.tokens, c.width)).astype(self.dtype)
        tokens = fused.astype(self.dtype).reshape(x.shape[0], -1, c.width)
        first = jnp.broadcast_to(first[None, None], (x.shape[0], 1, c.width))
        tokens = jnp.concatenate([first, tokens], axis=1)
        for i in range(c.layers):
            tokens = Layer(c, self.dtype, name=f"layer_{i}")(tokens, position, train)
        return norm("norm", _EPS, self.dtype)(tokens[:, 0]).astype(jnp.float32), x


def _apply(network: Network, *args: Any, **options: Any) -> Any:
    # Flax types the result of `apply` as if variables might come back beside it.
    return network.apply(*args, **options)


@dataclasses.dataclass(frozen=True)
class CFE:
    """The extractor and its linear head as pure functions; `dtype` is what activations are computed in."""

    config: CFEConfig
    dtype: Any = "float32"

    def init(self, *, key: Array) -> Params:
        """Parameters (`trainable`) and running statistics (`stats`), with the file of the configuration in their place.

        Raises:
          WeightsError: the file does not fit; every problem is listed.
        """
        own, head = jax.random.split(key)
        c = self.config
        pixels = jnp.zeros((1, c.image_size, c.image_size, 3), jnp.float32)
        variables = jax.jit(Network(c, jnp.float32).init)(own, pixels)
        features = jnp.zeros((1, c.width), jnp.float32)
        trainable = {**variables["params"], "head": nn.Dense(2).init(head, features)["params"]}
        params = Params(trainable=trainable, stats=variables[STATS])
        if c.trunk_init == "scratch":
            return params
        # Only here: the weight tables read shapes from this module.
        from gaze_jax.networks import gazetr_weights

        return gazetr_weights.start(params, c)

    def features(
        self,
        params: dict,
        stats: dict,
        images: UInt8[Array, "B H W 3"],
        *,
        train: bool = False,
        fuse: Fuse = untouched,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B F"], Float[Array, "B g g F"], dict]:
        """What the extractor sees in faces.

        Args:
          params: `Params.trainable` of `init`; further entries are left alone.
          stats: `Params.stats`, likewise.
          images: RGB; resized to S x S where they are not.
          train: statistics of the batch, which also move the running ones, and dropout.
          fuse: X to what becomes tokens, of the same shape: where other features join (the vision module of CLIP-DFENet).
          key: of dropout; needed in training unless `dropout` is 0.

        Returns:
          (f float32, X before `fuse`, the new running statistics of this network; the given ones when not training).
        """
        c = self.config
        pixels = prepare(images, c.input, c.image_size, self.dtype)
        network = Network(c, self.dtype)
        variables = {"params": params, STATS: stats}
        if not train:
            f, x = _apply(network, variables, pixels, False, fuse)
            return f, x, stats
        rngs = None if key is None else {"dropout": key}
        (f, x), new = _apply(network, variables, pixels, True, fuse, rngs=rngs, mutable=[STATS])
        return f, x, {**stats, **new[STATS]}

    def gaze(self, params: dict, f: Float[Array, "B F"]) -> Float[Array, "B P"]:
        """(pitch, yaw) in radians, float32."""
        head = params["head"]
        return f @ head["kernel"] + head["bias"][None]


def make(config: CFEConfig = CFEConfig(), *, dtype: str = "float32") -> Model:
    """GazeTR-Hybrid: the extractor alone, trained with the L1 loss.

    Args:
      config: sizes and start.
      dtype: what activations are computed in.
    """
    cfe = CFE(config, dtype)

    def encode(params, images, head):
        del head
        return cfe.features(params.trainable, params.stats, images)[0]

    def see(trainable, frozen, stats, batch, key):
        del frozen
        f, _, stats = cfe.features(trainable, stats, batch["image"], train=True, key=key)
        return cfe.gaze(trainable, f), stats

    def judge(trainable, frozen, predicted, batch, key):
        del trainable, frozen, key
        pair = losses.l1(predicted, batch["gaze"])
        return predicted, losses.mean(pair), {"loss_gaze": pair}

    return Model(
        name=NAME,
        kind="face",
        size=(config.image_size, config.image_size, 3),
        uses_head=False,
        init=lambda key: cfe.init(key=key),
        loss=losses.Loss(see=see, judge=judge),
        predict=lambda params, images, head: cfe.gaze(
            params.trainable, encode(params, images, head)
        ),
        features=encode,
    )
