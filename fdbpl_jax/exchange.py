"""Learned prompts in and out under the names of the public PyTorch code (`foreign`), with total accounting.

Every tensor of a file is used, or is on a list of names that are ignored; every leaf of the trained tree is written once;
what is wrong is reported together. What is ignored, frozen towers and the sentences of the training classes, still tells
which CLIP the prompts were learned with: where it is there it must be the student's. Docs: docs/prompts.md.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from core_jax import clip
from core_jax.clip import table
from core_jax.clip.tensors import open_tensors
from core_jax.data import files
from fdbpl_jax import average, foreign

# What the contexts of those repositories start from, where they start from words.
_START = "a photo of a"
# What the metadata of a file says that was written here.
SAID = {"learner", "words", "class_token_position", "student", "student_digest"}
# Float16 and sums of it, which PromptSRC's average over epochs makes of frozen weights, keep more than this.
_NEAR = 0.02


class ExchangeError(ValueError):
    """Learned prompts that cannot be read or written; the message lists every problem."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """Prompts as if they had been trained here.

    Attributes:
      family: a key of `foreign.FAMILIES`.
      learner: whose they are; where several learners save the same tensors, the one that was asked for.
      trainable: what the learner's task trains, float32.
      stats: its running statistics.
      settings: what a configuration must say for them, by dotted key.
      notes: what a reader should know, a sentence each.
    """

    family: str
    learner: str
    trainable: dict[str, Any]
    stats: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]


def read_file(path: str | pathlib.Path, student: clip.Clip, *, learner: str = "") -> Imported:
    """Learned prompts from a safetensors file; see `read`. The metadata of a file of `write_file` says what tensors do not.

    Raises:
      ExchangeError: it is a pickled checkpoint (the message holds the conversion to run), is no safetensors file, or does not
        fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ExchangeError(f"{path}: there is no such file")
    try:
        with open_tensors([path]) as tensors:
            return read(tensors, student, learner=learner, said=_said(path))
    except clip.WeightsError as error:
        with open(path, "rb") as file:
            start = file.read(2)
        pickled = start == b"PK" or (start[:1] == b"\x80" and start[1:] in b"\2\3\4\5")
        raise ExchangeError(_refusal(path) if pickled else str(error)) from None
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from None


def _said(path: pathlib.Path) -> dict[str, str]:
    """The metadata of a file, where it was written here."""
    with safetensors.safe_open(path, "numpy") as file:
        found = file.metadata() or {}
    return found if found.keys() >= SAID else {}


def _refusal(path: pathlib.Path) -> str:
    # Those checkpoints hold schedulers as objects, so torch's restricted loading would refuse them.
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"d = torch.load({str(path)!r}, map_location='cpu', weights_only=False); d = d.get('state_dict', d); "
        "save_file({k.removeprefix('module.'): v.contiguous().clone() for k, v in d.items()}, "
        f"{str(path) + '.safetensors'!r})"
    )
    return (
        f"{path} is a pickled checkpoint, and opening one can run code hidden in it. If you trust it, convert it where torch "
        f'and safetensors are installed:\n  python -c "{code}"'
    )


def read(
    tensors: Mapping[str, np.ndarray],
    student: clip.Clip,
    *,
    learner: str = "",
    said: Mapping[str, str] | None = None,
) -> Imported:
    """Learned prompts from the tensors of a public repository's checkpoint.

    Args:
      tensors: all of them, by name; float32, float16 or bfloat16.
      student: the CLIP that the prompts were learned with.
      learner: whose they are, where the tensors leave that open; empty: the file decides.
      said: the keys of SAID, of prompts that were written here; without them what tensors leave open is guessed, and a
        note says so.

    Raises:
      ExchangeError: no family has such tensors; or some are missing, unknown, of another shape, not finite, or belong to
        another CLIP, all of them listed.
    """
    name = foreign.family_of_names(tensors)
    if name is None:
        few = ", ".join(sorted(tensors)[:5]) or "none at all"
        raise ExchangeError(
            "no tensor has the name of a learned prompt (ctx, prompt_learner.ctx, image_encoder.VPT, ...); the first names are "
            f"{few}. Give the state dict of a checkpoint of CoOp, CoCoOp, KgCoOp, ProGrad, KDPL, MaPLe, IVLP, VPT, PromptSRC or "
            "PromptKD"
        )
    family = foreign.FAMILIES[name]
    prefix = "" if "ctx" in tensors else foreign.LEARNER
    sizes = foreign.sizes_of_tensors(tensors, family, prefix)
    said = said or {}
    learner = _learner(tensors, name, sizes, learner or said.get("learner", ""))
    shapes, problems = foreign.shapes(family, sizes, student.config)
    nested: dict[str, Any] = {}
    try:
        rows, ignored = foreign.rows(family, prefix), foreign.ignored(family)
        nested = table.read(tensors, rows, shapes, ignored=ignored)
    except clip.WeightsError as error:
        problems += [line.strip() for line in str(error).splitlines()[1:]]
    problems += _of_another_model(tensors, prefix, student, said)
    _raise(f"taken for prompts of {name} ({sizes}), they do not fit the student", problems)
    trainable, stats = jax.tree.map(jnp.asarray, foreign.pack(nested))
    if learner == "promptsrc":
        # What PromptSRC saves in the end is the average.
        trainable = average.start(trainable)
    settings, notes = _settings(tensors, family, prefix, sizes, student, said)
    return Imported(
        family=name,
        learner=learner,
        trainable=trainable,
        stats=stats,
        settings={"learner": learner, **settings},
        notes=notes,
    )


def _learner(tensors: Mapping[str, np.ndarray], name: str, sizes: foreign.Sizes, asked: str) -> str:
    learners = foreign.FAMILIES[name].learners
    if name == "IVLP" and not sizes.tokens:
        # Deep prompts in the text tower alone: here that is a depth of CoOp's context.
        learners = ("coop",)
    if asked and asked not in learners:
        raise ExchangeError(
            f"learner={asked}: the tensors are those of {name}, so expected {' or '.join(learners)}"
        )
    marks = {
        "kgcoop": r"(prompt_learner\.)?bias_vectors",
        "promptsrc": r"prompt_learner\.ZS_image_.*",
    }
    for learner, mark in marks.items():
        if learner in learners and any(re.fullmatch(mark, tensor) for tensor in tensors):
            return asked or learner
    return asked or learners[0]


def _of_another_model(
    tensors: Mapping[str, np.ndarray], prefix: str, student: clip.Clip, said: Mapping[str, str]
) -> list[str]:
    """What shows that the prompts were learned with another CLIP; several have towers of the same widths."""
    if said and said["student_digest"] != (ours := clip.weights_digest(student.params)):
        return [
            f"another model: they were learned with {said['student']}, weights {said['student_digest'][:12]}; the student's "
            f"are {ours[:12]}"
        ]
    text, vision = student.params["text"], student.params["vision"]
    known = {
        f"{prefix}token_prefix": text["token_embedding"][student.tokenizer.start],
        "text_encoder.ln_final.weight": text["final_norm"]["scale"],
    }
    # Names of a ResNet are in no file: where the image tower is saved, tokens were learned in it.
    if isinstance(student.config.vision, clip.VisionConfig):
        known["image_encoder.class_embedding"] = vision["class_embedding"]
        known["image_encoder.conv1.weight"] = np.transpose(vision["patch"]["kernel"], (3, 2, 0, 1))
    problems = []
    for name, ours in known.items():
        if name not in tensors:
            continue
        theirs, ours = np.asarray(tensors[name], np.float32), np.asarray(ours)
        if name.endswith("token_prefix"):
            # The start token, the same for every class.
            theirs = theirs.reshape(-1, theirs.shape[-1])[0]
        if theirs.shape != ours.shape:
            problems.append(f"another model: {name} is {theirs.shape}, the student's {ours.shape}")
        elif not np.linalg.norm(theirs - ours) <= _NEAR * np.linalg.norm(ours):
            problems.append(f"another model: {name} has other values than the student's")
    return problems


def _settings(
    tensors: Mapping[str, np.ndarray],
    family: foreign.Family,
    prefix: str,
    sizes: foreign.Sizes,
    student: clip.Clip,
    said: Mapping[str, str],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the configuration has to say, and what the file leaves open."""
    settings: dict[str, Any] = {}
    notes = []
    if sizes.context:
        words, note = said.get("words", ""), ""
        if family.cut and not said:
            words, note = _words(tensors, f"{prefix}token_suffix", sizes.context[-1], student)
        notes += [note] if note else []
        settings = {
            "prompt.context": sizes.context[-1],
            # Nothing starts from words: everything is in the file.
            "prompt.context_init": "",
            "prompt.depth": sizes.depth,
            "prompt.class_specific": len(sizes.context) == 2,
        }
        settings |= {} if words is None else {"prompt.words": words}
    if sizes.tokens:
        settings |= {"visual.tokens": sizes.tokens, "visual.depth": sizes.visual_depth}
    if said and sizes.context:
        settings["prompt.class_token_position"] = said["class_token_position"]
    elif not family.whole:
        notes.append(
            "A file does not say where the class name stands: prompt.class_token_position has to be what it was in training."
        )
    if "projector" in family.parts:
        notes.append(
            "PromptKD's classes are text features of its teacher, which the authors gave prompts of its own; those are not in "
            "this file."
        )
    return settings, tuple(notes)


def _words(
    tensors: Mapping[str, np.ndarray], name: str, context: int, student: clip.Clip
) -> tuple[str | None, str]:
    """The fixed words between context and class name, None where they are not known, and a note where they are a guess."""
    rest = " ".join(_START.split()[context:])
    try:
        ids = student.tokenizer.encode(rest)
    except clip.TokenizerError:
        return "", ""
    if not ids:
        return "", ""
    if name not in tensors:
        return rest, (
            f"The file does not hold its sentences: {_START!r} is taken for their start, as in the published configurations, so "
            f"{rest!r} stands behind the {context} learned vectors."
        )
    ours = np.asarray(student.params["text"]["token_embedding"])[ids]
    theirs = np.asarray(tensors[name], np.float32)[:, : len(ids)]
    same = theirs.shape[1:] == ours.shape and np.linalg.norm(
        theirs - ours[None]
    ) <= _NEAR * np.linalg.norm(np.broadcast_to(ours, theirs.shape))
    if same:
        return rest, ""
    behind = np.asarray(tensors[name], np.float32)[:, 0]
    if len(behind) > 1 and not np.ptp(behind, axis=0).any():
        return None, (
            f"All sentences of the file go on with the same word behind the {context} learned vectors, and it is not {rest!r}: "
            "if it is no part of the class names, prompt.words has to be what it was in training."
        )
    return "", ""


def write(
    trainable: Mapping[str, Any],
    stats: Mapping[str, Any],
    student: clip.Clip,
    *,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """What a run has learned, under the names that the public repository of its learner loads.

    Where prompts were averaged over epochs, the average is written. A negative prompt has no name there and stays behind.

    Args:
      trainable: of the run.
      stats: of the run.
      student: what they were learned with.
      dtype: of the tensors: float32, float16 or bfloat16.

    Raises:
      ExchangeError: the prompts do not fit the student, or nothing but a negative prompt was learned.
    """
    judged = dict(average.judged(trainable))
    name = foreign.family_of_tree(judged)
    if name is None:
        raise ExchangeError(
            "nothing was learned that the public repositories have a name for: zero-shot classification learns nothing, and "
            "they know no negative prompts"
        )
    family, sizes = foreign.FAMILIES[name], foreign.sizes_of_tree(judged)
    nested = foreign.unpack(judged, stats, family)
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    there = {path: np.asarray(leaf).shape for path, leaf in flat.items()}
    shapes, problems = foreign.shapes(family, sizes, student.config)
    problems += [
        f"shape: {path} is {there.get(path, 'absent')}, expected {shapes.get(path, 'nothing')}"
        for path in sorted(shapes.keys() | there.keys())
        if shapes.get(path) != there.get(path)
    ]
    _raise("the prompts do not fit the student", problems)
    prefix = foreign.LEARNER if family.whole else ""
    return table.write(nested, foreign.rows(family, prefix), shapes, dtype)


def write_file(
    path: str | pathlib.Path,
    trainable: Mapping[str, Any],
    stats: Mapping[str, Any],
    student: clip.Clip,
    *,
    dtype: str = "float32",
    about: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """`write` into a safetensors file, whole or not at all.

    Args:
      path: of the file.
      trainable: as for `write`.
      stats: as for `write`.
      student: as for `write`.
      dtype: as for `write`.
      about: the file's metadata; with the keys of SAID `read_file` has nothing to guess.

    Returns:
      The tensors.
    """
    tensors = write(trainable, stats, student, dtype=dtype)
    files.atomic_write(path, safetensors.numpy.save(tensors, {"format": "pt", **(about or {})}))
    return tensors


def _raise(summary: str, problems: list[str]) -> None:
    if problems:
        listed = "\n  ".join(problems)
        raise ExchangeError(f"{summary} ({len(problems)} problems):\n  {listed}")
