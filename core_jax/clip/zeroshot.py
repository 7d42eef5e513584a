"""Zero-shot classification (arXiv 2103.00020, section 3.1): class names in templates become the weights of a classifier.

Shapes: B images, C classes, T templates, D embedding width, S side of the images in pixels.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from core_jax.clip import model as towers
from core_jax.clip.config import ClipConfig
from core_jax.clip.io import Clip

TEMPLATE = "a photo of a {}."
_CHUNK = 256


def class_weights(features: Float[Array, "T C D"]) -> Float[Array, "C D"]:
    """One unit vector a class: unit features of each template, averaged, made unit again."""
    return towers.unit(jnp.mean(towers.unit(features), axis=0))


def logits(
    params: dict,
    config: ClipConfig,
    images: UInt8[Array, "B S S 3"],
    weights: Float[Array, "C D"],
    *,
    dtype=jnp.float32,
) -> Float[Array, "B C"]:
    """exp(logit scale) * cosine of each image with each class; `dtype` is what the image tower computes in."""
    features = towers.encode_image(params, config, towers.normalise(images, config, dtype))
    features = towers.unit(jnp.asarray(features, jnp.float32))
    return jnp.exp(jnp.asarray(params["logit_scale"], jnp.float32)) * features @ weights.T


def rank(
    params: dict,
    config: ClipConfig,
    images: UInt8[Array, "B S S 3"],
    weights: Float[Array, "C D"],
    *,
    count: int | None = None,
    dtype=jnp.float32,
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    """Classes of each image, most probable first.

    Args:
      params: as `load` gives them.
      config: the model.
      images: RGB, cut to the model's size (`preprocess`); normalised here.
      weights: of the classes (`class_weights`, `classifier`).
      count: k, how many classes to return; all of them when not given.
      dtype: what the image tower computes in.

    Returns:
      (class indices int32, their probabilities among all classes).
    """
    probabilities = jax.nn.softmax(logits(params, config, images, weights, dtype=dtype), axis=-1)
    best, indices = jax.lax.top_k(probabilities, weights.shape[0] if count is None else count)
    return indices, best


def text_features(model: Clip, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
    """Unnormalised float32 features of any number of texts, a chunk at a time.

    Raises:
      TokenizerError: texts that the tokenizer cannot take.
    """
    ids = model.tokenizer(texts)
    if not len(ids):
        return np.zeros((0, model.config.projection_dim), np.float32)
    # Nothing behind the end tokens reaches a feature: cutting the padding off is exact, and most of the work.
    longest = int(np.max(towers.end_positions(model.config, jnp.asarray(ids)))) + 1
    ids = ids[:, :longest]
    chunk = min(_CHUNK, len(ids))
    padded = np.pad(ids, ((0, -len(ids) % chunk), (0, 0)), mode="edge")
    parts = [
        np.asarray(_encode_text(model.params, model.config, padded[i : i + chunk]))
        for i in range(0, len(padded), chunk)
    ]
    return np.concatenate(parts)[: len(ids)]


def classifier(
    model: Clip, classes: Sequence[str], templates: Sequence[str] = (TEMPLATE,)
) -> Float[np.ndarray, "C D"]:
    """The weights of a zero-shot classifier.

    Args:
      model: any loaded CLIP.
      classes: names, in the order of the weights' rows.
      templates: sentences with one "{}" for the class name; features are averaged over them.

    Raises:
      ValueError: no classes, no templates, the same name twice, or templates without exactly one "{}".
      TokenizerError: sentences that the tokenizer cannot take.
    """
    classes = list(classes)
    problems = [f"template {t!r} has no single {{}}" for t in templates if t.count("{}") != 1]
    problems += [
        f"class {name!r} is named {classes.count(name)} times"
        for name in dict.fromkeys(classes)
        if classes.count(name) > 1
    ]
    problems += [] if classes else ["there are no classes"]
    problems += [] if templates else ["there are no templates"]
    if problems:
        raise ValueError("no classifier can be made: " + "; ".join(problems))
    texts = [template.replace("{}", name) for template in templates for name in classes]
    features = text_features(model, texts).reshape(len(templates), len(classes), -1)
    return np.asarray(class_weights(jnp.asarray(features)))


@functools.partial(jax.jit, static_argnums=1)
def _encode_text(params: dict, config: ClipConfig, ids: Int[Array, "n L"]) -> Array:
    return towers.encode_text(params, config, ids)
