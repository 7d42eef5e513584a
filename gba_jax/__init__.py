"""GBA: the generalization boosted adapter for open-vocabulary segmentation (arXiv 2409.08468).

    model = gba_jax.load("runs/gba")                      # a run, or gba_jax.maskclip(clip.load(...)) without training
    found = gba_jax.segment("cat.jpg", ["cat", "grass, lawn"], model=model, background="threshold:0.4")
    found.picture().save("cat.png")

The names below are imported when they are first used: `gba_jax.fourier` alone loads JAX and nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gba_jax.adapters import GBA, GBAConfig, Plug, TapSpec
    from gba_jax.predict import BackgroundError, Predictor, Segmentation, maskclip, prepare, segment
    from gba_jax.task import build
    from gba_jax.trained import load
    from gba_jax.vocabulary import Vocabulary, VocabularyError

_HOME = {
    **dict.fromkeys(("GBA", "GBAConfig", "Plug", "TapSpec"), "adapters"),
    **dict.fromkeys(("BackgroundError", "Predictor", "Segmentation"), "predict"),
    **dict.fromkeys(("maskclip", "prepare", "segment"), "predict"),
    "build": "task",
    "load": "trained",
    **dict.fromkeys(("Vocabulary", "VocabularyError"), "vocabulary"),
}

__all__ = [
    "GBA",
    "BackgroundError",
    "GBAConfig",
    "Plug",
    "Predictor",
    "Segmentation",
    "TapSpec",
    "Vocabulary",
    "VocabularyError",
    "build",
    "load",
    "maskclip",
    "prepare",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that holds it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
