"""Parity at the sizes that are used: ViT-B/16 and ViT-L/14 with HuggingFace's random initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

import core_jax.clip as clip

SIZES = {
    "ViT-B/16": CLIPConfig(vision_config={"patch_size": 16}),
    "ViT-L/14": CLIPConfig(
        vision_config={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "patch_size": 14,
        },
        text_config={
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        projection_dim=768,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_full_size(name, tmp_path):
    torch.manual_seed(0)
    theirs = CLIPModel(SIZES[name]).eval()
    theirs.save_pretrained(tmp_path)
    ours = clip.load(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
    ids = np.full((3, 77), 49407, np.int32)
    for row, length in zip(ids, (2, 9, 40)):
        row[0], row[1 : 1 + length] = 49406, rng.integers(0, 49406, length)
    end = np.asarray([3, 10, 41], np.int32)

    @jax.jit
    def run(params, pixels, embedded):
        def loss(pixels, embedded):
            image = clip.encode_image(params, ours.config, pixels)
            text = clip.encode_embedded(params, ours.config, embedded, end)
            scale = jnp.exp(params["logit_scale"])
            logits = scale * clip.unit(image) @ clip.unit(text).T
            return jnp.sum(logits), (image, text, logits)

        return jax.grad(loss, (0, 1), has_aux=True)(pixels, embedded)

    embedded = clip.embed_tokens(ours.params, ours.config, ids)
    (by_pixels, by_tokens), (image, text, logits) = run(ours.params, pixels, embedded)
    np.testing.assert_array_equal(clip.end_positions(ours.config, ids), end)

    kept = []
    theirs.text_model.embeddings.token_embedding.register_forward_hook(
        lambda module, args, output: (output.retain_grad(), kept.append(output))[1]
    )
    for weight in theirs.parameters():
        weight.requires_grad_(weight is theirs.text_model.embeddings.token_embedding.weight)
    leaf = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).requires_grad_()
    output = theirs(input_ids=torch.from_numpy(ids).long(), pixel_values=leaf)
    output.logits_per_image.sum().backward()
    pairs = {
        "image features": (clip.unit(image), output.image_embeds),
        "text features": (clip.unit(text), output.text_embeds),
        "logits": (logits, output.logits_per_image),
        "gradient of pixels": (by_pixels, leaf.grad.permute(0, 2, 3, 1)),
        "gradient of tokens": (by_tokens, kept[0].grad),
    }
    for what, (a, b) in pairs.items():
        b = b.detach().numpy()
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(
            a, b, rtol=0, atol=1e-5 * min(1, 100 * np.abs(b).max()), err_msg=what
        )
