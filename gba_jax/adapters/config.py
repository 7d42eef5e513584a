"""The switches of both adapters: one frozen dataclass, written into the run's record."""

import dataclasses

PRESETS = ("intent", "released")
STYLES = ("bank", "shade_bank", "mixstyle", "dsu", "aloft_e", "fda", "apr")
NORMS = ("pcnorm_in", "pcnorm_bn", "highpass", "none")
CHOICES = {
    "sda_mode": ("perturb", "residual"),
    "sda_flow": ("through", "stop", "side"),
    "sda_width": ("auto", "full", "compact"),
    "style": STYLES,
    "cca_width": ("compact", "full"),
    "norm": NORMS,
    "clip_tap": ("pre_cca", "post_cca"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GBAConfig:
    """What `intent` leaves open. `released` reads `host_void` alone and implies `stop` and `post_cca`.

    Attributes:
      sda_mode: "perturb" restyles the features in training, "residual" the adapter's own branch.
      sda_flow: what the stages behind the shallow tap see: "through" the adapted map, gradients passing; "stop" the same
        without gradient; "side" the map before the adapter, so that only the decoder sees SDA.
      sda_width: "full", "compact" (a bottleneck of 64), or "auto": compact above 256 channels.
      style: where new styles come from in training.
      refresh_steps: training steps between two refills of the style bank; three epochs is the idea.
      cca_width: "compact" (4 heads, width 256, refinement 256) or "full" (one head, everything as wide as the map).
      norm: the frequency-domain normalisation of the correlation branch.
      clip_tap: what out-of-vocabulary pooling reads: the deep tap before ("pre_cca") or after CCA.
      host_void: the host has a learned void row and passes it; otherwise CCA owns one.
      sample_vocabulary: probability per training step that CCA sees a sample of the classes.
    """

    sda_mode: str = "perturb"
    sda_flow: str = "through"
    sda_width: str = "auto"
    style: str = "bank"
    refresh_steps: int = 1000
    cca_width: str = "compact"
    norm: str = "pcnorm_in"
    clip_tap: str = "pre_cca"
    host_void: bool = False
    sample_vocabulary: float = 0.5

    def __post_init__(self):
        """Report every value that is not a choice, in one message."""
        problems = [
            f"{name}={getattr(self, name)!r}, expected one of {', '.join(choices)}"
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        if self.refresh_steps < 1:
            problems.append(f"refresh_steps={self.refresh_steps}, expected at least 1")
        if not 0.0 <= self.sample_vocabulary <= 1.0:
            problems.append(f"sample_vocabulary={self.sample_vocabulary}, expected [0, 1]")
        if problems:
            raise ValueError("the adapters cannot be built from " + "; ".join(problems))


def check_preset(preset: str) -> None:
    """Raise a ValueError unless `preset` is "intent" or "released"."""
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
