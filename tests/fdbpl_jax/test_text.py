"""Class features: every way of computing them gives the same values and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip
from fdbpl_jax import prompts, text

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
)
SETS, M = 2, 4


@pytest.fixture(scope="module")
def context(student):
    return 0.5 * jax.random.normal(jax.random.key(3), (SETS, M, student.config.text.width))


def _plan(student, mode, *, position="end", class_specific=False, **kwargs):
    layout = prompts.layout(
        NAMES, student.tokenizer, context=M, position=position, context_length=20
    )
    return text.plan(layout, mode=mode, class_specific=class_specific, context_length=20, **kwargs)


def _value_and_gradient(student, plan, context):
    """Features, and the gradient of a fixed linear function of them."""
    shape = (SETS, len(NAMES), student.config.projection_dim)
    cotangent = jax.random.normal(jax.random.key(9), shape)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(context):
        features = text.class_features(student.params, student.config, plan, context)
        return jnp.sum(features * cotangent), features

    (_, features), grad = jax.jit(run)(context)
    return features, grad


def _oracle(student, context, position="end"):
    """One sentence at a time, embeddings put together by hand, no padding."""
    rows = []
    for sign in range(SETS):
        for name in NAMES:
            encode, end = student.tokenizer.encode, [student.tokenizer.eos]
            words = lambda ids: clip.embed_tokens(
                student.params, student.config, jnp.asarray(ids, jnp.int32)
            )
            v, start = context[sign], words([student.tokenizer.start])
            parts = {
                "end": [start, v, words(encode(f"{name}.") + end)],
                "middle": [start, v[:2], words(encode(name)), v[2:], words(encode(".") + end)],
                "front": [start, words(encode(name)), v, words(encode(".") + end)],
            }[position]
            sentence = jnp.concatenate(parts)[None]
            last = jnp.asarray([sentence.shape[1] - 1])
            rows.append(clip.encode_embedded(student.params, student.config, sentence, last)[0])
    return clip.unit(jnp.stack(rows)).reshape(SETS, len(NAMES), -1)


def _close(got, want):
    for a, b in zip(got, want, strict=True):
        scale = float(np.abs(b).max())
        np.testing.assert_allclose(a, b, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize("position", prompts.POSITIONS)
def test_trimmed_features_equal_one_sentence_at_a_time(student, context, position):
    features, _ = _value_and_gradient(student, _plan(student, "auto", position=position), context)
    np.testing.assert_allclose(features, _oracle(student, context, position), atol=1e-5)


def test_full_trimmed_prefix_bucketed_and_chunked_agree(student, context):
    plans = {mode: _plan(student, mode) for mode in text.MODES}
    assert plans["full"].buckets[0].ids.shape[1] == 20
    assert len(plans["prefix"].buckets) == 3
    want = _value_and_gradient(student, plans["full"], context)
    _close(_value_and_gradient(student, plans["trimmed"], context), want)
    _close(_value_and_gradient(student, plans["prefix"], context), want)
    for mode in ("trimmed", "prefix"):
        chunked = _plan(student, mode, max_tokens=30)
        _close(_value_and_gradient(student, chunked, context), want)


def test_class_specific_context_takes_the_trimmed_way(student, context):
    per_class = jnp.broadcast_to(context[:, None], (SETS, len(NAMES), *context.shape[1:]))
    plan = _plan(student, "auto", class_specific=True)
    assert plan.mode == "trimmed"
    features, grad = _value_and_gradient(student, plan, per_class)
    want, shared = _value_and_gradient(student, _plan(student, "full"), context)
    _close((features, grad.sum(1)), (want, shared))
    chunked = _plan(student, "trimmed", class_specific=True, max_tokens=30)
    _close(_value_and_gradient(student, chunked, per_class), (features, grad))


def test_modes_that_cannot_be_are_refused(student):
    with pytest.raises(ValueError, match="class_specific is True"):
        _plan(student, "prefix", class_specific=True)
    with pytest.raises(ValueError, match="share 0 tokens"):
        _plan(student, "prefix", position="middle")
    with pytest.raises(ValueError, match="'quick'"):
        _plan(student, "quick")


def _padded(lengths, sizes):
    return sum(min(size for size in sizes if size >= n) for n in lengths)


@pytest.mark.parametrize("seed", range(6))
def test_buckets_minimise_padded_tokens(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, size=rng.integers(1, 40)).tolist()
    sizes = text.split_lengths(lengths)
    best = min(
        _padded(lengths, (*cut, max(lengths)))
        for number in range(3)
        for cut in itertools.combinations(sorted(set(lengths)), number)
    )
    assert len(sizes) <= 3
    assert sizes[-1] == max(lengths)
    assert _padded(lengths, sizes) == best


def test_equal_lengths_make_one_bucket():
    assert text.split_lengths([5] * 7) == (5,)
    assert text.split_lengths([5, 6]) == (5, 6)


def test_class_order_is_restored(student, context):
    """Features of a list and of its reverse are each other's reverse."""
    plan = _plan(student, "prefix")
    rows = np.concatenate([bucket.rows for bucket in plan.buckets])
    assert sorted(rows.tolist()) == list(range(len(NAMES)))
    assert rows.tolist() != sorted(rows.tolist())
    np.testing.assert_array_equal(rows[plan.order], np.arange(len(NAMES)))


def test_template_features_are_the_sentences(student):
    templates = ("a photo of a {}.", "there is a {}.")
    got = text.template_features(student, NAMES, templates)
    total = 0.0
    for template in templates:
        ids = student.tokenizer([template.format(name) for name in NAMES])
        features = clip.encode_text(student.params, student.config, jnp.asarray(ids))
        total = total + np.asarray(clip.unit(features))
    want = total / np.linalg.norm(total, axis=-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-5)
