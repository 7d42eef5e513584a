"""What holds learned prompts near the frozen model: KgCoOp, ProGrad and PromptSRC, as pure functions of arrays.

KgCoOp (arXiv 2303.13283) and PromptSRC (2307.06948) add terms to the loss, each returned as (sum, count) as in `losses`.
ProGrad (2205.14865) adds none: it changes the gradient. Everything is computed in float32.

Shapes: B regions, C classes, D embedding width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fdbpl_jax.losses import Pair

_SMALLEST_SQUARE = 1e-12


def kgcoop(learned: Float[Array, "C D"], template: Float[Array, "C D"]) -> Pair:
    """KgCoOp's term: 1 - cos between learned and template text features, over classes."""
    cosine = optax.losses.cosine_similarity(
        _full(learned), _full(template), epsilon=_SMALLEST_SQUARE
    )
    return jnp.sum(1.0 - cosine), jnp.asarray(float(cosine.shape[0]), cosine.dtype)


def promptsrc_text(learned: Float[Array, "C D"], frozen: Float[Array, "C D"]) -> Pair:
    """PromptSRC's L_SCL-text: |learned - frozen| over all C D entries of unit-norm text features.

    Args:
      learned: under the learned prompts.
      frozen: of the frozen tower, averaged over many templates.
    """
    distance = jnp.abs(_full(learned) - _full(frozen))
    return jnp.sum(distance), jnp.asarray(float(distance.size), distance.dtype)


def promptsrc_image(
    learned: Float[Array, "B D"], frozen: Float[Array, "B D"], mask: Float[Array, "B"]
) -> Pair:
    """PromptSRC's L_SCL-image: |learned - frozen| over all entries of the unit-norm features of real regions.

    Args:
      learned: of the tower with visual prompts.
      frozen: of the tower without.
      mask: 1 for real regions, 0 for padding.
    """
    distance = jnp.sum(jnp.abs(_full(learned) - _full(frozen)), axis=-1)
    return jnp.sum(mask * distance), jnp.sum(mask) * learned.shape[-1]


def promptsrc_logits(
    frozen: Float[Array, "B C"], logits: Float[Array, "B C"], mask: Float[Array, "B"]
) -> Pair:
    """PromptSRC's L_SCL-logits: KL(zero-shot || prompted), divided by B C. PromptKD's loss has this form, too.

    Args:
      frozen: logits of the frozen model, without gradient.
      logits: of the prompted one.
      mask: 1 for real regions, 0 for padding.
    """
    return jnp.sum(mask * _kl(frozen, logits)), jnp.sum(mask) * logits.shape[-1]


def zero_shot_kl(
    frozen: Float[Array, "B C"], logits: Float[Array, "B C"], mask: Float[Array, "B"]
) -> Pair:
    """ProGrad's general direction is the gradient of this: KL(zero-shot || prompted), over real regions.

    The authors' code has the cross-entropy with soft labels here, which differs by the labels' entropy, a constant.
    """
    return jnp.sum(mask * _kl(frozen, logits)), jnp.sum(mask)


def prograd(ce_grads: Any, kl_grads: Any, lam: float) -> Any:
    """ProGrad's gradient: what of the labels' gradient does not go against the zero-shot model.

    In each array by itself: where <g_ce, g_kl> < 0, g_ce - lam <g_ce, g_kl> / |g_kl|^2 g_kl; else g_ce as it is.

    Args:
      ce_grads: gradients of the cross-entropy, a tree of arrays.
      kl_grads: of `zero_shot_kl`, a tree of the same form.
      lam: share of the opposing component that is taken out; 1 takes all of it.

    Returns:
      Gradients, a tree of the same form.
    """

    def one(ce: Array, kl: Array) -> Array:
        inner, square = jnp.sum(ce * kl), jnp.sum(kl * kl)
        # The quotient of an all-zero gradient is not taken, since its inner product is not negative.
        against = jnp.where(inner < 0, inner, 0.0) / jnp.where(square > 0, square, 1.0)
        return ce - lam * against * kl

    return jax.tree.map(one, ce_grads, kl_grads)


def prograd_loss(
    function: Callable[[Any], tuple[tuple[Array, Array], Any]], trainable: Any, lam: float
) -> tuple[Float[Array, ""], Any]:
    """ProGrad in a training loop that differentiates a scalar, though its step is no gradient of any loss.

    Args:
      function: trainable -> ((mean cross-entropy, mean of `zero_shot_kl`), anything beside them). It runs once, its backward
        pass twice.
      trainable: tree of arrays.
      lam: as in `prograd`.

    Returns:
      (a scalar that equals the cross-entropy and whose gradient by `trainable` is `prograd`'s, what the function returned
      beside its losses, without gradient).
    """
    # Held before the function runs: nothing is prepared for a second derivative.
    held = jax.lax.stop_gradient(trainable)
    (ce, kl), backward, rest = jax.vjp(function, held, has_aux=True)
    one, zero = jnp.ones_like(ce), jnp.zeros_like(kl)
    grads = prograd(backward((one, zero))[0], backward((zero, one))[0], lam)
    # Each summand is exactly 0, and its slope is the gradient.
    slopes = jax.tree.map(lambda x, at, grad: jnp.sum(grad * (x - at)), trainable, held, grads)
    return ce + optax.tree.sum(slopes), rest


def _kl(frozen: Float[Array, "B C"], logits: Float[Array, "B C"]) -> Float[Array, "B"]:
    log_frozen = jax.nn.log_softmax(_full(jax.lax.stop_gradient(frozen)))
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(_full(logits)), log_frozen
    )


def _full(x: Array) -> Array:
    return x.astype(jnp.float32)
