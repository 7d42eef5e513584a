"""CoCoOp's meta-net against torch."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax import clip
from fdbpl_jax import conditional

B, M, D, WIDTH = 4, 3, 48, 16


def _student(embedding, width):
    """A student of which only the widths are read."""
    text = clip.TextConfig(width=width)
    config = clip.ClipConfig(text=text, projection_dim=embedding)
    return clip.Clip(config, {}, clip.Tokenizer(pathlib.Path()))


def _net(meta):
    first, second = torch.nn.Linear(D, D // 16), torch.nn.Linear(D // 16, WIDTH)
    for layer, name in ((first, "fc1"), (second, "fc2")):
        layer.weight.data = torch.tensor(np.asarray(meta[name]["kernel"]).T)
        layer.bias.data = torch.tensor(np.asarray(meta[name]["bias"]))
    return torch.nn.Sequential(first, torch.nn.ReLU(), second)


def test_contexts_and_their_gradient_are_those_of_torch():
    rng = np.random.default_rng(0)
    meta = conditional.init(_student(D, WIDTH), key=jax.random.key(0))
    context, features = (
        rng.normal(size=shape).astype(np.float32) for shape in ((M, WIDTH), (B, D))
    )
    net, shared = _net(meta), torch.tensor(context, requires_grad=True)
    shift = net(torch.tensor(features))
    expected = torch.stack([torch.stack([row + s for row in shared]) for s in shift])
    torch.sin(expected).sum().backward()

    def ours(meta, context):
        found = conditional.contexts(meta, context, jnp.asarray(features))
        return jnp.sum(jnp.sin(found)), found

    (_, found), (slopes, slope) = jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)(
        meta, jnp.asarray(context)
    )
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, shared.grad, rtol=1e-5, atol=1e-6)
    for layer, name in ((net[0], "fc1"), (net[2], "fc2")):
        np.testing.assert_allclose(slopes[name]["kernel"].T, layer.weight.grad, atol=2e-6)
        np.testing.assert_allclose(slopes[name]["bias"], layer.bias.grad, atol=2e-6)


def test_parameters_at_vit_b_are_the_published_number():
    # 35,360 with the four context vectors of "a photo of a" (CoCoOp, table 7).
    meta = conditional.init(_student(512, 512), key=jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(meta)) + 4 * 512 == 35_360


def test_layers_start_uniform_as_torch_starts_them():
    meta = conditional.init(_student(512, 512), key=jax.random.key(1))
    for name, inputs in (("fc1", 512), ("fc2", 32)):
        bound = 1 / np.sqrt(inputs)
        for x in map(np.asarray, meta[name].values()):
            assert x.dtype == np.float32
            assert np.abs(x).max() <= bound
        kernel = np.asarray(meta[name]["kernel"])
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
        np.testing.assert_allclose(kernel.mean(), 0, atol=0.02 * bound)


@pytest.mark.parametrize("embedding", [16, 24, 8])
def test_a_narrow_student_has_a_hidden_unit(embedding):
    meta = conditional.init(_student(embedding, 8), key=jax.random.key(0))
    assert meta["fc1"]["kernel"].shape == (embedding, 1)
    assert meta["fc2"]["kernel"].shape == (1, 8)
