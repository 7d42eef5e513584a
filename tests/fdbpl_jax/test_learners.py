"""One training step of every learner, as the task makes it, equals that of `torch_learners`: loss and gradient, on a tiny pair."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import fdbpl_learners
from core_jax import clip
from fdbpl_jax import task
from tests.fdbpl_jax import learner_pair, torch_learners
from tests.fdbpl_jax.conftest import CLASSES, WORDS

# VPT's fixed sentence and the learners' initial words are of another template.
TEMPLATE, OTHER = "a {} in the picture.", "an image of a {}."
# Published numbers that the tiny pair is too small for.
SMALL = {
    "prompt.context": 4,
    "prompt.context_init": "a photo of a",
    "visual.depth": 2,
    "visual.tokens": 3,
}
DEPTHS = {"vpt": {"visual.depth": 3}, "ivlp": {"prompt.depth": 3}, "promptsrc": {"prompt.depth": 2}}
MAPLE = {"prompt.context": 2, "prompt.context_init": "a photo", "prompt.depth": 2}

CASES = {
    "coop": ("ce", "ce"),
    "cocoop": ("ce", "ce"),
    "kgcoop": ("ce", "kgcoop"),
    "prograd": ("ce", "prograd"),
    "vpt": ("ce", "ce"),
    "ivlp": ("ce", "ce"),
    "maple": ("ce", "ce"),
    "promptsrc": ("ce", "promptsrc"),
    "promptkd": ("kdpl", "promptkd"),
    "coop kdpl": ("kdpl", "kdpl"),
    "maple kdpl": ("kdpl", "kdpl"),
    "vpt kdpl": ("kdpl", "kdpl"),
    "coop fdbpl": ("fdbpl", "fdbpl"),
    "maple fdbpl": ("fdbpl", "fdbpl"),
    "vpt fdbpl": ("fdbpl", "fdbpl"),
}
"""Learner, and supervision where it is not the learner's own: (config.method, the oracle's loss)."""
# Every learner and every supervision once; the others only where there is time to compile them.
QUICK = (
    *("coop", "cocoop", "kgcoop", "prograd", "ivlp", "promptsrc", "promptkd"),
    *("vpt kdpl", "maple fdbpl"),
)
# A bias in front of a batch norm moves nothing: its gradient is rounding.
NO_SLOPE = {"projector/fc1/bias"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(folders, torch models in float64) of student and teacher."""
    folders, doubles = [], []
    for name, model in zip(("student", "teacher"), learner_pair.pair(), strict=True):
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes(clip.word_level(WORDS))
        folders.append(str(folder))
        doubles.append(model.double())
    return folders, doubles


@pytest.fixture(scope="module")
def problem(models):
    whole = learner_pair.problem(models[1], CLASSES, [TEMPLATE])
    # The least likely classes: what the labels ask for is what the frozen model is against.
    return dataclasses.replace(whole, label=torch_learners.zero_shot(whole)[1].argmin(1))


def _settings(settings, models, case):
    learner = case.split()[0]
    method = CASES[case][0]
    structure = fdbpl_learners.structure(learner, "")
    changes = structure | {k: SMALL[k] for k in SMALL.keys() & structure.keys()}
    changes |= MAPLE if learner == "maple" else DEPTHS.get(learner, {})
    if learner == "promptsrc":
        changes["data.templates"] = (TEMPLATE, OTHER)
    if not changes.get("data.transductive"):
        changes["data.split"] = "all"
    changes |= {"method": method, "data.template": TEMPLATE, "data.source": "images"}
    changes |= {"student": models[0][0], "teacher": models[0][1]}
    changes |= {"teacher_source": "online", "data.fresh": "True"}
    return settings(**{key.replace(".", "__"): value for key, value in changes.items()})


def _random(tree, seed=0):
    """Values of the tree's shapes that no start would give, NumPy."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), tree)


def _expected(problem, values, loss):
    """(loss, gradients by path, new running statistics of a projector)."""
    tree = learner_pair.tensors(values)
    if loss == "prograd":
        return *torch_learners.prograd(problem, tree), None
    if loss == "promptkd":
        width = problem.teacher.config.projection_dim
        running = torch.zeros(width).double(), torch.ones(width).double()
        return *torch_learners.promptkd(problem, tree, running), running
    return *torch_learners.step(loss, problem, tree), None


def _batch(problem, real):
    return {
        "image": learner_pair.pictures(16),
        "teacher_image": learner_pair.pictures(24),
        "flip": learner_pair.flips(),
        "label": problem.label.numpy().astype(np.int32),
        "mask": (np.arange(learner_pair.PICTURES) < real).astype(np.float32),
    }


def _first(problem, real):
    """The problem of the first pictures alone."""
    names = ("pixels", "teacher_pixels", "label")
    return dataclasses.replace(problem, **{name: getattr(problem, name)[:real] for name in names})


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_a_step_is_that_of_the_public_code(case, settings, models, problem):
    built = task.build(_settings(settings, models, case))
    params = built.init(jax.random.key(0))
    values = _random({k: v for k, v in params.trainable.items() if k != "average"})
    trainable = jax.tree.map(jnp.asarray, values)
    if "average" in params.trainable:
        trainable["average"] = params.trainable["average"]
        other = learner_pair.problem(models[1], CLASSES, [TEMPLATE, OTHER])
        problem = dataclasses.replace(problem, templates=other.templates)
    step = jax.jit(jax.value_and_grad(built.loss, has_aux=True))
    # With and without padding, which counts nowhere; a batch that is normalised has none.
    for real in (4,) if case == "promptkd" else (4, 3):
        (value, aux), gradients = step(
            trainable, params.frozen, params.stats, _batch(problem, real), jax.random.key(1)
        )
        wanted, by_path, running = _expected(_first(problem, real), values, CASES[case][1])
        np.testing.assert_allclose(value, wanted, rtol=1e-4)
        assert not any(np.any(g) for g in jax.tree.leaves(gradients.pop("average", {})))
        got = {
            jax.tree_util.keystr(path, simple=True, separator="/"): g
            for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        }
        assert got.keys() == by_path.keys()
        sizes = {path: float(gradient.abs().max()) for path, gradient in by_path.items()}
        for path, gradient in by_path.items():
            largest = max(sizes.values()) if path in NO_SLOPE else sizes[path]
            assert largest > 1e-6
            np.testing.assert_allclose(got[path], gradient, atol=1e-4 * largest, err_msg=path)
        if running:
            for name, number in zip(("mean", "var"), running, strict=True):
                np.testing.assert_allclose(aux.stats["projector"][name], number, atol=1e-5)


def test_the_labels_of_these_tests_make_prograd_change_the_gradient(problem):
    values = learner_pair.tensors({"context": {"positive": _random(np.zeros((4, 16)))}})
    _, changed = torch_learners.prograd(problem, values)
    _, plain = torch_learners.step("ce", problem, values)
    assert (changed["context/positive"] - plain["context/positive"]).abs().max() > 1e-3


def test_the_teacher_of_these_tests_tells_the_pictures_apart(problem):
    assert len(torch_learners.teacher_logits(problem).argmax(1).unique()) > 1
