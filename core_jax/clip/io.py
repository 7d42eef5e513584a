"""Reading and writing CLIP in HuggingFace's folder layout: config.json, safetensors, preprocessing, tokenizer files.

`load` takes a folder or a hub id ("openai/clip-vit-base-patch32", through `huggingface_hub`, and only then); `save`
writes a folder that torch's `CLIPModel.from_pretrained` opens. Pickled checkpoints are refused: opening one runs the
code in it.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
import safetensors.numpy

from core_jax.clip import weights
from core_jax.clip.config import (
    ClipConfig,
    ConfigError,
    from_huggingface,
    read_json,
    to_huggingface,
)
from core_jax.clip.source import INDEX, PICKLED, WEIGHTS, SourceError, refusal, resolve
from core_jax.clip.tensors import Tensors, WeightsError, open_tensors
from core_jax.clip.tokenizer import Tokenizer
from core_jax.clip.tokenizer_files import FILES as TOKENIZER_FILES


@dataclasses.dataclass(frozen=True)
class Clip:
    """A loaded model; `tokenizer` opens its files when it is first used."""

    config: ClipConfig
    params: dict
    tokenizer: Tokenizer


def load(source: str | os.PathLike, *, image_size: int | None = None) -> Clip:
    """Opens a HuggingFace CLIP model.

    Args:
      source: a folder, or a hub id "owner/name" (downloaded and cached by `huggingface_hub`).
      image_size: side of the pictures it will be given, in pixels; position embeddings are resized when this is not the
        size of the checkpoint.

    Returns:
      Configuration, float32 parameters and tokenizer.

    Raises:
      SourceError: no such folder or model, or only pickled weights (the message holds the conversion to run).
      ConfigError: config.json is not a CLIP model's.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    folder = resolve(source)
    config = read_config(folder)
    with _open_weights(folder) as tensors:
        try:
            params = weights.from_huggingface(tensors, config)
        except WeightsError as error:
            raise WeightsError(f"{folder}: {error}") from None
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
      SourceError: `tokenizer_files` is a folder without any.
    """
    folder = pathlib.Path(folder)
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
    files["config.json"] = _json(to_huggingface(config) | {"dtype": dtype})
    _write_folder(folder, files, tensors)


def read_config(folder: pathlib.Path) -> ClipConfig:
    """The configuration of the model in `folder`.

    Raises:
      SourceError: there is no config.json.
      ConfigError: it cannot be read, or describes something that is not supported.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(f"{folder} has no config.json: it is not a HuggingFace model folder")
    preprocessor = None
    if (folder / "preprocessor_config.json").is_file():
        preprocessor = read_json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        # Where transformers 5 puts it when a whole processor is saved.
        preprocessor = read_json(folder / "processor_config.json").get("image_processor")
    try:
        return from_huggingface(read_json(folder / "config.json"), preprocessor)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


@contextlib.contextmanager
def _open_weights(folder: pathlib.Path) -> Iterator[Tensors]:
    """Opens the single file, or every file that the index names."""
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map", {})
        names = sorted(set(index.values()))
        problems = [
            f"missing: {name}"
            for name in names
            if pathlib.Path(name).name != name or not (folder / name).is_file()
        ]
        if problems or not names:
            listed = "\n  ".join(problems or ["weight_map is empty"])
            raise SourceError(f"{folder / INDEX} names files that are not beside it:\n  {listed}")
    else:
        pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLED)
        if pickled:
            raise SourceError(refusal(pickled[0]))
        raise SourceError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    # What the index promises and no file holds is reported with the other missing weights.
    with open_tensors([folder / name for name in names]) as tensors:
        yield tensors


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
