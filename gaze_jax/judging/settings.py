"""How gaze networks are judged, as a configuration says it."""

import dataclasses

import numpy as np

from gaze_jax import corrupt, modes

PURE_NOISE = "pure_noise"
WHO = ("query", "references", "both")
MOST_ADAPTED = 100
CALIBRATIONS = ("mean_offset", "offset", "affine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How networks are judged.

    Attributes:
      modes: of `gaze_jax.modes.MODES`; those that a network has no head for are passed over.
      calibrations: of `CALIBRATIONS`: "mean_offset" is the plain mean of the residuals, the others are `gaze_jax.calibrate`'s.
      points: pictures to calibrate with: "random", those that comparisons refer to, or "grid" over each person's labels.
      k: numbers of references, or of pictures to calibrate with.
      adapt_k: numbers of labelled pictures of a set of `data.cross`, at most 100, that the answers to all others of it are
        corrected with; these results stand apart from those of unseen sets.
      draws: choices of references; errors are means over them.
      corruptions: of `gaze_jax.corrupt.KINDS`; "pure_noise": from none to all of the references are noise.
      severities: of every kind.
      who: which pictures are corrupted.
      corrupted_k: numbers of references of corrupted judging, as far as they are in `k`; its largest if none is.
      corrupted_draws: choices of references of corrupted judging.
      queries: pictures scored per person and draw, evenly spaced; 0 scores all.
      pool_sides: whether references serve both eyes of a person.
      seed: of references and corruptions.
      batch_size: B, pictures encoded or comparisons made at once.
    """

    modes: tuple[str, ...] = modes.MODES
    calibrations: tuple[str, ...] = ("mean_offset", "offset")
    points: str = "random"
    k: tuple[int, ...] = (1, 3, 5, 9)
    adapt_k: tuple[int, ...] = ()
    draws: int = 20
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    who: tuple[str, ...] = WHO
    corrupted_k: tuple[int, ...] = (1, 9)
    corrupted_draws: int = 5
    queries: int = 0
    pool_sides: bool = False
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        known = {
            "modes": modes.MODES,
            "calibrations": CALIBRATIONS,
            "points": ("random", "grid"),
            "corruptions": corrupt.KINDS,
            "who": WHO,
        }
        problems = [
            f"{name} holds {value!r}: expected of {', '.join(map(str, allowed))}"
            for name, allowed in known.items()
            for value in np.atleast_1d(getattr(self, name)).tolist()
            if value not in allowed
        ]
        for name in ("draws", "corrupted_draws", "batch_size"):
            if getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.k or min(self.k) < 1:
            problems.append(f"k={self.k}: expected numbers of references, at least 1")
        if any(not 1 <= k <= MOST_ADAPTED for k in self.adapt_k):
            problems.append(f"adapt_k={self.adapt_k}: expected numbers of 1 to {MOST_ADAPTED}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def spoilt_k(self) -> tuple[int, ...]:
        """The numbers of references of corrupted judging."""
        return tuple(k for k in self.corrupted_k if k in self.k) or (max(self.k),)
