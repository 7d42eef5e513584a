"""The prompts of a run: how they start, and the features of pictures and classes under them.

`prompts` is the trainable tree of a run, or its average (`average.judged`): "context" and "deep" {"positive", "negative"},
"visual" or "coupling", "meta", "projector", each where the learner has it (`learners`). Shapes: B pictures, C classes, S
prompt sets (positive, negative), J blocks, M vectors, d and w token widths of the text and the image tower, D embedding width.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax import clip
from fdbpl_jax import average, conditional, projector, text, towers, visual
from fdbpl_jax import config as configs
from fdbpl_jax import prompts as text_prompts

SIGNS = ("positive", "negative")
Prompts = Mapping[str, Any]

# Folded into the key of a run, whose own splits start the contexts: far from the numbers of those.
_FOLDS = {"deep": 1001, "visual": 1002, "coupling": 1003, "meta": 1004, "projector": 1005}


def init(
    config: configs.Config,
    student: clip.Clip,
    *,
    classes: int,
    named_width: int | None = None,
    key: PRNGKeyArray,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run learns, as it starts: (trainable arrays, statistics), float32.

    Args:
      config: learner and numbers.
      student: its token embeddings start the context; its widths are read.
      classes: C, for a context per class.
      named_width: width of the teacher's features, for a projector.
      key: of the run.

    Raises:
      PromptError: words or numbers that do not fit the student's towers.
    """
    learns, signs = config.learns, config.signs
    keys = {name: jax.random.fold_in(key, number) for name, number in _FOLDS.items()}
    tree: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    if signs:
        dual = "negative" in signs
        chosen = config.prompt
        if not learns.text:
            # Its number of vectors and words are the positive context's, which is not there to be checked.
            chosen = dataclasses.replace(chosen, context_init="")
        context = text_prompts.init_context(chosen, student, classes=classes, dual=dual, key=key)
        deep = text_prompts.init_deep(chosen, student, dual=dual, key=keys["deep"])
        tree["context"] = {sign: context[sign] for sign in signs}
        if deep:
            tree["deep"] = {sign: deep[sign] for sign in signs}
    if learns.coupled:
        tree["coupling"] = visual.init_coupling(config.prompt.depth, student, key=keys["coupling"])
    elif learns.visual:
        tree["visual"] = visual.init(config.visual, student, key=keys["visual"])
    if learns.conditional:
        tree["meta"] = conditional.init(student, key=keys["meta"])
    if learns.projector:
        assert named_width is not None
        width = student.config.projection_dim
        tree["projector"], stats["projector"] = projector.init(
            width, named_width, key=keys["projector"]
        )
    return (average.start(tree) if learns.average else tree), stats


def count(prompts: Prompts) -> int:
    """How many numbers are learned; averages of them do not count."""
    learned = {name: tree for name, tree in prompts.items() if name != average.NAME}
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(learned))


def class_features(
    params: dict,
    config: clip.ClipConfig,
    plan: text.Plan,
    prompts: Prompts,
    *,
    signs: Sequence[str] = SIGNS,
    dtype: Any,
) -> Float[Array, "S C D"]:
    """Unit-norm text features of every class under those of `signs` that are learned, positive first.

    Args:
      params: the student's; "text" is read.
      config: the student's.
      plan: of the classes.
      prompts: with a "context".
      signs: of SIGNS.
      dtype: what the tower computes in.
    """
    context, deep = prompts["context"], prompts.get("deep")
    chosen = [sign for sign in SIGNS if sign in signs and sign in context]
    stack = lambda tree: jnp.stack([tree[sign] for sign in chosen])
    further = None if deep is None else stack(deep)
    return text.class_features(params, config, plan, stack(context), dtype, further)


def features_by_picture(
    params: dict,
    config: clip.ClipConfig,
    plan: text.Plan,
    prompts: Prompts,
    features: Float[Array, "B D"],
    *,
    dtype: Any,
) -> Float[Array, "B C D"]:
    """Unit-norm text features of every class in each picture's own context (CoCoOp); arguments as in `class_features`.

    `features` are the pictures', of unit norm.
    """
    contexts = conditional.contexts(prompts["meta"], prompts["context"]["positive"], features)
    return text.class_features(params, config, plan, contexts, dtype)


def visual_tokens(prompts: Prompts) -> Float[Array, "J M w"] | None:
    """The learned tokens of the image tower, or what MaPLe makes of the text prompts; None where there are none."""
    if "coupling" not in prompts:
        return prompts.get("visual")
    layers = [prompts["context"]["positive"][None]]
    if "deep" in prompts:
        layers.append(prompts["deep"]["positive"])
    return visual.coupled(prompts["coupling"], jnp.concatenate(layers))


def picture_features(
    params: dict,
    config: clip.ClipConfig,
    image: Array,
    flip: Array,
    tokens: Float[Array, "J M w"] | None,
    dtype: Any,
) -> Float[Array, "B D"]:
    """The image tower on uint8 regions, mirrored where `flip` says so: float32, not of unit norm."""
    image = jnp.where(flip[:, None, None, None], image[:, :, ::-1], image)
    pixels = clip.normalise(image, config, jnp.dtype(dtype))
    if tokens is None:
        features = clip.encode_image(params, config, pixels)
        assert not isinstance(features, tuple)
    else:
        features = visual.encode(params, config, pixels, tokens)
    return features.astype(jnp.float32)


def student(
    model: clip.Clip, name: str, prompts: Prompts, stats: Mapping[str, Any], *, dtype: str
) -> towers.Student:
    """The student under the learned visual tokens and projector, where there are any; it judges whole pictures.

    Args:
      model: loaded.
      name: what the config calls it.
      prompts: what was learned.
      stats: the run's statistics, for a projector.
      dtype: of the image tower.
    """
    plain = towers.student(model, name, dtype=dtype)
    if visual_tokens(prompts) is None and "projector" not in prompts:
        return plain
    sharding, replicated = towers.local_shardings()
    own = {"vision": model.params["vision"], "prompts": dict(prompts), "stats": dict(stats)}
    own = jax.device_put(jax.tree.map(np.asarray, own), replicated)
    forward = functools.partial(_judged_features, config=model.config, dtype=plain.dtype)
    see = lambda pixels, flip: forward(own, *jax.device_put((pixels, flip), sharding))
    return dataclasses.replace(plain, features=see)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _judged_features(
    own: dict, pixels: Array, flip: Array, *, config: clip.ClipConfig, dtype: str
) -> Float[Array, "B D"]:
    prompts, params = own["prompts"], {"vision": own["vision"]}
    tokens = visual_tokens(prompts)
    features = picture_features(params, config, pixels, flip, tokens, dtype)
    if "projector" in prompts:
        features, _ = projector.apply(
            prompts["projector"], own["stats"]["projector"], features, train=False
        )
    return clip.unit(features)


def cosines_by_picture(
    tower: dict,
    config: clip.ClipConfig,
    plan: text.Plan,
    prompts: Prompts,
    features: Float[np.ndarray, "n D"],
    *,
    dtype: str,
    title: str = "",
    progress: bool = True,
) -> Float[np.ndarray, "n C"]:
    """Cosines of pictures with the classes in each picture's own context, some pictures at a time.

    Args:
      tower: the student's text tower, whole.
      config: the student's.
      plan: of the classes.
      prompts: with a meta-net.
      features: the pictures', of unit norm.
      dtype: what the tower computes in.
      title: what the progress bar says.
      progress: show it, on process 0.
    """
    import tqdm

    size = max(1, min(len(features), plan.max_tokens // max(1, plan.tokens)))
    run = _jitted_cosines(config, plan, dtype)
    rows = []
    # None: shown on a terminal only.
    quiet = None if progress and jax.process_index() == 0 else True
    bar = tqdm.tqdm(total=len(features), desc=title, unit="picture", disable=quiet, leave=False)
    with bar:
        for start in range(0, len(features), size):
            part = features[start : start + size]
            # One shape, compiled once.
            padded = np.pad(part, ((0, size - len(part)), (0, 0)), mode="edge")
            rows.append(np.asarray(run(tower, prompts, padded))[: len(part)])
            bar.update(len(part))
    return np.concatenate(rows)


@functools.lru_cache(maxsize=16)
def _jitted_cosines(config: clip.ClipConfig, plan: text.Plan, dtype: str) -> Any:
    def run(tower: dict, prompts: Prompts, features: Array) -> Array:
        classes = features_by_picture(
            {"text": tower}, config, plan, prompts, features, dtype=jnp.dtype(dtype)
        )
        return jnp.einsum("bd,bcd->bc", features, classes, precision=jax.lax.Precision.HIGHEST)

    return jax.jit(run)
