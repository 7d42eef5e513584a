"""Open-vocabulary segmentation with and without GBA (arXiv 2409.08468) as a task of the shared training loop.

One configuration, one loss function. The image tower is frozen (unless `clip_finetune` says otherwise), text rows are made
once, and a step runs tower, adapters and host on uint8 pictures. Shapes: B pictures, C classes (padded).
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.train import Aux, Params, Task, sharding
from core_jax.train.sharding import over_model
from gba_jax import config as configs
from gba_jax import data, datasets, evaluate, inputs, shifts, trained
from gba_jax.fill_bank import fill_bank
from gba_jax.inputs import Inputs, open_inputs
from gba_jax.model import Segmenter, run_queries, run_scores
from gba_jax.vocabulary import TextRows

# Leaves that weight decay acts on; norms, biases, gains, prompts and embeddings are spared.
_DECAYED = re.compile(r"kernel\d*|out")


def build(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Task:
    """The task of a configuration such as `configs/gba_world.py`.

    Raises:
      ValueError: unknown keys, wrong types, impossible values, or inputs that cannot be used; all of a kind at once.
    """
    opened = open_inputs(configs.read(config))
    settings = opened.config
    return Task(
        init=functools.partial(init, opened),
        loss=functools.partial(loss, opened.segmenter),
        train_data=functools.partial(train_data, opened),
        evaluate=functools.partial(judge, opened),
        optimizer=functools.partial(optimizer, settings),
        sharding_rules=(("(trainable|frozen/clip)/.*", over_model),),
        total_steps=settings.steps if settings.trained else 0,
        batch_ids=("image_id",),
        elastic=True,
        pins=opened.pins,
    )


def init(opened: Inputs, key: PRNGKeyArray) -> Params:
    """Fresh host and adapters on the opened tower; the host from `init_from` where one is named."""
    params = opened.segmenter.init(opened.clip.params, opened.text, key=key)
    if not opened.config.trained:
        return params
    trainable, stats = params.trainable, dict(params.stats)
    if opened.config.init_from:
        trainable = trained.start_from(opened.config.init_from, trainable)
    stats[trained.WORDS] = jnp.asarray(inputs.pack_words(opened.trained))
    if opened.config.adapters.fill_bank:
        stats["gba"] = stats["gba"] | {"style_bank": _filled(opened, trainable["gba"], key)}
    return Params(trainable=trainable, frozen=params.frozen, stats=stats)


def _filled(opened: Inputs, adapters: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """A style bank that is ready at the first step: styles of the training pictures."""
    # Whole batches on every process: all must start with the same bank.
    stream = train_data(opened, opened.config.seed, process_index=0, process_count=1)
    host = opened.segmenter
    assert host.gba is not None
    pictures = (batch["image"] for batch in stream)
    return fill_bank(host.backbone, opened.clip.params, host.gba, adapters, pictures, key=key)


def loss(
    segmenter: Segmenter,
    trainable: dict,
    frozen: dict,
    stats: dict,
    batch: Any,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Aux]:
    """The host's loss on one batch; see `gba_jax.losses` and the hosts."""
    value, new, metrics = segmenter.loss(trainable, frozen, stats, batch, key)
    size = jnp.asarray(batch["dropped"].shape[0], jnp.float32)
    metrics["dropped_segments"] = (jnp.sum(batch["dropped"]).astype(jnp.float32), size)
    return value, Aux(stats=stats | new, metrics=metrics)


def train_data(opened: Inputs, seed: int, **share: int) -> Any:
    """The endless stream of training batches; `share` as `data.train_data` has it, by default this process' slice."""
    settings = opened.config
    return data.train_data(
        opened.train,
        batch_size=settings.batch_size,
        size=settings.image_size,
        seed=seed,
        augment=settings.data.augment,
        slots=settings.data.slots,
        workers=settings.data.workers,
        **share,
    )


def learning_rate(config: configs.Config) -> optax.Schedule:
    """Linear warm-up, then a cosine to 0, or steps of 0.1 at 8/9 and 26/27 of the run (FC-CLIP's)."""
    after = config.steps - config.warmup
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(config.lr, max(1, after))
    else:
        places = {
            max(1, round(config.steps * part) - config.warmup): 0.1 for part in (8 / 9, 26 / 27)
        }
        rest = optax.piecewise_constant_schedule(config.lr, places)
    if not config.warmup:
        return rest
    return optax.join_schedules(
        [optax.linear_schedule(0.0, config.lr, config.warmup), rest], [config.warmup]
    )


def optimizer(config: configs.Config) -> optax.GradientTransformation:
    """AdamW on clipped gradients; host and tower have rates of their own."""
    rates = {"host": config.host_lr, "pyramid": config.host_lr, "clip": config.clip_lr, "gba": 1.0}
    times = lambda rate, tree: jax.tree.map(lambda x: x * rate, tree)
    scaled = lambda updates: {group: times(rates[group], x) for group, x in updates.items()}
    scale = optax.stateless(lambda updates, _: scaled(updates))  # pyright: ignore
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        scale,
        optax.scale_by_learning_rate(learning_rate(config)),
    )


def decayed(params: Any) -> Any:
    """Which leaves weight decay acts on."""
    last = lambda path: jax.tree_util.keystr(path[-1:], simple=True)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: bool(_DECAYED.fullmatch(last(path))) and x.ndim >= 2, params
    )


def judge(opened: Inputs, trainable: dict, frozen: dict, stats: dict) -> dict[str, float]:
    """The scores of every split of `data.judge`, as "split/name"; rates in percent, "split/shift_kind" under style shift."""
    settings, found = opened.config, {}
    params = sharding.whole(Params(trainable=trainable, frozen=frozen, stats=stats))
    params = jax.tree.map(_own, params)
    for number, split in enumerate(settings.data.judge):
        dataset = limited(inputs.read_dataset(settings, split), settings.data.judge_limit)
        words = dataset.vocabulary
        text = opened.rows(words)
        seen = opened.seen(words, len(text.class_mask))
        judge_one = functools.partial(
            evaluate.judge,
            dataset=dataset,
            text=text,
            seen=seen,
            plan=inputs.plan(settings, opened.clip.backbone),
            batch_size=settings.test.batch_size,
        )
        ask = functions(opened.segmenter, params, text, seen)
        scores = judge_one(**ask)
        if settings.data.shifts and number == 0:
            references = shifts.reference_set(opened.train)
            shifted = functools.partial(judge_one, references=references, **ask)
            suite = evaluate.judge_suite(lambda shift, ask=shifted: ask(shift=shift))
            scores |= {f"shift_{kind}": value for kind, value in suite.items()}
        counts = ("images",)
        found |= {
            f"{split}/{name}": float(value) if name in counts else 100.0 * float(value)
            for name, value in scores.items()
        }
        found[f"{split}/vocabulary"] = float(len(words.classes))
    return found


def result_lines(
    config: Mapping[str, Any], metrics: Mapping[str, float], pins: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The lines of results.jsonl (docs/workdir.md): one a judged split, rates in percent, None where nothing was scored."""
    settings, lines = configs.read(config), []
    for entry in settings.data.judge:
        name, colon, rest = entry.partition(":")
        found = {
            key.removeprefix(f"{entry}/"): None if math.isnan(value) else value
            for key, value in metrics.items()
            if key.startswith(f"{entry}/")
        }
        shift = {key[6:]: found.pop(key) for key in list(found) if key.startswith("shift_")}
        counts = {key: int(metrics[f"{entry}/{key}"]) for key in ("images", "vocabulary")}
        lines.append(
            {
                "task": "gba",
                "dataset": name if colon else settings.data.dataset,
                "split": rest if colon else entry,
                "host": settings.host,
                "adapters": settings.adapters.use,
                "clip": settings.clip,
                "clip_digest": pins["clip"],
                **found,
                **counts,
                "shift": shift or None,
            }
        )
    return lines


def functions(
    segmenter: Segmenter, params: Params, text: TextRows, seen: np.ndarray
) -> dict[str, Any]:
    """What a host is asked with: "score" of pictures, or "queries" where it has some; jitted."""
    mask = jnp.asarray(seen)
    if segmenter.host == "masks":
        ask = functools.partial(run_queries, segmenter, params)
        return {"score": None, "queries": lambda images: ask(images, text, mask)}
    ask = functools.partial(run_scores, segmenter, params)
    return {"score": lambda images: ask(images, text, mask)}


def _own(x: Any) -> Any:
    """The process' own copy of an array that is the same everywhere: each judges its pictures by itself."""
    return x if jax.process_count() == 1 else jnp.asarray(np.asarray(x.addressable_data(0)))


def limited(dataset: datasets.Dataset, most: int) -> datasets.Dataset:
    """The first `most` pictures of a data set; all for 0."""
    return dataclasses.replace(dataset, items=dataset.items[:most]) if most else dataset
