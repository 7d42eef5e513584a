"""Segmentation of a user's own picture by the user's own words.

    model = predict.maskclip(clip.load("openai/clip-vit-base-patch16"))
    found = predict.segment(picture, ["cat", "grass, lawn"], model=model, background="threshold:0.4")
    found.picture().save("cat.png")

A `Predictor` is any host, trained or not; `segment` puts words and a picture through it. What belongs to none of the
words is a decision of the user's, the background policy:

    none            every pixel gets the best of the words
    threshold:0.4   pixels whose best score is below 0.4 are background
    phrases:[a, b]  further words, all of which mean background
    null            pixels that the host itself gives to no class (hosts with mask queries only)

Shapes: (H, W) the picture, C classes, Q queries.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8
from PIL import Image

from core_jax import clip
from core_jax.clip.dense import Mode
from core_jax.data import images
from core_jax.train import Params
from gba_jax import palette, templates, text_cache, vocabulary, windows
from gba_jax.backbones import Backbone
from gba_jax.hosts import mask_outputs
from gba_jax.model import Queries, Segmenter, run_queries, run_scores
from gba_jax.templates import Templates
from gba_jax.text_cache import Encoder
from gba_jax.vocabulary import TextRows, Vocabulary

BACKGROUND = -1
Picture = str | os.PathLike | Image.Image | np.ndarray


class BackgroundError(ValueError):
    """A background policy that does not exist, or that the host does not have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Background:
    """What becomes background (label -1); made by `parse_background`.

    Attributes:
      threshold: pixels with a lower best score; None for no threshold.
      phrases: words that mean background.
      null: pixels that go to no class.
    """

    threshold: float | None = None
    phrases: tuple[str, ...] = ()
    null: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictor:
    """A host that is ready for pictures and words.

    Attributes:
      encoder: the text tower.
      templates: the sentences that words are put into.
      score: (inputs, words, which classes were seen in training) to scores (`Segmenter.scores`), 0 for padding; jitted.
        Not called where there are queries.
      plan: how pictures become inputs.
      training: what the host was trained on; None for a host that was not trained.
      queries: the same arguments to mask queries, for hosts that have them; jitted.
      cache: folder of text embeddings; None keeps none.
    """

    encoder: Encoder
    templates: Templates
    score: Callable[[UInt8[np.ndarray, "b S T 3"], TextRows, Bool[Array, "C"]], Array]
    plan: windows.Plan
    training: Vocabulary | None = None
    queries: (
        Callable[[UInt8[np.ndarray, "b S T 3"], TextRows, Bool[Array, "C"]], Queries] | None
    ) = None
    cache: str | os.PathLike | None = None

    def __post_init__(self):
        """Refuse queries on windows: nobody knows which masks of two windows are one."""
        if self.queries is not None and isinstance(self.plan, windows.Sliding):
            raise ValueError(
                "mask queries of several windows cannot be joined: use a whole or padded plan"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """What was found in a picture.

    Attributes:
      image: the picture.
      label_map: class of each pixel, -1 for background.
      scores: how well it fits, in [0, 1]; where the background won, the background's.
      names: of the classes, as given.
      palette: a colour a class.
      segment_map: hosts with queries: position in `segments` of each pixel, -1 for none. Others None.
      segments: {"name", "label", "score", "area", "box" (top, left, height, width)} of each segment; None as above.
    """

    image: UInt8[np.ndarray, "H W 3"]
    label_map: Int32[np.ndarray, "H W"]
    scores: Float[np.ndarray, "H W"]
    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "C 3"]
    segment_map: Int32[np.ndarray, "H W"] | None = None
    segments: list[dict[str, Any]] | None = None

    @property
    def classes(self) -> list[dict[str, Any]]:
        """{"name", "label", "share" of the picture, mean "score"} of each class that is there, the largest first."""
        there, counts = np.unique(self.label_map, return_counts=True)
        rows = [
            {
                "name": self.names[label],
                "label": label,
                "share": count / self.label_map.size,
                "score": float(self.scores[self.label_map == label].mean()),
            }
            for label, count in zip(there.tolist(), counts.tolist())
            if label != BACKGROUND
        ]
        return sorted(rows, key=lambda row: -row["share"])

    def picture(self) -> Image.Image:
        """The picture under its label map, with contours and a legend."""
        return palette.overlay(self.image, self.label_map, self.names, self.palette)


def segment(
    image: Picture,
    words: Sequence[str] | Vocabulary,
    *,
    model: Predictor,
    background: str | Background = "none",
) -> Segmentation:
    """Segments a picture by words.

    Args:
      image: a file, a pillow picture, or a uint8 array (H, W), (H, W, 3) or (H, W, 4); transparency is dropped.
      words: "name" or "name, synonym, ..." a class; a `Vocabulary` also says which classes are countable.
      model: the host.
      background: the policy, see the module's docstring.

    Raises:
      ImageError: the picture cannot be read.
      VocabularyError: no words, blank ones, or some that occur twice.
      BackgroundError: see `parse_background`; or the host has no queries and `null` is asked for; or a phrase is also a word.
    """
    return prepare(words, model=model, background=background)(image)


def prepare(
    words: Sequence[str] | Vocabulary,
    *,
    model: Predictor,
    background: str | Background = "none",
) -> Callable[[Picture], Segmentation]:
    """`segment` for many pictures: the words are embedded once. Arguments and errors as there."""
    given = words if isinstance(words, Vocabulary) else vocabulary.build(words)
    policy = parse_background(background) if isinstance(background, str) else background
    if policy.null and model.queries is None:
        raise BackgroundError(
            "background=null: this host gives every pixel to a class; use threshold:0.4 or phrases:[wall, floor]"
        )
    asked = _with_phrases(given, policy.phrases)
    rows = text_cache.text_rows(
        asked.rows, encoder=model.encoder, templates=model.templates, folder=model.cache
    )
    text = vocabulary.pad(asked, rows)
    seen = np.zeros(text.class_mask.shape, bool)
    if model.training is not None:
        seen[: len(asked.classes)] = asked.overlap(model.training)
    colours = palette.colours(len(given.classes))
    return functools.partial(
        _segment, model, given, asked, policy, text, jnp.asarray(seen), colours
    )


def parse_background(text: str) -> Background:
    """A policy from its text, as on a command line.

    Raises:
      BackgroundError: it is none of the policies.
    """
    kind, _, value = text.strip().partition(":")
    if kind == "none" and not value:
        return Background()
    if kind == "null" and not value:
        return Background(null=True)
    if kind == "threshold" and re.fullmatch(r"\s*(0?\.\d+|0|1|1\.0*|0\.)\s*", value):
        return Background(threshold=float(value))
    phrases = [phrase.strip() for phrase in value.strip().strip("[]").split(",")]
    if kind == "phrases" and all(phrases):
        return Background(phrases=tuple(phrases))
    raise BackgroundError(
        f"background={text!r}: expected none, threshold:T with T from 0 to 1, phrases:[wall, floor], or null"
    )


def maskclip(
    model: clip.Clip,
    *,
    plan: windows.Plan | None = None,
    sentences: str = "vild14",
    cache: str | os.PathLike | None = None,
    mode: Mode = "residual",
    denoise: float | None = None,
    key_smoothing: float | None = None,
) -> Predictor:
    """Host 0: no training, CLIP's weights alone (`gba_jax.hosts.maskclip`).

    Args:
      model: a loaded ViT.
      plan: None squeezes a picture to the model's square; windows must have its size.
      sentences: name of the templates.
      cache: folder of text embeddings.
      mode: what leaves the last block.
      denoise: threshold of prompt denoising, None for none.
      key_smoothing: threshold of key smoothing, None for none.
    """
    return of(
        Segmenter(
            host="maskclip",
            backbone=Backbone(config=model.config, mode=mode),
            denoise=denoise,
            key_smoothing=key_smoothing,
        ),
        Params(trainable={}, frozen={"clip": {"vision": model.params["vision"]}}, stats={}),
        encoder=text_cache.clip_encoder(model),
        sentences=templates.resolve(sentences),
        plan=windows.whole(model.config.vision.image_size) if plan is None else plan,
        cache=cache,
    )


def of(
    segmenter: Segmenter,
    params: Params,
    *,
    encoder: Encoder,
    sentences: Templates,
    plan: windows.Plan,
    training: Vocabulary | None = None,
    cache: str | os.PathLike | None = None,
) -> Predictor:
    """Any host as a predictor; arguments as the attributes there."""
    # The arrays are arguments of the programs: as constants they would be copied into each.
    return Predictor(
        encoder=encoder,
        templates=sentences,
        score=functools.partial(run_scores, segmenter, params),
        plan=plan,
        training=training,
        queries=functools.partial(run_queries, segmenter, params)
        if segmenter.host == "masks"
        else None,
        cache=cache,
    )


def _with_phrases(words: Vocabulary, phrases: Sequence[str]) -> Vocabulary:
    """The words, and the background's phrases as one more class behind them."""
    if not phrases:
        return words
    known = {vocabulary.normalise(word) for word in words.rows}
    both = [phrase for phrase in phrases if vocabulary.normalise(phrase) in known]
    if both:
        raise BackgroundError(
            f"background=phrases: {', '.join(both)} is among the words of the classes, too: a word cannot mean both"
        )
    classes = [*(", ".join(own) for own in words.synonyms), ", ".join(phrases)]
    return vocabulary.build(classes, [*words.is_thing.tolist(), False])


def _segment(
    model: Predictor,
    words: Vocabulary,
    asked: Vocabulary,
    policy: Background,
    text: TextRows,
    seen: Array,
    colours: np.ndarray,
    image: Picture,
) -> Segmentation:
    pixels = _pixels(image)
    size = (pixels.shape[0], pixels.shape[1])
    segment_map, segments = None, None
    if model.queries is None:
        maps = windows.scores(lambda x: model.score(x, text, seen), pixels[None], model.plan)
    else:
        found = model.queries(model.plan.inputs(pixels[None])[:, 0], text, seen)
        found = Queries(found.probabilities, model.plan.merge(found.mask_logits[:, None], size))
        maps = mask_outputs.semantic(*found)
        if policy.null:
            maps = jnp.concatenate([maps, mask_outputs.void_share(*found)[:, None]], axis=1)
        segment_map, segments = _segments(found, words, asked, policy, size)
    # Sums of masks may exceed 1: they compete as they are, and are clipped only to be shown.
    best, scores = (x[0] for x in windows.labels(maps, size))
    scores = np.clip(scores, 0.0, 1.0)
    # What lies behind the user's words is the background's: its phrases, or the host's void.
    background = best >= len(words.classes)
    if policy.threshold is not None:
        background |= scores < policy.threshold
    return Segmentation(
        image=pixels,
        label_map=np.where(background, np.int32(BACKGROUND), best),
        scores=scores,
        names=words.classes,
        palette=colours,
        segment_map=segment_map,
        segments=segments,
    )


def _segments(
    found: Queries, words: Vocabulary, asked: Vocabulary, policy: Background, size: tuple[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The panoptic map with a table that has a row for each segment of the user's classes."""
    probabilities, mask_logits = found.probabilities[0], found.mask_logits[0]
    things = np.zeros(probabilities.shape[1] - 1, bool)
    things[: len(asked.classes)] = asked.is_thing
    least = policy.threshold or 0.0
    panoptic = mask_outputs.panoptic(
        probabilities, mask_logits, jnp.asarray(things), size, score=least
    )
    rows, classes, scores = (np.asarray(x) for x in panoptic)
    result, table = np.full(size, BACKGROUND, np.int32), []
    for row in np.unique(rows[rows >= 0]).tolist():
        label = int(classes[row])
        if label >= len(words.classes):
            continue
        mask = rows == row
        result[mask] = len(table)
        top, left = (int(np.flatnonzero(mask.any(axis=axis))[0]) for axis in (1, 0))
        bottom, right = (int(np.flatnonzero(mask.any(axis=axis))[-1]) for axis in (1, 0))
        table.append(
            {
                "name": words.classes[label],
                "label": label,
                "score": float(scores[row]),
                "area": int(mask.sum()),
                "box": (top, left, bottom - top + 1, right - left + 1),
            }
        )
    return result, table


def _pixels(image: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of any kind as RGB."""
    if isinstance(image, (str, os.PathLike)):
        return images.decode(image)
    if isinstance(image, Image.Image):
        return images.rgb(image)
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or 0 in array.shape or not (grey or array.shape[2:] in ((3,), (4,))):
        raise images.ImageError(
            f"a picture of {array.dtype} with shape {array.shape}: expected uint8 of shape (H, W), (H, W, 3) or (H, W, 4)"
        )
    return np.repeat(array[:, :, None], 3, axis=2) if grey else np.ascontiguousarray(array[..., :3])
