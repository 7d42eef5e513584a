"""Captions: what they mention, whom they describe."""

import hashlib

import numpy as np
import pytest

from core_jax import world


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return world.render_batch(0, "pretrain", 0, 600, size=8, held_out=world.HELD_OUT)


@pytest.fixture(scope="module")
def said(batch) -> world.Captions:
    return world.captions(0, "pretrain", 0, batch["shape"], batch["colour"], batch["texture"])


def test_golden_texts():
    batch = world.render_batch(0, "pretrain", 0, 64, size=8, held_out=world.HELD_OUT)
    triple = batch["shape"], batch["colour"], batch["texture"]
    texts = "\n".join(world.captions(0, "pretrain", 0, *triple).texts)
    digest = hashlib.sha256(texts.encode()).hexdigest()
    assert digest == "33a94a686b82bcc86540fdaa4b7acb68147a98c215f8183d3160983b290264a5"


def test_the_text_mentions_exactly_what_is_recorded(batch, said):
    for kind, names in (
        ("shape", world.SHAPES),
        ("colour", world.COLOURS),
        ("texture", world.TEXTURES),
    ):
        recorded = getattr(said, kind)
        assert recorded.dtype == np.int32
        for text, number, real in zip(said.texts, recorded, batch[kind], strict=True):
            words = text.replace(".", " ").split()
            found = [name for name in names if name in words]
            assert found == ([names[number]] if number >= 0 else [])
            assert number in (-1, real)


def test_every_caption_mentions_something_and_half_mention_all(said):
    mentioned = sum((getattr(said, k) >= 0).astype(int) for k in ("shape", "colour", "texture"))
    assert mentioned.min() == 1
    assert (mentioned == 3).mean() == pytest.approx(0.55, abs=0.06)


def test_describes_is_true_of_the_text(batch, said):
    triples = np.stack([batch["shape"], batch["colour"], batch["texture"]], axis=1)[:40]
    matrix = said.describes(*triples.T)
    assert matrix.shape == (600, 40)
    assert np.diagonal(matrix[:40]).all()
    for k in range(600):
        words = set(said.texts[k].replace(".", " ").split())
        attributes = words & {*world.SHAPES, *world.COLOURS, *world.TEXTURES}
        for n, triple in enumerate(triples.tolist()):
            assert matrix[k, n] == (attributes <= set(world.class_name(*triple).split()))


def test_a_caption_does_not_depend_on_its_batch(batch, said):
    part = slice(100, 103)
    triple = (batch[k][part] for k in ("shape", "colour", "texture"))
    assert world.captions(0, "pretrain", 100, *triple).texts == said.texts[part]


def test_vocabulary_covers_every_caption(said):
    known = set(world.vocabulary())
    used = {word for text in said.texts for word in text.replace(".", " . ").split()}
    assert used <= known
    assert len(known) == len(world.vocabulary()) < 60
