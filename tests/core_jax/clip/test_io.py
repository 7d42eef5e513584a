"""Folders read and written: HuggingFace's layout, shards, types, hub ids, refusals."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import CLIPImageProcessor, CLIPModel

import core_jax.clip as clip
from core_jax.clip import io


@pytest.fixture
def copy(saved, tmp_path) -> pathlib.Path:
    """A folder of the model that a test may spoil."""
    return pathlib.Path(shutil.copytree(saved.folder, tmp_path / "copy"))


def digest(model: clip.Clip) -> str:
    return clip.weights_digest(model.params)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_opens_what_we_save(saved, tmp_path, dtype):
    """The same outputs, bit for bit, as torch's own copy of the model in that type."""
    folder = tmp_path / "deep" / "model"
    clip.save(folder, saved.ours.config, saved.ours.params, dtype=dtype)
    theirs, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.dtype == getattr(torch, dtype)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 98, 0], [1, 98, 0, 0]])
    expected = CLIPModel.from_pretrained(saved.folder, dtype=theirs.dtype).float().eval()
    with torch.no_grad():
        ours = theirs.float().eval()(input_ids=ids, pixel_values=pixels)
        output = expected(input_ids=ids, pixel_values=pixels)
    assert torch.equal(ours.logits_per_image, output.logits_per_image)
    assert ours.logits_per_image.shape == (2, 2)


def test_what_we_save_we_load(saved, tmp_path):
    config = dataclasses.replace(saved.ours.config, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    clip.save(tmp_path / "model", config, saved.ours.params)
    again = clip.load(str(tmp_path / "model"))
    assert again.config == config
    assert digest(again) == digest(saved.ours)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(again.params))
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # whoever may read one file of the folder may read all


def test_every_configuration_survives(reference, tmp_path):
    clip.save(tmp_path / "model", reference.ours.config, reference.ours.params)
    again = clip.load(tmp_path / "model")
    assert again.config == reference.ours.config
    assert digest(again) == digest(reference.ours)


def test_the_processor_reads_our_preprocessing(saved, tmp_path):
    config = dataclasses.replace(saved.ours.config, mean=(0.1, 0.2, 0.3))
    clip.save(tmp_path / "model", config, saved.ours.params)
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "model")
    assert tuple(processor.image_mean) == config.mean
    assert processor.crop_size["height"] == processor.size["shortest_edge"] == 32


def test_shards_are_joined(saved, tmp_path):
    saved.torch.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert digest(clip.load(tmp_path)) == digest(saved.ours)


def test_shards_of_an_index_that_are_not_there_are_all_named(saved, tmp_path):
    saved.torch.save_pretrained(tmp_path, max_shard_size="40KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(clip.SourceError) as error:
        clip.load(tmp_path)
    assert all(path.name in str(error.value) for path in gone)


def test_an_index_does_not_lead_out_of_its_folder(copy):
    os.rename(copy / "model.safetensors", copy.parent / "model.safetensors")
    index = {"weight_map": {"logit_scale": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(clip.SourceError, match=r"\.\./model\.safetensors"):
        clip.load(copy)


def test_a_cut_file_is_an_error_that_names_it(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(clip.WeightsError, match=r"model\.safetensors"):
        clip.load(copy)


def test_missing_weights_are_never_made_up(copy):
    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    del tensors["logit_scale"], tensors["text_projection.weight"]
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(clip.WeightsError) as error:
        clip.load(copy)
    assert str(copy) in str(error.value)
    assert "missing: logit_scale" in str(error.value)
    assert "missing: text_projection.weight of shape (24, 32)" in str(error.value)


def test_other_folders_are_explained(tmp_path, copy):
    with pytest.raises(clip.SourceError, match=r"has no config\.json"):
        clip.load(tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(clip.SourceError, match=r"neither model\.safetensors nor"):
        clip.load(copy)
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(clip.ConfigError, match="'bert'"):
        clip.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(clip.ConfigError, match=r"config\.json is not JSON"):
        clip.load(copy)


def test_whole_processors_keep_the_statistics_elsewhere(copy):
    content = {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 1.0]}}
    (copy / "processor_config.json").write_text(json.dumps(content))
    assert clip.load(copy).config.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("name", "wrap"), [("pytorch_model.bin", None), ("last.ckpt", "state_dict")]
)
def test_pickled_checkpoints_are_refused_with_a_conversion_that_works(saved, copy, name, wrap):
    state = saved.torch.state_dict()
    (copy / "model.safetensors").unlink()
    torch.save({wrap: state} if wrap else state, copy / name)
    with pytest.raises(clip.SourceError, match="pickled") as error:
        clip.load(copy)
    # Named as a file, the same.
    with pytest.raises(clip.SourceError, match="pickled"):
        clip.load(copy / name)
    command = next(
        line.strip() for line in str(error.value).splitlines() if line.strip().startswith("python")
    )
    words = shlex.split(command)
    assert words[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    assert digest(clip.load(copy)) == digest(saved.ours)


def test_hub_ids_go_through_the_hub(saved, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return str(saved.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert digest(clip.load("openai/clip-vit-tiny.1")) == digest(saved.ours)
    ((name, options),) = asked
    assert name == "openai/clip-vit-tiny.1"
    assert not any("bin" in pattern for pattern in options["allow_patterns"])


def test_local_folders_never_ask_the_hub(saved, monkeypatch, tmp_path):
    def download(*args, **options):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/exists")
    shutil.copytree(saved.folder, "owner/name")
    assert digest(clip.load("owner/name")) == digest(saved.ours)
    # The folder "runs" exists, so "runs/model" is a path with a typing error and no hub id.
    for source in ("runs/model", "./runs/x", "/nowhere/model", "model", "", "a/b/c", "~/none"):
        with pytest.raises(clip.SourceError, match="there is no folder"):
            clip.load(source)
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(clip.SourceError, match="is a file: give the folder that holds it"):
        clip.load(tmp_path / "file.safetensors")


def test_a_hub_without_an_answer_is_one_error(monkeypatch):
    def download(*args, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(clip.SourceError, match=r"'some/model' is no folder .* offline"):
        clip.load("some/model")


def test_saving_copies_tokenizer_files(saved, byte_pairs, tmp_path):
    clip.save(tmp_path / "a", saved.ours.config, saved.ours.params, tokenizer_files=byte_pairs)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (byte_pairs / name).read_bytes()
    words = clip.word_level(["red"])
    clip.save(
        tmp_path / "b",
        saved.ours.config,
        saved.ours.params,
        tokenizer_files={"tokenizer.json": words},
    )
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == words
    with pytest.raises(clip.SourceError, match="none of the tokenizer files"):
        clip.save(tmp_path / "c", saved.ours.config, saved.ours.params, tokenizer_files=tmp_path)
    assert not (tmp_path / "c").exists()


def test_a_folder_appears_complete_or_not_at_all(saved, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(io.safetensors.numpy, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            clip.save(tmp_path / "model", saved.ours.config, saved.ours.params)
    assert list(tmp_path.iterdir()) == []
    broken = saved.ours.params | {"logit_scale": np.float32(np.nan)}
    with pytest.raises(clip.WeightsError, match="not finite: 1 of 1 values of logit_scale"):
        clip.save(tmp_path / "model", saved.ours.config, broken)
    assert list(tmp_path.iterdir()) == []


def test_saving_again_replaces_the_model_and_keeps_the_rest(saved, tmp_path):
    folder = tmp_path / "model"
    clip.save(folder, saved.ours.config, saved.ours.params)
    (folder / "README.md").write_text("the model card")
    other = saved.ours.params | {"logit_scale": np.float32(1.0)}
    clip.save(folder, saved.ours.config, other, dtype="float16")
    assert float(clip.load(folder).params["logit_scale"]) == 1.0
    assert (folder / "README.md").read_text() == "the model card"
    assert list(tmp_path.iterdir()) == [folder]


def test_init_is_random_by_key_only(saved):
    config = saved.ours.config
    init = jax.jit(clip.init, static_argnums=0)
    one, same, other = (
        clip.weights_digest(init(config, key=jax.random.key(seed))) for seed in (0, 0, 1)
    )
    assert one == same != other
