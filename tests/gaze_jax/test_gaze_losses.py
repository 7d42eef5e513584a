"""Losses and modes against loops, recipes against torch's optimizers and closed forms."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from gaze_jax import losses, modes, recipe
from gaze_jax.model import Model
from gaze_jax.recipe import Recipe


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_pairwise_equals_a_loop_and_ignores_a_persons_offset(rng):
    gaze, predicted = rng.normal(size=(2, 7, 2)).astype(np.float32)
    person, side = np.array([0, 0, 0, 1, 1, 2, 0]), np.array([0, 0, 1, 0, 0, 0, 0])
    pairs = [
        np.abs((predicted[i] - predicted[j]) - (gaze[i] - gaze[j])).sum()
        for i in range(7)
        for j in range(i)
        if person[i] == person[j] and side[i] == side[j]
    ]
    pairwise = jax.jit(losses.pairwise)
    total, count = pairwise(predicted, gaze, person, side)
    np.testing.assert_allclose(total, sum(pairs), rtol=1e-5)
    assert count == 2 * len(pairs)
    offset = rng.normal(size=(3, 2, 2)).astype(np.float32)[person, side]
    moved, _ = pairwise(predicted + offset, gaze, person, side)
    np.testing.assert_allclose(moved, total, rtol=1e-5)


def test_pairwise_without_pairs_is_zero_and_so_is_its_gradient(rng):
    gaze, predicted = rng.normal(size=(2, 3, 2)).astype(np.float32)
    alone = lambda x: losses.mean(losses.pairwise(x, gaze, np.arange(3), np.zeros(3, int)))
    value, grad = jax.jit(jax.value_and_grad(alone))(predicted)
    assert value == 0
    assert not np.any(grad)


def test_l1_and_l2_are_torchs(rng):
    gaze, predicted = rng.normal(size=(2, 5, 2)).astype(np.float32)
    ours = [losses.mean(f(predicted, gaze)) for f in (losses.l1, losses.l2)]
    a, b = torch.tensor(predicted), torch.tensor(gaze)
    f = torch.nn.functional
    np.testing.assert_allclose(ours, [f.l1_loss(a, b), f.mse_loss(a, b)], rtol=1e-6)


def test_pairwise_needs_a_model_that_shows_its_predictions():
    nothing = lambda *_: None
    model = Model(
        name="hidden",
        kind="eye",
        size=(1, 1, 1),
        uses_head=False,
        init=nothing,
        loss=nothing,
        predict=nothing,
        features=nothing,
    )
    with pytest.raises(ValueError, match=r"weight 0.25.*'hidden'"):
        losses.with_pairwise(model)


@pytest.fixture
def compared(rng):
    """(absolute, difference, reference gaze), each (4, 5, 2)."""
    return rng.normal(0, 0.1, (3, 4, 5, 2)).astype(np.float32)


def _diffnn(difference, known):
    """Written out: every reference's vote by how near its own gaze is."""
    answers = []
    for d, g in zip(difference.astype(np.float64), known, strict=True):
        far = np.degrees(np.linalg.norm(d, axis=1))
        share = np.exp(-(far**2) / (2 * 5.0**2))
        answers.append(((share / share.sum())[:, None] * (g + d)).sum(0))
    return np.array(answers)


def test_modes_are_what_they_say(compared):
    absolute, difference, known = compared
    mean, diffnn = absolute.mean(1), _diffnn(difference, known)
    answer = jax.jit(lambda *x: {mode: modes.combine(mode, *x, 0.3) for mode in modes.MODES})
    got = answer(*compared)
    np.testing.assert_allclose(got["calib"], mean, atol=1e-6)
    np.testing.assert_allclose(got["single"], mean, atol=1e-6)
    np.testing.assert_allclose(got["diffnn"], diffnn, atol=1e-6)
    np.testing.assert_allclose(got["blend"], 0.7 * mean + 0.3 * diffnn, atol=1e-6)


def test_a_perfect_difference_finds_the_gaze_whatever_the_references(rng):
    gaze, known = rng.normal(0, 0.3, (3, 1, 2)), rng.normal(0, 0.3, (3, 4, 2))
    answer = jax.jit(lambda difference, known: modes.combine("diffnn", None, difference, known))
    got = answer(np.float32(gaze - known), np.float32(known))
    np.testing.assert_allclose(got, gaze[:, 0], atol=1e-6)


def test_modes_that_a_model_cannot_answer_are_refused(compared):
    absolute, difference, known = compared
    with pytest.raises(ValueError, match=r"'blend' needs absolute"):
        modes.combine("blend", None, difference, known)
    with pytest.raises(ValueError, match=r"'diffnn' needs difference and reference_gaze"):
        modes.combine("diffnn", absolute, None, None)
    with pytest.raises(ValueError, match=r"mode='best'"):
        modes.combine("best", absolute, difference, known)
    assert [modes.default_blend(k) for k in (1, 2, 3, 9)] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_torchs_and_spare_biases(name, rng):
    own = Recipe(
        optimizer=name,
        lr=0.1,
        epochs=3,
        schedule="steps",
        milestones=(1, 2),
        weight_decay=0.1,
        betas=(0.8, 0.9),
    )
    start, slopes = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(6, 2, 3))
    slopes = slopes.astype(np.float32)
    kernel, bias = (torch.nn.Parameter(torch.tensor(x)) for x in (start, start[0]))
    groups = [
        {"params": [kernel], "weight_decay": 0.1},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(groups, lr=0.1, betas=(0.8, 0.9)),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9)),
    }[name]()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    ours = recipe.optimizer(own, steps_per_epoch=2)
    update = jax.jit(ours.update)
    params = {"kernel": start, "bias": start[0]}
    state = jax.jit(ours.init)(params)
    for slope in slopes:
        kernel.grad, bias.grad = torch.tensor(slope), torch.tensor(slope[0])
        optimizer.step()
        schedule.step()
        grads = {"kernel": slope, "bias": slope[0]}
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(grads, state, params)
        params = {name: params[name] + np.asarray(updates[name]) for name in params}
    np.testing.assert_allclose(params["kernel"], kernel.detach(), atol=1e-5)
    np.testing.assert_allclose(params["bias"], bias.detach(), atol=1e-5)


def test_schedules_warm_up_and_then_follow_the_run():
    rate = recipe.learning_rate(Recipe(lr=1.0, epochs=3, warmup_epochs=1.0), 10)
    np.testing.assert_allclose(
        [rate(t) for t in (0, 5, 10, 20, 30)], [0, 0.5, 1, 0.5, 0], atol=1e-6
    )
    # Runs of so many updates that an epoch has no whole number of them, or less than one.
    uneven = recipe.learning_rate(Recipe(lr=1.0, epochs=20, warmup_epochs=1.0), 107 / 20)
    np.testing.assert_allclose([uneven(t) for t in (5, 56, 107)], [1, 0.5, 0], atol=1e-6)
    short = Recipe(lr=1.0, epochs=20, schedule="steps", milestones=(12, 13), factor=0.5)
    rate = recipe.learning_rate(short, 5 / 20)
    np.testing.assert_allclose([rate(t) for t in (2, 4)], [1, 0.25])
    steps = Recipe(lr=1.0, epochs=9, schedule="steps", milestones=recipe.every(4, 9), factor=0.5)
    assert steps.milestones == (4, 8)
    for warmup in (0.0, 2.0):
        rate = recipe.learning_rate(dataclasses.replace(steps, warmup_epochs=warmup), 10)
        np.testing.assert_allclose([rate(t) for t in (39, 41, 79, 81)], [1, 0.5, 0.5, 0.25])
