"""CLIP's towers as the functions that a lookup is built from: uint8 regions in, features out, logits of these.

A `Teacher` or `Student` also carries what a lookup must pin of it: name, digest of the weights, dtype, logit scale,
image size and normalisation.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from core_jax import clip, world
from core_jax.train.settings import compute_dtype
from fdbpl_jax import datasets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model that labels regions. Teachers of several label spaces share one image tower: `features`.

    Attributes:
      name: as the config has it.
      digest: of its weights.
      dtype: what its tower computes in; softmax and logits are always float32.
      logit_scale: factor of the cosines.
      image_size: side of its pictures, in pixels.
      mean, std: of the normalisation, for the manifest.
      features: (regions u8 (B, S, S, 3), flip bool (B,)) -> unit-norm features f32 (B, D).
      label: those features -> logits f32 (B, C), scale included: the label space.
    """

    name: str
    digest: str
    dtype: str
    logit_scale: float
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    features: Callable[[np.ndarray, np.ndarray], Array]
    label: Callable[[Array], Array]

    def logits(
        self, pixels: UInt8[np.ndarray, "B S S 3"], flip: Bool[np.ndarray, " B"]
    ) -> Float[Array, "B C"]:
        """The logits of regions, scale included."""
        return self.label(self.features(pixels, flip))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """A model whose features of every region are stored; attributes as in `Teacher`, `width` is D.

    `features`: (regions u8 (B, S, S, 3), flip bool (B,)) -> unit-norm features f32 (B, D).
    """

    name: str
    digest: str
    dtype: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int
    features: Callable[[np.ndarray, np.ndarray], Array]


def load(name: str) -> clip.Clip:
    """Opens the model of a config: a folder, a hub id, or the embedded pair's "world:teacher", "world:student"."""
    if name.startswith("world:"):
        return clip.load(world.pair(name.removeprefix("world:")))
    return clip.load(name)


def teacher(
    model: clip.Clip, name: str, classes: Sequence[str], template: str, *, dtype: str = "auto"
) -> Teacher:
    """A CLIP model as a zero-shot teacher of a class list; its text features are made once, in float32.

    Args:
      model: loaded.
      name: what the config calls it.
      classes: the training label space, in label order.
      template: the sentence a class name is put into.
      dtype: of the image tower: auto, float32 or bfloat16.
    """
    dtype = compute_dtype(dtype)
    return Teacher(
        features=_image_tower(model, dtype),
        label=label_space(model, classes, template),
        logit_scale=_logit_scale(model),
        **_pins(model, name, dtype),
    )


def label_space(
    model: clip.Clip, classes: Sequence[str], template: str
) -> Callable[[Float[Array, "B D"]], Float[Array, "B C"]]:
    """`Teacher.label` of a class list; `dataclasses.replace(teacher, label=...)` labels in another one."""
    text = text_features(model, datasets.texts(classes, template))
    _, replicated = local_shardings()
    return functools.partial(_logits, jax.device_put(text, replicated), _logit_scale(model))


def student(model: clip.Clip, name: str, *, dtype: str = "auto") -> Student:
    """A CLIP model's image tower as the source of stored features; arguments as in `teacher`."""
    dtype = compute_dtype(dtype)
    return Student(
        features=_image_tower(model, dtype),
        width=model.config.projection_dim,
        **_pins(model, name, dtype),
    )


def text_features(model: clip.Clip, sentences: Sequence[str]) -> Float[np.ndarray, "C D"]:
    """Unit-norm float32 text features."""
    features = clip.zeroshot.text_features(model, list(sentences))
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def _pins(model: clip.Clip, name: str, dtype: str) -> dict[str, Any]:
    return {
        "name": name,
        "digest": clip.weights_digest(model.params),
        "dtype": dtype,
        "image_size": model.config.vision.image_size,
        "mean": tuple(model.config.mean),
        "std": tuple(model.config.std),
    }


def _logit_scale(model: clip.Clip) -> float:
    return float(jnp.exp(jnp.asarray(model.params["logit_scale"], jnp.float32)))


def _image_tower(model: clip.Clip, dtype: str) -> Callable[[np.ndarray, np.ndarray], Array]:
    sharding, replicated = local_shardings()
    # On the devices from its first batch on: a run that finds all labels there never needs the room.
    vision = functools.cache(lambda: jax.device_put(model.params["vision"], replicated))
    forward = functools.partial(_features, config=model.config, dtype=dtype)
    return lambda pixels, flip: forward(vision(), *jax.device_put((pixels, flip), sharding))


def local_shardings() -> tuple[jax.NamedSharding, jax.NamedSharding]:
    """Batches split over this process' own devices, weights on each: a build has no collectives."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    spec = jax.sharding.PartitionSpec
    return jax.NamedSharding(mesh, spec("data")), jax.NamedSharding(mesh, spec())


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _features(
    vision: dict,
    pixels: UInt8[Array, "B S S 3"],
    flip: Bool[Array, " B"],
    *,
    config: clip.ClipConfig,
    dtype: str,
) -> Float[Array, "B D"]:
    seen = jnp.where(flip[:, None, None, None], pixels[:, :, ::-1], pixels)
    normalised = clip.normalise(seen, config, jnp.dtype(dtype))
    features = clip.encode_image({"vision": vision}, config, normalised)
    return clip.unit(features.astype(jnp.float32))


@jax.jit
def _logits(
    text: Float[Array, "C D"], scale: float, features: Float[Array, "B D"]
) -> Float[Array, "B C"]:
    # Labels are compared to 1e-2 in probability after a factor of 100: no bfloat16 or TF32 shortcut here.
    return scale * jnp.matmul(features, text.T, precision=jax.lax.Precision.HIGHEST)
