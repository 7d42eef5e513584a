"""The pictures and captions of `contrastive`: rendered batches, their words, and what is done to them on the device."""

import atexit
import dataclasses
import functools
import pathlib
import shutil
import tempfile
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from core_jax import clip, world

ATTRIBUTES = {
    "shape": len(world.SHAPES),
    "colour": len(world.COLOURS),
    "texture": len(world.TEXTURES),
}
# Ids of the words start behind the four special tokens of `clip.word_level`.
FIRST_WORD = 4
# Longest caption, start and end included, rounded up: shorter than the context length to save time.
CAPTION_TOKENS = 14
# Words beyond the captions' own that prompts and templates are written with.
EXTRA_WORDS = [
    "an",
    "and",
    "background",
    "bright",
    "colored",
    "dark",
    "drawing",
    "large",
    "no",
    "not",
    "of",
    "on",
    "shape",
    "shows",
    "sketch",
    "small",
    "some",
    "with",
]


def vocabulary() -> tuple[str, ...]:
    """Every word of the captions and the words that prompts may need beside them, sorted."""
    return tuple(sorted({*world.vocabulary(), *EXTRA_WORDS}))


def make_tokenizer(model: clip.ClipConfig) -> clip.Tokenizer:
    """The word-level tokenizer of the embedded world, in a folder of its own that lives as long as the program."""
    return clip.Tokenizer(_tokenizer_folder(), model.text)


@functools.cache
def _tokenizer_folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="world-tokenizer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tokenizer.json").write_bytes(clip.word_level(vocabulary()))
    return folder


def train_data(
    tokens: clip.Tokenizer, *, image_size: int, batch_size: int, steps: int, seed: int
) -> Any:
    """The stream of batches, this process' slices of it; it repeats after `steps` of them.

    Args:
      tokens: the tokenizer of the captions.
      image_size: side of the pictures in pixels.
      batch_size: B, over all processes.
      steps: different batches.
      seed: of the world.

    Raises:
      ValueError: the processes cannot share a batch evenly.
    """
    if batch_size % jax.process_count():
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of {jax.process_count()} processes"
        )
    source = Batches(
        tokens=tokens,
        seed=seed,
        image_size=image_size,
        count=batch_size // jax.process_count(),
        steps=steps,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.source(source).repeat().to_iter_dataset(options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """Batch i of the pre-training stream: rendered, captioned and tokenised when asked for, never stored."""

    tokens: clip.Tokenizer
    seed: int
    image_size: int
    count: int
    steps: int
    process: int
    processes: int

    def __len__(self) -> int:
        return self.steps

    def __repr__(self) -> str:
        # grain compares this when an iterator is restored: nothing that differs between machines.
        place = f"{self.process}/{self.processes}"
        return (
            f"Batches(seed={self.seed}, size={self.image_size}, count={self.count}, slice={place})"
        )

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = (int(index) * self.processes + self.process) * self.count
        scenes = world.render_batch(
            self.seed, "pretrain", start, self.count, size=self.image_size, held_out=world.HELD_OUT
        )
        attributes = [scenes[name] for name in ATTRIBUTES]
        said = world.captions(self.seed, "pretrain", start, *attributes)
        return {
            "image": scenes["image"],
            "mask": scenes["mask"],
            "ids": self.tokens(said.texts, CAPTION_TOKENS),
            "said": np.stack([getattr(said, name) for name in ATTRIBUTES], axis=1),
            "index": np.arange(start, start + self.count, dtype=np.int32),
            **dict(zip(ATTRIBUTES, attributes, strict=True)),
        }


def augment(
    image: UInt8[Array, "B S S 3"],
    mask: Bool[Array, "B S S"],
    share: float,
    scale: tuple[float, float],
    *,
    key: Array,
) -> tuple[UInt8[Array, "B S S 3"], Bool[Array, "B S S"]]:
    """Random flips, and for a share of the pictures a random square crop resized back, mask alike.

    Args:
      image: the pictures.
      mask: where their object is.
      share: of pictures that are cropped.
      scale: smallest and largest side of a crop, relative to the picture's.
      key: random key.

    Returns:
      Pictures and masks.
    """
    count, size = mask.shape[:2]
    flip_key, crop_key, side_key, place_key = jax.random.split(key, 4)
    side = jax.random.uniform(side_key, (count,), minval=scale[0], maxval=scale[1])
    side = jnp.where(jax.random.uniform(crop_key, (count,)) < share, side, 1.0)
    corner = jax.random.uniform(place_key, (count, 2)) * (1.0 - side)[:, None]
    flip = jax.random.bernoulli(flip_key, 0.5, (count,))

    def one(picture, side, corner, flip):
        picture = jnp.where(flip, picture[:, ::-1], picture)
        zoom = jnp.stack([1.0 / side, 1.0 / side])
        return jax.image.scale_and_translate(
            picture, (size, size, 4), (0, 1), zoom, -corner * size * zoom, method="linear"
        )

    both = jnp.concatenate([image, mask[..., None].astype(jnp.uint8) * np.uint8(255)], axis=-1)
    both = jax.vmap(one)(both.astype(jnp.float32), side, corner, flip)
    return jnp.round(both[..., :3]).astype(jnp.uint8), both[..., 3] > 127.5


def patch_cells(mask: Bool[Array, "B S S"], patch: int) -> Float[Array, "B N p"]:
    """The mask cut into patches, row-major, each flattened to its p = patch^2 pixels of 0 or 1."""
    count, size = mask.shape[:2]
    grid = size // patch
    cells = mask.reshape(count, grid, patch, grid, patch).swapaxes(2, 3)
    return cells.reshape(count, grid * grid, patch * patch).astype(jnp.float32)


def choose_patches(cells: Float[Array, "B N p"], count: int, *, key: Array) -> Int[Array, "B K"]:
    """K random patches of each picture, those that touch the object before any other."""
    touched = jnp.any(cells > 0, axis=-1).astype(jnp.float32)
    order = touched + jax.random.uniform(key, cells.shape[:2])
    return jax.lax.top_k(order, count)[1]
