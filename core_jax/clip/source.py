"""Where a CLIP model lies: a folder, or a hub id that `huggingface_hub` turns into one; and why some are refused."""

import os
import pathlib
import re

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
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
        raise SourceError(f"{folder} is a file: give the HuggingFace folder that holds it")
    name, here = os.fspath(source), os.getcwd()
    if not _HUB_ID.fullmatch(name) or os.path.isdir(name.split("/")[0]):
        raise SourceError(
            f"there is no folder {name!r} (seen from {here}): give a HuggingFace CLIP folder, or a hub id owner/name"
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
    return pathlib.Path(found)


def refusal(
    path: pathlib.Path,
    *,
    weights: str = WEIGHTS,
    config: str = "config.json",
    names: str = "HuggingFace's names (vision_model.embeddings...)",
) -> str:
    """Why a pickled checkpoint is not opened, and the command that converts it.

    Args:
      path: the checkpoint.
      weights: the file to make of it.
      config: the file that describes the model, beside it.
      names: what its tensors have to be called.
    """
    why = f"{path} is a pickled checkpoint, and opening one can run code hidden in it"
    folder = path.parent
    if path.name == "pytorch_model.bin" and weights == WEIGHTS:
        code = (
            "from transformers import CLIPModel; "
            f"CLIPModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
        return f'{why}. If you trust it, convert it where torch and transformers are installed:\n  python -c "{code}"'
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"d = torch.load({str(path)!r}, map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
        "save_file({k.removeprefix('module.'): v.contiguous() for k, v in d.items()}, "
        f"{str(folder / weights)!r})"
    )
    return (
        f"{why}. If you trust it and its tensors have {names}, convert it where torch and safetensors are installed, "
        f'and put the {config} of the model beside it:\n  python -c "{code}"'
    )
