"""Classes chosen from a dictionary: against loops in NumPy, and their features against those of the whole dictionary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbpl_jax import losses, prompts, text, vocabulary

B, V, K = 5, 12, 4
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


def _softmax(z):
    z = np.exp(np.asarray(z, np.float64))
    return z / z.sum(-1, keepdims=True)


def _logits(seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=(B, V))


def _brute(probabilities, mask, count):
    """One word after the other, the largest total first, the first of equals."""
    total = [sum(m * row[word] for row, m in zip(probabilities, mask)) for word in range(V)]
    found = []
    while len(found) < count:
        left = [word for word in range(V) if word not in found]
        found.append(max(left, key=lambda word: (total[word], -word)))
    return found


def _truncated(probabilities, kept):
    index = np.argsort(-probabilities, axis=-1, kind="stable")[:, :kept]
    stored = np.take_along_axis(probabilities, index, -1)
    rest = np.maximum(1 - stored.sum(-1), 1e-13)
    dense = np.repeat(rest[:, None] / max(V - kept, 1), V, axis=1)
    np.put_along_axis(dense, index, stored, -1)
    labels = losses.SoftLabels(
        logp=jnp.asarray(np.log(stored), jnp.float32),
        entropy=jnp.zeros(B),
        index=jnp.asarray(index, jnp.int32),
        rest=jnp.asarray(np.log(rest), jnp.float32),
    )
    return labels, dense


@pytest.mark.parametrize("count", [2, K, V])
def test_chosen_are_the_words_of_the_largest_mean_probability(count):
    logits, mask = _logits(), np.array([1, 1, 0, 1, 1], np.float32)
    labels = losses.dense_labels(jnp.asarray(logits, jnp.float32))
    logp = vocabulary.log_probabilities(labels, V)
    np.testing.assert_allclose(np.exp(logp), _softmax(logits), rtol=1e-5)
    found = vocabulary.top_classes(logp, jnp.asarray(mask), count=count)
    assert found.tolist() == _brute(_softmax(logits), mask, count)
    # As KDPL's code selects them, in any order.
    mean = np.average(_softmax(logits[mask > 0]), axis=0)
    assert set(found.tolist()) == set(np.argpartition(mean, -count)[-count:].tolist())


def test_equals_are_taken_from_the_front():
    logits = np.zeros((B, V))
    logits[:, 7] = 1.0
    logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    found = vocabulary.top_classes(logp, jnp.ones(B), count=4)
    assert found.tolist() == [7, 0, 1, 2]


@pytest.mark.parametrize("kept", [1, 3, V - 1, V])
def test_truncated_labels_share_what_is_missing_evenly(kept):
    labels, dense = _truncated(_softmax(_logits(1)), kept)
    logp = vocabulary.log_probabilities(labels, V)
    np.testing.assert_allclose(np.exp(logp), dense, rtol=2e-5)
    found = vocabulary.top_classes(logp, jnp.ones(B), count=K)
    # Sums of equal shares may differ in their last bit.
    total = dense.sum(0)
    assert min(total[found]) >= np.sort(total)[-K] - 1e-6


def test_labels_and_loss_are_over_the_chosen_words_alone():
    teacher, student = _logits(2), _logits(3)
    chosen = np.array([8, 0, 5, 3], np.int32)
    logp = jax.nn.log_softmax(jnp.asarray(teacher, jnp.float32))
    labels = vocabulary.restricted(logp, jnp.asarray(chosen))
    q, p = _softmax(teacher[:, chosen]), _softmax(student[:, chosen])
    np.testing.assert_allclose(np.exp(labels.logp), q, rtol=1e-5)
    np.testing.assert_allclose(labels.entropy, -(q * np.log(q)).sum(-1) / np.log(K), rtol=1e-5)
    config = losses.LossConfig(dual=False, weight="none")
    z = jnp.asarray(student[:, chosen], jnp.float32)
    pair = losses.positive_term(labels, z, jnp.ones(B), jnp.ones(B), config)
    both = (q - p) * (np.log(q) - np.log(p))
    np.testing.assert_allclose(losses.mean(pair), both.sum(-1).mean() / 2, rtol=1e-4)


def _sentences(student, mode, position):
    layout = prompts.layout(
        NAMES, student.tokenizer, context=2, words="a photo", position=position, context_length=20
    )
    return layout, text.plan(layout, mode=mode, context_length=20)


WAYS = [("prefix", "end"), ("trimmed", "middle"), ("full", "end")]


@pytest.mark.parametrize(("mode", "position"), WAYS)
def test_features_of_chosen_words_are_those_of_the_whole_dictionary(student, mode, position):
    layout, whole = _sentences(student, mode, position)
    words = vocabulary.dictionary(layout, whole, count=K)
    assert words.count == K
    key, width = jax.random.key(0), student.config.text.width
    context = 0.5 * jax.random.normal(key, (2, 2, width))
    deep = 0.5 * jax.random.normal(jax.random.fold_in(key, 1), (2, 1, 2, width))
    slopes = jax.random.normal(
        jax.random.fold_in(key, 2), (2, len(NAMES), student.config.projection_dim)
    )
    features = jax.jit(
        lambda c, d: text.class_features(student.params, student.config, whole, c, deep=d)
    )(context, deep)

    @jax.jit
    def some(c, d, chosen):
        def value(c, d):
            order, plan = vocabulary.plan(words, chosen)
            found = text.class_features(student.params, student.config, plan, c, deep=d)
            return jnp.sum(jnp.take(slopes, order, axis=1) * found), (order, found)

        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(c, d)

    lengths = np.argsort(layout.end, kind="stable")
    # Any K: the shortest and the longest sentences, too, which need the most room.
    for chosen in ([5, 0, 8, 3], lengths[:K], lengths[-K:][::-1]):
        chosen = np.asarray(chosen, np.int32)
        (_, (order, found)), grads = some(context, deep, jnp.asarray(chosen))
        assert sorted(order.tolist()) == sorted(chosen.tolist())
        np.testing.assert_allclose(found, np.asarray(features)[:, order], atol=1e-5)
    assert some._cache_size() == 1

    def slow(c, d):
        found = text.class_features(student.params, student.config, whole, c, deep=d)
        return jnp.sum(jnp.take(slopes * found, order, axis=1))

    expected = jax.jit(jax.grad(slow, argnums=(0, 1)))(context, deep)
    for one, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(other).max()))


def test_room_is_for_the_longest_sentences_and_no_more(student):
    layout, whole = _sentences(student, "prefix", "end")
    lengths = np.sort(layout.end - layout.front + 1)
    for count in range(2, len(NAMES) + 1):
        words = vocabulary.dictionary(layout, whole, count=count)
        assert 1 <= len(words.sizes) <= text.MAX_BUCKETS
        room = np.repeat([size for _, size in words.sizes], [rows for rows, _ in words.sizes])
        assert (room >= lengths[-count:]).all()
        assert {size for _, size in words.sizes} <= set(lengths[-count:].tolist())


@pytest.mark.parametrize("count", [1, len(NAMES) + 1])
def test_a_number_of_classes_that_the_dictionary_does_not_have(student, count):
    layout, whole = _sentences(student, "prefix", "end")
    with pytest.raises(vocabulary.VocabularyError, match=f"{count} classes .* 12 words"):
        vocabulary.dictionary(layout, whole, count=count)
