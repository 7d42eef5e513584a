"""Plans against Python loops over windows, label maps against a direct arg-max, and pictures of extreme sizes."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gba_jax import windows

SLIDING = windows.sliding(20, 12, 8)
PLANS = [windows.whole(12), SLIDING, windows.padded(16, 28, 8)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pictures(rng, *size, count=2):
    return rng.integers(0, 256, (count, *size, 3), np.uint8)


@jax.jit
def score(images):
    """A host whose classes are functions of means over 4 x 4 pixels: (b S T 3) to (b 4 S/4 T/4)."""
    x = jnp.asarray(images, jnp.float32) / 255
    b, s, t, _ = x.shape
    x = x.reshape(b, s // 4, 4, t // 4, 4, 3).mean(axis=(2, 4))
    return jnp.moveaxis(jnp.concatenate([x, 1 - x[..., :1]], axis=-1), -1, 1)


def resized(x, size):
    return np.asarray(jax.image.resize(x, (*x.shape[:-2], *size), "bilinear", antialias=False))


def squeezed(image, side):
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def test_whole_pictures_are_squeezed_and_scored_once(rng):
    images = pictures(rng, 9, 31)
    expected = score(np.stack([squeezed(image, 12) for image in images]))
    np.testing.assert_array_equal(windows.scores(score, images, windows.whole(12)), expected)


def test_the_window_batch_equals_a_loop_with_averages_by_overlap(rng):
    images = pictures(rng, 33, 14)
    calls = []

    def counted(x):
        calls.append(x.shape)
        return score(x)

    got = windows.scores(counted, images, SLIDING)
    assert calls == [(2 * 5, 12, 12, 3)]
    for image, found in zip(images, got):
        canvas = squeezed(image, 20)
        total, count = np.zeros((4, 5, 5)), np.zeros((5, 5))
        for top, left in itertools.product([0, 8], [0, 8]):
            part = score(canvas[None, top : top + 12, left : left + 12])[0]
            rows, columns = slice(top // 4, top // 4 + 3), slice(left // 4, left // 4 + 3)
            total[:, rows, columns] += part
            count[rows, columns] += 1
        assert [count[2, 2], count[0, 2], count[0, 0]] == [4, 2, 1]
        whole = resized(score(squeezed(image, 12)[None])[0], (5, 5))
        np.testing.assert_allclose(found, (total / count + whole) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("resize", "window", "stride", "starts"),
    [(640, 384, 256, [0, 256]), (1024, 384, 256, [0, 256, 512, 640]), (12, 12, 5, [0])],
)
def test_windows_reach_the_border(resize, window, stride, starts):
    plan: Any = windows.sliding(resize, window, stride)
    assert not isinstance(plan, windows.Padded)
    assert plan.corners == tuple(itertools.product(starts, starts))


def test_windows_that_begin_inside_a_cell_are_merged_on_a_finer_grid(rng):
    """3 x 3 maps of 12 pixels, windows 6 pixels apart: half cells."""
    constant = lambda images: (
        jnp.ones((len(images), 2, 3, 3)) * jnp.asarray([0.25, 0.5])[None, :, None, None]
    )
    got = np.asarray(windows.scores(constant, pictures(rng, 8, 8), windows.sliding(18, 12, 6)))
    assert got.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(got[:, 0], 0.25)
    np.testing.assert_allclose(got[:, 1], 0.5)


def test_padding_never_reaches_the_scores(rng):
    """24 x 10 becomes 28 x 12, padded to 32 x 16; cells of 4 pixels cover it exactly."""
    images = pictures(rng, 24, 10)
    plan = windows.padded(16, 28, 8)
    inputs = plan.inputs(images)
    assert inputs.shape == (2, 1, 32, 16, 3)
    assert (inputs[:, 0, 28:] == 128).all()
    assert (inputs[:, 0, :, 12:] == 128).all()
    expected = score(inputs[:, 0, :28, :12])
    np.testing.assert_allclose(windows.scores(score, images, plan), expected, atol=1e-6)


def test_a_cell_that_the_border_cuts_is_stretched_over_the_picture():
    """A ramp over 16 cells of which 12.5 belong to the picture: 13 cells that span the same values."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, None, None, None], (1, 1, 1, 2, 16))
    got = np.asarray(windows.padded(50, 50, 64).merge(ramp, (50, 50)))[0, 0, 0]
    np.testing.assert_allclose(
        got, np.maximum((np.arange(13) + 0.5) * 12.5 / 13 - 0.5, 0), atol=1e-5
    )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [(7, 2000), (2000, 7), (1, 1), (3, 5)])
def test_pictures_of_extreme_sizes(rng, plan, size):
    images = pictures(rng, *size, count=1)
    found = windows.scores(score, images, plan)
    best, value = windows.labels(found, size)
    assert best.shape == value.shape == (1, *size)
    assert best.dtype == np.int32
    assert 0 <= best.min() <= best.max() < 4
    assert 0 <= value.min() <= value.max() <= 1


@pytest.mark.parametrize("size", [(40, 70), (130, 65), (5, 3)])
@pytest.mark.parametrize("block", [2**24, 3000, 1])
def test_labels_equal_a_direct_arg_max(rng, monkeypatch, size, block):
    monkeypatch.setattr(windows, "_BLOCK", block)
    program: Any = windows._arg_max
    program.clear_cache()  # the block size is read when a program is traced
    maps = rng.uniform(size=(2, 6, 9, 7)).astype(np.float32)
    full = resized(maps, size)
    best, value = windows.labels(maps, size)
    np.testing.assert_allclose(value, full.max(axis=1), atol=1e-5)
    # Where two classes are equal up to rounding either is right.
    chosen = np.take_along_axis(full, best[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, full.max(axis=1), atol=1e-5)
    assert (best == full.argmax(axis=1)).mean() > 0.999


@pytest.mark.parametrize("plan", PLANS)
def test_a_second_picture_of_a_size_compiles_nothing(rng, plan):
    jitted: Any = jax.jit(lambda images: score(images))
    run = lambda size: windows.labels(windows.scores(jitted, pictures(rng, *size), plan), size)
    run((30, 20))
    programs: list[Any] = [jitted, windows._arg_max, windows._overlap, windows._crop]
    before = [program._cache_size() for program in programs]
    run((30, 20))
    assert [program._cache_size() for program in programs] == before
    if not isinstance(plan, windows.Padded):
        # Neither does one of another size in the same bucket.
        run((17, 41))
        assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: windows.whole(0), "size=0: expected positive"),
        (lambda: windows.sliding(20, 30, 10), "windows of 30 pixels every 10 on a square of 20"),
        (lambda: windows.sliding(20, 10, 12), "stride <= window <= square"),
        (lambda: windows.sliding(20, 0, -1), "window=0, stride=-1"),
        (lambda: windows.padded(20, 10, 8), "long=10 with short=20"),
        (lambda: PLANS[0].inputs(np.zeros((1, 0, 4, 3), np.uint8)), r"shape \(1, 0, 4, 3\)"),
        (lambda: PLANS[1].inputs(np.zeros((1, 4, 4, 3))), "got float64"),
        (lambda: PLANS[2].inputs(np.zeros((1, 0, 4, 3), np.uint8)), r"shape \(1, 0, 4, 3\)"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
