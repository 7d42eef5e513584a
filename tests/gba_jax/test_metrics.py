"""Segmentation scores against Python loops over pixels, and the properties that no loop shows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax import metrics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _maps(rng, classes, shape=(2, 7, 9)):
    label = rng.integers(-1, classes, shape).astype(np.int32)
    noise = rng.integers(-1, classes, shape).astype(np.int32)
    prediction = np.where(rng.uniform(size=shape) < 0.5, label, noise)
    return prediction.astype(np.int32), label


def _brute_matrix(prediction, label, classes):
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for p, t in zip(prediction.ravel().tolist(), label.ravel().tolist()):
        if t != -1:
            matrix[t if 0 <= t < classes else classes, p if 0 <= p < classes else classes] += 1
    return matrix


def _brute_scores(prediction, label, classes):
    """Sets of pixels per class; no matrix."""
    pairs = [(p, t) for p, t in zip(prediction.ravel().tolist(), label.ravel().tolist()) if t != -1]
    iou, accuracy, weight = {}, {}, {}
    for c in range(classes):
        truth = {i for i, (_, t) in enumerate(pairs) if t == c}
        called = {i for i, (p, _) in enumerate(pairs) if p == c}
        if truth:
            iou[c] = len(truth & called) / len(truth | called)
            accuracy[c] = len(truth & called) / len(truth)
            weight[c] = len(truth) / len(pairs)
    return {
        "miou": sum(iou.values()) / len(iou),
        "fwiou": sum(weight[c] * iou[c] for c in iou),
        "macc": sum(accuracy.values()) / len(accuracy),
        "pacc": sum(p == t for p, t in pairs) / len(pairs),
        "iou": np.array([iou.get(c, math.nan) for c in range(classes)]),
    }


@pytest.mark.parametrize("classes", [1, 2, 5, 60])
def test_matrix_and_scores_equal_loops_over_pixels(rng, classes):
    prediction, label = _maps(rng, classes)
    matrix = metrics.confusion(prediction, label, classes)
    assert matrix.dtype == jnp.int32
    np.testing.assert_array_equal(matrix, _brute_matrix(prediction, label, classes))
    got = metrics.segmentation_scores(np.asarray(matrix))
    expected = _brute_scores(prediction, label, classes)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, err_msg=name)


def test_labels_beyond_eight_bits_keep_their_class():
    """Label 400 would be 144 in eight bits, and class 144 is there to receive it."""
    label = np.array([[400, 400, 144, -1]], np.int32)
    prediction = np.array([[400, 144, 144, 400]], np.int32)
    scores = metrics.segmentation_scores(np.asarray(metrics.confusion(prediction, label, 847)))
    assert scores["iou"][400] == 0.5
    assert scores["iou"][144] == 0.5
    assert np.isnan(scores["iou"]).sum() == 845
    assert scores["miou"] == 0.5
    assert scores["pacc"] == pytest.approx(2 / 3)


def test_thousands_of_classes_are_counted(rng):
    prediction, label = _maps(rng, 1536, (40, 40))
    matrix = np.asarray(metrics.confusion(prediction, label, 1536))
    np.testing.assert_array_equal(matrix, _brute_matrix(prediction, label, 1536))


def test_absent_classes_are_excluded_and_their_false_positives_still_hurt():
    label, prediction = np.array([0, 0, 1, 1], np.int32), np.array([0, 2, 1, 1], np.int32)
    scores = metrics.segmentation_scores(np.asarray(metrics.confusion(prediction, label, 4)))
    np.testing.assert_array_equal(scores["iou"], [0.5, 1.0, math.nan, math.nan])
    assert (scores["miou"], scores["macc"], scores["pacc"]) == (0.75, 0.75, 0.75)


def test_a_prediction_of_no_class_is_missed_and_nobodys_false_positive():
    label, prediction = np.array([0, 0, 1, 1], np.int32), np.array([0, -1, 1, 1], np.int32)
    scores = metrics.segmentation_scores(np.asarray(metrics.confusion(prediction, label, 2)))
    np.testing.assert_array_equal(scores["iou"], [0.5, 1.0])
    assert scores["pacc"] == 0.75


def test_nothing_to_score_is_nan():
    empty = np.full((3, 3), -1, np.int32)
    scores = metrics.segmentation_scores(np.asarray(metrics.confusion(empty, empty, 3)))
    assert all(np.isnan(scores[name]).all() for name in ("miou", "fwiou", "macc", "pacc", "iou"))


def test_totals_leave_int32_behind():
    batch = jnp.asarray([[2**31 - 1, 0], [0, 0]], jnp.int32)
    total = None
    for _ in range(3):
        total = metrics.accumulate(total, batch)
    assert total is not None
    assert total.dtype == np.int64
    assert total[0, 0] == 3 * (2**31 - 1)
    assert metrics.segmentation_scores(total)["pacc"] == 1.0


def test_batches_add_up_to_the_whole(rng):
    prediction, label = _maps(rng, 6, (4, 5, 5))
    total = None
    for p, t in zip(prediction, label):
        total = metrics.accumulate(total, metrics.confusion(p, t, 6))
    np.testing.assert_array_equal(total, metrics.confusion(prediction, label, 6))


def test_labels_outside_the_vocabulary_are_refused():
    label = np.array([0, 5, 5, -7], np.int32)
    matrix = np.asarray(metrics.confusion(np.zeros(4, np.int32), label, 3))
    with pytest.raises(ValueError, match=r"3 pixels carry labels outside 0\.\.2"):
        metrics.segmentation_scores(matrix)


def test_maps_that_cannot_be_counted_are_refused_together():
    with pytest.raises(ValueError, match="dtype uint8") as error:
        metrics.confusion(np.zeros((2, 3), np.int32), np.zeros((3, 2), np.uint8), 0)
    assert "differ in shape" in str(error.value)
    assert "classes=0" in str(error.value)
    with pytest.raises(ValueError, match="expected \\(C \\+ 1, C \\+ 1\\)"):
        metrics.segmentation_scores(np.zeros((3, 4), np.int64))


def test_seen_and_unseen_and_their_harmonic_mean():
    iou = np.array([0.6, math.nan, 0.2, 0.4, 0.1])
    seen = np.array([True, True, False, True, False])
    got = metrics.seen_unseen_scores(iou, seen)
    assert got == pytest.approx({"seen": 0.5, "unseen": 0.15, "harmonic": 0.15 / 0.65})
    assert metrics.seen_unseen_scores(np.zeros(2), np.array([True, False]))["harmonic"] == 0.0
    alone = metrics.seen_unseen_scores(iou, np.ones(5, bool))
    assert alone["seen"] == pytest.approx(0.325)
    assert math.isnan(alone["unseen"])
    assert math.isnan(alone["harmonic"])
    with pytest.raises(ValueError, match="overlap mask"):
        metrics.seen_unseen_scores(iou, np.ones(5, np.int32))


@pytest.mark.parametrize("classes", [3, 500])
def test_absent_class_counts_equal_a_loop(rng, classes):
    prediction, label = _maps(rng, classes, (3, 4, 5))
    label[1] = np.where(label[1] == 2, 1, label[1])
    absent = valid = 0
    for p, t in zip(prediction, label):
        words = {c for c in t.ravel().tolist() if c != -1}
        for a, b in zip(p.ravel().tolist(), t.ravel().tolist()):
            valid += b != -1
            absent += b != -1 and a != -1 and a not in words
    got = metrics.absent_class_counts(prediction, label, classes)
    assert (int(got[0]), int(got[1])) == (absent, valid)
    assert absent > 0


def test_sharded_maps_are_counted_as_one(rng):
    """The matrix of a batch split over devices is that of the batch, whatever the number of devices."""
    prediction, label = _maps(rng, 4, (jax.device_count() * 2, 5, 5))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    spread = [jax.device_put(x, sharding) for x in (prediction, label)]
    np.testing.assert_array_equal(
        metrics.confusion(*spread, 4), metrics.confusion(prediction, label, 4)
    )
