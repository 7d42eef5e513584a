"""Names chosen from a dictionary: selection against loops, and their features against those of the whole dictionary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbpl_jax import agnostic, losses, prompts, text

B, K = 5, 4
NAMES = (
    "star",
    "red striped ring",
    "blue heart",
    "one red plain circle in the picture",
    "ring",
    "green dotted cross",
    "white square",
    "a picture of the striped star with no ring",
    "yellow triangle",
    "cross",
    "heart",
    "purple",
)
V = len(NAMES)


@pytest.mark.parametrize("count", [2, K, V])
def test_likeliest_names_are_those_of_the_largest_mean_probability(count):
    logits = np.random.default_rng(0).normal(scale=2.0, size=(B, V))
    mask = np.array([1, 1, 0, 1, 1], np.float32)
    labels = losses.dense_labels(jnp.asarray(logits, jnp.float32))
    found = agnostic.likeliest(labels, jnp.asarray(mask), names=V, top=count).tolist()
    odds = np.exp(logits[mask > 0])
    mean = np.average(odds / odds.sum(-1, keepdims=True), axis=0)
    # One after the other, then as KDPL's code selects them, in any order.
    expected = []
    while len(expected) < count:
        left = [name for name in range(V) if name not in expected]
        expected.append(max(left, key=lambda name: mean[name]))
    assert found == expected
    assert set(found) == set(np.argpartition(mean, -count)[-count:].tolist())


def test_of_equals_the_first_are_taken():
    logits = np.zeros((B, V), np.float32)
    logits[:, 7] = 1.0
    labels = losses.dense_labels(jnp.asarray(logits))
    found = agnostic.likeliest(labels, jnp.ones(B), names=V, top=4)
    assert found.tolist() == [7, 0, 1, 2]


def _plan(student, mode, position):
    layout = prompts.layout(
        NAMES, student.tokenizer, context=2, words="a photo", position=position, context_length=20
    )
    return layout, text.plan(layout, mode=mode, context_length=20)


WAYS = [
    ("prefix", "end"),
    pytest.param("trimmed", "middle", marks=pytest.mark.slow),
    pytest.param("full", "end", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mode", "position"), WAYS)
def test_any_names_have_the_features_and_gradients_of_the_whole_plan(student, mode, position):
    layout, whole = _plan(student, mode, position)
    first, second, third = jax.random.split(jax.random.key(0), 3)
    width = student.config.text.width
    context = 0.5 * jax.random.normal(first, (2, 2, width))
    deep = 0.5 * jax.random.normal(second, (2, 1, 2, width))
    slopes = jax.random.normal(third, (2, V, student.config.projection_dim))

    def all_of_them(c, d):
        return text.class_features(student.params, student.config, whole, c, deep=d)

    @jax.jit
    def some(c, d, chosen):
        def value(c, d):
            order, plan = agnostic.narrow(whole, chosen)
            found = text.class_features(student.params, student.config, plan, c, deep=d)
            return jnp.sum(jnp.take(slopes, order, axis=1) * found), (order, found)

        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(c, d)

    features, backward = jax.vjp(jax.jit(all_of_them), context, deep)
    by_length = np.argsort(layout.end, kind="stable")
    # The longest sentences, too, which need the most room, and the shortest, which leave most of it empty.
    for chosen in ([5, 0, 8, 3], by_length[:K], by_length[-K:][::-1]):
        (_, (order, found)), grads = some(context, deep, jnp.asarray(chosen, jnp.int32))
        assert sorted(order.tolist()) == sorted(np.asarray(chosen).tolist())
        np.testing.assert_allclose(found, np.asarray(features)[:, order], atol=1e-5)
        kept = jnp.zeros_like(slopes).at[:, order].set(slopes[:, order])
        for one, other in zip(grads, backward(kept), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(other).max()))
    assert some._cache_size() == 1


def test_room_is_for_the_longest_sentences_and_no_more(student):
    layout, whole = _plan(student, "prefix", "end")
    lengths = np.sort(layout.end - layout.front + 1)
    shapes = []

    def room(chosen):
        chosen, some = agnostic.narrow(whole, chosen)
        shapes.append([bucket.ids.shape for bucket in some.buckets])
        return chosen

    for count in range(2, V + 1):
        jax.eval_shape(room, jax.ShapeDtypeStruct((count,), jnp.int32))
        longest = lengths[-count:]
        sizes = [size for _, size in shapes[-1]]
        assert 1 <= len(sizes) <= text.MAX_BUCKETS
        assert (np.repeat(sizes, [rows for rows, _ in shapes[-1]]) >= longest).all()
        assert set(sizes) <= set(longest.tolist())
