"""Dots on the screen: where they stand, and the sequence of pictures with a window and a camera that are not there."""

import csv
import itertools
import sys
import types

import numpy as np
import pytest
from PIL import Image

from gaze_jax.people import calibration_file, dots, landmark_files, strangers
from gaze_jax.screen import beside_camera
from launch import config, gaze, gaze_calibrate, gaze_dots, gaze_sources
from launch.gaze_dots import BACK, STOP, TAKE
from launch.gaze_sources import Shot
from tests.launch.test_predict_gaze import FACE, estimator

SIZE_PX = (640, 400)
SCREEN = beside_camera(SIZE_PX, (320.0, 200.0), (160.0, -10.0))


def test_dots_stand_in_the_middle_then_in_the_corners_then_at_the_edges():
    # A tenth of the screen stays free all around; pixel centres are integers.
    expected = [(320, 200), (64, 40), (575, 359), (64, 359), (575, 40)]
    np.testing.assert_allclose(dots.places(5, SIZE_PX), expected, atol=1)
    nine = dots.places(9, SIZE_PX)
    assert {tuple(place) for place in nine} == set(itertools.product(*map(np.unique, nine.T)))
    np.testing.assert_array_equal(dots.places(1, SIZE_PX), nine[:1])
    with pytest.raises(ValueError, match="4 dots: expected one of 1, 5, 9"):
        dots.places(4, SIZE_PX)


def test_a_dot_is_where_it_is_said_to_be():
    without = dots.picture(SIZE_PX, None, "words")
    assert without.shape == (400, 640, 3)
    assert without.dtype == np.uint8
    for place in dots.places(9, SIZE_PX):
        differs = (dots.picture(SIZE_PX, place, "words") != without).any(-1)
        y, x = np.nonzero(differs)
        np.testing.assert_allclose([x.mean(), y.mean()], place, atol=0.5)
        # The words are neither covered nor beside a dot.
        assert np.ptp(y) < 0.05 * 400
    assert (dots.picture(SIZE_PX, None, "other words") != without).any()


class Keys:
    """A window whose user presses these, one after the other, while the camera runs on."""

    def __init__(self, *keys):
        self.keys, self.shown = list(keys), []

    def ask(self, picture, meanwhile):
        self.shown.append(picture)
        meanwhile()
        return self.keys.pop(0)


def camera(last=200):
    """Pictures that are told apart by their grey."""
    for number in range(last):
        yield Shot("camera:0", number, number / 30, np.full((4, 6, 3), number, np.uint8))


def record(keys, folder, count=5, resume=False, problem=lambda image: "", shots=None):
    window = Keys(*keys)
    shots = camera() if shots is None else shots
    done = gaze_dots.record(window, shots, folder, count, SIZE_PX, problem, resume)
    assert not window.keys
    return done, window.shown


def table(folder):
    with open(folder / "targets.csv", newline="") as file:
        return list(csv.DictReader(file))


def grey(path):
    with Image.open(path) as image:
        return int(np.asarray(image)[0, 0, 0])


def test_a_picture_is_taken_of_every_dot(tmp_path):
    done, shown = record([TAKE] * 6, tmp_path)
    assert done
    rows = table(tmp_path)
    assert [row["frame"] for row in rows] == [f"dot-{i}.png" for i in (1, 2, 3, 4, 5)]
    places = [[float(row["screen_x_px"]), float(row["screen_y_px"])] for row in rows]
    np.testing.assert_array_equal(places, dots.places(5, SIZE_PX))
    # The camera shows one picture while each key is waited for; the next one is taken.
    assert [grey(tmp_path / row["frame"]) for row in rows] == [1, 3, 5, 7, 9]
    for number, place in enumerate(dots.places(5, SIZE_PX)):
        words = f"{number + 1} of 5: {gaze_dots._USUAL_WORDS}"
        np.testing.assert_array_equal(shown[number], dots.picture(SIZE_PX, place, words))


def test_backspace_takes_the_dot_before_again_also_the_last(tmp_path):
    done, _ = record([BACK, TAKE, TAKE, BACK, TAKE, TAKE, TAKE, TAKE, BACK, TAKE, TAKE], tmp_path)
    assert done
    assert [row["frame"] for row in table(tmp_path)] == [f"dot-{i}.png" for i in (1, 2, 3, 4, 5)]
    found = [grey(tmp_path / f"dot-{i}.png") for i in (1, 2, 3, 4, 5)]
    assert found == sorted(found)
    # Ten keys before the last: while each is waited for the camera shows one picture, and each take is another.
    assert (found[1], found[4]) == (7, 16)


def test_escape_keeps_what_was_taken_and_resume_goes_on(tmp_path):
    done, _ = record([TAKE, TAKE, TAKE, STOP], tmp_path)
    assert not done
    assert len(table(tmp_path)) == 3
    first = grey(tmp_path / "dot-1.png")
    # Who is not content with a picture deletes it.
    (tmp_path / "dot-2.png").unlink()
    done, shown = record([TAKE] * 4, tmp_path, resume=True)
    assert done
    assert len(shown) == 4
    assert [row["frame"] for row in table(tmp_path)] == [f"dot-{i}.png" for i in (1, 3, 2, 4, 5)]
    assert grey(tmp_path / "dot-1.png") == first
    with pytest.raises(config.ConfigError, match=r"none of the 1 dots of this screen; leave --res"):
        record([TAKE], tmp_path, count=1, resume=True)
    # Without it everything begins anew.
    assert not record([STOP], tmp_path)[0]
    assert table(tmp_path) == []


def test_pictures_without_a_face_are_not_taken(tmp_path):
    seen = iter(["", "no face", "", ""])
    done, shown = record([TAKE] * 3 + [STOP], tmp_path, problem=lambda image: next(seen))
    assert not done
    assert len(table(tmp_path)) == 2
    words = dots.picture(SIZE_PX, dots.places(5, SIZE_PX)[1], "2 of 5: no face; again, please")
    np.testing.assert_array_equal(shown[2], words)


def test_a_camera_that_ends_leaves_what_there_is(tmp_path):
    with pytest.raises(config.ConfigError, match="the camera gives no more pictures"):
        record([TAKE] * 6, tmp_path, shots=camera(5))
    assert len(table(tmp_path)) == 2


class Everywhere:
    def __call__(self, image, frame):
        return [FACE]


def fake_camera(monkeypatch):
    real = gaze_sources.find
    found = [types.SimpleNamespace(shots=lambda: pictures())]
    live = lambda inputs: found if inputs == ["camera:0"] else real(inputs)
    monkeypatch.setattr(gaze_sources, "find", live)


def pictures():
    for number in range(99):
        yield Shot("camera:0", number, 0.0, np.full((480, 640, 3), 128, np.uint8))


class Opened(Keys):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_dots_calibrate_and_one_dot_centres_again(tmp_path, monkeypatch, capsys):
    fake_camera(monkeypatch)
    monkeypatch.setattr(strangers, "spreads", lambda workdir, fold: None)
    asked = lambda *keys: monkeypatch.setattr(gaze_dots, "Window", lambda: Opened(*keys))
    flags = {"workdir": "run", "calibration": str(tmp_path / "me.json"), "input": ["camera:0"]}
    flags |= {"person": "", "out": None, "fold": 0, "calibration_method": "offset"}
    values = lambda **given: types.SimpleNamespace(
        **flags, **({"calibrate": None, "recentre": False, "resume": False} | given)
    )
    estimate = estimator(Everywhere(), screen=SCREEN)
    asked(*[TAKE] * 2, STOP)
    gaze_calibrate.run(estimate, values(calibrate="dots:5"))
    said = capsys.readouterr().out
    assert "--resume goes on" in said
    assert not (tmp_path / "me.json").exists()
    asked(*[TAKE] * 4)
    gaze_calibrate.run(estimate, values(calibrate="dots:5", resume=True))
    assert "me: offset from 5 pictures" in capsys.readouterr().out
    personal = calibration_file.load(tmp_path / "me.json", estimate.digest)
    assert personal.corrections["face"].count == 5
    # The camera looks at a face at (0, 0, 600), which looks at dots that are below the camera on the whole.
    assert personal.corrections["face"].offset_rad[0] < 0
    asked(TAKE, TAKE)
    gaze_calibrate.run(estimate.calibrated(personal), values(recentre=True))
    assert "me: centred again by 1 pictures" in capsys.readouterr().out
    assert len(table(tmp_path / "me_dots")) == 5
    moved = calibration_file.load(tmp_path / "me.json", estimate.digest)
    assert (moved.corrections["face"].offset_rad != personal.corrections["face"].offset_rad).any()
    with pytest.raises(config.ConfigError, match="dots:4: expected one of dots:1, dots:5, dots:9"):
        gaze_calibrate.run(estimate, values(calibrate="dots:4"))
    with pytest.raises(config.ConfigError, match="--recentre needs --calibration"):
        gaze.run(types.SimpleNamespace(calibrate=None, recentre=True, calibration=None))


def test_what_dots_need_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "f.json").write_text("{}")
    listed = estimator(landmark_files.LandmarkFile(tmp_path / "f.json"))
    with pytest.raises(config.ConfigError) as error:
        gaze_dots.take(listed, ["a.png"], tmp_path, 5, resume=False)
    for part in ("--screen=FILE with size_px", "--input=camera:0 (got a.png)", "--landmarker="):
        assert part in str(error.value)
    pytest.importorskip("cv2")
    fake_camera(monkeypatch)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    ready = estimator(Everywhere(), screen=SCREEN)
    with pytest.raises(config.ConfigError, match=r"no display .*opencv-python.*targets\.csv"):
        gaze_dots.take(ready, ["camera:0"], tmp_path, 5, resume=False)


def test_the_keys_of_a_window(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setenv("DISPLAY", ":0")
    shown, codes = [], iter([-1, ord("x"), 32, 13, 8, 27, -1])
    for name, made in {
        "namedWindow": lambda *_: None,
        "setWindowProperty": lambda *_: None,
        "destroyWindow": lambda *_: None,
        "imshow": lambda name, image: shown.append(image[0, 0].tolist()),
        "waitKey": lambda wait: next(codes),
        "getWindowProperty": lambda *_: 1.0,
    }.items():
        monkeypatch.setattr(cv2, name, made)
    waited = []
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    with gaze_dots.Window() as window:
        keys = [window.ask(red, lambda: waited.append(1)) for _ in range(4)]
        assert keys == [TAKE, TAKE, BACK, STOP]
        assert len(waited) == 2
        assert shown[0] == [0, 0, 255]
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 0.0)
        assert window.ask(red, list) == STOP
