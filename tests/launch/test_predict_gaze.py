"""Gaze from the command line: pictures, folders, videos, broken files, breaks, calibration, and what is refused."""

import csv
import functools
import json
import types

import numpy as np
import pytest
from absl import flags as absl_flags
from PIL import Image

from gaze_jax import face_model
from gaze_jax.normalization import CAMERAS
from gaze_jax.people import face_gaze, faces, strangers
from gaze_jax.people.landmark_files import LandmarkFile
from gaze_jax.predict import GazeEstimator
from gaze_jax.screen import Screen
from launch import config, gaze, gaze_calibrate, gaze_sources
from tests.gaze_jax.gaze_toys import INTRINSICS, PARAMS, pixels, posed, toy, turn

SIZE = (480, 640)
SHIFT_MM = np.array([0.0, 0.0, 600.0])
SCREEN = Screen(np.diag([-1.0, 1, -1]), np.zeros(3), np.ones(2))
FACE, POINTS = posed(np.eye(3), SHIFT_MM)


class Everywhere:
    """Finds the same face in every picture, and notes which pictures it was shown."""

    def __init__(self, *, fail_at=None):
        self.seen = []
        self.fail_at = fail_at

    def __call__(self, image, frame):
        if frame == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(frame)
        return [FACE]


@functools.cache
def networks(predict):
    return toy(predict=predict)


def estimator(landmarker, predict="dot", **options):
    """With one network for all tests, so that it is compiled once."""
    return GazeEstimator(
        networks(predict),
        PARAMS,
        CAMERAS["eth_face"],
        landmarker=landmarker,
        intrinsics=INTRINSICS,
        **options,
    )


def picture(shift_px=0.0):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    at = pixels(POINTS["nose_tip"]) + np.array([shift_px, 0.0])
    image = np.full((*SIZE, 3), 128, np.uint8)
    image[np.hypot(x - at[0], y - at[1]) < 4] = 0
    return image


@pytest.fixture
def folder(tmp_path):
    """Two pictures of one name, a broken one, one without a face."""
    root = tmp_path / "in"
    (root / "more").mkdir(parents=True)
    for name, shift in (("a.png", 0), ("more/a.png", 9), ("empty.png", 0)):
        Image.fromarray(picture(shift)).save(root / name)
    (root / "broken.jpg").write_bytes(b"no picture")
    content = {"a": [{"points": FACE.points_px}], "more/a.png": [{"points": FACE.points_px}] * 2}
    (tmp_path / "faces.json").write_text(json.dumps(content))
    return root


def lines(out):
    return [json.loads(line) for line in (out / "gaze.jsonl").read_text().splitlines()]


def test_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    estimate = estimator(LandmarkFile(tmp_path / "faces.json"))
    counts = gaze.predict(estimate, [str(folder)], out)
    expected = {"frames": 4, "faces": 3, "without_face": 1, "unreadable": 1, "without_gaze": 0}
    assert counts == expected
    facts = json.loads((out / "gaze.json").read_text())
    assert facts["face_model"] == face_model.digest(estimate.face_points_mm)
    printed = capsys.readouterr().out
    assert "4 frames, 3 faces, 1 frame without a face, 1 file that cannot be read" in printed
    rows = {row["source"]: row for row in lines(out)}
    assert rows[str(folder / "empty.png")]["faces"] == []
    assert "not a readable picture" in rows[str(folder / "broken.jpg")]["error"]
    row = rows[str(folder / "more/a.png")]
    assert (row["frame"], row["time_s"], row["size_px"]) == (0, None, [640, 480])
    assert [face["face_id"] for face in row["faces"]] == [0, 1]
    # Towards image left is yaw > 0.
    assert (
        row["faces"][0]["camera_yaw_deg"]
        < rows[str(folder / "a.png")]["faces"][0]["camera_yaw_deg"]
    )
    with open(out / "gaze.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(face_gaze.CSV_COLUMNS)
    assert [line["source"] for line in table] == [str(folder / "a.png")] + [
        str(folder / "more/a.png")
    ] * 2
    assert (
        float(table[0]["camera_yaw_deg"])
        == rows[str(folder / "a.png")]["faces"][0]["camera_yaw_deg"]
    )
    drawn = {path.name for path in out.glob("*.png")}
    assert drawn == {"a_gaze.png", "a-2_gaze.png", "empty_gaze.png"}
    with Image.open(out / "empty_gaze.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture())
    with Image.open(out / "a_gaze.png") as image:
        assert (np.asarray(image) != picture()).any()


def test_nothing_is_drawn_where_nothing_is_asked_for(folder, tmp_path):
    out = tmp_path / "out"
    gaze.predict(estimator(Everywhere()), [str(folder / "a.png")], out, parts=())
    assert sorted(path.name for path in out.iterdir()) == ["gaze.csv", "gaze.json", "gaze.jsonl"]


def test_an_interrupted_run_goes_on(folder, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    inputs = [str(folder / name) for name in ("a.png", "more/a.png", "empty.png")]
    gaze._AT_ONCE, before = 1, gaze._AT_ONCE
    try:
        with pytest.raises(SystemExit) as stop:
            gaze.predict(estimator(Everywhere(fail_at=inputs[1])), inputs, out)
        assert stop.value.code == 130
        assert len(lines(out)) == 1
        assert (out / "gaze.csv").is_file()
        # A line that was cut off is made again.
        with open(out / "gaze.jsonl", "a") as file:
            file.write('{"source": "x"')
        finder = Everywhere()
        gaze.predict(estimator(finder), inputs, out, resume=True)
    finally:
        gaze._AT_ONCE = before
    assert finder.seen == inputs[1:]
    gaze.predict(estimator(Everywhere()), inputs, whole)
    assert lines(out) == lines(whole)
    assert (out / "gaze.csv").read_text() == (whole / "gaze.csv").read_text()
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    with pytest.raises(config.ConfigError, match=r"--resume: .* something else: input was"):
        gaze.predict(estimator(Everywhere()), inputs[:1], out, resume=True)
    other = estimator(Everywhere(), screen=SCREEN, smooth=True)
    with pytest.raises(config.ConfigError, match=r"else: screen was None.*; smooth was False"):
        gaze.predict(other, inputs, out, resume=True)


def test_all_unreadable_is_an_error(folder, tmp_path):
    from core_jax.data.images import ImageError

    with pytest.raises(ImageError, match=r"no picture could be read:\n.*broken\.jpg"):
        gaze.predict(estimator(Everywhere()), [str(folder / "broken.jpg")], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no pictures at"):
        gaze.predict(estimator(Everywhere()), [str(tmp_path / "absent")], tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_a_file_of_faces_of_other_pictures_is_refused(folder, tmp_path):
    (tmp_path / "faces.json").write_text('{"z.png": []}')
    listed = LandmarkFile(tmp_path / "faces.json")
    with pytest.raises(
        config.ConfigError, match=r"names none of the 1 pictures; its frames are called z\.png"
    ):
        gaze.predict(estimator(listed), [str(folder / "a.png")], tmp_path / "out")


@pytest.fixture
def video(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, SIZE[::-1])
    for i in range(5):
        writer.write(picture(6.0 * (i % 2)))
    writer.release()
    return path


def test_a_video_is_smoothed_drawn_and_goes_on_after_a_break(video, tmp_path):
    import cv2

    whole, out = tmp_path / "whole", tmp_path / "out"
    counts = gaze.predict(estimator(Everywhere(), smooth=True), [str(video)], whole)
    assert counts["frames"] == counts["faces"] == 5
    rows = lines(whole)
    assert [row["frame"] for row in rows] == list(range(5))
    assert [row["time_s"] for row in rows] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {row["faces"][0]["face_id"] for row in rows} == {0}
    assert all(row["faces"][0]["smoothed"] for row in rows)
    steady = np.ptp([row["faces"][0]["camera_yaw_deg"] for row in rows])
    assert steady < 0.9 * np.ptp([row["faces"][0]["measured_yaw_deg"] for row in rows])
    gaze._AT_ONCE, before = 1, gaze._AT_ONCE
    try:
        finder = Everywhere(fail_at=f"{video}/2")
        with pytest.raises(SystemExit):
            gaze.predict(estimator(finder, smooth=True), [str(video)], out)
    finally:
        gaze._AT_ONCE = before
    film = out / "clip_gaze.mp4"
    count = lambda: int(cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT))
    assert count() == 2
    gaze.predict(estimator(Everywhere(), smooth=True), [str(video)], out, resume=True)
    assert lines(out) == rows
    assert count() == 5
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_videos_that_cannot_be_opened_are_named(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    inputs = [str(tmp_path / "bad.mp4"), str(tmp_path / "absent.avi"), "camera:x"]
    with pytest.raises(config.ConfigError) as error:
        gaze_sources.find(inputs)
    text = str(error.value)
    assert "bad.mp4: no video that OpenCV can decode" in text
    assert "absent.avi: there is no such file" in text
    assert "camera:x: expected camera:0" in text


class Capture:
    """As much of cv2.VideoCapture as is called, with three frames."""

    left, said = 3, -1.0

    def __init__(self, source):
        assert source in (1, "cut.avi")

    def isOpened(self):
        return True

    def get(self, what):
        return self.said

    def read(self):
        self.left -= 1
        return self.left >= 0, picture()

    def release(self):
        pass


def test_a_video_that_ends_early_says_so(monkeypatch, caplog):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(Capture, "said", 10.0)
    monkeypatch.setattr(gaze_sources.os.path, "isfile", lambda path: True)
    (found,) = gaze_sources.find(["cut.avi"])
    assert len(list(found.shots())) == 3
    assert "cut.avi: it ends after 3 of the 10 frames" in caplog.text


def test_a_camera(monkeypatch, tmp_path):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    counts = gaze.predict(estimator(Everywhere(), smooth=True), ["camera:1"], tmp_path, parts=())
    assert counts["frames"] == 3
    times = [row["time_s"] for row in lines(tmp_path)]
    assert times == sorted(times)
    with pytest.raises(config.ConfigError, match="--resume: what a camera has shown"):
        gaze.predict(estimator(Everywhere()), ["camera:1"], tmp_path, resume=True)


def test_without_opencv_videos_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=r"clip-methods-jax\[gaze\]"):
        gaze_sources.find(["camera:0"])


@pytest.fixture
def flags(monkeypatch):
    """Flags of a run whose network is the toy."""
    from_run = lambda workdir, camera="", fold=0, **options: GazeEstimator(
        networks("dot"), PARAMS, CAMERAS["eth_face"], **{"intrinsics": INTRINSICS, **options}
    )
    monkeypatch.setattr(GazeEstimator, "from_run", from_run)
    spreads = (np.full(2, 0.05), np.full(2, 0.05))
    monkeypatch.setattr(strangers, "spreads", lambda workdir, fold: spreads)
    defined = absl_flags.FlagValues()
    gaze.define(defined)
    defined.mark_as_parsed()
    defaults = {name: defined[name].value for name in gaze.names()} | {"workdir": "run"}
    return lambda **given: types.SimpleNamespace(**{**defaults, **given})


def test_calibration_from_pictures_with_known_targets(folder, tmp_path, flags, capsys):
    (tmp_path / "targets.csv").write_text("frame,pitch_deg,yaw_deg\na.png,3,8\n")
    common = {"input": [str(folder / "a.png")], "landmarks": str(tmp_path / "faces.json")}
    me = str(tmp_path / "me.json")
    targets = str(tmp_path / "targets.csv")
    gaze.run(flags(**common, calibrate=targets, calibration=me, person="ann"))
    assert "ann: offset from 1 pictures" in capsys.readouterr().out
    gaze.run(flags(**common, out=tmp_path / "plain"))
    gaze.run(flags(**common, out=tmp_path / "own", calibration=me))
    (before,), (after,) = (lines(tmp_path / name)[0]["faces"] for name in ("plain", "own"))
    assert (before["calibrated"], after["calibrated"]) == (False, True)
    off = lambda face: np.hypot(face["camera_pitch_deg"] - 3, face["camera_yaw_deg"] - 8)
    # One picture moves the answer half of the way.
    assert off(after) == pytest.approx(0.5 * off(before), rel=0.05)
    with pytest.raises(ValueError, match="--person=bob; the file has ann"):
        gaze.run(flags(**common, out=tmp_path / "own", calibration=me, person="bob"))


def test_a_screen_whose_place_is_not_known_is_learned(tmp_path, flags):
    rows, inputs = ["frame,screen_x_px,screen_y_px"], []
    for i, (dx, dy) in enumerate(
        [(-40, -20), (0, -20), (40, -20), (-40, 20), (0, 20), (40, 20), (9, 3)]
    ):
        inputs.append(tmp_path / f"{i}.png")
        Image.fromarray(np.roll(picture(dx), dy, axis=0)).save(inputs[-1])
        rows.append(f"{i}.png,{960 + 10 * dx},{540 + 10 * dy}")
    (tmp_path / "targets.csv").write_text("\n".join(rows))
    named = {path.name: [{"points": FACE.points_px}] for path in inputs}
    (tmp_path / "all.json").write_text(json.dumps(named))
    common = {"input": [str(tmp_path / "*.png")], "landmarks": str(tmp_path / "all.json")}
    me = str(tmp_path / "me.json")
    gaze.run(flags(**common, calibrate=str(tmp_path / "targets.csv"), calibration=me))
    gaze.run(flags(**common, out=tmp_path / "out", calibration=me, draw=[]))
    (face,) = lines(tmp_path / "out")[6]["faces"]
    assert face["screen_px"] == pytest.approx([1050, 570], abs=15)
    assert face["screen_mm"] is None
    assert not face["calibrated"]


def test_targets_that_cannot_be_used(folder, tmp_path):
    path = tmp_path / "targets.csv"
    read = lambda text, screen=None: (
        path.write_text(text),
        gaze_calibrate.read_targets(path, screen),
    )[1]
    with pytest.raises(
        config.ConfigError, match="2 rows with columns frame, x; expected frame and one of"
    ):
        read("frame,x\na,1\nb,2\n")
    found = read("frame,screen_x_px,screen_y_px\na,1,2\n")["a"]["screen_px"]
    np.testing.assert_array_equal(found, [1, 2])
    with pytest.raises(config.ConfigError, match=r"line 2: \['', '2'\]\n  line 3"):
        read("frame,pitch_deg,yaw_deg\na,,2\nb,nan,1\n")
    screen = types.SimpleNamespace(
        rotation=turn(0, 90), translation_mm=np.array([1.0, 2, 3]), px_per_mm=np.array([2.0, 4.0])
    )
    found = read("frame,screen_x_px,screen_y_px\na,20,40\n", screen)["a"]["target_mm"]
    np.testing.assert_allclose(found, [1, 12, -7], atol=1e-9)
    found = read("frame,target_x_mm,target_y_mm,target_z_mm\na,1,2,3\n")["a"]["target_mm"]
    np.testing.assert_array_equal(found, [1, 2, 3])
    with pytest.raises(config.ConfigError, match=r"line 3: a\.png for the second time"):
        read("frame,pitch_deg,yaw_deg\na.png,1,2\na.png,3,4\n")
    calibrate = functools.partial(gaze_calibrate.calibrate, person="a", method="offset")
    path.write_text("frame,pitch_deg,yaw_deg\na.png,1,2\n")
    with pytest.raises(config.ConfigError, match=r"a\.png is .*in/a\.png as well as .*more/a\.png"):
        calibrate(estimator(Everywhere()), path, [str(folder / "**/a.png")], "me")
    path.write_text("frame,pitch_deg,yaw_deg\nzzz.png,1,2\n")
    with pytest.raises(config.ConfigError, match=r"--input has no zzz\.png"):
        calibrate(estimator(Everywhere()), path, [str(folder / "a.png")], "me")


def test_flags_say_where_the_faces_are(flags, tmp_path, monkeypatch):
    for given in ({}, {"landmarks": "a", "boxes": "b"}):
        with pytest.raises(config.ConfigError, match=r"where are the faces.*face_landmarker\.task"):
            gaze.landmarker(flags(**given))
    (tmp_path / "b.csv").write_text("frame,left,top,right,bottom\na,1,2,3,4\n")
    found = gaze.landmarker(flags(boxes=str(tmp_path / "b.csv")))
    assert found(picture(), "a") == [faces.Face((1.0, 2.0, 3.0, 4.0))]
    # A detector that may find one face finds the surest, not the largest.
    monkeypatch.setattr(faces, "FaceLandmarker", lambda path, max_faces: max_faces)
    assert gaze.landmarker(flags(landmarker="x", max_faces=1)) == 10
    with pytest.raises(config.ConfigError, match="--calibrate needs --calibration"):
        gaze.run(flags(calibrate="x"))


def test_a_window_shows_what_is_made(folder, tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    shown = []
    monkeypatch.setattr(cv2, "namedWindow", lambda name: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda wait: -1)
    inputs = [str(folder / "a.png")]
    gaze.predict(estimator(Everywhere()), inputs, tmp_path / "out", parts=("box",), show=True)
    assert shown == [(480, 640, 3)]
    monkeypatch.setattr(cv2, "waitKey", lambda wait: ord("q"))
    with pytest.raises(SystemExit):
        gaze.predict(estimator(Everywhere()), inputs, tmp_path / "out", show=True)
