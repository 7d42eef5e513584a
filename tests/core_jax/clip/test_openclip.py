"""OpenCLIP models against numbers that open_clip and timm computed (tests/core_jax/nn/make_golden.py), and their weights."""

import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import core_jax.clip as clip
from core_jax.clip import openclip, openclip_config, openclip_weights
from core_jax.nn import TAPS, ConvNeXtConfig

GOLDEN = pathlib.Path(__file__).parents[1] / "nn" / "golden"
CONVNEXTS = ("convnext_linear", "convnext_mlp")


class Golden:
    """One file of reference numbers: weights by OpenCLIP's names, inputs, outputs, and the configuration file."""

    def __init__(self, name: str):
        with safetensors.safe_open(GOLDEN / f"{name}.safetensors", "numpy") as file:
            self.metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        part = lambda kind: {
            k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)
        }
        self.weights, self.inputs, self.outputs = map(part, ("weights/", "inputs/", "outputs/"))

    def folder(self, path: pathlib.Path) -> pathlib.Path:
        path.mkdir(exist_ok=True)
        (path / "open_clip_config.json").write_text(self.metadata["config"])
        safetensors.numpy.save_file(self.weights, path / "open_clip_model.safetensors")
        return path


@pytest.fixture(scope="module", params=CONVNEXTS)
def golden(request) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory) -> openclip.OpenClip:
    """Loaded from a folder; the tiny trunk takes the place of the one whose name the configuration gives."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_trunk(golden, monkeypatch)
        return openclip.load(golden.folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def maps(golden, model) -> dict[str, jax.Array]:
    """Of the whole trunk, computed once."""
    run = jax.jit(lambda params, x: openclip.backbone(params, model.config, x))
    return run(model.params, normalised(golden, model))


def tiny_trunk(golden: Golden, monkeypatch) -> None:
    name = json.loads(golden.metadata["config"])["model_cfg"]["vision_cfg"]["timm_model_name"]
    sizes = json.loads(golden.metadata["trunk"])
    trunk = ConvNeXtConfig(widths=tuple(sizes["dims"]), depths=tuple(sizes["depths"]))
    monkeypatch.setitem(openclip_config.TRUNKS, name, trunk)


def close(ours, theirs, what: str = "") -> None:
    assert np.abs(theirs).max() > 0.1, "a comparison of zeros says nothing"
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5, err_msg=what)


def normalised(golden: Golden, model) -> jax.Array:
    config = model.config.clip if isinstance(model, openclip.OpenClip) else model.config
    return clip.normalise(jnp.asarray(golden.inputs["pictures"]), config)


def logits(params, image, text):
    return jnp.exp(params["logit_scale"]) * clip.unit(image) @ clip.unit(text).T


def test_layer_by_layer(golden, model, maps):
    config, params = model.config, model.params
    for name in TAPS:
        close(maps[name], golden.outputs[name], name)
    pooled = jnp.mean(maps["res5"], axis=(1, 2))
    close(pooled, golden.outputs["pooled"], "pooled")
    image = jax.jit(lambda p, x: openclip.encode_image(p, config, x))(
        params, normalised(golden, model)
    )
    close(image, golden.outputs["image"], "image features")
    # The head where its epsilon counts.
    close(openclip.project(params, config, 0.01 * pooled), golden.outputs["faint"], "faint")
    text = encode_text(params, config.clip, golden)
    close(text, golden.outputs["text"], "text features")
    close(logits(params, image, text), golden.outputs["logits"], "logits")


def encode_text(params, config, golden):
    return jax.jit(lambda p, ids: clip.encode_text(p, config, ids))(params, golden.inputs["ids"])


@pytest.mark.parametrize(
    "change", [{"activation": "quick_gelu"}, {"layer_norm_eps": 1e-6}], ids=str
)
def test_a_wrong_constant_of_the_text_tower_would_show(change):
    """The reference is sensitive to what no file of weights says."""
    golden = Golden("vit")
    config = openclip_config.from_openclip(json.loads(golden.metadata["config"]))
    params = openclip.from_openclip(golden.weights, config)
    wrong = dataclasses.replace(config, text=dataclasses.replace(config.text, **change))
    text = encode_text(params, wrong, golden)
    assert np.abs(text - golden.outputs["text"]).max() > 1e-4


def test_a_wrong_epsilon_of_the_trunk_would_show(golden, model):
    trunk = dataclasses.replace(model.config.trunk, layer_norm_eps=1e-5)
    wrong = dataclasses.replace(model.config, trunk=trunk)
    faint = openclip.project(model.params, wrong, 0.01 * golden.outputs["pooled"])
    assert np.abs(faint - golden.outputs["faint"]).max() > 1e-4
    run = jax.jit(lambda params, x: openclip.backbone(params, wrong, x)["res2"])
    res2 = run(model.params, normalised(golden, model))
    assert np.abs(res2 - golden.outputs["res2"]).max() > 1e-4


def test_dense_features_are_the_head_on_every_pixel(model, maps):
    dense = openclip.project(model.params, model.config, maps["res5"])
    assert dense.shape == (*maps["res5"].shape[:3], model.config.projection_dim)
    one = openclip.project(model.params, model.config, maps["res5"][1, 1, 1])
    np.testing.assert_allclose(dense[1, 1, 1], one, rtol=0, atol=1e-6)


def test_the_tap_reaches_the_features(golden, model):
    params, config = model.params, model.config
    tap = lambda name, x: 0.0 * x if name == "res5" else x
    run = jax.jit(lambda params, x: openclip.encode_image(params, config, x, tap=tap))
    zero = openclip.project(params, config, jnp.zeros_like(golden.outputs["pooled"]))
    np.testing.assert_allclose(run(params, normalised(golden, model)), zero, rtol=0, atol=1e-6)


def test_weights_go_out_as_they_came_in(golden, model):
    back = openclip.to_openclip(model.params, model.config)
    # What is written is in the form of OpenCLIP's class CLIP.
    theirs = {name.removeprefix("text."): value for name, value in golden.weights.items()}
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        assert back[name].flags.c_contiguous, name
        np.testing.assert_array_equal(back[name], value.astype(np.float32), err_msg=name)
    again = openclip.from_openclip(back, model.config)
    assert clip.weights_digest(again) == clip.weights_digest(model.params)


def test_both_forms_of_the_text_tower_are_read(golden, model):
    for prefix in ("", "text."):
        plain = {name.removeprefix("text."): value for name, value in golden.weights.items()}
        spelt = {
            name if name.startswith("visual.") or name == "logit_scale" else prefix + name: value
            for name, value in plain.items()
        }
        params = openclip.from_openclip(spelt, model.config)
        assert clip.weights_digest(params) == clip.weights_digest(model.params)


def test_every_leaf_of_ours_is_written(model):
    start = functools.partial(openclip.init, model.config)
    expected = jax.eval_shape(start, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(jnp.shape, expected)
    assert {x.dtype for x in jax.tree.leaves(model.params)} == {jnp.dtype("float32")}


def test_all_problems_are_listed_together(golden, model):
    bad = dict(golden.weights)
    text = "text." if "text.ln_final.bias" in bad else ""
    block = "visual.trunk.stages.2.blocks.0"
    del bad[f"{block}.gamma"]
    bad[f"{block}.mlp.fc3.bias"] = bad.pop(f"{block}.mlp.fc1.bias")
    bad["visual.head.surplus"] = np.zeros(2, np.float32)
    qkv = f"{text}transformer.resblocks.1.attn.in_proj_weight"
    bad[qkv] = bad[qkv][:-1]
    bad[f"{text}ln_final.bias"] = np.full(16, np.nan, np.float16)
    bad["logit_scale"] = np.asarray(3, np.int64)
    with pytest.raises(clip.WeightsError) as caught:
        openclip.from_openclip(bad, model.config)
    message = str(caught.value)
    assert "(7 problems)" in message
    for part in (
        f"missing: {block}.gamma of shape (",
        f"missing: {block}.mlp.fc1.bias of shape (",
        f"extra: {block}.mlp.fc3.bias is not",
        "extra: visual.head.surplus is not",
        f"shape: {qkv} is (47, 16), expected (48, 16)",
        f"not finite: 16 of 16 values of {text}ln_final.bias",
        "type: logit_scale is int64",
    ):
        assert part in message, part


def test_problems_of_our_own_parameters_are_listed_together(model):
    text = dict(model.params["text"])
    del text["token_embedding"]
    bad = model.params | {"text": text | {"extra": jnp.zeros(1, jnp.float32)}}
    bad["logit_scale"] = jnp.asarray(np.nan, jnp.float32)
    with pytest.raises(clip.WeightsError, match=r"3 problems") as caught:
        openclip.to_openclip(bad, model.config)
    for part in ("missing: text/token_embedding", "extra: text/extra", "not finite: 1 of 1"):
        assert part in str(caught.value)


def test_another_size_is_named_first(golden, tmp_path):
    """Against the preset of that name, the tiny checkpoint has other depths and widths."""
    with pytest.raises(clip.WeightsError) as caught:
        openclip.load(golden.folder(tmp_path))
    message = str(caught.value)
    assert "depths: the checkpoint has " in message
    assert "the configuration says 3, 3, 27, 3" in message
    assert "widths: the checkpoint has " in message
    assert "head:" not in message


def test_another_head_is_named_first(model, golden):
    other = {"linear": "mlp", "mlp": "linear"}[model.config.head]
    with pytest.raises(clip.WeightsError) as caught:
        openclip.from_openclip(golden.weights, dataclasses.replace(model.config, head=other))
    first = str(caught.value).splitlines()[0]
    assert first == f"head: the checkpoint has {model.config.head}; the configuration says {other}"


def test_folder_without_configuration_needs_one(golden, model, tmp_path):
    folder = golden.folder(tmp_path / "plain")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(clip.SourceError, match=r"open_clip_config\.json.*convnext_base_w_320"):
        openclip.load(folder)
    again = openclip.load(folder, config=model.config)
    assert clip.weights_digest(again.params) == clip.weights_digest(model.params)


def test_missing_pickled_and_broken_weights(golden, tmp_path, monkeypatch):
    tiny_trunk(golden, monkeypatch)
    folder = golden.folder(tmp_path / "broken")
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(clip.WeightsError, match="unreadable"):
        openclip.load(folder)
    path.unlink()
    with pytest.raises(clip.SourceError, match=r"no open_clip_model\.safetensors"):
        openclip.load(folder)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(clip.SourceError, match=r"pickled checkpoint(.|\n)*save_file"):
        openclip.load(folder)


def test_vit(tmp_path, monkeypatch):
    """An OpenCLIP ViT is a model of core_jax.clip, exact GELU included."""
    golden = Golden("vit")
    model = clip.load(golden.folder(tmp_path))
    assert model.config.vision.activation == model.config.text.activation == "gelu"
    image = jax.jit(lambda p, x: clip.encode_image(p, model.config, x))(
        model.params, normalised(golden, model)
    )
    close(image, golden.outputs["image"], "image features")
    text = encode_text(model.params, model.config, golden)
    close(text, golden.outputs["text"], "text features")
    close(logits(model.params, image, text), golden.outputs["logits"], "logits")
    back = openclip.to_openclip(model.params, model.config)
    assert back.keys() == golden.weights.keys()
    for name, value in golden.weights.items():
        np.testing.assert_array_equal(back[name], value.astype(np.float32), err_msg=name)
    larger = clip.load(tmp_path, image_size=48)
    assert larger.params["vision"]["position_embedding"].shape == (1 + 6 * 6, 16)
    with pytest.raises(clip.ConfigError, match=r"holds no ConvNeXt: `clip\.load` opens"):
        openclip.load(tmp_path)
    convnext = Golden("convnext_linear")
    tiny_trunk(convnext, monkeypatch)
    folder = convnext.folder(tmp_path / "convnext")
    with pytest.raises(
        clip.ConfigError, match=r"ConvNeXt image tower, which `clip\.openclip\.load`"
    ):
        clip.load(folder)
    assert [openclip.is_convnext(f) for f in (folder, tmp_path)] == [True, False]


# As open_clip's model_configs hold them.
BASE_W_320 = {
    "embed_dim": 640,
    "vision_cfg": {
        "timm_model_name": "convnext_base",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.0,
        "timm_drop_path": 0.1,
        "image_size": 320,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 640,
        "heads": 10,
        "layers": 12,
    },
}
LARGE_D_320 = {
    "embed_dim": 768,
    "vision_cfg": BASE_W_320["vision_cfg"]
    | {"timm_model_name": "convnext_large", "timm_proj": "mlp"},
    "text_cfg": BASE_W_320["text_cfg"] | {"width": 768, "heads": 12, "layers": 16},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [("convnext_base_w_320", BASE_W_320), ("convnext_large_d_320", LARGE_D_320)],
)
def test_presets_are_what_the_files_say(name, content):
    assert openclip_config.from_openclip({"model_cfg": content}) == openclip.PRESETS[name]


@pytest.mark.parametrize(
    ("name", "count"), [("convnext_base_w_320", 179_385_345), ("convnext_large_d_320", 351_772_609)]
)
def test_presets_have_as_many_parameters_as_open_clips(name, count):
    shapes = openclip_weights.shapes(openclip.PRESETS[name])
    assert sum(math.prod(shape) for shape in shapes.values()) == count


def test_vit_configuration_is_read():
    """open_clip's ViT-H-14: 1280 / 80 = 16 heads."""
    content = {
        "embed_dim": 1024,
        "vision_cfg": {
            "image_size": 224,
            "layers": 32,
            "width": 1280,
            "head_width": 80,
            "patch_size": 14,
        },
        "text_cfg": BASE_W_320["text_cfg"] | {"width": 1024, "heads": 16, "layers": 24},
        "quick_gelu": True,
    }
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    config = openclip_config.from_openclip({"model_cfg": content, "preprocess_cfg": preprocess})
    assert isinstance(config, clip.ClipConfig)
    vision = config.vision
    assert (vision.heads, vision.mlp_width, vision.activation) == (16, 5120, "quick_gelu")
    assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert (config.text.mlp_width, config.text.eos_token_id) == (4096, 2)


def test_unsupported_configurations_are_refused_with_all_reasons():
    vision = {"timm_model_name": "vit_base", "timm_pool": "abs_attn", "timm_proj_bias": True}
    text = BASE_W_320["text_cfg"] | {"pool_type": "last", "hf_model_name": "roberta-base"}
    content = {
        "embed_dim": 8,
        "vision_cfg": BASE_W_320["vision_cfg"] | vision,
        "text_cfg": text,
        "init_logit_bias": -10,
    }
    with pytest.raises(clip.ConfigError) as caught:
        openclip_config.from_openclip({"model_cfg": content})
    for part in (
        "timm_model_name 'vit_base'",
        "timm_pool 'abs_attn'",
        "timm_proj_bias is True",
        "pool_type is 'last'",
        "hf_model_name is 'roberta-base'",
        "init_logit_bias is -10",
    ):
        assert part in str(caught.value), part
    with pytest.raises(clip.ConfigError, match="no model_cfg"):
        openclip_config.from_openclip({"vision_config": {}})
