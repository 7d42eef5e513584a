"""Host 0: segmentation with CLIP's weights alone, MaskCLIP (arXiv 2112.01071). No training, no taps.

Dense features of the ViT (`clip.encode_dense`) against text rows: 100 cos, the best synonym of a class, softmax over
classes, resized to the picture. Two refinements of the paper, both off by default:

- prompt denoising (0.5 in the paper): classes whose probability is below the threshold at every patch of a picture are
  dropped for that picture. Its most probable class always stays.
- key smoothing (1.0 in the paper): at patches whose best probability is below the threshold, logits become a mean over
  all patches, weighted by the cosines of the last block's keys. Negative cosines count as 0: what is left is a mean, and
  the patch itself, with cosine 1, is always part of it.

Shapes: B images, (h, w) the patch grid, (H, W) the picture, C classes and V rows (padded), D embedding width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from core_jax import clip
from core_jax.clip import ClipConfig
from core_jax.clip.dense import Mode
from gba_jax.vocabulary import TextRows, class_logits

SCALE = 100.0


class Maps(NamedTuple):
    """What is seen where.

    Attributes:
      labels: the most probable class of each pixel.
      scores: probabilities of the classes, 0 for padded ones; they sum to 1.
    """

    labels: Int32[Array, "B H W"]
    scores: Float[Array, "B H W C"]


def segment(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B S S 3"],
    text: TextRows,
    *,
    size: tuple[int, int],
    mode: Mode = "residual",
    denoise: float | None = None,
    key_smoothing: float | None = None,
) -> Maps:
    """Labels and scores at the picture's size; arguments and errors as those of `logits`.

    Args:
      params: as `clip.load` gives them.
      config: the model.
      pixels: normalised, of the model's image size.
      text: the vocabulary.
      size: (H, W) of the result; static.
      mode: see `logits`.
      denoise: see `logits`.
      key_smoothing: see `logits`.
    """
    options = {"denoise": denoise, "key_smoothing": key_smoothing}
    grid = jax.nn.softmax(logits(params, config, pixels, text, mode=mode, **options), axis=-1)
    shape = (grid.shape[0], *size, grid.shape[-1])
    scores = jax.image.resize(grid, shape, "bilinear", antialias=False)
    return Maps(jnp.argmax(scores, axis=-1).astype(jnp.int32), scores)


def logits(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B S S 3"],
    text: TextRows,
    *,
    mode: Mode = "residual",
    denoise: float | None = None,
    key_smoothing: float | None = None,
) -> Float[Array, "B h w C"]:
    """100 cos of each patch with the best row of each class, float32; -inf for padded and for dropped classes.

    Args:
      params: as `clip.load` gives them.
      config: the model.
      pixels: normalised, of the model's image size; the image tower computes in their dtype.
      text: the vocabulary.
      mode: what leaves the last block (`clip.encode_dense`).
      denoise: threshold of prompt denoising, None for none.
      key_smoothing: threshold of key smoothing, which comes after denoising; None for none.

    Raises:
      ValueError: an unknown mode, pixels of another size than the model's, or thresholds outside [0, 1].
    """
    thresholds = {"denoise": denoise, "key_smoothing": key_smoothing}
    problems = [
        f"{name}={value}: expected a probability between 0 and 1, or None"
        for name, value in thresholds.items()
        if value is not None and not 0 <= value <= 1
    ]
    if problems:
        raise ValueError("; ".join(problems))
    features, keys = clip.encode_dense(params, config, pixels, mode=mode, keys=True)
    features = clip.unit(features.astype(jnp.float32))
    found = class_logits(SCALE * (features @ text.rows.T), text)
    if denoise is not None:
        found = _drop_absent(found, denoise)
    if key_smoothing is not None:
        found = _smooth(found, keys.astype(jnp.float32), key_smoothing)
    return found


def _drop_absent(found: Float[Array, "B h w C"], threshold: float) -> Float[Array, "B h w C"]:
    best = jnp.max(jax.nn.softmax(found, axis=-1), axis=(1, 2), keepdims=True)
    # Something has to be left to choose from.
    kept = (best >= threshold) | (best == jnp.max(best, axis=-1, keepdims=True))
    return jnp.where(kept, found, -jnp.inf)


def _smooth(
    found: Float[Array, "B h w C"], keys: Float[Array, "B h w width"], threshold: float
) -> Float[Array, "B h w C"]:
    batch, height, width, classes = found.shape
    flat = found.reshape(batch, height * width, classes)
    directions = clip.unit(keys.reshape(batch, height * width, -1))
    weights = jnp.maximum(jnp.einsum("bnd,bmd->bnm", directions, directions), 0.0)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    # A class is absent at every patch of a picture or at none; 0 * -inf would be NaN.
    absent = jnp.isneginf(flat)
    mean = jnp.einsum("bnm,bmc->bnc", weights, jnp.where(absent, 0.0, flat))
    unsure = jnp.max(jax.nn.softmax(flat, axis=-1), axis=-1, keepdims=True) < threshold
    return jnp.where(unsure & ~absent, mean, flat).reshape(found.shape)
