"""What every gaze network is to training, judging and prediction: a frozen dataclass of pure functions.

Shapes: B samples, H, W pixels, c channels, P = 2 angles (pitch, yaw) in radians. Pictures are uint8; the functions normalise
and resize them inside jit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core_jax.train import Params

Codes = dict[str, Array]
"""What a pair model keeps of a picture, each with leading axis B: enough to compare it with any other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """How a model compares a picture with another of the same person.

    Attributes:
      encode: (params, images uint8 (B, H, W, c), head (B, 2)) -> Codes.
      compare: (params, Codes of queries, Codes of references, both with B rows) -> (gaze of the query (B, 2) or None where the
        model has no such head, difference query - reference (B, 2) or None).
    """

    encode: Callable[..., Codes]
    compare: Callable[..., tuple[Array | None, Array | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A gaze network.

    Attributes:
      name: as a configuration names it.
      kind: "eye" or "face".
      size: (H, W, c) of the pictures it takes.
      uses_head: whether the head pose is an input; then samples without one are refused.
      init: key -> Params; statistics of batch normalisation in `stats`, pre-trained towers that stay fixed in `frozen`.
      loss: (trainable, frozen, stats, batch, key) -> (scalar, Aux), as the training loop calls it. The batch is that of
        `GazeSet.batch`; models with references also find "ref_image", "ref_gaze", "ref_head".
      predict: (params, images uint8 (B, H, W, c), head (B, 2)) -> gaze (B, 2) from one picture each; None where the model
        is not defined without a reference.
      features: (params, images, head) -> (B, F), what a linear personal calibration reads.
      references: None for a model that looks at one picture at a time.
    """

    name: str
    kind: str
    size: tuple[int, int, int]
    uses_head: bool
    init: Callable[[PRNGKeyArray], Params]
    loss: Callable[..., tuple[Float[Array, ""], Any]]
    predict: Callable[[Params, UInt8[Array, "B H W c"], Float[Array, "B 2"]], Array] | None
    features: Callable[[Params, UInt8[Array, "B H W c"], Float[Array, "B 2"]], Array]
    references: References | None = None


Batch = Mapping[str, Any]
