"""`launch.data check --dataset=gaze/...` and `launch.data render` as commands."""

import numpy as np
import pytest
from absl.testing import flagsaver

from gaze_jax import readers, writers
from launch import data as data_command
from launch import gaze_data
from tests.gaze_jax.gaze_sets import seeing_set, smooth_frames


def run(word, **values):
    with flagsaver.flagsaver(**values):
        return data_command.main(["launch.data", word])


def test_check_of_gaze_data_writes_a_report_and_exits_with_1(tmp_path, capsys):
    eyes = seeing_set("eye", persons=1, per_person=30)
    writers.write(eyes, tmp_path, "mpiigaze")
    root = str(tmp_path)
    assert run("check", root=root, dataset=["gaze/mpiigaze"]) == 0
    assert "30 samples of 1 persons" in capsys.readouterr().out
    assert (tmp_path / "check.png").is_file()
    out = str(tmp_path / "out")
    assert run("check", root=root, dataset=["gaze/eth_xgaze"], out=out) == 1
    assert "PROBLEM" in capsys.readouterr().out
    assert (tmp_path / "out/check.json").is_file()


def test_readers_take_options_from_the_command_line(tmp_path, capsys):
    faces = seeing_set("face", persons=1, per_person=24)
    writers.write(faces, tmp_path, "eth_xgaze")
    values = {"root": str(tmp_path), "dataset": ["gaze/eth_xgaze"]}
    assert run("check", **values, read=["order=pitch_yaw"]) == 0
    assert run("check", **values, read=["order=yaw_pitch"]) == 1
    assert "pitch and yaw are swapped" in capsys.readouterr().out
    with pytest.raises(ValueError, match="eth_xgaze has no option size"):
        run("check", **values, read=["size=3"])
    with pytest.raises(ValueError, match="NAME=VALUE"):
        run("check", **values, read=["size"])
    parsed = gaze_data.read_options(["a=3", "b=True", "c=x=y"])
    assert parsed == {"a": 3, "b": True, "c": "x=y"}


def test_render_needs_a_name_and_a_place(tmp_path):
    with pytest.raises(ValueError, match="--out=DIR"):
        run("render", dataset=["gaze/eyes_A"])
    with pytest.raises(ValueError, match="nothing of this name is rendered"):
        run("render", dataset=["gaze/eyes_E"], out=str(tmp_path))
    with pytest.raises(ValueError, match="--format=png"):
        run("render", dataset=["gaze/eyes_A"], out=str(tmp_path), format="png")


def test_rendered_eyes_in_a_format_of_the_field(tmp_path, capsys, monkeypatch):
    from gaze_jax.render import store

    def quick(name, root, *, persons, per_person, seed):
        assert (name, persons, per_person, seed) == ("eyes_A", 2, 6, 5)
        return seeing_set("eye", persons=persons, per_person=per_person)

    monkeypatch.setattr(store, "open_set", quick)
    values = {
        "persons": 2,
        "per_person": 6,
        "seed": 5,
        "out": str(tmp_path),
        "dataset": ["gaze/eyes_A"],
    }
    assert run("render", **values, format="mpiigaze") == 0
    assert "12 pictures of 2 rendered persons, as mpiigaze" in capsys.readouterr().out
    found = readers.read("mpiigaze", tmp_path)
    np.testing.assert_allclose(
        found.gaze, seeing_set("eye", persons=2, per_person=6).gaze, atol=1e-6
    )
    checked = values | {"root": str(tmp_path), "dataset": ["gaze/eyes_A"]}
    assert run("check", **checked) == 0
    assert "no person has 20" in capsys.readouterr().out


def test_rendered_frames_as_a_set_was_recorded(tmp_path, capsys, monkeypatch):
    from gaze_jax.render import domains

    def quick(kind, domain, people, per_person, *, seed, progress):
        assert (kind, domain, seed) == ("frames", "B", 5)
        return smooth_frames(people, per_person)

    monkeypatch.setattr(domains, "make", quick)
    values = {"persons": 1, "per_person": 2, "seed": 5, "dataset": ["gaze/frames_B"]}
    assert run("render", **values, out=str(tmp_path), format="mpiifacegaze_raw") == 0
    assert "2 frames of 1 persons, as mpiifacegaze_raw" in capsys.readouterr().out
    assert len(readers.read("mpiifacegaze_raw", tmp_path)) == 2
    with pytest.raises(ValueError, match="can be written as mpiigaze_raw, mpiifacegaze_raw"):
        run("render", **values, out=str(tmp_path), format="mpiigaze")
