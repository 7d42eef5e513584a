"""The looks of a scene. Three are used in training and in `world/objects`; the others exist for tests of robustness.

A style maps (image [B 3 S S] in [0, 1], signed distance to the nearest object outline in pixels [B S S], pixel noise
[B 3 S S] in [-1, 1], strength [B] in [0, 1)) to a new image, with exact float32 operations only (see `shapes`).
"""

from collections.abc import Callable

import numpy as np

_F = np.float32
Style = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _grey(image: np.ndarray) -> np.ndarray:
    red, green, blue = image[:, 0], image[:, 1], image[:, 2]
    return (_F(0.3) * red + _F(0.59) * green + _F(0.11) * blue)[:, None]


def _strength(strength: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low + (high - low) * strength).astype(np.float32)[:, None, None, None]


def _clean(image, distance, noise, strength):
    return image


def _sketch(image, distance, noise, strength):
    """Low contrast, grey cast, dark outline."""
    image = image + (_grey(image) - image) * _strength(strength, 0.35, 0.6)
    image = _F(0.55) + (image - _F(0.5)) * _F(0.55)
    width = _F(image.shape[-1] / 64)
    line = np.clip(_F(0.5) + _F(0.9) * width - np.abs(distance), _F(0), _F(1))[:, None]
    return image + (_F(0.08) - image) * line


def _grain(image, distance, noise, strength):
    """Square-root tone and strong noise."""
    return np.sqrt(np.clip(image, _F(0), _F(1))) + noise * _strength(strength, 0.15, 0.35)


def _cast(image, distance, noise, strength):
    """Warm or cold light: the channels are scaled apart."""
    side = 2 * strength - 1
    tilt = np.copysign(0.15 + 0.2 * np.abs(side), side).astype(np.float32)[:, None, None, None]
    gain = np.concatenate([1 + tilt, np.ones_like(tilt), 1 - tilt], axis=1).astype(np.float32)
    return image * gain


def _blur(image, distance, noise, strength):
    """Two passes of a box three pixels wide at 64 px (the box grows with the size)."""
    radius = max(1, image.shape[-1] // 64)
    for _ in range(2):
        for axis in (2, 3):
            image = _box(image, radius, axis)
    return image


def _box(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    pad = [(0, 0)] * 4
    pad[axis] = (radius, radius)
    padded = np.pad(image, pad, mode="edge")
    length = image.shape[axis]
    # Added in a fixed order: a library reduction may reorder the sum from machine to machine.
    total = np.take(padded, np.arange(length), axis)
    for shift in range(1, 2 * radius + 1):
        total = total + np.take(padded, np.arange(shift, shift + length), axis)
    return total * _F(1 / (2 * radius + 1))


def _contrast(image, distance, noise, strength):
    """Hard contrast around the middle grey."""
    return _F(0.5) + (image - _F(0.5)) * _strength(strength, 1.6, 2.4)


def _poster(image, distance, noise, strength):
    """Four tones a channel."""
    return np.floor(np.clip(image, _F(0), _F(0.999)) * _F(4)) * _F(1 / 3)


STYLES: dict[str, Style] = {
    "clean": _clean,
    "sketch": _sketch,
    "grain": _grain,
    "cast": _cast,
    "blur": _blur,
    "contrast": _contrast,
    "poster": _poster,
}
STYLE_NAMES: tuple[str, ...] = tuple(STYLES)
TRAIN_STYLES: tuple[str, ...] = ("clean", "sketch", "grain")
TEST_STYLES: tuple[str, ...] = tuple(name for name in STYLES if name not in TRAIN_STYLES)

# A fixed style, or styles with their shares.
StyleMix = str | tuple[tuple[str, float], ...]


def choose(mix: StyleMix, u: np.ndarray) -> np.ndarray:
    """Style index into `STYLE_NAMES` for every uniform number.

    Args:
      mix: a style name, or (name, share) pairs; the shares are divided by their sum.
      u: uniform numbers in [0, 1), [B].

    Returns:
      int32 [B].

    Raises:
      ValueError: a name is unknown, or a share is negative, or all are zero.
    """
    pairs = ((mix, 1.0),) if isinstance(mix, str) else tuple(mix)
    problems = [
        f"style {name!r} is not one of {', '.join(STYLES)}"
        for name, _ in pairs
        if name not in STYLES
    ]
    problems += [
        f"share {share!r} of style {name!r} is negative" for name, share in pairs if share < 0
    ]
    total = float(sum(share for _, share in pairs))
    if total <= 0:
        problems.append(f"the shares of the styles add up to {total}; expected more than zero")
    if problems:
        raise ValueError("; ".join(problems))
    codes = np.array([STYLE_NAMES.index(name) for name, _ in pairs], np.int32)
    edges = np.cumsum([share / total for _, share in pairs])[:-1]
    return codes[np.searchsorted(edges, u, side="right")]
