"""Opening CLIP models from folders in HuggingFace's, OpenCLIP's or OpenAI's layout, and writing HuggingFace's.

`load` takes a folder (`folders` says which layouts) or a hub id ("openai/clip-vit-base-patch32", through
`huggingface_hub`, and only then); `save` writes a folder that torch's `CLIPModel.from_pretrained` opens. Pickled
checkpoints are refused: opening one runs the code in it.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from core_jax.clip import folders, weights
from core_jax.clip.config import ClipConfig, to_huggingface
from core_jax.clip.source import WEIGHTS, SourceError, resolve
from core_jax.clip.tokenizer import Tokenizer
from core_jax.clip.tokenizer_files import FILES as TOKENIZER_FILES


@dataclasses.dataclass(frozen=True)
class Clip:
    """A loaded model; `tokenizer` opens its files when it is first used."""

    config: ClipConfig
    params: dict
    tokenizer: Tokenizer


def load(source: str | os.PathLike, *, image_size: int | None = None) -> Clip:
    """Opens a CLIP model with a ViT or a ResNet; its files tell which layout it is in.

    Args:
      source: a folder in HuggingFace's, OpenCLIP's or OpenAI's layout (see `folders`), or a hub id "owner/name" (downloaded
        and cached by `huggingface_hub`).
      image_size: side of the pictures it will be given, in pixels; position embeddings are resized when this is not the
        size of the checkpoint. Those of a ResNet are not.

    Returns:
      Configuration, float32 parameters and tokenizer.

    Raises:
      SourceError: no such folder or model, or only pickled weights (the message holds the conversion to run).
      ConfigError: what describes the model is not a CLIP's, or one that is not supported.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    folder = resolve(source)
    config, params = folders.read(folder)
    if image_size is not None:
        params, config = weights.resize_positions(params, config, image_size)
    return Clip(config, params, Tokenizer(folder, config.text))


def save(
    folder: str | os.PathLike,
    config: ClipConfig,
    params: dict,
    *,
    tokenizer_files: str | os.PathLike | Mapping[str, bytes] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes a folder that `load` and torch's `CLIPModel.from_pretrained` open.

    A new folder appears complete or not at all. In an existing one each file is replaced whole and others stay.

    Args:
      folder: where to; its parents are made.
      config: the model.
      params: nested parameters as `load` and `init` give them.
      tokenizer_files: a folder whose tokenizer files are copied, or their contents by file name.
      dtype: type of the stored weights: float32, float16 or bfloat16.

    Raises:
      WeightsError: the parameters do not fit the configuration, or are not finite in `dtype`.
      ConfigError: the image tower is a ResNet, which HuggingFace's layout cannot hold (`openclip.to_openclip` gives its
        tensors under OpenAI's names).
      SourceError: `tokenizer_files` is a folder without any.
    """
    folder = pathlib.Path(folder)
    description = _json(to_huggingface(config) | {"dtype": dtype})
    tensors = weights.to_huggingface(params, config, dtype)
    size = config.vision.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }
    files = _tokenizer_contents(tokenizer_files)
    files["preprocessor_config.json"] = _json(preprocessor)
    files["config.json"] = description
    _write_folder(folder, files, tensors)


def _tokenizer_contents(source: str | os.PathLike | Mapping[str, bytes] | None) -> dict[str, bytes]:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return dict(source)
    found = {
        name: (pathlib.Path(source) / name).read_bytes()
        for name in TOKENIZER_FILES
        if (pathlib.Path(source) / name).is_file()
    }
    if not found:
        raise SourceError(f"{source} holds none of the tokenizer files {TOKENIZER_FILES}")
    return found


def _write_folder(
    folder: pathlib.Path, files: Mapping[str, bytes], tensors: Mapping[str, np.ndarray]
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            (beside / name).write_bytes(content)
        safetensors.numpy.save_file(dict(tensors), beside / WEIGHTS, metadata={"format": "pt"})
        (beside / WEIGHTS).chmod(0o666 & ~_umask())  # safetensors lets nobody else read
        for path in beside.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if folder.is_dir():
            for name in (WEIGHTS, *files):
                os.replace(beside / name, folder / name)
        else:
            beside.chmod(0o777 & ~_umask())
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
