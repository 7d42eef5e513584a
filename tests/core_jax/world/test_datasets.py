"""Data sets on disk: readable files, completed after a kill, refused when the parameters differ."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from core_jax import world
from core_jax.data import files
from core_jax.world import disk, shipped

_CLASSES = world.CLASSES[:3] + world.CLASSES[200:202]
_SMALL = {
    "size": 24,
    "train_per_class": 3,
    "val_per_class": 1,
    "test_per_class": 2,
    "classes": _CLASSES,
    "progress": False,
}
_SPLITS = (
    world.SceneSplit(name="train", count=5, styles="clean"),
    world.SceneSplit(name="held", count=3, styles="blur", among=tuple(sorted(world.HELD_OUT))),
)


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_objects_in_coop_layout(tmp_path):
    folder = world.write_objects(tmp_path, **_SMALL)
    assert folder == tmp_path / "world_objects"
    table = json.loads((folder / "split_zhou_WorldObjects.json").read_text())
    assert {split: len(rows) for split, rows in table.items()} == {
        "train": 15,
        "val": 5,
        "test": 10,
    }
    seen = set()
    for split, rows in table.items():
        for path, label, name in rows:
            assert _CLASSES[label] == name
            with Image.open(folder / "images" / path) as picture:
                assert picture.size == (24, 24)
                pixels = np.asarray(picture)
            number = int(pathlib.Path(path).stem)
            index = world.CLASSES.index(name) * 1_000_000 + number
            scene = world.render(
                0,
                f"objects/{split}",
                index,
                size=24,
                style=(("sketch", 0.5), ("grain", 0.5)),
                attributes=world.CLASS_ATTRIBUTES[world.CLASSES.index(name)],
            )
            np.testing.assert_array_equal(pixels, scene.image)
            seen.add(pixels.tobytes())
    assert len(seen) == 30
    marker = json.loads((folder / "world.json").read_text())
    assert marker["complete"]
    assert marker["files"] == 31


def test_a_smaller_set_is_a_part_of_a_larger_one(tmp_path):
    small = world.write_objects(tmp_path / "a", **_SMALL)
    other = {**_SMALL, "train_per_class": 4, "classes": _CLASSES[::-1]}
    large = _contents(world.write_objects(tmp_path / "b", **other) / "images")
    part = _contents(small / "images")
    assert part == {path: large[path] for path in part}


def test_again_leaves_everything_alone_and_mends_what_is_missing(tmp_path):
    folder = world.write_objects(tmp_path, **_SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    world.write_objects(tmp_path, **_SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    contents = _contents(folder)
    next((folder / "images").rglob("*.png")).unlink()
    (folder / "split_zhou_WorldObjects.json").unlink()
    world.write_objects(tmp_path, **_SMALL)
    assert _contents(folder) == contents


def test_other_parameters_are_refused_with_all_differences(tmp_path):
    folder = world.write_objects(tmp_path, **_SMALL)
    before = _contents(folder)
    with pytest.raises(world.WorldFolderError) as caught:
        world.write_objects(tmp_path, **{**_SMALL, "size": 32, "test_per_class": 5})
    message = str(caught.value)
    assert "size: there 24, asked for 32" in message
    assert "test_per_class: there 2, asked for 5" in message
    assert "train_per_class" not in message
    assert _contents(folder) == before


def test_a_strange_or_damaged_folder_is_refused(tmp_path):
    folder = tmp_path / "world_objects"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(
        world.WorldFolderError, match=r"1 entries \(holiday.jpg.* but no world.json"
    ):
        world.write_objects(tmp_path, **_SMALL)
    for text in ("{", "[]", "{}"):
        (folder / "world.json").write_text(text)
        with pytest.raises(world.WorldFolderError, match=r"world.json is damaged"):
            world.write_objects(tmp_path, **_SMALL)
    assert sorted(p.name for p in folder.iterdir()) == ["holiday.jpg", "world.json"]


def test_killed_half_way_then_completed(tmp_path):
    """SIGKILL in the middle, the same command again: the same bytes as a run that was left in peace."""
    script = (
        "import sys; from core_jax import world; "
        "world.write_objects(sys.argv[1], size=24, train_per_class=40, val_per_class=1, "
        "test_per_class=1, classes=world.CLASSES[:16], progress=False)"
    )
    folder = tmp_path / "killed" / "world_objects"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder.parent)])
    while process.poll() is None and len(list(folder.glob("images/train/*/*.png"))) < 100:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not json.loads((folder / "world.json").read_text())["complete"]
    assert not (folder / "split_zhou_WorldObjects.json").exists()
    for root in (folder.parent, tmp_path / "whole"):
        subprocess.run([sys.executable, "-c", script, str(root)], check=True)
    assert _contents(folder) == _contents(tmp_path / "whole" / "world_objects")


def test_a_full_disk_is_reported_and_can_be_repeated(tmp_path, monkeypatch):
    real, calls = files.atomic_write, []

    def full(path, data):
        calls.append(path)
        if len(calls) > 10:
            raise files.DiskFullError(28, f"no space left on the device while writing {path}")
        real(path, data)

    monkeypatch.setattr(files, "atomic_write", full)
    with pytest.raises(files.DiskFullError, match="no space left"):
        world.write_objects(tmp_path / "a", **_SMALL)
    monkeypatch.undo()
    folder = world.write_objects(tmp_path / "a", **_SMALL)
    assert _contents(folder) == _contents(world.write_objects(tmp_path / "b", **_SMALL))


def test_pretrain_pictures_and_captions(tmp_path):
    folder = world.write_pretrain(tmp_path, size=16, train=300, val=20, progress=False)
    rows = [json.loads(line) for line in (folder / "captions_train.jsonl").read_text().splitlines()]
    assert len(rows) == 300
    assert len((folder / "captions_val.jsonl").read_text().splitlines()) == 20
    batch = world.render_batch(0, "pretrain", 0, 300, size=16, held_out=world.HELD_OUT)
    triple = batch["shape"], batch["colour"], batch["texture"]
    assert [row["caption"] for row in rows] == world.captions(0, "pretrain", 0, *triple).texts
    for k in (0, 255, 256, 299):
        with Image.open(folder / "images" / rows[k]["image"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), batch["image"][k])
        assert rows[k]["class"] == world.class_name(*(int(v[k]) for v in triple))
        assert rows[k]["style"] == world.STYLE_NAMES[batch["style"][k]]
    assert not {row["class"] for row in rows} & world.HELD_OUT


def test_scenes_with_masks_instances_and_boxes(tmp_path):
    folder = world.write_scenes(
        tmp_path, size=32, splits=_SPLITS, classes=world.CLASSES, progress=False
    )
    for split in _SPLITS:
        part = folder / split.name
        names = (part / "classes.txt").read_text().splitlines()
        assert names == ["background", *world.CLASSES]
        table = json.loads((part / "scenes.json").read_text())["scenes"]
        assert len(table) == split.count
        for row in table:
            maps = {}
            for kind in ("images", "masks", "instances"):
                with Image.open(part / kind / row["image"]) as picture:
                    maps[kind] = np.asarray(picture).astype(np.int32)
            assert maps["images"].shape == (32, 32, 3)
            assert row["style"] == split.styles
            for o in row["objects"]:
                where = maps["instances"] == o["instance"]
                assert where.sum() == o["area"]
                assert set(maps["masks"][where]) == {o["label"]}
                assert names[o["label"]] == o["class"]
                assert split.among is None or o["class"] in split.among
                top, left, height, width = o["box"]
                assert where[top : top + height, left : left + width].sum() == o["area"]
    before = _contents(folder)
    world.write_scenes(tmp_path, size=32, splits=_SPLITS, classes=world.CLASSES, progress=False)
    assert _contents(folder) == before


def test_scene_classes_leave_every_attribute_seen_and_unseen():
    assert len(world.SCENE_CLASSES) == 64
    assert (
        world.HELD_OUT & set(world.SCENE_CLASSES) <= world.SCENE_UNSEEN < set(world.SCENE_CLASSES)
    )
    assert 0.3 < len(world.SCENE_UNSEEN) / 64 < 0.4
    for group in (world.SCENE_UNSEEN, set(world.SCENE_CLASSES) - world.SCENE_UNSEEN):
        for k, count in ((0, 8), (1, 4), (2, 2)):
            words = [name.split()[k] for name in group]
            assert len(set(words)) == count
            assert min(map(words.count, words)) >= 2


def test_bad_arguments_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="train_per_class is 0; val_per_class is -1"):
        world.write_objects(tmp_path, train_per_class=0, val_per_class=-1)
    with pytest.raises(ValueError, match="not classes of the embedded world: 'cat'"):
        world.write_objects(tmp_path, classes=("cat",))
    with pytest.raises(ValueError, match="'oil' is not one of"):
        world.write_objects(tmp_path, styles="oil")
    with pytest.raises(ValueError, match="expected at least 8"):
        world.write_pretrain(tmp_path, size=3)
    with pytest.raises(ValueError, match="val is 0"):
        world.write_pretrain(tmp_path, val=0)
    with pytest.raises(ValueError, match="split names"):
        world.write_scenes(tmp_path, splits=_SPLITS[:1] * 2)
    with pytest.raises(ValueError, match="split names"):
        world.write_scenes(tmp_path, splits=())
    assert not list(tmp_path.iterdir())


def test_the_renderer_is_part_of_the_parameters(tmp_path, monkeypatch):
    world.write_objects(tmp_path, **_SMALL)
    monkeypatch.setattr(disk, "fingerprint", lambda: "0123456789abcdef")
    with pytest.raises(world.WorldFolderError, match=r"renderer: there .* asked for"):
        world.write_objects(tmp_path, **_SMALL)


def test_pair_is_found_or_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no member 'tutor'; expected one of student, teacher"):
        world.pair("tutor")
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing"):
        world.pair("student")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model.safetensors").touch()
    assert world.pair("student") == tmp_path / "student"
