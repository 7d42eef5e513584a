"""`launch.lookup` as a command: exit status, messages, files."""

import pathlib
import subprocess
import sys

import ml_collections
import pytest
from absl.testing import flagsaver

from fdbpl_jax import build, layout
from launch import lookup as lookup_command
from launch.local_multiprocess import free_port
from tests.fdbpl_jax import stub

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lookup")
    dataset = stub.write_pictures(root / "pictures", 6)
    return build.build(root / "l", dataset, stub.teacher(), stub.settings(), shards=(0, 1))


def run(word, **flags):
    with flagsaver.flagsaver(**flags):
        return lookup_command.main(["launch.lookup", word])


def test_digests_and_stats_need_only_the_folder(folder, tmp_path, capsys):
    assert run("verify", lookup=str(folder), digests_only=True) == 0
    assert "the lookup is sound" in capsys.readouterr().out
    assert run("stats", lookup=str(folder), plot=str(tmp_path / "s.png")) == 0
    assert "6 pictures x 8 regions, 3 of 7 classes stored" in capsys.readouterr().out
    assert (tmp_path / "s.png").is_file()


def test_a_flipped_byte_is_exit_status_1(folder, capsys):
    path = folder / "labels-00001-of-00002.arrayrecord"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert run("verify", lookup=str(folder), digests_only=True) == 1
    finally:
        path.write_bytes(whole)
    assert "labels-00001-of-00002.arrayrecord is corrupted" in capsys.readouterr().out


def test_shards_flag():
    assert lookup_command.parse_shards(None) is None
    assert lookup_command.parse_shards("1/4") == (1, 4)
    for text in ("4/4", "1", "a/b", "-1/4", "1/0"):
        with pytest.raises(ValueError, match="expected i/n"):
            lookup_command.parse_shards(text)


def test_a_lookup_must_be_named():
    with pytest.raises(ValueError, match="neither was given"):
        run("stats")
    with pytest.raises(ValueError, match="--config=FILE is needed"):
        run("build", lookup="somewhere")


def test_build_tells_of_both_lookups(folder, tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(
        build, "build_from_config", lambda config, **words: asked.update(words) or folder
    )
    config = ml_collections.ConfigDict({"lookup": {"dir": "elsewhere"}})
    assert run("build", config=config, also=str(tmp_path), also_split="all", shards="0/2") == 0
    wanted = {"also": str(tmp_path), "also_split": "all", "also_template": None, "shards": (0, 2)}
    assert asked == wanted | {"features": None}
    first, second = capsys.readouterr().out.splitlines()
    assert "6 pictures x 8 regions in 7 classes" in first
    assert second.startswith(f"{tmp_path}: this job's shards are written")


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_incomplete_lookup_ends_the_command_in_words(folder, tmp_path):
    done = command("launch.lookup", "stats", f"--lookup={tmp_path}")
    assert done.returncode != 0
    assert "manifest.json is missing: the build has not finished" in done.stderr
    assert "Traceback" not in done.stderr
    assert layout.MANIFEST not in {path.name for path in tmp_path.iterdir()}


def test_processes_that_do_not_come_are_named_without_a_trace(tmp_path):
    command = [sys.executable, "-m", "launch.lookup", "build", "--config=configs/fdbpl_world.py"]
    command += [f"--lookup={tmp_path / 'l'}", "--num_processes=2", "--process_id=0"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", "--start_timeout=0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "launch.lookup: process 1 of 2 did not report to process 0 within 0.3 s" in done.stderr
    assert "Traceback" not in done.stderr
