"""Label maps for people: a colour a class, and a picture under its labels with contours, names and a legend.

Colours are chosen one after the other in OKLab (Ottosson 2020), where distances are what the eye sees: each is the
farthest from all before it. The n-th colour never depends on how many there are, so a class keeps its colour when
others are added behind it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image, ImageDraw, ImageFilter

from core_jax.train.report import INK, PALETTE

UNLABELLED = "unlabelled"
_FILL = 0.5
# Small pictures are enlarged to about this long side, so that names can be read on them.
_SIDE = 720
# Pixels of a label map beyond which the blurred outline of a class is not seen.
_REACH = 4
_MOST_ENTRIES = 40
_MOST_LETTERS = 36
_NARROWEST = 300

# Name, share of the picture, colour; what has no colour has an empty box.
Entry = tuple[str, float, tuple[int, ...] | None]

_TO_LMS = np.asarray(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.asarray(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def colours(count: int) -> UInt8[np.ndarray, "C 3"]:
    """The first `count` colours, RGB; from about 5,000 on they repeat."""
    return np.resize(_all_colours(), (count, 3))


@functools.cache
def _all_colours() -> np.ndarray:
    """Every colour of a grid that is neither pale nor dark, grey nor glaring, in the order of farthest-point sampling."""
    levels = np.linspace(0, 255, 20).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    fair = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.88) & (chroma > 0.07) & (chroma < 0.24)
    # The house's colours, which are told apart under every common colour blindness, come first.
    first = np.asarray([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PALETTE], np.uint8)
    grid = np.concatenate([first, grid[fair]])
    lab = oklab(grid)
    order = list(range(len(first)))
    distance = np.full(len(grid), np.inf)
    for n in range(len(grid)):
        if n >= len(order):
            order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[order[n]], axis=1))
        # Chosen ones are out, even where a colour stands on the grid twice.
        distance[order[: n + 1]] = -1.0
    return grid[order]


def oklab(rgb: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """From sRGB to OKLab: lightness in [0, 1], then green to red and blue to yellow."""
    x = rgb.astype(np.float64) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int32[np.ndarray, "H W"],
    names: Sequence[str],
    palette: UInt8[np.ndarray, "C 3"],
) -> Image.Image:
    """A picture under its label map.

    Classes are filled, outlined, named where their name has room, and listed in a legend with their share of the picture.
    What is unlabelled keeps the picture's own colours. Small pictures are enlarged.

    Args:
      image: the picture.
      labels: class of each pixel, -1 for none.
      names: of the classes.
      palette: their colours.
    """
    height, width = labels.shape
    factor = max(1, round(_SIDE / max(height, width)))
    size = (height * factor, width * factor)
    shown = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    present, counts = np.unique(labels, return_counts=True)
    shares: dict[int, float] = dict(zip(present.tolist(), (counts / labels.size).tolist()))
    large = _enlarge(labels, size) if factor > 1 else labels
    unit = max(1, round(max(size) / 400))
    painted = Image.fromarray(_paint(np.asarray(shown), large, palette, unit))
    order = sorted((c for c in shares if c >= 0), key=lambda c: -shares[c])
    font = _font(min(22, max(13, max(size) // 48)))
    _write_names(painted, large, [(c, _short(names[c])) for c in order], font)
    entries: list[Entry] = [
        (_short(names[c]), shares[c], tuple(palette[c].tolist())) for c in order
    ]
    if -1 in shares:
        entries.append((UNLABELLED, shares[-1], None))
    return _with_legend(painted, entries, font)


def _enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels at a larger size with smooth outlines: each pixel takes the class whose blurred mask is strongest."""
    from scipy import ndimage

    factor = size[0] // labels.shape[0]
    best, result = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    lowest = int(labels.min())
    for label, box in enumerate(ndimage.find_objects(labels - lowest + 1), lowest):
        if box is None:
            continue
        # A blurred mask is 0 a few pixels from where the class is: only there is it looked at.
        near = tuple(slice(max(0, part.start - _REACH), part.stop + _REACH) for part in box)
        mask = Image.fromarray(np.where(labels[near] == label, np.uint8(255), np.uint8(0)))
        mask = mask.resize((mask.width * factor, mask.height * factor), Image.Resampling.BILINEAR)
        value = np.asarray(mask.filter(ImageFilter.GaussianBlur(factor / 2))).astype(np.int32)
        place = tuple(slice(p.start * factor, p.stop * factor) for p in near)
        stronger = value > best[place]
        result[place] = np.where(stronger, np.int32(label), result[place])
        best[place] = np.maximum(best[place], value)
    return result


def _paint(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, unit: int) -> np.ndarray:
    """Fills and outlines: a white line between classes, the class's own colour on either side of it."""
    from scipy import ndimage

    # Unlabelled pixels index the last row, which is not used.
    table = np.concatenate([palette, palette[:1]]).astype(np.float32)
    colour, labelled = table[labels], np.asarray(labels >= 0)[..., None]
    base = image.astype(np.float32)
    # Under a colour only the brightness of the picture is left: a yellow thing in blue would look green.
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    result = np.where(labelled, (1 - _FILL) * grey + _FILL * colour, base)
    line = np.zeros(labels.shape, bool)
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    line[1:] |= labels[1:] != labels[:-1]
    rim = np.asarray(ndimage.binary_dilation(line, iterations=2 * unit), bool)[..., None] & labelled
    result = np.where(rim, colour, result)
    line = np.asarray(ndimage.binary_dilation(line, iterations=unit - 1)) if unit > 1 else line
    result = np.where(line[..., None], 255.0, result)
    return result.round().astype(np.uint8)


def _write_names(
    picture: Image.Image, labels: np.ndarray, names: Sequence[tuple[int, str]], font: Any
) -> None:
    """Writes each name into the largest region of its class, at the point farthest from its border, where it fits."""
    from scipy import ndimage

    draw = ImageDraw.Draw(picture)
    for label, name in names[:_MOST_ENTRIES]:
        # The border of the picture is one of the region's.
        mask = np.pad(labels == label, 1)
        depth = np.asarray(ndimage.distance_transform_edt(mask))[1:-1, 1:-1]
        y, x = divmod(int(depth.argmax()), depth.shape[1])
        left, top, right, bottom = draw.textbbox((x, y), name, font=font, anchor="mm")
        inside = 0 <= left < right < picture.width and 0 <= top < bottom < picture.height
        if (
            not inside
            or not (labels[int(top) : int(bottom), int(left) : int(right)] == label).all()
        ):
            continue
        style = {"fill": "white", "stroke_width": max(2, font.size // 7), "stroke_fill": INK}
        draw.text((x, y), name, font=font, anchor="mm", **style)


def _with_legend(
    picture: Image.Image,
    entries: Sequence[Entry],
    font: Any,
) -> Image.Image:
    """The legend below a picture, or on the right of one that is taller than wide."""
    rest = entries[_MOST_ENTRIES:]
    texts = [
        (f"{name}  {_percent(share)}", colour) for name, share, colour in entries[:_MOST_ENTRIES]
    ]
    if rest:
        texts.append((f"{len(rest)} more  {_percent(sum(e[1] for e in rest))}", None))
    line, gap, swatch = round(1.6 * font.size), font.size, font.size
    lengths = [int(font.getlength(text)) + swatch + 2 * gap for text, _ in texts]
    right = picture.height > picture.width
    room = picture.height - gap if right else max(picture.width, _NARROWEST) - gap
    rows = max(1, room // line) if right else _rows(lengths, room)
    widths = [max(lengths[i : i + rows]) for i in range(0, len(lengths), rows)]
    block = (gap + sum(widths), gap + min(rows, len(texts)) * line)
    if right:
        canvas = (picture.width + block[0], max(picture.height, block[1]))
        corner = (picture.width + gap, gap)
    else:
        canvas = (max(picture.width, block[0]), picture.height + block[1])
        corner = (gap, picture.height + gap)
    result = Image.new("RGB", canvas, "white")
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for i, (text, colour) in enumerate(texts):
        x = corner[0] + sum(widths[: i // rows])
        y = corner[1] + i % rows * line
        box = (x, y, x + swatch, y + swatch)
        draw.rounded_rectangle(box, radius=3, fill=colour, outline=colour or "#8A8F98", width=2)
        draw.text((x + swatch + gap // 2, y + swatch // 2), text, font=font, fill=INK, anchor="lm")
    return result


def _rows(lengths: Sequence[int], room: int) -> int:
    """The fewest rows in which texts, column by column, are no wider than the room."""
    total = lambda rows: sum(max(lengths[i : i + rows]) for i in range(0, len(lengths), rows))
    return next((n for n in range(1, len(lengths)) if total(n) <= room), len(lengths))


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 0.1 else "< 0.1 %"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1].rstrip() + "…"


@functools.cache
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings: unlike pillow's own font it has accents, Greek and Cyrillic."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
