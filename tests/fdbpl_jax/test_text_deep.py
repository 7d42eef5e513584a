"""Deep prompts and fixed words: every way of computing class features against transformers' layers run one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax import clip
from fdbpl_jax import prompts, text
from tests.fdbpl_jax import learner_pair
from tests.fdbpl_jax.conftest import WORDS

NAMES = ("star", "red striped ring", "ring")
# Of three blocks, so that the last prompts flow on through a block of their own.
SETS, M, BEHIND = 2, 3, 1
FIXED = "of a"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Torch's student in float64, and ours."""
    folder = tmp_path_factory.mktemp("deep")
    model = learner_pair.pair()[0]
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(clip.word_level(WORDS))
    return model.double(), clip.load(folder)


def values(rng, *shape):
    return (0.5 * rng.normal(size=shape)).astype(np.float32)


def rows(name, position, words):
    """A sentence as CoOp lays it out: token ids, and the numbers of context vectors as negative ones, -1 the first."""
    encode = lambda phrase: learner_pair.ids([phrase])[0, 1:-1].tolist()
    context = [-1 - i for i in range(M)]
    phrase, stop = encode(f"{words} {name}".strip()), encode(".")
    body = {
        "end": [*context, *phrase, *stop],
        "middle": [*context[: M // 2], *phrase, *context[M // 2 :], *stop],
        "front": [*phrase, *context, *stop],
    }[position]
    return [learner_pair.START, *body, learner_pair.END]


def torch_features(model, context, deep, position, words):
    """One prompt set, one sentence at a time: (C, D), unit norm."""
    tower, features = model.text_model, []
    for c, name in enumerate(NAMES):
        row = rows(name, position, words)
        own = context[c] if context.ndim == 3 else context
        table = tower.embeddings.token_embedding.weight
        x = torch.stack([own[-1 - i] if i < 0 else table[i] for i in row])[None]
        x = x + tower.embeddings.position_embedding.weight[: len(row)]
        mask = torch.full((len(row), len(row)), -torch.inf, dtype=x.dtype).triu(1)[None, None]
        for i, layer in enumerate(tower.encoder.layers):
            if 1 <= i <= len(deep):
                fresh = [deep[i - 1][-1 - n] if n < 0 else x[0, p] for p, n in enumerate(row)]
                x = torch.stack(fresh)[None]
            x = layer(x, mask)
        feature = model.text_projection(tower.final_layer_norm(x[0, -1]))
        features.append(feature / feature.norm())
    return torch.stack(features)


def plan_of(student, mode, *, position="end", words="", class_specific=False, **options):
    layout = prompts.layout(
        NAMES, student.tokenizer, context=M, words=words, position=position, context_length=20
    )
    return text.plan(layout, mode=mode, class_specific=class_specific, context_length=20, **options)


def run(student, plan, context, deep):
    """Features, and the gradients of a fixed linear function of them."""
    cotangent = np.random.default_rng(9).normal(size=(SETS, len(NAMES), 32)).astype(np.float32)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def value(context, deep):
        features = text.class_features(student.params, student.config, plan, context, deep=deep)
        return jnp.sum(features * cotangent), features

    (_, features), gradients = jax.jit(value)(context, deep)
    return features, *gradients, cotangent


def expected(model, position, words, context, deep, cotangent):
    one, other = (torch.from_numpy(a).double().requires_grad_() for a in (context, deep))
    pairs = zip(one, other, strict=True)
    features = torch.stack([torch_features(model, *pair, position, words) for pair in pairs])
    (features * torch.from_numpy(cotangent)).sum().backward()
    return features.detach(), one.grad, other.grad


def close(got, want):
    for a, b in zip(got, want, strict=True):
        b = b.numpy()
        assert np.abs(b).max() > 1e-2, "a comparison of zeros says nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1.0))


def test_full_trimmed_prefix_and_chunked_are_the_towers_layers(both):
    model, student = both
    rng = np.random.default_rng(0)
    context, deep = values(rng, SETS, M, 16), values(rng, SETS, BEHIND, M, 16)
    plans = {mode: plan_of(student, mode, words=FIXED) for mode in text.MODES}
    assert plans["prefix"].words == tuple(student.tokenizer.encode(FIXED))
    assert plans["prefix"].tokens < plans["trimmed"].tokens - len(NAMES) * (M + 2)
    plans["chunked"] = plan_of(student, "prefix", words=FIXED, max_tokens=6)
    want = None
    for plan in plans.values():
        *got, cotangent = run(student, plan, context, deep)
        want = want or expected(model, "end", FIXED, context, deep, cotangent)
        close(got, want)


@pytest.mark.parametrize(
    ("position", "words", "class_specific"),
    [
        ("middle", FIXED, False),
        # The dearest to compile; contexts for each class are in test_text without deep prompts.
        pytest.param("front", "", True, marks=pytest.mark.slow),
    ],
)
def test_deep_prompts_follow_the_context_wherever_it_stands(both, position, words, class_specific):
    model, student = both
    rng = np.random.default_rng(1)
    lead = (SETS, len(NAMES)) if class_specific else (SETS,)
    context, deep = values(rng, *lead, M, 16), values(rng, SETS, 2, M, 16)
    # Chunks of two classes.
    plan = plan_of(
        student,
        "auto",
        position=position,
        words=words,
        class_specific=class_specific,
        max_tokens=2 * SETS * 11,
    )
    assert plan.mode == "trimmed"
    *got, cotangent = run(student, plan, context, deep)
    close(got, expected(model, position, words, context, deep, cotangent))


def test_deep_prompts_that_do_not_fit_are_refused(both):
    _, student = both
    plan, context = plan_of(student, "auto"), jnp.zeros((SETS, M, 16))
    make = lambda deep: text.class_features(
        student.params, student.config, plan, context, deep=deep
    )
    for shape in ((1, 1, M, 16), (SETS, 1, M + 1, 16), (SETS, M, 16)):
        with pytest.raises(ValueError, match=r"deep prompts have shape .*\(2, J - 1, 3, 16\)"):
            make(jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"3 blocks .* has 2: set prompt.depth to 3 at most"):
        make(jnp.zeros((SETS, 3, M, 16)))
