"""Writes the reference numbers that ConvNeXt and the OpenCLIP models are tested against, from timm and open_clip.

Tiny random models in OpenCLIP's own classes, their weights rounded to float16 before the reference runs, with inputs and
outputs layer by layer. The tests read the result, so they need neither package. Run from the repository's root, where
both are installed (a few seconds):

    pip install open_clip_torch timm safetensors
    python tests/core_jax/nn/make_golden.py
"""

import functools
import json
import pathlib
import tempfile

import numpy as np
import open_clip
import open_clip.model
import timm
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "golden"
# Odd on purpose: rows and columns that fill no stride are left out.
HEIGHT, WIDTH = 71, 77
TEXT = {"context_length": 77, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
# Depths and widths take the place of those that the name stands for; everything else is timm's.
TRUNKS = {
    "convnext_base": {"depths": (2, 1, 2, 1), "dims": (8, 12, 16, 24)},
    "convnext_large": {"depths": (1, 2, 1, 1), "dims": (6, 8, 12, 20)},
}


def convnext(name: str, head: str) -> dict:
    """As in open_clip's convnext_base_w_320.json and convnext_large_d_320.json, with a tiny text tower."""
    return {
        "embed_dim": 10,
        "vision_cfg": {
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": head,
            "timm_drop": 0.0,
            "timm_drop_path": 0.1,
            "image_size": 64,
        },
        "text_cfg": TEXT,
    }


VIT = {
    "embed_dim": 10,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": TEXT,
}


def randomise(model: torch.nn.Module) -> None:
    """Weights of useful size everywhere: zero biases or layer scales of 1e-6 would hide mistakes."""
    for name, weight in model.named_parameters():
        if name == "logit_scale":
            value = torch.tensor(2.6592)
        elif name.endswith("gamma"):
            value = 0.5 + 0.2 * torch.randn(weight.shape)
        elif weight.ndim > 1:
            # "proj" and "text_projection" are kept the other way round.
            fan_in = weight[0].numel() if name.endswith("weight") else weight.shape[0]
            value = torch.randn(weight.shape) / fan_in**0.5
        else:
            value = (1.0 if name.endswith("weight") else 0.0) + 0.2 * torch.randn(weight.shape)
        # Where variances are small, a wrong epsilon of a norm shows.
        faint = ("stem.0.", "token_embedding", "positional_embedding", "conv1")
        weight.data = (value * (0.02 if any(f in name for f in faint) else 1.0)).half().float()


def inputs(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 pictures, and sentences whose largest id ends them, padded with 0."""
    rng = np.random.default_rng(0)
    ids = np.zeros((3, TEXT["context_length"]), np.int32)
    for row, length in zip(ids, (2, 9, 75), strict=True):
        row[0], row[1 + length] = 48, 49
        row[1 : 1 + length] = rng.integers(1, 48, length)
    return rng.integers(0, 256, (2, height, width, 3), np.uint8), ids


def make(name: str, model_cfg: dict, *, size: tuple[int, int], custom_text: bool = False) -> None:
    torch.manual_seed(1)
    kind = open_clip.model.CustomTextCLIP if custom_text else open_clip.CLIP
    model = kind(**model_cfg).eval()
    randomise(model)
    pictures, ids = inputs(*size)
    mean, std = (
        torch.tensor(x) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    pixels = ((torch.from_numpy(pictures) / 255 - mean) / std).permute(0, 3, 1, 2)
    outputs = {}

    def keep(what):
        return lambda module, args, output: outputs.__setitem__(what, output)

    trunk = getattr(model.visual, "trunk", None)
    if trunk is not None:
        trunk.stem.register_forward_hook(keep("stem"))
        for i, stage in enumerate(trunk.stages):
            stage.register_forward_hook(keep(f"res{i + 2}"))
    with torch.no_grad():
        outputs["image"] = model.encode_image(pixels)
        outputs["text"] = model.encode_text(torch.from_numpy(ids).long())
        outputs["logits"] = model.get_logits(pixels, torch.from_numpy(ids).long())[0]
        if trunk is not None:
            outputs["pooled"] = trunk.head.global_pool(outputs["res5"]).flatten(1)
            # The same head where epsilon is not negligible.
            outputs["faint"] = model.visual.head(trunk.head(0.01 * outputs["res5"]))
    tensors = {f"weights/{key}": value.half() for key, value in model.state_dict().items()}
    for what, value in outputs.items():
        tensors[f"outputs/{what}"] = value.permute(0, 2, 3, 1) if value.ndim == 4 else value
    tensors |= {"inputs/pictures": torch.from_numpy(pictures), "inputs/ids": torch.from_numpy(ids)}
    model.visual.image_mean, model.visual.image_std = (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "open_clip_config.json"
        saved = model_cfg | ({"custom_text": True} if custom_text else {})
        save_config_for_hf(model, path, saved)
        config = path.read_text()
    versions = (
        f"open_clip {open_clip.__version__}, timm {timm.__version__}, torch {torch.__version__}"
    )
    sizes = TRUNKS.get(model_cfg["vision_cfg"].get("timm_model_name"), {})
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        FOLDER / f"{name}.safetensors",
        metadata={"config": config, "trunk": json.dumps(sizes), "made_with": versions},
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    create = timm.create_model
    timm.create_model = lambda name, **options: create(name, **TRUNKS[name], **options)
    here = functools.partial(make, size=(HEIGHT, WIDTH))
    here("convnext_linear", convnext("convnext_base", "linear"))
    here("convnext_mlp", convnext("convnext_large", "mlp"), custom_text=True)
    make("vit", VIT, size=(32, 32))


if __name__ == "__main__":
    main()
