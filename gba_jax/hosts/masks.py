"""Host A: mask classification, FC-CLIP (arXiv 2308.02487) with the decoder of Mask2Former (arXiv 2112.01527).

A frozen backbone's maps go through a pixel decoder and a mask decoder to Q queries, each with a mask and with class
logits over any vocabulary. Shapes: B images, Q queries, C classes (padded), D the text width, (h4, w4) the finest map.

    outputs = MaskClassification(config).apply({"params": params}, maps, text)
    class_logits, mask_logits = outputs[-1]

The loss is `gba_jax.losses.mask_classification`, which takes all outputs.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip import unit
from gba_jax.hosts.mask_decoder import MaskDecoder, Output
from gba_jax.hosts.pixel_decoder import KINDS, NAMES, Kind, PixelDecoder
from gba_jax.vocabulary import TextRows

_PIXEL_LAYERS = {"fpn_attn": 3, "deform": 6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The sizes; FC-CLIP's own, but for the pixel decoder, unless told otherwise.

    Attributes:
      queries: Q (100 is enough for small data).
      layers: of the mask decoder (6 for small data).
      heads: of all attention.
      width: channels of everything behind the backbone.
      feed_forward: hidden width of the mask decoder's layers.
      pixel_decoder: "fpn_attn" or "deform", see `pixel_decoder`.
      pixel_layers: attention layers of the pixel decoder; None for 3 ("fpn_attn") or 6 ("deform").
      pixel_feed_forward: their hidden width.
      points: samples of a head and level in deformable attention.
      groups: of the group norms.
    """

    queries: int = 250
    layers: int = 9
    heads: int = 8
    width: int = 256
    feed_forward: int = 2048
    pixel_decoder: Kind = "fpn_attn"
    pixel_layers: int | None = None
    pixel_feed_forward: int = 1024
    points: int = 4
    groups: int = 32

    def __post_init__(self):
        """Refuse sizes that do not fit each other, all in one message.

        Raises:
          ValueError: an unknown pixel decoder, sizes that are too small, or a width that heads, groups or positions cannot
            share.
        """
        least = dict.fromkeys(("queries", "heads", "width", "feed_forward"), 1)
        least |= {"layers": 0, "pixel_layers": 0, "pixel_feed_forward": 1, "points": 1, "groups": 1}
        problems = [
            f"{name}={getattr(self, name)}: expected at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) is not None and getattr(self, name) < bound
        ]
        problems += [
            f"width={self.width} is not a multiple of {name}={value}"
            for name, value in (("heads", self.heads), ("groups", self.groups))
            if value > 0 and self.width % value
        ]
        if self.width % 4:
            problems.append(
                f"width={self.width} is not a multiple of 4, which sine positions of two axes need"
            )
        if self.pixel_decoder not in KINDS:
            problems.append(
                f"pixel_decoder={self.pixel_decoder!r}: expected one of {', '.join(KINDS)}"
            )
        if problems:
            raise ValueError("the sizes of mask classification: " + "; ".join(problems))


class MaskClassification(nn.Module):
    """The trainable part: pixel decoder, mask decoder and the void row."""

    config: MaskConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Mapping[str, Float[Array, "B h w E_i"]], text: TextRows
    ) -> tuple[Output, ...]:
        """Predictions of the learned queries and after every layer, float32; the last is the result.

        Args:
          maps: at least "res2" to "res5", at strides 4, 8, 16 and 32 of the picture or in these proportions (see
            `pyramid.SimplePyramid`); sizes may be odd.
          text: the vocabulary; its rows fix D, nothing else.

        Returns:
          `layers` + 1 pairs of class logits (B, Q, C + 1), void last and masked classes at -inf, and mask logits
          (B, Q, h4, w4).

        Raises:
          ValueError: maps are missing.
        """
        if missing := [name for name in sorted(NAMES) if name not in maps]:
            raise ValueError(
                f"mask classification needs the maps {', '.join(sorted(NAMES))}; {', '.join(missing)} "
                f"are not among {', '.join(sorted(maps)) or 'none'}: a ViT's map goes through SimplePyramid first"
            )
        c = self.config
        pixels = PixelDecoder(
            kind=c.pixel_decoder,
            width=c.width,
            layers=_PIXEL_LAYERS[c.pixel_decoder] if c.pixel_layers is None else c.pixel_layers,
            heads=c.heads,
            feed_forward=c.pixel_feed_forward,
            points=c.points,
            groups=c.groups,
            dtype=self.dtype,
            name="pixel_decoder",
        )(maps)
        void = self.param("void", nn.initializers.normal(1.0), (text.rows.shape[1],))
        decoder = MaskDecoder(
            c.queries, c.layers, c.heads, c.feed_forward, self.dtype, name="decoder"
        )
        return decoder(pixels, text, unit(void))
