"""Prediction from a work directory: what it needs, what it writes, what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from core_jax import clip
from launch import config, pictures, predict, runs
from tests.fdbpl_jax.conftest import save_tiny


@pytest.fixture
def images(base):
    folder = f"{base.data.root}/world_objects/images/test"
    return pictures.find_pictures([folder])[:5]


def test_probabilities_and_pictures_are_written(comparison, images, tmp_path, capsys):
    names = ["red plain circle", "blue striped ring", "white checkered heart"]
    rows = predict.predict(
        comparison / "fdbpl" / "seed1", images, tmp_path / "out", names=names, top_k=9, reject=True
    )
    assert rows == json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [str(path) for path in images]
    for row in rows:
        assert sorted(row["names"]) == sorted(names)
        assert sum(row["probabilities"]) == pytest.approx(1.0, abs=1e-5)
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        assert 0 <= row["accept"] <= 1
    with Image.open(tmp_path / "out" / "predictions.png") as image:
        assert np.asarray(image.convert("L")).std() > 1
    assert "Most probable classes" in capsys.readouterr().out


def test_neither_pictures_nor_lookup_of_the_training_are_needed(comparison, base, images, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(comparison / "fdbpl" / "seed1", folder)
    values = json.loads((folder / "config.json").read_text())
    values["data"]["root"] = values["lookup"]["dir"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(values))
    names = ["red plain circle", "blue striped ring"]
    moved = predict.predict(folder, images, tmp_path / "a", names=names)
    stayed = predict.predict(comparison / "fdbpl" / "seed1", images, tmp_path / "b", names=names)
    assert moved == stayed


def test_the_zero_shot_method_predicts_with_its_template(comparison, images, tmp_path):
    rows = predict.predict(comparison / "zeroshot" / "seed1", images, tmp_path, top_k=3)
    assert all(len(row["names"]) == 3 for row in rows)


def test_a_student_that_has_changed_is_refused(comparison, images, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(comparison / "coop" / "seed1", folder)
    save_tiny(tmp_path / "other", seed=9)
    values = json.loads((folder / "config.json").read_text())
    values["student"] = str(tmp_path / "other")
    (folder / "config.json").write_text(json.dumps(values))
    digest = clip.weights_digest(clip.load(tmp_path / "other").params)[:12]
    with pytest.raises(config.ConfigError, match=f"has other weights now \\({digest}\\)"):
        predict.predict(folder, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_picture_is_named_and_nothing_written(comparison, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 6 pictures.*\n.*bad\.png"):
        predict.predict(comparison / "coop" / "seed1", [*images, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_untrained_folder_says_so(tmp_path):
    with pytest.raises(config.ConfigError, match="nothing was trained there"):
        predict.predict(tmp_path, [], tmp_path / "out")
    (tmp_path / "config.json").write_text('{"task": "fdbpl"}')
    with pytest.raises(config.ConfigError, match="no checkpoint yet"):
        runs.learned(tmp_path)
