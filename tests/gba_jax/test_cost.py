"""Host B as a whole: costs and losses by hand, what may and what may not change the maps, gradients, rejection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax import losses
from gba_jax.hosts import cost
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.cost_pyramid import reject
from gba_jax.vocabulary import TextRows

WIDTH, GRID = 6, (4, 5)
TINY = {
    "width": 8,
    "heads": 2,
    "expansion": 2,
    "layers": 1,
    "window": 3,
    "guide": 4,
    "lateral": (4, 3),
    "features": (8, 4, 4),
    "guides": (4, 2, 2),
    "most_classes": 6,
    "train_classes": 6,
    "vocabulary": 8,
    "reject_top": 1,
    "reject_most": 0,
}
judge = jax.jit(cost.loss, static_argnames="ignore")
# Class by class, how many words.
WORDS = (2, 1, 3, 1, 1)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _text(rows, words, size, row_size=16):
    """Rows of classes with so many words each, padded to `size` classes."""
    count = sum(words)
    assert len(rows) == count
    padded = np.zeros((row_size, rows.shape[1]), np.float32)
    padded[:count] = rows
    class_of_row = np.full(row_size, size - 1, np.int32)
    class_of_row[:count] = np.repeat(np.arange(len(words)), words)
    return TextRows(
        rows=jnp.asarray(padded),
        row_mask=jnp.arange(row_size) < count,
        class_of_row=jnp.asarray(class_of_row),
        class_mask=jnp.arange(size) < len(words),
    )


class Host:
    """A tiny host with random parameters (no zeros) and its inputs."""

    def __init__(self, form, *, dtype=jnp.float32, **changes):
        rng = np.random.default_rng(0)
        config = CostConfig(form=form, **{**TINY, **changes})
        self.module = cost.CostAggregation(config, dtype)
        normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
        self.rows = _unit(normal(sum(WORDS), WIDTH))
        self.text = _text(self.rows, WORDS, 6)
        self.dense = 10 * normal(2, *GRID, WIDTH)
        factors = (1, 1) if form == "window" else (2, 4, 8)
        self.guides = tuple(normal(2, GRID[0] * f, GRID[1] * f, 5) for f in factors)
        shapes = jax.eval_shape(
            lambda: self.module.init(
                jax.random.key(0), self.dense, self.guides, self.text, train=True
            )
        )["params"]
        self.params = jax.tree.map(
            lambda leaf: 0.4 * normal(*leaf.shape) + (leaf.ndim == 1), shapes
        )
        self.scale = 4 if form == "window" else 8
        self._apply = jax.jit(self.run, static_argnames="train")

    def run(self, params, dense, guides, text, required=None, *, train):
        options = {"required": required, "train": train}
        return self.module.apply({"params": params}, dense, guides, text, **options)

    def __call__(self, text=None, required=None, *, train=False):
        text = self.text if text is None else text
        return self._apply(self.params, self.dense, self.guides, text, required, train=train)

    def compiled(self):
        return self._apply._cache_size()


@functools.cache
def shared(form):
    """The plain host of a form, whose programs many tests run."""
    return Host(form)


@pytest.fixture(scope="module", params=["window", "pyramid"])
def host(request):
    return shared(request.param)


def test_costs_are_cosines_with_the_best_word():
    rng = np.random.default_rng(2)
    rows, dense = _unit(rng.normal(size=(8, WIDTH))), rng.normal(size=(2, 3, 4, WIDTH))
    rows, dense = rows.astype(np.float32), dense.astype(np.float32)
    text = _text(rows, WORDS, 7)
    got = np.asarray(cost.class_cost(jnp.asarray(dense), text))
    starts = np.cumsum((0, *WORDS))
    for c in range(5):
        words = rows[starts[c] : starts[c + 1]]
        expected = np.max(_unit(dense) @ words.T, axis=-1)
        np.testing.assert_allclose(got[:, c], expected, atol=1e-6)
        mean = _unit(np.mean(words, axis=0))
        np.testing.assert_allclose(cost.class_words(text)[c], mean, atol=1e-6)
    assert np.isneginf(got[:, 5:]).all()
    assert not np.asarray(cost.class_words(text))[5:].any()


@pytest.mark.parametrize("train", [False, True])
def test_maps_are_finite_and_padding_never_wins(host, train):
    maps = host(train=train)
    size = tuple(host.scale * cells for cells in GRID)
    assert maps.logits.shape == (2, 6, *size)
    assert maps.logits.dtype == jnp.float32
    assert np.isfinite(maps.logits).all()
    assert np.all(np.asarray(maps.logits)[:, 5] == -100)
    assert np.std(np.asarray(maps.logits)[:, :5]) > 1e-3
    found = np.asarray(cost.scores(maps))
    assert not found[:, 5].any()
    expected = 1 / (1 + np.exp(-np.asarray(maps.logits)[:, :5]))
    np.testing.assert_allclose(found[:, :5], expected, atol=1e-6)
    coarse = [tuple(2**i * cells for cells in GRID) for i in range(3)] if train else []
    expected = coarse if host.scale == 8 else []
    assert [x.shape[2:] for x in maps.auxiliary] == expected


@pytest.mark.parametrize("train", [False, True])
def test_more_padding_changes_nothing(host, train):
    # As many refined classes as there are.
    wide = _text(host.rows, WORDS, 6, row_size=24)
    expected = host(train=train).logits
    np.testing.assert_allclose(host(wide, train=train).logits, expected, atol=1e-5)
    # More classes than are refined: the top takes all real ones, and one of the padding.
    more = host(_text(host.rows, WORDS, 12), train=train).logits
    assert more.shape[1] == 12
    np.testing.assert_allclose(more[:, :5], expected[:, :5], atol=1e-5)
    assert np.all(np.asarray(more)[:, 5:] == -100)


def test_the_order_of_classes_is_the_order_of_maps(host):
    order = np.asarray([3, 0, 4, 2, 1])
    starts = np.cumsum((0, *WORDS))
    rows = np.concatenate([host.rows[starts[c] : starts[c + 1]] for c in order])
    text = _text(rows, tuple(WORDS[c] for c in order), 6)
    got, expected = host(text).logits, host().logits
    np.testing.assert_allclose(got[:, :5], np.asarray(expected)[:, order], atol=2e-5)


def test_classes_do_see_each_other(host):
    fewer = _text(host.rows[:-1], WORDS[:-1], 6)
    assert np.abs(host(fewer).logits[:, :4] - host().logits[:, :4]).max() > 1e-3


def test_two_vocabularies_in_a_bucket_compile_once(host):
    host()
    before = host.compiled()
    host(_text(host.rows[:4], (1, 2, 1), 6))
    host(_text(host.rows[:1], (1,), 6))
    assert host.compiled() == before


def test_every_leaf_and_the_features_get_gradient(host):
    labels = jnp.asarray(np.random.default_rng(1).integers(-1, 5, (2, 8, 10)), jnp.int32)

    def loss(params, dense, guides):
        maps = host.run(params, dense, guides, host.text, train=True)
        return cost.loss(maps, labels, host.text.class_mask)[0]

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
        host.params, jnp.asarray(host.dense), host.guides
    )
    assert np.isfinite(value)
    params, dense, guides = jax.tree.map(np.asarray, grads)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert np.isfinite(leaf).all(), path
        assert leaf.any(), path
    assert np.isfinite(dense).all()
    assert (np.abs(dense).max(-1) > 0).all()
    # The pyramid's maps are read without gradient.
    assert [bool(x.any()) for x in guides] == [host.scale == 4] * len(guides)


def test_features_without_direction_have_a_finite_gradient():
    text = _text(_unit(np.ones((1, WIDTH), np.float32)), (1,), 2)
    found = lambda x: jnp.sum(cost.class_cost(x, text)[:, 0])
    assert np.isfinite(jax.grad(found)(jnp.zeros((1, 1, 1, WIDTH)))).all()


def test_the_largest_costs_are_refined_and_required_classes_before_them():
    found = np.full((2, 6, 1, 2), -0.5, np.float32)
    found[0, :5, 0, 1], found[1, :5, 0, 0] = [0.1, 0.5, 0.3, 0.2, 0.4], [0.9, -0.1, 0.2, 0.3, 0.1]
    found[:, 5] = -np.inf
    mask = jnp.arange(6) < 5
    kept, real = cost.choose(jnp.asarray(found), mask, 3)
    np.testing.assert_array_equal(kept, [[1, 2, 4], [0, 2, 3]])
    assert np.asarray(real).all()
    required = np.zeros((2, 6), bool)
    required[0, [0, 3]], required[1, [1, 2, 3, 4]] = True, True
    kept, _ = cost.choose(jnp.asarray(found), mask, 3, jnp.asarray(required))
    np.testing.assert_array_equal(kept, [[0, 1, 3], [2, 3, 4]])
    kept, real = cost.choose(jnp.asarray(found), jnp.arange(6) < 2, 6)
    np.testing.assert_array_equal(kept, [np.arange(6)] * 2)
    np.testing.assert_array_equal(real, [np.arange(6) < 2] * 2)


@pytest.mark.parametrize("form", ["window", "pyramid"])
def test_a_cut_vocabulary_gives_the_maps_of_its_best_classes(form):
    few = Host(form, most_classes=3, vocabulary=0)
    required = np.zeros((2, 6), bool)
    required[:, 0] = True
    maps = few(required=jnp.asarray(required))
    kept = np.asarray(maps.kept)
    assert (kept[:, 0] == 0).all()
    logits, starts = np.asarray(maps.logits), np.cumsum((0, *WORDS))
    for b in range(2):
        others = np.setdiff1d(np.arange(6), kept[b])
        assert (logits[b, others] == -100).all()
        rows = np.concatenate([few.rows[starts[c] : starts[c + 1]] for c in kept[b]])
        alone = few(_text(rows, tuple(WORDS[c] for c in kept[b]), 6))
        np.testing.assert_allclose(logits[b, kept[b]], alone.logits[b, :3], atol=2e-5)


def test_the_loss_by_hand():
    class_mask = jnp.asarray([True, True, True, False])
    logits = np.asarray([[1.0, -2.0], [0.5, 0.0]], np.float32).reshape(1, 2, 1, 2)
    maps = cost.CostMaps(
        refined=jnp.asarray(logits),
        kept=jnp.asarray([[0, 2]], jnp.int32),
        real=jnp.ones((1, 2), bool),
        class_mask=class_mask,
        auxiliary=(jnp.zeros((1, 2, 1, 2)), jnp.ones((1, 2, 1, 2))),
    )
    assert np.all(np.asarray(maps.logits)[0, [1, 3]] == -100)
    labels = jnp.asarray([[[2, -1]]], jnp.int32)
    # One valid pixel of class 2, three classes; class 1 was not refined and costs nothing.
    softplus = lambda x: np.log1p(np.exp(x))
    main = softplus(1.0) + softplus(-0.5)
    further = [softplus(0.0) + softplus(0.0), softplus(1.0) + softplus(-1.0)]
    total, terms = judge(maps, labels, class_mask)
    np.testing.assert_allclose(terms["loss_bce"], (main, 3.0), rtol=1e-6)
    np.testing.assert_allclose(terms["loss_aux"], (sum(further), 3.0), rtol=1e-6)
    np.testing.assert_allclose(total, (main + sum(further)) / 3, rtol=1e-6)
    main += softplus(-2.0) + softplus(0.0)
    _, terms = judge(maps, labels, class_mask, ignore="negative")
    np.testing.assert_allclose(terms["loss_bce"], (main, 6.0), rtol=1e-6)


def test_the_loss_of_refined_maps_is_that_of_all_maps():
    """Where every labelled class was refined, resized maps of all classes give the same sum and count."""
    rng = np.random.default_rng(3)
    class_mask = jnp.arange(8) < 7
    kept = jnp.asarray([[0, 2, 3, 6], [1, 2, 5, 7]], jnp.int32)
    real = class_mask[kept]
    refined = jnp.asarray(rng.normal(size=(2, 4, 3, 3)), jnp.float32)
    refined = jnp.where(real[:, :, None, None], refined, -100.0)
    maps = cost.CostMaps(refined, kept, real, class_mask)
    pick = rng.integers(-1, 3, (2, 6, 6))
    labels = np.where(pick < 0, -1, np.asarray(kept)[np.arange(2)[:, None, None], pick])
    labels = jnp.asarray(labels, jnp.int32)
    _, terms = judge(maps, labels, class_mask)
    expected = jax.jit(losses.per_class_bce)(maps.logits, labels, class_mask)
    np.testing.assert_allclose(terms["loss_bce"], expected, rtol=1e-5)
    assert "loss_aux" not in terms


def test_rejection_keeps_the_best_of_every_pixel():
    logits = np.full((1, 5, 1, 3), -1.0, np.float32)
    logits[0, :, 0] = [[3, 0, 0], [2, 1, 0], [0, 5, 1], [0, 0, -1], [9, 9, 9]]
    real = jnp.asarray([[True, True, True, True, False]])
    # Best of the pixels: 0, 2, 2; the best two: 0 and 1, 2 and 1, 2 and 0 (the first of equals).
    kept, stay = reject(jnp.asarray(logits), real, 1, 4)
    np.testing.assert_array_equal(kept[stay], [0, 2])
    kept, stay = reject(jnp.asarray(logits), real, 2, 4)
    np.testing.assert_array_equal(kept[stay], [0, 1, 2])
    # Two at most: those with the largest logits.
    kept, stay = reject(jnp.asarray(logits), real, 2, 2)
    np.testing.assert_array_equal(kept, [[0, 2]])
    assert np.asarray(stay).all()


def test_rejected_classes_have_no_score_and_the_others_do():
    host = Host("pyramid", reject_top=1, reject_most=3)
    maps = host()
    assert maps.refined.shape[1] == 3
    real, kept = np.asarray(maps.real), np.asarray(maps.kept)
    assert real.any(axis=1).all()
    found, logits = np.asarray(cost.scores(maps)), np.asarray(maps.logits)
    for b in range(2):
        stayed = kept[b][real[b]]
        assert (found[b, stayed] > 0).all()
        others = np.setdiff1d(np.arange(6), stayed)
        assert not found[b, others].any()
        assert (logits[b, others] == -100).all()
    # Nobody is rejected in training, and nobody where everybody may stay.
    assert host(train=True).refined.shape[1] == 6
    free = Host("pyramid", reject_top=6, reject_most=6)
    np.testing.assert_allclose(free().logits, shared("pyramid")().logits, atol=1e-5)


def test_half_precision_changes_little():
    expected = np.asarray(shared("window")().logits)
    got = np.asarray(Host("window", dtype=jnp.bfloat16)().logits)
    assert got.dtype == np.float32
    assert np.corrcoef(got[:, :5].ravel(), expected[:, :5].ravel())[0, 1] > 0.99


def test_guides_of_another_size_are_refused():
    host = shared("window")
    with pytest.raises(ValueError, match=r"guides of \(B, h, w\).*the form 'window' takes"):
        host.run(host.params, host.dense, host.guides[:1], host.text, train=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "cloud"}, "form='cloud': expected window or pyramid"),
        ({"heads": 3}, "heads=3 do not divide a width of 128"),
        ({"guides": (128, 16)}, r"guides\[0\]=128 channels to a width of 128"),
        ({"form": "pyramid", "features": (64, 32)}, "expected 3 positive numbers"),
        ({"window": 0, "reject_most": -1}, "window=0: expected at least 1; reject_most=-1"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CostConfig(**changes)
