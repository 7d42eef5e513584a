"""Class features: the learned prompts through the frozen text tower, as cheaply as causality allows.

Three ways, equal in value and gradient:
- "prefix": the context is shared and stands in front, so [SOS] + context + fixed words run once per prompt set and each
  class runs only its own suffix, in at most three buckets of similar length;
- "trimmed": all tokens per class, cut to the longest prompt;
- "full": all positions the tower has. Only for comparison.

Deep prompts (MaPLe, arXiv 2210.03117) replace the states of the context at the entrance of further blocks. They are the
same for every class, so under a shared prefix they live in the prefix alone.

Shapes: S prompt sets (positive, negative), C classes, L tokens, P prefix tokens, M context vectors, J blocks with vectors
of their own, D embedding width.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int

from core_jax import clip
from fdbpl_jax import datasets, towers
from fdbpl_jax.prompts import Layout

MODES = ("full", "trimmed", "prefix")
MAX_BUCKETS = 3
# About 0.34 MB of activations each in float32 at ViT-B text size: 5.5 GB for the backward pass.
MAX_TOKENS = 16_384
_CLASS_AXES = ("data", "model")


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Sentences (or suffixes) of similar length, padded to the longest of them; traced where classes are chosen in a step.

    Attributes:
      rows: which classes these are.
      ids, slots: as in `prompts.Layout`, behind the prefix in mode "prefix".
      end: position of the end token within `ids`.
    """

    rows: Int[np.ndarray, "c"] | Int[Array, "c"]
    ids: Int[np.ndarray, "c L"] | Int[Array, "c L"]
    slots: Int[np.ndarray, "c L"] | Int[Array, "c L"]
    end: Int[np.ndarray, "c"] | Int[Array, "c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How the features of one class list are computed; static.

    Attributes:
      mode: one of MODES.
      buckets: together they hold every class once.
      start: id of the start token, the first of the prefix.
      words: ids of the fixed words behind the context, the last of the prefix; empty in other modes than "prefix".
      order: position of class c in the concatenated buckets.
      max_tokens: suffix tokens per device beyond which classes are processed in chunks.
    """

    mode: str
    buckets: tuple[Bucket, ...]
    start: int
    words: tuple[int, ...]
    order: Int[np.ndarray, "C"]
    max_tokens: int = MAX_TOKENS

    @property
    def tokens(self) -> int:
        """Tokens the tower runs per prompt set, padding included, the shared prefix left out."""
        return sum(bucket.ids.size for bucket in self.buckets)


def split_lengths(lengths: ArrayLike, buckets: int = MAX_BUCKETS) -> tuple[int, ...]:
    """The bucket sizes, in tokens, that minimise padding.

    Args:
      lengths: of every sentence.
      buckets: how many sizes at most.

    Returns:
      Ascending sizes; a sentence goes into the first that holds it. The fewest that reach the minimum.
    """
    sizes, counts = np.unique(np.asarray(lengths), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    best: tuple[int, tuple[int, ...]] | None = None
    for number in range(1, min(buckets, len(sizes)) + 1):
        for cuts in itertools.combinations(range(1, len(sizes)), number - 1):
            edges = (0, *cuts, len(sizes))
            cost = sum(
                int(sizes[high - 1]) * int(below[high] - below[low])
                for low, high in itertools.pairwise(edges)
            )
            if best is None or cost < best[0]:
                best = cost, tuple(int(sizes[high - 1]) for high in edges[1:])
    assert best is not None
    return best[1]


def choose_mode(mode: str, shared: bool) -> str:
    """The way that is taken: "auto" is "prefix" where all sentences share their context in front, else "trimmed".

    Raises:
      ValueError: an unknown mode.
    """
    if mode == "auto":
        return "prefix" if shared else "trimmed"
    if mode not in MODES:
        raise ValueError(f"prompt.text_mode is {mode!r}: expected auto or one of {MODES}")
    return mode


def plan(
    layout: Layout,
    *,
    mode: str = "auto",
    class_specific: bool = False,
    context_length: int = 77,
    max_tokens: int = MAX_TOKENS,
) -> Plan:
    """Choose the way and lay out the buckets.

    Args:
      layout: the sentences.
      mode: "auto" takes "prefix" where it is valid and "trimmed" elsewhere.
      class_specific: every class has a context of its own.
      context_length: length of "full".
      max_tokens: chunk size, in tokens per device.

    Raises:
      ValueError: an unknown mode, or "prefix" where sentences share no prefix.
    """
    shared = layout.front > 0 and not class_specific
    mode = choose_mode(mode, shared)
    if mode == "prefix" and not shared:
        raise ValueError(
            "prompt.text_mode=prefix needs one context for all classes that stands in front of the class name, but "
            f"class_specific is {class_specific} and the sentences share {layout.front} tokens: use auto or trimmed"
        )
    count = len(layout.ids)
    if mode != "prefix":
        length = context_length if mode == "full" else layout.ids.shape[1]
        extra = ((0, 0), (0, length - layout.ids.shape[1]))
        ids, slots = (np.pad(a, extra, mode="edge") for a in (layout.ids, layout.slots))
        order = np.arange(count, dtype=np.int32)
        buckets = (Bucket(order, ids, slots, layout.end),)
        return Plan(mode, buckets, int(layout.ids[0, 0]), (), order, max_tokens)
    end = layout.end - layout.front
    buckets, low = [], 0
    for size in split_lengths(end + 1):
        rows = np.flatnonzero((end + 1 > low) & (end + 1 <= size)).astype(np.int32)
        part = (slice(None), slice(layout.front, layout.front + size))
        ids, slots = layout.ids[rows][part], layout.slots[rows][part]
        buckets.append(Bucket(rows, ids, slots, end[rows]))
        low = size
    order = np.argsort(np.concatenate([bucket.rows for bucket in buckets])).astype(np.int32)
    start, *shared_ids = layout.ids[0, : layout.front].tolist()
    words = [one for one, slot in zip(shared_ids, layout.slots[0, 1 : layout.front]) if slot < 0]
    return Plan(mode, tuple(buckets), start, tuple(words), order, max_tokens)


def class_features(
    params: dict,
    config: clip.ClipConfig,
    plan: Plan,
    context: Float[Array, "S M d"] | Float[Array, "S C M d"],
    dtype: Any = jnp.float32,
    deep: Float[Array, "S J-1 M d"] | None = None,
) -> Float[Array, "S C D"]:
    """Unit-norm text features of every class under every context, in class order.

    Where the parameters lie on a mesh, the class axis is cut over all of its devices, inside jit, and the features are
    gathered again.

    Args:
      params: the student's parameters; "text" is read.
      config: the student's.
      plan: from `plan`.
      context: one set of vectors per prompt set, shared or per class.
      dtype: what the tower computes in.
      deep: vectors that replace those of the context at the entrance of blocks 1 to J - 1, the same for every class.

    Returns:
      float32 features.

    Raises:
      ValueError: deep prompts of another shape, or for more blocks than the tower has.
    """
    _check_deep(config, context, deep)
    mesh = _mesh(params)
    devices = 1 if mesh is None else mesh.size
    encode = _encoder(params, config, plan, context, deep, dtype, mesh)
    parts = []
    for bucket in plan.buckets:
        inputs: dict[str, Any] = {"ids": bucket.ids, "slots": bucket.slots, "end": bucket.end}
        if context.ndim == 4:
            inputs["context"] = jnp.moveaxis(context, 1, 0)
        limit = max(1, plan.max_tokens // (context.shape[0] * bucket.ids.shape[1])) * devices
        chunked = _in_chunks(encode, inputs, len(bucket.rows), limit, devices)
        # Whole on every device before anything meets the batch, which is cut over the devices in another way.
        parts.append(_placed(chunked, mesh, PartitionSpec())[:, : len(bucket.rows)])
    features = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    if len(parts) > 1:
        features = jnp.take(features, plan.order, axis=1)
    return clip.unit(features.astype(jnp.float32))


def _check_deep(config: clip.ClipConfig, context: Array, deep: Array | None) -> None:
    if deep is None:
        return
    sets, vectors, width = context.shape[0], context.shape[-2], context.shape[-1]
    if deep.ndim != 4 or (deep.shape[0], *deep.shape[2:]) != (sets, vectors, width):
        raise ValueError(
            f"deep prompts have shape {deep.shape}, but this context needs ({sets}, J - 1, {vectors}, {width})"
        )
    if deep.shape[1] > config.text.layers - 1:
        raise ValueError(
            f"deep prompts for {deep.shape[1]} blocks behind the first, but this text tower has "
            f"{config.text.layers - 1}: set prompt.depth to {config.text.layers} at most"
        )


def _deeper(
    deep: Array | None, dtype: Any, put: Callable[[Array, Array], Array]
) -> Callable[[str, Array], Array]:
    """The tap that calls put(vectors (S, M, d), states) behind every block whose successor has vectors of its own."""
    count = 0 if deep is None else deep.shape[1]
    vectors = {f"block_{i}": i for i in range(count)}

    def tap(name: str, x: Array) -> Array:
        if deep is None or name not in vectors:
            return x
        return put(deep[:, vectors[name]].astype(dtype), x)

    return tap


def _encoder(
    params: dict,
    config: clip.ClipConfig,
    plan: Plan,
    context: Array,
    deep: Array | None,
    dtype: Any,
    mesh: AbstractMesh | None,
) -> Callable[[dict[str, Array]], Array]:
    """The function that maps a slice of classes to (S, c, D)."""
    sets = context.shape[0]
    classes = PartitionSpec(_CLASS_AXES)

    if plan.mode == "prefix":
        ids = jnp.asarray([[plan.start, *plan.words]] * sets, jnp.int32)
        fixed = clip.embed_tokens(params, config, ids).astype(dtype)
        place = lambda vectors, x, rest: jnp.concatenate([x[:, :1], vectors, x[:, rest:]], axis=1)
        prefix = place(context.astype(dtype), fixed, 1)
        behind = 1 + context.shape[1]
        tap = _deeper(deep, dtype, lambda vectors, x: place(vectors, x, behind))
        past = clip.encode_prefix(params, config, prefix, tap=tap)

        def encode(part: dict[str, Array]) -> Array:
            suffix = clip.embed_tokens(params, config, part["ids"]).astype(dtype)
            suffix = _placed(suffix, mesh, classes)
            return clip.encode_with_prefix(params, config, past, suffix, part["end"])

        return encode

    def encode(part: dict[str, Array]) -> Array:
        ids, slots = part["ids"], part["slots"]
        words = clip.embed_tokens(params, config, ids).astype(dtype)
        where, learned = jnp.maximum(slots, 0), (slots >= 0)[None, :, :, None]
        if "context" in part:
            own = jnp.moveaxis(part["context"], 1, 0).astype(dtype)
            vectors = jnp.take_along_axis(own, where[None, :, :, None], axis=2)
        else:
            vectors = jnp.take(context.astype(dtype), where, axis=1)
        embedded = jnp.where(learned, vectors, words[None])
        # Classes before sets: merged that way, the axis stays cut over the devices.
        embedded = _placed(jnp.moveaxis(embedded, 0, 1), mesh, classes)
        embedded = embedded.reshape(-1, *embedded.shape[2:])

        def put(vectors: Array, x: Array) -> Array:
            rows = jnp.moveaxis(jnp.take(vectors, where, axis=1), 0, 1)
            return jnp.where(learned[0, :, None], rows, x.reshape(rows.shape)).reshape(x.shape)

        end = jnp.repeat(part["end"], sets)
        tap = _deeper(deep, dtype, put)
        features = clip.encode_embedded(params, config, embedded, end, tap=tap)
        return jnp.moveaxis(features.reshape(-1, sets, features.shape[-1]), 1, 0)

    return encode


def _in_chunks(
    encode: Callable[[dict[str, Array]], Array],
    inputs: dict[str, Any],
    count: int,
    limit: int,
    devices: int,
) -> Array:
    """Apply `encode` to `count` classes, at most `limit` at a time, padded to whole devices: (S, >= count, D)."""
    chunks = -(-count // limit)
    size = -(-count // (chunks * devices)) * devices

    def pad(x: Array) -> Array:
        return jnp.pad(jnp.asarray(x), [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1))

    inputs = jax.tree.map(pad, inputs)
    if chunks == 1:
        return encode(inputs)
    # Each chunk's activations are recomputed in the backward pass: memory stays that of one chunk.
    inputs = jax.tree.map(lambda x: x.reshape(chunks, size, *x.shape[1:]), inputs)
    features = jnp.moveaxis(jax.lax.map(jax.checkpoint(encode), inputs), 0, 1)
    return features.reshape(features.shape[0], -1, features.shape[-1])


def _mesh(params: dict) -> AbstractMesh | None:
    """The mesh that the parameters of a traced function lie on, if it has several devices."""
    leaf = params["text"]["token_embedding"]
    if not isinstance(leaf, core.Tracer):
        return None
    mesh = jax.typeof(leaf).sharding.mesh
    return mesh if set(_CLASS_AXES) <= set(mesh.axis_names) and mesh.size > 1 else None


def _placed(x: Array, mesh: AbstractMesh | None, spec: PartitionSpec) -> Array:
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def template_features(
    model: clip.Clip, names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "C D"]:
    """Zero-shot text features: the class name in each template, unit norm, averaged over templates, unit norm.

    Args:
      model: any CLIP.
      names: C class names.
      templates: sentences with one "{}".

    Returns:
      float32, in class order.
    """
    total = sum(towers.text_features(model, datasets.texts(names, one)) for one in templates)
    return total / np.linalg.norm(total, axis=-1, keepdims=True)
