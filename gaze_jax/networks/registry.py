"""The gaze networks by name: their presets, published recipes, and how each is built."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from core_jax.train.memory import Memory
from core_jax.train.settings import compute_dtype
from gaze_jax import losses
from gaze_jax.model import Model
from gaze_jax.networks import cfe, dfenet, drnet, eye_baselines, face_baselines
from gaze_jax.recipe import Recipe

if TYPE_CHECKING:
    from gaze_jax.config import Config

PRESETS = ("recommended", "faithful")
DRNET, DFENET = "drnet", "dfenet"
NAMES = (DRNET, DFENET, cfe.NAME, *eye_baselines.NAMES, *face_baselines.NAMES)

# A tenth of DRNet's references are the query itself, so that looking at one picture is nothing new to it.
_SELF_PAIR = {"recommended": 0.1, "faithful": 0.0}


def recipe(name: str) -> Recipe:
    """How a network was trained where it was published."""
    own = {DRNET: drnet.RECIPE, DFENET: dfenet.RECIPE, cfe.NAME: cfe.RECIPE}
    return own.get(name) or {**eye_baselines.RECIPES, **face_baselines.RECIPES}[name]


def defaults(name: Any, preset: Any) -> dict[str, Any]:
    """The values that a preset and a network's recipe give a configuration; none for names that do not exist."""
    if name not in NAMES or preset not in PRESETS:
        return {}
    return {
        "drnet": dict(drnet.PRESETS[preset]),
        "dfenet": dict(dfenet.PRESETS[preset]),
        "cfe": dict(dfenet.CFE_PRESETS[preset]),
        "recipe": dataclasses.asdict(recipe(name)),
        "data": {"self_pair": _SELF_PAIR[preset]},
    }


def compares(config: "Config") -> bool:
    """Whether the network looks at a picture and a reference."""
    return config.model == DRNET and config.drnet.use != "absolute"


def method(config: "Config") -> str:
    """What results call a network: by the parts of DRNet and of CLIP-DFENet that are switched on."""
    if config.model == DRNET:
        return {"difference": "diffnn"}.get(config.drnet.use, config.drnet.use)
    if config.model != DFENET:
        return config.model
    parts = config.dfenet
    switched = {"ldm": parts.ldm, "vfm": parts.vfm != "none", "dgr": parts.dgr}
    names = [name for name, on in switched.items() if on]
    return "all" if len(names) == len(switched) else "_".join(names) or "cfe"


def anchors(config: "Config") -> str:
    """What stands for the sentences of the language module: "clip", or a stand-in; "" where there is none."""
    return config.dfenet.anchors if config.model == DFENET and config.dfenet.ldm else ""


def build(
    config: "Config",
    size: tuple[int, int, int],
    gaze: Float[np.ndarray, "N 2"] | None = None,
    *,
    kind: str = "eye",
) -> Model:
    """The network of a configuration.

    Args:
      config: which, and how.
      size: (H, W, c) of the pictures.
      gaze: (pitch, yaw) of the training samples in radians; prediction needs none.
      kind: "eye" or "face", for the one network that takes both: the mean of the labels.

    Raises:
      ConfigError: weights that cannot be used.
    """
    dtype = compute_dtype(config.dtype)
    if config.model == DRNET:
        model = drnet.make(config.drnet, size, dtype=dtype)
    elif config.model == DFENET:
        model = dfenet.make(config.dfenet, config.cfe, gaze=gaze, dtype=dtype)
    elif config.model == cfe.NAME:
        model = cfe.make(config.cfe, dtype=dtype)
    elif config.model in eye_baselines.NAMES:
        model = eye_baselines.make(config.model, size, kind=kind, dtype=dtype)
    else:
        model = face_baselines.make(config.model, config.face, dtype=dtype)
    how = Memory(accumulate=config.accumulate, remat=config.remat)
    model = losses.in_memory(model, how, ghost_norm=config.ghost_norm)
    return losses.with_pairwise(model, config.pairwise)


def pins(config: "Config") -> dict[str, str]:
    """Digests of the models that a network is built on."""
    return dfenet.pins(config.dfenet) if config.model == DFENET else {}
