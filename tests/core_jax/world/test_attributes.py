"""The class list: complete, in a balanced order and in one that keeps shapes apart, with a fair held-out part."""

import collections
import hashlib

import pytest

from core_jax import world
from core_jax.world import attributes

_WORDS = [tuple(name.split()) for name in world.CLASSES]


def test_every_composition_once_in_a_fixed_order():
    expected = {f"{c} {t} {s}" for s in world.SHAPES for c in world.COLOURS for t in world.TEXTURES}
    assert len(world.CLASSES) == 256
    assert set(world.CLASSES) == expected
    digest = hashlib.sha256("\n".join(world.CLASSES).encode()).hexdigest()
    assert digest == "cc4eb9b35451822e583ccf2ef13450a7db26e920b4bba88a1f5d23c617d7a069"
    for k, (name, triple) in enumerate(zip(world.CLASSES, world.CLASS_ATTRIBUTES, strict=True)):
        assert world.class_name(*triple) == name
        assert world.class_index(name) == k
    assert world.class_name("ring", "red", "striped") == "red striped ring"


@pytest.mark.parametrize("half", [slice(0, 128), slice(128, 256)])
def test_both_halves_hold_everything_equally_often(half):
    part = _WORDS[half]
    colours, textures, shapes = zip(*part, strict=True)
    assert set(collections.Counter(colours).values()) == {16}
    assert set(collections.Counter(textures).values()) == {32}
    assert set(collections.Counter(shapes).values()) == {16}
    assert set(collections.Counter(zip(colours, shapes, strict=True)).values()) == {2}


def test_new_classes_have_other_shapes_and_the_same_colours_and_textures():
    assert sorted(world.CLASSES_BY_SHAPE) == sorted(world.CLASSES)
    words = [name.split() for name in world.CLASSES_BY_SHAPE]
    for half, shapes in ((words[:128], world.SHAPES[:4]), (words[128:], world.SHAPES[4:])):
        colours, textures, found = zip(*half, strict=True)
        assert collections.Counter(found) == dict.fromkeys(shapes, 32)
        assert set(collections.Counter(zip(colours, textures, strict=True)).values()) == {4}


def test_a_tenth_is_held_out_and_every_pair_of_attributes_stays():
    digest = hashlib.sha256("\n".join(sorted(world.HELD_OUT)).encode()).hexdigest()
    assert digest == "8b5a3029b678d132aa54efdb3fee4a44edd798d11a8f1ea81b275c05a80bf386"
    assert 0.08 < len(world.HELD_OUT) / 256 < 0.12
    seen = [words for words in _WORDS if " ".join(words) not in world.HELD_OUT]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        kept = {(words[first], words[second]) for words in seen}
        assert kept == {(words[first], words[second]) for words in _WORDS}
    held = [words for words in _WORDS if " ".join(words) in world.HELD_OUT]
    colours, textures, shapes = (len({words[k] for words in held}) for k in range(3))
    assert (colours, textures) == (8, 4)
    assert shapes >= 7


def test_bad_names():
    with pytest.raises(ValueError, match=r"colour 'pink' is not one of.*texture 9 is not one of"):
        world.class_name("ring", "pink", 9)
    with pytest.raises(ValueError, match="'red ring' is not a class"):
        world.class_index("red ring")
    with pytest.raises(ValueError, match=r"not classes.*'x', 'y'; named more than once: 'x'"):
        attributes.check_classes(("x", "y", "x", world.CLASSES[0]))
    with pytest.raises(ValueError, match="list of classes is empty"):
        attributes.check_classes(())
