"""The ResNet trunk and its batch normalisation against torch, and its weight table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from core_jax.clip import WeightsError, resnet_weights
from core_jax.nn import RESNET18, RESNET50, STATS, BatchNorm, ResNet, ResNetConfig
from tests.core_jax.nn import resnet_torch
from tests.core_jax.nn.resnet_torch import nchw, nhwc, randomise, tensors

TINY = {
    "basic": ResNetConfig(width=4, depths=(1, 2, 1, 1)),
    "bottleneck": ResNetConfig(block="bottleneck", width=4, depths=(2, 1, 1, 1)),
}


@pytest.fixture(scope="module", params=TINY)
def config(request) -> ResNetConfig:
    return TINY[request.param]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    # Odd sides: every stride has to round as torch does.
    return np.random.default_rng(1).normal(size=(3, 75, 69, 3)).astype(np.float32)


@pytest.fixture
def theirs(config) -> resnet_torch.ResNet:
    return randomise(resnet_torch.ResNet(config))


@pytest.fixture
def ours(config, theirs, tmp_path) -> dict:
    safetensors.numpy.save_file(
        tensors(theirs) | {"fc.weight": np.ones((2, 2), np.float32)}, tmp_path / "w.safetensors"
    )
    return resnet_weights.read_torchvision(tmp_path / "w.safetensors", config)


@functools.cache
def program(config: ResNetConfig, train: bool):
    def run(tree, x):
        variables = {"params": tree["params"], STATS: tree["stats"]}
        return ResNet(config).apply(variables, x, train, mutable=[STATS] if train else False)

    return jax.jit(run)


def close(ours, theirs, what: str = "", tolerance: float = 1e-5) -> None:
    assert np.abs(theirs).max() > 0.1, "a comparison of zeros says nothing"
    np.testing.assert_allclose(
        np.asarray(ours), theirs, rtol=tolerance, atol=tolerance, err_msg=what
    )


def test_inference_is_torchs(config, theirs, ours, pixels):
    maps = program(config, False)(ours, pixels)
    expected = theirs.eval().stages(nchw(pixels))
    for name, value in zip(("res2", "res3", "res4", "res5"), expected, strict=True):
        close(maps[name], nhwc(value), name)


def test_training_is_torchs_and_so_are_the_statistics_it_leaves(config, theirs, ours, pixels):
    maps, new = program(config, True)(ours, pixels)
    # Divided by the spread of few values a channel, layer after layer, rounding grows.
    close(maps["res5"], nhwc(theirs.train()(nchw(pixels))), tolerance=5e-5)
    written = resnet_weights.to_torchvision(ours["params"], new[STATS], config)
    for name, value in tensors(theirs).items():
        np.testing.assert_allclose(written[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_table_covers_every_tensor_both_ways(config, theirs, ours):
    written = resnet_weights.to_torchvision(ours["params"], ours["stats"], config)
    expected = tensors(theirs)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_what_does_not_fit_is_listed_together(config, theirs, tmp_path):
    named = tensors(theirs)
    named["layer9.weight"] = named.pop("bn1.running_var")
    safetensors.numpy.save_file(named, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)w\.safetensors.*layer9.*missing: bn1.running_var"):
        resnet_weights.read_torchvision(tmp_path / "w.safetensors", config)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(WeightsError, match="there is no weight file"):
        resnet_weights.read_torchvision(tmp_path / "none.safetensors", RESNET18)
    with pytest.raises(WeightsError, match=r"(?s)pickled checkpoint.*save_file"):
        resnet_weights.read_torchvision(tmp_path / "resnet18.pth", RESNET18)


@pytest.mark.parametrize(("config", "count"), [(RESNET18, 11_176_512), (RESNET50, 23_508_032)])
def test_full_size_has_the_published_number_of_parameters(config, count):
    tree = jax.eval_shape(
        ResNet(config).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3), jnp.float32)
    )
    assert sum(x.size for x in jax.tree.leaves(tree["params"])) == count
    maps = jax.eval_shape(
        ResNet(config).apply, tree, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    )
    assert maps["res5"].shape == (1, 7, 7, config.channels)


def test_gradient_of_batch_normalisation_is_torchs():
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=(4, 3, 2, 5)).astype(np.float32) + 3 for _ in range(2))
    layer = torch.nn.BatchNorm2d(5)
    given = nchw(x).requires_grad_()
    (layer(given).pow(3) * nchw(weight)).sum().backward()

    def loss(params, x):
        y, _ = BatchNorm().apply({"params": params, STATS: stats}, x, True, mutable=[STATS])
        return jnp.sum(y**3 * weight)

    stats = {"mean": jnp.zeros(5), "var": jnp.ones(5)}
    params = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}
    own, dx = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    np.testing.assert_allclose(dx, nhwc(given.grad), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(own["scale"], layer.weight.grad.numpy(), rtol=1e-4)
    np.testing.assert_allclose(own["bias"], layer.bias.grad.numpy(), rtol=1e-4)


def test_statistics_are_float32_when_activations_are_not():
    layer = BatchNorm(dtype=jnp.bfloat16)
    x = (
        jnp.ones((4, 3, 3, 2), jnp.bfloat16)
        * jnp.arange(4, dtype=jnp.bfloat16)[:, None, None, None]
    )
    variables = layer.init(jax.random.key(0), x)
    y, new = layer.apply(variables, x, True, mutable=[STATS])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(new[STATS]["mean"], 0.1 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(new[STATS]["var"], 0.9 + 0.1 * 1.25 * 36 / 35, rtol=1e-6)


def test_a_single_value_a_channel_has_no_variance():
    x = jnp.ones((1, 1, 1, 2))
    variables = BatchNorm().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="larger batches"):
        BatchNorm().apply(variables, x, True, mutable=[STATS])


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="at least 32 x 32"):
        ResNet(TINY["basic"]).init(jax.random.key(0), jnp.zeros((1, 31, 64, 3)))
