"""Faces: files of landmarks and boxes in every form, names of points, blinks, numbers that stay, mediapipe's results."""

import json
import sys
import types
from typing import Any

import numpy as np
import pytest

from gaze_jax import face_model
from gaze_jax.people import faces
from gaze_jax.people.landmark_files import LandmarkFile

IMAGE = np.zeros((40, 60, 3), np.uint8)
POINTS = {
    "right_eye_outer": (10.0, 10.0),
    "right_eye_inner": (18.0, 10.5),
    "left_eye_inner": (26.0, 10.5),
    "left_eye_outer": (34.0, 10.0),
    "mouth_right": (15.0, 30.0),
}


def write(path, text):
    path.write_text(text)
    return path


def wide(rows):
    names = [f"{name}_{axis}" for name in POINTS for axis in "xy"]
    lines = [",".join(["frame", *names])]
    for frame, points in rows:
        lines.append(",".join([frame, *(f"{v}" for name in POINTS for v in points[name])]))
    return "\n".join(lines)


def long(rows):
    lines = ["frame,face,point,x,y"]
    for number, (frame, points) in enumerate(rows):
        lines += [f"{frame},{number},{name},{x},{y}" for name, (x, y) in points.items()]
    return "\n".join(lines)


def test_every_form_gives_the_same_faces(tmp_path):
    rows = [("a.png", POINTS), ("sub/b.png", POINTS), ("sub/b.png", POINTS)]
    files = [write(tmp_path / "wide.csv", wide(rows)), write(tmp_path / "long.csv", long(rows))]
    content = {"a.png": [{"points": POINTS}], "sub\\b.png": [{"points": POINTS}] * 2}
    files.append(write(tmp_path / "faces.json", json.dumps(content)))
    for path in files:
        found = LandmarkFile(path)
        assert found(IMAGE, "/somewhere/a.png") == [faces.from_points(POINTS)], path
        assert len(found(IMAGE, "/x/sub/b.png")) == 2
        assert found.find("/x/b.png") is None
        assert found(IMAGE, "c.png") == []


def test_frames_of_videos_are_numbers(tmp_path):
    path = write(tmp_path / "boxes.csv", "frame,left,top,right,bottom\n0,1,2,3,4\n1,,,,\n")
    found = LandmarkFile(path, needs="box")
    assert found(IMAGE, "/x/clip.mp4/0") == [faces.Face((1.0, 2.0, 3.0, 4.0))]
    assert found.find("/x/clip.mp4/1") == []
    assert found.find("/x/clip.mp4/2") is None


def test_a_box_is_drawn_around_points_that_have_none():
    left, top, right, bottom = faces.from_points(POINTS).box_px
    assert left < 10 < 34 < right
    assert top < 10 < 30 < bottom
    assert faces.from_points(POINTS, (0, 1, 2, 3)).box_px == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "text", "needs", "message"),
    [
        ("f.txt", "", "points", r"from a \.csv or a \.json file"),
        ("f.json", "[1", "points", "not JSON"),
        ("f.json", "[]", "points", "an object with a list of faces"),
        ("f.csv", "", "points", "its columns are none; expected frame"),
        ("f.csv", "frame,x,y\n", "points", "its columns are frame, x, y"),
        ("f.json", '{"a": [{"box": [1, 2, 3]}]}', "box", r"'a', face 0: box \[1, 2, 3\]"),
        ("f.json", '{"a": [{"box": [5, 2, 3, 9]}]}', "box", "is empty; expected left < right"),
        ("f.json", '{"a": [{"points": {"eye": [1, 2]}}]}', "points", "called eye; known are right_eye"),
        ("f.json", '{"a": [{"box": [1, 2, 3, 4]}]}', "points", "0 named points"),
        ("f.json", '{"a": [7]}', "points", "expected an object with box and points, got 7"),
        ("f.json", '{"a": [{"points": [[1, 2]]}]}', "points", r"points of shape \(1, 2\)"),
        ("f.csv", "frame,left,top,right,bottom\na,1,2,x,4\n", "box", "line 2: right: 'x' is no finite"),
        ("f.csv", "frame,nose_tip_x,nose_tip_y\na,1,2\n", "box", "line 2: no box"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_why(name, text, needs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LandmarkFile(write(tmp_path / name, text), needs=needs)


def test_all_bad_faces_are_named(tmp_path):
    text = "frame,left,top,right,bottom\n" + "a,1,2,0,4\n" * 3
    with pytest.raises(ValueError, match=r"3 faces cannot be used:\n.*line 2.*\n.*line 3"):
        LandmarkFile(write(tmp_path / "f.csv", text), needs="box")
    with pytest.raises(FileNotFoundError, match="no such file of faces"):
        LandmarkFile(tmp_path / "absent.csv")


@pytest.mark.parametrize("count", [5, 68, 468, 478])
def test_points_of_usual_sets_have_names(count):
    array = np.arange(2.0 * count).reshape(count, 2)
    named = faces.name_points(array)
    if count == 5:
        assert named["nose_tip"] == (4.0, 5.0)
        assert set(named) <= set(face_model.POINTS)
        return
    table = face_model.DLIB68 if count == 68 else face_model.MEDIAPIPE
    for name, index in table.items():
        assert named[name] == (2.0 * index, 2.0 * index + 1)
    assert set(named) == {*table, *faces.LIDS, "nose_tip"}


def test_blinks():
    array = np.zeros((68, 2))
    for corner, x in ((36, 0), (39, 30), (42, 60), (45, 90)):
        array[corner] = (x, 20)
    for low, high, gap in ((41, 37, 6.0), (40, 38, 6.0), (47, 43, 4.0), (46, 44, 4.0)):
        array[low], array[high] = (0, 20 + gap / 2), (0, 20 - gap / 2)
    # The open one of two eyes decides: 6 / 30 = .2.
    assert faces.from_points(faces.name_points(array)).blink is False
    array[[41, 40], 1] -= 2.0
    assert faces.from_points(faces.name_points(array)).blink is True
    assert faces.from_points(POINTS).blink is None
    assert faces.Face((0, 0, 1, 1)).blink is None


def test_numbers_follow_faces():
    track = faces.Tracker()
    boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10.0]])
    assert track(boxes, 0.0) == [0, 1]
    assert track(boxes[::-1] + 2.0, 0.1) == [1, 0]
    assert track(np.zeros((0, 4)), 0.2) == []
    assert track(np.array([[200.0, 0, 210, 10], *boxes[1:]]), 0.3) == [2, 1]
    # Face 0 was away for longer than half a second.
    assert track(boxes, 0.7) == [3, 1]


def test_two_boxes_never_share_a_number():
    track = faces.Tracker()
    assert track(np.array([[0, 0, 10, 10.0]]), 0.0) == [0]
    assert track(np.array([[1, 0, 11, 10], [0.5, 0, 10, 10.0]]), 0.1) == [1, 0]


def test_overlap():
    a = np.array([0.0, 0, 10, 10])
    assert faces.overlap(a, a) == 1
    assert faces.overlap(a, a + 20) == 0
    assert faces.overlap(a, a + np.array([5, 0, 5, 0])) == pytest.approx(50 / 150)
    assert faces.overlap(np.zeros(4), np.zeros(4)) == 0


@pytest.fixture
def mediapipe(monkeypatch):
    """As much of mediapipe as is called, with one face of 478 known points."""
    made = {}
    points = np.random.default_rng(0).uniform(0.2, 0.8, (478, 2))
    mark = lambda xy: types.SimpleNamespace(x=xy[0], y=xy[1])

    class Landmarker:
        @staticmethod
        def create_from_options(options):
            made["options"] = options
            return Landmarker()

        def detect(self, image):
            made["image"] = image
            return types.SimpleNamespace(face_landmarks=[[mark(xy) for xy in points]])

    record = lambda **values: types.SimpleNamespace(**values)
    vision = record(
        FaceLandmarkerOptions=record,
        RunningMode=record(IMAGE="image"),
        FaceLandmarker=Landmarker,
    )
    module: Any = types.ModuleType("mediapipe")
    module.tasks = record(vision=vision, BaseOptions=record)
    module.Image, module.ImageFormat = record, record(SRGB="srgb")
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    return made, points


def test_mediapipe_is_asked_and_its_fractions_become_pixels(mediapipe, tmp_path):
    made, points = mediapipe
    model = write(tmp_path / "face_landmarker.task", "")
    (found,) = faces.FaceLandmarker(model, max_faces=3)(IMAGE, "a.png")
    assert made["options"].num_faces == 3
    assert made["options"].base_options.model_asset_path == str(model)
    assert made["image"].image_format == "srgb"
    x, y = points[face_model.MEDIAPIPE["left_eye_outer"]]
    # The middle of a picture of 60 pixels lies between pixels 29 and 30.
    assert found.points_px["left_eye_outer"] == pytest.approx((60 * x - 0.5, 40 * y - 0.5))
    assert found.box_px[2] == pytest.approx(60 * points[:, 0].max() - 0.5)


def test_without_mediapipe_or_its_model_the_message_says_what_to_do(
    mediapipe, monkeypatch, tmp_path
):
    with pytest.raises(FileNotFoundError, match=r"face_landmarker\.task, which its package does"):
        faces.FaceLandmarker(tmp_path / "absent.task")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match=r"\[gaze-face\].*--landmarks or --boxes"):
        faces.FaceLandmarker(tmp_path / "absent.task")
