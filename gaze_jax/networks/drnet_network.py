"""The layers of DRNet (arXiv 2208.04298) and of the two baselines within it, in Flax linen; see `gaze_jax.networks.drnet`.

Shapes: B pairs, (H, W, c) pictures, (h, w, E) maps, F hidden units, P = 2 angles in radians. I is the query, F the reference.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn import BatchNorm, convolve
from gaze_jax.model import Codes
from gaze_jax.networks import trunks


@dataclasses.dataclass(frozen=True, kw_only=True)
class DRNetConfig:
    """The network, its loss and what its pictures go through.

    Attributes:
      use: "drnet"; "absolute" has no references and no difference; "difference" is Diff-NN: no shortcut, no gaze head.
      weight: of the gaze loss; the difference loss has the rest. Only for "drnet".
      shortcut: what is added to the difference map: a 1x1 convolution of the query's map, or the map itself.
      backbone: E: "diffnn", "vgg16" or "resnet18".
      antisymmetric: the difference is (D(I, F) - D(F, I)) / 2, exactly opposite when the two change places.
      channels: of the difference map.
      hidden: units of each head.
      dropout: share of them left out in training.
      uses_head: whether the angles of the head are an input.
      input_size: (height, width) the pictures are resized to.
      normalise: "image" (mean 0, standard deviation 1) or "scale" (divided by 255).
      augment: whether training pictures are moved, dimmed and blurred.
      corrupt: probability of a corrupted reference in training.
    """

    use: Literal["drnet", "absolute", "difference"] = "drnet"
    weight: float = 0.5
    shortcut: Literal["projection", "identity"] = "projection"
    backbone: Literal["diffnn", "vgg16", "resnet18"] = "diffnn"
    antisymmetric: bool = False
    channels: int = 64
    hidden: int = 256
    dropout: float = 0.5
    uses_head: bool = True
    input_size: tuple[int, int] = (48, 72)
    normalise: Literal["scale", "image"] = "image"
    augment: bool = True
    corrupt: float = 0.1

    def __post_init__(self):
        bad = []
        for name in ("weight", "corrupt"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                bad.append(f"{name}={getattr(self, name)} must be from 0 to 1")
        if not 0.0 <= self.dropout < 1.0:
            bad.append(f"dropout={self.dropout} must be from 0 to below 1")
        if self.backbone == "diffnn" and any(side % 4 for side in self.input_size):
            bad.append(
                f"input_size={self.input_size} with backbone='diffnn': its two poolings need multiples of 4"
            )
        if self.shortcut == "identity" and self.backbone != "diffnn" and self.use != "difference":
            bad.append(
                f"shortcut='identity' with backbone={self.backbone!r}: its maps have other channels than the difference; "
                "use 'projection'"
            )
        if bad:
            raise ValueError("drnet: " + "; ".join(bad))


class PairConv(nn.Module):
    """A 3x3 convolution of [query, reference], whose two halves can be done apart: it is linear in the two maps."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: Array | None, reference: Array | None) -> Array:
        """Both halves at once, or one of them; the bias belongs to the query's."""
        given = [x for x in (query, reference) if x is not None]
        width = given[0].shape[-1]
        shape = (3, 3, 2 * width, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)).astype(self.dtype)
        if len(given) == 1:
            kernel = kernel[:, :, width:] if query is None else kernel[:, :, :width]
        x = given[0] if len(given) == 1 else jnp.concatenate(given, axis=-1)
        y = convolve(x, kernel, (1, 1), "SAME")
        return y if query is None else y + bias[None, None, None]


class Head(nn.Module):
    """A map to two angles: flatten, Dense ReLU, dropout, the heads' angles beside it, Dense 2 in float32."""

    hidden: int
    dtype: jnp.dtype

    def setup(self):
        """The layers that the configuration asks for."""
        self.fc = nn.Dense(self.hidden, dtype=self.dtype)
        self.out = nn.Dense(2)

    def units(self, x: Float[Array, "B h w E"]) -> Float[Array, "B F"]:
        """The hidden units."""
        return jax.nn.relu(self.fc(x.reshape(x.shape[0], -1))).astype(jnp.float32)

    def __call__(self, x: Array, heads: list[Array], keep: Array | None) -> Float[Array, "B P"]:
        """The answer; `keep` multiplies the hidden units in training."""
        y = self.units(x)
        return self.out(jnp.concatenate([y if keep is None else y * keep, *heads], axis=-1))


class Network(nn.Module):
    """The layers. Float pictures as `augment.normalise` gives them; variables "params" and, for E and m, "batch_stats"."""

    config: DRNetConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """The layers that the configuration asks for."""
        c = self.config
        self.trunk = trunks.make(c.backbone, self.dtype)
        if c.use != "absolute":
            self.first = PairConv(c.channels, self.dtype)
            self.norm = BatchNorm(dtype=self.dtype)
            self.second = nn.Conv(
                c.channels, (3, 3), dtype=self.dtype, conv_general_dilated=convolve
            )
            self.difference = Head(c.hidden, self.dtype)
        if c.use != "difference":
            self.gaze = Head(c.hidden, self.dtype)
            if c.shortcut == "projection":
                self.shortcut = nn.Conv(c.channels, (1, 1), dtype=self.dtype)

    def encode(self, pictures: Float[Array, "B H W c"], head: Float[Array, "B P"]) -> Codes:
        """All that comparing needs of a picture, outside training: the parts of the first convolution and the shortcut."""
        maps = self.trunk(pictures, False)
        codes = {"head": head.astype(jnp.float32)}
        if self.config.use != "difference":
            codes["shortcut"] = self._own(maps)
        if self.config.use != "absolute":
            codes |= {"query": self.first(maps, None), "reference": self.first(None, maps)}
        return codes

    def compare(self, query: Codes, reference: Codes) -> tuple[Array | None, Array | None]:
        """(g^ of the query, d^ = query - reference) of encoded pictures, outside training."""
        linear = query["query"] + reference["reference"]
        backward = reference["query"] + query["reference"]
        return self._answers(
            linear, backward, query.get("shortcut"), query["head"], reference["head"], None, False
        )

    def pair(
        self, pictures: Array, head: Array, keep: Array | None = None, train: bool = False
    ) -> tuple[Array | None, Array | None]:
        """(g^, d^) of B pairs in one pass: E sees all 2B pictures together, so its statistics are those of all.

        Args:
          pictures: (2B, H, W, c), queries first.
          head: (2B, P), likewise.
          keep: (2, B, hidden) multipliers of the hidden units of the two heads, or None.
          train: statistics of the batch.
        """
        query, reference = jnp.split(self.trunk(pictures, train), 2)
        linear = self.first(query, reference)
        backward = self.first(reference, query) if self.config.antisymmetric else None
        own = None if self.config.use == "difference" else self._own(query)
        own_head, other = jnp.split(head, 2)
        return self._answers(linear, backward, own, own_head, other, keep, train)

    def alone(
        self, pictures: Array, head: Array, keep: Array | None = None, train: bool = False
    ) -> Float[Array, "B P"]:
        """g^ of use="absolute"; `keep` is (1, B, hidden)."""
        own = jax.nn.relu(self._own(self.trunk(pictures, train)))
        return self.gaze(own, self._heads(head), None if keep is None else keep[0])

    def features(self, pictures: Array, head: Array) -> Float[Array, "B F"]:
        """Hidden units of the gaze head for a picture by itself; Diff-NN has none: its maps' means."""
        if self.config.use == "difference":
            return jnp.mean(self.trunk(pictures, False).astype(jnp.float32), axis=(1, 2))
        codes = self.encode(pictures, head)
        residual = codes["shortcut"]
        if self.config.use == "drnet":
            residual = residual + self._difference_map(codes["query"] + codes["reference"], False)
        return self.gaze.units(jax.nn.relu(residual))

    def _answers(self, linear, backward, own, head, other, keep, train):
        both = self.config.antisymmetric
        # Both directions in one pass: one statistic over them, and the same rounding.
        maps = self._difference_map(jnp.concatenate([linear, backward]) if both else linear, train)
        m = maps[: linear.shape[0]]
        gaze_keep, difference_keep = (None, None) if keep is None else keep
        gaze = None
        if own is not None:
            gaze = self.gaze(jax.nn.relu(m + own), self._heads(head, other), gaze_keep)
        forward = self.difference(jax.nn.relu(m), self._heads(head, other), difference_keep)
        if not both:
            return gaze, forward
        # The same units are dropped in both directions: opposite in training too.
        turned = jax.nn.relu(maps[linear.shape[0] :])
        opposite = self.difference(turned, self._heads(other, head), difference_keep)
        return gaze, (forward - opposite) / 2.0

    def _difference_map(self, linear: Array, train: bool) -> Array:
        return self.second(jax.nn.relu(self.norm(linear, train)))

    def _own(self, maps: Array) -> Array:
        return self.shortcut(maps) if self.config.shortcut == "projection" else maps

    def _heads(self, *heads: Array) -> list[Array]:
        return [h.astype(jnp.float32) for h in heads] if self.config.uses_head else []
