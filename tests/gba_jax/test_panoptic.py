"""Panoptic quality against a hand-computed pair and against sets of pixels, and COCO's coding of ids."""

import math

import numpy as np
import pytest

from gba_jax import panoptic


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _map(*rows):
    return np.array([[".abcdef".index(x) - 1 for x in row] for row in rows], np.int32)


def test_a_pair_computed_by_hand():
    """Thing 0 matched, thing 1 missed and made up, stuff 2 matched beside void, one prediction excused by void."""
    truth = _map(
        "aaaa..",
        "aaaa..",
        "bbcccc",
        "bbcccc",
    )
    prediction = _map(
        "aaabbb",  # a: 6 of 8 pixels of truth a, nothing else; b: 2 of truth a, 4 on void
        "aaabbb",
        "cddddd",  # c: 2 of 4 pixels of truth b, exactly one half: no match
        "cddddd",  # d: 8 of 8 pixels of truth c and 2 of truth b
    )
    counts = panoptic.panoptic_counts(
        prediction, np.array([0, 1, 1, 2]), truth, np.array([0, 1, 2]), classes=3
    )
    np.testing.assert_array_equal(counts.tp, [1, 0, 1])
    np.testing.assert_array_equal(counts.fp, [0, 1, 0])
    np.testing.assert_array_equal(counts.fn, [0, 1, 0])
    np.testing.assert_allclose(counts.iou, [6 / 8, 0, 8 / 10])
    scores = panoptic.panoptic_scores(counts, np.array([True, True, False]))
    np.testing.assert_allclose(scores["pq_per_class"], [0.75, 0.0, 0.8])
    np.testing.assert_allclose(scores["rq_per_class"], [1.0, 0.0, 1.0])
    assert scores["pq"] == pytest.approx((0.75 + 0.8) / 3)
    assert scores["pq_things"] == pytest.approx(0.75 / 2)
    assert scores["pq_stuff"] == pytest.approx(0.8)
    assert scores["sq"] == pytest.approx((0.75 + 0.8) / 3)
    assert scores["rq"] == pytest.approx(2 / 3)


def test_pixels_on_void_do_not_enlarge_the_union():
    truth, prediction = _map("aaa..."), _map("aaaaaa")
    counts = panoptic.panoptic_counts(
        prediction, np.array([0]), truth, np.array([0, -1, -1]), classes=1
    )
    assert (counts.tp[0], counts.iou[0]) == (1, 1.0)


@pytest.mark.parametrize(("crowd_class", "false"), [(0, 0), (1, 1)])
def test_only_a_crowd_of_the_own_class_excuses(crowd_class, false):
    truth, prediction = _map("aaabbb"), _map("..aaaa")
    counts = panoptic.panoptic_counts(
        prediction,
        np.array([0]),
        truth,
        np.array([2, crowd_class]),
        classes=3,
        crowd=np.array([False, True]),
    )
    assert counts.fp.tolist() == [false, 0, 0]
    assert counts.fn.tolist() == [0, 0, 1]
    assert not counts.tp.any()


def _brute(prediction, prediction_classes, truth, truth_classes, classes, crowd):
    """COCO's rule on sets of pixels, pair by pair."""
    pixels = lambda m, n: set(np.flatnonzero(m.ravel() == n).tolist())
    void = pixels(truth, -1)
    truths = {n: pixels(truth, n) for n in range(len(truth_classes)) if (truth == n).any()}
    guesses = {
        n: pixels(prediction, n) for n in range(len(prediction_classes)) if (prediction == n).any()
    }
    iou, tp, fp, fn = (np.zeros(classes) for _ in range(4))
    found, used = set(), set()
    for g, a in truths.items():
        for p, b in guesses.items():
            if crowd[g] or truth_classes[g] != prediction_classes[p]:
                continue
            value = len(a & b) / len((a | b) - (void & b))
            if value > 0.5:
                iou[truth_classes[g]] += value
                tp[truth_classes[g]] += 1
                found.add(g)
                used.add(p)
    for g in truths:
        if g not in found and not crowd[g]:
            fn[truth_classes[g]] += 1
    for p, b in guesses.items():
        if p in used:
            continue
        excused = len(b & void)
        for g, a in truths.items():
            if crowd[g] and truth_classes[g] == prediction_classes[p]:
                excused += len(a & b)
        if excused / len(b) <= 0.5:
            fp[prediction_classes[p]] += 1
    return iou, tp, fp, fn


def test_random_maps_equal_the_rule_on_sets_of_pixels(rng):
    classes, total = 3, None
    expected = [np.zeros(classes) for _ in range(4)]
    for _ in range(200):
        blocks = rng.integers(-1, 6, (4, 4)).astype(np.int32)
        truth = np.kron(blocks, np.ones((3, 3), np.int32))
        # The truth, renumbered, with noise: a good share of matches.
        order = rng.permutation(6).astype(np.int32)
        prediction = np.where(truth >= 0, order[truth], rng.integers(-1, 6, truth.shape))
        noise = rng.uniform(size=truth.shape) < 0.35
        prediction = np.where(noise, rng.integers(-1, 8, truth.shape), prediction).astype(np.int32)
        truth_classes = rng.integers(0, classes, 7)
        prediction_classes = rng.integers(0, classes, 8)
        prediction_classes[order] = truth_classes[:6]
        swapped = rng.integers(0, 8)
        prediction_classes[swapped] = (prediction_classes[swapped] + 1) % classes
        crowd = rng.uniform(size=7) < 0.2
        arrays = (prediction, prediction_classes, truth, truth_classes)
        counts = panoptic.panoptic_counts(*arrays, classes=classes, crowd=crowd)
        for sum_, more in zip(expected, _brute(*arrays, classes, crowd)):
            sum_ += more
        total = counts if total is None else total + counts
    assert total is not None
    for name, value in zip(("iou", "tp", "fp", "fn"), expected):
        assert value.min() > 20, "the random maps must reach every branch"
        np.testing.assert_allclose(getattr(total, name), value, rtol=1e-12, err_msg=name)


def test_classes_without_segments_are_excluded_and_pure_errors_are_not():
    counts = panoptic.PanopticCounts(
        iou=np.array([1.6, 0, 0, 0]),
        tp=np.array([2, 0, 0, 0]),
        fp=np.array([1, 0, 3, 0]),
        fn=np.array([1, 0, 0, 0]),
    )
    scores = panoptic.panoptic_scores(counts, np.array([True, True, False, False]))
    np.testing.assert_allclose(scores["pq_per_class"], [1.6 / 3, math.nan, 0, math.nan])
    assert scores["pq"] == pytest.approx(0.8 / 3)
    assert scores["pq_stuff"] == 0.0
    only = panoptic.panoptic_scores(counts, np.ones(4, bool))
    assert math.isnan(only["pq_stuff"])
    with pytest.raises(ValueError, match="one per class"):
        panoptic.panoptic_scores(counts, np.ones(3, bool))


def test_impossible_maps_are_refused_together():
    with pytest.raises(ValueError, match="cannot match") as error:
        panoptic.panoptic_counts(
            _map("aad"), np.array([0]), _map("ab", "ab"), np.array([0, 7]), classes=3
        )
    for part in ("segments [3]", "segment 1 has class 7", "differ in shape"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="dtype uint8"):
        panoptic.panoptic_counts(
            np.zeros((1, 1), np.uint8), np.array([0]), _map("a"), np.array([0]), classes=1
        )


def test_id_coding_both_ways(rng):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 8345037, 256**3 - 1]])
    rgb = panoptic.ids_to_rgb(ids)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(
        rgb[1, 2], [8345037 % 256, 8345037 // 256 % 256, 8345037 // 65536]
    )
    np.testing.assert_array_equal(panoptic.rgb_to_ids(rgb), ids)
    picture = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    np.testing.assert_array_equal(panoptic.ids_to_rgb(panoptic.rgb_to_ids(picture)), picture)


@pytest.mark.parametrize("bad", [-1, 256**3])
def test_ids_beyond_three_bytes_are_refused(bad):
    with pytest.raises(ValueError, match=r"three bytes hold 0\.\.16777215"):
        panoptic.ids_to_rgb(np.array([[0, bad]]))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4)])
def test_pictures_that_hide_their_ids_are_refused(shape):
    with pytest.raises(ValueError, match="convert it to RGB"):
        panoptic.rgb_to_ids(np.zeros(shape, np.uint8))
