"""Zero-shot classification against the same computation in torch, and the template rules."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch

import core_jax.clip as clip
from core_jax.clip import zeroshot

WORDS = ["a", "photo", "of", "the", "red", "blue", "ring", "star", "."]
CLASSES = ["red ring", "star", "blue ring", "red star"]
TEMPLATES = ["a photo of a {}.", "the {}"]


@pytest.fixture(scope="module")
def model(saved, tmp_path_factory) -> clip.Clip:
    folder = tmp_path_factory.mktemp("words")
    config = dataclasses.replace(
        saved.ours.config, text=dataclasses.replace(saved.ours.config.text, eos_token_id=3)
    )
    words = {"tokenizer.json": clip.word_level(WORDS)}
    clip.save(folder, config, saved.ours.params, tokenizer_files=words)
    return clip.load(folder)


@pytest.fixture(scope="module")
def expected(model, saved) -> torch.Tensor:
    """[C D] by the definition: full context, unit features, mean over templates, unit."""
    reference = saved.torch
    unit = functools.partial(torch.nn.functional.normalize, dim=-1)
    total = 0.0
    for template in TEMPLATES:
        ids = torch.from_numpy(model.tokenizer([template.format(c) for c in CLASSES])).long()
        old, reference.text_model.eos_token_id = reference.text_model.eos_token_id, 3
        with torch.no_grad():
            total = total + unit(reference.get_text_features(ids).pooler_output)
        reference.text_model.eos_token_id = old
    return unit(total)


def test_classifier_averages_templates(model, expected):
    weights = zeroshot.classifier(model, CLASSES, TEMPLATES)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5)


def test_rank_orders_by_probability(model, saved, expected):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    pixels = (images / 255.0 - np.asarray(model.config.mean)) / np.asarray(model.config.std)
    pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        features = saved.torch.get_image_features(pixels).pooler_output
        features = torch.nn.functional.normalize(features, dim=-1)
        chances = (saved.torch.logit_scale.exp() * features @ expected.T).softmax(-1)
    best, order = chances.sort(descending=True)
    weights = zeroshot.classifier(model, CLASSES, TEMPLATES)
    rank = jax.jit(zeroshot.rank, static_argnums=1, static_argnames="count")
    indices, probabilities = rank(model.params, model.config, images, weights)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(probabilities, best, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-6)
    top, _ = rank(model.params, model.config, images, weights, count=2)
    np.testing.assert_array_equal(top, order[:, :2])


def test_many_texts_are_encoded_in_chunks(model, monkeypatch):
    texts = [f"{a} {b}" for a in WORDS for b in WORDS][:19]
    whole = zeroshot.text_features(model, texts)
    monkeypatch.setattr(zeroshot, "_CHUNK", 8)
    # Relative as well: other chunks sum in another order, and values of 2.4 are 2.4e-7 apart in float32.
    np.testing.assert_allclose(zeroshot.text_features(model, texts), whole, rtol=1e-6, atol=1e-6)
    assert zeroshot.text_features(model, []).shape == (0, 24)


def test_impossible_classifiers_are_refused(model):
    with pytest.raises(ValueError, match="no single") as error:
        zeroshot.classifier(model, ["star", "ring", "star"], ["a photo", "{} {}", "a {}"])
    for part in ("'a photo'", "'{} {}'", "class 'star' is named 2 times"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="there are no classes; there are no templates"):
        zeroshot.classifier(model, [], [])
    with pytest.raises(clip.TokenizerError, match="'dog' in 'the dog'"):
        zeroshot.classifier(model, ["dog"], ["the {}"])
