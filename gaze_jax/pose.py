"""Head pose from a few named points of one picture: perspective-n-point by damped Gauss-Newton, NumPy float64.

The reprojection error is minimised over R <- exp(w) R and t <- t + dt from several starts, and the lowest residual with
every point in front of the camera wins. Starts: weak perspective (closed form; for a flat model both of its tilts),
frontal, and the direct linear transform with eight points or more. The linear transform alone is a poor start for few
noisy points: with half a pixel of noise on six of them a fifth to a quarter of such solutions ends more than 10 degrees
off, of weak-perspective ones none does.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gaze_jax import cameras, face_model

_STEPS = 25
_LEAST_POINTS = 4
# A pose that misses its points by more than this share of the eye distance is none.
_WORST_SHARE = 0.05
# Second singular value against the first, below which points lie on a line, and third, below which they lie in a plane.
_LINE, _FLAT = 0.02, 0.1
# R[1, 1] of a head that is rolled by more than 120 degrees.
_UPSIDE_DOWN = -0.5
_EYE_DISTANCE_MM = (
    face_model.POINTS["left_eye_centre"][0] - face_model.POINTS["right_eye_centre"][0]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a head is.

    Attributes:
      rotation: R, head frame to camera frame; the identity where nothing was found.
      translation_mm: t, the head frame's origin in camera space; NaN where nothing was found.
      residual_px: root mean square distance between the points and the model's, in the undistorted picture.
      ok: whether the residual is below 5 % of the eye distance, the points do not lie on a line, all are in front of the
        camera and the head is not upside down: points from behind the camera look like an upside-down head before it,
        nearly so even in their residual. Where it is false the other fields hold the best guess.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation_mm: Float[np.ndarray, " 3"]
    residual_px: float
    ok: bool


def solve(
    points_px: Mapping[str, Sequence[float]] | Float[np.ndarray, "n 2"],
    model: Mapping[str, Sequence[float]] | Float[np.ndarray, "n 3"],
    matrix: Float[np.ndarray, "3 3"],
    distortion: Float[np.ndarray, " 5"] | None = None,
) -> Pose:
    """The pose under which a model's points project to those of a picture.

    Args:
      points_px: at least four points, by name or in the order of the model.
      model: the same points in the head frame, millimetres; by name, others are left aside.
      matrix: K of the camera.
      distortion: k1, k2, p1, p2, k3 of its lens.

    Raises:
      ValueError: fewer than four points, or arrays that do not fit.
    """
    points, shape = _matched(points_px, model)
    lens = cameras.Intrinsics(
        np.asarray(matrix), np.zeros(5) if distortion is None else np.asarray(distortion)
    )
    nothing = Pose(
        rotation=np.eye(3), translation_mm=np.full(3, np.nan), residual_px=np.inf, ok=False
    )
    if not np.isfinite(points).all():
        return nothing
    points = cameras.undistort_points(points, lens)
    if not np.isfinite(points).all():
        return nothing
    # Solved around the model's middle, where turning and shifting hardly disturb each other.
    middle = shape.mean(0)
    flat = (points - lens.matrix[:2, 2]) @ np.linalg.inv(lens.matrix[:2, :2]).T
    found = [
        refined
        for start in _starts(shape - middle, flat)
        if (refined := _refine(shape - middle, flat, lens.matrix[:2, :2], *start)) is not None
    ]
    if not found:
        return nothing
    rotation, shift, cost = min(found, key=lambda pose: pose[2])
    residual = float(np.sqrt(cost / len(points)))
    eye_px = _EYE_DISTANCE_MM * lens.matrix[0, 0] / shift[2]
    impossible = _on_a_line(points) or _on_a_line(shape) or bool(rotation[1, 1] < _UPSIDE_DOWN)
    return Pose(
        rotation=rotation,
        translation_mm=shift - rotation @ middle,
        residual_px=residual,
        ok=bool(residual < _WORST_SHARE * eye_px and not impossible),
    )


def _matched(
    points_px: Mapping[str, Sequence[float]] | np.ndarray,
    model: Mapping[str, Sequence[float]] | np.ndarray,
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 3"]]:
    if isinstance(points_px, Mapping) != isinstance(model, Mapping):
        raise ValueError(
            "points by name need a model by name, and points in an array one in an array"
        )
    if isinstance(points_px, Mapping) and isinstance(model, Mapping):
        names = [name for name in model if name in points_px]
        if len(names) < _LEAST_POINTS:
            raise ValueError(
                f"{len(names)} named points of the model ({', '.join(names) or 'none'}): a head pose needs "
                f"{_LEAST_POINTS} of {', '.join(model)}"
            )
        points_px = np.array([points_px[name] for name in names], np.float64)
        model = np.array([model[name] for name in names], np.float64)
    points, shape = np.asarray(points_px, np.float64), np.asarray(model, np.float64)
    if points.shape != (len(shape), 2) or shape.shape != (len(points), 3):
        raise ValueError(
            f"points of shape {points.shape} and a model of shape {shape.shape}: expected (n, 2) and (n, 3)"
        )
    if len(points) < _LEAST_POINTS:
        raise ValueError(f"{len(points)} points: a head pose needs {_LEAST_POINTS}")
    return points, shape


def _on_a_line(points: Float[np.ndarray, "n d"]) -> bool:
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(spread[1] < _LINE * spread[0] or spread[0] == 0)


def _starts(
    shape: Float[np.ndarray, "n 3"], flat: Float[np.ndarray, "n 2"]
) -> list[tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]]:
    """Rotations and shifts to begin with, for a centred model and points on the plane z = 1."""
    middle = flat.mean(0)
    affine = np.linalg.lstsq(shape, flat - middle, rcond=None)[0].T
    u, spread, vt = np.linalg.svd(affine, full_matrices=False)
    size = np.linalg.norm(shape[:, :2] - shape[:, :2].mean(0))
    turned = [
        (_completed(u @ vt), spread.mean()),
        (np.eye(3), np.linalg.norm(flat - middle) / max(size, 1e-9)),
    ]
    _, thickness, axes = np.linalg.svd(shape, full_matrices=True)
    if thickness[2] < _FLAT * thickness[0]:
        turned += _both_tilts(affine, axes[2])
    starts = [(r, np.array([*middle, 1.0]) / scale) for r, scale in turned if scale > 0]
    if len(shape) >= 8:
        starts.append(_linear(shape, flat))
    return starts


def _completed(rows: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "3 3"]:
    return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])


def _both_tilts(
    affine: Float[np.ndarray, "2 3"], normal: Float[np.ndarray, " 3"]
) -> list[tuple[Float[np.ndarray, "3 3"], float]]:
    """The two ways in which a flat model can be tilted and look the same from far away, with their scales.

    A flat model says nothing about the affine map along its normal n. Rows of equal length at right angles need
    A A^T + a a^T = s^2 I, which leaves s^2 = the larger eigenvalue and a along the other eigenvector, of either sign.
    """
    within = affine - np.outer(affine @ normal, normal)
    values, vectors = np.linalg.eigh(within @ within.T)
    scale = float(np.sqrt(values[1]))
    if not scale > 0:
        return []
    rest = np.sqrt(values[1] - values[0]) * vectors[:, 0]
    return [
        (_completed((within + sign * np.outer(rest, normal)) / scale), scale) for sign in (1, -1)
    ]


def _linear(
    shape: Float[np.ndarray, "n 3"], flat: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """The direct linear transform: the null vector of u (P x)_3 - (P x)_1 = 0 and v (P x)_3 - (P x)_2 = 0."""
    size = np.abs(shape).max() or 1.0
    x = np.concatenate([shape / size, np.ones((len(shape), 1))], axis=1)
    zero = np.zeros_like(x)
    rows = np.concatenate(
        [
            np.concatenate([-x, zero, flat[:, :1] * x], axis=1),
            np.concatenate([zero, -x, flat[:, 1:] * x], axis=1),
        ]
    )
    p = np.linalg.svd(rows)[2][-1].reshape(3, 4)
    p = p if (x @ p[2]).mean() >= 0 else -p
    u, spread, vt = np.linalg.svd(p[:, :3])
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, p[:, 3] * size / max(spread.mean(), 1e-12)


def _residuals(
    placed: Float[np.ndarray, "n 3"], flat: Float[np.ndarray, "n 2"], linear: np.ndarray
) -> Float[np.ndarray, "n 2"]:
    """Reprojection errors in pixels."""
    return (placed[:, :2] / placed[:, 2:] - flat) @ linear.T


def _refine(
    shape: Float[np.ndarray, "n 3"],
    flat: Float[np.ndarray, "n 2"],
    linear: Float[np.ndarray, "2 2"],
    rotation: Float[np.ndarray, "3 3"],
    shift: Float[np.ndarray, " 3"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"], float] | None:
    """Levenberg-Marquardt from one start: (R, t, sum of squared errors), or None where points are behind the camera."""
    turned = shape @ rotation.T
    if not (turned[:, 2] + shift[2] > 0).all():
        return None
    errors = _residuals(turned + shift, flat, linear)
    cost, damping = float((errors**2).sum()), 1e-3
    for _ in range(_STEPS):
        jacobian = _jacobian(turned, turned + shift, linear)
        normal, slope = jacobian.T @ jacobian, jacobian.T @ errors.ravel()
        damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
        step = -np.linalg.solve(damped, slope)
        next_rotation = _exp(step[:3]) @ rotation
        next_shift = shift + step[3:]
        next_turned = shape @ next_rotation.T
        placed = next_turned + next_shift
        next_cost = np.inf
        if (placed[:, 2] > 0).all():
            next_errors = _residuals(placed, flat, linear)
            next_cost = float((next_errors**2).sum())
        if next_cost > cost:
            damping *= 10
            continue
        done = cost - next_cost <= 1e-10 * cost + 1e-20
        rotation, shift, turned = next_rotation, next_shift, next_turned
        errors, cost, damping = next_errors, next_cost, damping * 0.1
        if done:
            break
    return rotation, shift, cost


def _jacobian(
    turned: Float[np.ndarray, "n 3"], placed: Float[np.ndarray, "n 3"], linear: np.ndarray
) -> Float[np.ndarray, "2n 6"]:
    """Derivatives of the errors by w and t: d(exp(w) R x) = w x (R x) and d(x / z) = (dx - (x / z) dz) / z."""
    count = len(turned)
    x, y, z = turned.T
    moved = np.zeros((count, 3, 6))
    moved[:, 0, 1], moved[:, 0, 2] = z, -y
    moved[:, 1, 0], moved[:, 1, 2] = -z, x
    moved[:, 2, 0], moved[:, 2, 1] = y, -x
    moved[:, :, 3:] = np.eye(3)
    depth = placed[:, 2, None, None]
    ratio = (placed[:, :2] / placed[:, 2:])[:, :, None]
    seen = (moved[:, :2] - ratio * moved[:, 2:]) / depth
    return np.einsum("ij,njk->nik", linear, seen).reshape(2 * count, 6)


def _exp(w: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' formula in float64."""
    angle = float(np.linalg.norm(w))
    k = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    a, b = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.eye(3) + a * k + b * (k @ k)
