"""Templates, vocabularies, buckets, and the maximum over synonyms against loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax import templates, vocabulary


def features(count, width=6, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vild14_by_hand():
    assert templates.resolve("vild14").fill("cat") == [
        "a photo of a cat.",
        "This is a photo of a cat",
        "There is a cat in the scene",
        "There is the cat in the scene",
        "a photo of a cat in the scene",
        "a photo of a small cat.",
        "a photo of a medium cat.",
        "a photo of a large cat.",
        "This is a photo of a small cat.",
        "This is a photo of a medium cat.",
        "This is a photo of a large cat.",
        "There is a small cat in the scene.",
        "There is a medium cat in the scene.",
        "There is a large cat in the scene.",
    ]
    assert templates.resolve("scene").fill("cat") == ["A photo of a cat in the scene"]
    assert templates.resolve("single").fill("{x} %s") == ["a photo of a {x} %s."]


def test_templates_of_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffa sketch of a {}\n\n  {} seen from above  \n", encoding="utf-8")
    found = templates.resolve(f"file:{path}")
    assert found.lines == ("a sketch of a {}", "{} seen from above")
    assert found.digest == templates.Templates("other", found.lines).digest
    assert found.digest != templates.Templates("other", found.lines[::-1]).digest


def test_bad_templates_are_listed_together(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a {}\nnothing here\n\n{} and {}\n")
    with pytest.raises(templates.TemplateError) as error:
        templates.resolve(f"file:{path}")
    for part in ("2 of 3", str(path), "line 2: 'nothing here'", "line 4: '{} and {}'"):
        assert part in str(error.value)
    path.write_text("\n")
    with pytest.raises(templates.TemplateError, match="no sentence"):
        templates.resolve(f"file:{path}")
    with pytest.raises(templates.TemplateError, match="cannot be read"):
        templates.resolve(f"file:{tmp_path / 'absent'}")
    with pytest.raises(templates.TemplateError, match="vild14, scene, single"):
        templates.resolve("vild15")


def test_synonyms_and_rows():
    found = vocabulary.build(["cat", " big  dog ,hound", "Grass, lawn, turf"], [True, True, False])
    assert found.classes == ("cat", "big dog", "Grass")
    assert found.rows == ("cat", "big dog", "hound", "Grass", "lawn", "turf")
    assert found.class_of_row.tolist() == [0, 1, 1, 2, 2, 2]
    assert found.class_of_row.dtype == np.int32
    assert found.synonyms == (("cat",), ("big dog", "hound"), ("Grass", "lawn", "turf"))
    assert found.is_thing.tolist() == [True, True, False]
    assert vocabulary.build(["cat"]).is_thing.tolist() == [False]


def test_overlap_by_hand():
    training = vocabulary.build(["cat, kitten", "road"])
    found = vocabulary.build(["dog", "Kitten , feline", "tree, ROAD ", "roads"])
    assert found.overlap(training).tolist() == [False, True, True, False]


def test_every_bad_class_is_named():
    with pytest.raises(vocabulary.VocabularyError) as error:
        vocabulary.build(["cat, Dog", "  ", "dog", "tree,,bush", "sky,  SKY"], [True])
    text = str(error.value)
    for part in (
        "class 1 ('  ')",
        "class 3 ('tree,,bush')",
        "'dog' occurs 2 times, in class 0, 2",
        "'sky' occurs 2 times, in class 4, 4",
        "1 is_thing flags for 5 classes",
    ):
        assert part in text
    with pytest.raises(vocabulary.VocabularyError, match="no classes"):
        vocabulary.build([])
    with pytest.raises(vocabulary.VocabularyError, match="single text 'cat'"):
        vocabulary.build("cat")


def test_bucket_sizes():
    sizes = {1: 32, 32: 32, 33: 64, 153: 256, 254: 256, 257: 512, 559: 1024, 1342: 1536}
    sizes |= {1536: 1536, 1537: 2048, 2048: 2048, 2049: 2560}
    assert {count: vocabulary.bucket_size(count) for count in sizes} == sizes
    with pytest.raises(ValueError, match="at least one"):
        vocabulary.bucket_size(0)


def test_padding_by_hand():
    words = vocabulary.build(["cat, kitten", "dog"])
    text = vocabulary.pad(words, features(3))
    np.testing.assert_array_equal(text.rows[:3], features(3))
    assert not np.any(text.rows[3:])
    assert text.row_mask.tolist() == [True] * 3 + [False] * 29
    assert text.class_of_row.tolist() == [0, 0, 1] + [31] * 29
    assert text.class_mask.tolist() == [True, True] + [False] * 30
    with pytest.raises(ValueError, match=r"\(2, 6\) for 3 words"):
        vocabulary.pad(words, features(2))


@pytest.mark.parametrize("count", [1, 7, 32])
def test_class_logits_equal_a_loop(count):
    rng = np.random.default_rng(count)
    groups = [
        f"w{i}" + "".join(f", w{i}s{j}" for j in range(rng.integers(3))) for i in range(count)
    ]
    words = vocabulary.build(groups)
    text = vocabulary.pad(words, features(len(words.rows)))
    scores = rng.normal(size=(2, 3, text.rows.shape[0])).astype(np.float32)
    # Padded rows score highest: they must not matter.
    scores[..., len(words.rows) :] = 100.0
    found = np.asarray(vocabulary.class_logits(jnp.asarray(scores), text))
    expected = np.full((2, 3, 32), -np.inf, np.float32)
    for index in itertools.product(range(2), range(3)):
        for row, label in enumerate(words.class_of_row):
            expected[(*index, label)] = max(expected[(*index, label)], scores[(*index, row)])
    np.testing.assert_array_equal(found, expected)
    assert np.argmax(found, axis=-1).max() < count


def test_class_logits_keep_the_dtype_and_have_finite_gradients():
    text = vocabulary.pad(vocabulary.build(["a, b", "c"]), features(3))
    assert vocabulary.class_logits(jnp.zeros(32, jnp.bfloat16), text).dtype == jnp.bfloat16

    def loss(scores):
        return -jax.nn.log_softmax(vocabulary.class_logits(scores, text))[0]

    scores = jnp.asarray([2.0, 1.0, 0.5] + [9.0] * 29, jnp.float32)
    p = np.exp(2.0) / (np.exp(2.0) + np.exp(0.5))
    expected = np.zeros(32)
    expected[[0, 2]] = p - 1, 1 - p  # only the winning synonym and the other class learn
    np.testing.assert_allclose(jax.grad(loss)(scores), expected, atol=1e-6)


def test_two_vocabularies_in_a_bucket_compile_once():
    traces = []

    @jax.jit
    def best(x, text):
        traces.append(text.rows.shape)
        return jnp.argmax(vocabulary.class_logits(x @ text.rows.T, text), axis=-1)

    lists = (["cat"], ["cat, kitten", "dog"], [f"class {i}" for i in range(32)])
    for classes in lists:
        words = vocabulary.build(classes)
        text = vocabulary.pad(words, features(len(words.rows)))
        found = best(features(5), text)
        assert int(jnp.max(found)) < len(classes)
    assert traces == [(32, 6)]
    words = vocabulary.build([f"class {i}" for i in range(33)])
    best(features(5), vocabulary.pad(words, features(33)))
    assert traces == [(32, 6), (64, 6)]
