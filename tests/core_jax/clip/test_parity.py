"""Towers against torch's CLIPModel on tiny random models: features, logits, gradients, taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import core_jax.clip as clip

TOLERANCE = 1e-5
# Compiled: operation by operation, a tower compiles a hundred small programs.
encode_image = jax.jit(clip.encode_image, static_argnums=1, static_argnames="taps")
encode_text = jax.jit(clip.encode_text, static_argnums=1)
# Ours against ours: two cases say as much as all.
few = pytest.mark.parametrize(
    "reference", ["patch16 legacy end", "towers of different sizes"], indirect=True
)


def inputs(reference) -> tuple[np.ndarray, np.ndarray]:
    case = reference.case
    rng = np.random.default_rng(2)
    pixels = rng.normal(size=(3, case.image, case.image, 3)).astype(np.float32)
    end = case.vocab - 1 if case.end == 2 else case.end
    ids = np.zeros((5, case.context), np.int32)
    for row, length in zip(ids, (0, 1, 4, 9, case.context - 2)):
        words = rng.integers(3, case.vocab - 1, length)
        row[0], row[1 : 1 + length], row[1 + length] = 1, np.where(words == end, 3, words), end
    # OpenAI's padding: the end token itself.
    ids[2][ids[2] == 0] = end
    return pixels, ids


def to_torch(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def close(ours, theirs, tolerance: float = TOLERANCE) -> None:
    """Max difference below the tolerance; where numbers are small, below the tolerance times the largest."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape
    largest = float(np.max(np.abs(theirs)))
    assert largest > 1e-4, "a comparison of zeros says nothing"
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance * min(1, largest))


def test_configuration_is_read(reference):
    case, config = reference.case, reference.ours.config
    vision, text = config.vision, config.text
    assert (vision.width, vision.layers, vision.heads) == case.vision
    assert (text.width, text.layers, text.heads) == case.text
    assert (vision.image_size, vision.patch_size) == (case.image, case.patch)
    assert (text.vocab_size, text.context_length, text.eos_token_id) == (
        case.vocab,
        case.context,
        case.end,
    )
    assert vision.activation == text.activation == case.activation
    assert vision.layer_norm_eps == text.layer_norm_eps == case.eps
    assert config.projection_dim == case.projection


def test_features(reference):
    pixels, ids = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    with torch.no_grad():
        image = reference.torch.get_image_features(to_torch(pixels)).pooler_output
        text = reference.torch.get_text_features(torch.from_numpy(ids).long()).pooler_output
    close(encode_image(params, config, pixels, taps=True)[0], image)
    close(encode_text(params, config, ids), text)


def test_logits_and_gradients(reference):
    """Gradients of a weighted mean of the logits with respect to pixels and token embeddings."""
    pixels, ids = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    weight = np.random.default_rng(3).normal(size=(len(pixels), len(ids))).astype(np.float32)

    @jax.jit
    def loss(pixels, embedded):
        image = clip.unit(clip.encode_image(params, config, pixels))
        end = clip.end_positions(config, ids)
        text = clip.unit(clip.encode_embedded(params, config, embedded, end))
        logits = jnp.exp(params["logit_scale"]) * image @ text.T
        return jnp.mean(logits * weight), logits

    embedded = clip.embed_tokens(params, config, ids)
    (by_pixels, by_tokens), logits = jax.grad(loss, (0, 1), has_aux=True)(pixels, embedded)

    kept = []
    hook = reference.torch.text_model.embeddings.token_embedding.register_forward_hook(
        lambda module, args, output: (output.retain_grad(), kept.append(output))[1]
    )
    theirs = to_torch(pixels).requires_grad_()
    output = reference.torch(input_ids=torch.from_numpy(ids).long(), pixel_values=theirs)
    hook.remove()
    (output.logits_per_image * torch.from_numpy(weight)).mean().backward()
    close(logits, output.logits_per_image)
    close(by_pixels, theirs.grad.permute(0, 2, 3, 1))
    close(by_tokens, kept[0].grad)


def test_taps_are_the_tokens_behind_every_block(reference):
    pixels, _ = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    _, taps = encode_image(params, config, pixels, taps=True)
    with torch.no_grad():
        states = reference.torch.vision_model(
            pixel_values=to_torch(pixels), output_hidden_states=True
        ).hidden_states
    assert len(taps) == config.vision.layers
    # The first state of theirs enters the first block.
    for ours, theirs in zip(taps, states[1:], strict=True):
        close(ours, theirs)


@few
def test_taps_change_no_feature(reference):
    pixels, _ = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    features, _ = encode_image(params, config, pixels, taps=True)
    close(features, encode_image(params, config, pixels), 1e-6)


@few
def test_trimmed_text_is_exact(reference):
    _, ids = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    ids = ids[:4]
    end = clip.end_positions(config, ids)
    length = int(end.max()) + 1
    assert length < config.text.context_length
    weight = np.random.default_rng(3).normal(size=(4, config.projection_dim)).astype(np.float32)

    def loss(embedded):
        features = clip.encode_embedded(params, config, embedded, end)
        return jnp.mean(features * weight), features

    embedded = clip.embed_tokens(params, config, ids)
    run = jax.jit(jax.grad(loss, has_aux=True))
    full, whole = run(embedded)
    trimmed, cut = run(embedded[:, :length])
    close(cut, whole)
    close(trimmed, full[:, :length])
    np.testing.assert_array_equal(full[:, length:], 0.0)


@pytest.mark.parametrize(
    ("reference", "sets"),
    [("patch16 legacy end", 1), ("towers of different sizes", 3)],
    indirect=["reference"],
)
def test_shared_prefix_is_exact(reference, sets):
    """S prompts before C class names: in value, and in gradient with respect to both."""
    params, config = reference.ours.params, reference.ours.config
    rng = np.random.default_rng(4)
    classes, before, after, width = 4, 5, 6, config.text.width
    prefix = rng.normal(size=(sets, before, width)).astype(np.float32) * 0.1
    suffix = rng.normal(size=(classes, after, width)).astype(np.float32) * 0.1
    end = np.asarray([1, 5, 3, 2], np.int32)
    weight = rng.normal(size=(sets, classes, config.projection_dim)).astype(np.float32)

    def shared(prefix, suffix):
        past = clip.encode_prefix(params, config, prefix)
        features = clip.encode_with_prefix(params, config, past, suffix, end)
        return jnp.mean(features * weight), features

    def full(prefix, suffix):
        heads = jnp.broadcast_to(prefix[:, None], (sets, classes, before, width))
        tails = jnp.broadcast_to(suffix[None], (sets, classes, after, width))
        joined = jnp.concatenate([heads, tails], axis=2).reshape(sets * classes, -1, width)
        rest = config.text.context_length - joined.shape[1]
        joined = jnp.pad(joined, ((0, 0), (0, rest), (0, 0)))
        ends = jnp.tile(before + end, sets)
        features = clip.encode_embedded(params, config, joined, ends)
        features = features.reshape(sets, classes, -1)
        return jnp.mean(features * weight), features

    gradient = functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    (by_prefix, by_suffix), ours = jax.jit(gradient(shared))(prefix, suffix)
    (full_prefix, full_suffix), theirs = jax.jit(gradient(full))(prefix, suffix)
    close(ours, theirs)
    close(by_prefix, full_prefix)
    close(by_suffix, full_suffix)


@few
def test_bfloat16_activations_follow_the_pixels(reference):
    pixels, _ = inputs(reference)
    params, config = reference.ours.params, reference.ours.config
    exact = clip.unit(encode_image(params, config, pixels))
    # flax's LayerNorm promotes on its own account.
    with jax.numpy_dtype_promotion("standard"):
        rough = encode_image(params, config, jnp.asarray(pixels, jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    cosine = jnp.sum(clip.unit(rough.astype(jnp.float32)) * exact, axis=-1)
    assert float(cosine.min()) > 0.999


def test_pixels_of_another_size_are_refused(saved):
    with pytest.raises(ValueError, match=r"\(2, 48, 48, 3\).*\(B, 32, 32, 3\).*image_size=48"):
        clip.encode_image(
            saved.ours.params, saved.ours.config, jnp.zeros((2, 48, 48, 3), jnp.float32)
        )


def test_texts_beyond_the_context_are_refused(saved):
    params, config = saved.ours.params, saved.ours.config
    with pytest.raises(ValueError, match=r"21 tokens exceed .* 20"):
        clip.encode_text(params, config, np.ones((1, 21), np.int32))
    past = clip.encode_prefix(params, config, jnp.zeros((1, 16, 32), jnp.float32))
    with pytest.raises(ValueError, match=r"21 tokens exceed .* 20"):
        clip.encode_with_prefix(
            params, config, past, jnp.zeros((2, 5, 32), jnp.float32), jnp.zeros(2, jnp.int32)
        )


def test_normalise_is_the_processors(saved):
    images = np.random.default_rng(5).integers(0, 256, (2, 4, 4, 3), np.uint8)
    config = saved.ours.config
    ours = jax.jit(functools.partial(clip.normalise, config=config))(images)
    theirs = (images / 255.0 - np.asarray(config.mean)) / np.asarray(config.std)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert clip.normalise(images, config, jnp.bfloat16).dtype == jnp.bfloat16


def test_a_zero_vector_has_no_direction_and_a_finite_gradient():
    x = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(clip.unit(x), np.float32([[0, 0], [0.6, 0.8]]))
    slope = jax.grad(lambda x: jnp.sum(clip.unit(x)[:, 0]))(x)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[1], [16 / 125, -12 / 125], rtol=1e-6)
