"""Class features: every way of computing them gives the same values and gradients."""

import functools
import itertools
import os
import subprocess
import sys

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


SENTENCES = {
    "end": "a photo of a {name}.",
    "middle": "a photo {name} of a.",
    "front": "{name} a photo of a.",
}


def _close(got, want):
    for a, b in zip(got, want, strict=True):
        scale = float(np.abs(b).max())
        np.testing.assert_allclose(a, b, atol=1e-5 * max(scale, 1.0))


def _sentences(student, sentences):
    """Unit-norm features of whole sentences."""
    # Compiled as one: its operations one by one take longer.
    run = jax.jit(lambda ids: clip.unit(clip.encode_text(student.params, student.config, ids)))
    return np.asarray(run(jnp.asarray(student.tokenizer(sentences))))


@pytest.mark.parametrize("position", prompts.POSITIONS)
def test_context_that_equals_words_gives_the_features_of_the_sentence(student, position):
    words = jnp.asarray(student.tokenizer.encode("a photo of a"), jnp.int32)
    context = clip.embed_tokens(student.params, student.config, words)
    plan = _plan(student, "auto", position=position)
    assert plan.mode == ("prefix" if position == "end" else "trimmed")
    run = jax.jit(lambda x: text.class_features(student.params, student.config, plan, x)[0])
    features = run(context[None])
    want = _sentences(student, [SENTENCES[position].format(name=name) for name in NAMES])
    np.testing.assert_allclose(features, want, atol=1e-5)


# test_text_deep has all four ways against transformers by default, with deep prompts and two buckets.
@pytest.mark.slow
def test_full_trimmed_prefix_bucketed_and_chunked_agree(student, context):
    plans = {mode: _plan(student, mode) for mode in text.MODES}
    assert plans["full"].buckets[0].ids.shape[1] == 20
    assert len(plans["prefix"].buckets) == 3
    want = _value_and_gradient(student, plans["full"], context)
    _close(_value_and_gradient(student, plans["trimmed"], context), want)
    _close(_value_and_gradient(student, plans["prefix"], context), want)
    chunked = _plan(student, "prefix", max_tokens=30)
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
        total = total + _sentences(student, [template.format(name) for name in NAMES])
    want = total / np.linalg.norm(total, axis=-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-5)


EIGHT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from core_jax import clip
from core_jax.train import sharding
from fdbpl_jax import prompts, text
from jax.sharding import NamedSharding, PartitionSpec as P

student = clip.load(sys.argv[1])
names = [" ".join(["red"] * n + ["ring"]) for n in (0, 1, 1, 2, 3, 3, 3, 5, 5, 6, 8)]
layout = prompts.layout(names, student.tokenizer, context=4, context_length=20)
context = 0.5 * jax.random.normal(jax.random.key(3), (2, 4, student.config.text.width))
cotangent = jax.random.normal(jax.random.key(4), (2, len(names), student.config.projection_dim))

deep = 0.5 * jax.random.normal(jax.random.key(5), (2, 1, 4, student.config.text.width))

def value(tower, context, deep, plan):
    features = text.class_features({"text": tower}, student.config, plan, context, deep=deep)
    return jnp.sum(features * cotangent), features

run = jax.jit(jax.value_and_grad(value, argnums=(1, 2), has_aux=True), static_argnums=3)
mesh = sharding.make_mesh((4, 2))
arrays = student.params["text"], context, deep
placed = jax.device_put(arrays, NamedSharding(mesh, P()))
for mode, tokens in (("prefix", 16384), ("trimmed", 24)):
    plan = text.plan(layout, mode=mode, max_tokens=tokens, context_length=20)
    (_, features), grads = run(*arrays, plan)
    lowered = run.lower(*placed, plan)
    # The class axis really is cut: constraints of both mesh axes stand in the program.
    assert "data" in lowered.as_text() and "model" in lowered.as_text()
    (_, sharded), sharded_grads = run(*placed, plan)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(sharded, features, atol=1e-5)
    for got, want in zip(sharded_grads, grads):
        scale = np.abs(want).max()
        np.testing.assert_allclose(np.asarray(got) / scale, np.asarray(want) / scale, atol=1e-5)
print("equal")
"""


def test_eight_devices_agree_with_one(pair):
    env = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(pair["student"])],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr
