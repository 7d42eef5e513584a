"""The prompt learners in torch: what `fdbpl_jax` is measured against.

Written from the public code of CoOp, CoCoOp, KgCoOp, ProGrad, MaPLe (with its VPT and IVLP), PromptSRC, KDPL and PromptKD, and
for FDBPL from the formulas of its losses, as plain sums and loops. The towers are transformers' `CLIPModel`, whose layers are
driven one by one, with prompts put in between. Nothing of this project is used.

Values to learn come as a tree of the names and shapes that a task trains: "context" and "deep" {"positive", "negative"},
"visual", "coupling" {"kernel", "bias"}, "meta" and "projector". Shapes: B pictures, C classes, L tokens, M prompts, D embedding
width, d and w widths of the text and the image tower.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import CLIPModel

# Of the published trainers.
KGCOOP_WEIGHT = 8.0
PROGRAD_LAMBDA = 1.0
SRC_TEXT, SRC_IMAGE = 25.0, 10.0
PROMPTKD_WEIGHT = 1000.0
# Of FDBPL's losses.
LAM_NEG, LAM_DIS, LAM_PCD, MARGIN = 1.0, 1e-3, 0.1, 0.2
# How much of a batch enters a running mean, and what is added to a variance: torch's own.
MOMENTUM, EPS = 0.1, 1e-5

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What a step reads.

    Attributes:
      student, teacher: the models, frozen.
      ids: (C, L) sentences of the student, start and end token included, padded; prompts replace the tokens behind the first.
      templates: (C, L') each, sentences of no learned words, for the student's zero-shot features.
      teacher_ids: (C, L') likewise for the teacher.
      pixels, teacher_pixels: (B, 3, S, S), normalised.
      label: (B,) classes.
    """

    student: CLIPModel
    teacher: CLIPModel
    ids: torch.Tensor
    templates: Sequence[torch.Tensor]
    teacher_ids: torch.Tensor
    pixels: torch.Tensor
    teacher_pixels: torch.Tensor
    label: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What the prompted student says; unit norm, logits times its scale. `negative` is of the negative prompts."""

    image: torch.Tensor
    text: torch.Tensor
    logits: torch.Tensor
    negative: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None


def image_features(model: CLIPModel, pixels: torch.Tensor, prompts: Any = ()) -> torch.Tensor:
    """(B, D), unnormalised; `prompts` (M, w) each, one for every layer from the first on."""
    tower = model.vision_model
    x = tower.embeddings(pixels)
    if len(prompts):
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)
    x = tower.pre_layrnorm(x)
    for i, layer in enumerate(tower.encoder.layers):
        if 0 < i < len(prompts):
            fresh = prompts[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, : -fresh.shape[1]], fresh], dim=1)
        x = layer(x, None)
    return model.visual_projection(tower.post_layernorm(x[:, 0]))


def text_features(model: CLIPModel, ids: torch.Tensor, prompts: Any = ()) -> torch.Tensor:
    """(C, D), unnormalised; `prompts` (M, d) each, one for every layer from the first on."""
    tower = model.text_model
    x = tower.embeddings.token_embedding(ids)
    x = _with_prompt(x, prompts[0]) if len(prompts) else x
    length = ids.shape[1]
    x = x + tower.embeddings.position_embedding.weight[:length]
    causal = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)[None, None]
    for i, layer in enumerate(tower.encoder.layers):
        if 0 < i < len(prompts):
            x = _with_prompt(x, prompts[i])
        x = layer(x, causal)
    end = (ids == model.config.text_config.eos_token_id).int().argmax(1)
    return model.text_projection(tower.final_layer_norm(x[torch.arange(len(x)), end]))


def _with_prompt(x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """Tokens (C, L, d) with a prompt, shared (M, d) or per class (C, M, d), behind the start token."""
    before, behind = x[:, :1], x[:, 1 + prompt.shape[-2] :]
    return torch.cat([before, prompt.expand(len(x), -1, -1), behind], dim=1)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1."""
    return x / x.norm(dim=-1, keepdim=True)


def text_prompts(values: Tree, sign: str = "positive") -> list[torch.Tensor]:
    """One prompt a layer, from the first layer on."""
    shallow = values.get("context", {})
    return [shallow[sign], *values.get("deep", {}).get(sign, ())] if sign in shallow else []


def visual_prompts(values: Tree) -> list[torch.Tensor]:
    """One prompt a layer: learned, or MaPLe's linear maps of the text's."""
    if "coupling" in values:
        maps = zip(values["coupling"]["kernel"], values["coupling"]["bias"], strict=True)
        pairs = zip(text_prompts(values), maps, strict=True)
        return [functional.linear(prompt, kernel.T, bias) for prompt, (kernel, bias) in pairs]
    return list(values.get("visual", ()))


def see(problem: Problem, values: Tree) -> Seen:
    """The student with its prompts: CoOp, VPT, IVLP, MaPLe, and CoCoOp where there is a meta-net."""
    student = problem.student
    scale = student.logit_scale.exp()
    image = unit(image_features(student, problem.pixels, visual_prompts(values)))
    if "meta" in values:
        logits, texts = [], []
        for one, shift in zip(image, _meta(values["meta"], image), strict=True):
            shifted = text_prompts(values)[0] + shift
            texts.append(unit(text_features(student, problem.ids, [shifted])))
            logits.append(scale * one @ texts[-1].T)
        return Seen(image=image, text=torch.stack(texts), logits=torch.stack(logits))
    text = unit(text_features(student, problem.ids, text_prompts(values)))
    seen = Seen(image=image, text=text, logits=scale * image @ text.T)
    if "negative" in values.get("context", {}):
        other = unit(text_features(student, problem.ids, text_prompts(values, "negative")))
        seen = dataclasses.replace(seen, negative_text=other, negative=scale * image @ other.T)
    return seen


def _meta(net: Tree, image: torch.Tensor) -> torch.Tensor:
    hidden = functional.relu(functional.linear(image, net["fc1"]["kernel"].T, net["fc1"]["bias"]))
    return functional.linear(hidden, net["fc2"]["kernel"].T, net["fc2"]["bias"])


def template_features(problem: Problem) -> torch.Tensor:
    """(C, D): PromptSRC's mean over templates, made unit afterwards."""
    with torch.no_grad():
        each = [text_features(problem.student, ids) for ids in problem.templates]
        return unit(torch.stack(each).mean(0))


def zero_shot(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The unprompted student's image features and logits."""
    with torch.no_grad():
        image = unit(image_features(problem.student, problem.pixels))
        return image, problem.student.logit_scale.exp() * image @ template_features(problem).T


def teacher_text(problem: Problem) -> torch.Tensor:
    """The unprompted teacher's text features, (C, Dt)."""
    with torch.no_grad():
        return unit(text_features(problem.teacher, problem.teacher_ids))


def teacher_logits(problem: Problem) -> torch.Tensor:
    """The unprompted teacher's logits, (B, C)."""
    with torch.no_grad():
        image = unit(image_features(problem.teacher, problem.teacher_pixels))
        return problem.teacher.logit_scale.exp() * image @ teacher_text(problem).T


def cross_entropy(problem: Problem, seen: Seen) -> torch.Tensor:
    """CoOp, CoCoOp, VPT, IVLP and MaPLe."""
    return functional.cross_entropy(seen.logits, problem.label)


def kgcoop(problem: Problem, seen: Seen) -> torch.Tensor:
    """CoOp that stays near the zero-shot text features."""
    score = functional.cosine_similarity(seen.text, template_features(problem), dim=1, eps=1e-7)
    return cross_entropy(problem, seen) + KGCOOP_WEIGHT * (1.0 - score.mean())


def promptsrc(problem: Problem, seen: Seen) -> torch.Tensor:
    """IVLP that agrees with the frozen model in text, image and logits."""
    image, logits = zero_shot(problem)
    kl = functional.kl_div(
        functional.log_softmax(seen.logits, dim=1),
        functional.log_softmax(logits, dim=1),
        reduction="sum",
        log_target=True,
    )
    return (
        cross_entropy(problem, seen)
        + SRC_TEXT * functional.l1_loss(seen.text, template_features(problem))
        + SRC_IMAGE * functional.l1_loss(seen.image, image)
        + kl / logits.numel()
    )


def kdpl(problem: Problem, seen: Seen) -> torch.Tensor:
    """The mean of both Kullback-Leibler divergences to the teacher."""
    teacher = functional.log_softmax(teacher_logits(problem), dim=-1)
    student = functional.log_softmax(seen.logits, dim=-1)
    options = {"log_target": True, "reduction": "batchmean"}
    forward = functional.kl_div(student, teacher, **options)
    return 0.5 * forward + 0.5 * functional.kl_div(teacher, student, **options)


def fdbpl(problem: Problem, seen: Seen) -> torch.Tensor:
    """Region-aware dual prompts and prompt-cascaded differences, from the teacher's whole softmax."""
    logits = teacher_logits(problem)
    p = logits.softmax(-1)
    classes = logits.shape[1]
    weight = 1.0 + (p * p.log()).sum(-1) / math.log(classes)
    y, total = p.argmax(-1), 0.0
    positive, negative = seen.logits.softmax(-1), seen.negative.softmax(-1)
    for r, w in enumerate(weight):
        a, b = p[r], positive[r]
        total = total + w * 0.5 * ((a * (a / b).log()).sum() + (b * (b / a).log()).sum())
        uniform = (negative[r] * (negative[r] * classes).log()).sum()
        total = total + LAM_NEG * (1.0 - w) * uniform
        angle = functional.cosine_similarity(seen.logits[r], seen.negative[r], dim=0)
        total = total + LAM_DIS * w * angle
    difference = seen.text - seen.negative_text
    hinges, weights = 0.0, 0.0
    for i in range(len(weight)):
        for j in range(len(weight)):
            if y[i] != y[j]:
                apart = difference[y[i]] - difference[y[j]]
                gap = seen.image[i] @ apart - seen.image[j] @ apart
                hinges = hinges + weight[i] * weight[j] * functional.relu(MARGIN - gap)
                weights = weights + weight[i] * weight[j]
    return total / len(weight) + LAM_PCD * hinges / max(weights, 1e-6)


LOSSES = {
    "ce": cross_entropy,
    "kgcoop": kgcoop,
    "promptsrc": promptsrc,
    "kdpl": kdpl,
    "fdbpl": fdbpl,
}


def step(loss: str, problem: Problem, values: Tree) -> tuple[torch.Tensor, Tree]:
    """Value and gradient of one of LOSSES with respect to every array of `values`."""
    leaves = dict(_leaves(values))
    value = LOSSES[loss](problem, see(problem, values))
    return value.detach(), dict(zip(leaves, torch.autograd.grad(value, leaves.values())))


def prograd(problem: Problem, values: Tree) -> tuple[torch.Tensor, Tree]:
    """CoOp's loss, and its gradient without what disagrees with the zero-shot model's."""
    leaves = dict(_leaves(values))
    seen = see(problem, values)
    own = cross_entropy(problem, seen)
    target = zero_shot(problem)[1].softmax(-1)
    general = -(target * functional.log_softmax(seen.logits, -1)).sum(1).mean()
    gradients = {}
    for name, leaf in leaves.items():
        (a,) = torch.autograd.grad(own, leaf, retain_graph=True)
        (b,) = torch.autograd.grad(general, leaf, retain_graph=True)
        b = b / torch.linalg.norm(b)
        along = torch.dot(a.flatten(), b.flatten())
        gradients[name] = a - PROGRAD_LAMBDA * along * b if along < 0 else a
    return own.detach(), gradients


def promptkd(
    problem: Problem, values: Tree, running: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, Tree]:
    """Student pictures in the teacher's space against the teacher's own text; `running` (mean, variance) moves in place."""
    leaves, net = dict(_leaves(values)), values["projector"]
    x = image_features(problem.student, problem.pixels, visual_prompts(values))
    x = functional.linear(x, net["fc1"]["kernel"].T, net["fc1"]["bias"])
    norm = net["norm"]
    x = functional.batch_norm(x, *running, norm["scale"], norm["bias"], True, MOMENTUM, EPS)
    x = functional.linear(functional.relu(x), net["fc2"]["kernel"].T, net["fc2"]["bias"])
    logits = problem.student.logit_scale.exp() * unit(x) @ teacher_text(problem).T
    kl = functional.kl_div(
        functional.log_softmax(logits, dim=1),
        functional.softmax(teacher_logits(problem), dim=1),
        reduction="sum",
    )
    value = PROMPTKD_WEIGHT * kl / logits.numel()
    return value.detach(), dict(zip(leaves, torch.autograd.grad(value, leaves.values())))


def _leaves(tree: Tree, above: str = "") -> Any:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value
