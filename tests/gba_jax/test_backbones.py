"""What opens the models of a segmentation host, and which are refused."""

import functools

import jax
import numpy as np
import pytest
import safetensors.numpy

from core_jax import clip
from core_jax.clip import openclip
from gba_jax import backbones


@pytest.mark.parametrize("convnext", [True, False])
def test_a_convnext_is_opened_as_one(convnext, tmp_path, monkeypatch):
    monkeypatch.setattr(openclip, "is_convnext", lambda folder: convnext)
    monkeypatch.setattr(openclip, "load", lambda folder: "convnext")
    opened = clip.Clip(clip.ClipConfig(), {}, clip.Tokenizer(tmp_path))
    monkeypatch.setattr(clip, "load", lambda folder, image_size: opened)
    assert backbones._load(tmp_path, None) == ("convnext" if convnext else opened)


def test_a_resnet_is_refused(tmp_path):
    text = {"vocab_size": 4, "context_length": 4, "width": 64, "layers": 1, "heads": 1}
    config = clip.ClipConfig(
        vision=clip.ResNetVisionConfig(depths=(1, 1, 1, 1), width=2, image_size=32),
        text=clip.TextConfig(**text, mlp_width=256),
    )
    shapes = jax.eval_shape(functools.partial(clip.init, config), key=jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    state = openclip.to_openclip(params, config)
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(clip.ConfigError, match="is a ResNet; segmentation takes a ViT"):
        backbones.open_backbone(tmp_path)
