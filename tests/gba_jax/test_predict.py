"""`segment` on hand-made score maps and hand-made queries, and host 0 on the embedded world from CLIP's weights alone."""

import dataclasses
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core_jax import clip, world
from core_jax.data.images import ImageError
from gba_jax import predict, templates, text_cache, vocabulary, windows
from gba_jax.model import Queries

# Two classes on 2 x 2 cells, then the third row that a background phrase gets.
MAPS = np.asarray([[[0.9, 0.3], [0.2, 0.1]], [[0.1, 0.5], [0.2, 0.6]], [[0.3, 0.4], [0.8, 0.5]]])
WORDS = ["cat", "grass, lawn"]
PICTURE = np.zeros((2, 2, 3), np.uint8)
OBJECTS = ["red plain circle", "yellow dotted diamond", "blue plain diamond", "background"]


def encoder(calls=None):
    """Every sentence has a direction of its own."""

    def encode(texts):
        if calls is not None:
            calls.append(len(texts))
        seeds = [abs(hash(text)) % 2**32 for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds])

    return text_cache.Encoder(encode=encode, weights="w", tokenizer="t")


def by_hand(**changes) -> predict.Predictor:
    """A host whose scores are `MAPS`, whatever the picture."""

    def score(images, text, seen):
        maps = np.zeros((len(images), len(text.class_mask), 2, 2), np.float32)
        count = int(text.class_mask.sum())
        maps[:, : min(3, count)] = MAPS[:count]
        return jnp.asarray(maps)

    single = templates.resolve("single")
    plan = windows.whole(2)
    model = predict.Predictor(encoder=encoder(), templates=single, score=score, plan=plan)
    return dataclasses.replace(model, **changes)


def with_queries() -> predict.Predictor:
    """Three queries: the left column is class 0, the right one class 1, and a void one on the lower right."""
    logits = np.full((3, 2, 2), -9.0)
    logits[0, :, 0] = logits[1, :, 1] = 9.0
    logits[2, 1, 1] = 9.0

    def queries(images, text, seen):
        p = np.zeros((1, 3, len(text.class_mask) + 1), np.float32)
        p[0, 0, [0, -1]], p[0, 1, [1, -1]] = [0.9, 0.1], [0.6, 0.4]
        p[0, 2, -1] = 1.0
        return Queries(jnp.asarray(p), jnp.asarray(logits[None], jnp.float32))

    return by_hand(queries=queries)


@pytest.fixture(scope="module")
def host() -> predict.Predictor:
    student = clip.load(world.pair("student"), image_size=128)
    return predict.maskclip(student, sentences="single")


@pytest.fixture(scope="module")
def scene():
    return world.render_segmentation(3, "val", 0, size=128)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("none", [[0, 1], [0, 1]]),
        ("threshold:0.4", [[0, 1], [-1, 1]]),
        ("threshold:0.55", [[0, -1], [-1, 1]]),
        ("threshold:0", [[0, 1], [0, 1]]),
        ("threshold:1", [[-1, -1], [-1, -1]]),
        ("phrases:[wall, floor]", [[0, 1], [-1, 1]]),
        ("phrases:wall", [[0, 1], [-1, 1]]),
    ],
)
def test_background_policies_on_a_map(policy, expected):
    found = predict.segment(PICTURE, WORDS, model=by_hand(), background=policy)
    np.testing.assert_array_equal(found.label_map, expected)
    assert found.label_map.dtype == np.int32
    assert found.names == ("cat", "grass")
    assert len(found.palette) == 2
    best = MAPS[: 3 if policy.startswith("phrases") else 2].max(axis=0)
    np.testing.assert_allclose(found.scores, best, atol=1e-6)


def test_the_classes_that_are_there_with_share_and_mean_score():
    found = predict.segment(PICTURE, WORDS, model=by_hand(), background="threshold:0.4")
    assert [(c["name"], c["label"], c["share"]) for c in found.classes] == [
        ("grass", 1, 0.5),
        ("cat", 0, 0.25),
    ]
    np.testing.assert_allclose([c["score"] for c in found.classes], [0.55, 0.9], atol=1e-6)
    assert found.segments is None


def test_the_null_policy_is_the_void_of_the_queries():
    asked = lambda policy: predict.segment(PICTURE, WORDS, model=with_queries(), background=policy)
    np.testing.assert_array_equal(asked("none").label_map, [[0, 1], [0, 1]])
    # Lower right: class 1 has 0.6, void 0.4 of one query and 1.0 of another.
    np.testing.assert_array_equal(asked("null").label_map, [[0, 1], [0, -1]])
    with pytest.raises(predict.BackgroundError, match="use threshold"):
        predict.segment(PICTURE, WORDS, model=by_hand(), background="null")


def test_hosts_with_queries_have_segments():
    found = predict.segment(PICTURE, WORDS, model=with_queries())
    assert found.segments is not None
    assert [(s["name"], s["area"], s["box"]) for s in found.segments] == [
        ("cat", 2, (0, 0, 2, 1)),
        ("grass", 2, (0, 1, 2, 1)),
    ]
    np.testing.assert_array_equal(found.segment_map, [[0, 1], [0, 1]])
    sure = predict.segment(PICTURE, WORDS, model=with_queries(), background="threshold:0.7")
    assert [s["name"] for s in sure.segments or []] == ["cat"]
    # A phrase of the background is no segment of the user's.
    phrase = predict.segment(PICTURE, ["cat"], model=with_queries(), background="phrases:[lawn]")
    assert [s["name"] for s in phrase.segments or []] == ["cat"]
    np.testing.assert_array_equal(phrase.segment_map, [[0, -1], [0, -1]])


def test_sums_of_masks_compete_before_they_are_clipped():
    def queries(images, text, seen):
        p = np.zeros((1, 4, len(text.class_mask) + 1), np.float32)
        # Everywhere 1.2 of the first class, 1.6 of the second.
        p[0, :2, 0], p[0, 2:, 1], p[0, :, -1] = 0.6, 0.8, [0.4, 0.4, 0.2, 0.2]
        return Queries(jnp.asarray(p), jnp.full((1, 4, 2, 2), 20.0))

    model = by_hand(queries=queries)
    for policy in ("none", "null", "threshold:1"):
        found = predict.segment(PICTURE, WORDS, model=model, background=policy)
        np.testing.assert_array_equal(found.label_map, np.ones((2, 2)))
        np.testing.assert_array_equal(found.scores, np.ones((2, 2)))


def test_queries_do_not_go_through_windows():
    with pytest.raises(ValueError, match="several windows cannot be joined"):
        dataclasses.replace(with_queries(), plan=windows.sliding(4, 2, 2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "thresh",
        "threshold:",
        "threshold:1.5",
        "threshold:-1",
        "threshold:x",
        "phrases:",
        "phrases:[a,,b]",
        "none:1",
        "null:0",
    ],
)
def test_other_policies_are_refused_with_the_ones_there_are(text):
    with pytest.raises(
        predict.BackgroundError, match=r"expected none, threshold:T .* null"
    ) as error:
        predict.parse_background(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there are no classes"),
        (["cat", "Cat"], "'cat' occurs 2 times"),
        (["cat", " "], "blank name"),
        ("cat", "expected a list of class names"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(words, message):
    with pytest.raises(vocabulary.VocabularyError, match=message):
        predict.segment(PICTURE, words, model=by_hand())


def test_a_word_is_no_background_phrase():
    with pytest.raises(predict.BackgroundError, match="phrases: Cat is among the words"):
        predict.segment(PICTURE, ["cat"], model=by_hand(), background="phrases:[sky, Cat]")


def test_pictures_of_every_kind_are_the_same_picture(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (5, 9), np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    rgba = np.concatenate([rgb, rgb[..., :1]], axis=2)
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path)
    kinds = [grey, rgb, rgba, Image.fromarray(grey), Image.fromarray(rgba), path, str(path)]
    for kind in kinds:
        found = predict.segment(kind, WORDS, model=by_hand())
        np.testing.assert_array_equal(found.image, rgb)
        assert found.label_map.shape == (5, 9)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), "gone.png"],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ImageError):
        predict.segment(image, WORDS, model=by_hand())


@pytest.mark.parametrize("size", [(7, 2000), (2000, 7), (1, 1)])
def test_pictures_of_extreme_sizes(host, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = predict.segment(image, OBJECTS, model=host)
    assert found.label_map.shape == found.scores.shape == size
    assert found.picture().mode == "RGB"


@pytest.mark.parametrize("count", [1, 847, 2000])
def test_vocabularies_of_any_size(count):
    """The words of a random text tower and a host of cosines with a mean colour."""

    def score(images, text, seen):
        x = jnp.mean(jnp.asarray(images, jnp.float32), axis=(1, 2))
        x = jnp.pad(x - 100.0, [(0, 0), (0, 5)])
        found = jax.nn.softmax(vocabulary.class_logits(x @ text.rows.T, text), axis=-1)
        return jnp.broadcast_to(found[:, :, None, None], (*found.shape, 2, 2))

    words = [f"word {i}, synonym {i}" for i in range(count)]
    model = by_hand(score=jax.jit(score))
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    found = predict.segment(image, words, model=model)
    assert 0 <= found.label_map.min() <= found.label_map.max() < count
    assert len(found.palette) == len(found.names) == count
    assert found.names[0] == "word 0"
    if count == 1:
        np.testing.assert_allclose(found.scores, 1.0)


def test_words_are_embedded_once_for_many_pictures_and_kept(tmp_path):
    calls: list[int] = []
    model = by_hand(encoder=encoder(calls), cache=tmp_path / "words")
    ask = predict.prepare(WORDS, model=model)
    first = ask(PICTURE), ask(np.zeros((9, 4), np.uint8))
    assert calls == [3]
    np.testing.assert_array_equal(first[0].label_map, [[0, 1], [0, 1]])
    predict.segment(PICTURE, ["lawn", "cat"], model=model)
    assert calls == [3]
    predict.segment(PICTURE, ["lawn", "dog"], model=model)
    assert calls == [3, 1]


def test_the_host_is_told_which_words_it_has_seen():
    told = []

    def score(images, text, seen):
        told.append(np.asarray(seen))
        return jnp.zeros((1, len(seen), 2, 2))

    model = by_hand(score=score, training=vocabulary.build(["Lawn", "sky"]))
    predict.segment(PICTURE, WORDS, model=model, background="phrases:[sky]")
    predict.segment(PICTURE, WORDS, model=dataclasses.replace(model, training=None))
    np.testing.assert_array_equal(told[0][:4], [False, True, True, False])
    assert not told[1].any()


def test_host_0_finds_the_objects_of_a_scene(host, scene):
    """Better than its own arg-max on shuffled words would be: the truth's classes win on most of their pixels' surroundings."""
    found = predict.segment(scene.image, OBJECTS, model=host)
    assert found.label_map.shape == (128, 128)
    assert 0 < found.scores.min() <= found.scores.max() <= 1
    background = OBJECTS.index("background")
    truth = scene.semantic == 0
    assert (found.label_map[truth] == background).mean() > 0.7
    picture = np.asarray(found.picture())
    assert picture.std() > 10


def test_the_order_of_words_gives_the_labels_and_nothing_else(host, scene):
    one = predict.segment(scene.image, OBJECTS, model=host)
    other = predict.segment(scene.image, OBJECTS[::-1], model=host)
    np.testing.assert_array_equal(one.label_map, len(OBJECTS) - 1 - other.label_map)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_large_pictures_go_through_windows_in_one_batch(host):
    image = world.render_segmentation(3, "val", 0, size=256).image
    shapes = []

    def score(images, text, seen):
        shapes.append(images.shape)
        return host.score(images, text, seen)

    model = dataclasses.replace(host, score=score, plan=windows.sliding(256, 128, 64))
    found = predict.segment(image, OBJECTS, model=model)
    assert shapes == [(10, 128, 128, 3)]
    assert found.label_map.shape == (256, 256)


@pytest.mark.parametrize("through_bytes", [False, True])
def test_the_score_function_of_host_0_is_exported(host, scene, through_bytes):
    """As a program whose weights are inside: pictures and words are what it takes."""
    if through_bytes:
        pytest.importorskip("flatbuffers")
    words = vocabulary.build(OBJECTS)
    rows = text_cache.embed(words.rows, encoder=host.encoder, templates=host.templates)
    text, seen = vocabulary.pad(words, rows), jnp.zeros(32, bool)
    flat = jax.jit(
        lambda images, *rest: host.score(images, vocabulary.TextRows(*rest[:-1]), rest[-1])
    )
    args: Any = (jnp.asarray(scene.image[None]), *text, seen)
    exported = jax.export.export(flat)(*args)
    if through_bytes:
        exported = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(exported.call(*args), host.score(args[0], text, seen), atol=1e-5)
