"""Style shifts against pillow, scipy and colorsys; severity, keys, references and the reference set."""

import colorsys

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance

from gba_jax import datasets, fourier, shifts
from gba_jax.shifts import LEVELS, Shift
from tests.gba_jax import trees

KEYS = jax.random.split(jax.random.key(7), 6)


@pytest.fixture(scope="module")
def images():
    """Pictures with colours, greys, black and white."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 36, 34, 3)).astype(np.uint8)
    pixels[:, :2], pixels[:, 2:4], pixels[:, 4:6] = 0, 255, 128
    return pixels


@pytest.fixture(scope="module")
def references():
    smooth = scipy.ndimage.gaussian_filter(
        np.random.default_rng(1).uniform(size=(3, 12, 12, 3)), (0, 2, 2, 0)
    )
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def _apply(images, kind, severity, references=None, keys=KEYS):
    got = shifts.apply(images, Shift(kind, severity), references, key=keys[: len(images)])
    return np.asarray(got)


def _close(got, expected, most):
    """Largest difference of grey levels, without unsigned arithmetic."""
    worst = np.abs(got.astype(int) - expected.astype(int)).max(axis=(1, 2, 3))
    assert worst.max() <= most, worst


def _either(got, ways, most):
    """Each picture is one of the two ways, and both occur."""
    error = [np.abs(got.astype(int) - way.astype(int)).max(axis=(1, 2, 3)) for way in ways]
    assert np.all(np.minimum(*error) <= most), error
    assert 0 < np.sum(error[0] < error[1]) < len(got)


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_severities_grow_from_no_change(images, references, kind):
    levels = [_apply(images, kind, s, references) for s in (0, 1, 2, 3)]
    for got in levels:
        assert got.dtype == np.uint8
        assert got.shape == images.shape
    np.testing.assert_array_equal(levels[0], images)
    changed = [np.mean((got.astype(float) - images) ** 2) for got in levels]
    assert changed[0] < changed[1] < changed[2] < changed[3]


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_same_key_same_picture_whatever_the_batch(images, references, kind):
    got = _apply(images, kind, 3, references)
    np.testing.assert_array_equal(got, _apply(images, kind, 3, references))
    mixed = np.array([4, 0, 2, 2, 1, 5])
    _close(_apply(images[mixed], kind, 3, references, KEYS[mixed]), got[mixed], 1)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_blur_is_that_of_scipy(images, severity):
    """On float pictures scipy has no rounding of its own; the kernel is wider than the picture at severity 3."""
    deviation = LEVELS["blur"][severity - 1]
    expected = scipy.ndimage.gaussian_filter(
        images.astype(float), (0, deviation, deviation, 0), mode="reflect", truncate=4.0
    )
    got = _apply(images, "blur", severity)
    assert np.abs(got - expected).max() <= 0.51


@pytest.mark.parametrize("severity", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast)],
)
def test_brightness_and_contrast_are_those_of_pillow(images, kind, enhance, severity):
    """Pillow rounds the mean grey to a level and cuts off fractions, so that a strong contrast may be a few levels away."""
    level = LEVELS[kind][severity - 1]
    ways = [
        np.stack([np.asarray(enhance(Image.fromarray(x)).enhance(f)) for x in images])
        for f in (level, 1 / level)
    ]
    _either(_apply(images, kind, severity), ways, 1 if kind == "brightness" else 1 + level / 2)


def test_greyscale_is_that_of_pillow(images):
    grey = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in images])
    full = _apply(images, "greyscale", 3)
    _close(full, np.repeat(grey[..., None], 3, axis=-1), 1)
    for severity, level in ((1, 1 / 3), (2, 2 / 3)):
        expected = np.round(images + level * (full.astype(float) - images))
        _close(_apply(images, "greyscale", severity), expected, 1)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_hue_is_that_of_colorsys(images, severity):
    degrees = LEVELS["hue"][severity - 1]
    ways = []
    for turn in (degrees / 360, -degrees / 360):
        turned = [colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in images.reshape(-1, 3)]
        turned = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in turned]
        ways.append(np.round(255 * np.array(turned)).reshape(images.shape))
    _either(_apply(images, "hue", severity), ways, 1)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_noise_has_its_deviation(severity):
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    got = _apply(grey, "noise", severity).astype(float) - 128
    level = 255 * LEVELS["noise"][severity - 1]
    assert abs(got.std() / level - 1) < 0.03
    assert abs(got.mean()) < 0.05 * level
    assert abs(np.corrcoef(got[0].ravel(), got[1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("kind", shifts.BORROWING)
def test_amplitudes_come_from_one_of_the_references(images, references, kind):
    """At full strength each picture is the library's swap with one reference, resized; not always the same one."""
    size = images.shape[1:3]
    fitted = jax.image.resize(references.astype(np.float32) / 255, (3, *size, 3), "bilinear")
    x = images.astype(np.float32) / 255
    swap = fourier.amplitude_swap if kind == "apr" else lambda a, b: fourier.fda(a, b, beta=0.09)
    ways = np.stack([np.clip(swap(x, fitted[n : n + 1]), 0, 1) * 255 for n in range(3)])
    got = _apply(images, kind, 3, references)
    error = np.abs(got[None] - np.round(ways)).max(axis=(2, 3, 4))
    assert np.all(error.min(axis=0) <= 1), error
    assert len(set(error.argmin(axis=0))) > 1


def test_weak_apr_mixes_amplitudes(images, references):
    """A third of the amplitudes: by the definition, in numpy."""
    one = references[:1]
    got = _apply(images, "apr", 1, one)
    size = images.shape[1:3]
    fitted = np.asarray(
        jax.image.resize(one.astype(np.float32) / 255, (1, *size, 3), "bilinear"), float
    )
    f, g = (np.fft.fft2(x, axes=(1, 2)) for x in (images / 255, fitted))
    amplitude = np.abs(f) * 2 / 3 + np.abs(g) / 3
    expected = np.fft.ifft2(amplitude * np.exp(1j * np.angle(f)), axes=(1, 2)).real
    _close(got, np.round(255 * np.clip(expected, 0, 1)), 1)


def test_a_tiny_picture_survives_everything(references):
    one = np.full((1, 1, 2, 3), 77, np.uint8)
    for kind in ("blur", "fda"):
        assert _apply(one, kind, 3, references).shape == one.shape


def test_the_suite_is_all_of_it():
    assert len(shifts.SUITE) == 24
    assert {s.kind for s in shifts.SUITE} == set(shifts.KINDS)


def test_the_reference_set_spans_the_data_set(tmp_path):
    pixels = trees.folder(tmp_path)
    dataset = datasets.read("folder", tmp_path, "all")
    got = shifts.reference_set(dataset, count=16, side=8)
    assert got.shape == (2, 8, 8, 3)
    assert got.dtype == np.uint8
    expected = Image.fromarray(pixels["a"]).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got[0], np.asarray(expected))


def test_problems(images):
    with pytest.raises(ValueError, match=r"kind='fog'.*noise, blur.*severity=4"):
        Shift("fog", 4)
    with pytest.raises(ValueError, match=r"\(3,\) for 6 pictures"):
        shifts.apply(images, Shift("noise", 1), key=KEYS[:3])
    with pytest.raises(ValueError, match=r"'apr'.*references="):
        shifts.apply(images, Shift("apr", 1), key=KEYS)
    with pytest.raises(TypeError, match="float32"):
        shifts.apply(images.astype(np.float32), Shift("blur", 1), key=KEYS)
