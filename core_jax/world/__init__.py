"""The embedded world: pictures with captions, boxes and masks that need no download, and the small CLIP pair."""

from core_jax.world.attributes import (
    CLASS_ATTRIBUTES,
    CLASSES,
    COLOURS,
    HELD_OUT,
    SHAPES,
    TEXTURES,
    class_index,
    class_name,
)
from core_jax.world.captions import Captions, captions, vocabulary
from core_jax.world.scenes import Scene, render, render_batch, render_indices
from core_jax.world.styles import STYLE_NAMES, STYLES, TEST_STYLES, TRAIN_STYLES

__all__ = [
    "CLASSES",
    "CLASS_ATTRIBUTES",
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "STYLES",
    "STYLE_NAMES",
    "TEST_STYLES",
    "TEXTURES",
    "TRAIN_STYLES",
    "Captions",
    "Scene",
    "captions",
    "class_index",
    "class_name",
    "render",
    "render_batch",
    "render_indices",
    "vocabulary",
]
