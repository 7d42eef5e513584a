"""Everything a segmentation run reads before its first step: the CLIP, the training pictures, the words.

`open_inputs` opens and checks all of it and pins it by digest; the task and the evaluation are functions of what it
returns. Shapes: V text rows and C classes (padded), D embedding width.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt8

from core_jax import world
from core_jax.data import files
from core_jax.train.memory import Memory
from core_jax.train.settings import compute_dtype
from gba_jax import backbones, data, datasets, model, templates, text_cache, vocabulary, windows
from gba_jax import config as configs
from gba_jax.adapters import GBA
from gba_jax.vocabulary import TextRows, Vocabulary

WORLD = "world"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What a run depends on.

    Attributes:
      config: the settings.
      clip: the opened tower and text encoder.
      segmenter: the static half of the model.
      train: the training pictures.
      text: the training vocabulary's rows; classes that are left out of training are masked.
      trained: the words of the classes that are not.
      pins: digests of all of it.
    """

    config: configs.Config
    clip: backbones.Opened
    segmenter: model.Segmenter
    train: datasets.Dataset
    text: TextRows
    trained: tuple[str, ...]
    pins: Mapping[str, str]

    def rows(self, words: Vocabulary) -> TextRows:
        """Text rows of any vocabulary."""
        return text_rows(self.config, self.clip, words)

    def seen(self, words: Vocabulary, classes: int) -> Bool[np.ndarray, "C"]:
        """Which classes share a word with those trained on; False for padding up to `classes`."""
        return pad_mask(words.overlap(vocabulary.build(self.trained)), classes)


def open_inputs(config: configs.Config) -> Inputs:
    """Open and check everything a run depends on.

    Raises:
      ValueError: data set, class lists or model cannot be used; each kind lists all of its problems.
    """
    train = read_dataset(config, config.data.split)
    opened = open_clip(config)
    words = train.vocabulary
    left_out = unseen(config.data.unseen, words)
    text = _mask(text_rows(config, opened, words), words, left_out)
    pins = {
        **model_pins(config, opened),
        "dataset": data.digest(train),
        "unseen": files.digest(np.flatnonzero(left_out).tolist()),
    }
    pairs = zip(words.rows, words.class_of_row.tolist(), strict=True)
    return Inputs(
        config=config,
        clip=opened,
        segmenter=segmenter(config, opened.backbone, len(train)),
        train=train,
        text=text,
        trained=tuple(word for word, owner in pairs if not left_out[owner]),
        pins=pins,
    )


def read_dataset(config: configs.Config, split: str) -> datasets.Dataset:
    """A split by its name, or "name:split" of another data set below the same root."""
    name, colon, rest = split.partition(":")
    if colon:
        return datasets.read(name, config.data.root, rest)
    classes = config.data.classes or None
    return datasets.read(config.data.dataset, config.data.root, split, classes=classes)


def open_clip(config: configs.Config) -> backbones.Opened:
    """The CLIP that a configuration names, for pictures of its size."""
    return backbones.open_backbone(
        config.clip,
        image_size=config.image_size,
        mode=config.dense_mode,
        dtype=compute_dtype(config.dtype),
    )


def model_pins(config: configs.Config, clip: backbones.Opened) -> dict[str, str]:
    """Digests of what a run needs wherever it is used: the tower, the text side, the sentences."""
    return {
        "clip": clip.digest,
        "text encoder": files.digest([clip.encoder.weights, clip.encoder.tokenizer]),
        "templates": templates.resolve(config.templates).digest,
    }


def text_rows(config: configs.Config, clip: backbones.Opened, words: Vocabulary) -> TextRows:
    """The padded rows of a vocabulary, through the text cache where there is one."""
    sentences = templates.resolve(config.templates)
    folder = pathlib.Path(config.text_cache) if config.text_cache else None
    found = text_cache.text_rows(
        words.rows, encoder=clip.encoder, templates=sentences, folder=folder
    )
    return vocabulary.pad(words, found)


def segmenter(
    config: configs.Config, backbone: backbones.Backbone, pictures: int
) -> model.Segmenter:
    """The static half of the model.

    Args:
      config: the settings.
      backbone: the image tower.
      pictures: of the training set, which an epoch is.
    """
    form = "window" if backbone.is_vit else "pyramid"
    if config.host == "cost" and config.cost.form != form:
        raise configs.ConfigError(
            f"config.cost.form={config.cost.form} with config.clip={config.clip}: cost aggregation on a ViT has the form window, "
            f"on a ConvNeXt pyramid; set config.cost.form={form}"
        )
    return model.Segmenter(
        host=config.host,
        backbone=backbone,
        gba=adapters(config, backbone, pictures),
        cost=config.cost,
        masks=config.masks,
        mask_loss=config.mask_loss,
        ignore=config.ignore,
        amplitude=config.data.amplitude,
        finetune=config.clip_finetune,
        alpha=config.alpha,
        beta=config.beta,
        denoise=config.denoise,
        key_smoothing=config.key_smoothing,
        memory=Memory(accumulate=config.accumulate, remat=config.remat),
    )


def plan(config: configs.Config, backbone: backbones.Backbone) -> windows.Plan:
    """How pictures become inputs outside training.

    Raises:
      ConfigError: windows or padding for a ViT that takes one size only, or sizes that do not fit each other.
    """
    test, size = config.test, backbone.image_size
    chosen = test.plan
    if chosen == "auto":
        chosen = "padded" if size is None else "whole"
    try:
        if chosen == "sliding":
            return windows.sliding(test.resize, config.image_size, test.stride)
        if chosen == "whole":
            return windows.whole(config.image_size)
        if size is None:
            return windows.padded(test.short, test.long, backbone.stride)
    except ValueError as error:
        raise configs.ConfigError(f"config.test: {error}") from error
    raise configs.ConfigError(
        f"config.test.plan=padded: a ViT takes squares of {size} pixels; use whole or sliding"
    )


def adapters(config: configs.Config, backbone: backbones.Backbone, pictures: int) -> GBA | None:
    """The adapters of a configuration, None for none."""
    chosen = config.adapters
    if chosen.use == "none":
        return None
    shallow = backbone.shallow_blocks()[0] if backbone.is_vit else "res2"
    places: dict[str, str | None] = {
        "shallow": shallow if chosen.shallow == configs.AUTO else chosen.shallow,
        "deep": backbone.deep if chosen.deep == configs.AUTO else chosen.deep,
    }
    if chosen.use != "both":
        places["deep" if chosen.use == "sda" else "shallow"] = None
    epoch = max(1, pictures // config.batch_size)
    switches = chosen.switches(
        refresh_steps=max(1, round(chosen.refresh_epochs * epoch)),
        # Mask classification has a void row of its own, which CCA shares.
        host_void=config.host == "masks" and places["deep"] is not None,
    )
    shallow, deep = places["shallow"], places["deep"]
    return GBA(backbone.taps, shallow, deep, preset=chosen.preset, config=switches)


def unseen(source: str, words: Vocabulary) -> Bool[np.ndarray, "c"]:
    """Which classes are left out of training.

    Args:
      source: "" for none, "world" for the unseen classes of the embedded world's scenes, or a text file with a class a line.
      words: the training vocabulary.

    Raises:
      ConfigError: the file cannot be read, or names words that are in no class; all are listed.
    """
    if not source:
        return np.zeros(len(words.classes), bool)
    if source == WORLD:
        names = [name for name in words.rows if name in world.SCENE_UNSEEN]
    else:
        names = _lines(source)
    owner = dict(
        zip(map(vocabulary.normalise, words.rows), words.class_of_row.tolist(), strict=True)
    )
    unknown = [name for name in names if vocabulary.normalise(name) not in owner]
    if unknown or not names:
        what = f"no class has the word {', '.join(map(repr, unknown))}" if unknown else "no names"
        raise configs.ConfigError(f"config.data.unseen={source}: {what}")
    left_out = np.zeros(len(words.classes), bool)
    left_out[[owner[vocabulary.normalise(name)] for name in names]] = True
    return left_out


def _lines(path: str | os.PathLike) -> list[str]:
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise configs.ConfigError(
            f"config.data.unseen={path}: no readable text file ({error})"
        ) from error
    # A line may be a line of a classes.txt: its first word names the class.
    return [line.split(",")[0].strip() for line in text.splitlines() if line.strip()]


def pad_mask(mask: Bool[np.ndarray, "c"], classes: int) -> Bool[np.ndarray, "C"]:
    """A flag a class, False for padding."""
    return np.pad(mask, (0, classes - len(mask)))


def _mask(text: TextRows, words: Vocabulary, left_out: np.ndarray) -> TextRows:
    """The rows without the classes that are left out: masked like padding, labels stay as they are."""
    rows = pad_mask(left_out[words.class_of_row], len(text.row_mask))
    classes = pad_mask(left_out, len(text.class_mask))
    return text._replace(
        row_mask=text.row_mask & jnp.asarray(~rows),
        class_mask=text.class_mask & jnp.asarray(~classes),
    )


def pack_words(words: Sequence[str]) -> UInt8[np.ndarray, "n"]:
    """Words as an array, so that they lie in the checkpoint beside what was trained on them."""
    return np.frombuffer(json.dumps(list(words)).encode(), np.uint8).copy()


def unpack_words(array: UInt8[np.ndarray, "n"]) -> tuple[str, ...]:
    """Inverse of `pack_words`."""
    return tuple(json.loads(np.asarray(array).tobytes()))
