"""Learned tokens inside both towers against transformers' layers, run one by one with the tokens put between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPModel

import core_jax.clip as clip
from tests.core_jax.clip.conftest import Case, build
from tests.core_jax.clip.test_parity import close, to_torch

LEARNED = 3


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Torch's model in float64, and ours; three blocks a tower."""
    folder = tmp_path_factory.mktemp("prompted")
    build(Case(vision=(24, 3, 2), text=(32, 3, 2))).save_pretrained(folder)
    model = CLIPModel.from_pretrained(folder).eval().double().requires_grad_(False)
    return model, clip.load(folder)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def leaves(*arrays):
    return [torch.from_numpy(a).double().requires_grad_() for a in arrays]


def torch_image(model, pixels, deep, keep):
    """As the public code of IVLP and MaPLe runs a ViT: tokens behind the patches before ln_pre, replaced block by block."""
    tower = model.vision_model
    x = tower.embeddings(to_torch(pixels).double())
    rows = torch.cat([torch.zeros(len(keep), 1, dtype=int), torch.from_numpy(keep).long() + 1], 1)
    x = torch.stack([tokens[row] for tokens, row in zip(x, rows, strict=True)])
    batch, length = rows.shape
    spread = lambda tokens: tokens.unsqueeze(0).repeat(batch, 1, 1)
    x = tower.pre_layrnorm(torch.cat([x, spread(deep[0])], 1))
    for i, layer in enumerate(tower.encoder.layers):
        if 1 <= i < len(deep):
            x = torch.cat([x[:, :length], spread(deep[i])], 1)
        x = layer(x, None)
    return model.visual_projection(tower.post_layernorm(x[:, 0]))


def torch_text(model, embedded, end, deep):
    """As the same code runs the text tower: from the second block on, the states behind the start token are replaced."""
    tower = model.text_model
    length = embedded.shape[1]
    x = embedded + tower.embeddings.position_embedding.weight[:length]
    mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)[None, None]
    for i, layer in enumerate(tower.encoder.layers):
        if 1 <= i <= len(deep):
            x = torch.cat([x[:, :1], deep[i - 1].expand(len(x), -1, -1), x[:, 1 + LEARNED :]], 1)
        x = layer(x, mask)
    return model.text_projection(tower.final_layer_norm(x[torch.arange(len(x)), end]))


@pytest.mark.parametrize("depth", [2, 3])
def test_image_prompts(both, depth):
    model, ours = both
    pixels, deep = random(1, 2, 32, 32, 3), random(2, depth, LEARNED, 24)
    keep = np.asarray([[0, 2, 3], [3, 1, 0]], np.int32)
    weight = random(3, 2, 24)

    def loss(deep):
        def tap(name, x):
            block = int(name.removeprefix("block_")) + 1
            return x.at[:, -LEARNED:].set(deep[block]) if block < depth else x

        features, tokens = clip.encode_image(
            ours.params, ours.config, pixels, keep=keep, taps=True, tap=tap, prompts=deep[0]
        )
        return jnp.sum(features * weight), (features, tokens)

    gradient, (features, tokens) = jax.jit(jax.grad(loss, has_aux=True))(deep)
    (leaf,) = leaves(deep)
    want = torch_image(model, pixels, leaf, keep)
    (want * torch.from_numpy(weight)).sum().backward()
    close(features, want)
    close(gradient, leaf.grad)
    assert [x.shape for x in tokens] == [(2, 1 + 3 + LEARNED, 24)] * 3
    for block in range(1, depth):
        np.testing.assert_array_equal(tokens[block - 1][:, -LEARNED:], np.stack([deep[block]] * 2))


def test_text_prompts_with_and_without_a_shared_prefix(both):
    model, ours = both
    prefix, suffix = random(4, 1, 1 + LEARNED + 1, 32), random(5, 4, 5, 32)
    deep, weight = random(6, 2, LEARNED, 32), random(7, 4, 24)
    end = np.asarray([4, 2, 3, 1])

    def tap(deep, name, x):
        block = int(name.removeprefix("block_"))
        return x.at[:, 1 : 1 + LEARNED].set(deep[block]) if block < len(deep) else x

    def whole(prefix, suffix, deep):
        embedded = jnp.concatenate([jnp.repeat(prefix, 4, axis=0), suffix], axis=1)
        ends = prefix.shape[1] + end
        features = clip.encode_embedded(
            ours.params, ours.config, embedded, ends, tap=functools.partial(tap, deep)
        )
        return jnp.sum(features * weight), features

    def shared(prefix, suffix, deep):
        past = clip.encode_prefix(
            ours.params, ours.config, prefix, tap=functools.partial(tap, deep)
        )
        features = clip.encode_with_prefix(ours.params, ours.config, past, suffix, end)[0]
        return jnp.sum(features * weight), features

    learned = leaves(prefix, suffix, deep)
    joined = torch.cat([learned[0].expand(4, -1, -1), learned[1]], 1)
    want = torch_text(model, joined, prefix.shape[1] + torch.from_numpy(end), learned[2])
    (want * torch.from_numpy(weight)).sum().backward()
    for way in (whole, shared):
        gradients, features = jax.jit(jax.grad(way, argnums=(0, 1, 2), has_aux=True))(
            prefix, suffix, deep
        )
        close(features, want)
        for got, leaf in zip(gradients, learned, strict=True):
            close(got, leaf.grad)


def test_prompts_of_another_width_are_refused(both):
    _, ours = both
    pixels = jnp.zeros((1, 32, 32, 3))
    for shape in ((2, 32), (24,)):
        with pytest.raises(ValueError, match=r"prompts have shape .* takes \(M, 24\)"):
            clip.encode_image(ours.params, ours.config, pixels, prompts=jnp.zeros(shape))
