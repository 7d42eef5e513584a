"""The text cache: hits equal a recomputation, only new words are encoded, nothing foreign or damaged is served."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from core_jax import clip, world
from core_jax.data import records
from gba_jax import templates, text_cache, vocabulary

TEMPLATES = templates.resolve("vild14")
WORDS = ["cat", "dog", "traffic  light"]


class Fake:
    """Random features by sentence, and a list of what was asked for."""

    def __init__(self, width=5, weights="w", tokenizer="t"):
        self.calls = []
        self.width = width
        self.encoder = text_cache.Encoder(encode=self, weights=weights, tokenizer=tokenizer)

    def __call__(self, sentences):
        self.calls.append(list(sentences))
        seeds = [int.from_bytes(hashlib.sha256(s.encode()).digest()[:8]) for s in sentences]
        return np.stack([np.random.default_rng(s).normal(size=self.width) for s in seeds])


def oracle(fake, word, lines):
    rows = [fake([line.replace("{}", word)])[0] for line in lines]
    mean = np.mean([row / np.sqrt((row**2).sum()) for row in rows], axis=0)
    return mean / np.sqrt((mean**2).sum())


def opened(folder, fake, lines=TEMPLATES):
    return text_cache.TextCache(folder, encoder=fake.encoder, templates=lines)


def test_embeddings_equal_a_loop():
    rows = text_cache.text_rows(WORDS, encoder=Fake().encoder, templates=TEMPLATES)
    assert rows.dtype == np.float32
    names = ["cat", "dog", "traffic light"]
    expected = [oracle(Fake(), word, TEMPLATES.lines) for word in names]
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_a_hit_equals_a_recomputation(tmp_path):
    fake = Fake()
    first = opened(tmp_path / "c", fake).rows(WORDS)
    np.testing.assert_array_equal(
        first, text_cache.embed(WORDS, encoder=fake.encoder, templates=TEMPLATES)
    )
    fake.calls.clear()
    again = opened(tmp_path / "c", fake).rows(["Dog", " cat", "TRAFFIC light", "cat"])
    assert fake.calls == []
    np.testing.assert_array_equal(again, first[[1, 0, 2, 0]])


def test_one_new_word_is_one_encoder_call(tmp_path):
    fake = Fake()
    opened(tmp_path, fake).rows(WORDS)
    fake.calls.clear()
    cache = opened(tmp_path, fake)
    rows = cache.rows([*WORDS, "Zebra"])
    assert fake.calls == [TEMPLATES.fill("zebra")]
    cache.rows(["zebra"])
    assert len(fake.calls) == 1
    np.testing.assert_array_equal(rows, opened(tmp_path, fake).rows([*WORDS, "zebra"]))
    assert len(cache) == 4


def test_batches_of_128_sentences(tmp_path):
    fake = Fake()
    words = [f"word {i}" for i in range(20)]
    rows = opened(tmp_path, fake).rows(words)
    assert [len(call) for call in fake.calls] == [128, 128, 24]
    np.testing.assert_allclose(rows[19], oracle(fake, "word 19", TEMPLATES.lines), atol=1e-6)


def test_foreign_digests_are_listed_together(tmp_path):
    opened(tmp_path, Fake()).rows(["cat"])
    with pytest.raises(text_cache.TextCacheError) as error:
        opened(tmp_path, Fake(weights="w2", tokenizer="t2"), templates.resolve("single"))
    for part in (
        "weights: the folder has 'w', this run 'w2'",
        "tokenizer: the folder has 't', this run 't2'",
        "templates:",
        "use another folder",
    ):
        assert part in str(error.value)


def test_two_processes_may_share_a_folder(tmp_path):
    one, two = opened(tmp_path, Fake()), opened(tmp_path, Fake())
    one.rows(["cat", "dog"])
    two.rows(["dog", "cow"])
    fake = Fake()
    assert len(opened(tmp_path, fake)) == 3
    opened(tmp_path, fake).rows(["cat", "dog", "cow"])
    assert fake.calls == []


def test_a_killed_write_leaves_no_trace(tmp_path, monkeypatch):
    fake = Fake()
    opened(tmp_path, fake).rows(["cat"])

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            records.files, "atomic_write", killed
        )  # the shard stands, its sidecar does not
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, fake).rows(["dog"])
    assert len(opened(tmp_path, fake)) == 1
    opened(tmp_path, fake).rows(["dog"])
    assert len(opened(tmp_path, fake)) == 2
    assert not list(tmp_path.glob(".*"))


def test_damage_is_an_error(tmp_path):
    opened(tmp_path, Fake()).rows(["cat"])
    shard = next(tmp_path.glob("*.arrayrecord"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(records.RecordError, match="encoded again"):
        opened(tmp_path, Fake())
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content["width"] == 5
    assert content["template_lines"] == list(TEMPLATES.lines)
    manifest.write_text("{")
    with pytest.raises(text_cache.TextCacheError, match="no manifest"):
        opened(tmp_path, Fake())


def test_bad_encoders_are_errors(tmp_path):
    broken = text_cache.Encoder(encode=lambda s: np.zeros((len(s), 3)), weights="", tokenizer="")
    with pytest.raises(text_cache.TextCacheError, match="'cat', 'dog'"):
        text_cache.text_rows(["cat", "dog"], encoder=broken, templates=TEMPLATES)
    broken = dataclasses.replace(broken, encode=lambda s: np.ones((1, 3)))
    with pytest.raises(text_cache.TextCacheError, match=r"\(1, 3\) for 14"):
        text_cache.text_rows(["cat"], encoder=broken, templates=TEMPLATES, folder=tmp_path)
    opened(tmp_path, Fake()).rows(["cat"])
    with pytest.raises(text_cache.TextCacheError, match="7 wide"):
        opened(tmp_path, Fake(width=7)).rows(["dog"])


def test_the_shipped_clip(tmp_path):
    """Equal to the zero-shot classifier, one row for one word, deaf to the image tower, foreign to another text tower."""
    model = clip.load(world.pair("student"))
    encoder, lines = text_cache.clip_encoder(model), templates.Templates("a", ("a {}.",))
    words = vocabulary.build(["red striped ring", "blue plain heart, green dotted star"])
    rows = text_cache.text_rows(words.rows, encoder=encoder, templates=lines, folder=tmp_path)
    expected = clip.zeroshot.classifier(model, list(words.rows), lines.lines)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    one = text_cache.text_rows(words.rows[:1], encoder=encoder, templates=lines)
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)

    def shifted(tower):
        params = dict(model.params)
        params[tower] = jax.tree.map(lambda leaf: leaf + 1.0, params[tower])
        return text_cache.clip_encoder(dataclasses.replace(model, params=params))

    assert shifted("vision").weights == encoder.weights
    assert shifted("text").weights != encoder.weights
    assert encoder.tokenizer == text_cache.clip_encoder(model).tokenizer
