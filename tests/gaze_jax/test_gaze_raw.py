"""Recorded frames of MPIIGaze and MPIIFaceGaze: written, read, and normalised as by hand."""

import dataclasses

import numpy as np
import pytest
import scipy.io
from PIL import Image

from gaze_jax import check, readers, writers
from gaze_jax.gaze_set import FACE, LEFT, RIGHT
from gaze_jax.normalization import CAMERAS, equalize_histogram, normalize
from gaze_jax.render import domains, persons
from tests.gaze_jax.gaze_sets import smooth_frames

PERSONS, EACH = 2, 3
NAMES = {"mpiigaze_raw": "mpiigaze_eye", "mpiifacegaze_raw": "mpiifacegaze"}
CORNERS = {
    LEFT: ("left_eye_inner", "left_eye_outer"),
    RIGHT: ("right_eye_inner", "right_eye_outer"),
    FACE: (
        *("left_eye_inner", "left_eye_outer", "right_eye_inner", "right_eye_outer"),
        *("mouth_left", "mouth_right"),
    ),
}


@pytest.fixture(scope="module")
def rendered():
    return smooth_frames(PERSONS, EACH)


def truth(rendered, row, side):
    """(reference point, R, (pitch, yaw)) of a frame, from the scene and the formulas alone, float64."""
    what = rendered.scenes
    named = persons.points(what.person)
    head = what.rotation[row].astype(float)
    mean = np.mean([named[name][row].astype(float) for name in CORNERS[side]], axis=0)
    at = head @ mean + what.translation[row]
    z = at / np.linalg.norm(at)
    y = np.cross(z, head[:, 0])
    y /= np.linalg.norm(y)
    turn = np.stack([np.cross(y, z), y, z])
    g = turn @ (what.target[row] - at)
    g /= np.linalg.norm(g)
    return at, turn, g


def off_deg(a, b):
    return np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def vector(pitch, yaw):
    return np.array(
        [-np.cos(pitch) * np.sin(yaw), -np.sin(pitch), -np.cos(pitch) * np.cos(yaw)], float
    )


def frame_of(found, row):
    """(path of the frame, its row among the rendered ones)."""
    place = found.images.root / found.images.paths[row]
    return place, int(found.person[row]) * EACH + int(place.stem) - 1


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_read_as_they_are_normalised_by_hand(tmp_path, rendered, name):
    writers.RAW[name](rendered, tmp_path)
    found = readers.read(name, tmp_path)
    eyes = name == "mpiigaze_raw"
    assert len(found) == PERSONS * EACH * (2 if eyes else 1)
    assert (found.kind, found.camera, found.space) == (
        "eye" if eyes else "face",
        NAMES[name],
        "normalised",
    )
    assert found.persons == ("p00", "p01")
    virtual = CAMERAS[NAMES[name]]
    patches = found.images.take(np.arange(len(found)))
    assert patches.shape == (len(found), virtual.height, virtual.width, 1 if eyes else 3)
    seen = set()
    for row in range(len(found)):
        path, number = frame_of(found, row)
        side = int(found.side[row])
        seen.add((number, side))
        at, turn, gaze = truth(rendered, number, side)
        sign = np.array([-1 if side == RIGHT else 1, 1, 1])
        assert off_deg(vector(*found.gaze[row].astype(float)), gaze * sign) < 1e-3
        np.testing.assert_allclose(found.norm[row], turn, atol=1e-5)
        assert found.scale[row] == pytest.approx(virtual.distance_mm / np.linalg.norm(at), rel=1e-5)
        head = turn @ rendered.scenes.rotation[number].astype(float)
        assert off_deg(vector(*found.head[row].astype(float)), -head[:, 2] * sign) < 1e-3
        # Black below and to the right changes nothing, and this size has been compiled.
        direct = normalize(
            np.pad(np.asarray(Image.open(path)), ((0, 32), (0, 128), (0, 0))),
            rendered.scenes.intrinsics[number],
            rendered.scenes.rotation[number],
            at,
            virtual,
        )[0]
        direct = np.asarray(direct)
        if eyes:
            grey = np.rint(direct @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
            direct = np.asarray(equalize_histogram(grey))[..., None]
        direct = direct[:, ::-1] if side == RIGHT else direct
        off = np.abs(patches[row].astype(int) - direct)
        # Pose and centre went through a text file: a pixel may round the other way, and grey levels are spread.
        assert off.mean() < 0.5, (row, off.mean())
    assert len(seen) == len(found)
    again = found.images.take(np.array([len(found) - 1, 0, 0]))
    np.testing.assert_array_equal(again, patches[[len(found) - 1, 0, 0]])
    report = check.check(name, tmp_path)
    assert not report.problems
    assert "no person has 20" in " ".join(report.notes)


def test_lists_choose_among_the_eyes(tmp_path, rendered):
    writers.RAW["mpiigaze_raw"](rendered, tmp_path)
    lists = tmp_path / "Evaluation Subset/sample list for eye image"
    (lists / "p00.txt").write_text("day01/0003.jpg right\nday01/0001.jpg left\n")
    (lists / "p01.txt").write_text("day01/0002.jpg left\n")
    found = readers.read("mpiigaze_raw", tmp_path)
    assert sorted(found.source) == [
        "p00/day01/0001.jpg left",
        "p00/day01/0003.jpg right",
        "p01/day01/0002.jpg left",
    ]
    assert len(readers.read("mpiigaze_raw", tmp_path, subset="all")) == 12
    (lists / "p01.txt").write_text("day01/0009.jpg left\n")
    with pytest.raises(readers.ReaderError, match=r"line 1: no day01 has a picture 0009\.jpg"):
        readers.read("mpiigaze_raw", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_missing_is_told_at_once(tmp_path, rendered, name):
    writers.RAW[name](rendered, tmp_path)
    faces = name == "mpiifacegaze_raw"
    place = tmp_path if faces else tmp_path / "Data/Original"
    table = place / ("p00/p00.txt" if faces else "p00/day01/annotation.txt")
    lines = table.read_text().splitlines()
    kept = lines[2].split()
    behind = " ".join([*kept[:-5], "-1", *kept[-4:]]) if faces else " ".join([*kept[:-1], "-1"])
    table.write_text("\n".join([lines[0], lines[1][:-12], behind]) + "\n")
    (place / "p00/day01/0001.jpg").unlink()
    (place / "p01/Calibration/Camera.mat").unlink()
    expected = ["line 2: ", "line 3: ", "in front of the camera", "0001.jpg does not exist"]
    expected += ["Camera.mat does not exist"]
    if not faces:
        Image.new("RGB", (4, 4)).save(place / "p00/day01/0004.jpg")
        expected += ["annotation.txt has no line for 0004.jpg", "40 numbers, expected 41"]
    with pytest.raises(readers.ReaderError) as error:
        readers.read(name, tmp_path)
    for text in expected:
        assert text in str(error.value), str(error.value)


def test_the_lens_distortion_is_taken_out(tmp_path, rendered):
    cv2 = pytest.importorskip("cv2")
    writers.RAW["mpiifacegaze_raw"](rendered, tmp_path)
    path = tmp_path / "p00/Calibration/Camera.mat"
    stored = scipy.io.loadmat(path)
    matrix, terms = stored["cameraMatrix"], np.array([[0.2, -0.1, 0.002, -0.001]])
    scipy.io.savemat(path, {"cameraMatrix": matrix, "distCoeffs": terms})
    found = readers.read("mpiifacegaze_raw", tmp_path)
    patch = found.images.take(np.array([0]))[0]
    straight = cv2.undistort(np.asarray(Image.open(frame_of(found, 0)[0])), matrix, terms)
    at = truth(rendered, 0, FACE)[0]
    rotation = rendered.scenes.rotation[0]
    straight = np.pad(straight, ((0, 32), (0, 128), (0, 0)))
    direct = normalize(straight, matrix, rotation, at, CAMERAS["mpiifacegaze"])[0]
    assert np.abs(patch.astype(int) - np.asarray(direct)).mean() < 1
    scipy.io.savemat(path, {"cameraMatrix": matrix, "distCoeffs": np.ones((1, 8))})
    with pytest.raises(readers.ReaderError, match="8 terms of distortion, expected at most 5"):
        readers.read("mpiifacegaze_raw", tmp_path)


def test_only_frames_are_written_as_recorded(rendered, tmp_path):
    faces = dataclasses.replace(rendered, kind="faces")
    for write in writers.RAW.values():
        with pytest.raises(ValueError, match="holds camera frames, and these are rendered faces"):
            write(faces, tmp_path)


@pytest.mark.slow
def test_rendered_frames_keep_their_pupils(tmp_path):
    """Whole chain with shaded frames: pixels and labels speak one convention."""
    made = domains.make("frames", "A", 2, 24)
    for name, write in writers.RAW.items():
        write(made, tmp_path / name)
        report = check.check(name, tmp_path / name)
        assert not report.problems
        assert report.test.persons == 2
        assert report.test.yaw_x < -0.3
