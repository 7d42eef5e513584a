"""The rules from queries to maps on four hand-made queries, and against a plain numpy reading of them."""

import jax
import numpy as np
import pytest
import torch

from gba_jax import panoptic
from gba_jax.hosts import mask_outputs

# Classes: thing 0, thing 1, stuff 2, and one of padding.
THINGS = np.array([True, True, False, False])
# A sigmoid of about 1 and 0.
IN, OUT = 9.0, -9.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def _masks(*pictures):
    """Logits from drawings: # inside, . outside, ? at 0.2 (just inside), ! at -0.2 (just outside)."""
    values = {"#": IN, ".": OUT, "?": 0.2, "!": -0.2}
    return np.array([[[values[x] for x in row] for row in p] for p in pictures], np.float32)


def _p(*rows):
    """Probabilities of thing 0, thing 1 and stuff 2; the rest is void."""
    p = np.array(rows, np.float32)
    return np.concatenate([p, 0 * p[:, :1], 1 - p.sum(1, keepdims=True)], axis=1)


def test_semantic_on_four_queries():
    p = _p([0.9, 0, 0], [0.5, 0.4, 0], [0, 0, 0.7], [0, 0, 0])
    masks = _masks(["##.."], ["#..."], ["..#?"], ["####"])
    got = mask_outputs.semantic(p[None], masks[None])[0, :, 0]
    i, o, h = _sigmoid([IN, OUT, 0.2])
    expected = [
        [0.9 * i + 0.5 * i, 0.9 * i + 0.5 * o, 1.4 * o, 1.4 * o],
        [0.4 * i, 0.4 * o, 0.4 * o, 0.4 * o],
        [0.7 * o, 0.7 * o, 0.7 * i, 0.7 * h],
        [0] * 4,
    ]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    void = mask_outputs.void_share(p[None], masks[None])[0, 0]
    expected = [0.1 * i + 0.1 * i + 0.3 * o + i, 0.1 * i + 0.1 * o + 0.3 * o + i]
    np.testing.assert_allclose(void[:2], expected, atol=1e-6)


def test_semantic_equals_a_loop(rng):
    p = rng.dirichlet(np.ones(5), (2, 3)).astype(np.float32)
    masks = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    expected = np.zeros((2, 4, 4, 6))
    for b, q, c in np.ndindex(2, 3, 4):
        expected[b, c] += p[b, q, c] * _sigmoid(masks[b, q])
    np.testing.assert_allclose(mask_outputs.semantic(p, masks), expected, atol=1e-6)


def test_panoptic_on_four_queries():
    """A thing, a void query, a query that loses more than a fifth of its mask, and stuff with an unsure edge."""
    p = _p([0.9, 0, 0], [0.1, 0, 0.2], [0, 0.6, 0], [0, 0, 0.8])
    masks = _masks(
        ["###...", "###..."],
        ["######", "######"],  # void: drops out although it covers everything
        [".###..", ".###.."],  # four of its six pixels go to the first
        ["...###", "....!?"],  # wins the pixel at -0.2 but does not cover it
    )
    got = mask_outputs.panoptic(p, masks, THINGS, (2, 6))
    np.testing.assert_array_equal(got.segments, [[0, 0, 0, 3, 3, 3], [0, 0, 0, -1, -1, 3]])
    np.testing.assert_array_equal(got.classes, [0, -1, -1, 2])
    np.testing.assert_allclose(got.scores, [0.9, 0, 0, 0.8])
    assert got.segments.dtype == np.int32
    assert got.classes.dtype == np.int32


def test_segments_of_one_kind_of_stuff_are_merged_and_things_are_not():
    p = _p([0, 0, 0.6], [0, 0.7, 0], [0, 0.8, 0], [0, 0, 0.9])
    masks = _masks(["#....."], [".##..."], ["...#.."], ["....##"])
    got = mask_outputs.panoptic(p, masks, THINGS, (1, 6))
    np.testing.assert_array_equal(got.segments, [[0, 1, 1, 2, 0, 0]])
    np.testing.assert_array_equal(got.classes, [2, 1, 1, -1])
    np.testing.assert_allclose(got.scores, [0.9, 0.7, 0.8, 0])
    truth = np.array([[0, 1, 1, 2, 0, 0]], np.int32)
    counts = panoptic.panoptic_counts(
        np.asarray(got.segments), np.asarray(got.classes), truth, np.array([2, 1, 1]), classes=3
    )
    np.testing.assert_array_equal(counts.tp, [0, 2, 1])
    assert not counts.fp.any()
    assert not counts.fn.any()


@pytest.mark.parametrize(("won", "kept"), [(4, True), (3, False)])
def test_a_query_with_four_fifths_of_its_mask_stays(won, kept):
    """Exactly 0.8 is enough; below, its pixels belong to nobody."""
    p = _p([0.9, 0, 0], [0, 0.5, 0])
    masks = _masks(["." * won + "#" * (5 - won)], ["#####"])
    got = mask_outputs.panoptic(p, masks, THINGS, (1, 5))
    expected = [1 if kept else -1] * won + [0] * (5 - won)
    np.testing.assert_array_equal(got.segments, [expected])


def test_the_score_threshold():
    p = _p([0.5, 0.1, 0], [0, 0.6, 0])
    masks = _masks(["##.."], ["..##"])
    got = mask_outputs.panoptic(p, masks, THINGS, (1, 4), score=0.55)
    np.testing.assert_array_equal(got.segments, [[-1, -1, 1, 1]])


def test_nothing_but_void():
    got = mask_outputs.panoptic(_p([0, 0, 0], [0.1, 0, 0]), _masks(["##"], ["##"]), THINGS, (1, 2))
    np.testing.assert_array_equal(got.segments, [[-1, -1]])
    np.testing.assert_array_equal(got.classes, [-1, -1])


def _upsample(masks, size):
    return torch.nn.functional.interpolate(
        torch.tensor(masks)[None], size=size, mode="bilinear", align_corners=False
    )[0].numpy()


def _panoptic_by_numpy(p, masks, size):
    """The public rule as it is written there: all masks at once, segment after segment."""
    shares = _sigmoid(_upsample(masks, size))
    label, best = p.argmax(1), p.max(1)
    kept = [q for q in range(len(p)) if label[q] != p.shape[1] - 1 and best[q] > 0]
    segments, classes, stuff = np.full(size, -1), {}, {}
    if not kept:
        return segments, classes
    owner = np.array(kept)[(best[kept, None, None] * shares[kept]).argmax(0)]
    for q in kept:
        won, full = owner == q, shares[q] >= 0.5
        mask = won & full
        if not mask.any() or won.sum() / full.sum() < 0.8:
            continue
        row = q if THINGS[label[q]] else stuff.setdefault(label[q], q)
        segments[mask], classes[row] = row, label[q]
    return segments, classes


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_equals_numpy_on_resized_blobs(seed):
    rng, size = np.random.default_rng(seed), (11, 14)
    y, x = np.mgrid[:6, :7]
    centres = rng.uniform(0, 6, (8, 2, 1, 1))
    away = np.hypot(y - centres[:, 0], x - centres[:, 1])
    masks = (3 * (rng.uniform(1, 3, (8, 1, 1)) - away)).astype(np.float32)
    p = rng.dirichlet([0.4, 0.4, 0.8, 0.001, 0.3], 8).astype(np.float32)
    got = mask_outputs.panoptic(p, masks, THINGS, size)
    segments, classes = _panoptic_by_numpy(p, masks, size)
    np.testing.assert_array_equal(got.segments, segments)
    assert {q: int(c) for q, c in enumerate(got.classes) if c >= 0} == classes
    assert (np.asarray(got.scores) > 0).tolist() == (np.asarray(got.classes) >= 0).tolist()


def test_instances_on_four_queries():
    """Ordered by class probability; one query for two classes; stuff and padding drop out after the choice."""
    p = _p([0.9, 0, 0], [0, 0, 0.8], [0.3, 0.6, 0.05], [0, 0.1, 0])
    masks = _masks(["##.."], ["..##"], [".#??"], ["...."])
    got = mask_outputs.instances(p, masks, THINGS, (1, 4), most=5)
    np.testing.assert_array_equal(got.classes, [0, -1, 1, 0, 1])
    inside = (_sigmoid(IN) + 2 * _sigmoid(0.2)) / 3
    expected = [0.9 * _sigmoid(IN), 0, 0.6 * inside, 0.3 * inside, 0]
    np.testing.assert_allclose(got.scores, expected, atol=1e-5)
    drawn = ["##..", "....", ".###", ".###", "...."]
    np.testing.assert_array_equal(got.masks[:, 0], [[x == "#" for x in row] for row in drawn])


def test_instances_equal_numpy_on_resized_masks(rng):
    p = rng.dirichlet(np.ones(5), 6).astype(np.float32)
    masks, size = rng.normal(size=(6, 5, 5)).astype(np.float32), (9, 8)
    got = mask_outputs.instances(p, masks, THINGS, size)
    assert got.masks.shape == (24, *size), "never more than there are pairs"
    large = _upsample(masks, size)
    pairs = sorted(np.ndindex(6, 4), key=lambda pair: -p[pair])
    for row, (q, c) in enumerate(pairs):
        kept = THINGS[c]
        assert got.classes[row] == (c if kept else -1)
        mask = large[q] > 0
        np.testing.assert_array_equal(got.masks[row], mask & kept)
        expected = p[q, c] * _sigmoid(large[q])[mask].sum() / (mask.sum() + 1e-6) if kept else 0
        np.testing.assert_allclose(got.scores[row], expected, atol=1e-5)


def test_memory_does_not_grow_with_queries_times_pixels():
    """250 queries at 512 x 512 are 262 MB as float32: the compiled program stays far below."""
    shapes = [jax.ShapeDtypeStruct((250, *shape), np.float32) for shape in ((5,), (8, 8))]
    lowered = jax.jit(mask_outputs.panoptic, static_argnums=3).lower(*shapes, THINGS, (512, 512))
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 40e6


@pytest.mark.parametrize("name", ["panoptic", "instances"])
def test_pictures_of_similar_sizes_share_a_program(name):
    """Sizes within 64 pixels and logits within 16 cells compile nothing again."""
    call, jitted = getattr(mask_outputs, name), getattr(mask_outputs, f"_{name}")
    p = _p([0.9, 0, 0], [0, 0.8, 0])
    programs = []
    for size, cells in (((65, 100), (17, 20)), ((128, 66), (32, 30))):
        found = call(p, np.ones((2, *cells), np.float32), THINGS, size)
        assert found[0].shape[-2:] == size
        programs.append(jitted._cache_size())
    assert programs[0] == programs[1]
