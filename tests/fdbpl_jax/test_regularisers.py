"""KgCoOp, ProGrad and PromptSRC against torch: values, gradients, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from fdbpl_jax import losses, regularisers

B, C, D = 5, 7, 6


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _texts(seed, rows):
    rng = np.random.default_rng(seed)
    return _unit(rng.normal(size=(2, rows, D))).astype(np.float32)


def _logits(seed):
    return np.random.default_rng(seed).normal(scale=3.0, size=(2, B, C)).astype(np.float32)


def _value_and_grad(term, learned):
    """Mean of a term and its gradient by the learned array."""
    return jax.value_and_grad(lambda x: losses.mean(term(x)))(jnp.asarray(learned))


def _torch(term, learned):
    leaf = torch.tensor(learned, requires_grad=True)
    value = term(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad.numpy()


def _same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-7)


def _soft_entropy(target, logits):
    return -(target.softmax(-1) * functional.log_softmax(logits, -1)).sum(1).mean()


def test_kgcoop():
    learned, template = _texts(1, C)
    other = torch.tensor(template)
    _same(
        _value_and_grad(lambda x: regularisers.kgcoop(x, jnp.asarray(template)), learned),
        _torch(lambda x: 1 - torch.cosine_similarity(x, other, dim=1).mean(), learned),
    )


@pytest.mark.parametrize("name", ["text", "image"])
def test_promptsrc_features(name):
    learned, frozen = _texts(2, B)
    mask = () if name == "text" else (jnp.ones(B),)
    term = getattr(regularisers, f"promptsrc_{name}")
    _same(
        _value_and_grad(lambda x: term(x, jnp.asarray(frozen), *mask), learned),
        _torch(lambda x: functional.l1_loss(x, torch.tensor(frozen)), learned),
    )


def test_promptsrc_logits():
    frozen, logits = _logits(3)
    target = torch.tensor(frozen)

    def theirs(x):
        own, other = functional.log_softmax(x, 1), functional.log_softmax(target, 1)
        return functional.kl_div(own, other, reduction="sum", log_target=True) / x.numel()

    ours = lambda x: regularisers.promptsrc_logits(jnp.asarray(frozen), x, jnp.ones(B))
    _same(_value_and_grad(ours, logits), _torch(theirs, logits))


def test_zero_shot_kl_has_the_gradient_of_the_soft_cross_entropy():
    frozen, logits = _logits(4)
    target = torch.tensor(frozen)
    ours = lambda x: regularisers.zero_shot_kl(jnp.asarray(frozen), x, jnp.ones(B))
    value, gradient = _value_and_grad(ours, logits)
    expected, slope = _torch(lambda x: _soft_entropy(target, x), logits)
    # The labels' own entropy.
    constant = _soft_entropy(target, target).item()
    _same((value, gradient), (expected - constant, slope))


@pytest.mark.parametrize("name", ["promptsrc_image", "promptsrc_logits", "zero_shot_kl"])
def test_padding_changes_nothing(name):
    one, two = _logits(5)
    term = getattr(regularisers, name)
    mask = np.array([1, 0, 1, 1, 0], np.float32)
    real = mask > 0
    padded = term(*map(jnp.asarray, (one, two, mask)))
    alone = term(*map(jnp.asarray, (one[real], two[real], mask[real])))
    np.testing.assert_allclose(padded, alone, rtol=1e-5)


def test_no_gradient_reaches_the_frozen_logits():
    frozen, logits = map(jnp.asarray, _logits(6))
    for term in (regularisers.promptsrc_logits, regularisers.zero_shot_kl):
        slope = jax.grad(lambda x, term=term: losses.mean(term(x, logits, jnp.ones(B))))(frozen)
        assert not np.asarray(slope).any()


def _projected(ce, kl, lam):
    """ProGrad's rule for one array, in torch."""
    ce, kl = torch.tensor(ce), torch.tensor(kl)
    direction = kl / torch.linalg.norm(kl)
    along = torch.dot(ce.flatten(), direction.flatten())
    return (ce - lam * along * direction if along < 0 else ce).numpy()


@pytest.mark.parametrize("lam", [1.0, 0.4])
def test_prograd_projects_each_array_by_itself(lam):
    rng = np.random.default_rng(7)
    kl = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("a", "b")}
    noise = {name: 0.3 * rng.normal(size=(3, 4)).astype(np.float32) for name in kl}
    # One goes against the zero-shot model, the other along with it; together they would not oppose it.
    ce = {"a": noise["a"] - kl["a"], "b": noise["b"] + 3 * kl["b"]}
    found = regularisers.prograd(*jax.tree.map(jnp.asarray, (ce, kl)), lam)
    for name in kl:
        np.testing.assert_allclose(
            found[name], _projected(ce[name], kl[name], lam), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_array_equal(found["b"], ce["b"])
    assert (np.vdot(found["a"], kl["a"]) > -1e-4) == (lam == 1.0)


def test_prograd_without_a_general_direction_keeps_the_gradient():
    ce = jnp.asarray([1.0, -2.0])
    np.testing.assert_array_equal(regularisers.prograd(ce, jnp.zeros(2), 1.0), ce)


def test_prograd_loss_has_the_value_of_one_loss_and_the_projected_gradient():
    rng = np.random.default_rng(9)
    small, x = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((D, C), (B, D)))
    trainable = {"w": 0.1 * small, "b": jnp.zeros((1, C))}
    # One label for all, and a frozen model that has anything but that: each array is projected.
    label = jnp.zeros(B, jnp.int32)
    target = jnp.asarray(_logits(8)[0]) - 9 * jax.nn.one_hot(label, C)
    calls = []

    def both(tree):
        calls.append(0)
        logits = x @ tree["w"] + tree["b"]
        ce = losses.mean(losses.coop(logits, label, jnp.ones(B)))
        kl = losses.mean(regularisers.zero_shot_kl(target, logits, jnp.ones(B)))
        return (ce, kl), {"logits": logits}

    run = jax.jit(
        jax.value_and_grad(lambda t: regularisers.prograd_loss(both, t, 0.7), has_aux=True)
    )
    (value, rest), slope = run(trainable)
    assert len(calls) == 1
    (expected, _), aux = both(trainable)
    ce, kl = (jax.grad(lambda t, i=i: both(t)[0][i])(trainable) for i in (0, 1))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(rest["logits"], aux["logits"], rtol=1e-6)
    for name in trainable:
        projected = _projected(np.asarray(ce[name]), np.asarray(kl[name]), 0.7)
        np.testing.assert_allclose(slope[name], projected, rtol=1e-4, atol=1e-6)
        assert np.abs(projected - np.asarray(ce[name])).max() > 1e-3


def test_prograd_loss_of_several_runs_is_that_of_each():
    both = lambda tree: ((jnp.sum(tree["x"] ** 2), jnp.sum((tree["x"] - 3.0) ** 2)), {})
    slope = jax.grad(lambda t: regularisers.prograd_loss(both, t, 1.0)[0])
    runs = {"x": jnp.asarray([[1.0, 2.0], [4.0, 5.0], [-1.0, 2.5]])}
    found = jax.vmap(slope)(runs)["x"]
    each = [slope({"x": x})["x"] for x in runs["x"]]
    np.testing.assert_allclose(found, np.stack(each), rtol=1e-6)
