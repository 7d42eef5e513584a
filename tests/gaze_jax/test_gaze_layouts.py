"""Files made by hand, as the published ones look, with the traps that lie in them."""

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.spatial.transform import Rotation

from gaze_jax import readers, writers
from gaze_jax.gaze_set import LEFT, RIGHT
from tests.gaze_jax.gaze_sets import smooth_set

# The direction of pitch 10 and yaw 20 degrees, from the formula, and a head turned likewise.
PITCH, YAW = np.deg2rad(10), np.deg2rad(20)
VECTOR = [-np.cos(PITCH) * np.sin(YAW), -np.sin(PITCH), -np.cos(PITCH) * np.cos(YAW)]


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def mat_day(path, count, names):
    eye = {
        "image": np.arange(count * 2160, dtype=np.uint8).reshape(count, 36, 60).squeeze(),
        "gaze": np.tile(VECTOR, (count, 1)),
        # Facing 30 degrees to image left: about the vertical axis.
        "pose": np.tile([0, np.deg2rad(30), 0], (count, 1)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array(names, object)[:, None]
    scipy.io.savemat(path, {"data": {"left": eye, "right": eye}, "filenames": names})


@pytest.mark.parametrize("count", [1, 2])
def test_mpiigaze_days(tmp_path, count):
    names = ["0001.jpg", "0007.jpg"][:count]
    mat_day(tmp_path / "Data/Normalized/p03/day12.mat", count, names)
    found = readers.read("mpiigaze", tmp_path, subset="all")
    assert len(found) == 2 * count
    assert found.persons == ("p03",)
    left, right = found.side == LEFT, found.side == RIGHT
    np.testing.assert_allclose(np.rad2deg(found.gaze[left]), [[10, 20]] * count, atol=1e-4)
    np.testing.assert_allclose(np.rad2deg(found.gaze[right]), [[10, -20]] * count, atol=1e-4)
    np.testing.assert_allclose(np.rad2deg(found.head[left]), [[0, 30]] * count, atol=1e-4)
    np.testing.assert_allclose(np.rad2deg(found.head[right]), [[0, -30]] * count, atol=1e-4)
    images = found.images.take(np.arange(2 * count))[..., 0]
    np.testing.assert_array_equal(images[left][0].reshape(-1), np.arange(2160, dtype=np.uint8))
    np.testing.assert_array_equal(images[right], images[left][:, :, ::-1])


def test_mpiigaze_lists(tmp_path):
    mat_day(tmp_path / "Data/Normalized/p00/day01.mat", 2, ["0001.jpg", "0007.jpg"])
    lists = tmp_path / "Evaluation Subset/sample list for eye image"
    lists.mkdir(parents=True)
    (lists / "p00.txt").write_text("day01/0007.jpg right\nday01/0001.jpg left\n")
    found = readers.read("mpiigaze", tmp_path)
    assert found.source == ("p00/day01/0007.jpg right", "p00/day01/0001.jpg left")
    (lists / "p00.txt").write_text("day01/0007.jpg\nday01/0009.jpg left\nday01/0001.jpg left\n")
    with pytest.raises(readers.ReaderError, match=r"line 1 .*\n.*line 2: no day01.mat has .*0009"):
        readers.read("mpiigaze", tmp_path)
    assert len(readers.load("mpiigaze", tmp_path)[0]) == 1


def label_line(which="left", scale=1.2, gaze=None, path="p00\\face\\1.jpg", turn=(0.1, 0.2, 0.0)):
    """MPIIFaceGaze of GazeHub: the label is the direction of S R g."""
    if gaze is None:
        seen = np.array(VECTOR) * [1, 1, scale]
        seen /= np.linalg.norm(seen)
        pitch, yaw = np.arcsin(-seen[1]), np.arctan2(-seen[0], -seen[2])
        gaze = f"{yaw},{pitch}"
    turned = ",".join(str(x) for x in turn)
    return (
        f"{path} p00\\left\\1.jpg p00\\right\\1.jpg day01\\0005.jpg {which} 0,0,-1 0,0,0 {gaze} "
        f"0.2,0.1 {turned} 1,1,{scale} 0,0,500"
    )


HEADER = "Face Left Right Origin WhichEye 3DGaze 3DHead 2DGaze 2DHead Rmat Smat GazeOrigin"


def gazehub(root, *lines):
    save(root / "Image/p00/face/1.jpg", np.full((224, 224, 3), 90, np.uint8))
    (root / "Label").mkdir()
    (root / "Label/p00.label").write_text("\n".join([HEADER, *lines]) + "\n")


def test_gazehub_paths_scaling_order_and_rotation_vectors(tmp_path):
    gazehub(tmp_path, label_line(), label_line("right"))
    found = readers.read("gazehub_mpiifacegaze", tmp_path)
    np.testing.assert_allclose(np.rad2deg(found.gaze), [[10, 20]] * 2, atol=1e-4)
    np.testing.assert_allclose(found.head, [[0.1, 0.2]] * 2)
    np.testing.assert_allclose(found.scale, 1.2)
    rotation = Rotation.from_rotvec([0.1, 0.2, 0.0]).as_matrix()
    np.testing.assert_allclose(found.norm[0], rotation, atol=1e-6)
    # The whole face of a right sample is a mirror image, and so is the camera that saw it.
    flip = np.diag([-1, 1, 1])
    np.testing.assert_allclose(found.norm[1], flip @ rotation @ flip, atol=1e-6)
    assert found.images.take(np.array([0])).shape == (1, 224, 224, 3)


def test_a_yaw_of_20_degrees_is_stored_as_16_9_when_scaled():
    rule = readers.Convention(stored="yaw_pitch", scaled=True)
    stored = rule.store(np.deg2rad([[0.0, 20.0]]), np.array([1.2]))
    assert np.rad2deg(stored[0, 0]) == pytest.approx(16.9, abs=0.05)


def test_degrees_in_scaled_labels_stay_degrees_for_check_to_tell():
    rule = readers.Convention(stored="yaw_pitch", scaled=True)
    found = rule.canonical(np.array([[20.0, 0.1], [0.2, 0.1]]), np.array([1.2, 1.2]))
    np.testing.assert_allclose(found[0], [0.1, 20.0], rtol=1e-6)
    assert 0.2 < found[1, 1] < 0.25


def test_all_bad_lines_of_gazehub_are_told_at_once(tmp_path):
    gazehub(
        tmp_path,
        label_line(),
        "p00/face/1.jpg left",
        label_line(gaze="0.1"),
        label_line(gaze="nan,0.1"),
        label_line(gaze="x,0.1"),
    )
    with pytest.raises(readers.ReaderError) as error:
        readers.read("gazehub_mpiifacegaze", tmp_path)
    for text in ("line 3: 2 fields, expected 12", "line 4: 2DGaze is '0.1'", "line 5", "line 6"):
        assert text in str(error.value)
    assert len(readers.load("gazehub_mpiifacegaze", tmp_path)[0]) == 1


def test_gazehub_lists_of_folds_and_lists_that_leave_out_their_own_name(tmp_path):
    header = "Face Left Right Origin 3DGaze 3DHead 2DGaze 2DHead llc\n"
    for name in ("s001_glasses", "s003", "s014"):
        save(tmp_path / f"a/Image/{name}/face/1.jpg", np.zeros((8, 8, 3), np.uint8))
    lists = {"train1": "s001_glasses", "train2": "s003", "valid": "s014"}
    (tmp_path / "a/Label/all").mkdir(parents=True)
    for name, person in lists.items():
        line = f"{person}/face/1.jpg l r o 0,0,-1 0,0,-1 0.2,0.1 0.4,0.3 1,2\n"
        (tmp_path / f"a/Label/all/{name}.label").write_text(header + line)
    found = readers.read("gazehub_rtgene", tmp_path / "a")
    assert found.persons == ("s001", "s003", "s014")
    assert found.part == ("cluster1", "cluster2", "val")
    np.testing.assert_allclose(found.gaze, [[0.1, 0.2]] * 3)
    np.testing.assert_allclose(found.head, [[0.3, 0.4]] * 3)
    save(tmp_path / "b/Image/test/Face/1.jpg", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b/Label").mkdir()
    line = "Face/1.jpg Left/1.jpg Right/1.jpg rec_004/head/000012/000345.jpg 0,0,-1 0.2,0.1\n"
    (tmp_path / "b/Label/test.label").write_text("Face Left Right Origin 3DGaze 2DGaze\n" + line)
    found = readers.read("gazehub_gaze360", tmp_path / "b")
    assert found.persons == ("rec_004/000012",)
    assert found.images.take(np.array([0])).shape == (1, 8, 8, 3)
    assert not found.has_head[0]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mpiigaze", "Data/Normalized/p00/day01.mat"),
        ("gaze360", "metadata.mat"),
        ("mpiifacegaze", "p00.mat"),
        ("eth_xgaze", "subject0000.h5"),
        ("faze", "all.h5"),
        ("gazehub_eyediap", "Label/p1.label"),
        ("plain", "gaze.csv"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"something else" * 50])
def test_damaged_files_are_named(tmp_path, name, file, content):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(content)
    for folder in ("Evaluation Subset/sample list for eye image", "imgs", "Image"):
        (tmp_path / folder).mkdir(parents=True)
    found, problems = readers.load(name, tmp_path)
    assert found is None
    assert file.split("/")[-1] in " ".join(problems)


def test_gaze360_frame_faces_and_unused_samples(tmp_path):
    written = smooth_set("face", persons=1, per_person=4, size=(40, 40, 3))
    writers.write(written, tmp_path, "gaze360")
    meta = scipy.io.loadmat(tmp_path / "metadata.mat")
    # Looking straight back at the camera; to the subject's left; up.
    meta["gaze_dir"] = np.array([[0, 0, -1], [0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]])
    meta["person_face_bbox"][1] = -1
    meta["person_face_bbox"][0] = [0.25, 0.25, 0.25, 0.25]
    meta["split"] = np.array([[0, 1, 2, 3]])
    scipy.io.savemat(tmp_path / "metadata.mat", {k: v for k, v in meta.items() if k[0] != "_"})
    found = readers.read("gaze360", tmp_path, size=40)
    assert found.part == ("train", "val", "test")
    np.testing.assert_allclose(np.rad2deg(found.gaze), [[0, 0], [0, 45], [45, 0]], atol=1e-4)
    faces = readers.read("gaze360", tmp_path, size=20, crop="face")
    assert faces.part == ("train", "test")
    # The face box is the upper left quarter of the head box.
    expected = written.images.take(np.array([0]))[0, :20, :20].astype(int)
    assert np.abs(faces.images.take(np.array([0]))[0] - expected).mean() < 3


def test_plain_lines_that_make_no_sense(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "gaze.csv").write_text(
        "image,person,side,pitch_rad,yaw_rad,head_pitch_rad,head_yaw_rad\n"
        "a.png,x,face,0.1,0.2,,\n"
        "a.png,x,middle,0.1,0.2,,\n"
        "a.png,x,face,0.1,,,\n"
        "a.png,x,face,0.1,0.2,0.3,\n"
        "a.png,x,face,0.1,inf,,\n"
        "a.png\n"
    )
    found, problems = readers.load("plain", tmp_path)
    assert len(found) == 1
    assert [line.split("line ")[1].split(":")[0] for line in problems] == ["3", "4", "5", "6", "7"]
    assert found.space == "camera"


def test_a_picture_of_another_size_or_a_missing_one_is_named(tmp_path):
    from core_jax.data.images import ImageError

    save(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "b.png", np.zeros((4, 7, 3), np.uint8))
    rows = "".join(f"{name}.png,x,face,0,0\n" for name in "abc")
    (tmp_path / "gaze.csv").write_text("image,person,side,pitch_rad,yaw_rad\n" + rows)
    images = readers.read("plain", tmp_path).images
    with pytest.raises(ImageError, match=r"b.png is 7 x 4 pixels"):
        images.take(np.array([0, 1]))
    with pytest.raises(ImageError, match=r"c.png cannot be read"):
        images.take(np.array([2]))
    assert readers.read("plain", tmp_path, size=(4, 6)).images.take(np.array([1])).shape == (
        1,
        4,
        6,
        3,
    )
