"""The second opinion of frozen CLIP on every mask, and its mixture with the trained classifier (FC-CLIP, arXiv 2308.02487).

The trained classifier knows the words it was trained with best, CLIP itself the others. So CLIP's own map is averaged
under every mask and classified as CLIP classifies a picture, and the two opinions are multiplied with exponents that
depend on whether a word was seen in training. Everything here is for evaluation.

Shapes: B images, Q queries, C classes (padded, masked ones are -inf), (h, w) CLIP's map, (H, W) the mask logits, E
channels of the map, D embedding width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gba_jax.vocabulary import TextRows, class_logits

_EPS = 1e-8


def masks_at(mask_logits: Float[Array, "B Q H W"], size: tuple[int, int]) -> Bool[Array, "B Q h w"]:
    """The cells of a coarser map that lie inside each mask: where the resized logits are positive."""
    shape = (*mask_logits.shape[:2], *size)
    logits = mask_logits.astype(jnp.float32)
    return jax.image.resize(logits, shape, "bilinear", antialias=False) > 0


def pool(x: Float[Array, "B h w E"], masks: Bool[Array, "B Q h w"]) -> Float[Array, "B Q E"]:
    """The mean of a map under each mask, float32; 0 for an empty mask."""
    weight = masks.astype(jnp.float32)
    total = jnp.einsum("bqhw,bhwe->bqe", weight, x.astype(jnp.float32), precision="highest")
    return total / (jnp.sum(weight, axis=(2, 3)) + _EPS)[..., None]


def out_of_vocabulary(
    clip_map: Float[Array, "B h w E"],
    mask_logits: Float[Array, "B Q H W"],
    project: Callable[[Float[Array, "B Q E"]], Float[Array, "B Q D"]],
    scale: Float[Array, ""] | float,
    text: TextRows,
) -> Float[Array, "B Q C"]:
    """CLIP's logits for every mask: scale * cos(project(mean of the map under the mask), T), the best synonym of a class.

    Args:
      clip_map: CLIP's deepest map, before its head.
      mask_logits: of any size; they are resized to the map (bilinear), and a cell belongs to a mask where they are positive.
      project: CLIP's head on pooled features; need not return unit vectors.
      scale: exp of CLIP's own logit scale.
      text: the vocabulary.

    Returns:
      float32 logits, -inf for masked classes. The opinion on an empty mask is that on a map of zeros.
    """
    pooled = pool(clip_map, masks_at(mask_logits, (clip_map.shape[1], clip_map.shape[2])))
    features = project(pooled.astype(clip_map.dtype)).astype(jnp.float32)
    # A head without bias sends an empty mask's zeros to zeros, which have no direction.
    length = jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), _EPS)
    cosine = jnp.matmul(features / length, text.rows.astype(jnp.float32).T, precision="highest")
    return class_logits(scale * cosine, text)


def combine(
    in_logits: Float[Array, "B Q C+1"],
    out_logits: Float[Array, "B Q C"],
    seen: Bool[Array, "C"],
    *,
    alpha: float = 0.4,
    beta: float = 0.8,
    valid: Bool[Array, "B Q"] | None = None,
) -> Float[Array, "B Q C+1"]:
    """The geometric mixture of both opinions, with the trained classifier's probability of void.

      log p_c = (1 - e_c) log p_in,c + e_c log p_out,c,   e_c = alpha where c was seen, else beta
      result = [softmax(log p) (1 - p_void), p_void]

    Both p are softmaxes over the classes alone; p_void is the last entry of softmax(in_logits).

    Args:
      in_logits: of the trained classifier, void last.
      out_logits: of CLIP.
      seen: classes that share a word with the training vocabulary.
      alpha: CLIP's exponent for seen classes, in [0, 1]; 0 leaves the trained classifier alone.
      beta: CLIP's exponent for all others.
      valid: with it, masks that are False (the empty ones: `masks_at(...).any((2, 3))`) keep the trained opinion.

    Returns:
      float32 probabilities, void last; they sum to 1, masked classes have 0.

    Raises:
      ValueError: an exponent outside [0, 1], or logits of different numbers of classes.
    """
    problems = [
        f"{name}={value}: expected an exponent between 0 and 1"
        for name, value in (("alpha", alpha), ("beta", beta))
        if not 0 <= value <= 1
    ]
    classes = in_logits.shape[-1] - 1
    if out_logits.shape[-1] != classes or seen.shape != (classes,):
        problems.append(
            f"in_logits {in_logits.shape} (void included), out_logits {out_logits.shape} and seen {seen.shape} "
            "differ in their number of classes"
        )
    if problems:
        raise ValueError("cannot combine the two classifiers: " + "; ".join(problems))
    trained, clip = in_logits[..., :-1].astype(jnp.float32), out_logits.astype(jnp.float32)
    share = jnp.where(seen, alpha, beta).astype(jnp.float32)[None, None]
    if valid is not None:
        share = jnp.where(valid[..., None], share, 0.0)
    masked = jnp.isneginf(trained) | jnp.isneginf(clip)
    # An exponent of 0 or 1 times -inf would be nan: masked classes take no part in the sum.
    log_in, log_out = (
        jnp.where(masked, 0.0, jax.nn.log_softmax(x, axis=-1)) for x in (trained, clip)
    )
    mixed = jnp.where(masked, -jnp.inf, (1.0 - share) * log_in + share * log_out)
    void = jax.nn.softmax(in_logits.astype(jnp.float32), axis=-1)[..., -1:]
    return jnp.concatenate([jax.nn.softmax(mixed, axis=-1) * (1.0 - void), void], axis=-1)
