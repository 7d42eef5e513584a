"""Anchors: sentences, stand-ins, and the record that keeps them."""

import json

import numpy as np
import pytest

from gaze_jax.networks import anchors


class Encoder:
    """Features from the length of a sentence; counts what it is asked."""

    def __init__(self, weights="w", scale=3.0):
        self.asked = 0
        self.text = anchors.TextEncoder(
            encode=self.encode, name="toy", weights=weights, tokenizer="t"
        )
        self.scale = scale

    def encode(self, lines):
        self.asked += len(lines)
        return np.array([[len(line) * self.scale, 1.0, i] for i, line in enumerate(lines)])


def _cosines(vectors):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    return vectors @ vectors.T


@pytest.mark.parametrize("grades", anchors.GRADES)
def test_sentences_fall_from_alike_to_unlike(grades):
    lines = anchors.sentences(grades)
    assert len(set(lines)) == len(lines) == grades
    assert lines[-1] == "The directions of gaze in the two faces in the photo are not similar."
    if grades == 5:
        assert lines[0] == "The directions of gaze in the two faces in the photo are identical."


def test_another_number_of_grades_is_refused():
    with pytest.raises(anchors.AnchorsError, match="grades=4: expected one of 2, 3, 5"):
        anchors.sentences(4)


@pytest.mark.parametrize("grades", anchors.GRADES)
@pytest.mark.parametrize("width", [16, 1024])
def test_ordinal_cosines_fall_with_the_distance_of_grades(grades, width):
    for seed in range(5):
        cosines = _cosines(anchors.ordinal(grades, width, seed=seed))
        for g in range(grades):
            assert np.all(np.diff(cosines[g, g:]) < 0)
            assert np.all(np.diff(cosines[g, g::-1]) < 0)
        assert abs(cosines[0, -1]) < 0.15


def test_ordinal_noise_has_its_norm():
    # Two grades at right angles: what leaves their plane is the noise.
    vectors = anchors.ordinal(5, 4096)
    _, singular, _ = np.linalg.svd(vectors)
    np.testing.assert_allclose(singular[2:], 0.05, rtol=0.1)


def test_random_anchors_have_no_order():
    cosines = _cosines(anchors.random(5, 1024))
    assert np.abs(cosines[~np.eye(5, dtype=bool)]).max() < 0.15


@pytest.mark.parametrize("make", [anchors.ordinal, anchors.random])
def test_stand_ins_are_a_function_of_their_seed(make):
    np.testing.assert_array_equal(make(3, 8, seed=1), make(3, 8, seed=1))
    assert np.abs(make(3, 8, seed=1) - make(3, 8, seed=2)).max() > 0.1


def test_a_record_is_made_once_and_read_without_its_tower(tmp_path):
    path, encoder, lines = tmp_path / "deep" / "anchors.json", Encoder(), anchors.sentences(3)
    first = anchors.open_record(path, encoder.text, lines)
    again = anchors.open_record(path, encoder.text, lines)
    alone = anchors.open_record(path, None, lines)
    assert encoder.asked == 3
    for other in (again, alone, anchors.encode(encoder.text, lines)):
        np.testing.assert_array_equal(first, other)
    identity = json.loads(path.read_text())["identity"]
    assert identity == {"name": "toy", "weights": "w", "tokenizer": "t", "sentences": list(lines)}


def test_a_record_of_something_else_is_refused_and_everything_is_named(tmp_path):
    path = tmp_path / "anchors.json"
    anchors.open_record(path, Encoder().text, anchors.sentences(3))
    with pytest.raises(anchors.AnchorsError, match=r"(?s)weights: the record has 'w'.*sentences: "):
        anchors.open_record(path, Encoder("v").text, anchors.sentences(2))


@pytest.mark.parametrize("damage", ["number", "half", "list", "empty"])
def test_a_damaged_record_is_refused(tmp_path, damage):
    path = tmp_path / "anchors.json"
    anchors.open_record(path, Encoder().text, anchors.sentences(2))
    text = path.read_text()
    if damage == "number":
        record = json.loads(text)
        record["vectors"][0][0] += 1e-3
        text = json.dumps(record)
    else:
        text = {"half": text[: len(text) // 2], "list": "[]", "empty": ""}[damage]
    path.write_text(text)
    with pytest.raises(anchors.AnchorsError, match=r"anchors\.json"):
        anchors.open_record(path, None, anchors.sentences(2))


def test_no_record_and_no_tower_is_an_error(tmp_path):
    with pytest.raises(anchors.AnchorsError, match="no CLIP to make anchors with"):
        anchors.open_record(tmp_path / "none.json", None, anchors.sentences(2))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.zeros((2, 3)), "zero or non-finite"),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), "zero or non-finite"),
        (np.ones((2, 3)), "same features"),
        (np.ones(2), "expected"),
    ],
)
def test_features_that_are_no_anchors_are_refused(rows, expected):
    encoder = anchors.TextEncoder(encode=lambda lines: rows, name="toy", weights="", tokenizer="")
    with pytest.raises(anchors.AnchorsError, match=expected):
        anchors.encode(encoder, ["one", "two"])
