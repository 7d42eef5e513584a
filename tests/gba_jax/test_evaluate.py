"""Judging a tiny data set against counts made by hand, picture by picture; batches, shifts, queries, several processes."""

import collections
import dataclasses
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gba_jax import datasets, evaluate, processes, shifts, vocabulary, windows
from gba_jax.hosts import mask_outputs
from tests.gba_jax import trees

CLASSES = ("background", "cat, kitten", "dog", "sky")
SEEN = np.array([True, True, False, False])
SIDE = 8
PLAN = windows.whole(SIDE)
# Runs of equal size of three, one and two pictures.
SIZES = [(6, 9)] * 3 + [(5, 4)] + [(7, 7)] * 2

Found = collections.namedtuple("Found", "probabilities mask_logits")


def _text(classes):
    words = vocabulary.build(classes)
    return vocabulary.pad(words, np.eye(len(words.rows), 8, dtype=np.float32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Pictures and masks of a user's own folder; some pixels are ignored, one class is never there."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(3)
    trees.text(root / "classes.txt", "\n".join(CLASSES))
    for i, size in enumerate(SIZES):
        trees.picture(root / f"images/{i}.png", size)
        labels = rng.integers(0, 3, size)
        labels[rng.random(size) < 0.2] = 255
        labels[labels == 2] = 2 if i % 2 else 0
        trees.grey(root / f"masks/{i}.png", labels)
    return datasets.read("folder", root, "all")


@pytest.fixture(scope="module")
def score():
    """A host: a fixed random linear map of 2 x 2 means, a score for each of 32 padded classes."""
    weights = np.zeros((3, 32), np.float32)
    weights[:, :4] = np.random.default_rng(4).normal(size=(3, 4))

    @jax.jit
    def run(images):
        x = images.astype(jnp.float32).reshape(-1, SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4)) / 255
        found = jax.nn.sigmoid(jnp.einsum("bhwk,kc->bchw", x - 0.5, weights))
        return jnp.where((jnp.arange(32) < 4)[None, :, None, None], found, 0.0)

    return run


def _judge(score, dataset, **options):
    options = {"seen": SEEN, "plan": PLAN, "batch_size": 3, "progress": False} | options
    return evaluate.judge(score, dataset, _text(dataset.classes), **options)


def _predict(score, image):
    maps = windows.scores(score, image[None], PLAN)
    return windows.labels(maps, image.shape[:2])[0][0]


def _by_hand(pairs):
    """The scores of (prediction, label) maps, pixel by pixel."""
    hits, truth, called = np.zeros(4), np.zeros(4), np.zeros(4)
    absent = valid = 0
    for prediction, label in pairs:
        words = set(label.ravel().tolist())
        for p, y in zip(prediction.ravel().tolist(), label.ravel().tolist(), strict=True):
            if y < 0:
                continue
            truth[y] += 1
            called[p] += 1
            hits[y] += p == y
            valid += 1
            absent += p not in words
    there = truth > 0
    iou = np.full(4, np.nan)
    iou[there] = (hits / np.maximum(truth + called - hits, 1))[there]
    seen, unseen = np.nanmean(iou[SEEN]), np.nanmean(iou[~SEEN])
    return {
        "miou": np.nanmean(iou),
        "fwiou": np.nansum(truth * iou) / truth.sum(),
        "macc": np.mean((hits / np.maximum(truth, 1))[there]),
        "pacc": hits.sum() / truth.sum(),
        "seen": seen,
        "unseen": unseen,
        "harmonic": 2 * seen * unseen / (seen + unseen),
        "absent": absent / valid,
        "images": len(pairs),
    }


@pytest.fixture(scope="module")
def expected(score, dataset):
    return _by_hand([(_predict(score, s.image), s.labels) for s in dataset])


def test_the_oracle_has_something_to_count(expected):
    assert all(0 < expected[name] < 1 for name in expected if name != "images"), expected


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_scores_equal_a_count_by_hand(score, dataset, expected, batch_size):
    got = _judge(score, dataset, batch_size=batch_size)
    assert got == pytest.approx(expected)
    assert all(type(x) is float for name, x in got.items() if name != "images")


def test_padding_of_the_overlap_mask_may_stay(score, dataset, expected):
    assert _judge(score, dataset, seen=np.pad(SEEN, (0, 28))) == pytest.approx(expected)


def test_a_host_sees_one_picture_or_a_full_batch(score, dataset):
    sizes = []

    def spy(images):
        sizes.append(len(images))
        return score(images)

    _judge(spy, dataset, batch_size=3)
    # Three of a size; one alone; two are filled up to three.
    assert sizes == [3, 1, 3]
    sizes.clear()
    _judge(spy, dataset, batch_size=8)
    assert sizes == [1] * 6


def test_nothing_labelled_is_nan(score, dataset, tmp_path):
    trees.text(tmp_path / "classes.txt", "\n".join(CLASSES))
    trees.picture(tmp_path / "images/a.png", (5, 4))
    trees.grey(tmp_path / "masks/a.png", np.full((5, 4), 255))
    got = _judge(score, datasets.read("folder", tmp_path, "all"))
    assert got.pop("images") == 1
    assert all(math.isnan(x) for x in got.values())


def test_a_shift_changes_every_picture_by_its_place(score, dataset):
    """Same numbers in every call and with every batch size; those of pictures shifted one by one."""
    shift, pairs = shifts.Shift("brightness", 3), []
    for i, sample in enumerate(dataset):
        key = jax.random.fold_in(jax.random.key(0), i)[None]
        image = np.asarray(shifts.apply(sample.image[None], shift, key=key))[0]
        pairs.append((_predict(score, image), sample.labels))
    expected = _by_hand(pairs)
    assert _judge(score, dataset, shift=shift) == pytest.approx(expected)
    assert expected != pytest.approx(_judge(score, dataset))


def test_borrowed_amplitudes_come_from_the_references(score, dataset):
    references = shifts.reference_set(dataset, 2, 16)
    shift = shifts.Shift("apr", 3)
    got = _judge(score, dataset, shift=shift, references=references)
    assert got["images"] == 6
    assert got != _judge(score, dataset, shift=shift, references=255 - references)


def test_the_suite_is_a_mean_over_severities():
    rate = {shift: i / 100 for i, shift in enumerate(shifts.SUITE)}
    got = evaluate.judge_suite(lambda shift: {"miou": rate[shift], "pacc": 7.0})
    assert set(got) == {*shifts.KINDS, "mean"}
    assert got["noise"] == pytest.approx(0.01)
    assert got["mean"] == pytest.approx(sum(rate.values()) / 24)


def _play(monkeypatch, count, run):
    """The result of the last of several processes, played one after the other.

    A gathering gives the arrays of the processes so far, so only the last one sees all; every process gathers the same
    number of times. Lengths of bytes are those of the longest so far, as the real gathering wants equal shapes.
    """
    calls: list[list[np.ndarray]] = []
    place = [0]

    def gather(x):
        assert x.dtype in (np.uint32, np.uint8), "JAX would cut 64 bits"
        if place[0] == len(calls):
            calls.append([])
        calls[place[0]].append(x)
        rows = calls[place[0]]
        place[0] += 1
        widest = max(len(row) for row in rows)
        return np.stack([np.pad(row, (0, widest - len(row))) for row in rows])

    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gather)
    results = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        place[0] = 0
        results.append(run())
    return results


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_pictures(monkeypatch, score, dataset, expected, count):
    results = _play(monkeypatch, count, lambda: _judge(score, dataset))
    assert results[-1] == pytest.approx(expected)
    shares = [len(range(process, len(SIZES), count)) for process in range(count)]
    assert [found["images"] for found in results] == np.cumsum(shares).tolist()


def test_processes_share_segments(monkeypatch, panoptic_dataset):
    """Panoptic quality and mask AP of two processes are those of one."""
    queries = _queries(panoptic_dataset, lambda s: s.segments.classes[~s.segments.crowd])
    run = lambda: _judge(None, panoptic_dataset, queries=queries, seen=np.ones(3, bool))
    alone = run()
    assert _play(monkeypatch, 2, run)[-1] == pytest.approx(alone, nan_ok=True)


def test_sums_of_processes_keep_64_bits(monkeypatch):
    large = np.array([[2**40 + 1, -3]], np.int64)
    for x in (large, np.array([0.1])):
        np.testing.assert_array_equal(
            _play(monkeypatch, 2, lambda x=x: processes.summed(x))[-1], 2 * x
        )


def test_bytes_of_processes_may_differ_in_length(monkeypatch):
    parts = iter([b"abc", b"", b"defgh"])
    found = _play(monkeypatch, 3, lambda: processes.collected(next(parts)))
    assert found[-1] == [b"abc", b"", b"defgh"]


@pytest.fixture(scope="module")
def panoptic_dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("panoptic")
    rng = np.random.default_rng(6)
    rows = []
    for i, size in enumerate([(8, 8), (8, 8), (6, 10)]):
        name = f"{i:012d}"
        ids = np.zeros(size, int)
        ids[1:4, 1:5], ids[4:, :], ids[:3, 6:] = 5, 9, 300
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(_made(root, name))
        trees.ids(root / f"panoptic_val2017/{name}.png", ids)
        rows.append(
            (i, f"{name}.jpg", f"{name}.png", [(5, 1, 0), (9, 3, 0), (300, 2, int(i == 1))])
        )
    categories = [(1, "cat", 1), (2, "dog", 1), (3, "grass", 0)]
    trees.panoptic_json(root / "annotations/panoptic_val2017.json", categories, rows)
    return datasets.read("coco_panoptic", root, "val")


def _made(root, name):
    (root / "val2017").mkdir(exist_ok=True)
    return root / f"val2017/{name}.jpg"


def _queries(dataset, classes):
    """A host that knows the truth of every picture by its pixels: a query a segment, the last one void."""
    table = {}
    for sample in dataset:
        probabilities, logits = np.zeros((4, 33), np.float32), np.full((4, SIDE, SIDE), -20.0)
        probabilities[:, -1] = 1
        for row, label in enumerate(classes(sample)):
            inside = Image.fromarray((sample.segments.map == row).astype(np.uint8) * 255)
            logits[row] = np.where(np.asarray(inside.resize((SIDE, SIDE), 0)), 20.0, -20.0)
            probabilities[row, label], probabilities[row, -1] = 0.9, 0.1
        key = PLAN.inputs(sample.image[None])[0, 0].tobytes()
        table[key] = probabilities, logits.astype(np.float32)

    def run(images):
        found = [table[image.tobytes()] for image in images]
        return Found(*(jnp.asarray(np.stack(x)) for x in zip(*found, strict=True)))

    return run


def test_true_queries_score_everything(panoptic_dataset):
    """Masks equal to the truth (8 x 8 pictures: exactly): quality 1, and void for the crowd costs nothing."""
    squares = dataclasses.replace(panoptic_dataset, items=panoptic_dataset.items[:2])
    queries = _queries(squares, lambda s: s.segments.classes[~s.segments.crowd])
    got = _judge(None, squares, queries=queries, seen=np.array([True, True, False]), batch_size=2)
    names = [f"{n}{s}" for n in ("pq", "sq", "rq") for s in ("", "_things", "_stuff")]
    names += ["miou", "pacc", "seen", "unseen", "harmonic"]
    if importlib.util.find_spec("pycocotools"):
        names += ["ap", "ap50", "ap75"]
    assert {name: got[name] for name in names} == pytest.approx(dict.fromkeys(names, 1.0))
    assert got["absent"] == 0
    assert got["images"] == 2


def test_a_wrong_class_costs_its_segments(panoptic_dataset):
    """The first picture's cat is called a dog: a miss of the one, a false alarm of the other."""
    squares = dataclasses.replace(panoptic_dataset, items=panoptic_dataset.items[:2])
    first = squares[0].image_id

    def classes(sample):
        table = sample.segments.classes[~sample.segments.crowd].copy()
        table[0] = 1 if sample.image_id == first else table[0]
        return table

    got = _judge(None, squares, queries=_queries(squares, classes), seen=np.ones(3, bool))
    # cat: 1 hit, 1 miss; dog: 1 hit, 1 false alarm; grass: 2 hits.
    assert got["pq_things"] == pytest.approx(2 / 3)
    assert got["pq_stuff"] == pytest.approx(1)
    assert got["pq"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert math.isnan(got["unseen"])
    assert math.isnan(got["harmonic"])


def test_scores_of_queries_are_their_semantic_maps(panoptic_dataset):
    queries = _queries(panoptic_dataset, lambda s: s.segments.classes)
    options = {"seen": np.ones(3, bool), "batch_size": 2}
    semantic = lambda images: mask_outputs.semantic(*queries(images))
    by_scores = _judge(semantic, panoptic_dataset, **options)
    by_queries = _judge(None, panoptic_dataset, queries=queries, **options)
    assert {name: by_queries[name] for name in by_scores} == pytest.approx(by_scores, nan_ok=True)
    assert "pq" not in by_scores


def test_labels_without_segments_have_no_panoptic_quality(dataset):
    run = lambda images: Found(
        jnp.full((len(images), 2, 33), 1 / 33), jnp.zeros((len(images), 2, 4, 4))
    )
    got = _judge(None, dataset, queries=run)
    assert "pq" not in got
    assert got["images"] == 6


def test_problems_are_named_together(score, dataset):
    empty = dataclasses.replace(dataset, items=())
    text = _text(["one", "two"])
    with pytest.raises(ValueError, match=r"no pictures.*neither.*4 classes.*of 2, seen has 4"):
        evaluate.judge(None, empty, text, seen=SEEN, plan=PLAN)
    with pytest.raises(ValueError, match="5 windows"):
        _judge(None, dataset, queries=lambda x: None, plan=windows.sliding(16, 8, 8))
