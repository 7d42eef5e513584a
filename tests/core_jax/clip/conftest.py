"""Random models and tokenizers as HuggingFace writes them: the references of this folder's tests, no download."""

import collections
import dataclasses
import itertools
import json
import pathlib
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel

import core_jax.clip as clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What tells one reference model from another; `store` is the type of the file's weights."""

    image: int = 32
    patch: int = 16
    vision: tuple[int, int, int] = (32, 2, 2)  # width, layers, heads
    text: tuple[int, int, int] = (32, 2, 2)
    projection: int = 24
    vocab: int = 99
    context: int = 20
    activation: str = "quick_gelu"
    eps: float = 1e-5
    end: int = 98
    mlp: int = 3  # times the width
    store: str = "float32"


CASES = {
    "patch16 legacy end": Case(end=2),
    "patch14 gelu": Case(image=28, patch=14, activation="gelu", projection=16, eps=1e-6),
    "patch32 end inside vocabulary": Case(image=64, patch=32, end=57, projection=40, eps=1e-3),
    "towers of different sizes": Case(vision=(48, 3, 3), text=(40, 1, 5), activation="gelu"),
    "float16 file": Case(store="float16", patch=8),
    "bfloat16 file": Case(store="bfloat16", end=2, activation="gelu"),
    "tanh gelu": Case(activation="gelu_pytorch_tanh", image=48, context=77, vocab=130, end=129),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A folder, torch's model of it in float32, and ours."""

    case: Case
    folder: pathlib.Path
    torch: Any
    ours: clip.Clip


def build(case: Case, seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    sizes = {
        name: {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": case.mlp * width,
            "hidden_act": case.activation,
            "layer_norm_eps": case.eps,
        }
        for name, (width, layers, heads) in (("vision", case.vision), ("text", case.text))
    }
    model = CLIPModel(
        CLIPConfig(
            vision_config=sizes["vision"] | {"image_size": case.image, "patch_size": case.patch},
            text_config=sizes["text"]
            | {
                "vocab_size": case.vocab,
                "max_position_embeddings": case.context,
                "bos_token_id": 1,
                "eos_token_id": case.end,
                "pad_token_id": 0,
            },
            projection_dim=case.projection,
        )
    )
    with torch.no_grad():
        # Zero biases and unit scales would hide weights that land in the wrong place.
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape)
    return model.eval()


@pytest.fixture(scope="session", params=CASES, ids=lambda name: name.replace(" ", "-"))
def reference(request, tmp_path_factory) -> Reference:
    """Every case; tests that need only some of them name those with `indirect`."""
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("clip")
    build(case).to(getattr(torch, case.store)).save_pretrained(folder)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(case, folder, model, clip.load(folder))


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Reference:
    """One model for tests that need any."""
    folder = tmp_path_factory.mktemp("any")
    build(Case()).save_pretrained(folder)
    return Reference(Case(), folder, CLIPModel.from_pretrained(folder).eval(), clip.load(folder))


def learn_merges(corpus: str, count: int) -> list[tuple[str, str]]:
    """Byte-pair merges of a corpus, most frequent pair first, with CLIP's end-of-word marks."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words: collections.Counter = collections.Counter()
    for word in corpus.lower().split():
        letters = "".join(piece for piece, _ in split.pre_tokenize_str(word))
        words[(*letters[:-1], letters[-1] + "</w>")] += 1
    merges = []
    for _ in range(count):
        pairs: collections.Counter = collections.Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        words = collections.Counter({merge(word, best): times for word, times in words.items()})
    return merges


def merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        # The left half of a pair that was just joined is longer than pair[0], so no piece is used twice.
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


CORPUS = (
    "a photo of a cat and a photograph of two dogs the dog's ball don't they're we'll it is I'm a café naïve "
    "über straße 猫 の 写真 emoji 🙂 photo photo of the the red ring ring striped"
)


@pytest.fixture(scope="session")
def byte_pairs(tmp_path_factory) -> pathlib.Path:
    """A folder with vocab.json and merges.txt of a small CLIP vocabulary: bytes, bytes at word ends, merges, specials."""
    folder = tmp_path_factory.mktemp("byte_pairs")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(CORPUS, 60)
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
