"""CLIP-DFENet: gaze from faces, helped by CLIP (arXiv 2502.20128).

    CFE  the core feature extractor (`gaze_jax.networks.cfe`): map X, feature f (B, 32), gaze from f by one linear layer
    VFM  CLIP's image map joins X before it becomes tokens (`gaze_jax.networks.fusion`)
    LDM  pairs of features are held against sentences about how alike two gazes are (`gaze_jax.networks.alignment`), training only
    DGR  a second head without parameters (`gaze_jax.networks.double_head`), training only

    loss = L1(head 1) + .1 L1(head 2) + .1 L_align

The paper's first version has no code, and its formula of the VFM, its sentences and its tables are not public to us; where a
public later revision tells how it was done there, the preset `faithful` follows it. Shapes: B faces, (H, W, 3) pictures, P = 2
angles (pitch, yaw) in radians, G grades, D width of the anchors.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core_jax import clip as clips
from core_jax.data import files
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.model import Model
from gaze_jax.networks import alignment, clip_towers, fusion
from gaze_jax.networks import anchors as records
from gaze_jax.networks.cfe import CFE, CFEConfig
from gaze_jax.networks.dfenet_config import CFE_PRESETS, PRESETS, RECIPE, DFENetConfig
from gaze_jax.networks.dfenet_network import Network

__all__ = [
    "CFE_PRESETS",
    "NAME",
    "PRESETS",
    "RECIPE",
    "DFENetConfig",
    "make",
    "open_network",
    "pins",
]

NAME = "dfenet"

# Of the stand-ins for anchors: that of RN50's sentences.
_STAND_IN_WIDTH = 1024


def open_network(
    config: DFENetConfig,
    cfe: CFEConfig,
    *,
    clip: clips.Clip | None = None,
    given: Float[np.ndarray, "G D"] | None = None,
    gaze: Float[np.ndarray, "N 2"] | None = None,
    dtype: Any = jnp.float32,
) -> Network:
    """Opens what the modules need; see `make` for the arguments, of which `given` is its `anchors`."""
    stored = bool(config.anchors_file) and Path(config.anchors_file).is_file()
    needs_text = _needs_text(config, given) and not stored
    if clip is None and config.clip and (config.vfm != "none" or needs_text):
        clip = clip_towers.open_clip(config.clip)
    _require_clip(config, clip, given)
    vision = module = None
    if config.vfm != "none":
        vision = clip_towers.random_vision(config.source)
        if clip is not None:
            vision = clip_towers.vision(clip)
        module = fusion.Fusion(config.vfm, cfe.width, jnp.dtype(dtype))
    rows = cuts = None
    if config.ldm:
        rows = _anchors(config, clip) if given is None else np.asarray(given, np.float32)
        if len(rows) != config.grades:
            raise ConfigError(f"{len(rows)} anchors for dfenet.grades={config.grades}: one each")
        cuts = alignment.FIXED_CUTS_RAD[config.grades]
        if config.cuts == "quantile":
            cuts = None
            if gaze is not None:
                cuts = alignment.quantile_cuts_rad(gaze, config.grades, config.distance)
    return Network(
        config=config,
        cfe=CFE(cfe, jnp.dtype(dtype)),
        vision=vision,
        fusion=module,
        anchors=rows,
        cuts=cuts,
    )


def make(
    config: DFENetConfig = DFENetConfig(),  # noqa: B008
    cfe: CFEConfig = CFEConfig(),  # noqa: B008
    *,
    clip: clips.Clip | None = None,
    anchors: Float[np.ndarray, "G D"] | None = None,
    gaze: Float[np.ndarray, "N 2"] | None = None,
    dtype: Any = jnp.float32,
) -> Model:
    """CLIP-DFENet, or what is left of it when modules are switched off.

    Args:
      config: which modules, and how.
      cfe: sizes and start of the extractor.
      clip: an opened CLIP in place of `config.clip`.
      anchors: embeddings in place of `config.anchors`, the most alike first.
      gaze: (pitch, yaw) of the training samples in radians; for cuts="quantile", which training needs and prediction does not.
      dtype: what activations are computed in.

    Raises:
      ConfigError: a CLIP is needed and there is none, or it cannot do what is asked.
      AnchorsError: a record of anchors that cannot be used.
    """
    network = open_network(config, cfe, clip=clip, given=anchors, gaze=gaze, dtype=dtype)

    def features(params, images, head):
        del head
        return network.features(params, images)[0]

    return Model(
        name=NAME,
        kind="face",
        size=(cfe.image_size, cfe.image_size, 3),
        uses_head=False,
        init=network.init,
        loss=losses.Loss(see=network.see, judge=network.judge),
        predict=lambda params, images, head: network.gaze(params, features(params, images, head)),
        features=features,
    )


def pins(config: DFENetConfig, *, clip: clips.Clip | None = None) -> dict[str, str]:
    """Digests of what a run with this network depends on beside its data: {"clip", "anchors"}, whichever it uses."""
    network = open_network(config, CFEConfig(), clip=clip)
    found = {}
    if network.vision is not None:
        found["clip"] = network.vision.digest
    if network.anchors is not None:
        found["anchors"] = files.digest(network.anchors.tolist())
    return found


def _needs_text(config: DFENetConfig, given: Any) -> bool:
    """Whether the anchors are sentences that went through a text tower."""
    return bool(config.ldm and config.anchors == "clip" and given is None)


def _require_clip(config: DFENetConfig, clip: clips.Clip | None, given: Any) -> None:
    """One error for everything that a missing CLIP makes impossible."""
    if clip is not None:
        found = clip_towers.source_of(clip)
        if config.vfm != "none" and found != config.source:
            raise ConfigError(
                f"dfenet.source={config.source!r}, but this CLIP's image tower gives {found!r}: set dfenet.source={found!r}"
            )
        return
    missing = []
    if config.vfm != "none" and config.clip_init != "random":
        missing.append(
            f"dfenet.vfm={config.vfm!r} reads its image tower (without one: vfm='none', or clip_init='random' to look at costs)"
        )
    if _needs_text(config, given) and not config.anchors_file:
        missing.append(
            "dfenet.anchors='clip' needs its text tower (without one: anchors='ordinal', a stand-in, or the record of "
            "an earlier run as anchors_file)"
        )
    if missing:
        raise ConfigError(
            "CLIP-DFENet needs the weights of a CLIP, and dfenet.clip names none:\n  "
            + "\n  ".join(missing)
            + "\nSet dfenet.clip to a folder or hub id of an RN50 (source='rn50_map') or a ViT (source='vit_patches'), or to "
            "'world', the small pair of this package"
        )


def _anchors(config: DFENetConfig, clip: clips.Clip | None) -> np.ndarray:
    """The anchors of a configuration, (G, D)."""
    if config.anchors != "clip":
        make_rows = {"ordinal": records.ordinal, "random": records.random}[config.anchors]
        return make_rows(config.grades, _STAND_IN_WIDTH)
    encoder = None if clip is None else clip_towers.text(clip, config.clip or "a given CLIP")
    try:
        if config.anchors_file:
            return records.open_record(config.anchors_file, encoder, config.lines)
        assert encoder is not None
        return records.encode(encoder, config.lines)
    except clips.TokenizerError as error:
        raise ConfigError(
            f"dfenet.anchors='clip': {error}\nSet dfenet.sentences to sentences that it knows, one a grade, or use the stand-in "
            "anchors='ordinal'"
        ) from error
