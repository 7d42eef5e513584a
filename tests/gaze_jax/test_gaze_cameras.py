"""Camera intrinsics: every file format, what is refused, and the lens against OpenCV."""

import json

import numpy as np
import pytest

from gaze_jax import cameras

K = np.array([[650.5, 0.0, 320.25], [0, 655, 240], [0, 0, 1]])
LENS = np.array([-0.21, 0.08, 1e-3, -2e-3, 0.013])
CV_YAML = """%YAML:1.0
---
image_width: 640
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 650.5, 0., 320.25, 0., 655., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ -0.21, 0.08, 0.001, -0.002, 0.013 ]
"""
ROS_YAML = """image_width: 640
camera_matrix:
  rows: 3
  cols: 3
  data: [650.5, 0, 320.25, 0, 655, 240, 0, 0, 1]
distortion_coefficients: {rows: 1, cols: 5, data: [-0.21, 0.08, 0.001, -0.002, 0.013]}
"""
XML = """<?xml version="1.0"?>
<opencv_storage>
<time>today</time>
<Camera_Matrix_Size>9</Camera_Matrix_Size>
<cameraMatrix type_id="opencv-matrix"><rows>3</rows><cols>3</cols><dt>d</dt>
  <data>650.5 0. 320.25 0. 655.
    240. 0. 0. 1.</data></cameraMatrix>
<distCoeffs type_id="opencv-matrix"><rows>5</rows><cols>1</cols><dt>d</dt>
  <data>-0.21 8e-2 1e-3 -2e-3 0.013</data></distCoeffs>
</opencv_storage>
"""
JSON = json.dumps({"matrix": K.tolist(), "distortion": LENS.tolist()})


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", CV_YAML), ("a.yml", ROS_YAML), ("a.xml", XML), ("a.json", JSON)],
    ids=["opencv", "ros", "xml", "json"],
)
def test_every_format(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    got = cameras.read(tmp_path / name)
    np.testing.assert_allclose(got.matrix, K)
    np.testing.assert_allclose(got.distortion, LENS)


@pytest.mark.parametrize("suffix", ["xml", "yaml", "json"])
def test_files_that_opencv_writes(tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / f"camera.{suffix}")
    storage = cv2.FileStorage(path, cv2.FILE_STORAGE_WRITE)
    storage.write("camera_matrix", K)
    storage.write("distortion_coefficients", LENS[None])
    storage.release()
    got = cameras.read(path)
    np.testing.assert_allclose(got.matrix, K)
    np.testing.assert_allclose(got.distortion, LENS)


def test_missing_terms_are_zero(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"K": K.tolist(), "D": [0.1, 0.2, 0, 0]}))
    np.testing.assert_array_equal(cameras.read(tmp_path / "a.json").distortion, [0.1, 0.2, 0, 0, 0])
    (tmp_path / "b.json").write_text(json.dumps({"K": K.tolist()}))
    np.testing.assert_array_equal(cameras.read(tmp_path / "b.json").distortion, np.zeros(5))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "", "read from .yaml, .yml, .json, .xml"),
        ("a.json", "{", "not a readable .json file"),
        ("a.yaml", "a: [", "not a readable .yaml file"),
        ("a.xml", "<a>", "not a readable .xml file"),
        ("a.json", "[1]", "list; expected a 3 x 3 matrix named matrix or camera_matrix"),
        ("a.json", '{"focal": 3}', "no matrix; expected a 3 x 3"),
        ("a.json", '{"K": [1, 2]}', "a matrix of 2 numbers"),
        ("a.json", '{"K": "x"}', "K is 'x'"),
        ("a.json", '{"K": [0, 0, 0, 0, 0, 0, 0, 0, 1]}', "focal lengths > 0"),
        ("a.json", json.dumps({"K": K.tolist(), "D": [0.1] * 8}), "8 distortion terms"),
    ],
)
def test_what_holds_no_intrinsics_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        cameras.read(tmp_path / name)


def test_a_guess_is_centred_and_says_so(caplog):
    got = cameras.guess(640, 480)
    np.testing.assert_array_equal(got.matrix, [[640, 0, 319.5], [0, 640, 239.5], [0, 0, 1]])
    assert sum("no camera intrinsics" in record.message for record in caplog.records) == 1


def test_the_lens_is_that_of_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    points = rng.uniform([-250, -180, 500], [250, 180, 700], (60, 3))
    lens = cameras.Intrinsics(K, LENS)
    bent = cameras.project(points, lens)
    theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, LENS)
    np.testing.assert_allclose(bent, theirs[:, 0], atol=1e-8)
    straight = cameras.project(points, cameras.Intrinsics(K))
    np.testing.assert_allclose(cameras.undistort_points(bent, lens), straight, atol=1e-8)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    iterated = cv2.undistortPoints(bent[:, None], K, LENS, None, None, K, criteria)
    np.testing.assert_allclose(cameras.undistort_points(bent, lens), iterated[:, 0], atol=1e-4)


def test_points_behind_the_camera_have_no_pixels():
    got = cameras.project(np.array([[1.0, 2, -3], [1, 2, 0], [0, 0, 5]]), cameras.Intrinsics(K))
    assert np.isnan(got[:2]).all()
    np.testing.assert_allclose(got[2], K[:2, 2])
