"""The face baselines against torch, L2CS's bins against a loop, and sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from core_jax.nn import ResNetConfig
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.networks import face_baselines
from gaze_jax.networks.face_baselines import BINS, FaceConfig
from tests.core_jax.nn import resnet_torch
from tests.core_jax.nn.resnet_torch import nchw, randomise, tensors

TINY = ResNetConfig(width=4, depths=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def _tiny(monkeypatch):
    for name in face_baselines.NAMES:
        monkeypatch.setitem(face_baselines.TRUNKS, name, TINY)


def random_params(model) -> Params:
    """Of the right shapes, without compiling what makes the first ones."""
    rng = np.random.default_rng(0)
    fan_in = lambda x: max(1, int(np.prod(x.shape[:-1]))) ** 0.5
    # Variances are positive.
    number = lambda x: rng.normal(size=x.shape) if x.ndim > 1 else rng.uniform(0.5, 1, x.shape)
    draw = lambda x: jnp.asarray(number(x) / fan_in(x), jnp.float32)
    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0)))


@pytest.mark.usefixtures("_tiny")
def test_predicts_as_torch_does_from_an_imagenet_trunk(faces, tmp_path):
    theirs = randomise(resnet_torch.ResNet(TINY)).eval()
    safetensors.numpy.save_file(tensors(theirs), tmp_path / "imagenet.safetensors")
    config = FaceConfig(
        weights=str(tmp_path / "imagenet.safetensors"), image_size=64, bins="narrow"
    )
    model = face_baselines.make("l2cs", config)
    params = model.init(jax.random.key(0))
    gaze = jax.jit(model.predict)(params, faces, None)

    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pooled = theirs(nchw(((faces / 255 - mean) / sd).astype(np.float32))).mean((2, 3)).detach()
    head = {k: torch.from_numpy(np.array(v)) for k, v in params.trainable["head"].items()}
    outputs = pooled @ head["kernel"] + head["bias"]
    centres = torch.arange(28) * 3.0 - 42 + 1.5
    expected = torch.deg2rad(outputs.unflatten(-1, (2, 28)).softmax(-1) @ centres)
    np.testing.assert_allclose(gaze, expected.numpy(), rtol=1e-5, atol=1e-5)

    plain = face_baselines.make("resnet50_face", config)
    two = {"kernel": params.trainable["head"]["kernel"][:, :2], "bias": jnp.array([0.5, -0.5])}
    params = Params(trainable={**params.trainable, "head": two}, stats=params.stats)
    run = lambda p, x: (plain.predict(p, x, None), plain.features(p, x, None))
    gaze, features = jax.jit(run)(params, faces)
    np.testing.assert_allclose(features, pooled.numpy(), rtol=1e-5, atol=1e-5)
    expected = pooled.numpy() @ two["kernel"] + two["bias"][None]
    np.testing.assert_allclose(gaze, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BINS)
def test_loss_of_bins_is_a_loops(kind):
    bins, rng = BINS[kind], np.random.default_rng(1)
    outputs = rng.normal(size=(6, 2 * bins.count)).astype(np.float32)
    edge = bins.count * bins.width_deg / 2
    gaze_deg = rng.uniform(-edge, edge, (6, 2))
    gaze_deg[0] = edge + 5, -edge - 50
    gaze_deg[1] = -edge + 0.01, edge - 0.01
    ask = jax.jit(functools.partial(face_baselines.binned_loss, bins=bins))
    value, metrics = ask(outputs, np.deg2rad(gaze_deg).astype(np.float32))
    total, edges = 0.0, np.linspace(-edge, edge, bins.count + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    for row, label in zip(outputs.reshape(6, 2, -1).astype(np.float64), gaze_deg, strict=True):
        for z, degrees in zip(row, label, strict=True):
            shares = np.exp(z) / np.exp(z).sum()
            place = min(max(np.searchsorted(edges, degrees, "right") - 1, 0), bins.count - 1)
            total += -np.log(shares[place]) + (shares @ middles - degrees) ** 2
    np.testing.assert_allclose(value, total / 6, rtol=1e-4)
    # Counted, never dropped.
    assert [float(x) for x in metrics["outside_bins"]] == [2, 12]


def test_sure_bins_give_their_middles():
    bins = BINS["wide"]
    outputs = np.full((1, 2, 90), -100, np.float32)
    outputs[0, 0, 44], outputs[0, 1, 89] = 100, 100
    gaze = face_baselines.expectation(jnp.asarray(outputs.reshape(1, -1)), bins)
    np.testing.assert_allclose(np.rad2deg(gaze), [[-2, 178]], rtol=1e-6)


@pytest.mark.usefixtures("_tiny")
def test_a_step_lowers_the_loss_and_moves_the_statistics(faces):
    model = face_baselines.make("l2cs", FaceConfig(image_size=64))
    params = random_params(model)
    batch = {
        "image": faces,
        "gaze": jnp.array([[0.1, -0.4], [0.3, 0.2]]),
        "person": jnp.zeros(2, jnp.int32),
        "side": jnp.full(2, 2),
    }
    loss = losses.with_pairwise(model).loss
    value = lambda p: loss(p, {}, params.stats, batch, jax.random.key(1))
    ask = jax.jit(jax.value_and_grad(value, has_aux=True))
    (before, aux), grads = ask(params.trainable)
    rate = 1e-2 / np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    (after, _), _ = ask(jax.tree.map(lambda p, g: p - rate * g, params.trainable, grads))
    assert after < before
    assert "loss_pairwise" in aux.metrics
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), aux.stats, params.stats)
    assert all(jax.tree.leaves(moved))


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("name", ["resnet18_face", "resnet50_face"])
def test_loss_of_angles_has_the_form_the_loop_asks_for(name, faces):
    model = face_baselines.make(name, FaceConfig(image_size=64))
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {"image": faces, "gaze": jnp.zeros((2, 2))}
    ask = lambda p: model.loss(p.trainable, {}, p.stats, batch, jax.random.key(0))
    value, aux = jax.eval_shape(ask, params)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert aux.stats == params.stats
    assert list(aux.metrics) == ["loss_gaze"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18_face", 11_177_538), ("resnet50_face", 23_512_130), ("l2cs", 23_876_852)],
)
def test_full_size_has_the_published_number_of_parameters(name, count):
    params = jax.eval_shape(face_baselines.make(name).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params.trainable)) == count


def test_wrong_names_and_settings():
    with pytest.raises(ValueError, match="expected one of resnet18_face"):
        face_baselines.make("vgg_face")
    with pytest.raises(ConfigError, match=r"bins 'huge' .*; image_size 16"):
        FaceConfig(bins="huge", image_size=16)
