"""PromptKD's projector against torch: steps in training, then evaluation; a batch that lies on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from core_jax.train import sharding
from fdbpl_jax import projector
from tests.core_jax.train import eight

B, D, T = 8, 5, 7


def _net(trainable):
    net = torch.nn.Sequential(
        torch.nn.Linear(D, T), torch.nn.BatchNorm1d(T), torch.nn.ReLU(), torch.nn.Linear(T, T)
    )
    for index, name in ((0, "fc1"), (3, "fc2")):
        net[index].weight.data = torch.tensor(np.asarray(trainable[name]["kernel"]).T)
        net[index].bias.data = torch.tensor(np.asarray(trainable[name]["bias"]))
    net[1].weight.data = torch.tensor(np.asarray(trainable["norm"]["scale"]))
    net[1].bias.data = torch.tensor(np.asarray(trainable["norm"]["bias"]))
    return net


def _start(seed=0):
    """A projector whose batch norm scales and shifts, and batches."""
    rng = np.random.default_rng(seed)
    trainable, stats = projector.init(D, T, key=jax.random.key(seed))
    norm = {
        "scale": jnp.asarray(rng.uniform(0.5, 1.5, T), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=T), jnp.float32),
    }
    batches = (3 + 2 * rng.normal(size=(3, B, D))).astype(np.float32)
    return {**trainable, "norm": norm}, stats, batches


def _train(trainable, stats, features):
    def loss(trainable, features):
        found, moved = projector.apply(trainable, stats, features, train=True)
        return jnp.sum(jnp.sin(found)), (found, moved)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(trainable, features)


def test_training_and_evaluation_are_those_of_torch():
    trainable, stats, batches = _start()
    net = _net(trainable).train()
    train = jax.jit(_train)
    for batch in batches:
        features = torch.tensor(batch, requires_grad=True)
        expected = net(features)
        net.zero_grad()
        torch.sin(expected).sum().backward()
        (_, (found, stats)), (slopes, slope) = train(trainable, stats, jnp.asarray(batch))
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(slope, features.grad, rtol=1e-4, atol=1e-5)
        for index, name in ((0, "fc1"), (3, "fc2")):
            np.testing.assert_allclose(slopes[name]["kernel"].T, net[index].weight.grad, atol=5e-5)
            np.testing.assert_allclose(slopes[name]["bias"], net[index].bias.grad, atol=5e-5)
        np.testing.assert_allclose(slopes["norm"]["scale"], net[1].weight.grad, atol=5e-5)
        np.testing.assert_allclose(slopes["norm"]["bias"], net[1].bias.grad, atol=5e-5)
        np.testing.assert_allclose(stats["mean"], net[1].running_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], net[1].running_var, rtol=1e-5, atol=1e-6)

    judged, same = projector.apply(trainable, stats, jnp.asarray(batches[0, :1]), train=False)
    with torch.no_grad():
        expected = net.eval()(torch.tensor(batches[0, :1]))
    np.testing.assert_allclose(judged, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_a_batch_of_one_has_no_variance():
    trainable, stats, batches = _start()
    with pytest.raises(ValueError, match="no variance"):
        projector.apply(trainable, stats, jnp.asarray(batches[0, :1]), train=True)


def test_parameters_at_vit_b_and_l_are_those_of_the_published_code():
    made, stats = jax.eval_shape(lambda key: projector.init(512, 768, key=key), jax.random.key(0))
    sizes = {name: sum(x.size for x in jax.tree.leaves(made[name])) for name in made}
    assert sizes == {"fc1": 512 * 768 + 768, "norm": 2 * 768, "fc2": 768 * 768 + 768}
    assert {x.shape for x in jax.tree.leaves(stats)} == {(768,)}


@pytest.mark.slow
def test_statistics_are_of_the_batch_of_all_devices():
    eight.run("tests.fdbpl_jax.test_projector.compare_eight_devices")


def compare_eight_devices():
    trainable, stats, batches = _start()
    assert jax.device_count() == 8
    whole = jax.jit(_train)(trainable, stats, jnp.asarray(batches[0]))
    mesh = sharding.make_mesh()
    features = jax.device_put(batches[0], NamedSharding(mesh, PartitionSpec("data")))
    parts = jax.jit(_train)(
        *jax.device_put((trainable, stats), NamedSharding(mesh, PartitionSpec())), features
    )
    close = lambda a, b: np.testing.assert_allclose(
        np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5
    )
    jax.tree.map(close, parts, whole)
