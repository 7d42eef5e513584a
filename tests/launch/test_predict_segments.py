"""Segmentation from the command line with the training-free host: what is written, what is refused, in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from core_jax import world
from core_jax.data.images import ImageError
from gba_jax import predict, trained
from launch import config, segment
from launch.pictures import read_classes

CLASSES = ["red plain circle", "yellow dotted diamond", "blue plain diamond"]
FLAGS = ("--clip=world:student", "--classes=red plain circle,blue plain diamond")


@pytest.fixture(scope="module")
def model():
    return segment.from_config(config.load("configs/gba_maskclip.py").to_dict())


@pytest.fixture
def pictures(tmp_path):
    """Three pictures, two of one name: colour, grey and with transparency."""
    image = world.render_segmentation(3, "val", 0, size=128).image
    paths = [tmp_path / "in" / name for name in ("a.png", "b/a.png", "c.png")]
    paths[1].parent.mkdir(parents=True)
    Image.fromarray(image).save(paths[0])
    Image.fromarray(image).convert("L").save(paths[1])
    Image.fromarray(image[:7]).convert("RGBA").save(paths[2])
    return paths


def run(*arguments):
    command = [sys.executable, "-m", "launch.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_maps_overlays_and_one_json_are_written(model, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    policy = "phrases:[background]"
    rows = segment.segment_files(model, pictures, CLASSES, out, background=policy)
    content = json.loads((out / segment.RESULT).read_text())
    assert content["pictures"] == rows
    assert (content["classes"], content["background"]) == (CLASSES, policy)
    assert [row["labels"] for row in rows] == ["a_labels.png", "a-2_labels.png", "c_labels.png"]
    for path, row in zip(pictures, rows):
        found = predict.segment(path, CLASSES, model=model, background=policy)
        with Image.open(out / row["labels"]) as image:
            assert image.mode == "I;16"
            labels = np.asarray(image).astype(np.int32)
        np.testing.assert_array_equal(np.where(labels == 65_535, -1, labels), found.label_map)
        assert (row["height"], row["width"]) == found.label_map.shape
        total = row["unlabelled"] + sum(entry["share"] for entry in row["classes"])
        assert total == pytest.approx(1.0)
        for entry in row["classes"]:
            assert entry["name"] == CLASSES[entry["label"]]
            assert 0 < entry["score"] <= 1
        assert "segments" not in row
        with Image.open(out / row["overlay"]) as image:
            assert image.width >= 720
    assert "c.png" in capsys.readouterr().out


def test_unreadable_pictures_are_all_named_and_nothing_is_written(model, pictures, tmp_path):
    for path in pictures[:2]:
        path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2 of 3 pictures.*nothing was segmented"):
        segment.segment_files(model, pictures, CLASSES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_large_pictures_are_looked_at_through_windows(model):
    windowed = segment.with_windows(model, 300)
    assert (windowed.plan.resize, windowed.plan.window, windowed.plan.stride) == (300, 128, 84)
    assert segment.with_windows(model, 512).plan.stride == 64
    assert segment.with_windows(windowed, 257).plan.stride == 85
    with pytest.raises(config.ConfigError, match="--resize=100: windows of 128 pixels"):
        segment.with_windows(model, 100)


def test_a_file_of_classes_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "classes.txt").write_text("cat, kitten\n\ngrass\n", encoding="utf-8-sig")
    assert read_classes(str(tmp_path / "classes.txt")) == ["cat, kitten", "grass"]


def test_things_are_classes_or_all():
    assert segment._flags(CLASSES, ["all"]) == [True, True, True]
    assert segment._flags(["cat, kitten", "grass"], ["cat"]) == [True, False]
    with pytest.raises(config.ConfigError, match="--things: dog not among the classes cat"):
        segment._flags(["cat"], ["dog"])


def test_a_model_or_templates_that_have_changed_are_refused():
    values = config.load("configs/gba_maskclip.py").to_dict()
    pins = {"clip": "0" * 64, "text encoder": "1" * 64, "templates": "2" * 64, "dataset": "3" * 64}
    with pytest.raises(ValueError, match="put the old files back") as error:
        trained.predictor(values, {}, {}, pins)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["clip", "text encoder", "templates"]


def test_a_configuration_that_has_to_be_trained_is_refused():
    with pytest.raises(config.ConfigError, match="host cost, which has to be trained"):
        segment.from_config({"task": "gba", "host": "cost"})


def test_the_command(pictures, tmp_path):
    (tmp_path / "classes.txt").write_text("red plain circle\nblue plain diamond, blue diamond\n")
    done = run(
        "--config=configs/gba_maskclip.py",
        f"--input={pictures[0]}",
        f"--out={tmp_path / 'out'}",
        f"--classes={tmp_path / 'classes.txt'}",
        "--background=threshold:0.4",
        "--resize=256",
    )
    assert done.returncode == 0, done.stderr
    assert "unlabelled" in done.stdout
    content = json.loads((tmp_path / "out" / segment.RESULT).read_text())
    assert content["classes"] == ["red plain circle", "blue plain diamond, blue diamond"]
    assert {c["name"] for c in content["pictures"][0]["classes"]} <= set(CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--classes=red ring"], "expected one of --workdir (of a run), --config"),
        ([*FLAGS, "--config=configs/gba_maskclip.py"], "got --config and --clip"),
        (["--clip=world:student", "--classes= ,"], "there is no class name in it"),
        (["--clip=world:student", "--classes=a,b,a"], "expected each name once; a stands"),
        (["--clip=world:student"], "--classes is missing"),
        ([*FLAGS, "--top=3"], "--top is nothing that task gba has"),
        ([*FLAGS, "--background=sky"], "expected none, threshold:T"),
        ([*FLAGS, "--background=null"], "this host gives every pixel to a class"),
        ([*FLAGS, "--input=nowhere"], "--input: no pictures at 'nowhere'"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(pictures, tmp_path, changes, message):
    out = tmp_path / "out"
    done = run(f"--input={pictures[0]}", f"--out={out}", *changes)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("launch.predict: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert not out.exists()
