"""A model folder: which of three layouts it has, and the configuration and weights that lie there.

| layout | what describes the model | weights | names of its tensors |
| --- | --- | --- | --- |
| huggingface | config.json, preprocessor_config.json | model.safetensors, or shards with their index | vision_model... |
| openclip | open_clip_config.json | open_clip_model.safetensors | visual... |
| openai | nothing: the shapes of the tensors | model.safetensors | visual... |

A folder that is described twice is read in OpenCLIP's layout where it holds OpenCLIP's weights, as some on the hub do;
what timm puts beside them is not looked at.
"""

import contextlib
import pathlib
from collections.abc import Iterator

from core_jax.clip import openai, openclip_config, openclip_weights, weights
from core_jax.clip.config import ClipConfig, ConfigError, from_huggingface, read_json
from core_jax.clip.openclip_config import OpenClipConfig
from core_jax.clip.source import (
    INDEX,
    OPENCLIP_CONFIG,
    OPENCLIP_WEIGHTS,
    PICKLED,
    WEIGHTS,
    Layout,
    SourceError,
    refusal,
)
from core_jax.clip.tensors import Tensors, WeightsError, open_tensors


def layout(folder: pathlib.Path) -> Layout:
    """Which layout the files of a folder are read in; "openai" where nothing describes the model."""
    whole = (folder / "config.json").is_file()
    if (folder / OPENCLIP_CONFIG).is_file() and (
        (folder / OPENCLIP_WEIGHTS).is_file() or not whole
    ):
        return "openclip"
    return "huggingface" if whole else "openai"


def read(folder: pathlib.Path) -> tuple[ClipConfig, dict]:
    """The configuration and the float32 parameters of a model with a ViT or a ResNet.

    Raises:
      SourceError: there are no weights, or only pickled ones (the message holds the conversion to run).
      ConfigError: the description cannot be read, or is of a model that is not supported.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    kind = layout(folder)
    if kind == "openai":
        return _openai(folder)
    if kind == "huggingface":
        return _huggingface(folder)
    config = openclip_description(folder)
    if isinstance(config, OpenClipConfig):
        raise ConfigError(
            f"{folder} holds an OpenCLIP model with a ConvNeXt image tower, which `clip.openclip.load` opens for segmentation; "
            "everything else takes models with a ViT or a ResNet"
        )
    return config, openclip_parameters(folder, config)


def openclip_description(folder: pathlib.Path) -> OpenClipConfig | ClipConfig:
    """What open_clip_config.json says.

    Raises:
      SourceError: there is no such file.
      ConfigError: it describes something that is not supported.
    """
    if not (folder / OPENCLIP_CONFIG).is_file():
        raise SourceError(
            f"{folder} has no {OPENCLIP_CONFIG}: it is not an OpenCLIP model folder; give one, or for a ConvNeXt say which it "
            f"is (config=PRESETS[name], name one of {', '.join(openclip_config.PRESETS)})"
        )
    try:
        return openclip_config.from_openclip(read_json(folder / OPENCLIP_CONFIG))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def openclip_parameters(folder: pathlib.Path, config: OpenClipConfig | ClipConfig) -> dict:
    """The parameters in open_clip_model.safetensors.

    Raises:
      SourceError: there is no such file, or a pickled one in its place.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    path = folder / OPENCLIP_WEIGHTS
    if not path.is_file():
        _refuse_pickled(folder, "openclip")
        raise SourceError(f"{folder} has no {OPENCLIP_WEIGHTS}")
    with open_tensors([path]) as tensors, _named(path):
        return openclip_weights.from_openclip(tensors, config)


def _huggingface(folder: pathlib.Path) -> tuple[ClipConfig, dict]:
    preprocessor = None
    if (folder / "preprocessor_config.json").is_file():
        preprocessor = read_json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        # Where transformers 5 puts it when a whole processor is saved.
        preprocessor = read_json(folder / "processor_config.json").get("image_processor")
    with _named(folder):
        config = from_huggingface(read_json(folder / "config.json"), preprocessor)
    with _open_shards(folder) as tensors, _named(folder):
        if any(name.startswith("visual.") for name in tensors):
            raise WeightsError(
                "its tensors have OpenAI's names (visual...), and config.json describes HuggingFace's: for a model of "
                f"OpenAI's take config.json away; for one of OpenCLIP's replace it by {OPENCLIP_CONFIG} and call the weights "
                f"{OPENCLIP_WEIGHTS}"
            )
        return config, weights.from_huggingface(tensors, config)


def _openai(folder: pathlib.Path) -> tuple[ClipConfig, dict]:
    path = folder / WEIGHTS
    if not path.is_file():
        _refuse_pickled(folder, "openai")
        raise SourceError(
            f"{folder} is not the folder of a CLIP model: it has no config.json (HuggingFace's layout), no {OPENCLIP_CONFIG} "
            f"(OpenCLIP's) and no {WEIGHTS} (OpenAI's tensors, which need no description)"
        )
    with open_tensors([path]) as tensors, _named(path):
        config = openai.config_of(tensors)
        return config, openclip_weights.from_openclip(tensors, config)


@contextlib.contextmanager
def _open_shards(folder: pathlib.Path) -> Iterator[Tensors]:
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
        _refuse_pickled(folder, "huggingface")
        raise SourceError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    # What the index promises and no file holds is reported with the other missing weights.
    with open_tensors([folder / name for name in names]) as tensors:
        yield tensors


def _refuse_pickled(folder: pathlib.Path, kind: Layout) -> None:
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
    if not pickled:
        return
    # Of a model that is there in both layouts each has its own file, under a name that everybody keeps.
    own = [path for path in pickled if path.name == "pytorch_model.bin"]
    theirs = [path for path in pickled if path.name.startswith("open_clip")]
    if kind == "huggingface" and not own and theirs and (folder / OPENCLIP_CONFIG).is_file():
        own, kind = theirs, "openclip"
    raise SourceError(refusal((own or pickled)[0], kind))


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Says in what is raised inside where the trouble lies."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"{path}: {error}") from None
