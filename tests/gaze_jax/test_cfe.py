"""The core feature extractor against a restatement of GazeTR-Hybrid in torch, through its weight file."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from core_jax.clip import WeightsError
from core_jax.nn import ResNetConfig
from core_jax.train.settings import ConfigError
from gaze_jax.networks import cfe, gazetr_weights
from gaze_jax.networks.face_input import prepare
from tests.core_jax.nn import resnet_torch
from tests.core_jax.nn.resnet_torch import nchw, nhwc, randomise, tensors

CONFIG = cfe.CFEConfig(
    image_size=64,
    layers=2,
    heads=4,
    width=16,
    mlp_width=24,
    dropout=0.0,
    input="bgr",
    trunk=ResNetConfig(width=4, depths=(1, 1, 1, 1)),
)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(c.width, c.heads, dropout=c.dropout)
        self.linear1, self.linear2 = (
            nn.Linear(c.width, c.mlp_width),
            nn.Linear(c.mlp_width, c.width),
        )
        self.norm1, self.norm2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)

    def forward(self, x, position):
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, value=x)[0])
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class GazeTR(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.base_model = resnet_torch.ResNet(c.trunk)
        self.base_model.conv = nn.Sequential(
            nn.Conv2d(c.trunk.channels, c.width, 1), nn.BatchNorm2d(c.width), nn.ReLU()
        )
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Layer(c) for _ in range(c.layers)])
        self.encoder.norm = nn.LayerNorm(c.width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, c.width))
        self.pos_embedding = nn.Embedding(c.tokens, c.width)
        self.feed = nn.Linear(c.width, 2)

    def forward(self, x):
        """Returns f, the reduced map, and (yaw, pitch)."""
        x = self.base_model.conv(self.base_model(x))
        tokens = x.flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.cls_token.repeat(1, len(x), 1), tokens])
        for layer in self.encoder.layers:
            tokens = layer(tokens, self.pos_embedding.weight[:, None])
        f = self.encoder.norm(tokens)[0]
        return f, x, self.feed(f)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def theirs() -> GazeTR:
    return randomise(GazeTR(CONFIG), 3)


@pytest.fixture
def path(theirs, tmp_path):
    safetensors.numpy.save_file(tensors(theirs), tmp_path / "gazetr.safetensors", {"input": "bgr"})
    return tmp_path / "gazetr.safetensors"


@functools.cache
def program():
    def run(params, images):
        f, x, _ = cfe.CFE(CONFIG).features(params.trainable, params.stats, images)
        return f, x, cfe.CFE(CONFIG).gaze(params.trainable, f)

    return jax.jit(run)


def in_torch(module: GazeTR, faces: np.ndarray, backward: bool = False):
    f, x, yaw_pitch = module(nchw(faces[..., ::-1].astype(np.float32) / 255))
    if backward:
        yaw_pitch.pow(2).sum().backward()
    return f.detach().numpy(), nhwc(x), yaw_pitch.detach().numpy()[:, ::-1]


def close(ours, theirs, tolerance: float = 1e-5) -> None:
    assert np.abs(theirs).max() > 0.1, "a comparison of zeros says nothing"
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance)


def test_inference_equals_torch(theirs, path, faces):
    ours = program()(gazetr_weights.read(path, CONFIG), faces)
    for one, other in zip(ours, in_torch(theirs.eval(), faces), strict=True):
        close(one, other)


def test_training_equals_torch_with_statistics_and_gradients(theirs, path, faces):
    params, extractor = gazetr_weights.read(path, CONFIG), cfe.CFE(CONFIG)

    def loss(trainable):
        f, x, stats = extractor.features(trainable, params.stats, faces, train=True)
        gaze = extractor.gaze(trainable, f)
        return jnp.sum(gaze**2), (f, x, gaze, stats)

    grads, (*ours, stats) = jax.jit(jax.grad(loss, has_aux=True))(params.trainable)
    for one, other in zip(ours, in_torch(theirs.train(), faces, backward=True), strict=True):
        close(one, other)
    after = tensors(theirs)["base_model.conv.1.running_mean"]
    np.testing.assert_allclose(stats["reduce_bn"]["mean"], after, rtol=1e-5, atol=1e-5)
    kernel = theirs.encoder.layers[0].linear1.weight.grad.numpy().T
    close(grads["layer_0"]["fc1"]["kernel"], kernel, 1e-3)
    stem = theirs.base_model.conv1.weight.grad.numpy().transpose(2, 3, 1, 0)
    scale = np.abs(stem).max()
    close(grads["trunk"]["conv1"]["kernel"] / scale, stem / scale, 1e-3)


def test_written_file_is_torchs_own(theirs, path, tmp_path):
    params = gazetr_weights.read(path, CONFIG)
    gazetr_weights.write(tmp_path / "again.safetensors", params, CONFIG)
    again, expected = safetensors.numpy.load_file(tmp_path / "again.safetensors"), tensors(theirs)
    assert again.keys() == expected.keys()
    assert all(np.array_equal(again[name], expected[name]) for name in expected)
    back = gazetr_weights.read(tmp_path / "again.safetensors", CONFIG)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, back)))


def test_full_size_has_the_published_number_of_parameters():
    params = jax.eval_shape(cfe.make(cfe.CFEConfig()).init, jax.random.key(0))
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    parts = {name: size(tree) for name, tree in params.trainable.items()}
    assert parts.pop("trunk") == 11_176_512
    assert parts.pop("reduce") + parts.pop("reduce_bn") == 16_480
    assert parts.pop("head") == 66
    assert sum(parts.values()) == 227_680


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Read from a file, which compiles nothing."""
    path = tmp_path_factory.mktemp("fresh") / "gazetr.safetensors"
    safetensors.numpy.save_file(tensors(randomise(GazeTR(CONFIG), 4)), path, {"input": "bgr"})
    return gazetr_weights.read(path, CONFIG)


def test_positions_reach_queries_and_keys_only(fresh):
    layer = cfe.Layer(CONFIG, jnp.float32)
    x = jnp.ones((1, 5, 16)) * jnp.arange(16.0)[None, None]
    position = jax.random.normal(jax.random.key(1), (5, 16))
    run = lambda p: layer.apply({"params": fresh.trainable["layer_0"]}, x, p, False)
    # Equal tokens have equal values, so whatever the weights of attention are, the mixture is the same.
    np.testing.assert_allclose(run(position), run(0 * position), atol=1e-5)


def test_fusion_stands_between_map_and_tokens(fresh, faces):
    extractor = cfe.CFE(CONFIG)
    run = lambda fuse: extractor.features(fresh.trainable, fresh.stats, faces, fuse=fuse)[:2]
    plain, (f, x) = program()(fresh, faces), jax.jit(lambda: run(lambda x: 2 * x + 1))()
    np.testing.assert_allclose(x, plain[1], atol=1e-6)
    assert x.shape == (3, 2, 2, 16)
    assert np.abs(f - plain[0]).max() > 1e-3
    with pytest.raises(ValueError, match="must keep its shape"):
        jax.eval_shape(lambda: run(lambda x: x[:, :1]))


def test_model_trains_and_dropout_follows_its_key(fresh, faces):
    model = cfe.make(dataclasses.replace(CONFIG, dropout=0.5))
    batch = {"image": faces, "gaze": jnp.zeros((3, 2))}
    value = jax.jit(model.loss)
    one, same, other = (
        value(fresh.trainable, {}, fresh.stats, batch, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    assert one[0] == same[0] != other[0]
    assert jax.tree.structure(one[1].stats) == jax.tree.structure(fresh.stats)
    head = jnp.zeros((3, 2))
    f, _, gaze = program()(fresh, faces)
    np.testing.assert_allclose(jax.jit(model.predict)(fresh, faces, head), gaze, atol=1e-6)
    assert jax.eval_shape(model.features, fresh, faces, head).shape == f.shape


def test_features_are_float32_and_entries_of_others_left_alone(fresh, faces):
    half = cfe.CFE(CONFIG, "bfloat16")
    stats = fresh.stats | {"other": {"mean": jnp.ones(2)}}
    run = lambda p: half.features(p | {"other": jnp.ones(3)}, stats, faces, train=True)
    # linen's own norm promotes by itself.
    with jax.numpy_dtype_promotion("standard"):
        f, x, new = jax.eval_shape(run, fresh.trainable)
    assert (f.dtype, x.dtype) == (jnp.float32, jnp.bfloat16)
    assert jax.tree.structure(new) == jax.tree.structure(stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


def test_pixels_in_both_forms(faces):
    rgb = faces.astype(np.float32) / 255
    np.testing.assert_allclose(prepare(faces, "bgr", 64), rgb[..., ::-1], atol=1e-6)
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(prepare(faces, "imagenet", 64), (rgb - mean) / sd, atol=1e-5)
    flat = np.full((1, 96, 96, 3), 51, np.uint8)
    np.testing.assert_allclose(prepare(flat, "bgr", 32), np.full((1, 32, 32, 3), 0.2), atol=1e-6)
    with pytest.raises(ValueError, match="RGB"):
        prepare(faces[..., :1], "bgr", 64)


def test_trunk_alone_from_torchvisions_names(theirs, tmp_path):
    trunk = tensors(theirs.base_model)
    named = {k: v for k, v in trunk.items() if not k.startswith("conv.")}
    safetensors.numpy.save_file(named, tmp_path / "r.safetensors")
    config = dataclasses.replace(
        CONFIG,
        input="imagenet",
        trunk_init="torchvision",
        weights=str(tmp_path / "r.safetensors"),
    )
    params = cfe.CFE(config).init(key=jax.random.key(0))
    kernel = params.trainable["trunk"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, named["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params.stats["trunk"]["bn1"]["var"], named["bn1.running_var"])
    with pytest.raises(WeightsError, match="set it to 'imagenet'"):
        cfe.CFE(dataclasses.replace(config, input="bgr")).init(key=jax.random.key(0))


@pytest.mark.parametrize(
    ("metadata", "expected"), [({}, "gives input None"), ({"input": "imagenet"}, "set input to")]
)
def test_weights_under_another_input_are_refused(theirs, tmp_path, metadata, expected):
    safetensors.numpy.save_file(tensors(theirs), tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError, match=expected):
        gazetr_weights.read(tmp_path / "w.safetensors", CONFIG)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(WeightsError, match="there is no weight file"):
        gazetr_weights.read(tmp_path / "none.safetensors", CONFIG)
    with pytest.raises(WeightsError, match=r"(?s)pickled checkpoint.*metadata="):
        gazetr_weights.read(tmp_path / "GazeTR-H-ETH.pt", CONFIG)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="unreadable"):
        gazetr_weights.read(tmp_path / "bad.safetensors", CONFIG)


def test_settings_that_cannot_be_are_named_together():
    with pytest.raises(ConfigError, match=r"trunk_init 'gazetr' .*; image_size 100 .*; width 30"):
        cfe.CFEConfig(trunk_init="gazetr", image_size=100, width=30)
