"""Host B: open-vocabulary segmentation by cost aggregation (CAT-Seg arXiv 2303.11797, SED arXiv 2311.15537).

The cosine of every pixel's CLIP feature with every class is a noisy map, the cost. A small network, the same for every
class, refines the maps over the picture and across the vocabulary, and decodes a logit per class at 4 times the
resolution. It never sees a class's index, so words that it was not trained on are nothing special.

- "window" (CAT-Seg, for a ViT): layers of two shifted-window blocks and attention over classes, guided by the dense
  features and the class's text; two decoder stages with two shallower maps beside them.
- "pyramid" (SED, for a ConvNeXt): `cost_pyramid`.

Of a vocabulary larger than `most_classes`, the classes with the largest cost anywhere in a picture are refined; the others
have no logit there. Shapes: B images, C classes (padded), K refined classes, (h, w) grid of the cost, D embedding width.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from core_jax import clip
from gba_jax import losses
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.cost_pyramid import PyramidDecoder, take
from gba_jax.hosts.cost_windows import WindowDecoder
from gba_jax.vocabulary import TextRows, class_logits

# The logit of a class that was not refined: its sigmoid is 0.
ABSENT = -100.0


class CostMaps(NamedTuple):
    """What was found of K classes of each picture, out of C.

    Attributes:
      refined: logits, -100 for padding and for rejected classes.
      kept: which classes they are; all in order when K = C.
      real: False for padding and for rejected classes.
      class_mask: of the vocabulary.
      auxiliary: further logits of the same classes, for the loss; may be empty.
    """

    refined: Float[Array, "B K h w"]
    kept: Int32[Array, "B K"]
    real: Bool[Array, "B K"]
    class_mask: Bool[Array, "C"]
    auxiliary: tuple[Float[Array, "B K h w"], ...] = ()

    @property
    def logits(self) -> Float[Array, "B C h w"]:
        """One map a class; -100 where a class was not refined, and for padding."""
        return self.spread(self.refined, ABSENT)

    def spread(self, values: Float[Array, "B K h w"], empty: float) -> Float[Array, "B C h w"]:
        """Values of the kept classes at their classes' places, `empty` everywhere else."""
        classes, batch = self.class_mask.shape[0], values.shape[0]
        if values.shape[1] == classes:
            return values
        everywhere = jnp.full((batch, classes, *values.shape[2:]), empty, values.dtype)
        return everywhere.at[jnp.arange(batch)[:, None], self.kept].set(values)


class CostAggregation(nn.Module):
    """Dense CLIP features and words to logits of every class.

    Attributes:
      config: the sizes.
      dtype: of the activations; the cost, norms, softmax and sums run in float32.
    """

    config: CostConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        dense: Float[Array, "B h w D"],
        guides: tuple[Float[Array, "B h w E"], ...],
        text: TextRows,
        *,
        required: Bool[Array, "B C"] | None = None,
        train: bool,
    ) -> CostMaps:
        """The maps; classes that are padding have no influence on the others.

        Args:
          dense: features in CLIP's embedding, of any length.
          guides: "window": the maps of two shallower blocks, shallowest first, on the grid of `dense`; "pyramid": res4,
            res3, res2 at 2, 4 and 8 times that grid.
          text: the vocabulary.
          required: classes that are refined whatever their cost, in training those of the labels (the ones with the
            largest cost if there are more than `train_classes`).
          train: training or eval.

        Returns:
          Logits at 4 times the grid ("pyramid": 8 times).

        Raises:
          ValueError: another number or size of guides.
        """
        c = self.config
        _check_guides(c.form, dense.shape, guides)
        cost = class_cost(dense, text)
        most = c.train_classes if train else c.most_classes
        kept, real = choose(cost, text.class_mask, most, required)
        if kept.shape[1] < cost.shape[1]:
            cost = take(cost, kept)
        # The cost of padding is -inf.
        cost = jnp.where(real[:, :, None, None], cost, 0.0)[..., None].astype(self.dtype)
        x = nn.Conv(c.width, (7, 7), dtype=self.dtype, name="embed")(cost)
        if c.form == "window":
            words = nn.Dense(c.guide, dtype=self.dtype, name="text_guide")(class_words(text))
            decoder = WindowDecoder(c, self.dtype, name="decoder")
            logits = decoder(x, dense, guides, jax.nn.relu(words)[kept], real, train=train)
            auxiliary = ()
        else:
            decoder = PyramidDecoder(c, self.dtype, name="decoder")
            logits, stay, real, auxiliary = decoder(x, cost, guides, real, train=train)
            kept = jnp.take_along_axis(kept, stay, axis=1)
        shown = lambda maps: jnp.where(real[:, :, None, None], maps, ABSENT)
        return CostMaps(shown(logits), kept, real, text.class_mask, tuple(map(shown, auxiliary)))


def class_cost(dense: Float[Array, "B h w D"], text: TextRows) -> Float[Array, "B C h w"]:
    """The cosine of every pixel with the best row of every class, float32; -inf for padding."""
    rows = clip.unit(dense.astype(jnp.float32)) @ text.rows.T
    return jnp.moveaxis(class_logits(rows, text), -1, 1)


def class_words(text: TextRows) -> Float[Array, "C D"]:
    """The unit mean of every class's rows; 0 for padding."""
    total = jax.ops.segment_sum(
        jnp.where(text.row_mask[:, None], text.rows, 0.0),
        text.class_of_row,
        num_segments=text.class_mask.shape[0],
        indices_are_sorted=True,
    )
    return clip.unit(total)


def choose(
    cost: Float[Array, "B C h w"],
    class_mask: Bool[Array, "C"],
    most: int,
    required: Bool[Array, "B C"] | None = None,
) -> tuple[Int32[Array, "B K"], Bool[Array, "B K"]]:
    """The classes to refine: the `most` ones with the largest cost anywhere, required ones before all others.

    Args:
      cost: -inf for padding.
      class_mask: False for padding.
      most: K unless there are fewer classes.
      required: classes that come first.

    Returns:
      (classes in ascending order, False where one is padding).
    """
    batch, classes = cost.shape[:2]
    if classes <= most:
        kept = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32)[None], (batch, classes))
    else:
        best = jnp.max(jax.lax.stop_gradient(cost), axis=(2, 3))
        if required is not None:
            # Cosines differ by 2 at most.
            best = jnp.where(required, best + 4.0, best)
        kept = jnp.sort(jax.lax.top_k(best, most)[1], axis=1)
    return kept, class_mask[kept]


def scores(maps: CostMaps) -> Float[Array, "B C h w"]:
    """The sigmoid of every logit; exactly 0 for classes that were not refined or are padding."""
    found = jnp.where(maps.real[:, :, None, None], jax.nn.sigmoid(maps.refined), 0.0)
    return maps.spread(found, 0.0)


def loss(
    maps: CostMaps,
    labels: Int32[Array, "B H W"],
    class_mask: Bool[Array, "C"],
    ignore: Literal["drop", "negative"] = "drop",
) -> tuple[Float[Array, ""], dict[str, losses.Pair]]:
    """Every class against the rest at every pixel, auxiliary maps with weight 1.

    Only the K refined maps are resized to the labels, never all C. A class that was not refined costs nothing but counts
    in the mean, as a logit of -100 does where the class is not.

    Args:
      maps: of the pictures.
      labels: class of every pixel, -1 for pixels that do not count.
      class_mask: False for padding.
      ignore: as `losses.per_class_bce`.

    Returns:
      (sum of the means, {"loss_bce": (sum, count), and "loss_aux": likewise, summed over the auxiliary maps, if any}).
    """
    count, classes = maps.kept.shape[1], class_mask.shape[0]
    slots = _slots(labels, maps.kept, classes)
    everything, words = jnp.ones(count, bool), jnp.sum(class_mask).astype(jnp.float32)

    def term(logits):
        total, pixels = losses.per_class_bce(logits, slots, everything, ignore)
        # Padding is among the K maps and has no loss there: the classes of the vocabulary are what counts.
        return total, pixels / count * words

    main, others = term(maps.refined), [term(logits) for logits in maps.auxiliary]
    pairs, total = {"loss_bce": main}, losses.mean(main)
    if others:
        # All of them are judged at the same pixels.
        pairs["loss_aux"] = (jnp.sum(jnp.stack([summed for summed, _ in others])), others[0][1])
        total += losses.mean(pairs["loss_aux"])
    return total, pairs


def _slots(labels, kept, classes):
    """Labels as places in `kept`: K where a class was not kept, -1 stays."""
    batch, count = kept.shape
    place = jnp.full((batch, classes), count, jnp.int32)
    place = place.at[jnp.arange(batch)[:, None], kept].set(jnp.arange(count, dtype=jnp.int32)[None])
    flat = labels.reshape(batch, -1)
    found = jnp.take_along_axis(place, jnp.maximum(flat, 0), axis=1)
    return jnp.where(flat < 0, flat, found).reshape(labels.shape)


def _check_guides(form, shape, guides):
    factors = (1, 1) if form == "window" else (2, 4, 8)
    expected = [(shape[0], shape[1] * f, shape[2] * f) for f in factors]
    found = [guide.shape[:3] for guide in guides]
    if found != expected:
        raise ValueError(
            f"guides of (B, h, w) {found} for dense features {shape[:3]}: the form {form!r} takes {expected}"
        )
