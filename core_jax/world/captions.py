"""Captions of classification scenes from a few templates, attributes sometimes left out.

A caption describes every image that has the attributes it mentions, so the contrastive loss may count several positives
in a row: `Captions.describes` gives that matrix.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from core_jax.world import attributes as attrs
from core_jax.world import words

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a {}.",
    "{}",
    "a picture of a {}.",
    "an image of one {}.",
    "there is a {} in the picture.",
    "a scene with a {}.",
    "this is a {}.",
)
# (share, shape, colour, texture): which attributes a caption mentions.
_MENTIONS = (
    (0.55, True, True, True),
    (0.10, True, True, False),
    (0.10, True, False, True),
    (0.13, True, False, False),
    (0.06, False, True, True),
    (0.03, False, True, False),
    (0.03, False, False, True),
)
# Stands for the shape when it is left out.
NOUN = "object"
_SLOTS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions with the attributes that they mention, -1 where left out.

    Attributes:
      texts: the captions, B of them.
      shape: index into SHAPES or -1, int32 [B].
      colour: index into COLOURS or -1, int32 [B].
      texture: index into TEXTURES or -1, int32 [B].
    """

    texts: list[str]
    shape: Int[np.ndarray, "B"]
    colour: Int[np.ndarray, "B"]
    texture: Int[np.ndarray, "B"]

    def describes(
        self,
        shape: Int[np.ndarray, "N"],
        colour: Int[np.ndarray, "N"],
        texture: Int[np.ndarray, "N"],
    ) -> Bool[np.ndarray, "B N"]:
        """Whether caption b is true of an image with the n-th attributes."""
        result = np.ones((len(self.texts), len(shape)), bool)
        pairs = ((self.shape, shape), (self.colour, colour), (self.texture, texture))
        for said, real in pairs:
            result &= (said[:, None] < 0) | (said[:, None] == np.asarray(real)[None, :])
        return result


def captions(
    seed: int,
    split: str,
    start: int,
    shape: Int[np.ndarray, "B"],
    colour: Int[np.ndarray, "B"],
    texture: Int[np.ndarray, "B"],
) -> Captions:
    """Captions of scenes start..start+B-1, a pure function of (seed, split, index) and the attributes.

    Args:
      seed: seed of the world.
      split: split of the scenes; the captions have a random stream of their own.
      start: index of the first scene.
      shape: shapes of the scenes, from `render_batch`.
      colour: their colours.
      texture: their textures.
    """
    index = np.arange(start, start + len(shape))
    u = words.uniform(words.words(words.stream(seed, split, "captions"), index, _SLOTS))
    edges = np.cumsum([row[0] for row in _MENTIONS])[:-1]
    mention = np.array([row[1:] for row in _MENTIONS])[
        np.searchsorted(edges, u[:, 0], side="right")
    ]
    said = np.stack([np.asarray(v, np.int32) for v in (shape, colour, texture)], axis=1)
    said = np.where(mention, said, np.int32(-1))
    template = (u[:, 1] * len(TEMPLATES)).astype(np.int64)
    texts = [
        TEMPLATES[t].format(phrase(*row)) for t, row in zip(template, said.tolist(), strict=True)
    ]
    return Captions(texts=texts, shape=said[:, 0], colour=said[:, 1], texture=said[:, 2])


def phrase(shape: int, colour: int, texture: int) -> str:
    """Name of a composition in which -1 leaves an attribute out, for example "striped object"."""
    parts = [
        attrs.COLOURS[colour] if colour >= 0 else "",
        attrs.TEXTURES[texture] if texture >= 0 else "",
        attrs.SHAPES[shape] if shape >= 0 else NOUN,
    ]
    return " ".join(part for part in parts if part)


def vocabulary() -> tuple[str, ...]:
    """Every word of every caption, sorted; punctuation marks count as words."""
    found = {NOUN, *attrs.SHAPES, *attrs.COLOURS, *attrs.TEXTURES}
    for template in TEMPLATES:
        found.update(template.replace("{}", " ").replace(".", " . ").split())
    return tuple(sorted(found))
