"""CLIP with a ResNet image tower: both towers against a restatement in torch, opened from folders as any other CLIP."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

import core_jax.clip as clip
from core_jax.clip import openclip, resnet_model, zeroshot
from tests.core_jax.clip.openai_torch import Reference
from tests.core_jax.nn.resnet_torch import nchw, nhwc, randomise, tensors

CONFIG = clip.ClipConfig(
    vision=clip.ResNetVisionConfig(depths=(1, 2, 1, 1), width=4, image_size=64),
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
def model(folder) -> clip.Clip:
    return clip.load(folder)


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
        clip.encode_image(params, CONFIG, x),
    )
    ours = jax.jit(run)(model.params, pixels)
    expected = theirs.visual.map(nchw(pixels))
    close(ours[0], nhwc(expected))
    close(ours[1], theirs.visual.attnpool(expected).detach().numpy())


def test_activations_follow_the_pixels(model, pixels):
    run = lambda x: clip.encode_image(model.params, CONFIG, x)
    assert jax.eval_shape(run, pixels.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_training_moves_the_statistics_as_torch_does(model, pixels):
    reference = randomise(Reference(CONFIG), 5).train()
    run = jax.jit(functools.partial(resnet_model.train_map, config=CONFIG))
    x, stats = run(model.params, pixels=pixels)
    np.testing.assert_allclose(x, nhwc(reference.visual.map(nchw(pixels))), atol=5e-4)
    vision = model.params["vision"] | {"stats": stats}
    written = openclip.to_openclip(model.params | {"vision": vision}, CONFIG)
    for name, value in tensors(reference).items():
        np.testing.assert_allclose(written[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_text_is_torchs(model, theirs):
    ids = np.random.default_rng(3).integers(0, 38, (4, 9))
    ids[np.arange(4), [8, 3, 5, 2]] = 39
    # As zero-shot classification encodes sentences, with ids in their place.
    loaded = dataclasses.replace(model, tokenizer=lambda texts: ids)
    ours = zeroshot.text_features(loaded, ["a", "b", "c", "d"])
    close(ours, theirs.text(torch.from_numpy(ids)).detach().numpy())


def test_every_tensor_goes_out_as_it_came_in(model, theirs):
    written, expected = openclip.to_openclip(model.params, CONFIG), tensors(theirs)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in expected)


def test_the_map_of_published_size():
    config = clip.ClipConfig(vision=clip.ResNetVisionConfig(), projection_dim=1024)
    tree = jax.eval_shape(functools.partial(clip.init, config), key=jax.random.key(0))
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert size(tree["vision"]["trunk"]) == 23_527_264
    assert size(tree["vision"]) - size(tree["vision"]["stats"]) == 38_316_896
    assert size(tree["text"]) == 63_690_240
    pixels = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    run = lambda p, x: resnet_model.image_map(p, config, x)
    assert jax.eval_shape(run, tree, pixels).shape == (2, 7, 7, 2048)


# As open_clip's model_configs hold RN50, in these sizes.
OPENCLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None},
    "text_cfg": {"context_length": 9, "vocab_size": 40, "width": 128, "heads": 2, "layers": 2},
}


def test_openclips_folder_holds_the_same_model(model, tmp_path):
    state = openclip.to_openclip(model.params, CONFIG)
    safetensors.numpy.save_file(state, tmp_path / "open_clip_model.safetensors")
    write = (tmp_path / "open_clip_config.json").write_text
    write(json.dumps({"model_cfg": OPENCLIP}))
    again = clip.load(tmp_path)
    assert again.config == CONFIG
    assert clip.weights_digest(again.params) == clip.weights_digest(model.params)
    plain = {name: value for name, value in OPENCLIP.items() if name != "quick_gelu"}
    write(json.dumps({"model_cfg": plain}))
    assert clip.load(tmp_path).config.text.activation == "gelu"
    vision = OPENCLIP["vision_cfg"] | {"layers": [1, 2], "head_width": 32}
    write(json.dumps({"model_cfg": OPENCLIP | {"vision_cfg": vision}}))
    with pytest.raises(
        clip.ConfigError, match=r"head_width is 32.*\[1, 2\], expected one number or"
    ):
        clip.load(tmp_path)


def test_problems_are_listed_together(folder, tmp_path):
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    del state["visual.bn2.running_var"], state["ln_final.bias"]
    state["visual.bn9.weight"] = np.ones(3, np.float32)
    state["visual.bn1.weight"] = np.ones(3, np.float32)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(clip.WeightsError, match="4 problems") as caught:
        clip.load(tmp_path)
    for part in (
        str(tmp_path),
        "missing: ln_final.bias of shape (128,)",
        "missing: visual.bn2.running_var of shape (2,)",
        "extra: visual.bn9.weight is not",
        "shape: visual.bn1.weight is (3,), expected (2,)",
    ):
        assert part in str(caught.value), part


def test_pixels_of_another_size_are_refused(model, folder):
    with pytest.raises(ValueError, match=r"takes \(B, 64, 64, 3\): resize them$"):
        clip.encode_image(model.params, CONFIG, jnp.zeros((1, 96, 96, 3)))
    with pytest.raises(ValueError, match="multiples of 32"):
        resnet_model.image_map(model.params, CONFIG, jnp.zeros((1, 50, 64, 3)))
    with pytest.raises(clip.ConfigError, match=r"image_size 96: .* made for pictures of 64 pixels"):
        clip.load(folder, image_size=96)
    assert clip.load(folder, image_size=64).config == CONFIG
    with pytest.raises(clip.ConfigError, match="image_size 48 of a ResNet is not a multiple of 32"):
        clip.ClipConfig(vision=clip.ResNetVisionConfig(image_size=48))


def test_what_needs_tokens_is_refused(model, pixels, tmp_path):
    for name, value in (
        ("taps", True),
        ("keep", np.zeros((2, 1), np.int32)),
        ("tap", lambda name, x: x),
        ("prompts", jnp.zeros((2, 128))),
    ):
        with pytest.raises(clip.ConfigError, match=f"^{name}: .* is a ResNet"):
            clip.encode_image(model.params, CONFIG, pixels, **{name: value})
    with pytest.raises(clip.ConfigError, match=r"is a ResNet.*needs a ViT"):
        clip.encode_dense(model.params, CONFIG, pixels)
    with pytest.raises(clip.ConfigError, match="is a ResNet"):
        clip.save(tmp_path / "model", CONFIG, model.params)
    assert not (tmp_path / "model").exists()
    with pytest.raises(clip.ConfigError, match="is a ViT"):
        resnet_model.image_map(model.params, clip.ClipConfig(), pixels)
