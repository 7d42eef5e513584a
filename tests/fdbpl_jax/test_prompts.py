"""Layouts of the prompts: ids, positions, end tokens, starts, and the errors that name a class."""

import json

import jax
import numpy as np
import pytest

from core_jax import clip
from fdbpl_jax import prompts
from fdbpl_jax.prompts import PromptConfig, PromptError

NAMES = ("red_striped ring", "star", "not one, red heart")


@pytest.fixture(scope="module")
def byte_pair(tmp_path_factory):
    """A byte-pair tokenizer with a few merges, so that names split into several pieces."""
    folder = tmp_path_factory.mktemp("bpe")
    merges = ["r e", "re d</w>", "s t", "st a", "o f</w>", "p h", "ph o", "t o</w>", "pho to</w>"]
    # A full stop that merges with the last sign of a name.
    merges.append(") .</w>")
    printable = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters = printable + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(x + "</w>" for x in letters), *(m.replace(" ", "") for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return clip.Tokenizer(folder)


def _ids(layout, row):
    """Token ids of one sentence without its context, up to the end token."""
    keep = (np.arange(layout.ids.shape[1]) <= layout.end[row]) & (layout.slots[row] < 0)
    return layout.ids[row][keep].tolist()


@pytest.mark.parametrize("which", ["words", "bytes"])
def test_ids_behind_the_context_are_the_full_sentences(student, byte_pair, which):
    tokenizer = student.tokenizer if which == "words" else byte_pair
    names = NAMES if which == "words" else ("Great Dane (old)", "red_star 12", "it's")
    layout = prompts.layout(names, tokenizer, context=4)
    for row, name in enumerate(names):
        sentence = tokenizer.encode(f"a photo of a {name.replace('_', ' ')}.")
        context = tokenizer.encode("a photo of a")
        assert sentence[: len(context)] == context
        expected = [tokenizer.start, *sentence[len(context) :], tokenizer.eos]
        assert _ids(layout, row) == expected
        assert layout.end[row] == 1 + len(sentence)
        assert layout.slots[row, 1:5].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("which", ["words", "bytes"])
def test_fixed_words_are_part_of_the_full_sentence(student, byte_pair, which):
    """MaPLe's prompt: the first two words of "a photo of a" are learned, the others stay."""
    tokenizer = student.tokenizer if which == "words" else byte_pair
    names = NAMES if which == "words" else ("Great Dane (old)", "red_star 12", "it's")
    learned = len(tokenizer.encode("a photo"))
    layout = prompts.layout(names, tokenizer, context=learned, words="of_a")
    for row, name in enumerate(names):
        sentence = tokenizer.encode(f"a photo of a {name.replace('_', ' ')}.")
        assert _ids(layout, row) == [tokenizer.start, *sentence[learned:], tokenizer.eos]
        assert layout.slots[row, 1 : 1 + learned].tolist() == list(range(learned))
    assert layout.front == 1 + len(tokenizer.encode("a photo of a"))


def _as_coop(tokenizer, name, context, position):
    """CoOp's PromptLearner on one class: cuts of the tokenised "x x x x name."; context vectors as -1, -2, ..."""
    ids = [tokenizer.start, *tokenizer.encode("x " * context + name + "."), tokenizer.eos]
    count = len(tokenizer.encode(name))
    prefix, suffix = ids[:1], ids[1 + context :]
    vectors, half = [-1 - i for i in range(context)], context // 2
    return {
        "end": prefix + vectors + suffix,
        "middle": prefix + vectors[:half] + suffix[:count] + vectors[half:] + suffix[count:],
        "front": prefix + suffix[:count] + vectors + suffix[count:],
    }[position]


@pytest.mark.parametrize("context", [4, 5])
@pytest.mark.parametrize("position", prompts.POSITIONS)
def test_sentences_are_cut_as_coop_cuts_them(byte_pair, position, context):
    names = ("Great Dane (old)", "red star", "it's", "st. photo", "a,b")
    layout = prompts.layout(names, byte_pair, context=context, position=position)
    for row, name in enumerate(names):
        stop = layout.end[row] + 1
        slots, ids = layout.slots[row, :stop], layout.ids[row, :stop]
        expected = _as_coop(byte_pair, name, context, position)
        assert np.where(slots >= 0, -1 - slots, ids).tolist() == expected
    merged = byte_pair.encode(").")
    assert len(merged) == 1
    assert merged[0] in layout.ids[0]


def test_positions_of_the_class_name(student):
    encode, start, end = student.tokenizer.encode, student.tokenizer.start, student.tokenizer.eos
    name, dot = encode("red striped ring"), encode(".")
    got = {
        position: prompts.layout(NAMES, student.tokenizer, context=5, position=position)
        for position in prompts.POSITIONS
    }
    rows = {
        "end": [(start,), 0, 1, 2, 3, 4, *((i,) for i in (*name, *dot)), (end,)],
        "middle": [(start,), 0, 1, *((i,) for i in name), 2, 3, 4, (dot[0],), (end,)],
        "front": [(start,), *((i,) for i in name), 0, 1, 2, 3, 4, (dot[0],), (end,)],
    }
    for position, expected in rows.items():
        layout = got[position]
        ids = [x[0] if isinstance(x, tuple) else None for x in expected]
        slots = [-1 if isinstance(x, tuple) else x for x in expected]
        assert layout.slots[0, : len(slots)].tolist() == slots
        assert all(i is None or i == j for i, j in zip(ids, layout.ids[0], strict=False))
        assert layout.end[0] == len(expected) - 1
        assert layout.front == (6 if position == "end" else 0)


def test_sentences_over_the_context_length_name_the_classes(student):
    names = ["star", "red " * 14 + "ring", "blue " * 15 + "ring"]
    # [SOS] + 4 + 15 + "." + [EOT] = 22 and 23 tokens for a tower of 20.
    with pytest.raises(PromptError, match=r"more than 20 tokens.*ring' \(22\).*ring' \(23\)"):
        prompts.layout(names, student.tokenizer, context=4, context_length=20)
    fits = "red " * 12 + "ring"
    layout = prompts.layout([fits], student.tokenizer, context=4, context_length=20)
    assert layout.end[0] == 19


def test_start_from_words_and_from_noise(student):
    key = jax.random.key(0)
    table = np.asarray(student.params["text"]["token_embedding"])
    start = prompts.init_context(PromptConfig(), student, classes=3, dual=True, key=key)
    for sign, words in (("positive", "a photo of a"), ("negative", "a photo of no")):
        np.testing.assert_array_equal(start[sign], table[student.tokenizer.encode(words)])
    assert set(prompts.init_context(PromptConfig(), student, classes=3, dual=False, key=key)) == {
        "positive"
    }
    noise = PromptConfig(context=16, context_init="", negative_init="")
    start = prompts.init_context(noise, student, classes=3, dual=True, key=key)
    assert start["positive"].shape == (16, 32)
    assert abs(float(np.std(start["positive"])) - 0.02) < 0.003
    assert not np.allclose(start["positive"], start["negative"])
    per_class = PromptConfig(class_specific=True)
    start = prompts.init_context(per_class, student, classes=3, dual=False, key=key)
    assert start["positive"].shape == (3, 4, 32)
    assert all(np.asarray(x).dtype == np.float32 for x in start.values())


def test_fewer_words_than_vectors_stand_behind_zeros(student):
    """As ProGrad's code starts 16 vectors from "a photo of a"."""
    config = PromptConfig(context=6, context_init="... a photo", negative_init="... ")
    start = prompts.init_context(config, student, classes=3, dual=True, key=jax.random.key(0))
    table = np.asarray(student.params["text"]["token_embedding"])
    np.testing.assert_array_equal(start["positive"][4:], table[student.tokenizer.encode("a photo")])
    assert not np.any(start["positive"][:4])
    assert not np.any(start["negative"])


def test_underscores_of_the_first_words_are_spaces(student):
    make = lambda words: prompts.init_context(
        PromptConfig(context_init=words), student, classes=1, dual=False, key=jax.random.key(0)
    )
    for one, other in zip(make("a_photo_of_a").values(), make("a photo of a").values()):
        np.testing.assert_array_equal(one, other)


def test_deep_prompts_start_from_small_noise(student):
    """As in MaPLe's code and IVLP's: N(0, 0.02) in every block, whatever words the context starts from."""
    key = jax.random.key(0)
    make = lambda config, dual=True: prompts.init_deep(config, student, dual=dual, key=key)
    config = PromptConfig(context=50, context_init="", negative_init="", depth=2)
    deep = make(config)
    assert set(deep) == {"positive", "negative"}
    assert set(make(config, dual=False)) == {"positive"}
    for vectors in deep.values():
        assert vectors.shape == (1, 50, 32)
        assert vectors.dtype == np.float32
        assert abs(float(np.std(vectors)) - 0.02) < 0.002
    assert not np.allclose(deep["positive"], deep["negative"])
    # Per class or not, with words or without: the deep prompts are shared and random.
    assert make(PromptConfig(class_specific=True, depth=2))["positive"].shape == (1, 4, 32)
    assert make(PromptConfig()) == {}
    for depth in (0, 3):
        with pytest.raises(PromptError, match=f"prompt.depth is {depth}: expected 1 .* to 2"):
            make(PromptConfig(depth=depth))


def test_words_of_another_number_of_tokens_are_all_named(student):
    for words, count in (("no photo", 2), ("... a photo of no", 4)):
        config = PromptConfig(context=3, negative_init=words)
        with pytest.raises(PromptError) as error:
            prompts.init_context(config, student, classes=3, dual=True, key=jax.random.key(0))
        assert "context_init='a photo of a' has 4" in str(error.value)
        assert f"negative_init={words!r} has {count}" in str(error.value)


def test_nearest_words_of_an_untrained_context_are_its_words(student):
    start = prompts.init_context(
        PromptConfig(), student, classes=3, dual=True, key=jax.random.key(0)
    )
    nearest = prompts.nearest_words(start["negative"], student, count=2)
    assert [words[0][0] for words in nearest] == ["a", "photo", "of", "no"]
    # |a|^2 - 2ab + |b|^2 cancels in float32: zero only up to its rounding.
    assert all(words[0][1] < 0.05 < words[1][1] for words in nearest)
