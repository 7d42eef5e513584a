"""The settings of CLIP-DFENet (arXiv 2502.20128), its two presets and its published recipe."""

import dataclasses
import typing
from typing import Any, Literal

from core_jax.train.settings import ConfigError
from gaze_jax.networks import anchors, clip_towers
from gaze_jax.recipe import Recipe, every

RECIPE = Recipe(
    lr=1e-4,
    batch_size=16,
    epochs=80,
    warmup_epochs=5,
    schedule="steps",
    milestones=every(60, 80),
    factor=0.5,
)

PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "distance": "l1",
        "projection": "fixed",
        "pair": "concat",
        "softmax": "samples",
        "tower": "trained",
        "clip_input": "bgr",
        "mask": "zero",
    },
    "recommended": {
        "distance": "angle",
        "projection": "trained",
        "pair": "difference",
        "softmax": "grades",
        "tower": "frozen",
        "clip_input": "clip",
        "mask": "exclude",
    },
}
CFE_PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {"input": "bgr"},
    "recommended": {"input": "imagenet"},
}
"""What the presets say about the extractor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DFENetConfig:
    """Which modules help the extractor, and how; `recommended` unless told otherwise.

    Attributes:
      ldm: whether pairs are held against sentences.
      vfm: how CLIP's image map joins, see `gaze_jax.networks.fusion`; "none" leaves it out.
      dgr: whether there is a second head in training.
      clip: "world" (the small pair of this package, source="vit_patches"), a folder, or a hub id; "" is none.
      clip_init: "random" runs the VFM on a random tower in the absence of a CLIP.
      source: "rn50_map", or "vit_patches" of a ViT.
      tower: "frozen", or "trained" at the common rate, with the batch's own statistics.
      clip_input: what the tower is given: "clip" (CLIP's mean and standard deviation), or "bgr" on [0, 1].
      anchors: "clip" (sentences through the text tower), or a stand-in: "ordinal", "random".
      anchors_file: record of the sentences' embeddings; made where it is missing, and then enough without the text tower.
      sentences: in place of `anchors.sentences`, one a grade, the most alike first.
      grades: G, 2, 3 or 5.
      cuts: "fixed", or "quantile" of the training pairs, for wide ranges of gaze.
      distance, pair, softmax, tau: see `gaze_jax.networks.alignment`.
      projection: W is "trained" or "fixed" as it was drawn.
      mask, dropped: of the second head, see `gaze_jax.networks.double_head`.
      head2_weight, align_weight: of the two losses beside that of head 1.
    """

    ldm: bool = True
    vfm: Literal["affinity", "film", "cross_attention", "none"] = "affinity"
    dgr: bool = True
    clip: str = ""
    clip_init: Literal["weights", "random"] = "weights"
    source: Literal["rn50_map", "vit_patches"] = "rn50_map"
    tower: Literal["frozen", "trained"] = "frozen"
    clip_input: Literal["clip", "bgr"] = "clip"
    anchors: Literal["clip", "ordinal", "random"] = "clip"
    anchors_file: str = ""
    sentences: tuple[str, ...] = ()
    grades: int = 5
    cuts: Literal["fixed", "quantile"] = "fixed"
    distance: Literal["l1", "angle"] = "angle"
    pair: Literal["concat", "difference"] = "difference"
    softmax: Literal["samples", "grades"] = "grades"
    tau: float = 0.07
    projection: Literal["fixed", "trained"] = "trained"
    mask: Literal["zero", "exclude"] = "exclude"
    dropped: int = 5
    head2_weight: float = 0.1
    align_weight: float = 0.1

    def __post_init__(self):
        problems = [
            f"{name}={getattr(self, name)!r}: expected one of {', '.join(typing.get_args(hint))}"
            for name, hint in typing.get_type_hints(type(self)).items()
            if typing.get_origin(hint) is Literal
            and getattr(self, name) not in typing.get_args(hint)
        ]
        if self.grades not in anchors.GRADES:
            problems.append(f"grades={self.grades}: expected one of {anchors.GRADES}")
        if self.sentences and len(self.sentences) != self.grades:
            problems.append(f"{len(self.sentences)} sentences for grades={self.grades}: one each")
        if not self.tau > 0:
            problems.append(f"tau={self.tau}: expected a temperature above 0")
        if self.clip == clip_towers.WORLD and self.source != "vit_patches":
            problems.append(f"clip='world' is a ViT: source={self.source!r} must be 'vit_patches'")
        if problems:
            raise ConfigError("dfenet: " + "; ".join(problems))

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences, the most alike first."""
        return self.sentences or anchors.sentences(self.grades)
