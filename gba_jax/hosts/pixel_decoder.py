"""The pixel decoder of mask classification: a backbone's four maps to three levels and per-pixel mask features.

`fpn_attn`: a few self-attention layers on the coarsest map, then a feature pyramid down to the finest (MaskFormer's
arXiv 2107.06278). `deform`: deformable attention over the three coarser maps together, then one step of the pyramid
(Mask2Former arXiv 2112.01527, FC-CLIP arXiv 2308.02487). No custom kernels. Shapes: B images, maps NHWC with E_i
channels; "res5" is the coarsest (stride 32), "res2" the finest (stride 4). Sizes need not divide each other.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gba_jax.hosts.deformable import DeformableLayer
from gba_jax.hosts.mask_layers import (
    AttentionLayer,
    FeedForward,
    NormedConv,
    conv_init,
    positions,
    resize,
    tokens,
)

Kind = Literal["fpn_attn", "deform"]
KINDS: tuple[str, ...] = get_args(Kind)
NAMES = ("res5", "res4", "res3", "res2")


class PixelMaps(NamedTuple):
    """What the mask decoder reads.

    Attributes:
      levels: the maps at strides 32, 16 and 8.
      features: the mask features at stride 4.
    """

    levels: tuple[
        Float[Array, "B h32 w32 E"], Float[Array, "B h16 w16 E"], Float[Array, "B h8 w8 E"]
    ]
    features: Float[Array, "B h4 w4 E"]


class PixelDecoder(nn.Module):
    """One of the two kinds.

    Attributes:
      kind: "fpn_attn" or "deform".
      width: E, channels of everything it returns.
      layers: of attention.
      heads, feed_forward: of the attention layers.
      points: P of deformable attention.
      groups: of the group norms.
    """

    kind: Kind
    width: int
    layers: int
    heads: int
    feed_forward: int
    points: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Mapping[str, Float[Array, "B h w E_i"]]) -> PixelMaps:
        """The levels and the mask features of "res2" to "res5"; other entries of `maps` are not read."""
        x = {name: maps[name].astype(self.dtype) for name in NAMES}
        levels = self._deformed(x) if self.kind == "deform" else [self._attended(x["res5"])]
        for name in NAMES[len(levels) :]:
            levels.append(self._finer(levels[-1], x[name], name))
        features = nn.Conv(
            self.width, (1, 1), dtype=self.dtype, kernel_init=conv_init, name="features"
        )(levels[-1])
        return PixelMaps((levels[0], levels[1], levels[2]), features)

    def _attended(self, x: Array) -> Array:
        """Self-attention on the coarsest map."""
        x = self._project(x, "res5")
        shape = x.shape
        position = positions(x)
        x = tokens(x)
        for i in range(self.layers):
            x = AttentionLayer(self.heads, self.dtype, name=f"self_{i}")(x, position)
            x = FeedForward(self.feed_forward, self.dtype, name=f"ffn_{i}")(x)
        return x.reshape(shape)

    def _deformed(self, maps: Mapping[str, Array]) -> list[Array]:
        """Deformable attention over three maps."""
        level = self.param("level", nn.initializers.normal(1.0), (3, self.width))
        projected = [self._project(maps[name], name) for name in NAMES[:3]]
        sizes = tuple((x.shape[1], x.shape[2]) for x in projected)
        position = jnp.concatenate(
            [
                positions(x) + level[i].astype(self.dtype)[None, None]
                for i, x in enumerate(projected)
            ],
            axis=1,
        )
        x = jnp.concatenate([tokens(x) for x in projected], axis=1)
        for i in range(self.layers):
            x = DeformableLayer(
                self.heads, self.points, self.feed_forward, self.dtype, name=f"layer_{i}"
            )(x, position, sizes)
        ends = [0]
        for height, width in sizes:
            ends.append(ends[-1] + height * width)
        return [
            x[:, start:end].reshape(like.shape)
            for start, end, like in zip(ends[:-1], ends[1:], projected, strict=True)
        ]

    def _finer(self, coarse: Array, x: Array, name: str) -> Array:
        """A step of the pyramid: a lateral map, the coarser one on top, a convolution."""
        lateral = NormedConv(self.width, self.groups, dtype=self.dtype, name=f"lateral_{name}")(x)
        x = lateral + resize(coarse, *lateral.shape[1:3])
        mix = NormedConv(self.width, self.groups, size=3, dtype=self.dtype, name=f"output_{name}")
        return jax.nn.relu(mix(x))

    def _project(self, x: Array, name: str) -> Array:
        return NormedConv(
            self.width, self.groups, use_bias=True, dtype=self.dtype, name=f"project_{name}"
        )(x)
