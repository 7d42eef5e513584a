"""A personal calibration from pictures of somebody who looked at known points."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gaze_jax import calibrate, face_model, geometry, modes, screen
from gaze_jax.gaze_set import LEFT, RIGHT
from gaze_jax.people.calibration_file import SIDES, Labelled, Personal
from gaze_jax.people.placing import Placed
from gaze_jax.people.views import View
from gaze_jax.predict import Frame, GazeEstimator

METHODS = (*calibrate.KINDS, "references")
# Of networks on unseen persons, where a run does not say: errors of 5 degrees, half of them the person's own.
SPREADS_RAD = (np.full(2, np.deg2rad(3.5)), np.full(2, np.deg2rad(3.5)))
_MIRROR = np.asarray([1.0, -1.0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """A picture, and where its largest face looked; one of the three is given.

    Attributes:
      frame: the picture.
      target_mm: the point that was looked at, camera space.
      gaze_rad: (pitch, yaw) in camera space.
      screen_px: the pixel of a screen whose place is not known; for `fit_screen`.
    """

    frame: Frame
    target_mm: Float[np.ndarray, " 3"] | None = None
    gaze_rad: Float[np.ndarray, " 2"] | None = None
    screen_px: Float[np.ndarray, " 2"] | None = None


def fit(
    estimator: GazeEstimator,
    looks: Sequence[Look],
    *,
    person: str,
    method: str = "offset",
    spreads: calibrate.Spreads = SPREADS_RAD,
    blend: float | None = None,
) -> Personal:
    """What is to be known of a person.

    Args:
      estimator: without calibration.
      looks: labelled pictures; those without a usable face are an error.
      person: a name.
      method: of `METHODS`.
      spreads: how much the network's errors vary between persons and within one (`strangers.spreads`), radians.
      blend: b of mode "blend" for so many references (`strangers.blend`); None takes `modes.default_blend`.

    Raises:
      ValueError: an unknown method, no looks, or pictures without a face; all are named.
    """
    if method not in METHODS:
        raise ValueError(f"calibration {method!r}: expected one of {', '.join(METHODS)}")
    if method == "references" and estimator.model.references is None:
        raise ValueError(
            f"{estimator.model.name} compares no pictures, so it has no use for references: expected one of "
            + ", ".join(calibrate.KINDS)
        )
    seen = _seen(estimator, looks)
    corrections, references, residual_deg = {}, {}, {}
    for number, side in enumerate(SIDES):
        views = [(view, gaze) for view, gaze in seen if view.side == number]
        if not views:
            continue
        true = np.stack([gaze for _, gaze in views])
        if method == "references":
            references[side] = Labelled(
                images=np.stack([view.patch for view, _ in views]),
                gaze=true.astype(np.float32),
                head=np.stack([view.head_rad for view, _ in views]),
            )
            continue
        found = _answers(estimator, views, number)
        features = None
        if method == "ridge":
            features = estimator.answer.features([view for view, _ in views])
        between, within = spreads
        fitted = calibrate.fit(method, found, true, features, between_sd=between, within_sd=within)
        corrections[side] = fitted
        given = features if fitted.kind == "ridge" else None
        errors = geometry.angular_error_deg(calibrate.apply(fitted, found, given), true)
        residual_deg[side] = tuple(np.asarray(errors, np.float64).tolist())
    share = modes.default_blend(len(looks)) if blend is None else blend
    return Personal(
        person=person,
        method=method,
        corrections=corrections,
        references=references,
        mode=_mode(estimator, share) if references else "calib",
        blend=share,
        residual_deg=residual_deg,
        points=tuple(look.frame.name for look in looks),
        face_model=face_model.digest(estimator.face_points_mm),
        spread_rad=tuple(tuple(map(float, sd)) for sd in spreads) if corrections else (),
    )


def recentre(estimator: GazeEstimator, looks: Sequence[Look]) -> Personal:
    """An estimator's calibration with its offset moved by what a look or a few say now; all else of it stays.

    The move is shrunk as every offset is (`gaze_jax.calibrate`), by the spreads that the calibration was made with.

    Args:
      estimator: with a calibration that corrects gaze.
      looks: labelled pictures; those without a usable face are an error.

    Raises:
      ValueError: a calibration without an offset, no looks, or pictures without a face; all are named.
    """
    personal = estimator.personal
    if personal is None or not personal.corrections:
        raise ValueError(
            f"{personal.method if personal else 'no calibration'}: there is no offset to move; calibrate again, or use a "
            f"calibration made with --calibration_method={' or '.join(calibrate.KINDS)}"
        )
    between, within = (np.asarray(sd) for sd in personal.spread_rad)
    seen, corrections = _seen(estimator, looks), {}
    for side, before in personal.corrections.items():
        number = SIDES.index(side)
        views = [(view, gaze) for view, gaze in seen if view.side == number]
        true = np.stack([gaze for _, gaze in views])
        found = _answers(estimator, views, number)
        move = calibrate.fit("offset", found, true, between_sd=between, within_sd=within)
        moved = before.offset_rad + move.offset_rad
        corrections[side] = dataclasses.replace(before, offset_rad=moved)
    return dataclasses.replace(personal, corrections=corrections)


def fit_screen(estimator: GazeEstimator, looks: Sequence[Look], *, person: str) -> Personal:
    """Where on a screen a person looks, learned from looks at known pixels: for screens whose place is not known.

    Args:
      estimator: without calibration.
      looks: with `screen_px`, five or more.
      person: a name.

    Raises:
      ValueError: too few looks, or pictures without a face.
    """
    found = [estimator.batch([look.frame])[0][:1] for look in looks]
    problems = [
        f"{look.frame.name}: {faces[0].problem if faces else 'no face'}"
        for look, faces in zip(looks, found)
        if not faces or faces[0].problem
    ]
    if problems:
        raise ValueError(_unusable(problems, len(looks)))
    angles = np.stack([faces[0].camera_rad for faces in found])
    px = np.stack([np.asarray(look.screen_px) for look in looks])
    return Personal(
        person=person,
        method="screen",
        screen=screen.fit_ridge(angles, px),
        points=tuple(look.frame.name for look in looks),
        face_model=face_model.digest(estimator.face_points_mm),
    )


def _unusable(problems: Sequence[str], count: int) -> str:
    return (
        f"{len(problems)} of {count} pictures cannot calibrate anything; replace them or take them off the list:\n  "
        + "\n  ".join(problems)
    )


def _mode(estimator: GazeEstimator, share: float) -> str:
    """Networks without an answer of their own can only add differences; others mix both where these have a share."""
    if estimator.model.predict is None:
        return "diffnn"
    return "blend" if share else "calib"


def _answers(
    estimator: GazeEstimator, views: Sequence[tuple[View, np.ndarray]], side: int
) -> Float[np.ndarray, "n 2"]:
    """What the estimator says of views of one side, in their own, mirrored space."""
    found = estimator.answer([view for view, _ in views])
    return found * _MIRROR if side == RIGHT else found


def _seen(
    estimator: GazeEstimator, looks: Sequence[Look]
) -> list[tuple[View, Float[np.ndarray, " 2"]]]:
    """Every view of every look, and its true (pitch, yaw) in the view's own, mirrored space."""
    if not looks:
        raise ValueError("no labelled pictures to calibrate with")
    pairs, problems = [], []
    for look in looks:
        placed = estimator.place(look.frame)[:1]
        if not placed or placed[0].problem:
            problems.append(f"{look.frame.name}: {placed[0].problem if placed else 'no face'}")
            continue
        for view in estimator.look(look.frame, placed)[0]:
            gaze = _truth(look, placed[0], view, estimator.reference)
            pairs.append((view, gaze))
    if problems:
        raise ValueError(_unusable(problems, len(looks)))
    return pairs


def _truth(look: Look, placed: Placed, view: View, reference: str) -> Float[np.ndarray, " 2"]:
    if look.target_mm is not None:
        kind = {LEFT: "left_eye", RIGHT: "right_eye"}.get(view.side, reference)
        vector = look.target_mm - placed.reference_mm(kind)
    elif look.gaze_rad is not None:
        vector = np.asarray(geometry.pitchyaw_to_vector(look.gaze_rad), np.float64)
    else:
        raise ValueError(
            f"{look.frame.name}: neither a target nor a direction is given; pixels need --screen=FILE"
        )
    pitchyaw = np.asarray(geometry.vector_to_pitchyaw(view.norm @ vector), np.float64)
    return pitchyaw * _MIRROR if view.side == RIGHT else pitchyaw
