"""The decoder of cost maps over a ConvNeXt's pyramid, with early rejection of classes (SED, arXiv 2311.15537).

Three stages, each: a ConvNeXt block on the map of every class, attention over the classes, twice the resolution with the
backbone's map of that resolution (res4, res3, res2; no gradient goes there) and the raw cost beside it. An auxiliary head
judges the input of every upsampling. At eval the first one rejects: classes that are nowhere among the best few of a pixel
are not decoded any further, which is most of a large vocabulary.

Shapes: B images, K classes, (h, w) grid of the cost, E channels, G channels of a guide.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from core_jax.nn.convnext import Block
from gba_jax.hosts.cost_blocks import EPS, ClassBlock, Up, Upsample
from gba_jax.hosts.cost_config import CostConfig

# Of the depthwise convolutions.
_SIZE = 9
_POOL = 2


class Decoded(NamedTuple):
    """Logits of the classes that were decoded to the end.

    Attributes:
      logits: R classes, as many as the vocabulary's K unless some were rejected.
      kept: which of the K classes they are.
      real: False for padding and for rejected classes.
      auxiliary: logits of the auxiliary heads on all K classes; in training only.
    """

    logits: Float[Array, "B R H W"]
    kept: Int32[Array, "B R"]
    real: Bool[Array, "B R"]
    auxiliary: tuple[Float[Array, "B K h w"], ...]


class PyramidDecoder(nn.Module):
    """Cost features to logits at the last guide's resolution.

    Attributes:
      config: the sizes.
      dtype: of the activations.
    """

    config: CostConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B K h w E"],
        cost: Float[Array, "B K h w 1"],
        maps: tuple[Float[Array, "B h w F"], ...],
        real: Bool[Array, "B K"],
        *,
        train: bool,
    ) -> Decoded:
        """Decode all classes in training, those that are not rejected at eval.

        Args:
          x: features of the cost.
          cost: the cost itself.
          maps: of the backbone, with twice the resolution each time.
          real: False for padding.
          train: whether to return auxiliary logits; no class is rejected then.
        """
        c = self.config
        kept = jnp.broadcast_to(jnp.arange(real.shape[1], dtype=jnp.int32)[None], real.shape)
        auxiliary = []
        for i, (features, width, guide) in enumerate(zip(c.features, c.guides, maps)):
            x = self._stage(i, x, real)
            coarse = self._head(f"auxiliary_{i}", jax.lax.stop_gradient(x))
            auxiliary.append(coarse)
            if i == 0 and c.reject_most and not train:
                kept, real = reject(coarse, real, c.reject_top, c.reject_most)
                x, cost = (take(values, kept) for values in (x, cost))
            conv = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"guide_{i}")
            guide = jax.nn.relu(conv(jax.lax.stop_gradient(guide).astype(self.dtype)))
            cost = jax.nn.relu(Upsample(width, 2, self.dtype, name=f"cost_{i}")(cost))
            x = Up(features, self.dtype, name=f"up_{i}")(x, guide, cost)
        return Decoded(self._head("head", x), kept, real, tuple(auxiliary) if train else ())

    def _stage(self, i, x, real):
        block = Block(EPS, self.dtype, _SIZE, 1.0, name=f"block_{i}")
        x = block(x.reshape(-1, *x.shape[2:])).reshape(x.shape)
        heads, expansion = self.config.heads, self.config.expansion
        words = ClassBlock(heads, _POOL, expansion, dtype=self.dtype, name=f"classes_{i}")
        return words(x, real)

    def _head(self, name, x):
        return nn.Conv(1, (3, 3), dtype=self.dtype, name=name)(x)[..., 0].astype(jnp.float32)


def reject(
    logits: Float[Array, "B K h w"], real: Bool[Array, "B K"], top: int, most: int
) -> tuple[Int32[Array, "B R"], Bool[Array, "B R"]]:
    """Which classes are worth decoding: those among the `top` best ones of any pixel, at most `most` of them.

    Beyond `most`, the ones with the largest logit anywhere stay. The number of results is static, R = min(most, K).

    Args:
      logits: of an auxiliary head.
      real: False for padding.
      top: how far down a pixel's ranking counts.
      most: R.

    Returns:
      (classes in ascending order, whether each of them is to stay: fewer than R may have been found).
    """
    batch, classes = real.shape
    logits = jnp.where(real[:, :, None, None], logits, -jnp.inf)
    _, best = jax.lax.top_k(jnp.moveaxis(logits, 1, -1), min(top, classes))
    found = jnp.zeros((batch, classes), bool)
    found = found.at[jnp.arange(batch)[:, None], best.reshape(batch, -1)].set(True) & real
    peak = jnp.where(found, jnp.max(logits, axis=(2, 3)), -jnp.inf)
    kept = jnp.sort(jax.lax.top_k(peak, min(most, classes))[1], axis=1)
    return kept, jnp.take_along_axis(found, kept, axis=1)


def take(values: Float[Array, "B K ..."], kept: Int32[Array, "B R"]) -> Float[Array, "B R ..."]:
    """The kept classes of every picture."""
    index = kept.reshape(*kept.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)
