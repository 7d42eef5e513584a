"""The names that the public PyTorch code gives to learned prompts, as weight tables, and what else its checkpoints hold.

CoOp, CoCoOp, KgCoOp, ProGrad, KDPL, MaPLe, IVLP, VPT, PromptSRC and PromptKD are trained in one lineage of repositories, which
save a state dict: of the prompt learner alone (CoOp's and CoCoOp's kind), or of the whole model, frozen towers included. Six
families of names cover all of them:

| family | learners | tensors |
|---|---|---|
| CoOp | coop, kgcoop, prograd | ctx |
| CoCoOp | cocoop | ctx, meta_net.linear1, meta_net.linear2 |
| MaPLe | maple | prompt_learner.ctx, .compound_prompts_text.N, .proj, .compound_prompt_projections.N |
| IVLP | ivlp, promptsrc | prompt_learner.ctx, text_encoder...N.VPT_shallow, image_encoder.VPT, image_encoder...N.VPT_shallow |
| VPT | vpt | image_encoder.VPT, image_encoder...N.VPT_shallow |
| PromptKD | promptkd | VPT's, and VPT_image_trans |

Here the prompts of several blocks lie in one array; a table pairs each block's with a leaf of its own, and `pack` and
`unpack` go from these leaves to the arrays and back.

Shapes: C classes, M context vectors, J blocks with prompts of their own, d and w widths of the text and the image tower, D
embedding width, T that of the teacher.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from core_jax import clip
from core_jax.clip.table import CONV, Row, affine, dense

LEARNER = "prompt_learner."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How one kind of checkpoint names what was learned.

    Attributes:
      learners: whose prompts these are; a file is taken for the first one's.
      rows: the weight table, between foreign names and our leaves, one block a leaf.
      first: number of the first deep text prompt in the foreign names.
      whole: the state dict is the whole model's.
      cut: a context of fewer than four vectors is the start of "a photo of a", whose other words stay words.
      unread: further names that are ignored.
    """

    learners: tuple[str, ...]
    rows: tuple[Row, ...]
    first: int = 1
    whole: bool = True
    cut: bool = False
    unread: str = ""

    @property
    def parts(self) -> set[str]:
        """The subtrees that its rows lead to."""
        return {row.paths[0].split("/")[0] for row in self.rows}


_CONTEXT = Row(f"{LEARNER}ctx", "context/positive")
_TOKENS = (
    Row("image_encoder.VPT", "visual/first"),
    Row("image_encoder.transformer.resblocks.{}.VPT_shallow", "visual/block_{}"),
)
FAMILIES = {
    "CoOp": Family(
        learners=("coop", "kgcoop", "prograd"),
        rows=(_CONTEXT,),
        whole=False,
        # Of KgCoOp: made, saved and never used.
        unread=r"(prompt_learner\.)?(bias_vectors|meta_net\.linear1\.(weight|bias))",
    ),
    "CoCoOp": Family(
        learners=("cocoop",),
        rows=(_CONTEXT, *dense(f"{LEARNER}meta_net.linear{{}}", "meta/fc{}")),
        whole=False,
    ),
    "MaPLe": Family(
        learners=("maple",),
        rows=(
            _CONTEXT,
            Row(f"{LEARNER}compound_prompts_text.{{}}", "deep/{}"),
            *dense(f"{LEARNER}proj", "coupling/first"),
            *dense(f"{LEARNER}compound_prompt_projections.{{}}", "coupling/block_{}"),
        ),
        first=0,
        cut=True,
    ),
    "IVLP": Family(
        learners=("ivlp", "promptsrc"),
        rows=(
            _CONTEXT,
            Row("text_encoder.transformer.resblocks.{}.VPT_shallow", "deep/{}"),
            *_TOKENS,
        ),
        cut=True,
    ),
    "VPT": Family(learners=("vpt",), rows=_TOKENS),
    "PromptKD": Family(
        learners=("promptkd",),
        rows=(
            *_TOKENS,
            *dense("VPT_image_trans.conv1.0", "projector/fc1", CONV),
            *affine("VPT_image_trans.conv1.1", "projector/norm"),
            Row("VPT_image_trans.conv1.1.running_mean", "stats/mean"),
            Row("VPT_image_trans.conv1.1.running_var", "stats/var"),
            *dense("VPT_image_trans.conv1.3", "projector/fc2", CONV),
        ),
        unread=r"VPT_image_trans\.conv1\.1\.num_batches_tracked",
    ),
}

_AFFINE = r"\.(weight|bias)"
_BLOCK = (
    r"transformer\.resblocks\.\d+\."
    rf"(attn\.(in_proj_(weight|bias)|out_proj{_AFFINE})|(ln_1|ln_2|mlp\.c_fc|mlp\.c_proj){_AFFINE})"
)
_VIT = (
    rf"(class_embedding|positional_embedding|proj|conv1\.weight|(ln_pre|ln_post){_AFFINE}|{_BLOCK})"
)
_STATISTICS = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET = (
    rf"((layer\d\.\d+\.)?((conv|bn)\d|downsample\.[01]){_STATISTICS}"
    rf"|attnpool\.(positional_embedding|[qkvc]_proj{_AFFINE}))"
)
_TEXT = rf"(positional_embedding|text_projection|ln_final{_AFFINE}|{_BLOCK})"
# Frozen towers, and the embedded sentences of the training classes, which those repositories ignore as well.
_FROZEN = (
    rf"logit_scale|(image_encoder|prompt_learner\.ZS_image_encoder)\.({_VIT}|{_RESNET})|text_encoder\.{_TEXT}"
    r"|(prompt_learner\.)?token_(prefix|midfix|suffix)2?"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much was learned.

    Attributes:
      context: (M,), (C, M) with a context per class, () without one.
      depth: J of the text prompts.
      tokens, visual_depth: M and J of the image tower's own prompts; 0 without any.
      teacher: T of a projector.
    """

    context: tuple[int, ...] = ()
    depth: int = 1
    tokens: int = 0
    visual_depth: int = 0
    teacher: int = 0

    def __str__(self) -> str:
        parts = []
        if self.context:
            *classes, vectors = self.context
            of = f" for each of {classes[0]} classes" if classes else ""
            parts += [f"{vectors} context vectors{of}", f"text depth {self.depth}"]
        if self.tokens:
            parts.append(f"{self.tokens} visual tokens, depth {self.visual_depth}")
        return ", ".join(parts)


def ignored(family: Family) -> re.Pattern[str]:
    """Names of tensors that may be in a family's files and are not read."""
    return re.compile("|".join(filter(None, (_FROZEN, family.unread))))


def rows(family: Family, prefix: str) -> tuple[Row, ...]:
    """The weight table where the prompt learner's names begin with `prefix`: "prompt_learner." or nothing."""
    return tuple(
        dataclasses.replace(row, foreign=row.foreign.replace(LEARNER, prefix))
        for row in family.rows
    )


def family_of_names(names: Iterable[str]) -> str | None:
    """The family whose names these are; None where no name is that of a learned prompt."""
    names = list(names)

    def some(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in names)

    context = some(r"(prompt_learner\.)?ctx$")
    image, text = some(r"image_encoder\..*VPT"), some(r"text_encoder\..*VPT")
    found = (
        ("PromptKD", some(r"VPT_image_trans\.")),
        ("MaPLe", some(r"prompt_learner\.(proj\.|compound_prompt)")),
        ("CoCoOp", some(r"(prompt_learner\.)?meta_net\.linear2\.")),
        ("IVLP", text or (context and image)),
        ("VPT", image),
        ("CoOp", context),
    )
    return next((name for name, there in found if there), None)


def family_of_tree(trainable: Mapping[str, Any]) -> str | None:
    """The family under whose names a trained tree is written; None where only a negative prompt was learned."""
    context = "positive" in trainable.get("context", {})
    own = "visual" in trainable
    found = (
        ("PromptKD", "projector" in trainable),
        ("MaPLe", "coupling" in trainable),
        ("CoCoOp", "meta" in trainable),
        ("IVLP", context and (own or "deep" in trainable)),
        ("VPT", own),
        ("CoOp", context),
    )
    return next((name for name, there in found if there), None)


def sizes_of_tensors(tensors: Mapping[str, np.ndarray], family: Family, prefix: str) -> Sizes:
    """Read off names and shapes; what is missing or disagrees is for the weight table to find."""

    def shape(name: str) -> tuple[int, ...]:
        return tensors[name].shape if name in tensors else ()

    def blocks(pattern: str) -> int:
        matches = [re.fullmatch(pattern, name) for name in tensors]
        return max((int(match[1]) + 1 for match in matches if match), default=0)

    shallow = r"_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow"
    compound = blocks(r"prompt_learner\.compound_prompt(?:s_text|_projections)\.(\d+)(?:\..*)?")
    image = blocks(f"image{shallow}")
    tokens = shape("image_encoder.VPT") or ((1,) if image else ())
    context: tuple[int, ...] = ()
    if _CONTEXT in family.rows:
        found = shape(f"{prefix}ctx") or shape(f"{prefix}compound_prompts_text.0")
        context = found[-2:-1] or (1,)
        if len(found) == 3 and not family.parts & {"coupling", "meta"}:
            context = found[:2]
    return Sizes(
        context=context,
        depth=max(1, blocks(f"text{shallow}"), 1 + compound),
        tokens=tokens[0] if tokens else 0,
        visual_depth=max(1, image) if tokens else 0,
        teacher=(shape("VPT_image_trans.conv1.0.weight") or (0,))[0],
    )


def sizes_of_tree(trainable: Mapping[str, Any]) -> Sizes:
    """Those of a trained tree."""
    context = trainable.get("context", {}).get("positive")
    deep, visual = trainable.get("deep", {}).get("positive"), trainable.get("visual")
    projector = trainable.get("projector")
    return Sizes(
        context=() if context is None else np.shape(context)[:-1],
        depth=1 if deep is None else 1 + len(deep),
        tokens=0 if visual is None else np.shape(visual)[1],
        visual_depth=0 if visual is None else len(visual),
        teacher=len(projector["norm"]["scale"]) if projector else 0,
    )


def shapes(
    family: Family, sizes: Sizes, config: clip.ClipConfig
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shape of every leaf, one block a leaf, and what the student has no room for.

    Args:
      family: whose names.
      sizes: how much was learned.
      config: the student's; of a tower that is no ViT only the text is looked at.
    """
    parts, d, blocks = family.parts, config.text.width, config.text.layers
    found: dict[str, tuple[int, ...]] = {}
    problems = []
    if "context" in parts:
        found["context/positive"] = (*sizes.context, d)
        if sizes.depth > blocks:
            problems.append(
                f"depth: prompts for {sizes.depth} blocks, and the text tower has {blocks}"
            )
        for j in range(sizes.depth - 1):
            found[f"deep/{family.first + j}"] = (sizes.context[-1], d)
    if "meta" in parts:
        hidden = max(1, config.projection_dim // 16)
        found |= _linear("meta/fc1", config.projection_dim, hidden)
        found |= _linear("meta/fc2", hidden, d)
    depth = sizes.depth if "coupling" in parts else sizes.visual_depth
    if "coupling" not in parts and not sizes.tokens:
        return found, problems
    if not isinstance(config.vision, clip.VisionConfig):
        problems.append("visual prompts are tokens of a ViT, and the student's image tower is none")
        return found, problems
    w = config.vision.width
    if depth > config.vision.layers:
        problems.append(
            f"depth: prompts for {depth} blocks, and the image tower has {config.vision.layers}"
        )
    for j in range(depth):
        if "coupling" in parts:
            found |= _linear(f"coupling/block_{j - 1}" if j else "coupling/first", d, w)
        else:
            found[f"visual/block_{j}" if j else "visual/first"] = (sizes.tokens, w)
    if "projector" in parts:
        wide = sizes.teacher
        found |= _linear("projector/fc1", config.projection_dim, wide, (1, 1))
        found |= _linear("projector/fc2", wide, wide, (1, 1))
        for leaf in ("projector/norm/scale", "projector/norm/bias", "stats/mean", "stats/var"):
            found[leaf] = (wide,)
    return found, problems


def _linear(
    path: str, inputs: int, outputs: int, window: tuple[int, ...] = ()
) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": (*window, inputs, outputs), f"{path}/bias": (outputs,)}


def pack(nested: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, stats) of a task, from leaves of one block each."""
    trainable = {part: nested[part] for part in ("context", "meta") if part in nested}
    if "deep" in nested:
        trainable["deep"] = {"positive": _stack(nested["deep"])}
    if "visual" in nested:
        trainable["visual"] = _stack(nested["visual"])
    if "coupling" in nested:
        trainable["coupling"] = {
            leaf: _stack({block: maps[leaf] for block, maps in nested["coupling"].items()})
            for leaf in ("kernel", "bias")
        }
    if "projector" in nested:
        # A convolution of one pixel there, a linear layer here.
        trainable["projector"] = {
            name: {**layer, "kernel": layer["kernel"][0, 0]} if "kernel" in layer else layer
            for name, layer in nested["projector"].items()
        }
    return trainable, {"projector": nested["stats"]} if "stats" in nested else {}


def unpack(
    trainable: Mapping[str, Any], stats: Mapping[str, Any], family: Family
) -> dict[str, Any]:
    """The leaves of one block each that `pack` makes a tree of; without negative prompts."""
    nested: dict[str, Any] = {}
    if "context" in family.parts:
        nested["context"] = {"positive": trainable["context"]["positive"]}
    if "positive" in trainable.get("deep", {}):
        deep = trainable["deep"]["positive"]
        nested["deep"] = {str(family.first + j): one for j, one in enumerate(deep)}
    if "visual" in trainable:
        nested["visual"] = {_block(j, j): one for j, one in enumerate(trainable["visual"])}
    if "coupling" in trainable:
        maps = trainable["coupling"]
        nested["coupling"] = {
            _block(j, j - 1): {leaf: maps[leaf][j] for leaf in maps}
            for j in range(len(maps["bias"]))
        }
    if "meta" in trainable:
        nested["meta"] = trainable["meta"]
    if "projector" in trainable:
        nested["projector"] = {
            name: {**layer, "kernel": layer["kernel"][None, None]} if "kernel" in layer else layer
            for name, layer in trainable["projector"].items()
        }
        nested["stats"] = stats["projector"]
    return nested


def _block(j: int, number: int) -> str:
    return f"block_{number}" if j else "first"


def _stack(blocks: Mapping[str, Any]) -> np.ndarray:
    """Blocks under "first" or under names that end in a number, in order."""
    order = sorted(blocks, key=lambda name: -1 if name == "first" else int(name.split("_")[-1]))
    return np.stack([np.asarray(blocks[name]) for name in order])
