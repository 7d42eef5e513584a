"""`check` names what is wrong with a set: conventions, units, files, duplicates; and stays silent about a good one."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from gaze_jax import check, self_test, writers
from gaze_jax.gaze_set import InMemory
from tests.gaze_jax.gaze_sets import random_set, seeing_set

EYES = seeing_set("eye")
FACES = seeing_set("face", per_person=24)


def look(gaze_set):
    return check.check_set(gaze_set)[0]


@pytest.mark.parametrize("good", [EYES, FACES], ids=["eyes", "faces"])
def test_a_good_set_has_no_problems(good):
    report = look(good)
    assert report.problems == report.notes == ()
    assert report.test.persons == 2
    assert report.test.yaw_x < -0.6
    assert report.test.pitch_y < -0.6
    assert max(abs(report.test.pitch_x), abs(report.test.yaw_y)) < 0.4
    assert report.samples == len(good)
    assert sum(report.persons.values()) == len(good)
    low, high = report.ranges_deg["gaze_yaw"]
    np.testing.assert_allclose(
        [low, high], np.rad2deg([good.gaze[:, 1].min(), good.gaze[:, 1].max()]), rtol=1e-5
    )
    assert "complete" in report.text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda gaze: gaze[:, ::-1], "pitch and yaw are swapped"),
        (lambda gaze: -gaze, "the sign of the yaw and the pitch is flipped"),
        (lambda gaze: gaze * [1, -1], "the sign of the yaw is flipped"),
        (lambda gaze: gaze * [-1, 1], "the sign of the pitch is flipped"),
        (lambda gaze: -gaze[:, ::-1], "swapped.*and the sign of the yaw and the pitch is flipped"),
        (lambda gaze: np.rad2deg(gaze), "larger than pi.*degrees, not radians"),
        (
            lambda gaze: np.where(gaze == gaze[3], np.nan, gaze),
            "1 labels of the gaze are not finite",
        ),
        (lambda gaze: gaze + np.array([2, 0]), "beyond 90 degrees"),
    ],
)
@pytest.mark.parametrize("good", [EYES, FACES], ids=["eyes", "faces"])
def test_wrong_labels_are_named(good, change, words):
    gaze = np.asarray(change(good.gaze), np.float32)
    problems = look(dataclasses.replace(good, gaze=gaze)).problems
    assert len(problems) == 1
    assert re.search(words, problems[0]), problems[0]


def test_strips_cut_from_faces_show_the_eyes(tmp_path):
    faces = seeing_set("face", persons=1, per_person=30)
    writers.write(faces, tmp_path, "faze")
    strips = check.check("faze", tmp_path)
    assert strips.problems == strips.notes == ()
    assert strips.test.yaw_x < -0.6
    assert strips.test.pitch_y < -0.6


def test_a_verdict_needs_evidence():
    noise = look(random_set("eye", persons=2, per_person=40))
    assert noise.problems == ()
    assert "do not follow" in noise.notes[0]
    assert "plain crops" in look(dataclasses.replace(FACES, camera="")).notes[0]
    assert "no person has 20" in look(random_set("eye", persons=2, per_person=5)).notes[0]


def test_the_centroid_of_the_dark():
    patch = np.full((20, 40), 200, np.uint8)
    patch[2:6, 30:40] = 10
    x, y = self_test.centroid(patch)
    assert x == pytest.approx((34.5 - 19.5) / 40)
    assert y == pytest.approx((3.5 - 9.5) / 20)
    # A face's eyes are cut where the camera and the head say: 31 mm to each side, 8 mm behind the reference point.
    centres = self_test.Eyes(FACES).centres(0)
    assert centres[1, 0] - centres[0, 0] == pytest.approx(62 * 960 / 608)
    assert centres[:, 1].max() < 112 - 25


def test_rotations_scales_and_duplicates():
    norm, scale = EYES.norm.copy(), EYES.scale.copy()
    norm[2] *= 2
    norm[3] = np.diag([-1, 1, 1])
    scale[5] = 0
    array = EYES.images.array.copy()
    array[7] = array[1]
    report = look(dataclasses.replace(EYES, norm=norm, scale=scale, images=InMemory(array)))
    assert len(report.problems) == 3
    text = " ".join(report.problems)
    assert "2 rotations" in text
    assert "1 scales" in text
    assert "1 pictures occur more than once: picture 1 = picture 7" in text


def test_files_are_all_looked_at_and_the_rest_is_reported(tmp_path):
    writers.write(FACES, tmp_path, "plain")
    (tmp_path / "images/000003.png").unlink()
    (tmp_path / "images/000007.png").write_bytes(b"no picture")
    Image.new("RGB", (5, 5)).save(tmp_path / "images/000011.png")
    with open(tmp_path / "gaze.csv", "a") as table:
        table.write("images/000001.png,p00,face\n")
    report = check.check("plain", tmp_path, out=tmp_path / "out")
    assert [
        name in " ".join(report.problems) for name in ("line 50", "000003", "000007", "000011")
    ] == [True] * 4
    assert len(report.problems) == 4
    assert report.samples == 48
    assert report.test.yaw_x < -0.6
    stored = json.loads((tmp_path / "out/check.json").read_text())
    assert stored["problems"] == list(report.problems)
    assert stored["persons"] == {"p00": 24, "p01": 24}
    with Image.open(tmp_path / "out/check.png") as picture:
        # Four lines of six samples, with room for words.
        assert picture.size == (6 * 208 + 8, 4 * 238 + 8)


def test_the_arrow_points_where_the_label_says(tmp_path):
    from gaze_jax import samples_picture

    gaze = np.zeros((2, 2), np.float32)
    gaze[0] = np.deg2rad([0, 40])
    gaze[1] = np.deg2rad([40, 0])
    blank = random_set(
        "eye",
        persons=1,
        per_person=2,
        gaze=gaze,
        images=InMemory(np.full((2, 36, 60, 1), 128, np.uint8)),
    )
    samples_picture.write(tmp_path / "a.png", blank, np.arange(2), blank.images.array)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    y, x = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 90))
    first, second = x < 208, x >= 208
    # To the left of the first picture's centre, above the second's.
    assert x[first].min() < 108 - 60
    assert abs(y[first] - 68).max() < 8
    assert y[second].min() < 68 - 55
    assert abs(x[second] - 316).max() < 8


def test_nothing_to_check(tmp_path):
    report = check.check("mpiigaze", tmp_path / "nowhere", out=tmp_path / "out")
    assert "What to fetch" in report.problems[0]
    assert (tmp_path / "out/check.json").is_file()
    assert not (tmp_path / "out/check.png").exists()
