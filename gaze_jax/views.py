"""From a face in a picture to what a network sees of it: head pose, reference points, normalised patches.

With four or more named points the head pose comes from the face model; with a box alone the face is taken to lie on the ray
through its centre, upright and 150 mm wide, which is enough for a network that looks at a face and needs no head pose.
Millimetres in camera space, pixels (x, y), uint8 pictures.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from gaze_jax import cameras, face_model, geometry, normalization, pose
from gaze_jax.cameras import Intrinsics
from gaze_jax.faces import Face
from gaze_jax.gaze_set import FACE, LEFT, RIGHT
from gaze_jax.normalization import VirtualCamera

FACE_WIDTH_MM = 150.0
# A smile, glasses or another person's bones move points; beyond this share of the eye distance it is no face at all.
_WORST_RESIDUAL = 0.15
# What points are off by in people who are not the model, the mouth's when it moves, and how far heads usually nod.
_BONE_MM, _MOUTH_MM, _NOD_DEG = 3.0, 10.0, 20.0
# Points of eyes and nose from which a head pose can be told without the mouth.
_LEAST_RIGID = 6
# Pictures are padded to multiples of this, so that pictures of many sizes share few compiled programs.
_SIZE_STEP = 256


@dataclasses.dataclass(frozen=True)
class PlainCrop:
    """What takes the place of a virtual camera for networks that were trained on plain squares around heads.

    Attributes:
      width: pixels.
      height: pixels.
      side_mm: what the square shows at the distance of the face.
      along_ray: whether labels belong to a frame whose z axis runs along the ray to the face (Gaze360) instead of to the
        camera's own.
    """

    width: int
    height: int
    side_mm: float = 230.0
    along_ray: bool = False
    name: str = "plain crop"


Viewer = VirtualCamera | PlainCrop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A face in space.

    Attributes:
      face: the face.
      rotation: head to camera frame; the identity where the pose is not known.
      points_mm: the face model's points in camera space; empty where the pose is not known.
      eyes_mm: midpoint of the eyes, or of the box.
      residual_px: see `pose.Pose`; NaN where the pose is not known.
      head_pose: whether the pose is known.
      problem: why the face cannot be looked at; empty where it can.
    """

    face: Face
    rotation: Float[np.ndarray, "3 3"]
    points_mm: Mapping[str, Float[np.ndarray, " 3"]]
    eyes_mm: Float[np.ndarray, " 3"]
    residual_px: float
    head_pose: bool
    problem: str = ""

    def reference_mm(self, kind: str) -> Float[np.ndarray, " 3"]:
        """The point that a virtual camera looks at: `face_model.reference_point`, or the box's where that is all."""
        if not self.head_pose:
            return self.eyes_mm
        return np.asarray(face_model.reference_point(self.points_mm, kind), np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One picture for the network.

    Attributes:
      patch: uint8, as training data were made.
      side: LEFT, RIGHT (mirrored into left-eye form) or FACE.
      head_rad: (pitch, yaw) of the head in the space of the patch, mirrored with it; 0 where it is not known.
      norm: R of the normalisation, before mirroring.
    """

    patch: UInt8[np.ndarray, "H W c"]
    side: int
    head_rad: Float[np.ndarray, " 2"]
    norm: Float[np.ndarray, "3 3"]


def place(
    face: Face,
    intrinsics: Intrinsics,
    model_points_mm: Mapping[str, Sequence[float]],
    *,
    box_suffices: bool,
) -> Placed:
    """The face in space.

    Args:
      face: box and points.
      intrinsics: of the camera that took the picture.
      model_points_mm: the face model, head frame.
      box_suffices: whether a face without head pose can be looked at.
    """
    points = {name: xy for name, xy in face.model_points_px.items() if name in model_points_mm}
    problem = f"{len(points)} named points, and a head pose needs 4"
    if len(points) >= 4:
        solved = _head_pose(points, model_points_mm, intrinsics)
        if _usable(solved, points):
            rotation, shift = solved.rotation, solved.translation_mm
            found = face_model.in_camera(model_points_mm, rotation, shift)
            eyes = [
                np.asarray(face_model.reference_point(found, f"{s}_eye")) for s in ("left", "right")
            ]
            return Placed(
                face=face,
                rotation=np.asarray(rotation, np.float64),
                points_mm=found,
                eyes_mm=np.mean(eyes, axis=0),
                residual_px=float(solved.residual_px),
                head_pose=True,
            )
        problem = f"the points fit no head: {float(solved.residual_px):.1f} px off"
    return Placed(
        face=face,
        rotation=np.eye(3),
        points_mm={},
        eyes_mm=_on_ray(face, intrinsics.matrix),
        residual_px=math.nan,
        head_pose=False,
        problem="" if box_suffices else problem,
    )


def _head_pose(
    points: Mapping[str, tuple[float, float]],
    model_points_mm: Mapping[str, Sequence[float]],
    intrinsics: Intrinsics,
) -> pose.Pose:
    """The pose from all points or from those of eyes and nose alone, whichever is more likely.

    A smile lifts the corners of the mouth by a centimetre, and a rigid model can follow them only by nodding: by more than
    50 degrees for a face that looks into the camera. Eyes and nose alone say less about faces that do not smile.
    """
    rigid = {name: xy for name, xy in points.items() if not name.startswith("mouth")}
    sets = [points] + ([rigid] if _LEAST_RIGID <= len(rigid) < len(points) else [])
    solve = lambda chosen: pose.solve(
        chosen, model_points_mm, intrinsics.matrix, distortion=intrinsics.distortion
    )
    found = [solve(chosen) for chosen in sets]
    misfit = lambda solved: _misfit(solved, points, model_points_mm, intrinsics)
    # Of equal ones, that of all points.
    return min(found, key=misfit)


def _misfit(
    solved: pose.Pose,
    points: Mapping[str, tuple[float, float]],
    model_points_mm: Mapping[str, Sequence[float]],
    intrinsics: Intrinsics,
) -> float:
    """Minus twice the log-likelihood: how far points lie off and how far the head nods, each by what is usual."""
    if not np.isfinite(solved.translation_mm).all():
        return math.inf
    names = list(points)
    posed = face_model.in_camera(model_points_mm, solved.rotation, solved.translation_mm)
    there = cameras.project(np.stack([posed[name] for name in names]), intrinsics)
    px_per_mm = intrinsics.matrix[0, 0] / solved.translation_mm[2]
    off_mm = (
        np.linalg.norm(there - np.asarray([points[name] for name in names]), axis=1) / px_per_mm
    )
    usual_mm = np.asarray([_MOUTH_MM if name.startswith("mouth") else _BONE_MM for name in names])
    nod_deg = np.rad2deg(np.arctan2(solved.rotation[1, 2], np.hypot(*solved.rotation[[0, 2], 2])))
    return float(np.sum((off_mm / usual_mm) ** 2) + (nod_deg / _NOD_DEG) ** 2)


def _usable(solved: pose.Pose, points: Mapping[str, tuple[float, float]]) -> bool:
    """Whether the pose is that of a head: in front of the camera, and near the points."""
    if not (np.isfinite(solved.rotation).all() and np.isfinite(solved.translation_mm).all()):
        return False
    if solved.ok:
        return True
    extent = np.ptp(np.asarray(list(points.values())), axis=0)
    flat = min(np.linalg.svd(_centred(points), compute_uv=False)) < 0.02 * max(extent)
    residual = float(solved.residual_px)
    return bool(
        solved.translation_mm[2] > 0 and not flat and residual < _WORST_RESIDUAL * max(extent)
    )


def _centred(points: Mapping[str, tuple[float, float]]) -> Float[np.ndarray, "n 2"]:
    array = np.asarray(list(points.values()), np.float64)
    return array - array.mean(0)


def _on_ray(face: Face, matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    left, top, right, bottom = face.box_px
    centre = np.asarray([(left + right) / 2, (top + bottom) / 2, 1.0])
    ray = np.linalg.solve(matrix, centre)
    return ray * (float(matrix[0, 0]) * FACE_WIDTH_MM / face.width_px)


def padded(image: UInt8[np.ndarray, "H W 3"], intrinsics: Intrinsics) -> UInt8[Array, "h w 3"]:
    """The picture on the device, free of lens distortion, with black up to a size that other pictures have too.

    Beyond the picture a warp reads black anyway, so the black below and to the right changes no patch.
    """
    height, width = image.shape[:2]
    if np.any(intrinsics.distortion):
        image = _straightened(image, intrinsics)
    return jnp.asarray(np.pad(image, ((0, -height % _SIZE_STEP), (0, -width % _SIZE_STEP), (0, 0))))


def _straightened(image: UInt8[np.ndarray, "H W 3"], intrinsics: Intrinsics) -> np.ndarray:
    """The picture as the same camera with a perfect lens had taken it: bilinear, black beyond the picture."""
    matrix, height, width = intrinsics.matrix, *image.shape[:2]
    key = (matrix.tobytes(), intrinsics.distortion.tobytes(), height, width)
    where = _bent_grid(*key)
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(
        jnp.asarray(channel, jnp.float32), where, order=1, mode="constant", cval=0.0
    )
    channels = [np.asarray(sample(image[:, :, channel])) for channel in range(3)]
    return np.round(np.stack(channels, axis=2)).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _bent_grid(matrix: bytes, distortion: bytes, height: int, width: int) -> list[jnp.ndarray]:
    """(y, x) in the picture of every pixel of the straightened one; a video asks for the same thing again and again."""
    camera = Intrinsics(np.frombuffer(matrix).reshape(3, 3), np.frombuffer(distortion))
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    bent = cameras.project(np.linalg.solve(camera.matrix, pixels).T, camera)
    return [jnp.asarray(bent[:, i].reshape(height, width), jnp.float32) for i in (1, 0)]


@functools.partial(jax.jit, static_argnames="camera")
def _plan(matrix, rotation, reference_mm, camera: VirtualCamera) -> normalization.Normalization:
    return normalization.plan(matrix, rotation, reference_mm, camera)


def plan(
    intrinsics: Intrinsics,
    rotation: Float[np.ndarray, "3 3"],
    reference_mm: Float[np.ndarray, " 3"],
    camera: Viewer,
) -> normalization.Normalization:
    """`normalization.plan`, compiled, as NumPy arrays; a plain crop is not scaled, and turned at most to its ray."""
    if isinstance(camera, PlainCrop):
        norm = np.eye(3)
        if camera.along_ray:
            any_camera = normalization.CAMERAS["eth_face"]
            turned = _plan(intrinsics.matrix, np.eye(3), reference_mm, any_camera)
            norm = np.asarray(turned.R, np.float64)
        return normalization.Normalization(norm, np.ones(()), np.eye(3))  # pyright: ignore
    planned = _plan(intrinsics.matrix, rotation, reference_mm, camera)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), planned)


def look(
    image: jnp.ndarray,
    placed: Placed,
    intrinsics: Intrinsics,
    camera: Viewer,
    *,
    eyes: bool,
    grey: bool,
    equalize: bool,
    reference: str,
) -> list[View]:
    """What the network sees of a face: its face, or both eyes with the right one mirrored.

    Args:
      image: `padded`.
      placed: the face.
      intrinsics: of the camera that took the picture.
      camera: the virtual camera.
      eyes: whether it looks at eyes.
      grey: whether patches have one channel.
      equalize: whether grey patches are histogram-equalised.
      reference: "mpii" or "eth", what a face is centred on.
    """
    wanted = (("left_eye", LEFT), ("right_eye", RIGHT)) if eyes else ((reference, FACE),)
    views = []
    for kind, side in wanted:
        at_mm = placed.reference_mm(kind)
        if isinstance(camera, PlainCrop):
            patch = _crop(image, at_mm, intrinsics, camera)
            norm = plan(intrinsics, placed.rotation, at_mm, camera).R
        else:
            patch, planned = normalization.normalize(
                image, intrinsics.matrix, placed.rotation, at_mm, camera
            )
            norm = planned.R
        patch, norm = np.asarray(patch), np.asarray(norm, np.float64)
        if grey:
            patch = luminance(patch)
            patch = np.asarray(normalization.equalize_histogram(patch)) if equalize else patch
            patch = patch.reshape(*patch.shape[:2], 1)
        head = np.zeros(2)
        if placed.head_pose:
            head = np.asarray(geometry.rotation_to_head_pitchyaw(norm @ placed.rotation))
        if side == RIGHT:
            patch, head = patch[:, ::-1], head * np.asarray([1.0, -1.0])
        views.append(View(patch=patch, side=side, head_rad=head.astype(np.float32), norm=norm))
    return views


def _crop(
    image: Array, at_mm: Float[np.ndarray, " 3"], intrinsics: Intrinsics, camera: PlainCrop
) -> UInt8[np.ndarray, "H W 3"]:
    """The square around a point of space, resized; black beyond the picture."""
    x, y = intrinsics.matrix[:2] @ (at_mm / at_mm[2])
    half = 0.5 * camera.side_mm * float(intrinsics.matrix[0, 0]) / float(at_mm[2])
    corners = [round(value) for value in (x - half, y - half, x + half, y + half)]
    square = Image.fromarray(np.asarray(image)).crop(tuple(corners))
    size = (camera.width, camera.height)
    return np.asarray(square.resize(size, Image.Resampling.BILINEAR))


def luminance(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """Grey by the weights of BT.601, as most picture libraries have it."""
    grey = image.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
    return np.round(grey).astype(np.uint8)
