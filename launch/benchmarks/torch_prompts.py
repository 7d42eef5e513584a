"""The prompt learners in torch, for the benchmark: the steps of their public code on transformers' CLIP, with our values.

As one writes them in torch: weights that do not learn have no gradient, what does not change from step to step (template
features, a fixed text, the teacher's text) is computed once, frozen towers run without a graph, attention is torch's fused
one. Sentences have the length they come with: 77 tokens as published, or the longest prompt's. Where the public code runs the
frozen image tower twice on the same pictures (ProGrad), it runs once here.

Values to learn are a tree with the names and shapes of the task's trainable tree, see `fdbpl_jax.task`. Shapes: B pictures, C
classes, L tokens, M prompts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPModel

KGCOOP_WEIGHT, PROMPTKD_WEIGHT = 8.0, 1000.0
SRC_TEXT, SRC_IMAGE = 25.0, 10.0
LAM_NEG, LAM_DIS, LAM_PCD, MARGIN = 1.0, 1e-3, 0.1, 0.2
LR, MOMENTUM, WEIGHT_DECAY = 2e-3, 0.9, 5e-4

Tensors = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a step works on.

    Attributes:
      learner: name as in `fdbpl_jax.learners.LEARNERS`.
      method: "ce", "kdpl" or "fdbpl".
      student: frozen.
      teacher: frozen; None where none runs.
      ids: (C, L) sentences; prompts replace the tokens behind the first.
      template: (C, L) sentences of the student's zero-shot features.
      teacher_ids: (C, L) sentences of the teacher.
      batch: "pixels" (B, 3, S, S) or "feature" (B, D); "label" (B,); "teacher_pixels"; "logp" (B, C) and "entropy" (B,).
    """

    learner: str
    method: str
    student: CLIPModel
    teacher: CLIPModel | None
    ids: torch.Tensor
    template: torch.Tensor
    teacher_ids: torch.Tensor
    batch: Mapping[str, torch.Tensor]


def training(work: Work, values: Mapping[str, Any]) -> Callable[[], torch.Tensor]:
    """A call that makes one step of SGD with momentum, from `values` on, and returns the loss before it."""
    tree = _tensors(values)
    leaves = list(_leaves(tree))
    optimizer = torch.optim.SGD(leaves, LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    loss = _losses(work, tree)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        own, *general = loss()
        if general:
            _prograd(own, general[0], leaves)
        else:
            own.backward()
        optimizer.step()
        return own.detach()

    return step


def image_features(model: CLIPModel, pixels: torch.Tensor, prompts: Sequence = ()) -> torch.Tensor:
    """(B, D) of unit norm, with (M, w) tokens for each of the first layers."""
    return _unit(_image(model, pixels, prompts))


def text_features(model: CLIPModel, ids: torch.Tensor, prompts: Sequence = ()) -> torch.Tensor:
    """(C, D) of unit norm, with (M, d) vectors for each of the first layers; or (C, M, d), one prompt a sentence."""
    tower = model.text_model
    x = tower.embeddings.token_embedding(ids)
    x = _replace(x, prompts[0]) if prompts else x
    x = x + tower.embeddings.position_embedding.weight[: ids.shape[1]]
    for i, layer in enumerate(tower.encoder.layers):
        if 0 < i < len(prompts):
            x = _replace(x, prompts[i])
        x = layer(x, None, is_causal=True)
    config: Any = model.config.text_config
    end = torch.eq(ids, config.eos_token_id).int().argmax(1)
    return _unit(model.text_projection(tower.final_layer_norm(x[torch.arange(len(x)), end])))


def _image(model: CLIPModel, pixels: torch.Tensor, prompts: Sequence) -> torch.Tensor:
    tower = model.vision_model
    x = tower.embeddings(pixels)
    if prompts:
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1)
    x = tower.pre_layrnorm(x)
    for i, layer in enumerate(tower.encoder.layers):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, : -prompts[i].shape[0]], prompts[i].expand(len(x), -1, -1)], 1)
        x = layer(x, None)
    return model.visual_projection(tower.post_layernorm(x[:, 0]))


def _replace(x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    fresh = prompt.expand(len(x), -1, -1)
    return torch.cat([x[:, :1], fresh, x[:, 1 + fresh.shape[1] :]], 1)


def _losses(work: Work, tree: Tensors) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The loss of the step; two for ProGrad, the second the one not to be worked against."""
    student, batch = work.student, work.batch
    scale = student.logit_scale.exp()
    with torch.no_grad():
        template = text_features(student, work.template)
        fixed = None if "positive" in tree.get("context", {}) else text_features(student, work.ids)
        teacher = None if work.teacher is None else text_features(work.teacher, work.teacher_ids)

    def loss() -> tuple[torch.Tensor, ...]:
        # None where no teacher runs: what needs it is not reached then.
        labels: Any = None
        if work.teacher is not None and teacher is not None:
            labels = _teacher_logits(work.teacher, teacher, batch["teacher_pixels"])
        if work.learner == "promptkd":
            image = _projected(_image(student, batch["pixels"], _visual(tree)), tree["projector"])
            assert teacher is not None
            return (PROMPTKD_WEIGHT * _kl(labels, scale * image @ teacher.T) / labels.numel(),)
        image = _seen(work, tree)
        if work.learner == "cocoop":
            logits = scale * _conditional(work, tree, image)
            return (functional.cross_entropy(logits, batch["label"]),)
        text, *negative = _texts(work, tree, fixed)
        logits = scale * image @ text.T
        if work.method == "kdpl":
            return (_symmetric(labels, logits),)
        if work.method == "fdbpl":
            return (_fdbpl(batch, image, text, negative[0], scale),)
        own = functional.cross_entropy(logits, batch["label"])
        if work.learner == "kgcoop":
            similarity = functional.cosine_similarity(text, template)
            own = own + KGCOOP_WEIGHT * (1 - similarity.mean())
        if work.learner == "prograd":
            return own, functional.cross_entropy(logits, (scale * image @ template.T).softmax(-1))
        if work.learner == "promptsrc":
            with torch.no_grad():
                plain = image_features(student, batch["pixels"])
                before = scale * plain @ template.T
            own = own + SRC_TEXT * functional.l1_loss(text, template)
            own = own + SRC_IMAGE * functional.l1_loss(image, plain)
            own = own + _kl(before, logits) / logits.numel()
        return (own,)

    return loss


def _seen(work: Work, tree: Tensors) -> torch.Tensor:
    """The pictures' unit-norm features, without a graph where no prompt is among them."""
    if "feature" in work.batch:
        return work.batch["feature"]
    visual = _visual(tree)
    with torch.set_grad_enabled(bool(visual)):
        return image_features(work.student, work.batch["pixels"], visual)


def _visual(tree: Tensors) -> list[torch.Tensor]:
    if "coupling" not in tree:
        return list(tree.get("visual", ()))
    kernel, bias = tree["coupling"]["kernel"], tree["coupling"]["bias"]
    return [text @ k + b for text, k, b in zip(_prompts(tree, "positive"), kernel, bias)]


def _prompts(tree: Tensors, sign: str) -> list[torch.Tensor]:
    return [tree["context"][sign], *tree.get("deep", {}).get(sign, ())]


def _texts(work: Work, tree: Tensors, fixed: torch.Tensor | None) -> list[torch.Tensor]:
    """Text features under every prompt set: all sets in one pass."""
    signs = [sign for sign in ("positive", "negative") if sign in tree.get("context", {})]
    # What is not learned is fixed.
    given = [] if fixed is None else [fixed]
    if not signs:
        return given
    count = len(work.ids)
    layers = zip(*(_prompts(tree, sign) for sign in signs))
    stacked = [
        torch.cat([one.expand(count, -1, -1) for one in layer]) if len(signs) > 1 else layer[0]
        for layer in layers
    ]
    learned = text_features(work.student, work.ids.repeat(len(signs), 1), stacked)
    return [*given, *learned.split(count)]


def _conditional(work: Work, tree: Tensors, image: torch.Tensor) -> torch.Tensor:
    """CoCoOp's cosines: the text tower once for every picture."""
    shift, rows = (
        _linear(functional.relu(_linear(image, tree["meta"]["fc1"])), tree["meta"]["fc2"]),
        [],
    )
    for one, own in zip(image, shift):
        text = text_features(work.student, work.ids, [tree["context"]["positive"] + own])
        rows.append(one @ text.T)
    return torch.stack(rows)


def _projected(x: torch.Tensor, net: Tensors) -> torch.Tensor:
    norm = net["norm"]
    x = functional.batch_norm(_linear(x, net["fc1"]), None, None, norm["scale"], norm["bias"], True)
    return _unit(_linear(functional.relu(x), net["fc2"]))


def _linear(x: torch.Tensor, layer: Tensors) -> torch.Tensor:
    return x @ layer["kernel"] + layer["bias"]


def _teacher_logits(teacher: CLIPModel, text: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return teacher.logit_scale.exp() * image_features(teacher, pixels) @ text.T


def _kl(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(target || logits), summed over everything."""
    p, q = functional.log_softmax(logits, 1), functional.log_softmax(target, 1)
    return functional.kl_div(p, q, reduction="sum", log_target=True)


def _symmetric(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return 0.5 * (_kl(target, logits) + _kl(logits, target)) / len(logits)


def _fdbpl(
    batch: Mapping[str, torch.Tensor],
    image: torch.Tensor,
    text: torch.Tensor,
    negative: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """FDBPL's loss from stored dense labels."""
    labels, weight = functional.log_softmax(batch["logp"], 1), 1 - batch["entropy"]
    count, classes = labels.shape
    positive, other = scale * image @ text.T, scale * image @ negative.T
    p, q = functional.log_softmax(positive, 1), functional.log_softmax(other, 1)
    symmetric = 0.5 * ((labels.exp() - p.exp()) * (labels - p)).sum(1)
    uniform = (q.exp() * q).sum(1) + float(np.log(classes))
    angle = functional.cosine_similarity(positive, other)
    each = weight * symmetric + LAM_NEG * (1 - weight) * uniform + LAM_DIS * weight * angle
    y = labels.argmax(1)
    gram = (image @ (text - negative).T)[:, y]
    own = gram.diagonal()
    gap = own[:, None] + own[None, :] - gram - gram.T
    pairs = weight[:, None] * weight[None, :] * (y[:, None] != y[None, :])
    hinge = (pairs * functional.relu(MARGIN - gap)).sum() / pairs.sum().clamp(min=1e-6)
    return each.sum() / count + LAM_PCD * hinge


def _prograd(own: torch.Tensor, general: torch.Tensor, leaves: Sequence[torch.Tensor]) -> None:
    """Gradients of the first loss, without what opposes the second, into the leaves."""
    against = torch.autograd.grad(general, leaves, retain_graph=True)
    for leaf, a, b in zip(leaves, torch.autograd.grad(own, leaves), against):
        b = b / b.norm()
        along = (a * b).sum()
        leaf.grad = a - along * b if along < 0 else a


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _tensors(tree: Mapping[str, Any]) -> Tensors:
    return {
        name: _tensors(x)
        if isinstance(x, Mapping)
        else torch.from_numpy(np.array(x)).requires_grad_()
        for name, x in tree.items()
    }


def _leaves(tree: Mapping[str, Any]) -> Any:
    for x in tree.values():
        if isinstance(x, Mapping):
            yield from _leaves(x)
        else:
            yield x
