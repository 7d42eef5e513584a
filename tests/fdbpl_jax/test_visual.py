"""Visual prompts, learned and coupled, against transformers' layers run one by one; their starts; what is refused."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax import clip
from fdbpl_jax import visual
from fdbpl_jax.prompts import PromptError
from fdbpl_jax.visual import VisualConfig
from tests.fdbpl_jax import learner_pair, torch_learners

# Text width, image width, embedding width.
D, W, E = 16, 24, 32


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Torch's student in float64, and ours: three blocks."""
    folder = tmp_path_factory.mktemp("visual")
    model = learner_pair.pair()[0]
    model.save_pretrained(folder)
    return model.double(), clip.load(folder)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_pair(model, learned, prompts_of):
    """Torch's features and gradients of a fixed linear function of them."""
    leaves = [torch.from_numpy(a).double().requires_grad_() for a in learned]
    pixels = torch.from_numpy(random(0, 2, 16, 16, 3)).double().permute(0, 3, 1, 2)
    features = torch_learners.image_features(model, pixels, prompts_of(*leaves))
    (features * torch.from_numpy(random(1, 2, E))).sum().backward()
    return [features.detach(), *(leaf.grad for leaf in leaves)]


def our_pair(student, learned, prompts_of):
    @functools.partial(jax.value_and_grad, argnums=tuple(range(len(learned))), has_aux=True)
    def value(*learned):
        features = visual.encode(
            student.params, student.config, random(0, 2, 16, 16, 3), prompts_of(*learned)
        )
        return jnp.sum(features * random(1, 2, E)), features

    (_, features), gradients = jax.jit(value)(*learned)
    return [features, *gradients]


def close(got, want):
    for a, b in zip(got, want, strict=True):
        b = b.numpy()
        assert np.abs(b).max() > 1e-2, "a comparison of zeros says nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1.0))


def test_tokens_of_some_blocks(both):
    model, student = both
    learned = [random(2, 2, 4, W)]
    close(our_pair(student, learned, lambda x: x), torch_pair(model, learned, lambda x: x))


def test_tokens_of_all_blocks_mapped_from_text_prompts(both):
    model, student = both
    text_prompts, kernel, bias = random(3, 3, 2, D), random(4, 3, D, W), random(5, 3, W)

    def linear(text_prompts, kernel, bias):
        triples = zip(text_prompts, kernel, bias, strict=True)
        return [torch.nn.functional.linear(x, k.T, b) for x, k, b in triples]

    ours = lambda x, k, b: visual.coupled({"kernel": k, "bias": b}, x)
    learned = [text_prompts, kernel, bias]
    close(our_pair(student, learned, ours), torch_pair(model, learned, linear))


def test_the_type_follows_the_pixels(both):
    _, student = both
    run = lambda x: visual.encode(student.params, student.config, x, random(2, 2, 4, W))
    # flax's LayerNorm promotes on its own account.
    with jax.numpy_dtype_promotion("standard"):
        features = jax.eval_shape(run, jnp.zeros((2, 16, 16, 3), jnp.bfloat16))
    assert features.dtype == jnp.bfloat16


def test_starts_are_those_of_the_public_code(both):
    _, student = both
    tokens = visual.init(VisualConfig(tokens=50, depth=3), student, key=jax.random.key(0))
    assert tokens.shape == (3, 50, W)
    assert tokens.dtype == jnp.float32
    np.testing.assert_allclose(np.std(tokens, axis=(1, 2)), 0.02, rtol=0.1)
    np.testing.assert_allclose(np.mean(tokens), 0.0, atol=0.002)
    # torch's own start of a linear layer, and clones of the second.
    kernel, bias = (
        np.asarray(visual.init_coupling(3, student, key=jax.random.key(1))[name])
        for name in ("kernel", "bias")
    )
    assert kernel.shape == (3, D, W)
    assert bias.shape == (3, W)
    torch.manual_seed(0)
    layer = torch.nn.Linear(D, 5000)
    for ours, theirs in ((kernel, layer.weight), (bias, layer.bias)):
        limit = float(theirs.detach().abs().max())
        assert 0.8 * limit < np.abs(ours).max() <= 1.001 * limit
        np.testing.assert_array_equal(ours[1], ours[2])
        assert np.abs(ours[0] - ours[1]).min() > 0
    np.testing.assert_allclose(kernel[:2].std(), float(layer.weight.detach().std()), rtol=0.1)
    assert visual.init_coupling(1, student, key=jax.random.key(1))["kernel"].shape == (1, D, W)


def test_what_cannot_be_is_refused(both):
    _, student = both
    key = jax.random.key(0)
    with pytest.raises(PromptError, match=r"visual.tokens is 0.*visual.depth is 4: expected 1 to 3"):  # fmt: skip
        visual.init(VisualConfig(tokens=0, depth=4), student, key=key)
    with pytest.raises(PromptError, match=r"prompt.depth is 4: expected 1 to 3"):
        visual.init_coupling(4, student, key=key)
    other = types.SimpleNamespace(config=types.SimpleNamespace(vision=object()))
    with pytest.raises(PromptError, match="ViT"):
        visual.init(VisualConfig(), other, key=key)
    with pytest.raises(ValueError, match=r"text prompts have shape \(2, 4, 16\).*\(3, M, 16\)"):
        visual.coupled(visual.init_coupling(3, student, key=key), jnp.zeros((2, 4, D)))
    pixels = jnp.zeros((1, 16, 16, 3))
    for shape in ((4, 2, W), (1, 2, W + 1), (2, W), (1, 0, W)):
        with pytest.raises(ValueError, match=r"takes \(J, M, 24\) with J from 1 to 3"):
            visual.encode(student.params, student.config, pixels, jnp.zeros(shape))
