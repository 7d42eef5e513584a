"""The layers of a scene: background, painted objects, style, quantisation; shared by every kind of scene.

Images are planar float32 [B 3 S S] with values around [0, 1] until `quantise`. Random numbers arrive as uniforms, so
that these functions are pure; only exactly rounded operations touch them (see `shapes`).
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

from core_jax.world import attributes as attrs
from core_jax.world import shapes, styles

_F = np.float32
OBJECT_SLOTS = 12
_DISTRACTORS = 3
BACKGROUND_SLOTS = 14 + 6 * _DISTRACTORS


def background(
    u: Float64[np.ndarray, "B slots"], noise: Float32[np.ndarray, "B 3 S S"], size: int
) -> Float32[np.ndarray, "B 3 S S"]:
    """Colour gradient between four dull corner colours, small grey distractors and fine noise.

    Args:
      u: uniform numbers, `BACKGROUND_SLOTS` per scene.
      noise: pixel noise in [-1, 1].
      size: side in pixels, S.
    """
    x = ((np.arange(size) + 0.5) / size).astype(np.float32)
    across, down = x[None, None, None, :], x[None, None, :, None]
    # A common grey level, and a tint of its own for every corner.
    level = (0.1 + 0.4 * u[:, 0]).astype(np.float32)[:, None, None]
    corners = (level + 0.3 * (u[:, 1:13].astype(np.float32).reshape(-1, 3, 4) - _F(0.5)))[..., None]
    corners = corners[..., None]
    top = corners[:, :, 0] + (corners[:, :, 1] - corners[:, :, 0]) * across
    bottom = corners[:, :, 2] + (corners[:, :, 3] - corners[:, :, 2]) * across
    image = top + (bottom - top) * down
    for k in range(_DISTRACTORS):
        _distractor(image, u[:, 14 + 6 * k : 20 + 6 * k], x)
    image += noise * (0.02 + 0.06 * u[:, 13]).astype(np.float32)[:, None, None, None]
    return image


def _distractor(image: np.ndarray, u: np.ndarray, x: np.ndarray) -> None:
    size = len(x)
    v = u.astype(np.float32)[:, :, None, None]
    dx, dy = np.abs(x[None, None, :] - v[:, 0]), np.abs(x[None, :, None] - v[:, 1])
    width, height = _F(0.02) + _F(0.05) * v[:, 2], _F(0.02) + _F(0.05) * v[:, 3]
    box = np.maximum(dx - width, dy - height)
    disc = np.sqrt(dx * dx + dy * dy) - width
    cover = np.clip(_F(0.5) - np.where(v[:, 4] < 0.5, box, disc) * _F(size), _F(0), _F(1))
    grey = _F(0.15) + _F(0.6) * v[:, 5]
    for channel in range(3):
        plane = image[:, channel]
        plane += (grey - plane) * cover


def paint(
    image: Float32[np.ndarray, "B 3 S S"],
    u: Float64[np.ndarray, "B slots"],
    triples: Int[np.ndarray, "B 3"],
    radii: tuple[float, float],
    centres: tuple[float, float],
) -> Float32[np.ndarray, "B S S"]:
    """Draws one object into every image, in place.

    Args:
      image: what lies behind; changed.
      u: uniform numbers, `OBJECT_SLOTS` per scene: radius, centre, tilt, three jitters, texture angle, period, two phases.
      triples: (shape, colour, texture) of every object.
      radii: least and largest radius as fractions of the side.
      centres: least and largest coordinate of the centre as fractions of the side.

    Returns:
      Signed distance to the outline in pixels, negative inside.
    """
    size = image.shape[-1]
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    distance = np.empty((len(u), size, size), np.float32)
    radius = radii[0] + (radii[1] - radii[0]) * u[:, 0]
    cx, cy = (centres[0] + (centres[1] - centres[0]) * u[:, k] for k in (1, 2))
    cos, sin = _turn(0.3 * u[:, 3] - 0.15)
    tex_cos, tex_sin = _turn(2 * u[:, 7] - 1)
    rate = 1.65 + 0.55 * u[:, 8]
    colour = np.asarray(attrs.PALETTE)[triples[:, 1]]
    colour = (colour + attrs.COLOUR_JITTER * (2 * u[:, 4:7] - 1)).astype(np.float32)
    numbers = {
        "cx": cx,
        "cy": cy,
        "cos": cos / radius,
        "sin": sin / radius,
        "pixels": radius * size,
        "u_cos": tex_cos * rate,
        "u_sin": tex_sin * rate,
        "u_phase": u[:, 9],
        "v_phase": u[:, 10],
        "period": radius * size / rate,
    }
    column = {name: v.astype(np.float32)[:, None, None] for name, v in numbers.items()}
    for shape, texture in np.unique(triples[:, [0, 2]], axis=0):
        rows = np.flatnonzero((triples[:, 0] == shape) & (triples[:, 2] == texture))
        c = {name: v[rows] for name, v in column.items()}
        dx, dy = grid[None, None, :] - c["cx"], c["cy"] - grid[None, :, None]
        x, y = c["cos"] * dx + c["sin"] * dy, c["cos"] * dy - c["sin"] * dx
        away = shapes.distance(int(shape), x, y) * c["pixels"]
        a, b = (
            c["u_cos"] * x + c["u_sin"] * y + c["u_phase"],
            c["u_cos"] * y - c["u_sin"] * x + c["v_phase"],
        )
        tone = shapes.tone(int(texture), a, b, c["period"])
        cover = np.clip(_F(0.5) - away, _F(0), _F(1))
        for channel in range(3):
            plane = image[rows, channel]
            plane += (tone * colour[rows, channel][:, None, None] - plane) * cover
            image[rows, channel] = plane
        distance[rows] = away
    return distance


def _turn(half_tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle given by the tangent of its half: rational, hence exact everywhere."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def apply_styles(
    image: Float32[np.ndarray, "B 3 S S"],
    distance: Float32[np.ndarray, "B S S"],
    noise: Float32[np.ndarray, "B 3 S S"],
    codes: Int[np.ndarray, "B"],
    strength: Float64[np.ndarray, "B"],
) -> None:
    """Gives every image its style, in place.

    Args:
      image: the painted scenes; changed.
      distance: signed distance to the nearest visible outline in pixels.
      noise: the pixel noise that the background was made with.
      codes: indices into STYLE_NAMES.
      strength: uniform numbers that set how strong a style is.
    """
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        style = styles.STYLES[styles.STYLE_NAMES[code]]
        # Noise of its own: the pixel noise read the other way round is not correlated with the background's.
        image[rows] = style(image[rows], distance[rows], noise[rows, :, ::-1, ::-1], strength[rows])


def quantise(image: Float32[np.ndarray, "B 3 S S"]) -> UInt8[np.ndarray, "B S S 3"]:
    """Float [B 3 S S] in [0, 1] to uint8 [B S S 3], clipped and rounded."""
    levels = np.clip(image, _F(0), _F(1)) * _F(255) + _F(0.5)
    return levels.astype(np.uint8).transpose(0, 2, 3, 1)


def mask_box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the true pixels; zeros when there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1] - rows[0] + 1),
        int(columns[-1] - columns[0] + 1),
    )
