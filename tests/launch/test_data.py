"""`launch.data` as a command: both kinds of data sets, exit status, messages, the embedded world's files."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from core_jax import world
from core_jax.world import scene_sets
from gba_jax import datasets
from launch import data as data_command
from tests.fdbpl_jax import coop_layout, test_datasets_tfds
from tests.fdbpl_jax.conftest import CLASSES
from tests.gba_jax import trees

ROOT = pathlib.Path(__file__).parents[2]


def run(word, root, **values):
    with flagsaver.flagsaver(root=str(root), **values):
        return data_command.main(["launch.data", word])


def class_folders(root):
    """Two classes of four pictures, as a folder of classification data."""
    for name in ("a", "b"):
        for i in range(4):
            trees.save(root / name / f"{i}.png", np.full((5, 5, 3), i, np.uint8))


def test_check_tells_everything_and_exits_with_1(tmp_path, capsys):
    assert run("check", tmp_path, dataset=["caltech101", "world_objects", "ade20k_150"]) == 1
    out = capsys.readouterr().out
    assert "caltech-101 does not exist" in out
    assert "world_objects does not exist" in out
    assert "no split of it is there; looked for ADEChallengeData2016" in out
    assert "what to fetch: ADEChallengeData2016" in out


def test_check_without_names_looks_for_all_known_data_sets(tmp_path, capsys):
    with pytest.raises(
        ValueError,
        match=r"none of the known data sets' folders is there\. .*caltech-101.*--dataset=folder",
    ):
        run("check", tmp_path)
    inner = tmp_path / "inner" / "dtd"
    inner.mkdir(parents=True)
    with pytest.raises(ValueError, match=f"there; dtd is one itself: --root={inner.parent}"):
        run("check", inner)
    trees.voc(tmp_path)
    trees.ade20k_150(tmp_path)
    (tmp_path / "caltech-101").mkdir()
    (tmp_path / "mine" / "images").mkdir(parents=True)
    assert run("check", tmp_path) == 1
    out = capsys.readouterr().out
    for line in (
        "data set 'caltech101'",
        "'voc20' below",
        "'voc21' below",
        "complete (150 classes; 1 val)",
    ):
        assert line in out
    # A folder of one's own is somebody's folder: never guessed.
    assert "'folder'" not in out


def test_check_of_a_good_folder(tmp_path, capsys):
    class_folders(tmp_path)
    assert run("check", tmp_path, dataset=["folder"]) == 0
    out = capsys.readouterr().out
    assert "folder: read as classification data" in out
    assert "complete (2 classes; 6 train, 0 val, 2 test)" in out


@pytest.mark.parametrize("place", ["", "train"])
def test_a_folder_with_masks_is_segmentation_data(tmp_path, capsys, place):
    trees.folder(tmp_path / place)
    assert run("check", tmp_path, dataset=["folder"]) == 0
    out = capsys.readouterr().out
    assert "folder: read as segmentation data" in out
    assert f"complete (2 classes; 2 {place or 'all'})" in out


def test_a_kind_decides_what_a_folder_is(tmp_path, capsys):
    trees.folder(tmp_path)
    assert run("check", tmp_path, dataset=["folder"], kind="segmentation") == 0
    assert "read as" not in capsys.readouterr().out
    # images/ and masks/ taken for classes: there is a picture in each.
    run("check", tmp_path, dataset=["folder"], kind="classification")
    assert "complete (2 classes; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("caltech101", None, "classification"),
        ("coco_stuff", None, "segmentation"),
        ("world_objects", None, "classification"),
        ("world_scenes", None, "segmentation"),
        ("folder", "classification", "classification"),
        ("folder", None, "classification"),
    ],
)
def test_kinds_of_names(tmp_path, name, kind, expected):
    assert data_command.kind_of(name, str(tmp_path), kind) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"dataset": ["nope"]},
            "--dataset=nope: no known data set has this name.*caltech101.*voc21",
        ),
        (
            {"dataset": ["caltech101"], "kind": "segmentation"},
            "no known segmentation data set has this name",
        ),
        ({"dataset": ["caltech101"], "split": "val"}, "--split=val is for segmentation data"),
        (
            {"dataset": ["voc20", "voc21"], "classes": "c.txt"},
            "--classes=c.txt belongs to one data set, not to voc20, voc21",
        ),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run("check", tmp_path, **flags)


def test_labels_out_of_range_are_told_with_their_files(tmp_path, capsys):
    trees.folder(tmp_path)
    trees.grey(tmp_path / "masks/a.png", [[0, 7, 255]])
    trees.grey(tmp_path / "masks/sub/a.png", [[9, 0, 65535]], np.uint16)
    assert run("check", tmp_path, dataset=["folder"]) == 1
    out = capsys.readouterr().out
    assert "2 problems" in out
    assert "a.png holds the values 7 in 1 pixels, which are no labels: expected 0..1" in out
    assert "holds the values 9 in 1 pixels" in out


def test_eight_bits_for_300_classes(tmp_path, capsys):
    trees.folder(tmp_path)
    names = tmp_path / "many.txt"
    trees.text(names, "\n".join(f"class {k}" for k in range(301)))
    assert run("check", tmp_path, dataset=["folder"], classes=str(names)) == 1
    out = capsys.readouterr().out
    assert "1 problem\n" in out
    assert "a.png has 8-bit labels, which cannot hold 301 classes" in out


def test_one_split_and_another_class_list(tmp_path, capsys):
    trees.folder(tmp_path / "train")
    trees.folder(tmp_path / "val")
    trees.grey(tmp_path / "train/masks/a.png", [[0, 7, 255]])
    assert run("check", tmp_path, dataset=["folder"], split="val") == 0
    assert "complete (2 classes; 2 val)" in capsys.readouterr().out
    assert run("check", tmp_path, dataset=["folder"]) == 1
    names = tmp_path / "mine.txt"
    trees.text(names, "\n".join(f"class {k}" for k in range(9)))
    assert run("check", tmp_path, dataset=["folder"], classes=str(names)) == 0
    capsys.readouterr()
    assert run("check", tmp_path, dataset=["folder"], split="test") == 1
    assert "there is no split 'test', only train, val" in capsys.readouterr().out


def test_a_table_of_all_sets(tmp_path, capsys):
    coop_layout.write("dtd", tmp_path)
    coop_layout.write("imagenet_a", tmp_path)
    (tmp_path / "dtd/images/banded/banded_0001.jpg").unlink()
    (tmp_path / "dtd/images/banded/banded_0002.jpg").write_bytes(b"none")
    (tmp_path / "oxford_pets").mkdir()
    assert run("check", tmp_path) == 1
    out = capsys.readouterr().out
    assert "banded_0001.jpg is missing" in out
    table = {
        line.split()[0]: line.split(maxsplit=5)[1:]
        for line in out.splitlines()
        if line[:1].islower()
    }
    assert table["dtd"] == ["3", "15", "6", "9", "1 picture missing, 1 damaged, other counts"]
    assert table["imagenet_a"] == ["3", "0", "0", "9", "other counts"]
    assert table["oxford_pets"] == [*"----", "lacks images, split_zhou_OxfordPets.json"]
    assert table["ucf101"] == [*"----", "absent"]
    assert "what to fetch for one that is absent: --dataset=imagenet" in out


def test_pictures_that_are_only_looked_for(tmp_path, capsys):
    coop_layout.write("dtd", tmp_path)
    (tmp_path / "dtd/images/banded/banded_0002.jpg").write_bytes(b"none")
    assert run("check", tmp_path, dataset=["dtd"], decode=False) == 1
    out = capsys.readouterr().out
    assert "3 classes, expected 47" in out
    assert "readable" not in out


def test_tfds_pictures_as_files(tmp_path, capsys):
    labels = ["banded", "blotchy", "zigzagged"]
    images, rows = test_datasets_tfds.only_lists(tmp_path, "dtd")
    named = [(path, label, coop_layout.encoded()) for path, label, _ in rows]
    named.append(("banded/banded_9999.jpg", 0, coop_layout.encoded()))
    cut = {"train": named[:9], "validation": named[9:12], "test": named[12:]}
    prepared = tmp_path / "prepared"
    test_datasets_tfds.prepare(prepared, "dtd", cut, labels=labels)
    flags = {"dataset": ["dtd"], "tfds_dir": str(prepared)}
    assert run("tfds", tmp_path, **flags) == 0
    out = capsys.readouterr().out
    assert f"{images}: 30 pictures, 0 of them there before; 1 of TFDS are on none" in out
    assert run("tfds", tmp_path, **flags, own_split=True) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'tfds_dtd'}: 31 pictures" in out
    assert f"read it with data.dataset=folder, data.root={tmp_path / 'tfds_dtd'}" in out
    assert run("check", tmp_path / "tfds_dtd", dataset=["folder"]) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "tfds needs --dataset=NAME and --tfds_dir=DIR.*food101"),
        ({"dataset": ["food101"]}, "tfds needs --dataset=NAME and --tfds_dir=DIR"),
        ({"dataset": ["sun397"], "tfds_dir": "x"}, "sun397.*cannot come from TFDS.*not the same"),
        ({"dataset": ["dtd"], "tfds_dir": "x"}, "split_zhou_DescribableTextures.json.*--own_split"),
    ],
)
def test_tfds_that_cannot_be(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        run("tfds", tmp_path, **values)


def test_world_writes_another_draw_and_more_test_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(world.write_objects.__kwdefaults__, "classes", CLASSES)
    assert run("world", tmp_path, seed=3, test_per_class=2) == 0
    folder = tmp_path / "world_objects"
    assert capsys.readouterr().out.strip() == str(folder)
    split = json.loads((folder / "split_zhou_WorldObjects.json").read_text())
    assert [len(split[name]) for name in ("train", "val", "test")] == [16 * 7, 4 * 7, 2 * 7]
    assert json.loads((folder / "world.json").read_text())["parameters"]["seed"] == 3


def test_scenes_are_written_and_found_in_order(tmp_path, capsys, monkeypatch):
    short = tuple(
        scene_sets.SceneSplit(name=one.name, count=2, styles=one.styles, among=one.among)
        for one in scene_sets.SCENE_SPLITS
    )
    monkeypatch.setitem(scene_sets.write_scenes.__kwdefaults__, "splits", short)
    assert run("scenes", tmp_path, seed=3, size=32) == 0
    folder = tmp_path / "world_scenes"
    assert capsys.readouterr().out.strip() == str(folder)
    parameters = json.loads((folder / "world.json").read_text())["parameters"]
    assert (parameters["seed"], parameters["size"]) == (3, 32)
    assert datasets.read("world_scenes", tmp_path, "both")[0].image.shape == (32, 32, 3)
    assert run("check", tmp_path) == 0
    out = capsys.readouterr().out
    assert "complete (65 classes; 2 both, 2 novel, 2 style, 2 train, 2 val)" in out


def test_the_command_ends_in_words(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "launch.data", "check", f"--root={tmp_path / 'nowhere'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "nowhere: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr
