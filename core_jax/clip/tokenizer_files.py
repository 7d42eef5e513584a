"""Opening the tokenizer files of a model folder as HuggingFace does, without torch or transformers.

A folder holds `tokenizer.json` (read as it is), or the older `vocab.json` and `merges.txt`, from which CLIP's byte-pair
encoder is put together. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` name further tokens.
"""

import json
import pathlib
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_START, _END = "<|startoftext|>", "<|endoftext|>"
# In HuggingFace's order, which decides when two roles describe one token differently.
_CLIP = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
# HuggingFace's regular expression: special tokens, English contractions, letters, single digits, anything else.
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class TokenizerError(ValueError):
    """Text that cannot be tokenised, or a tokenizer that does not fit its model."""


class Opened(NamedTuple):
    """A backend that neither pads nor truncates, and the ids around a text."""

    backend: tokenizers.Tokenizer
    start: int
    eos: int
    pad: int


def open_folder(folder: pathlib.Path) -> Opened:
    """The tokenizer in `folder`.

    Raises:
      TokenizerError: files are missing, unreadable, or name no start, end or padding token.
    """
    whole, vocab, merges = (folder / f for f in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(whole))
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{whole} is not a tokenizer: {error}") from error
    elif vocab.is_file() and merges.is_file():
        backend = _byte_pair(vocab, merges)
    else:
        raise TokenizerError(
            f"{folder} has no tokenizer files: text needs tokenizer.json, or vocab.json and merges.txt, of the same model. "
            "OpenAI's models share one vocabulary of 49408 tokens, and OpenCLIP's have it too unless their configuration "
            "names an hf_tokenizer_name: put those two files of openai/clip-vit-base-patch32 into the folder "
            f"(`hf download openai/clip-vit-base-patch32 vocab.json merges.txt --local-dir {folder}`)"
        )
    named, added = _configured(folder)
    named = _defaults(backend) | named
    _register(backend, named, added)
    backend.no_padding()
    backend.no_truncation()
    ids = {}
    for role in ("bos_token", "eos_token", "pad_token"):
        if role not in named:
            raise TokenizerError(f"no tokenizer file in {folder} names a {role}")
        ids[role] = backend.token_to_id(_special(named[role]).content)
    return Opened(backend, ids["bos_token"], ids["eos_token"], ids["pad_token"])


def _byte_pair(vocab: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
    """CLIP's encoder from its two files, component by component as HuggingFace builds it."""
    try:
        model = models.BPE.from_file(
            str(vocab),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=_END,
        )
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{vocab} and {merges} are no byte-pair encoder: {error}") from error
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    start, end = backend.token_to_id(_START), backend.token_to_id(_END)
    if start is None or end is None:
        raise TokenizerError(f"{vocab} lacks {_START!r} or {_END!r}: it is not a CLIP vocabulary")
    backend.post_processor = processors.RobertaProcessing(
        (_END, end), (_START, start), trim_offsets=False, add_prefix_space=False
    )
    return backend


def _configured(folder: pathlib.Path) -> tuple[dict[str, Any], list[AddedToken]]:
    """Tokens by role, and further added tokens, with HuggingFace's order of precedence among the three files."""
    config = _read(folder / "tokenizer_config.json")
    named = {role: config[role] for role in _CLIP if config.get(role) is not None}
    if "added_tokens_decoder" in config:
        listed = sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
        added = [_special(token) for _, token in listed]
    else:
        above = _read(folder / "special_tokens_map.json")
        named |= {role: above[role] for role in _CLIP if above.get(role) is not None}
        roles = {_special(token).content for token in named.values()}
        more = sorted(_read(folder / "added_tokens.json").items(), key=lambda item: item[1])
        added = [
            AddedToken(text, normalized=text not in roles, special=text in roles)
            for text, _ in more
        ]
    return named, added


def _defaults(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Tokens by role where no file names them: CLIP's, or what tokenizer.json itself puts around and behind a text."""
    if backend.token_to_id(_START) is not None and backend.token_to_id(_END) is not None:
        return dict(_CLIP)
    padding = backend.padding
    backend.no_padding()
    around = [backend.id_to_token(id_) for id_ in backend.encode("").ids]
    if len(around) != 2:
        return {}
    start, end = around
    return {
        "bos_token": start,
        "eos_token": end,
        "pad_token": (padding or {}).get("pad_token", end),
    }


def _register(
    backend: tokenizers.Tokenizer, named: dict[str, Any], added: list[AddedToken]
) -> None:
    """Tells the backend which tokens to look for before it splits text; those of tokenizer.json stay as they are."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    tokens = [token for token in added if token.content not in known]
    known |= {token.content for token in added}
    # When two roles name one token, each with its own flags, the last one counts: HuggingFace's behaviour.
    tokens += [token for token in map(_special, named.values()) if token.content not in known]
    backend.add_tokens(tokens)


def _special(token: Any) -> AddedToken:
    if isinstance(token, AddedToken):
        return token
    if isinstance(token, dict):
        return AddedToken(**{key: value for key, value in token.items() if key != "__type"})
    return AddedToken(token, special=True, normalized=False)


def _read(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error
