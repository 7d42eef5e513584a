"""Decoding: modes, orientation, damage; cropping: nothing outside the box is seen."""

import io

import numpy as np
import pytest
from PIL import Image

from core_jax.data import images


def picture(height=12, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_round_trip(tmp_path):
    pixels = picture()
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(pixels)))
    np.testing.assert_array_equal(images.decode(tmp_path / "a.png"), pixels)


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(picture(12, 20)), "JPEG", exif=exif)
    assert images.decode_bytes(data, "a").shape == (12, 20, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    source = Image.fromarray(picture()).convert(mode)
    data = encode(source, "TIFF" if mode == "CMYK" else "PNG")
    found = images.decode_bytes(data, "a")
    assert (found.shape, found.dtype) == ((12, 20, 3), np.uint8)
    if mode in ("L", "LA"):
        np.testing.assert_array_equal(found[..., 0], np.asarray(source.convert("L")))


def test_transparent_palette_keeps_its_colours():
    source = Image.fromarray(picture()).convert("P")
    expected = np.asarray(source.convert("RGB"))
    data = encode(source, "PNG", transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(images.decode_bytes(data, "a"), expected)


def test_sixteen_bit_grey_keeps_its_upper_byte():
    grey = np.arange(0, 65536, 256, np.uint16).reshape(16, 16) + np.uint16(7)
    found = images.decode_bytes(encode(Image.fromarray(grey)), "a")
    np.testing.assert_array_equal(found[..., 1].ravel(), np.arange(256))


def test_damage_names_the_file(tmp_path):
    whole = encode(Image.fromarray(picture(64, 64)), "JPEG")
    for name, data in (
        ("cut.jpg", whole[: len(whole) // 2]),
        ("text.png", b"hello"),
        ("none.gif", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(images.ImageError, match=name):
            images.decode(tmp_path / name)
    with pytest.raises(images.ImageError, match=r"absent\.png cannot be read"):
        images.decode(tmp_path / "absent.png")


def test_names():
    assert images.is_image_name("A.JPG")
    assert not images.is_image_name("notes.txt")
    assert not images.is_image_name(".hidden.png")


def test_crop_sees_the_box_alone():
    pixels = picture(40, 50)
    box = (3, 7, 20, 31)
    found = images.crop_resize(pixels, box, 8)
    elsewhere = np.zeros_like(pixels)
    elsewhere[3:23, 7:38] = pixels[3:23, 7:38]
    np.testing.assert_array_equal(images.crop_resize(elsewhere, box, 8), found)
    np.testing.assert_array_equal(
        images.crop_resize(pixels, (2, 5, 16, 16), 16), pixels[2:18, 5:21]
    )


def test_crop_is_antialiased_bicubic():
    """Against the kernel written out: cubic with a = -0.5, stretched by the scale, weights normalised."""
    pixels = picture(40, 40, seed=3)
    size, scale = 10, 4.0
    weights = np.zeros((size, 40))
    for i in range(size):
        x = np.abs((np.arange(40) + 0.5 - (i + 0.5) * scale) / scale)
        cubic = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4))
        weights[i] = np.where(x < 2, cubic, 0)
        weights[i] /= weights[i].sum()
    expected = np.einsum("ih,jw,hwc->ijc", weights, weights, pixels.astype(np.float64))
    found = images.crop_resize(pixels, (0, 0, 40, 40), size)
    assert np.max(np.abs(found - np.clip(expected, 0, 255))) <= 1.5


@pytest.mark.parametrize("box", [(0, 0, 13, 5), (0, 0, 0, 5), (-1, 0, 5, 5), (5, 18, 5, 3)])
def test_a_box_beyond_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="does not lie inside"):
        images.crop_resize(picture(12, 20), box, 8)
