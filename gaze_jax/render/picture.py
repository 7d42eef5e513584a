"""Cameras before scenes: eye patches, face patches and raw frames as uint8 pictures.

A camera is a matrix from pixels (column, row, 1) to rays in the camera frame: K^-1 for a raw frame, (K_n S R)^-1 for a
normalised patch, so that a patch shows exactly what warping the frame would. All functions take one scene and run under
vmap.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from gaze_jax.gaze_set import LEFT, RIGHT
from gaze_jax.geometry import pitchyaw_to_vector, product, rotate, vector_to_pitchyaw
from gaze_jax.render import colours, eye, head, rays
from gaze_jax.render.scene import Scene

_BLUR_TAPS = 5
# What one eye with its lids needs: 1.6 px/mm in patches, up to 2.5 in frames, where heads are also rolled.
_FACE_WINDOW, _FRAME_WINDOW = (48, 72), (80, 112)
# Rows and columns that are shaded at a time; every picture is a multiple of it.
_TILE = 32
# Side of a plain crop at the distance of the face.
_CROP_MM = 230.0


def patch_camera(scene: Scene, virtual: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Pixels of a normalised patch to rays: R^T S^-1 K_n^-1.

    Args:
      scene: one scene.
      virtual: K_n.
    """
    focal, column, row = virtual[0, 0], virtual[0, 2], virtual[1, 2]
    inverse = jnp.stack(
        [
            jnp.stack([1.0 / focal, jnp.zeros_like(focal), -column / focal]),
            jnp.stack([jnp.zeros_like(focal), 1.0 / focal, -row / focal]),
            jnp.stack([jnp.zeros_like(focal), jnp.zeros_like(focal), 1.0 / scene.scale]),
        ]
    )
    return product(scene.norm.T, inverse)


def place_eye(scene: Scene, side: Array, channels: int) -> eye.Eye:
    """One eye of a scene, in left-eye form in the head frame.

    Args:
      scene: one scene.
      side: LEFT or RIGHT, a scalar.
      channels: 1 or 3.
    """
    person = scene.person
    sign = jnp.where(side == RIGHT, -1.0, 1.0)
    flip = jnp.stack([sign, jnp.ones_like(sign), jnp.ones_like(sign)])
    to_head = scene.rotation.T
    visual = jnp.where(side == RIGHT, scene.visual[1], scene.visual[0])
    axis = vector_to_pitchyaw(flip * rotate(to_head, visual))
    middle = jnp.stack([0.5 * person.eye_distance, jnp.zeros(()), jnp.zeros(())])
    return eye.Eye(
        camera=-flip * rotate(to_head, scene.translation),
        middle=middle,
        ball=middle + jnp.stack([person.ball_x, person.ball_y, person.depth]),
        optical=pitchyaw_to_vector(axis - jnp.deg2rad(person.kappa[::-1])),
        light=flip * rotate(to_head, scene.light),
        strength=scene.strength,
        ambient=scene.ambient,
        pitch_deg=jnp.rad2deg(axis[0]),
        opening=scene.opening,
        pupil_radius=scene.pupil,
        specular=scene.specular,
        iris=colours.iris(person, channels),
        sclera=colours.sclera(person, channels),
        flesh=colours.flesh(person, channels),
    )


def _left_form(scene: Scene, side: Array, camera: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Pixels to rays in the head frame, mirrored for a right eye."""
    sign = jnp.where(side == RIGHT, -1.0, 1.0)
    flip = jnp.stack([sign, jnp.ones_like(sign), jnp.ones_like(sign)])
    return flip[:, None] * product(scene.rotation.T, camera)


def eye_patch(
    scene: Scene, virtual: Float[Array, "3 3"], height: int, width: int, *, half: bool = False
) -> UInt8[Array, "height width 1"]:
    """A grey patch of one eye, right eyes mirrored into left-eye form.

    Args:
      scene: one scene.
      virtual: K_n of the patch.
      height: rows.
      width: columns.
      half: whether it is seen at half resolution and enlarged.
    """
    person = scene.person
    matrix = _left_form(scene, scene.side, patch_camera(scene, virtual))
    seen = rays.directions(matrix, height, width)
    x = jnp.linspace(-1.0, 1.0, width)[None, :] * (0.5 * width / 48.0)
    y = jnp.linspace(-1.0, 1.0, height)[:, None] * (0.5 * height / 48.0)
    fade = 1.0 + scene.gradient[0] * x + scene.gradient[1] * y
    tone = colours.skin(person, 1)[0] * (0.7 + 0.3 * scene.strength)
    skin = jnp.broadcast_to(tone * fade[None, None], (1, rays.SUBPIXELS, height, width))
    picture = jnp.mean(eye.shade(place_eye(scene, scene.side, 1), person, seen, skin), axis=1)
    picture = jnp.where(scene.side == RIGHT, picture[:, :, ::-1], picture)
    return sensor(picture, scene, half=half)


def plain_camera(scene: Scene, width: int) -> Float[Array, "3 3"]:
    """Pixels of a plain square crop around the head to rays, as a box of a detector would be cut out of a frame.

    Args:
      scene: one scene.
      width: pixels of the crop.
    """
    x, y, z = scene.reference
    step, zero = _CROP_MM / width / z, jnp.zeros_like(z)
    return jnp.stack(
        [
            jnp.stack([step, zero, x / z - 0.5 * width * step]),
            jnp.stack([zero, step, y / z - 0.5 * width * step]),
            jnp.stack([zero, zero, jnp.ones_like(z)]),
        ]
    )


def frame_camera(scene: Scene) -> Float[Array, "3 3"]:
    """Pixels of the raw frame to rays: K^-1."""
    return _inverse(scene.intrinsics)


def _inverse(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    a, b, c = matrix.T
    rows = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    return rows / jnp.sum(a * rows[0])


def whole(
    scene: Scene, camera: Float[Array, "3 3"], height: int, width: int, window: tuple[int, int]
) -> Float[Array, "3 H W"]:
    """Head, eyes and background as a camera sees them, linear colours before the sensor.

    Args:
      scene: one scene.
      camera: pixels to rays in the camera frame.
      height: rows.
      width: columns.
      window: (rows, columns) that hold one eye with its lids: only they are shaded as an eye.
    """
    person, to_head = scene.person, scene.rotation.T
    face = head.make(
        person,
        camera=-rotate(to_head, scene.translation),
        light=rotate(to_head, scene.light),
        strength=scene.strength,
        ambient=scene.ambient,
        specular=scene.specular,
        cloth=scene.cloth,
        glasses=scene.glasses,
        fringe=scene.fringe,
    )
    in_head = product(to_head, camera)

    def bare(corner: Array) -> tuple[Array, Array]:
        outside = rays.directions(camera, _TILE, _TILE, (corner[0], corner[1]))
        bright = 1.0 + scene.slope[0] * outside[0] + scene.slope[1] * outside[1]
        background = jnp.maximum(scene.background[:, None, None, None] * bright[None], 0.02)
        seen = rays.directions(in_head, _TILE, _TILE, (corner[0], corner[1]))
        return head.shade(face, person, seen, background)

    # Tile by tile everything stays in the cache of a core, and most tiles see few parts of the head.
    left, top = jnp.meshgrid(jnp.arange(0, width, _TILE), jnp.arange(0, height, _TILE))
    colour, surface = jax.lax.map(bare, jnp.stack([left.ravel(), top.ravel()], axis=1))
    colour = _joined(jnp.moveaxis(colour, 0, 2), height, width)
    surface = _joined(jnp.moveaxis(surface, 0, 1), height, width)
    for side in (LEFT, RIGHT):
        colour = _with_eye(scene, side, camera, colour, surface, window)
    colour = jax.lax.cond(
        scene.glasses > 0.0,
        lambda: head.wear_glasses(face, person, rays.directions(in_head, height, width), colour),
        lambda: colour,
    )
    return jnp.mean(colour, axis=1)


def _joined(tiles: Float[Array, "*lead T h w"], height: int, width: int) -> Array:
    """Tiles, row by row, as one picture."""
    lead, down, across = tiles.shape[:-3], height // _TILE, width // _TILE
    grid = tiles.reshape(*lead, down, across, _TILE, _TILE)
    return jnp.swapaxes(grid, -3, -2).reshape(*lead, height, width)


def _with_eye(
    scene: Scene,
    side: int,
    camera: Float[Array, "3 3"],
    colour: Float[Array, "3 4 H W"],
    surface: Float[Array, "4 H W"],
    window: tuple[int, int],
) -> Float[Array, "3 4 H W"]:
    """The picture with one eye shaded in the window around it."""
    sign = jnp.asarray(-1.0 if side == RIGHT else 1.0)
    middle = jnp.stack([0.5 * sign * scene.person.eye_distance, jnp.zeros(()), jnp.zeros(())])
    pixel = rotate(_inverse(camera), rotate(scene.rotation, middle) + scene.translation)
    rows, columns = window
    height, width = surface.shape[1:]
    # As a slice beyond the edge would be moved back inside, the corner is.
    left = jnp.clip(
        jnp.round(pixel[0] / pixel[2]).astype(jnp.int32) - columns // 2, 0, width - columns
    )
    top = jnp.clip(jnp.round(pixel[1] / pixel[2]).astype(jnp.int32) - rows // 2, 0, height - rows)
    skin = jax.lax.dynamic_slice(colour, (0, 0, top, left), (3, rays.SUBPIXELS, rows, columns))
    near = jax.lax.dynamic_slice(surface, (0, top, left), (rays.SUBPIXELS, rows, columns))
    which = jnp.asarray(side)
    seen = rays.directions(_left_form(scene, which, camera), rows, columns, (left, top))
    shaded = eye.shade(place_eye(scene, which, 3), scene.person, seen, skin, near)
    return jax.lax.dynamic_update_slice(colour, shaded, (0, 0, top, left))


def face_patch(
    scene: Scene,
    virtual: Float[Array, "3 3"],
    height: int,
    width: int,
    *,
    half: bool = False,
    plain: bool = False,
) -> UInt8[Array, "height width 3"]:
    """A patch of a whole face.

    Args:
      scene: one scene.
      virtual: K_n of the patch.
      height: rows.
      width: columns.
      half: whether it is seen at half resolution and enlarged.
      plain: whether it is a plain crop of the frame, not normalised.
    """
    camera = plain_camera(scene, width) if plain else patch_camera(scene, virtual)
    return sensor(whole(scene, camera, height, width, _FACE_WINDOW), scene, half=half)


def frame(
    scene: Scene, height: int, width: int, *, half: bool = False
) -> UInt8[Array, "height width 3"]:
    """The raw frame of a camera.

    Args:
      scene: one scene.
      height: rows.
      width: columns.
      half: whether it is seen at half resolution and enlarged.
    """
    picture = whole(scene, frame_camera(scene), height, width, _FRAME_WINDOW)
    return sensor(picture, scene, half=half)


def sensor(picture: Float[Array, "C H W"], scene: Scene, *, half: bool) -> UInt8[Array, "H W C"]:
    """What a sensor makes of light: gain, blur, low resolution, noise, clipping, 8 bits."""
    picture = _blur(scene.gain * picture, scene.blur_px)
    channels, height, width = picture.shape
    if half:
        small = picture.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        noise = _noise(scene, small.shape)
        picture = jax.image.resize(small + noise, picture.shape, "linear")
    else:
        picture = picture + _noise(scene, picture.shape)
    levels = jnp.round(255.0 * jnp.clip(picture, 0.0, 1.0)).astype(jnp.uint8)
    return jnp.moveaxis(levels, 0, -1)


def _noise(scene: Scene, shape: tuple[int, ...]) -> Array:
    return scene.noise * jax.random.normal(jax.random.key(scene.noise_seed), shape)


def _blur(picture: Float[Array, "C H W"], sigma_px: Array) -> Array:
    """Gaussian blur with edges repeated; sigma 0 changes nothing."""
    reach = _BLUR_TAPS // 2
    steps = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    taps = jnp.exp(-0.5 * (steps / jnp.maximum(sigma_px, 1e-2)) ** 2)
    taps = taps / jnp.sum(taps)
    for axis in (1, 2):
        pads = [(0, 0), (0, 0), (0, 0)]
        pads[axis] = (reach, reach)
        wide, size = jnp.pad(picture, pads, mode="edge"), picture.shape[axis]
        shifted = [
            taps[i] * jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(_BLUR_TAPS)
        ]
        picture = functools.reduce(jnp.add, shifted)
    return picture
