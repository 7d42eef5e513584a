"""CCA, the correlation constraint adapter at a deep stage (arXiv 2409.08468).

Pixels attend to the vocabulary's text rows, and a frequency-domain normalisation suppresses responses that are the same
everywhere, so that words do not attach to regions they do not belong to. Shapes: maps (B, h, w, E), V text rows of width D,
C classes. Presets as in `sda`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from core_jax.clip import unit
from core_jax.nn import norm
from gba_jax.adapters import pcnorm
from gba_jax.adapters.config import GBAConfig, check_preset
from gba_jax.adapters.refine import Dense, GatedRefinement, MultiKernelConv, gated_sum

COMPACT = 256
HEADS = 4
# A sampled vocabulary has at least this many classes, where there are as many.
FEWEST_CLASSES = 16
_EPS = 1e-5


class CorrelationConstraint(nn.Module):
    """The adapter; its state goes in and comes out of every call.

    Attributes:
      preset: "intent" or "released".
      config: `cca_width` and `norm` are read by "intent", `host_void` by both.
    """

    preset: str = "intent"
    config: GBAConfig = GBAConfig()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w E"],
        text: Float[Array, "V D"],
        row_mask: Bool[Array, "V"],
        state: dict,
        *,
        void: Float[Array, "D"] | None = None,
        pixel_mask: Bool[Array, "B h w"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B h w E"], dict]:
        """The adapted map and the new state.

        Args:
          x: features of the deep stage; "released" stops their gradient.
          text: unit text rows, one per synonym, without gradient. Their order is irrelevant.
          row_mask: False for padding and for words that are to be left out. All may be: the null rows remain.
          state: as `initial_state` gives it; {} for every norm but "pcnorm_bn".
          void: the host's void row, where `config.host_void`.
          pixel_mask: pixels inside the image, for the statistics of the norm.
          train: whether "pcnorm_bn" uses and updates batch statistics.

        Raises:
          ValueError: `void` is missing or not expected, or the mask does not fit the rows.
        """
        check_preset(self.preset)
        released, channels = self.preset == "released", x.shape[-1]
        full = released or self.config.cca_width == "full"
        width, heads = (channels, 1) if full else (COMPACT, HEADS)
        source = jax.lax.stop_gradient(x) if released else x
        u = MultiKernelConv(name="convs")(source) / 3.0
        query = norm("query_norm", _EPS, jnp.float32)(u.astype(jnp.float32)).astype(x.dtype)
        rows, visible = self._keys(text, row_mask, void)
        keys = norm("key_norm", _EPS, jnp.float32)(rows)
        delta = CrossAttention(width, heads, name="attention")(query, keys, visible)
        delta, state = self._normalise(delta.astype(jnp.float32), state, pixel_mask, train)
        scale = self.param("scale", nn.initializers.ones, (channels,))[None, None, None]
        bias = self.param("bias", nn.initializers.zeros, (channels,))[None, None, None]
        added = scale * delta + bias
        refinement = GatedRefinement(width, gated=not released, name="refine")
        if released:
            return refinement(query + added.astype(x.dtype)), state
        return refinement(gated_sum(self, x, added)), state

    def _keys(self, text, row_mask, void):
        """Text rows followed by the null rows, and which of them may be attended to."""
        if row_mask.shape != text.shape[:1]:
            raise ValueError(
                f"row_mask {row_mask.shape} must have one entry per text row {text.shape}"
            )
        if (void is None) == self.config.host_void:
            raise ValueError(
                f"host_void={self.config.host_void}, but void is {'missing' if void is None else 'given'}: pass the host's "
                "void row exactly where the configuration says that it has one"
            )
        # Released: void alone. Intent: void and an attention sink, which lets a pixel choose no word at all.
        own = (1 if self.preset == "released" else 2) - self.config.host_void
        rows = [jax.lax.stop_gradient(text).astype(jnp.float32)]
        if void is not None:
            rows.append(unit(void.astype(jnp.float32)[None]))
        if own:
            null = self.param("null", nn.initializers.normal(1.0), (own, text.shape[1]))
            rows.append(unit(null))
        nulls = own + (void is not None)
        return jnp.concatenate(rows), jnp.concatenate([row_mask, jnp.ones(nulls, bool)])

    def _normalise(self, delta, state, mask, train):
        norm = self.config.norm
        if self.preset == "released":
            # Stored statistics that nothing updates: what the reference implementation's frozen batch norm amounts to.
            delta, _ = pcnorm.batch(delta, state["cca_norm"], mask=mask, train=False)
        elif norm == "pcnorm_in":
            delta = pcnorm.instance(delta, mask)
        elif norm == "pcnorm_bn":
            delta, stored = pcnorm.batch(delta, state["cca_norm"], mask=mask, train=train)
            state = {**state, "cca_norm": stored}
        elif norm == "highpass":
            theta = self.param("highpass", lambda _: pcnorm.initial_knots())
            delta = pcnorm.radial_gain(delta, pcnorm.highpass_gains(theta))
        return delta, state


class CrossAttention(nn.Module):
    """Pixels (B, h, w, E) attend to rows (K, D) that all images share: keys and values are computed once per step."""

    width: int
    heads: int

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B h w E"],
        rows: Float[Array, "K D"],
        visible: Bool[Array, "K"],
    ) -> Float[Array, "B h w E"]:
        """The attended values, projected back to E."""

        def dense(name, features, y):
            return Dense(features, query.dtype, nn.initializers.xavier_uniform(), name=name)(y)

        # Heads lead and pixels are flat: left between them, heads make XLA's products on CPU 4 times slower.
        split = lambda y: jnp.moveaxis(y.reshape(-1, self.heads, self.width // self.heads), 1, 0)
        q = split(dense("query", self.width, query)) * (self.width // self.heads) ** -0.5
        k, v = split(dense("key", self.width, rows)), split(dense("value", self.width, rows))
        scores = jnp.einsum("npd,nkd->npk", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(visible[None, None], scores, jnp.finfo(jnp.float32).min)
        mixed = jnp.einsum("npk,nkd->npd", jax.nn.softmax(scores).astype(query.dtype), v)
        mixed = jnp.moveaxis(mixed, 0, 1).reshape(*query.shape[:3], self.width)
        return dense("out", query.shape[-1], mixed)


def initial_state(channels: int, preset: str, config: GBAConfig) -> dict:
    """What CCA keeps between steps: the statistics of "pcnorm_bn", or the constants of "released"."""
    if preset == "released" or config.norm == "pcnorm_bn":
        return {"cca_norm": pcnorm.initial_state(channels)}
    return {}


def sample_vocabulary(
    row_mask: Bool[Array, "V"],
    class_of_row: Int[Array, "V"],
    present: Bool[Array, "C"],
    *,
    probability: float = 0.5,
    key: PRNGKeyArray,
) -> Bool[Array, "V"]:
    """A smaller vocabulary for one training step, as a row mask, so that no shape changes.

    With the given probability: the classes present in the batch and random others, up to a total drawn from
    U{16, ..., number of classes}; otherwise, and with at most 16 classes, all of them.

    Args:
      row_mask: rows that exist.
      class_of_row: the class of each row; irrelevant where masked.
      present: classes that the batch's labels contain.
      probability: of sampling at all.
      key: draws whether, how many and which.

    Returns:
      The rows that CCA may attend to: all synonyms of a class or none.
    """
    whether, number, which = jax.random.split(key, 3)
    classes = present.shape[0]
    place = jnp.where(row_mask, class_of_row, classes)
    real = jnp.zeros(classes, bool).at[place].set(True, mode="drop")
    count = jnp.sum(real)
    total = jax.random.randint(number, (), jnp.minimum(FEWEST_CLASSES, count), count + 1)
    # Present classes come first in the order, then the others at random, then padding.
    score = jax.random.uniform(which, (classes,)) + jnp.where(present, 1.0, 0.0)
    score = jnp.where(real, score, -1.0)
    rank = jnp.argsort(jnp.argsort(-score))
    kept = real & (present | (rank < total))
    sampled = row_mask & kept[jnp.clip(class_of_row, 0, classes - 1)]
    return jnp.where(jax.random.bernoulli(whether, probability), sampled, row_mask)


def present_classes(labels: Int[Array, "..."], classes: int) -> Bool[Array, "C"]:
    """Which of the classes occur in int32 labels; -1 is ignored."""
    place = jnp.where(labels < 0, classes, labels).reshape(-1)
    return jnp.zeros(classes, bool).at[place].set(True, mode="drop")
