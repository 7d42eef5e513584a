"""One `clip.load` for three folder layouts: which is read, parity under every naming, published sizes, refusals."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

import core_jax.clip as clip
from core_jax.clip import folders, openai, openclip, openclip_config, openclip_weights
from tests.core_jax.clip.conftest import Case, build
from tests.core_jax.clip.openai_torch import Reference

# OpenAI's heads have 64 channels; OpenCLIP's configuration names their width.
OPENAI = Case(vision=(128, 2, 2), text=(64, 2, 1), mlp=4, end=2)
WIDE = Case(image=28, patch=14, vision=(48, 3, 3), text=(40, 2, 5), mlp=4, end=2)

HUGGINGFACE = ("config.json", "model.safetensors")
OPENCLIP = ("open_clip_config.json", "open_clip_model.safetensors")


def renamed(model) -> dict[str, np.ndarray]:
    """The tensors of transformers' model under the names of OpenAI and OpenCLIP."""
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    out = {
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    layers = {"vision_model": model.config.vision_config, "text_model": model.config.text_config}
    for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
        for i in range(layers[tower].num_hidden_layers):
            theirs = f"{tower}.encoder.layers.{i}"
            block = f"{prefix}transformer.resblocks.{i}"
            norms |= {f"{theirs}.{a}": f"{block}.{b}" for a, b in parts.items()}
            for kind in ("weight", "bias"):
                fused = [state[f"{theirs}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                out[f"{block}.attn.in_proj_{kind}"] = np.concatenate(fused)
    for theirs, ours in norms.items():
        out |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    return {name: np.array(value, order="C") for name, value in out.items()}


def described(case: Case, **others) -> str:
    """The open_clip_config.json of a case."""
    width, layers, heads = case.vision
    vision = {"image_size": case.image, "patch_size": case.patch, "width": width, "layers": layers}
    text = dict(zip(("width", "layers", "heads"), case.text, strict=True))
    model = {
        "embed_dim": case.projection,
        "vision_cfg": vision | {"head_width": width // heads, "mlp_ratio": float(case.mlp)},
        "text_cfg": text | {"vocab_size": case.vocab, "context_length": case.context},
    }
    return json.dumps({"model_cfg": model | others})


def save(folder, tensors, dtype=np.float32, name="model.safetensors"):
    tensors = {key: np.asarray(value, dtype) for key, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / name)


@pytest.mark.parametrize(
    ("layout", "case", "quick"),
    [
        ("openai", OPENAI, True),
        ("openai float16", OPENAI, True),
        ("openclip", WIDE, True),
        ("openclip", dataclasses.replace(WIDE, activation="gelu"), False),
    ],
    ids=["openai", "openai-float16", "openclip-quick-gelu", "openclip-gelu"],
)
def test_both_towers_are_transformers(layout, case, quick, tmp_path):
    theirs = build(case)
    if "float16" in layout:
        theirs = theirs.half().float()
    tensors = renamed(theirs)
    if layout.startswith("openai"):
        # What OpenAI's archives hold besides.
        tensors |= {"input_resolution": np.asarray(32), "context_length": np.asarray(20)}
        save(tmp_path, tensors, np.float16 if "float16" in layout else np.float32)
    else:
        save(tmp_path, tensors, name="open_clip_model.safetensors")
        options = {"quick_gelu": True} if quick else {}
        (tmp_path / "open_clip_config.json").write_text(described(case, **options))
    ours = clip.load(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, case.image, case.image, 3)).astype(np.float32)
    ids = rng.integers(0, 97, (3, case.context)).astype(np.int32)
    ids[np.arange(3), [4, 9, case.context - 1]] = 98
    with torch.no_grad():
        leaf = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        expected = theirs(input_ids=torch.from_numpy(ids).long(), pixel_values=leaf)

    @jax.jit
    def run(params, pixels, ids):
        image = clip.unit(clip.encode_image(params, ours.config, pixels))
        text = clip.unit(clip.encode_text(params, ours.config, ids))
        return image, text, jnp.exp(params["logit_scale"]) * image @ text.T

    pairs = zip(
        run(ours.params, pixels, ids),
        (expected.image_embeds, expected.text_embeds, expected.logits_per_image),
        strict=True,
    )
    for a, b in pairs:
        assert np.abs(b.numpy()).max() > 0.1
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-5)
    assert openclip.to_openclip(ours.params, ours.config).keys() == renamed(theirs).keys()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (HUGGINGFACE, "huggingface"),
        (OPENCLIP, "openclip"),
        ((*HUGGINGFACE, *OPENCLIP), "openclip"),
        # Its OpenCLIP weights are pickled, or were not downloaded.
        ((*HUGGINGFACE, "open_clip_config.json"), "huggingface"),
        (("model.safetensors",), "openai"),
        # Nothing to read: the error names what is missing of the layout that is there.
        (("open_clip_config.json",), "openclip"),
        ((), "openai"),
    ],
)
def test_the_layout_that_has_weights_is_read(files, expected, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    assert folders.layout(tmp_path) == expected


def published(embed, vision, text):
    """As open_clip's model_configs hold it, quick GELU as in OpenAI's weights and DFN5B's."""
    width, heads, layers = text
    words = {"width": width, "heads": heads, "layers": layers}
    words |= {"context_length": 77, "vocab_size": 49408}
    content = {"embed_dim": embed, "vision_cfg": {"image_size": 224} | vision, "text_cfg": words}
    return openclip_config.from_openclip({"model_cfg": content | {"quick_gelu": True}})


B, L = (512, 8, 12), (768, 12, 12)
H = {"layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
RN50 = {"layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
PUBLISHED = {
    "ViT-B/32": (151_277_313, 512, {"layers": 12, "width": 768, "patch_size": 32}, B),
    "ViT-B/16": (149_620_737, 512, {"layers": 12, "width": 768, "patch_size": 16}, B),
    "ViT-L/14": (427_616_513, 768, {"layers": 24, "width": 1024, "patch_size": 14}, L),
    "ViT-H/14": (986_109_441, 1024, H, (1024, 16, 24)),
    "RN50": (102_007_137, 1024, RN50, B),
}


class Shapes(dict):
    """Names and shapes in place of arrays: no entry takes memory."""

    def __getitem__(self, name):
        return np.broadcast_to(np.float32(0), super().__getitem__(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_parameters_of_the_published_models(name):
    count, *sizes = PUBLISHED[name]
    config = published(*sizes)
    with torch.device("meta"):
        state = Reference(config).state_dict()
    theirs = {key: tuple(value.shape) for key, value in state.items()}
    # Counters of steps mean nothing.
    theirs = {key: shape for key, shape in theirs.items() if "num_batches" not in key}
    learned = [shape for key, shape in theirs.items() if "running_" not in key]
    assert sum(map(math.prod, learned)) == count
    # With no tensors at all, every one is listed as missing.
    with pytest.raises(clip.WeightsError) as caught:
        openclip_weights.from_openclip({}, config)
    listed = re.findall(r"missing: (\S+) of shape \((.*)\)", str(caught.value))
    assert {key: tuple(int(n) for n in re.findall(r"\d+", s)) for key, s in listed} == theirs
    if name == "ViT-H/14":
        # Nothing in its weights tells 16 heads of 80 from 20 of 64.
        with pytest.raises(clip.ConfigError, match=r"width 1280 .*open_clip_config\.json"):
            openai.config_of(Shapes(theirs))
    else:
        assert openai.config_of(Shapes(theirs)) == config


def test_openai_tensors_that_do_not_fit_are_listed_together(tmp_path):
    tensors = renamed(build(OPENAI))
    del tensors["ln_final.bias"], tensors["visual.proj"]
    tensors["visual.proj.weight"] = np.zeros((24, 128))
    tensors["visual.ln_pre.weight"] = np.zeros(3)
    save(tmp_path, tensors)
    with pytest.raises(clip.WeightsError, match="4 problems") as caught:
        clip.load(tmp_path)
    for part in (
        str(tmp_path / "model.safetensors"),
        "missing: ln_final.bias of shape (64,)",
        "missing: visual.proj of shape (128, 24)",
        "extra: visual.proj.weight is not",
        "shape: visual.ln_pre.weight is (3,), expected (128,)",
    ):
        assert part in str(caught.value), part


def test_other_folders_are_explained(tmp_path, saved):
    with pytest.raises(clip.SourceError, match=r"not the folder of a CLIP model.*no config\.json"):
        clip.load(tmp_path)
    save(tmp_path, {"a": np.ones(2)})
    with pytest.raises(clip.ConfigError, match=r"no token_embedding\.weight, .*visual\.conv1"):
        clip.load(tmp_path)
    # OpenAI's tensors, described as HuggingFace's.
    save(tmp_path, renamed(saved.torch))
    config = (saved.folder / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(clip.WeightsError, match=r"OpenAI's names .*take config\.json away"):
        clip.load(tmp_path)


def nested(tensors) -> torch.nn.Module:
    """A module that holds tensors under their dotted names."""
    root = torch.nn.Module()
    for name, value in tensors.items():
        *path, last = name.split(".")
        inside = root
        for part in path:
            if not hasattr(inside, part):
                inside.add_module(part, torch.nn.Module())
            inside = getattr(inside, part)
        inside.register_buffer(last, torch.from_numpy(np.array(value)))
    return root


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("archive", [True, False], ids=["torchscript", "state dict"])
def test_pickled_models_of_openai_are_refused_with_a_conversion_that_works(archive, tmp_path):
    tensors = renamed(build(OPENAI))
    path = tmp_path / "ViT-B-32.pt"
    if archive:
        torch.jit.save(torch.jit.script(nested(tensors)), path)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    with pytest.raises(clip.SourceError, match=r"pickled.*OpenAI's \(visual"):
        clip.load(tmp_path)
    with pytest.raises(clip.SourceError, match="pickled") as caught:
        clip.load(path if archive else tmp_path)
    code = re.search(r'python -c "(.*)"', str(caught.value))
    assert code is not None
    exec(code[1], {})
    written = openclip.to_openclip(clip.load(tmp_path).params, clip.load(tmp_path).config)
    assert all(np.array_equal(written[name], tensors[name]) for name in tensors)


def test_the_conversion_is_that_of_the_file_that_is_there(tmp_path, saved):
    """A folder as the hub has them: both descriptions, and pickled weights of one layout or of both."""
    (tmp_path / "config.json").write_bytes((saved.folder / "config.json").read_bytes())
    for name in ("open_clip_config.json", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(clip.SourceError) as caught:
        clip.load(tmp_path)
    assert "open_clip_pytorch_model.bin is a pickled" in str(caught.value)
    assert str(tmp_path / "open_clip_model.safetensors") in str(caught.value)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(clip.SourceError, match=r"(?s)/pytorch_model\.bin is .*CLIPModel\.from_pre"):
        clip.load(tmp_path)


def test_a_hub_model_without_safetensors_is_explained(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **o: str(tmp_path))
    with pytest.raises(clip.SourceError, match=r"'some/model' holds no safetensors.*hf download"):
        clip.load("some/model")


def test_tokenizer_files_are_optional_until_text_comes(tmp_path, byte_pairs):
    save(tmp_path, renamed(build(dataclasses.replace(OPENAI, vocab=700))))
    model = clip.load(tmp_path)
    with pytest.raises(clip.TokenizerError, match=r"hf download openai/.* --local-dir "):
        model.tokenizer("a photo")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((byte_pairs / name).read_bytes())
    ids = clip.load(tmp_path).tokenizer(["a photo of a cat", "dogs"])
    ends = clip.end_positions(model.config, jnp.asarray(ids))
    assert ids.shape == (2, 20)
    assert [ids[i, end] for i, end in enumerate(ends)] == [clip.Tokenizer(tmp_path).eos] * 2
