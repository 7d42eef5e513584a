"""The embedded world: pictures with captions, boxes and masks that need no download, and the small CLIP pair."""

from core_jax.world.attributes import (
    CLASS_ATTRIBUTES,
    CLASSES,
    CLASSES_BY_SHAPE,
    COLOURS,
    HELD_OUT,
    SHAPES,
    TEXTURES,
    class_index,
    class_name,
)
from core_jax.world.captions import Captions, captions, vocabulary
from core_jax.world.datasets import write_objects, write_pretrain
from core_jax.world.disk import WorldFolderError
from core_jax.world.scene_sets import SCENE_CLASSES, SCENE_UNSEEN, SceneSplit, write_scenes
from core_jax.world.scenes import Scene, render, render_batch, render_indices
from core_jax.world.segmentation import (
    SceneObject,
    SegmentationScene,
    render_segmentation,
    render_segmentation_batch,
)
from core_jax.world.shipped import pair
from core_jax.world.styles import STYLE_NAMES, STYLES, TEST_STYLES, TRAIN_STYLES

__all__ = [
    "CLASSES",
    "CLASSES_BY_SHAPE",
    "CLASS_ATTRIBUTES",
    "COLOURS",
    "HELD_OUT",
    "SCENE_CLASSES",
    "SCENE_UNSEEN",
    "SHAPES",
    "STYLES",
    "STYLE_NAMES",
    "TEST_STYLES",
    "TEXTURES",
    "TRAIN_STYLES",
    "Captions",
    "Scene",
    "SceneObject",
    "SceneSplit",
    "SegmentationScene",
    "WorldFolderError",
    "captions",
    "class_index",
    "class_name",
    "pair",
    "render",
    "render_batch",
    "render_indices",
    "render_segmentation",
    "render_segmentation_batch",
    "vocabulary",
    "write_objects",
    "write_pretrain",
    "write_scenes",
]
