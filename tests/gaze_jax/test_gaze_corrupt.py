"""Corruptions and augmentation: against scipy and plain numpy, worse with severity, the same with the same key."""

import functools

import jax
import numpy as np
import pytest
import scipy.ndimage
import torch

from gaze_jax import augment, corrupt


@functools.cache
def _pictures(count=24):
    """Smooth grey pictures, wide awake in contrast, like eyes."""
    noise = np.random.default_rng(0).normal(size=(count, 36, 60))
    smooth = np.stack([scipy.ndimage.gaussian_filter(x, 2) for x in noise])
    return np.uint8(np.clip(128 + 300 * smooth, 0, 255))[..., None]


@functools.cache
def _compiled(kind):
    return jax.jit(functools.partial(corrupt.apply, kind))


def _apply(kind, x, severity, seed=0):
    """One compiled program a kind: always as many pictures, a severity for each."""
    x = np.resize(x, _pictures().shape)
    severity = np.broadcast_to(np.int32(severity), len(x))
    return np.asarray(_compiled(kind)(x, severity, key=jax.random.key(seed)))


def _change(kind, severity, seed=0):
    """Mean absolute change of every picture."""
    x = _pictures()
    got = _apply(kind, x, severity, seed)
    assert got.dtype == np.uint8
    assert got.shape == x.shape
    return np.abs(np.int32(got) - np.int32(x)).mean((1, 2, 3))


@pytest.mark.parametrize("kind", [kind for kind in corrupt.KINDS if kind != "pure_noise"])
def test_worse_with_severity_and_the_same_with_the_same_key(kind):
    means = [_change(kind, severity).mean() for severity in corrupt.SEVERITIES]
    assert np.all(np.diff(means) > 0)
    assert means[0] > 0.5
    np.testing.assert_array_equal(_change(kind, 3), _change(kind, 3))
    # A severity for each picture is that picture's own.
    mixed = np.resize(np.int32([1, 5]), len(_pictures()))
    got = _apply(kind, _pictures(), mixed)
    for severity in (1, 5):
        rows = mixed == severity
        alike = _apply(kind, _pictures(), severity)
        np.testing.assert_array_equal(got[rows], alike[rows])


@pytest.mark.parametrize(("severity", "sd"), [(1, 0.5), (5, 3.0)])
def test_defocus_is_a_gaussian(severity, sd):
    x = _pictures()
    got = _apply("defocus", x, severity)
    blur = lambda p: scipy.ndimage.gaussian_filter(p, sd, mode="nearest", radius=9)
    expected = np.stack([blur(p[..., 0].astype(np.float64)) for p in x])
    np.testing.assert_allclose(np.float64(got[..., 0]), expected, atol=0.51)


def test_gaussian_noise_has_its_sd():
    got = _apply("gaussian_noise", np.uint8(128), 1)
    np.testing.assert_allclose(np.std(np.float64(got)) / 255, 0.05, rtol=0.03)


def test_occluder_covers_its_share_in_one_grey():
    for picture in _apply("occluder", np.uint8(0), 5):
        values = np.unique(picture)
        assert len(values) <= 2
        if values[-1] > 0:
            np.testing.assert_allclose((picture > 0).mean(), 0.5, atol=0.05)


def test_crop_shift_moves_by_its_length():
    place = np.zeros((36, 60, 1), np.uint8)
    place[18, 30] = 255
    got = _apply("crop_shift", place, 3)
    for picture in got:
        row, column = np.argwhere(picture[..., 0])[0]
        np.testing.assert_allclose(np.hypot(row - 18, column - 30), 7, atol=0.8)


def test_motion_blur_is_a_line_of_its_length():
    place = np.zeros((36, 60, 1), np.uint8)
    place[18, 30] = 255
    got = _apply("motion_blur", place, 5)
    for picture in got[..., 0].astype(int):
        assert abs(picture.sum() - 255) < 12
        reach = np.argwhere(picture) - [18, 30]
        assert 5 - 0.8 <= np.hypot(*reach.T).max() <= 5 + 0.8


def test_pure_noise_forgets_the_picture_and_some_references_are_left_alone():
    x = _pictures()
    noise = _apply("pure_noise", x, 1)
    np.testing.assert_allclose(noise.mean(), 127.5, atol=2)
    assert abs(np.corrcoef(noise.ravel(), x.ravel())[0, 1]) < 0.02
    sometimes = jax.jit(lambda key: corrupt.sometimes(x, 0.25, key=key))
    made = [np.asarray(sometimes(jax.random.key(i))) for i in range(20)]
    hit = [np.any(y != x, axis=(1, 2, 3)).mean() for y in made]
    np.testing.assert_allclose(np.mean(hit), 0.25, atol=0.08)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind='fog'.*motion_blur"):
        corrupt.apply("fog", _pictures(1), 1, key=jax.random.key(0))


def test_normalise_by_picture_removes_brightness_and_contrast():
    x = np.float32(_pictures(3))
    by_picture = jax.jit(functools.partial(augment.normalise, how="image"))
    z = np.asarray(by_picture(x))
    np.testing.assert_allclose(z.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((1, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(by_picture(x * 0.5 + 20), z, atol=1e-4)
    np.testing.assert_allclose(by_picture(np.full_like(x, 7)), 0, atol=1e-4)
    np.testing.assert_allclose(augment.normalise(x, "scale"), x / 255.0, atol=1e-6)


def test_augmentation_moves_a_little_and_is_drawn_for_each_picture():
    x = np.repeat(_pictures(1), 32, axis=0)
    make = jax.jit(lambda key: augment.augment(x, key=key))
    got = np.asarray(make(jax.random.key(0)))
    assert len(np.unique(got.mean((1, 2, 3)))) == len(x)
    assert got.min() >= 0
    assert got.max() <= 255
    np.testing.assert_array_equal(got, make(jax.random.key(0)))
    # Brightness aside, one of the 25 moves explains each picture, but for blur.
    padded = np.pad(x[0, ..., 0].astype(float), 2, mode="edge")
    moves = [padded[i : i + 36, j : j + 60].ravel() for i in range(5) for j in range(5)]
    best = [max(np.corrcoef(p.ravel(), m)[0, 1] for m in moves) for p in got]
    assert min(best) > 0.97


def test_resize_is_torchs_upward_and_leaves_its_own_size_alone():
    x = _pictures(2).astype(np.float32)
    other = torch.nn.functional.interpolate(
        torch.tensor(x.transpose(0, 3, 1, 2)), (48, 72), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(
        jax.jit(lambda x: augment.resize(x, 48, 72))(x),
        other.numpy().transpose(0, 2, 3, 1),
        atol=1e-3,
    )
    assert augment.resize(x, 36, 60) is x
