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
from jaxtyping import Array, Bool, Float, Int

from core_jax import clip, world
from core_jax.train import contrastive_data as data
from core_jax.train.task import Aux, Batch, Params, Task

TEMPLATE = "a photo of a {}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Everything `configs/world_clip.py` can set; learning rates are per step, shares in [0, 1]."""

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


def build(config: ml_collections.ConfigDict) -> Task:
    """The pre-training task of `configs/world_clip.py`.

    Raises:
      TypeError: a key of the task's own is missing from the configuration.
    """
    settings = read_config(config)
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
        sharding_rules=((r".*", jax.sharding.PartitionSpec()),),
        total_steps=settings.steps,
        batch_ids=("index",),
        elastic=True,
    )


def read_config(config: ml_collections.ConfigDict) -> ContrastiveConfig:
    """The task's own keys of a configuration.

    Raises:
      TypeError: some are missing; all are named.
    """
    fields = [f.name for f in dataclasses.fields(ContrastiveConfig)]
    missing = [name for name in fields if name not in config]
    if missing:
        raise TypeError(f"the contrastive configuration lacks {', '.join(missing)}")
    return ContrastiveConfig(**{name: config.to_dict()[name] for name in fields})


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
        vision["position_embedding"]
        .at[1:]
        .set(sincos_positions(model.vision.grid, model.vision.width))
    )
    width = model.vision.width
    pixels = model.vision.patch_size**2
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
    """Contrastive loss plus the weighted auxiliary losses; see the module's docstring.

    Most steps see only `patches_kept` patches of a picture (those of the object first), the others all of them.
    """
    del frozen
    augment_key, keep_key, full_key = jax.random.split(key, 3)
    image, mask = data.augment(
        batch["image"], batch["mask"], settings.crop_share, settings.crop_scale, key=augment_key
    )
    pixels = clip.normalise(image, model)
    cells = data.patch_cells(mask, model.vision.patch_size)

    def some(trainable):
        keep = data.choose_patches(cells, settings.patches_kept, key=keep_key)
        kept = jnp.take_along_axis(cells, keep[..., None], axis=1)
        return losses(model, settings, trainable, pixels, kept, batch, keep)

    def every(trainable):
        return losses(model, settings, trainable, pixels, cells, batch, None)

    full = jax.random.bernoulli(full_key, settings.full_share)
    total, values = jax.lax.cond(full, every, some, trainable)
    one = jnp.ones((), jnp.float32)
    return total, Aux(stats=stats, metrics={name: (value, one) for name, value in values.items()})


def losses(
    model: clip.ClipConfig,
    settings: ContrastiveConfig,
    trainable: dict,
    pixels: Float[Array, "B S S 3"],
    cells: Float[Array, "B K p"],
    batch: Batch,
    keep: Int[Array, "B K"] | None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum and its parts, on the patches `keep`, whose pixels of the object are `cells`."""
    towers, heads = trainable["clip"], trainable["heads"]
    feature, taps = clip.encode_image(towers, model, pixels, taps=True, keep=keep)
    text = clip.encode_text(towers, model, batch["ids"])
    scale = jnp.minimum(jnp.exp(towers["logit_scale"]), 100.0)
    logits = scale * clip.unit(feature) @ clip.unit(text).T
    real = jnp.stack([batch[name] for name in data.ATTRIBUTES], axis=1)
    said = batch["said"][:, None]
    describes = jnp.all((said < 0) | (said == real[None]), axis=-1)
    values = {
        "contrast": 0.5
        * (several_positives(logits, describes.T) + several_positives(logits.T, describes)),
        "attribute": jnp.zeros(()),
    }
    for name in data.ATTRIBUTES:
        guess = _head(heads[f"feature_{name}"], feature)
        values["attribute"] += optax.softmax_cross_entropy_with_integer_labels(
            guess, batch[name]
        ).mean()
        values[f"accuracy/{name}"] = jnp.mean(
            (jnp.argmax(guess, -1) == batch[name]).astype(jnp.float32)
        )
    values["outline"], values["dense"] = dense_losses(heads, taps[-1][:, 1:], cells, batch)
    total = (
        values["contrast"]
        + settings.attribute_weight * values["attribute"]
        + settings.outline_weight * values["outline"]
        + settings.dense_weight * values["dense"]
    )
    return total, values


def several_positives(
    logits: Float[Array, "B N"], positive: Bool[Array, "B N"]
) -> Float[Array, ""]:
    """Cross-entropy of every row against the uniform distribution over its positives (at least one), mean over rows."""
    positive = positive.astype(logits.dtype)
    target = positive / jnp.sum(positive, axis=-1, keepdims=True)
    return optax.softmax_cross_entropy(logits, target).mean()


def dense_losses(
    heads: dict, tokens: Float[Array, "B K width"], cells: Float[Array, "B K p"], batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What every patch token must tell.

    Returns:
      (binary cross-entropy of which pixels of the patch are the object's, cross-entropy of the object's attributes
      weighted by its share of the patch).
    """
    outline = optax.sigmoid_binary_cross_entropy(_head(heads["patch_mask"], tokens), cells).mean()
    share = cells.mean(-1)
    attributes = jnp.zeros(())
    for name in data.ATTRIBUTES:
        label = jnp.broadcast_to(batch[name][:, None], share.shape)
        error = optax.softmax_cross_entropy_with_integer_labels(
            _head(heads[f"patch_{name}"], tokens), label
        )
        attributes += jnp.sum(error * share) / jnp.maximum(jnp.sum(share), 1.0)
    return outline, attributes


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
    towers = trainable["clip"]
    ids = tokens([TEMPLATE.format(name) for name in world.CLASSES])
    text = clip.unit(clip.encode_text(towers, model, ids))
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


def _head(head: dict, x: Array) -> Array:
    return x @ head["kernel"] + head["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
