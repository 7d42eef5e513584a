"""Where a CLIP model lies: a folder, or a hub id that `huggingface_hub` turns into one; and why some are refused."""

import os
import pathlib
import re
import zipfile
from typing import Literal

Layout = Literal["huggingface", "openclip", "openai"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_WEIGHTS = "open_clip_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class SourceError(FileNotFoundError):
    """A model that is not where it was said to be, or is not in a form that is read."""


def resolve(source: str | os.PathLike) -> pathlib.Path:
    """The local folder of a model; a hub id is downloaded (or found in the hub's cache).

    "owner/name" is taken for a hub id only when no folder "owner" exists here: otherwise it is a path with a typing error.

    Raises:
      SourceError: neither a folder nor a hub id, or the hub cannot give it.
    """
    folder = pathlib.Path(source).expanduser()
    # An empty name would mean the current folder.
    if os.fspath(source) and folder.is_dir():
        return folder
    if folder.is_file():
        if folder.suffix in PICKLED:
            raise SourceError(refusal(folder))
        raise SourceError(f"{folder} is a file: give the folder that holds it")
    name, here = os.fspath(source), os.getcwd()
    if not _HUB_ID.fullmatch(name) or os.path.isdir(name.split("/")[0]):
        raise SourceError(
            f"there is no folder {name!r} (seen from {here}): give the folder of a CLIP model, or a hub id owner/name"
        )
    # Only here, so that a local folder never needs the hub's client.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.snapshot_download(
            name, allow_patterns=["*.json", "*.txt", "*.safetensors"]
        )
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise SourceError(
            f"{name!r} is no folder (seen from {here}), and the hub gave no model of that id: {error}"
        ) from error
    folder = pathlib.Path(found)
    if not any(folder.glob("*.safetensors")):
        raise SourceError(
            f"the hub's {name!r} holds no safetensors, and pickled weights are not downloaded. If you trust them, run "
            f"`hf download {name} --local-dir FOLDER` and give that folder: the error will hold the conversion"
        )
    return folder


# What the converted file is called, what its tensors have to be called, and what belongs beside it.
_CONVERTED: dict[Layout, tuple[str, str, str]] = {
    "huggingface": (WEIGHTS, "HuggingFace's (vision_model...)", "the config.json of the model"),
    "openclip": (OPENCLIP_WEIGHTS, "OpenCLIP's (visual...)", f"the {OPENCLIP_CONFIG} of the model"),
    "openai": (WEIGHTS, "OpenAI's (visual...)", "tokenizer files"),
}


def refusal(path: pathlib.Path, layout: Layout = "huggingface") -> str:
    """Why a pickled checkpoint is not opened, and the command that converts it.

    Args:
      path: the checkpoint.
      layout: of the folder that it is in.
    """
    why = f"{path} is a pickled checkpoint, and opening one can run code hidden in it"
    folder = path.parent
    if path.name == "pytorch_model.bin" and layout == "huggingface":
        code = (
            "from transformers import CLIPModel; "
            f"CLIPModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
        return f'{why}. If you trust it, convert it where torch and transformers are installed:\n  python -c "{code}"'
    file = f"{str(path)!r}, map_location='cpu'"
    opened = f"torch.load({file}, weights_only=True); d = d.get('state_dict', d)"
    if _is_torchscript(path):
        # So OpenAI publishes its models; `torch.load` does not take them.
        layout, opened = "openai", f"torch.jit.load({file}).state_dict()"
    weights, names, beside = _CONVERTED[layout]
    code = (
        f"import torch; from safetensors.torch import save_file; d = {opened}; "
        "save_file({k.removeprefix('module.'): v.contiguous() for k, v in d.items()}, "
        f"{str(folder / weights)!r})"
    )
    return (
        f"{why}. If you trust it and the names of its tensors are {names}, convert it where torch and safetensors are "
        f'installed, and put {beside} beside it:\n  python -c "{code}"'
    )


def _is_torchscript(path: pathlib.Path) -> bool:
    """Whether a checkpoint is a TorchScript archive; only its list of files is read."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
