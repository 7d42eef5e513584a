"""Styles: each has its look, and the ones for tests are apart from the ones for training."""

import numpy as np
import pytest

from core_jax import world
from core_jax.world import styles


def _pictures(style: str) -> np.ndarray:
    return world.render_batch(0, "looks", 0, 32, styles=style)["image"].astype(np.float64) / 255


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return _pictures("clean")


def _roughness(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image, axis=2)).mean())


def test_three_for_training_and_at_least_three_for_tests():
    assert world.TRAIN_STYLES == ("clean", "sketch", "grain")
    assert len(world.TEST_STYLES) >= 3
    assert not set(world.TRAIN_STYLES) & set(world.TEST_STYLES)
    assert set(world.STYLES) == {*world.TRAIN_STYLES, *world.TEST_STYLES}


@pytest.mark.parametrize("style", world.STYLE_NAMES[1:])
def test_a_style_changes_the_picture_and_nothing_else(style, clean):
    other = world.render_batch(0, "looks", 0, 32, styles=style)
    assert (np.abs(other["image"] / 255 - clean).mean(axis=(1, 2, 3)) > 0.005).all()
    plain = world.render_batch(0, "looks", 0, 32, styles="clean")
    for key in ("shape", "colour", "texture", "mask"):
        np.testing.assert_array_equal(other[key], plain[key])


def test_looks(clean):
    saturation = lambda image: (image.max(-1) - image.min(-1)).mean()
    sketch, grain, blur = _pictures("sketch"), _pictures("grain"), _pictures("blur")
    assert saturation(sketch) < 0.4 * saturation(clean)
    assert grain.mean() > clean.mean() + 0.1  # a square root brightens
    assert _roughness(grain) > 2 * _roughness(clean)
    assert _roughness(blur) < 0.6 * _roughness(clean)
    assert _pictures("contrast").std() > 1.2 * clean.std()
    assert set(np.unique(np.round(_pictures("poster") * 255))) == {0, 85, 170, 255}
    cast = _pictures("cast")
    red, blue = (cast[..., k].mean(axis=(1, 2)) / clean[..., k].mean(axis=(1, 2)) for k in (0, 2))
    assert np.corrcoef(red, blue)[0, 1] < -0.9


def test_sketch_draws_a_dark_line_along_the_outline():
    batch = world.render_batch(0, "looks", 0, 32, styles="sketch")
    mask = batch["mask"]
    border = mask & ~(
        np.roll(mask, 1, 1) & np.roll(mask, -1, 1) & np.roll(mask, 1, 2) & np.roll(mask, -1, 2)
    )
    border[:, [0, -1]] = border[:, :, [0, -1]] = False
    assert np.median(batch["image"][border]) < 60
    assert np.median(batch["image"][~mask]) > 100


def test_choose_follows_the_shares_exactly():
    mix = (("grain", 1.0), ("clean", 3.0))
    codes = styles.choose(mix, np.array([0.0, 0.2499, 0.25, 0.999]))
    assert [world.STYLE_NAMES[c] for c in codes] == ["grain", "grain", "clean", "clean"]
