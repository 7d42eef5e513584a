"""The tokenizer against HuggingFace's, on awkward and on random text; the word-level one against its own rules."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

import core_jax.clip as clip

AWKWARD = (
    "",
    " ",
    "\t \n",
    "A photo of a Cat.",
    "  two   dogs \t and\na photograph\r\n ",
    "café naïve Été ÜBER straße",
    # The same letter composed and decomposed; letters whose lower case has another length.
    "é vs e\u0301, Å vs A\u030a, ﬁ, İstanbul, ẞ, Ǆ",
    "猫の写真。日本語テキスト 한국어 العربية हिन्दी",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 and emoji🙂inside",
    "they'Re don't I'M we'LL dog's 'S 'tis rock'n'roll ''",
    "<b>bold</b> &amp; &lt;tag&gt; <br/>",
    "nul\x00 bell\x07 escape\x1b del\x7f zero\u200bwidth bom\ufeff soft\u00adhyphen",
    "no-break\u00a0space ideographic\u3000space line\u2028separator nel\x85",
    "123 4.5 1,000 ½ Ⅷ ٣ x2y",
    "<|endoftext|>",
    "before<|startoftext|>between<|EndOfText|> <|STARTOFTEXT|>after",
    "!!! ... --- ___ #$%^&*()[]{}\\|/~`",
    "a" * 300,
    "mIxEd CaSe WoRdS",
)


def random_texts(count: int) -> list[str]:
    """Characters of every plane and script, spaces and CLIP's own words, thrown together."""
    rng = np.random.default_rng(0)
    planes = [(0x20, 0x7F), (0x00, 0x100), (0x100, 0x600), (0x600, 0x2100), (0x2100, 0xD800)]
    planes += [(0xE000, 0x10000), (0x1F300, 0x1FB00), (0x10000, 0x110000)]
    words = ["photo", "the", "dog's", " ", "  ", "\n", "<|endoftext|>", "'LL", "猫", "1", "Ring"]
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(rng.integers(1, 12)):
            if rng.random() < 0.4:
                pieces.append(words[rng.integers(len(words))])
            else:
                low, high = planes[rng.integers(len(planes))]
                pieces.append(chr(rng.integers(low, high)))
        texts.append("".join(pieces))
    return texts


def config_files(name: str, folder: pathlib.Path) -> None:
    """The additional files of real exports: none, OpenAI's, and one that adds tokens of its own."""
    described = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    if name == "described":
        content: dict = {
            role: described | {"__type": "AddedToken", "content": token}
            for role, token in (
                ("bos_token", "<|startoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            )
        }
        content["pad_token"] = "<|endoftext|>"
    elif name == "padding of its own":
        content = {"pad_token": "!"}
    elif name == "added":
        start = json.loads((folder / "vocab.json").read_text())["<|startoftext|>"]
        content = {
            "added_tokens_decoder": {
                str(start): described | {"content": "<|startoftext|>", "special": True},
                "9000": described | {"content": "<new>", "lstrip": True, "special": True},
            }
        }
    elif name == "map":
        content = {}
        above = {"pad_token": "!", "eos_token": described | {"content": "<|endoftext|>"}}
        (folder / "special_tokens_map.json").write_text(json.dumps(above))
        size = len(json.loads((folder / "vocab.json").read_text()))
        (folder / "added_tokens.json").write_text(json.dumps({"<extra>": size}))
    else:
        return
    content["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("files", ["none", "described", "padding of its own", "added", "map"])
def test_ids_are_huggingfaces(byte_pairs, tmp_path, files):
    """From vocab.json and merges.txt, and from the tokenizer.json that HuggingFace makes of them."""
    folder, whole = tmp_path / "pairs", tmp_path / "whole"
    shutil.copytree(byte_pairs, folder)
    config_files(files, folder)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.save_pretrained(whole)
    auto = AutoTokenizer.from_pretrained(whole)
    pairs, single = clip.Tokenizer(folder), clip.Tokenizer(whole)
    assert not (whole / "vocab.json").exists()
    texts = [*AWKWARD, *random_texts(400), "hi! <new> x <extra>y"]
    for text in texts:
        expected = theirs(text)["input_ids"]
        assert auto(text)["input_ids"] == expected
        for ours in (pairs, single):
            assert [ours.start, *ours.encode(text), ours.eos] == expected, text
    short = [text for text, ids in zip(texts, theirs(texts)["input_ids"]) if len(ids) <= 20]
    rows = theirs(short, padding="max_length", max_length=20)["input_ids"]
    for ours in (pairs, single):
        assert (ours.start, ours.eos, ours.pad) == (
            theirs.bos_token_id,
            theirs.eos_token_id,
            theirs.pad_token_id,
        )
        ids = ours(short, 20)
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, rows)


def test_merges_are_used(byte_pairs):
    """The fixture really merges: otherwise the comparison above would be one of bytes."""
    ours = clip.Tokenizer(byte_pairs)
    assert len(ours.encode("photo")) == 1
    assert len(ours.encode("photograph")) < len("photograph")
    assert ours.encode("photo") != ours.encode("photos")[:1]


def test_texts_that_do_not_fit_are_all_named(byte_pairs):
    ours = clip.Tokenizer(byte_pairs)
    with pytest.raises(clip.TokenizerError) as error:
        ours(["photo", "x" * 9, "photo photo photo photo"], 5)
    lines = str(error.value).splitlines()
    assert "2 of 3 texts are longer than the 5 tokens" in lines[0]
    assert lines[1:] == ["  11 tokens: 'xxxxxxxxx'", "  6 tokens: 'photo photo photo photo'"]
    # Start, three words and end just fit.
    assert ours("photo photo photo", 5).shape == (1, 5)


def test_one_text_is_a_batch_of_one(byte_pairs):
    ours = clip.Tokenizer(byte_pairs)
    np.testing.assert_array_equal(ours("photo", 9), ours(["photo"], 9))
    assert ours([], 9).shape == (0, 9)
    assert ours("photo").shape == (1, 77)
    with pytest.raises(clip.TokenizerError, match="must be str, got None, 3"):
        ours(["photo", None, 3])


def test_files_are_missed_only_when_used(saved):
    model = clip.load(saved.folder)
    assert str(saved.folder) in repr(model.tokenizer)
    with pytest.raises(clip.TokenizerError, match=r"has no tokenizer files: text needs"):
        model.tokenizer("a photo")


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(clip.TokenizerError, match=r"tokenizer\.json is not a tokenizer"):
        clip.Tokenizer(tmp_path).encode("a")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(clip.TokenizerError, match="not a CLIP vocabulary"):
        clip.Tokenizer(tmp_path).encode("a")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb c\n")
    with pytest.raises(clip.TokenizerError, match="no byte-pair encoder"):
        clip.Tokenizer(tmp_path).encode("a")


def test_files_of_another_model_are_refused(saved, tmp_path):
    """Ids beyond the table would be clamped without a word, and a wrong end token reads features at position 0."""
    text = saved.ours.config.text
    words = clip.word_level([f"w{i}" for i in range(200)])
    clip.save(
        tmp_path, saved.ours.config, saved.ours.params, tokenizer_files={"tokenizer.json": words}
    )
    with pytest.raises(clip.TokenizerError) as error:
        clip.load(tmp_path).tokenizer("w1")
    assert "its largest id is 203, but the text tower has 99 token embeddings" in str(error.value)
    assert "it ends texts with id 3, but config.json says eos_token_id 98" in str(error.value)
    fitting = dataclasses.replace(text, vocab_size=204, eos_token_id=3)
    assert clip.Tokenizer(tmp_path, fitting)("w1").shape == (1, 20)


def test_word_level(tmp_path):
    words = ["a", "photo", "of", "red", "ring", ".", ","]
    (tmp_path / "tokenizer.json").write_bytes(clip.word_level(words))
    ours = clip.Tokenizer(tmp_path)
    assert (ours.pad, ours.start, ours.eos) == (0, 1, 3)
    assert ours.encode("A photo of  a RED ring.") == [4, 5, 6, 4, 7, 8, 9]
    assert ours.encode("red,ring") == [7, 10, 8]
    assert ours.encode("") == []
    np.testing.assert_array_equal(ours(["red", "a ring"], 5), [[1, 7, 3, 0, 0], [1, 4, 8, 3, 0]])
    # HuggingFace reads the file as we do.
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs("A photo, of a red.")["input_ids"] == [
        ours.start,
        *ours.encode("A photo, of a red."),
        ours.eos,
    ]


def test_unknown_words_are_named_with_their_text(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(clip.word_level(["red", "ring"]))
    ours = clip.Tokenizer(tmp_path)
    with pytest.raises(clip.TokenizerError) as error:
        ours(["red ring", "Blue ring!", "redring"])
    assert str(error.value).splitlines()[1:] == [
        "  'Blue' in 'Blue ring!'",
        "  '!' in 'Blue ring!'",
        "  'redring' in 'redring'",
    ]
    # The unknown token itself is no way around.
    with pytest.raises(clip.TokenizerError, match="<"):
        ours.encode("<unknown>")


def test_words_that_text_cannot_hold_are_refused():
    with pytest.raises(clip.TokenizerError) as error:
        clip.word_level(["red", "Ring", "two words", "x-ray", "", "red", "<start>"])
    assert [line.split(" ")[2] for line in str(error.value).splitlines()[1:]] == [
        "'Ring'",
        "'two",
        "'x-ray'",
        "''",
        "'red'",
        "'<start>'",
    ]


def test_no_torch_no_transformers_and_no_threads(byte_pairs):
    """Importing either costs seconds, and threads would make forked data loaders warn."""
    code = (
        "import os, sys, core_jax.clip as clip; "
        f"clip.Tokenizer({str(byte_pairs)!r})(['a photo'] * 50); pid = os.fork(); "
        "pid or os._exit(0); os.waitpid(pid, 0); "
        "print(sorted({'torch', 'transformers', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
    assert "tokenizers" not in done.stderr
