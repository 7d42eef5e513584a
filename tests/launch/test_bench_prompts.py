"""The benchmark's torch side does the same work: its steps are those of the learners' oracle, and its losses are ours."""

import numpy as np
import pytest
import torch

from core_jax import clip, world
from launch import config
from launch.benchmarks import prompts, timing, torch_prompts
from tests.fdbpl_jax import learner_pair, torch_learners
from tests.fdbpl_jax.conftest import CLASSES

RNG = np.random.default_rng(0)


def _normal(*shape):
    return RNG.normal(0, 0.4, shape).astype(np.float32)


def _linear(before, after):
    return {"kernel": _normal(before, after), "bias": _normal(after)}


TEXT = {"context": {"positive": _normal(4, 16)}}
DUAL = {"context": {"positive": _normal(4, 16), "negative": _normal(4, 16)}}
VISUAL = {"visual": _normal(2, 3, 24)}
BOTH = {**TEXT, **VISUAL, "deep": {"positive": _normal(1, 4, 16)}}
MAPLE = {
    "context": {"positive": _normal(2, 16)},
    "deep": {"positive": _normal(1, 2, 16)},
    "coupling": {"kernel": _normal(2, 16, 24), "bias": _normal(2, 24)},
}
MAPLE_DUAL = {
    **MAPLE,
    "context": {"positive": _normal(2, 16), "negative": _normal(2, 16)},
    "deep": {"positive": _normal(1, 2, 16), "negative": _normal(1, 2, 16)},
}
META = {"fc1": _linear(32, 2), "fc2": _linear(2, 16)}
NORM = {"scale": _normal(20), "bias": _normal(20)}
PROJECTOR = {"fc1": _linear(32, 20), "norm": NORM, "fc2": _linear(20, 20)}
VALUES = {
    "coop": TEXT,
    "cocoop": {**TEXT, "meta": META},
    "kgcoop": TEXT,
    "prograd": TEXT,
    "vpt": VISUAL,
    "ivlp": BOTH,
    "maple": MAPLE,
    "promptsrc": BOTH,
    "promptkd": {**VISUAL, "projector": PROJECTOR},
    "kdpl_online": TEXT,
    "maple_kdpl_online": MAPLE,
    "fdbpl": DUAL,
    "maple_fdbpl": MAPLE_DUAL,
}


@pytest.fixture(scope="module")
def problem():
    models = [model.double() for model in learner_pair.pair()]
    return learner_pair.problem(models, CLASSES, ["a {} in the picture."])


def _oracle(problem, work, learner, method):
    values = learner_pair.tensors(VALUES[work])
    if learner == "prograd":
        return torch_learners.prograd(problem, values)
    if learner == "promptkd":
        running = torch.zeros(20).double(), torch.ones(20).double()
        return torch_learners.promptkd(problem, values, running)
    loss = learner if learner in torch_learners.LOSSES else method
    return torch_learners.step(loss, problem, values)


def test_there_is_a_case_for_every_row():
    assert VALUES.keys() == prompts.WORKS.keys()


@pytest.mark.parametrize("work", VALUES)
def test_the_reference_makes_the_oracles_step(work, problem, monkeypatch):
    learner, method = prompts.WORKS[work]
    method = method or ("kdpl" if learner == "promptkd" else "ce")
    logp = torch_learners.teacher_logits(problem).log_softmax(1)
    entropy = -(logp.exp() * logp).sum(1) / np.log(len(CLASSES))
    student, teacher = learner_pair.pair()
    reference = torch_prompts.Work(
        learner=learner,
        method=method,
        student=student,
        teacher=teacher if method == "kdpl" else None,
        ids=problem.ids,
        template=problem.templates[0],
        teacher_ids=problem.teacher_ids,
        batch={
            "pixels": problem.pixels.float(),
            "teacher_pixels": problem.teacher_pixels.float(),
            "label": problem.label,
            "logp": logp.float(),
            "entropy": entropy.float(),
        },
    )
    leaves = []

    class Watched(torch.optim.SGD):
        def __init__(self, learned, *arguments, **options):
            leaves.extend(learned)
            super().__init__(learned, *arguments, **options)

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    value = torch_prompts.training(reference, VALUES[work])()
    expected, gradients = _oracle(problem, work, learner, method)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    for leaf, (name, gradient) in zip(leaves, gradients.items(), strict=True):
        largest = float(gradient.abs().max())
        # A bias in front of a batch norm moves nothing.
        atol = 1e-4 if name == "projector/fc1/bias" else 1e-4 * largest
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def size():
    vision = clip.VisionConfig(
        image_size=16, patch_size=8, width=24, layers=2, heads=2, mlp_width=32
    )
    # Longer sentences than those of the embedded pair, whose words these are.
    text = clip.TextConfig(
        vocab_size=55, context_length=40, width=16, layers=2, heads=2, mlp_width=32
    )
    model = prompts.random_clip(vision, text, seed=0, projection=16)
    return prompts.Size(
        name="toy",
        student=model,
        teacher=model,
        classes=world.CLASSES_BY_SHAPE[:5],
        pictures=8,
        repeats=1,
    )


# A compilation each: the others only where there is time.
QUICK = ("fdbpl", "vpt")


@pytest.mark.parametrize(
    "work",
    [pytest.param(w, marks=() if w in QUICK else pytest.mark.slow) for w in prompts.WORKS],
)
def test_both_sides_have_the_same_loss(work, size):
    opened = prompts.open_work(size, work)
    batch = prompts.make_batch(opened, size)
    ours, values = prompts.ours_call(opened, batch)
    first = float(ours()[0])
    theirs = prompts.torch_calls(opened, values, batch, prompts.torch_pair(size))
    full, *trimmed = theirs
    assert full == ("torch, 40 tokens" if opened.config.signs else "torch")
    assert len(trimmed) == bool(opened.config.signs)
    for call in theirs.values():
        np.testing.assert_allclose(call(), first, rtol=1e-4)


def test_rows(size, monkeypatch, capsys):
    monkeypatch.setattr(prompts, "SHORTEST_S", 0.0)
    monkeypatch.setattr(prompts, "ours_call", lambda *_: (lambda: np.array([1.5, 0.0]), {}))
    calls = {"torch, 40 tokens": lambda: 1.5, "torch, 10 tokens": lambda: 1.5001}
    monkeypatch.setattr(prompts, "torch_calls", lambda *_: calls)
    rows = timing.Rows("title")
    prompts.learner_rows(rows, size, "maple", (None, None))
    prompts.learner_rows(rows, size, "coop", None)
    assert [row["work"] for row in rows.rows] == [
        "toy, maple, batch 4: against torch, 40 tokens",
        "toy, maple, batch 4: against torch, 10 tokens",
        "toy, coop, batch 8",
    ]
    assert [row["other"] is None for row in rows.rows] == [False, False, True]
    assert ["spread" in row for row in rows.rows] == [True, True, False]


def test_sides_that_do_different_work_are_not_compared():
    prompts.check_losses("coop", 2.0, {"torch": 2.001})
    with pytest.raises(RuntimeError, match=r"coop: .* 2 \(JAX\), 2.01 \(torch, 77 tokens\)"):
        prompts.check_losses("coop", 2.0, {"torch, 77 tokens": 2.01})
    with pytest.raises(RuntimeError, match="nan"):
        prompts.check_losses("coop", 2.0, {"torch": float("nan")})


def test_unknown_rows_are_named(monkeypatch):
    monkeypatch.setattr(prompts, "_LEARNERS", type("Flag", (), {"value": ["coop", "mapel"]}))
    with pytest.raises(config.ConfigError, match="mapel"):
        prompts.run()
