"""The oracle itself: without prompts it is transformers' CLIP, and prompts that change nothing change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.fdbpl_jax import learner_pair, torch_learners
from tests.fdbpl_jax.conftest import CLASSES


@pytest.fixture(scope="module")
def problem():
    models = [model.double() for model in learner_pair.pair()]
    return learner_pair.problem(models, CLASSES[:5], ["a photo of a {}.", "a {} in the picture."])


def _values(**shapes):
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    tree["context"] = {"positive": tree["context"]}
    return learner_pair.tensors(tree)


def _hidden(tower, call):
    """The tokens that enter every layer of a tower, and what the call gives."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for layer in tower.encoder.layers
    ]
    value = call()
    for hook in hooks:
        hook.remove()
    return seen, value


def test_without_prompts_it_is_the_plain_model(problem):
    for model, ids, pixels in (
        (problem.student, problem.ids, problem.pixels),
        (problem.teacher, problem.teacher_ids, problem.teacher_pixels),
    ):
        plain = model(input_ids=ids, pixel_values=pixels)
        image = torch_learners.unit(torch_learners.image_features(model, pixels))
        text = torch_learners.unit(torch_learners.text_features(model, ids))
        torch.testing.assert_close(image, plain.image_embeds)
        torch.testing.assert_close(text, plain.text_embeds)
        # Pictures and names are told apart, or no gradient would mean anything.
        assert plain.logits_per_image.std(0).min() > 0.1
        assert plain.logits_per_image.std(1).min() > 0.1


def test_prompts_that_are_the_hidden_states_themselves_change_no_text_feature(problem):
    tower = problem.student.text_model
    run = lambda: torch_learners.text_features(problem.student, problem.ids)
    hidden, plain = _hidden(tower, run)
    words = tower.embeddings.token_embedding(problem.ids)[0, 1:5]
    # Under a causal mask the first words of all sentences have the same states.
    prompts = [words, *(states[0, 1:5] for states in hidden[1:])]
    torch.testing.assert_close(
        torch_learners.text_features(problem.student, problem.ids, prompts), plain
    )
    other = [words, torch.zeros_like(words)]
    moved = torch_learners.text_features(problem.student, problem.ids, other)
    assert (moved - plain).abs().min() > 1e-6


def test_visual_prompts_stand_behind_the_patches_and_are_replaced(problem):
    model, one = problem.student, problem.pixels[:1]
    width = model.config.vision_config.hidden_size
    first = torch.randn(3, width, generator=torch.Generator().manual_seed(0), dtype=one.dtype)
    run = lambda: torch_learners.image_features(model, one, [first])
    hidden, shallow = _hidden(model.vision_model, run)
    patches = model.vision_model.embeddings(one).shape[1]
    assert [len(states[0]) for states in hidden] == [patches + 3] * 3
    normed = model.vision_model.pre_layrnorm(first)
    torch.testing.assert_close(hidden[0][0, patches:], normed)
    deep = [first, *(states[0, patches:] for states in hidden[1:])]
    torch.testing.assert_close(torch_learners.image_features(model, one, deep), shallow)
    fresh = [first, first]
    assert (torch_learners.image_features(model, one, fresh) - shallow).abs().max() > 1e-6


def test_a_meta_net_of_zeros_leaves_coop(problem):
    tree = _values(context=(4, 16))
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    net = {
        "fc1": {"kernel": zeros(32, 2), "bias": zeros(2)},
        "fc2": {"kernel": zeros(2, 16), "bias": zeros(16)},
    }
    plain = torch_learners.see(problem, tree)
    conditional = torch_learners.see(problem, tree | {"meta": net})
    torch.testing.assert_close(conditional.logits, plain.logits)


def test_regularisers_vanish_where_nothing_is_learned(problem):
    plain = dataclasses.replace(problem, templates=[problem.ids])
    seen = torch_learners.see(plain, {})
    own = torch_learners.cross_entropy(plain, seen)
    torch.testing.assert_close(torch_learners.kgcoop(plain, seen), own)
    torch.testing.assert_close(torch_learners.promptsrc(plain, seen), own)
    _, logits = torch_learners.zero_shot(plain)
    torch.testing.assert_close(logits, seen.logits)
    same = dataclasses.replace(
        plain, teacher=plain.student, teacher_ids=plain.ids, teacher_pixels=plain.pixels
    )
    kdpl = torch_learners.kdpl(same, seen)
    torch.testing.assert_close(kdpl, torch.zeros_like(kdpl))


def test_prograd_takes_out_what_opposes_the_zero_shot_model(problem):
    tree = _values(context=(4, 16), visual=(2, 3, 24))
    _, kept = torch_learners.prograd(problem, tree)
    _, plain = torch_learners.step("ce", problem, tree)
    target = torch_learners.zero_shot(problem)[1].softmax(-1)
    seen = torch_learners.see(problem, tree)
    general = -(target * functional.log_softmax(seen.logits, -1)).sum(1).mean()
    leaves = {"context/positive": tree["context"]["positive"], "visual": tree["visual"]}
    agree = torch.autograd.grad(general, list(leaves.values()))
    for (name, gradient), other in zip(kept.items(), agree, strict=True):
        before = torch.dot(plain[name].flatten(), other.flatten())
        after = torch.dot(gradient.flatten(), other.flatten())
        torch.testing.assert_close(after, before.clamp(min=0.0), atol=1e-12, rtol=1e-9)
