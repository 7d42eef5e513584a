"""Which layout a model folder is read in."""

import pytest

from core_jax import clip
from core_jax.clip import openclip
from gba_jax import backbones

HUGGINGFACE = ("config.json", "model.safetensors")
OPENCLIP = (openclip.CONFIG, openclip.WEIGHTS)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (HUGGINGFACE, "huggingface"),
        (OPENCLIP, "openclip"),
        ((*HUGGINGFACE, *OPENCLIP), "openclip"),
        # Its OpenCLIP weights are pickled, or were not downloaded.
        ((*HUGGINGFACE, openclip.CONFIG), "huggingface"),
        # Nothing to read: the error names what is missing of the layout that is there.
        ((openclip.CONFIG,), "openclip"),
        ((), "huggingface"),
    ],
)
def test_the_layout_that_has_weights_is_read(files, expected, tmp_path, monkeypatch):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(clip, "load", lambda folder, image_size: "huggingface")
    monkeypatch.setattr(openclip, "is_convnext", lambda folder: False)
    monkeypatch.setattr(openclip, "load_vit", lambda folder, image_size: "openclip")
    assert backbones._load(tmp_path, None) == expected
