"""The losses of `contrastive`, on what its towers made of a batch of B pictures and B captions.

Shapes: D embedding width, K patches that were seen, p pixels of a patch.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from core_jax import clip
from core_jax.train.contrastive_data import ATTRIBUTES
from core_jax.train.task import Batch


def losses(trainable: dict, seen: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """The parts of the loss, and how many attributes are guessed rightly.

    Args:
      trainable: the logit scale and the heads are read.
      seen: "feature" and "text" (B, D), and what `dense_terms` gives.
      batch: the attributes and what the captions say.
    """
    towers, heads, feature = trainable["clip"], trainable["heads"], seen["feature"]
    scale = jnp.minimum(jnp.exp(towers["logit_scale"]), 100.0)
    logits = scale * clip.unit(feature) @ clip.unit(seen["text"]).T
    real = jnp.stack([batch[name] for name in ATTRIBUTES], axis=1)
    said = batch["said"][:, None]
    describes = jnp.all((said < 0) | (said == real[None]), axis=-1)
    values = {
        "contrast": 0.5
        * (several_positives(logits, describes.T) + several_positives(logits.T, describes)),
        "attribute": jnp.zeros(()),
    }
    for name in ATTRIBUTES:
        guess = _head(heads[f"feature_{name}"], feature)
        values["attribute"] += optax.softmax_cross_entropy_with_integer_labels(
            guess, batch[name]
        ).mean()
        values[f"accuracy/{name}"] = jnp.mean(
            (jnp.argmax(guess, -1) == batch[name]).astype(jnp.float32)
        )
    values["outline"] = jnp.mean(seen["outline"])
    share = jnp.maximum(jnp.sum(seen["share"]), 1.0)
    values["dense"] = jnp.sum(seen["dense"]) / share
    return values


def several_positives(
    logits: Float[Array, "B N"], positive: Bool[Array, "B N"]
) -> Float[Array, ""]:
    """Cross-entropy of every row against the uniform distribution over its positives (at least one), mean over rows."""
    positive = positive.astype(logits.dtype)
    target = positive / jnp.sum(positive, axis=-1, keepdims=True)
    return optax.softmax_cross_entropy(logits, target).mean()


def dense_terms(
    heads: dict, tokens: Float[Array, "B K width"], cells: Float[Array, "B K p"], batch: Batch
) -> dict[str, Float[Array, " B"]]:
    """What every patch token must tell, by picture.

    Returns:
      "outline": binary cross-entropy of which pixels of a patch are the object's, mean over patches; "dense":
      cross-entropy of the object's attributes weighted by its share of the patch, summed over patches; "share": the sum of
      these weights.
    """
    guess = _head(heads["patch_mask"], tokens)
    outline = optax.sigmoid_binary_cross_entropy(guess, cells).mean(axis=(1, 2))
    share = cells.mean(-1)
    attributes = jnp.zeros(share.shape[0])
    for name in ATTRIBUTES:
        label = jnp.broadcast_to(batch[name][:, None], share.shape)
        error = optax.softmax_cross_entropy_with_integer_labels(
            _head(heads[f"patch_{name}"], tokens), label
        )
        attributes += jnp.sum(error * share, axis=1)
    return {"outline": outline, "dense": attributes, "share": jnp.sum(share, axis=1)}


def _head(head: dict, x: Array) -> Array:
    return x @ head["kernel"] + head["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
