"""The sizes of cost aggregation (CAT-Seg arXiv 2303.11797, SED arXiv 2311.15537)."""

import dataclasses
from typing import Literal

FORMS = ("window", "pyramid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostConfig:
    """Sizes; those of the papers unless told otherwise.

    Attributes:
      form: "window" or "pyramid".
      width: channels of the cost features.
      heads: of all attention.
      expansion: of all MLPs.
      layers: of aggregation ("window").
      window: size of the windows, at most the grid's ("window").
      guide: channels of the dense features and of the text as guides ("window").
      lateral: channels of the two shallower maps once upsampled ("window").
      features: channels after every decoder stage; "window" has two stages, "pyramid" three.
      guides: channels of the map that every stage joins, likewise.
      most_classes: K; a vocabulary of no more classes is refined as a whole.
      train_classes: K in training, where the classes of the labels come first.
      vocabulary: a learned token stands for the classes that a picture has less than this many, as in CAT-Seg; 0 for
        none, which suits training vocabularies that are cut to `most_classes`: the token would never be trained ("window").
      reject_top: early rejection at eval keeps the classes among so many best ones of any pixel ("pyramid").
      reject_most: it keeps so many at most; 0 turns it off ("pyramid").
    """

    form: Literal["window", "pyramid"] = "window"
    width: int = 128
    heads: int = 4
    expansion: int = 4
    layers: int = 2
    window: int = 12
    guide: int = 128
    lateral: tuple[int, int] = (256, 128)
    features: tuple[int, ...] = (64, 32, 16)
    guides: tuple[int, ...] = (32, 16, 8)
    most_classes: int = 256
    train_classes: int = 256
    vocabulary: int = 256
    reject_top: int = 8
    reject_most: int = 64

    def __post_init__(self):
        """Refuse sizes that do not fit each other, all in one message."""
        problems = (
            [] if self.form in FORMS else [f"form={self.form!r}: expected {' or '.join(FORMS)}"]
        )
        least = dict.fromkeys(("width", "heads", "expansion", "layers", "window", "guide"), 1)
        least |= {
            "most_classes": 1,
            "train_classes": 1,
            "vocabulary": 0,
            "reject_top": 1,
            "reject_most": 0,
        }
        problems += [
            f"{name}={getattr(self, name)}: expected at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        stages = 3 if self.form == "pyramid" else 2
        problems += [
            f"{name}={getattr(self, name)}: expected {count} positive numbers, one a stage"
            for name, count in (("features", stages), ("guides", stages), ("lateral", 2))
            if len(getattr(self, name)) < count or min(getattr(self, name)) < 1
        ]
        widths = (self.width, *self.features[: stages - 1])
        problems += [
            f"stage {i} joins guides[{i}]={guide} channels to a width of {width}: expected fewer"
            for i, (width, guide) in enumerate(zip(widths, self.guides))
            if guide >= width
        ]
        problems += [
            f"heads={self.heads} do not divide a width of {width}: expected a divisor"
            for width in (widths if self.form == "pyramid" else widths[:1])
            if self.heads > 0 and width % self.heads
        ]
        if problems:
            raise ValueError("this is no cost aggregation: " + "; ".join(problems))
