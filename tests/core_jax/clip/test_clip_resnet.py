"""CLIP with a ResNet image tower: both towers against a restatement in torch, and the weights under OpenAI's names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import core_jax.clip as clip
from core_jax.clip import resnet_model, resnet_weights, zeroshot
from tests.core_jax.nn.resnet_torch import nchw, nhwc, randomise, tensors

CONFIG = resnet_model.ResNetClipConfig(
    depths=(1, 2, 1, 1),
    width=4,
    image_size=64,
    projection_dim=24,
    text=clip.TextConfig(
        vocab_size=40,
        context_length=9,
        width=128,
        layers=2,
        heads=2,
        mlp_width=512,
        eos_token_id=2,
        pad_token_id=0,
    ),
)


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.pool, self.downsample = nn.AvgPool2d(stride), None
        if stride > 1 or inside != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        y = self.bn3(self.conv3(self.pool(y)))
        return (y + (x if self.downsample is None else self.downsample(self.pool(x)))).relu()


class AttentionPool(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, width = c.heads, c.channels
        self.positional_embedding = nn.Parameter(torch.randn((c.image_size // 32) ** 2 + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, c.projection_dim)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return self.c_proj((weights @ value).transpose(1, 2).flatten(2)[:, 0])


class Visual(nn.Module):
    def __init__(self, c):
        super().__init__()
        half = c.width // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(half, c.width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(half), nn.BatchNorm2d(half)
        self.bn3 = nn.BatchNorm2d(c.width)
        inside = c.width
        for stage, depth in enumerate(c.depths):
            width, blocks = c.width * 2**stage, []
            for i in range(depth):
                blocks.append(Bottleneck(inside, width, 2 if stage and not i else 1))
                inside = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(c)

    def map(self, x):
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = bn(conv(x)).relu()
        x = nn.functional.avg_pool2d(x, 2)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResidualBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * (1.702 * hidden).sigmoid())


class Reference(nn.Module):
    def __init__(self, c):
        super().__init__()
        t = c.text
        self.visual = Visual(c)
        self.transformer = nn.Module()
        blocks = [ResidualBlock(t.width, t.heads) for _ in range(t.layers)]
        self.transformer.resblocks = nn.ModuleList(blocks)
        self.token_embedding = nn.Embedding(t.vocab_size, t.width)
        self.positional_embedding = nn.Parameter(torch.randn(t.context_length, t.width))
        self.ln_final = nn.LayerNorm(t.width)
        self.text_projection = nn.Parameter(torch.randn(t.width, c.projection_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = x.transpose(0, 1)
        for block in self.transformer.resblocks:
            x = block(x)
        x = self.ln_final(x).transpose(0, 1)
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


@pytest.fixture(scope="module")
def theirs() -> Reference:
    return randomise(Reference(CONFIG), 5).eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("rn50")
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    # What the official archive holds besides.
    state |= {"input_resolution": np.array(64), "context_length": np.array(9)}
    safetensors.numpy.save_file(state, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def model(folder) -> resnet_weights.ResNetClip:
    return resnet_weights.load(folder)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(2, 64, 64, 3)).astype(np.float32)


def close(ours, theirs) -> None:
    assert np.abs(theirs).max() > 0.1, "a comparison of zeros says nothing"
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5)


def test_sizes_are_read_from_the_shapes(model):
    assert model.config == CONFIG


def test_map_and_pooled_features_are_torchs(model, theirs, pixels):
    run = lambda params, x: (
        resnet_model.image_map(params, CONFIG, x),
        resnet_model.encode_image(params, CONFIG, x),
    )
    ours = jax.jit(run)(model.params, pixels)
    expected = theirs.visual.map(nchw(pixels))
    close(ours[0], nhwc(expected))
    close(ours[1], theirs.visual.attnpool(expected).detach().numpy())


def test_activations_follow_the_pixels(model, pixels):
    run = lambda x: resnet_model.encode_image(model.params, CONFIG, x)
    assert jax.eval_shape(run, pixels.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_training_moves_the_statistics_as_torch_does(model, pixels):
    reference = randomise(Reference(CONFIG), 5).train()
    run = jax.jit(functools.partial(resnet_model.train_map, config=CONFIG))
    x, stats = run(model.params, pixels=pixels)
    np.testing.assert_allclose(x, nhwc(reference.visual.map(nchw(pixels))), atol=5e-4)
    written = resnet_weights.to_openai(model.params | {"stats": stats}, CONFIG)
    for name, value in tensors(reference).items():
        np.testing.assert_allclose(written[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_text_is_torchs(model, theirs):
    ids = np.random.default_rng(3).integers(0, 38, (4, 9))
    ids[np.arange(4), [8, 3, 5, 2]] = 39
    # As zero-shot classification encodes sentences, with ids in their place.
    loaded = dataclasses.replace(model.clip, tokenizer=lambda texts: ids)
    ours = zeroshot.text_features(loaded, ["a", "b", "c", "d"])
    close(ours, theirs.text(torch.from_numpy(ids)).detach().numpy())


def test_every_tensor_goes_out_as_it_came_in(model, theirs):
    written, expected = resnet_weights.to_openai(model.params, CONFIG), tensors(theirs)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_full_size_has_the_published_number_of_parameters():
    config = resnet_model.ResNetClipConfig()
    tree = jax.eval_shape(functools.partial(resnet_model.init, config), key=jax.random.key(0))
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert size(tree["vision"]["trunk"]) == 23_527_264
    assert size(tree["vision"]) == 38_316_896
    assert size(tree["text"]) == 63_690_240
    assert size(tree) - size(tree["stats"]) == 102_007_137
    pixels = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    run = lambda p, x: resnet_model.image_map(p, config, x)
    assert jax.eval_shape(run, tree, pixels).shape == (2, 7, 7, 2048)


def test_missing_tensors_are_listed(folder, tmp_path):
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    del state["visual.bn2.running_var"], state["ln_final.bias"]
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(clip.WeightsError, match=r"(?s)missing: ln_final.bias.*visual.bn2.running"):
        resnet_weights.load(tmp_path)


def test_folders_of_other_things(tmp_path):
    with pytest.raises(clip.SourceError, match="has none of"):
        resnet_weights.load(tmp_path)
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(clip.ConfigError, match=r"there is no visual.conv3.weight"):
        resnet_weights.load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "RN50.pt")
    with pytest.raises(clip.SourceError, match="pickled checkpoint"):
        resnet_weights.load(tmp_path)


def test_pixels_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="takes"):
        resnet_model.encode_image(model.params, CONFIG, jnp.zeros((1, 96, 96, 3)))
    with pytest.raises(ValueError, match="multiples of 32"):
        resnet_model.image_map(model.params, CONFIG, jnp.zeros((1, 50, 64, 3)))
