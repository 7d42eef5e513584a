"""Pictures to squares, against HuggingFace's processor on pillow."""

import numpy as np
import PIL.Image
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import core_jax.clip as clip


def picture(height: int, width: int, mode: str = "RGB") -> PIL.Image.Image:
    """Smooth colours with noise and a hard edge: resampling errors show."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2, "CMYK": 4}.get(mode, 3)
    image = (
        np.stack([np.sin(x / 7 + c) + np.cos(y / 5 - c) for c in range(channels)], -1) * 50 + 128
    )
    image += rng.normal(size=image.shape) * 20
    image[height // 3 :, width // 2 :] += 60
    image = np.clip(image, 0, 255).astype(np.uint8)
    if mode in ("1", "P"):
        return PIL.Image.fromarray(image).convert(mode)
    return PIL.Image.fromarray(image[..., 0] if channels == 1 else image, mode=None).convert(mode)


def theirs(image: PIL.Image.Image, size: int) -> np.ndarray:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    out = processor(image, return_tensors="np")["pixel_values"][0]
    return np.asarray(out, np.float32).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 64),
        (65, 97),
        (211, 100),
        (37, 640),
        (480, 33),
        (9, 5),
        (1, 1),
        (1, 40),
        (63, 64),
        (301, 299),
    ],
)
@pytest.mark.parametrize("size", [64, 33])
def test_within_one_grey_level(height, width, size):
    image = picture(height, width)
    ours = clip.preprocess(image, size)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.uint8
    difference = np.abs(ours.astype(np.float32) - theirs(image, size))
    assert difference.max() <= 1.0
    np.testing.assert_array_equal(clip.preprocess(np.asarray(image), size), ours)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes(mode):
    image = picture(50, 71, mode)
    difference = np.abs(clip.preprocess(image, 32).astype(np.float32) - theirs(image, 32))
    assert difference.max() <= 1.0


def test_transparent_palettes():
    image = picture(50, 71, "P")
    image.info["transparency"] = bytes([0, 128, 255] * 40)
    difference = np.abs(clip.preprocess(image, 32).astype(np.float32) - theirs(image, 32))
    assert difference.max() <= 1.0


def test_resize_is_height_then_width():
    image = np.asarray(picture(20, 30))
    assert clip.resize(image, (10, 40)).shape == (10, 40, 3)
    np.testing.assert_array_equal(clip.resize(image, (20, 30)), image)
    # Antialiased: a fine checkerboard shrinks to its mean.
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    small = clip.resize(board, (8, 8)).astype(int)
    assert np.abs(small - 127).max() <= 2


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\), got"):
        clip.preprocess(image, 8)
