"""What a network answers for some views of faces: alone, corrected for a person, or by comparison with known pictures of them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core_jax.train import Params
from gaze_jax import modes
from gaze_jax.gaze_set import RIGHT
from gaze_jax.model import Model
from gaze_jax.people import batches
from gaze_jax.people.calibration_file import SIDES, Labelled, Personal
from gaze_jax.people.views import View

_MIRROR = np.asarray([1.0, -1.0])


class Answerer:
    """Views to angles.

    Args:
      model: the network.
      params: its parameters.
      personal: calibration of the person looked at; without one, a network that only compares answers nothing.

    Raises:
      ValueError: network and calibration do not fit each other.
    """

    def __init__(self, model: Model, params: Params, personal: Personal | None) -> None:
        if personal is not None:
            personal.require(model)
        self._name, self._params, self._personal = model.name, params, personal
        self._predict = None if model.predict is None else jax.jit(model.predict)
        self._features = jax.jit(model.features)
        self._comparers = {}
        if personal is not None:
            self._comparers = {
                SIDES.index(side): comparer(model, params, labelled, personal.mode, personal.blend)
                for side, labelled in personal.references.items()
            }

    def require(self) -> None:
        """Refuse to answer for a network that only compares, while there is nothing to compare with.

        Raises:
          ValueError: it needs references.
        """
        if self._predict is None and not self._comparers:
            raise ValueError(
                f"{self._name} compares pictures with references of the same person: give a calibration file that has "
                "some (--calibration, made with --calibrate and --calibration_method=references)"
            )

    def __call__(self, seen: Sequence[View]) -> Float[np.ndarray, "n 2"]:
        """(pitch, yaw) of every view in its own normalised space, radians; mirrored eyes are mirrored back.

        Raises:
          ValueError: see `require`.
        """
        self.require()
        if not seen:
            return np.zeros((0, 2))
        sides = np.asarray([view.side for view in seen])
        angles = self._comparisons(seen, sides) if self._comparers else self._alone(seen, sides)
        return np.where((sides == RIGHT)[:, None], angles * _MIRROR, angles)

    def features(self, seen: Sequence[View]) -> Float[np.ndarray, "n F"]:
        """What a linear calibration reads."""
        return batches.run(self._features, self._params, *_stacked(seen))

    def _alone(self, seen: Sequence[View], sides: np.ndarray) -> Float[np.ndarray, "n 2"]:
        assert self._predict is not None
        angles = batches.run(self._predict, self._params, *_stacked(seen))
        if self._personal is None or not self._personal.corrections:
            return angles
        features = self.features(seen) if self._personal.needs_features else None
        return self._personal.correct(angles, sides, features)

    def _comparisons(self, seen: Sequence[View], sides: np.ndarray) -> Float[np.ndarray, "n 2"]:
        images, heads = _stacked(seen)
        angles = np.zeros((len(seen), 2))
        for side, answer in self._comparers.items():
            rows = sides == side
            if rows.any():
                angles[rows] = batches.run(answer, self._params, images[rows], heads[rows])
        return angles


def _stacked(seen: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([view.patch for view in seen]), np.stack([view.head_rad for view in seen])


def comparer(
    model: Model, params: Params, labelled: Labelled, mode: str, blend: float
) -> Callable[..., Float[Array, "B 2"]]:
    """(params, images, heads) -> (pitch, yaw) of pictures by comparison with labelled ones, whose half is computed once.

    Raises:
      ValueError: the network compares nothing.
    """
    pair = model.references
    if pair is None:
        raise ValueError(f"{model.name} compares no pictures")
    k = len(labelled.images)
    reference_gaze = jnp.asarray(labelled.gaze, jnp.float32)[None]
    codes = jax.jit(pair.encode)(
        params, jnp.asarray(labelled.images), jnp.asarray(labelled.head, jnp.float32)
    )

    @jax.jit
    def answer(params, codes, images, heads):
        count = images.shape[0]
        queries = jax.tree.map(
            lambda code: jnp.repeat(code, k, axis=0), pair.encode(params, images, heads)
        )
        known = jax.tree.map(lambda code: jnp.tile(code, (count,) + (1,) * (code.ndim - 1)), codes)
        absolute, difference = (
            None if value is None else value.reshape(count, k, 2)
            for value in pair.compare(params, queries, known)
        )
        gaze = jnp.broadcast_to(reference_gaze, (count, k, 2))
        return modes.combine(mode, absolute, difference, gaze, blend)

    return lambda params, images, heads: answer(params, codes, images, heads)
