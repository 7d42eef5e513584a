"""Lookups whose teacher costs nothing: what is left of a build is decoding, cropping, drawing and writing."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from core_jax import world
from fdbpl_jax import build as builds
from fdbpl_jax import datasets, towers
from fdbpl_jax import plan as plans

_FILES_OF_A_FOLDER = 1_000


def draw(root: pathlib.Path, pictures: int) -> None:
    """Draw pictures of the embedded world, 64 px, where `build` looks for them."""
    for index in range(pictures):
        path = root / picture_path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(world.render(0, "bench", index).image).save(path)


def picture_path(index: int) -> str:
    """Where a picture lies in the picture folder."""
    return f"{index // _FILES_OF_A_FOLDER:04d}/{index:07d}.png"


def build(
    folder: pathlib.Path,
    root: pathlib.Path,
    pictures: int,
    *,
    regions: int,
    classes: int,
    top_k: int,
    image_size: int,
) -> pathlib.Path:
    """Label the regions of pictures with a random linear map of their mean colours.

    Args:
      folder: receives the lookup.
      root: the picture folder; its first `pictures` by `picture_path` are labelled.
      pictures: n.
      regions: R per picture.
      classes: C.
      top_k: k classes stored per region.
      image_size: side that regions are resized to, in pixels.

    Returns:
      `folder`.
    """
    names = tuple(f"class {index}" for index in range(classes))
    items = [
        datasets.Item(path=picture_path(index), label=index % classes, name=names[index % classes])
        for index in range(pictures)
    ]
    dataset = datasets.Dataset(
        name="bench",
        root=root,
        train=items,
        val=(),
        test=(),
        classes=names,
        template="a {}.",
    )
    settings = plans.Settings(regions=regions, top_k=top_k)
    return builds.build(folder, dataset, teacher(classes, image_size), settings)


def teacher(classes: int, image_size: int) -> towers.Teacher:
    """A random linear map of a region's mean colour: C logits that cost next to nothing.

    Args:
      classes: C.
      image_size: side of its pictures, in pixels.
    """
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, classes)), jnp.float32)

    @jax.jit
    def features(pixels: jax.Array, flip: jax.Array) -> jax.Array:
        del flip  # a mean does not see it
        colours = jnp.mean(pixels.astype(jnp.float32) / 255.0, axis=(1, 2)) - 0.5
        return colours / jnp.maximum(jnp.linalg.norm(colours, axis=-1, keepdims=True), 1e-6)

    return towers.Teacher(
        name="mean colour",
        digest="0" * 64,
        dtype="float32",
        logit_scale=10.0,
        image_size=image_size,
        mean=(0.5,) * 3,
        std=(1.0,) * 3,
        features=features,
        label=jax.jit(lambda found: 10.0 * found @ weights),
    )
