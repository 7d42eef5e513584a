"""Classification scenes: determinism, golden digests, and that what is drawn is what is said."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from core_jax import world
from core_jax.world import attributes, words

GOLDEN = {
    "clean": "ab792519ddab42ca5c75124b0cd6760f2eba457c8dd12eacd670ee95f8cfbbd5",
    "sketch": "a5f1ea28274a39cdf63fa7076434c09afd466019a8f9e211c2135b4b5f0feaf7",
    "grain": "a136d88a3cef489aace255f6ed92d5d167b5e0232dbccc94de17e9198030af9d",
    "cast": "d1a5f6ce00db21a24e3dbe4b0bd166b99f631012c24cd4e7488a7675f8b03b85",
    "blur": "9c79f5a62bd5b2b2028403efd776047289bc9e302bae332ee635bbfc33340b69",
    "contrast": "991919d7f7027d28bef9a6c76d8ebd54621014b550e42e8961cf41db4328af7b",
    "poster": "3e60471b73521089f9bbd65ca6594c629537cb6b630f4fb430a6fc6b2970090b",
}
GOLDEN_BATCH = "51f48ecf8f60b95e32cecb556b1d3265a1a613edd57d32e41b0277a7382c53f5"
# Run in a process of its own, because numpy chooses its instructions when it is imported.
_PRINT_DIGEST = """
import hashlib
from core_jax import world
sha = hashlib.sha256()
for style in world.STYLE_NAMES:
    sha.update(world.render_batch(3, "golden", 5, 40, styles=style)["image"].tobytes())
print(sha.hexdigest())
"""


@pytest.mark.parametrize("style", world.STYLE_NAMES)
def test_golden_pixels(style):
    image = world.render_batch(3, "golden", 5, 40, styles=style)["image"]
    assert image.shape == (40, 64, 64, 3)
    assert image.dtype == np.uint8
    assert hashlib.sha256(image.tobytes()).hexdigest() == GOLDEN[style]


def test_golden_batch_with_its_labels():
    batch = world.render_batch(0, "pretrain", 0, 64, size=33, held_out=world.HELD_OUT)
    keys = ("image", "mask", "shape", "colour", "texture", "style")
    assert batch.keys() == set(keys)
    for key in keys[2:]:
        assert batch[key].dtype == np.int32
    joined = b"".join(np.ascontiguousarray(batch[key]).tobytes() for key in keys)
    assert hashlib.sha256(joined).hexdigest() == GOLDEN_BATCH


def test_same_bytes_without_wide_vector_instructions():
    """Numpy's own switch stands in for another processor."""
    level = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512_SKX AVX512F AVX2 FMA3"}
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PRINT_DIGEST],
            env={**os.environ, **extra},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for extra in ({}, level)
    ]
    assert len(outputs[0].strip()) == 64
    assert outputs[0] == outputs[1]


def test_words_are_splitmix64():
    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    key, golden = words.stream(7, "a", "b"), 0x9E3779B97F4A7C15
    indices = [0, 1, 10**12]
    expected = [
        [mix((mix((key + i * golden) % 2**64) + slot * golden) % 2**64) for slot in (1, 2, 3)]
        for i in indices
    ]
    assert words.words(key, np.array(indices), 3).tolist() == expected
    assert (
        len({words.stream(*names) for names in ((7, "a"), (7, "b"), (8, "a"), (7, "a", "b"))}) == 4
    )


def test_alone_equals_batch():
    batch = world.render_batch(1, "x", 100, 70)
    for row in (0, 33, 69):
        scene = world.render(1, "x", 100 + row)
        np.testing.assert_array_equal(scene.image, batch["image"][row])
        np.testing.assert_array_equal(scene.mask, batch["mask"][row])
        assert (scene.shape, scene.colour, scene.texture, scene.style) == tuple(
            int(batch[key][row]) for key in ("shape", "colour", "texture", "style")
        )
        assert scene.name == world.class_name(scene.shape, scene.colour, scene.texture)
    backwards = world.render_indices(1, "x", np.arange(169, 99, -1))
    np.testing.assert_array_equal(backwards["image"][::-1], batch["image"])


def test_streams_differ():
    first = world.render_batch(0, "a", 0, 4)["image"]
    for other in (world.render_batch(0, "b", 0, 4), world.render_batch(1, "a", 0, 4)):
        assert (first != other["image"]).any(axis=(1, 2, 3)).all()


def test_empty_batch():
    batch = world.render_batch(0, "a", 0, 0)
    assert batch["image"].shape == (0, 64, 64, 3)


def test_plain_objects_have_their_colour_inside_the_mask():
    plain = world.TEXTURES.index("plain")
    triples = np.array([[s, c, plain] for s in range(8) for c in range(8)])
    batch = world.render_indices(0, "colour", np.arange(64), style="clean", attributes=triples)
    for row, (_, colour, _) in enumerate(triples):
        inside = np.median(batch["image"][row][batch["mask"][row]], axis=0) / 255
        expected = np.clip(attributes.PALETTE[colour], 0, 1)
        assert np.abs(inside - expected).max() < attributes.COLOUR_JITTER + 0.01


@pytest.mark.parametrize(("texture", "dark"), [(0, 0.0), (1, 0.5), (2, 0.283), (3, 0.5)])
def test_share_of_dark_pixels_tells_the_texture(texture, dark):
    square, white = world.SHAPES.index("square"), world.COLOURS.index("white")
    triples = np.array([[square, white, texture]] * 40)
    batch = world.render_indices(
        0, "tex", np.arange(40), style="clean", attributes=triples, size=128
    )
    share = np.mean(
        [(batch["image"][b][batch["mask"][b]].mean(-1) < 155).mean() for b in range(40)]
    )
    assert share == pytest.approx(dark, abs=0.04)


def test_circles_have_the_promised_radius_and_place():
    triples = np.array([[world.SHAPES.index("circle"), 0, 0]] * 400)
    batch = world.render_indices(0, "circles", np.arange(400), size=64, attributes=triples)
    whole = [
        mask
        for mask in batch["mask"]
        if not (mask[0].any() | mask[-1].any() | mask[:, [0, -1]].any())
    ]
    assert 40 < len(whole) < 360  # some are cut by the border, some are not
    radii = np.array([np.sqrt(mask.sum() / np.pi) / 0.9 / 64 for mask in whole])
    assert radii.min() >= 0.195
    assert 0.3 < radii.max() <= 0.405
    assert (batch["mask"].sum(axis=(1, 2)) > 0.3 * np.pi * (0.2 * 0.9 * 64) ** 2).all()


def test_a_scene_is_the_same_at_every_size():
    """The average of 4 x 4 pixels of the large picture is the small one, up to noise and the width of the edges."""
    small = world.render_batch(2, "size", 0, 24, size=64, styles="clean")
    large = world.render_batch(2, "size", 0, 24, size=256, styles="clean")
    for a, b in zip(small["mask"], large["mask"], strict=True):
        coarse = b.reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert (a != (coarse >= 0.5)).mean() < 0.01
    coarse = large["image"].reshape(24, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    difference = np.abs(coarse - small["image"])
    assert np.median(difference) < 10
    assert difference.mean() < 10


def test_box_bounds_the_mask():
    for index in range(20):
        scene = world.render(0, "box", index)
        expected = Image.fromarray(scene.mask.astype(np.uint8) * 255).getbbox()
        top, left, height, width = scene.box
        assert (left, top, left + width, top + height) == expected


def test_held_out_classes_never_appear_and_all_others_do():
    batch = world.render_batch(0, "held", 0, 6000, size=8, held_out=world.HELD_OUT)
    triples = zip(batch["shape"], batch["colour"], batch["texture"], strict=True)
    seen = {world.class_name(*(int(v) for v in triple)) for triple in triples}
    assert seen == set(world.CLASSES) - world.HELD_OUT


def test_attributes_and_styles_are_drawn_in_their_shares():
    batch = world.render_batch(0, "shares", 0, 8000, size=8)
    for key, names in (("shape", 8), ("colour", 8), ("texture", 4)):
        shares = np.bincount(batch[key], minlength=names) / 8000
        assert np.abs(shares - 1 / names).max() < 0.02
    shares = np.bincount(batch["style"], minlength=len(world.STYLE_NAMES)) / 8000
    expected = [{"clean": 0.9, "sketch": 0.05, "grain": 0.05}.get(n, 0) for n in world.STYLE_NAMES]
    assert np.abs(shares - expected).max() < 0.015


def test_bad_arguments():
    with pytest.raises(ValueError, match="size is 4 pixels; expected at least 8"):
        world.render(0, "a", 0, size=4)
    with pytest.raises(ValueError, match="index -1 is negative"):
        world.render(0, "a", -1)
    with pytest.raises(ValueError, match=r"\[\[0, 8, 0\]\] out of range"):
        world.render(0, "a", 0, attributes=(0, 8, 0))
    with pytest.raises(
        ValueError, match=r"'oil' is not one of .*'wash' is not one of.*-1.* negative"
    ):
        world.render_batch(0, "a", 0, 1, styles=(("oil", 2.0), ("wash", 1.0), ("clean", -1.0)))
    with pytest.raises(ValueError, match="add up to 0"):
        world.render_batch(0, "a", 0, 1, styles=(("clean", 0.0),))
    with pytest.raises(ValueError, match="all 256 classes are held out"):
        world.render_batch(0, "a", 0, 1, held_out=world.CLASSES)
    with pytest.raises(ValueError, match="'pink plain ring' is not a class"):
        world.render_batch(0, "a", 0, 1, held_out={"pink plain ring"})
