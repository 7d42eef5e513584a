"""The camera that took a picture: its intrinsics, read from files or guessed, and its lens distortion.

A pinhole camera K with up to five Brown-Conrady terms (k1, k2, p1, p2, k3), as OpenCV orders them. Pixel centres are at
integers. NumPy, float64.
"""

import dataclasses
import json
import logging
import os
import pathlib
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_MATRIX = ("matrix", "camera_matrix", "cameraMatrix", "K")
_DISTORTION = ("distortion", "distortion_coefficients", "distCoeffs", "dist_coeffs", "D")
_SUFFIXES = (".yaml", ".yml", ".json", ".xml")
_HELP = (
    f"expected a 3 x 3 matrix named {' or '.join(_MATRIX)} and, where the lens distorts, up to five terms "
    f"k1 k2 p1 p2 k3 named {' or '.join(_DISTORTION)}"
)


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """What a camera does to a point in space.

    Attributes:
      matrix: K, pixels.
      distortion: k1, k2, p1, p2, k3; zeros for a lens that does not distort.

    Raises:
      ValueError: not a camera matrix, or not five terms.
    """

    matrix: Float[np.ndarray, "3 3"]
    distortion: Float[np.ndarray, " 5"] = dataclasses.field(default_factory=lambda: np.zeros(5))

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        distortion = np.asarray(self.distortion, np.float64)
        problems = _problems(matrix, distortion)
        if problems:
            raise ValueError(f"intrinsics: {'; '.join(problems)}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)


def _problems(matrix: np.ndarray, distortion: np.ndarray) -> list[str]:
    problems = []
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        problems.append(f"matrix {matrix.tolist()}, expected 3 x 3 finite numbers")
    elif not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and np.allclose(matrix[2], [0, 0, 1])):
        problems.append(
            f"matrix {matrix.tolist()}, expected focal lengths > 0 on the diagonal and a last row 0 0 1"
        )
    elif abs(matrix[1, 0]) > 1e-9:
        problems.append(f"matrix {matrix.tolist()}, expected 0 in the second row's first column")
    if distortion.shape != (5,) or not np.isfinite(distortion).all():
        problems.append(f"distortion {distortion.tolist()}, expected k1 k2 p1 p2 k3")
    return problems


def guess(width: int, height: int, *, warn: bool = True) -> Intrinsics:
    """Intrinsics for a picture of an unknown camera: focal length = width, centred, no distortion.

    Args:
      width: of the picture, pixels.
      height: likewise.
      warn: say what the guess costs; once is enough for pictures of many sizes.
    """
    if warn:
        logging.warning(
            "no camera intrinsics: a focal length of a picture's width is guessed, %d px for %d x %d. Distances and head "
            "poses are rough, angles of gaze in camera space with them; give the camera's own for better ones",
            width,
            width,
            height,
        )
    return Intrinsics(
        np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    )


def read(path: str | os.PathLike) -> Intrinsics:
    """Intrinsics from a file: YAML (OpenCV's and ROS's too), JSON or OpenCV's XML.

    Args:
      path: the file. A matrix may be nested lists, nine numbers, or a mapping with its numbers under "data".

    Raises:
      ValueError: another kind of file, or one that does not hold intrinsics.
    """
    path = pathlib.Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: intrinsics are read from {', '.join(_SUFFIXES)} files")
    text = path.read_text(encoding="utf-8")
    try:
        content = _PARSERS[path.suffix](text)
    except (ValueError, xml.etree.ElementTree.ParseError) as error:
        raise ValueError(f"{path}: not a readable {path.suffix} file: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: {type(content).__name__}; {_HELP}")
    matrix = _numbers(path, content, _MATRIX)
    distortion = _numbers(path, content, _DISTORTION)
    if matrix is None or matrix.size != 9:
        found = "no matrix" if matrix is None else f"a matrix of {matrix.size} numbers"
        raise ValueError(f"{path}: {found}; {_HELP}")
    distortion = np.zeros(0) if distortion is None else distortion
    if np.any(distortion[5:] != 0):
        raise ValueError(
            f"{path}: {distortion.size} distortion terms; this lens model has five: calibrate without the rational, "
            "thin prism and fisheye models, or undistort the pictures first"
        )
    terms = np.zeros(5)
    terms[: min(5, distortion.size)] = distortion[:5]
    try:
        return Intrinsics(matrix.reshape(3, 3), terms)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _numbers(path: pathlib.Path, content: Mapping, names: Sequence[str]) -> np.ndarray | None:
    for name in names:
        if name in content:
            value = content[name]
            value = value.get("data") if isinstance(value, Mapping) else value
            try:
                return np.asarray(value, np.float64).ravel()
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {name} is {value!r}; {_HELP}") from error
    return None


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader, and OpenCV's matrices as mappings."""

    def matrix(loader: Any, node: Any) -> Any:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix)
    # OpenCV writes "%YAML:1.0", which is not the directive that YAML knows.
    lines = [line for line in text.splitlines() if not line.startswith("%YAML:")]
    try:
        return yaml.load("\n".join(lines), Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _xml(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in xml.etree.ElementTree.fromstring(text):
        data = node.find("data")
        if data is not None:
            found[node.tag] = [float(number) for number in (data.text or "").split()]
    return found


_PARSERS = {".yaml": _yaml, ".yml": _yaml, ".json": json.loads, ".xml": _xml}


def _bend(
    flat: Float[np.ndarray, "n 2"], terms: Float[np.ndarray, " 5"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2 2"]]:
    """Distorted points on the plane z = 1, and the derivative by the undistorted ones."""
    k1, k2, p1, p2, k3 = terms
    x, y = flat[:, 0], flat[:, 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))
    bent = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=1,
    )
    cross = x * y * slope + 2 * p1 * x + 2 * p2 * y
    jacobian = np.empty((len(flat), 2, 2))
    jacobian[:, 0, 0] = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    jacobian[:, 0, 1] = jacobian[:, 1, 0] = cross
    jacobian[:, 1, 1] = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    return bent, jacobian


def project(
    points_mm: Float[np.ndarray, "n 3"], intrinsics: Intrinsics
) -> Float[np.ndarray, "n 2"]:
    """Pixels of points in camera space, distortion included; NaN for points that are not in front of the camera."""
    points = np.asarray(points_mm, np.float64)
    depth = np.where(points[:, 2:] > 0, points[:, 2:], np.nan)
    bent, _ = _bend(points[:, :2] / depth, intrinsics.distortion)
    return bent @ intrinsics.matrix[:2, :2].T + intrinsics.matrix[:2, 2]


def undistort_points(
    points_px: Float[np.ndarray, "n 2"], intrinsics: Intrinsics
) -> Float[np.ndarray, "n 2"]:
    """Where points of a picture would lie had the lens not distorted it, in pixels of the same K.

    Newton's method on the distortion, to convergence.
    """
    linear, centre = intrinsics.matrix[:2, :2], intrinsics.matrix[:2, 2]
    points = np.asarray(points_px, np.float64)
    if not np.any(intrinsics.distortion):
        return points
    target = (points - centre) @ np.linalg.inv(linear).T
    flat = target.copy()
    for _ in range(20):
        bent, jacobian = _bend(flat, intrinsics.distortion)
        step = np.linalg.solve(jacobian, (target - bent)[..., None])[..., 0]
        flat += step
        if not np.abs(step).max(initial=0.0) > 1e-12:
            break
    return flat @ linear.T + centre
