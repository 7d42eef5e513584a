"""Contrastive pre-training of a small CLIP on the embedded world: the task that made the shipped pair.

Symmetric cross-entropy over a batch of B pictures and B captions (arXiv 2103.00020) in which a caption is a positive for
every picture that it describes, hence several positives a row. Two auxiliary losses make the slow attribute, shape,
arrive early; their heads are dropped at export:
  attributes: linear classifiers of shape, colour and texture on the image feature;
  dense: every patch token predicts which of its pixels belong to the object, and, where any do, the attributes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float

from core_jax import clip, world
from core_jax.train import contrastive_data as data
from core_jax.train import memory, sharding
from core_jax.train.contrastive_losses import dense_terms, losses
from core_jax.train.settings import DTYPES, ConfigError, compute_dtype
from core_jax.train.sharding import over_model
from core_jax.train.task import Aux, Batch, Params, Task

TEMPLATE = "a photo of a {}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Everything `configs/world_clip.py` can set; learning rates are per step, shares in [0, 1].

    `dtype` is what the towers compute in; `accumulate` and `remat` are those of `memory.Memory`.
    """

    vision: dict
    text: dict
    projection_dim: int
    batch_size: int
    steps: int
    warmup_steps: int
    lr: float
    matrix_lr: float
    weight_decay: float
    attribute_weight: float
    outline_weight: float
    dense_weight: float
    patches_kept: int
    full_share: float
    crop_share: float
    crop_scale: tuple[float, float]
    eval_scenes: int
    seed: int
    dtype: str = "float32"
    accumulate: int = 1
    remat: bool = False

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ConfigError(f"config.dtype={self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.accumulate < 1:
            raise ConfigError(f"config.accumulate={self.accumulate}: expected at least 1")


def build(config: ml_collections.ConfigDict) -> Task:
    """The pre-training task of `configs/world_clip.py`.

    Raises:
      TypeError: a key of the task's own is missing from the configuration.
    """
    settings = read_config(config)
    settings = dataclasses.replace(settings, dtype=compute_dtype(settings.dtype))
    model = model_config(settings)
    tokens = data.make_tokenizer(model)
    return Task(
        init=functools.partial(init, model),
        loss=functools.partial(loss, model, settings),
        train_data=lambda seed: data.train_data(
            tokens,
            image_size=model.vision.image_size,
            batch_size=settings.batch_size,
            steps=settings.steps,
            seed=seed,
        ),
        evaluate=functools.partial(evaluate, model, settings, tokens),
        optimizer=functools.partial(optimizer, settings),
        sharding_rules=(("trainable/.*", over_model),),
        total_steps=settings.steps,
        batch_ids=("index",),
        elastic=True,
    )


def read_config(config: ml_collections.ConfigDict) -> ContrastiveConfig:
    """The task's own keys of a configuration.

    Raises:
      TypeError: some are missing; all are named.
    """
    fields = dataclasses.fields(ContrastiveConfig)
    missing = [f.name for f in fields if f.name not in config and f.default is dataclasses.MISSING]
    if missing:
        raise TypeError(f"the contrastive configuration lacks {', '.join(missing)}")
    values = config.to_dict()
    return ContrastiveConfig(**{f.name: values[f.name] for f in fields if f.name in values})


def model_config(settings: ContrastiveConfig) -> clip.ClipConfig:
    """The CLIP model that a configuration describes; its token ids follow `clip.word_level`."""
    return clip.ClipConfig(
        vision=clip.VisionConfig(**settings.vision),
        text=clip.TextConfig(
            **settings.text,
            vocab_size=data.FIRST_WORD + len(data.vocabulary()),
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        ),
        projection_dim=settings.projection_dim,
    )


def init(model: clip.ClipConfig, key: Array) -> Params:
    """Random towers with sin-cos vision positions, and the auxiliary heads at zero."""
    towers = clip.init(model, key=key)
    vision = towers["vision"]
    vision["position_embedding"] = (
        vision["position_embedding"].at[1:].set(sincos_positions(model.vit.grid, model.vit.width))
    )
    width = model.vit.width
    pixels = model.vit.patch_size**2
    sizes = {f"feature_{name}": (model.projection_dim, n) for name, n in data.ATTRIBUTES.items()}
    sizes |= {f"patch_{name}": (width, n) for name, n in data.ATTRIBUTES.items()}
    sizes["patch_mask"] = (width, pixels)
    heads = {
        name: {"kernel": jnp.zeros(size, jnp.float32), "bias": jnp.zeros(size[1:], jnp.float32)}
        for name, size in sizes.items()
    }
    return Params(trainable={"clip": towers, "heads": heads}, frozen={}, stats={})


def sincos_positions(grid: int, width: int) -> Float[Array, "N width"]:
    """Fixed two-dimensional sin-cos embeddings (Vaswani et al. 2017 per axis) of a grid of patches, row-major."""
    frequency = 1.0 / 100.0 ** (np.arange(width // 4) / (width // 4))
    angle = np.arange(grid)[:, None] * frequency[None, :]
    axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    both = [np.repeat(axis, grid, axis=0), np.tile(axis, (grid, 1))]
    return jnp.asarray(np.concatenate(both, axis=1), jnp.float32)


def loss(
    model: clip.ClipConfig,
    settings: ContrastiveConfig,
    trainable: dict,
    frozen: dict,
    stats: dict,
    batch: Batch,
    key: Array,
) -> tuple[Float[Array, ""], Aux]:
    """Contrastive loss plus the weighted auxiliary losses; see the module's docstring."""
    del frozen
    network = functools.partial(_see, model, settings, trainable)
    pieces = memory.Memory(accumulate=settings.accumulate)
    seen, stats = memory.run(network, stats, batch, memory=pieces, key=key)
    values = losses(trainable, seen, batch)
    total = (
        values["contrast"]
        + settings.attribute_weight * values["attribute"]
        + settings.outline_weight * values["outline"]
        + settings.dense_weight * values["dense"]
    )
    one = jnp.ones((), jnp.float32)
    return total, Aux(stats=stats, metrics={name: (value, one) for name, value in values.items()})


def _see(
    model: clip.ClipConfig,
    settings: ContrastiveConfig,
    trainable: dict,
    stats: dict,
    batch: Batch,
    key: Array,
) -> tuple[dict[str, Array], dict]:
    """What the towers make of each picture and its caption, as `losses` takes it.

    Most steps see only `patches_kept` patches of a picture (those of the object first), the others all of them.
    """
    augment_key, keep_key, full_key = jax.random.split(key, 3)
    image, mask = data.augment(
        batch["image"], batch["mask"], settings.crop_share, settings.crop_scale, key=augment_key
    )
    dtype = jnp.dtype(settings.dtype)
    pixels = clip.normalise(image, model, dtype)
    cells = data.patch_cells(mask, model.vit.patch_size)

    def picture(trainable, kept, keep):
        feature, taps = clip.encode_image(trainable["clip"], model, pixels, taps=True, keep=keep)
        tokens = taps[-1][:, 1:].astype(jnp.float32)
        dense = dense_terms(trainable["heads"], tokens, kept, batch)
        return {"feature": feature.astype(jnp.float32), **dense}

    def caption(towers):
        return clip.encode_text(towers, model, batch["ids"], dtype=dtype).astype(jnp.float32)

    # Inside the branches: nothing cuts a conditional into parts.
    remat = memory.again if settings.remat else lambda function: function

    def some(trainable):
        keep = data.choose_patches(cells, settings.patches_kept, key=keep_key)
        kept = jnp.take_along_axis(cells, keep[..., None], axis=1)
        return remat(picture)(trainable, kept, keep)

    def every(trainable):
        return remat(picture)(trainable, cells, None)

    full = jax.random.bernoulli(full_key, settings.full_share)
    seen = jax.lax.cond(full, every, some, trainable)
    return {**seen, "text": remat(caption)(trainable["clip"])}, stats


def optimizer(settings: ContrastiveConfig) -> optax.GradientTransformation:
    """Muon (momentum orthogonalised by Newton-Schulz) on the towers' matrices, AdamW on all else; warm-up, cosine, clip 1."""

    def schedule(peak):
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, settings.warmup_steps, settings.steps, end_value=0.01 * peak
        )

    def matrices(params):
        def kind(path, leaf):
            names = [entry.key for entry in path]
            hidden = "kernel" in names and any(name.startswith("block_") for name in names)
            return optax.contrib.MuonDimensionNumbers() if hidden and leaf.ndim == 2 else None

        return jax.tree_util.tree_map_with_path(kind, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            schedule(settings.matrix_lr),
            weight_decay=settings.weight_decay,
            adam_weight_decay=settings.weight_decay,
            adam_learning_rate=schedule(settings.lr),
            muon_weight_dimension_numbers=matrices,
        ),
    )


def evaluate(
    model, settings, tokens, trainable: dict, frozen: dict, stats: dict
) -> dict[str, float]:
    """Zero-shot accuracy in percent over all classes, by style, and the share of each attribute named rightly."""
    del frozen, stats
    # Whole, since every process asks them by itself.
    towers = sharding.whole(trainable["clip"])
    ids = tokens([TEMPLATE.format(name) for name in world.CLASSES])
    sentences = jax.jit(lambda towers, ids: clip.unit(clip.encode_text(towers, model, ids)))
    text = sentences(towers, ids)
    attributes = np.asarray(world.CLASS_ATTRIBUTES)
    predict = jax.jit(
        lambda towers, text, image: jnp.argmax(
            clip.unit(clip.encode_image(towers, model, clip.normalise(image, model))) @ text.T, -1
        )
    )
    result = {}
    for style in world.TRAIN_STYLES:
        chosen, real = [], []
        for start in range(0, settings.eval_scenes, settings.batch_size):
            scenes = world.render_batch(
                settings.seed,
                "validation",
                start,
                settings.batch_size,
                size=model.vision.image_size,
                styles=((style, 1.0),),
            )
            chosen.append(attributes[np.asarray(predict(towers, text, scenes["image"]))])
            real.append(np.stack([scenes[name] for name in data.ATTRIBUTES], axis=1))
        right = np.concatenate(chosen) == np.concatenate(real)
        result[f"zeroshot/{style}/percent"] = 100.0 * float(right.all(1).mean())
        for i, name in enumerate(data.ATTRIBUTES):
            result[f"{name}/{style}/percent"] = 100.0 * float(right[:, i].mean())
    return result
