"""What a network sees of a face whose place is known: normalised patches, or plain crops.

Millimetres in camera space, pixels (x, y), uint8 pictures.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from gaze_jax import cameras, geometry, normalization
from gaze_jax.cameras import Intrinsics
from gaze_jax.gaze_set import FACE, LEFT, RIGHT
from gaze_jax.model import Model
from gaze_jax.normalization import CAMERAS, VirtualCamera
from gaze_jax.people.placing import Placed

# Pictures are padded to multiples of this, so that pictures of many sizes share few compiled programs.
_SIZE_STEP = 256
_CORNERS = np.asarray([[0, 0], [1, 0], [1, 1], [0, 1]])


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


def default_camera(model: Model, name: str = "") -> VirtualCamera:
    """The virtual camera of a name, or the usual one of networks that look at pictures of this size.

    Raises:
      ValueError: there is none.
    """
    if name and name not in CAMERAS:
        raise ValueError(f"no virtual camera is called {name!r}; known are {', '.join(CAMERAS)}")
    height, width = model.size[:2]
    if name and width * CAMERAS[name].height == height * CAMERAS[name].width:
        # A data set that is read at another size than the camera's shows the same, in finer or coarser pixels.
        named = CAMERAS[name]
        focal_px = named.focal_px * width / named.width
        return dataclasses.replace(named, width=width, height=height, focal_px=focal_px)
    fitting = [c for c in CAMERAS.values() if (c.height, c.width) == (height, width)]
    if name or not fitting:
        known = [CAMERAS[name]] if name else CAMERAS.values()
        raise ValueError(
            f"{model.name} looks at {width} x {height} pictures, and no virtual camera takes such: "
            + ", ".join(f"{c.name} {c.width} x {c.height}" for c in known)
        )
    # Two cameras take faces of 224 x 224; most data sets were made with this one.
    return next((c for c in fitting if c.name == "eth_face"), fitting[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One picture for the network.

    Attributes:
      patch: uint8, as training data were made.
      side: LEFT, RIGHT (mirrored into left-eye form) or FACE.
      head_rad: (pitch, yaw) of the head in the space of the patch, mirrored with it; 0 where it is not known.
      norm: R of the normalisation, before mirroring.
      corners_px: where its corners lie in the picture, lens distortion included; NaN behind the camera.
    """

    patch: UInt8[np.ndarray, "H W c"]
    side: int
    head_rad: Float[np.ndarray, " 2"]
    norm: Float[np.ndarray, "3 3"]
    corners_px: Float[np.ndarray, "4 2"]


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


def plan(
    intrinsics: Intrinsics,
    rotation: Float[np.ndarray, "3 3"],
    reference_mm: Float[np.ndarray, " 3"],
    camera: Viewer,
) -> normalization.Normalization:
    """`normalization.plan` as NumPy arrays; a plain crop is not scaled, and turned at most to its ray."""
    if isinstance(camera, PlainCrop):
        norm = np.eye(3)
        if camera.along_ray:
            any_camera = CAMERAS["eth_face"]
            turned = normalization.plan(intrinsics.matrix, np.eye(3), reference_mm, any_camera)
            norm = np.asarray(turned.R, np.float64)
        return normalization.Normalization(norm, np.ones(()), np.eye(3))  # pyright: ignore
    planned = normalization.plan(intrinsics.matrix, rotation, reference_mm, camera)
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
      reference: what a face is centred on (`face_model.reference_point`).
    """
    wanted = (("left_eye", LEFT), ("right_eye", RIGHT)) if eyes else ((reference, FACE),)
    views = []
    for kind, side in wanted:
        at_mm = placed.reference_mm(kind)
        if isinstance(camera, PlainCrop):
            patch, square = _crop(image, at_mm, intrinsics, camera)
            norm = plan(intrinsics, placed.rotation, at_mm, camera).R
            left, top, right, bottom = np.asarray(square) - 0.5
            corners = np.asarray([[left, top], [right, top], [right, bottom], [left, bottom]])
            rays = _rays(intrinsics.matrix, corners)
        else:
            patch, planned = normalization.normalize(
                image, intrinsics.matrix, placed.rotation, at_mm, camera
            )
            norm = planned.R
            corners = _CORNERS * [camera.width, camera.height] - 0.5
            rays = _rays(np.asarray(planned.warp, np.float64) @ intrinsics.matrix, corners)
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
        views.append(
            View(
                patch=patch,
                side=side,
                head_rad=head.astype(np.float32),
                norm=norm,
                corners_px=cameras.project(rays, intrinsics),
            )
        )
    return views


def _rays(matrix: Float[np.ndarray, "3 3"], pixels: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """Points of camera space that a matrix takes to these pixels."""
    return np.linalg.solve(matrix, np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1).T).T


def _crop(
    image: Array, at_mm: Float[np.ndarray, " 3"], intrinsics: Intrinsics, camera: PlainCrop
) -> tuple[UInt8[np.ndarray, "H W 3"], list[int]]:
    """The square around a point of space, resized, black beyond the picture; and left, top, right, bottom."""
    x, y = intrinsics.matrix[:2] @ (at_mm / at_mm[2])
    half = 0.5 * camera.side_mm * float(intrinsics.matrix[0, 0]) / float(at_mm[2])
    corners = [round(value) for value in (x - half, y - half, x + half, y + half)]
    square = Image.fromarray(np.asarray(image)).crop(tuple(corners))
    size = (camera.width, camera.height)
    return np.asarray(square.resize(size, Image.Resampling.BILINEAR)), corners


def luminance(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """Grey by the weights of BT.601, as most picture libraries have it."""
    grey = image.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)
    return np.round(grey).astype(np.uint8)
