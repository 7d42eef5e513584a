"""The loss terms against dense NumPy oracles in float64, and the properties section by section."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdbpl_jax import losses
from fdbpl_jax.losses import LossConfig, SoftLabels

B, C, D = 6, 9, 5


def _softmax(z):
    z = z - z.max(-1, keepdims=True)
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def _kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(-1)


def _truncate(teacher, k, dtype=np.float64):
    """Truncated labels of teacher logits, as the build makes them, and the recovered dense distribution."""
    p = _softmax(teacher)
    order = np.argsort(-p, axis=-1, kind="stable")[:, :k]
    kept = np.take_along_axis(p, order, -1)
    rest = np.maximum(1 - kept.sum(-1), 1e-13)
    logp, rest_log = np.log(kept).astype(dtype), np.log(rest).astype(dtype)
    entropy = -(p * np.log(p)).sum(-1) / np.log(p.shape[-1])
    labels = SoftLabels(
        logp=jnp.asarray(logp),
        entropy=jnp.asarray(entropy.astype(dtype)),
        index=jnp.asarray(order.astype(np.int32)),
        rest=jnp.asarray(rest_log),
    )
    others = p.shape[-1] - k
    kept, rest = np.exp(logp.astype(np.float64)), np.exp(rest_log.astype(np.float64))
    if others == 0:
        rest = np.zeros_like(rest)
    dense = np.repeat((rest / max(others, 1))[:, None], p.shape[-1], 1)
    np.put_along_axis(dense, order, kept, -1)
    return labels, dense / dense.sum(-1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("k", [1, 4, C - 1, C])
@pytest.mark.parametrize("stored", [np.float64, np.float16])
def test_sparse_kls_equal_dense_ones_in_value_and_gradient(x64, rng, k, stored):
    teacher, student = 4 * rng.normal(size=(B, C)), 4 * rng.normal(size=(B, C))
    labels, q = _truncate(teacher, k, stored)
    z = jnp.asarray(student)
    forward, reverse = losses.label_kls(labels, z)
    p = _softmax(student)
    np.testing.assert_allclose(forward, _kl(q, p), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(reverse, _kl(p, q), rtol=1e-6, atol=1e-12)

    def sparse(z):
        forward, reverse = losses.label_kls(labels, z)
        return jnp.sum(forward), jnp.sum(reverse)

    grads = jax.jacrev(sparse)(z)
    # d KL(q||p)/dz = p - q and d KL(p||q)/dz = p (log p - log q - KL(p||q)), by hand.
    ratio = np.log(p) - np.log(q)
    np.testing.assert_allclose(grads[0], p - q, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(grads[1], p * (ratio - _kl(p, q)[:, None]), rtol=1e-6, atol=1e-10)


def test_sparse_kls_hold_in_float32_with_a_thousand_classes_and_a_clamped_rest(rng):
    teacher, student = 30 * rng.normal(size=(4, 1000)), 10 * rng.normal(size=(4, 1000))
    labels, q = _truncate(teacher, 10)
    labels = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype != jnp.int32 else x, labels)
    forward, reverse = losses.label_kls(labels, jnp.asarray(student, jnp.float32))
    p = _softmax(student)
    np.testing.assert_allclose(forward, _kl(q, p), rtol=2e-5)
    np.testing.assert_allclose(reverse, _kl(p, q), rtol=2e-5)


def test_dense_labels_of_float16_are_normalised(rng):
    teacher, student = 3 * rng.normal(size=(B, C)), rng.normal(size=(B, C))
    logp = np.log(_softmax(teacher)).astype(np.float16)
    labels = SoftLabels(logp=jnp.asarray(logp), entropy=jnp.zeros(B, jnp.float16))
    forward, reverse = losses.label_kls(labels, jnp.asarray(student, jnp.float32))
    q, p = _softmax(logp.astype(np.float64)), _softmax(student)
    np.testing.assert_allclose(forward, _kl(q, p), rtol=1e-5)
    np.testing.assert_allclose(reverse, _kl(p, q), rtol=1e-5)


def test_renormalise_drops_the_tail_and_has_no_reverse_kl(x64, rng):
    teacher, student = rng.normal(size=(B, C)), rng.normal(size=(B, C))
    labels, _ = _truncate(teacher, 3)
    forward, reverse = losses.label_kls(labels, jnp.asarray(student), "renormalise")
    p, index = _softmax(student), np.asarray(labels.index)
    kept = np.take_along_axis(_softmax(teacher), index, -1)
    kept /= kept.sum(-1, keepdims=True)
    expected = (kept * (np.log(kept) - np.log(np.take_along_axis(p, index, -1)))).sum(-1)
    np.testing.assert_allclose(forward, expected, rtol=1e-9)
    assert reverse is None


def test_weight_is_one_for_one_hot_zero_for_uniform_and_switches():
    logits = jnp.asarray([[200.0, 0, 0, 0], [0.0, 0, 0, 0]])
    labels = losses.dense_labels(logits)
    for kind in ("entropy", "maxprob"):
        weight = losses.informativeness(labels, LossConfig(weight=kind), 4)
        np.testing.assert_allclose(weight, [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(
        losses.informativeness(labels, LossConfig(weight="none"), 4), [1.0, 1.0]
    )
    half = SoftLabels(logp=labels.logp, entropy=jnp.asarray([0.5, 0.9]))
    stretched = losses.informativeness(half, LossConfig(weight_range=(0.25, 0.75)), 4)
    np.testing.assert_allclose(stretched, [0.5, 0.0], atol=1e-6)
    with pytest.raises(ValueError, match="at least 2 classes"):
        losses.informativeness(half, LossConfig(), 1)


def test_negative_term_is_zero_with_zero_gradient_at_uniform(rng):
    mask, weight = jnp.ones(B), jnp.asarray(rng.uniform(size=B), jnp.float32)
    loss = lambda z: losses.mean(losses.negative_term(z, weight, mask))
    value, grad = jax.value_and_grad(loss)(jnp.full((B, C), 3.0))
    assert abs(float(value)) < 1e-6
    np.testing.assert_allclose(grad, 0.0, atol=1e-7)
    z = rng.normal(size=(B, C))
    p = _softmax(z)
    expected = ((1 - np.asarray(weight)) * (np.log(C) + (p * np.log(p)).sum(-1))).mean()
    np.testing.assert_allclose(loss(jnp.asarray(z, jnp.float32)), expected, rtol=1e-5)


def test_ordered_pair_sum_of_second_differences_is_identically_zero(x64, rng):
    """The form that must not be implemented: `pcd="off"` is exactly it."""

    def naive(d):
        differences = d[:, None, :] - d[None, :, :]
        return jnp.sum(jnp.mean(differences, axis=-1))

    value, grad = jax.value_and_grad(naive)(jnp.asarray(rng.normal(size=(C, D))))
    assert abs(float(value)) < 1e-12
    np.testing.assert_allclose(grad, 0.0, atol=1e-12)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("unit", [False, True])
def test_pcd_closed_form_equals_the_double_loop(x64, rng, unit):
    u, pos, neg = (_unit(rng.normal(size=(n, D))) for n in (B, C, C))
    y = np.array([0, 3, 3, 8, 1, 0], np.int32)
    w = rng.uniform(size=B)
    w[4] = 0.0
    d, total, count = pos - neg, 0.0, 0.0
    for i in range(B):
        for j in range(B):
            if y[i] == y[j]:
                continue
            s = d[y[i]] - d[y[j]]
            gap = u[i] @ s - u[j] @ s
            if unit:
                gap /= np.linalg.norm(s)
            total += w[i] * w[j] * max(0.0, 0.2 - gap)
            count += w[i] * w[j]
    arrays = [jnp.asarray(x) for x in (u, pos, neg, y, w)]
    got = losses.pcd_term(*arrays, margin=0.2, unit=unit)
    np.testing.assert_allclose(got[0], total, rtol=1e-6)
    np.testing.assert_allclose(got[1], count, rtol=1e-6)

    def value(pos):
        return losses.mean(losses.pcd_term(arrays[0], pos, *arrays[2:], margin=0.2, unit=unit))

    grad = jax.grad(value)(arrays[1])
    assert np.isfinite(grad).all()
    assert np.abs(grad).max() > 0


def test_pcd_without_pairs_of_different_classes_is_zero_and_finite(rng):
    u, text = (jnp.asarray(_unit(rng.normal(size=(n, D))), jnp.float32) for n in (B, C))
    y = jnp.zeros(B, jnp.int32)

    def value(text):
        return losses.mean(losses.pcd_term(u, text, -text, y, jnp.ones(B), unit=True))

    loss, grad = jax.value_and_grad(value)(text)
    assert float(loss) == 0.0
    np.testing.assert_allclose(grad, 0.0)


def _case(rng, k=4):
    labels, _ = _truncate(3 * rng.normal(size=(B, C)), k)
    labels = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype != jnp.int32 else x, labels)
    u = jnp.asarray(_unit(rng.normal(size=(B, D))), jnp.float32)
    text = jnp.asarray(_unit(rng.normal(size=(2, C, D))), jnp.float32)
    return labels, u, text


def _total(labels, u, text, mask, config):
    sets = text if config.dual else text[:1]
    logits = 10.0 * jnp.einsum("bd,scd->sbc", u, sets)
    return losses.fdbpl(labels, logits, u, sets, mask, config)


def test_total_is_the_weighted_sum_and_padding_changes_nothing(rng):
    labels, u, text = _case(rng)
    config = LossConfig(lam_neg=0.7, lam_dis=0.3, lam_pcd=0.5)
    loss, terms = _total(labels, u, text, jnp.ones(B), config)
    mean = {name: float(losses.mean(pair)) for name, pair in terms.items()}
    expected = mean["loss_pos"] + 0.7 * mean["loss_neg"] + 0.3 * mean["loss_dis"]
    np.testing.assert_allclose(loss, expected + 0.5 * mean["loss_pcd"], rtol=1e-6)
    for name in ("loss_pos", "loss_neg", "loss_pcd", "weight"):
        assert mean[name] >= 0

    def pad(x):
        return jnp.concatenate([x, x[:2]])

    padded = jax.tree.map(pad, labels)
    mask = jnp.asarray([1.0] * B + [0.0] * 2)
    again, _ = _total(padded, pad(u), text, mask, config)
    np.testing.assert_allclose(again, loss, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dual": False},
        {"weight": "maxprob"},
        {"weight": "none"},
        {"weight_range": (0.1, 0.8)},
        {"pcd": "off"},
        {"pcd_unit": True},
        {"kl": (1.0, 0.0)},
        {"kl": (0.0, 1.0)},
        {"recover": "renormalise", "kl": (1.0, 0.0)},
        {"lam_neg": 0.0},
        {"lam_dis": 0.0},
        {"lam_pcd": 0.0},
    ],
    ids=str,
)
def test_every_switch_gives_a_finite_gradient(rng, change):
    labels, u, text = _case(rng)
    config = dataclasses.replace(LossConfig(), **change)
    grad = jax.grad(lambda t: _total(labels, u, t, jnp.ones(B), config)[0])(text)
    assert np.isfinite(grad).all()
    assert np.abs(grad[0]).max() > 0
    assert (np.abs(grad[1]).max() > 0) == config.dual


def test_kdpl_is_the_symmetric_kl_of_two_softmaxes(rng):
    teacher, student = 3 * rng.normal(size=(B, C)), 3 * rng.normal(size=(B, C))
    config = LossConfig(dual=False, weight="none")
    labels = losses.dense_labels(jnp.asarray(teacher, jnp.float32))
    z = jnp.asarray(student[None], jnp.float32)
    loss, _ = losses.fdbpl(labels, z, jnp.zeros((B, D)), jnp.zeros((1, C, D)), jnp.ones(B), config)
    p, q = _softmax(student), _softmax(teacher)
    np.testing.assert_allclose(loss, (0.5 * (_kl(q, p) + _kl(p, q))).mean(), rtol=1e-5)


def test_coop_term(rng):
    z, label = rng.normal(size=(B, C)), np.array([0, 1, 2, 3, 4, 8], np.int32)
    mask = np.array([1, 1, 1, 1, 0, 1], np.float32)
    got = losses.coop(jnp.asarray(z, jnp.float32), jnp.asarray(label), jnp.asarray(mask))
    expected = -np.log(_softmax(z)[np.arange(B), label])[mask > 0].sum()
    np.testing.assert_allclose(got, (expected, 5.0), rtol=1e-5)
