"""Every format is read as what it was written from: labels, pictures, persons, sides, rotations, order."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaze_jax import readers, writers
from gaze_jax.gaze_set import LEFT, RIGHT
from tests.gaze_jax.gaze_sets import random_set, smooth_set

EYES = smooth_set("eye", persons=2, per_person=6)
FACES = smooth_set("face", persons=2, per_person=3, widest_rad=0.9)
STRIPS = smooth_set("face", persons=2, per_person=3, size=(64, 256, 3))
PARTS = dataclasses.replace(FACES, part=("train",) * 3 + ("test",) * 3)
# Format, what is written, how far pictures may be off (JPEG), whether head, rotation and scale come back.
FORMATS = [
    ("mpiigaze", EYES, 0, "head"),
    ("mpiifacegaze", FACES, 0, "head"),
    ("gazehub_mpiigaze", EYES, 3, "head norm scale"),
    ("gazehub_mpiifacegaze", FACES, 3, "head norm scale"),
    ("gazehub_eyediap", FACES, 3, "head norm scale"),
    ("gazehub_gaze360", PARTS, 3, "part"),
    ("gazehub_eth", FACES, 3, "head"),
    ("gazehub_rtgene", FACES, 3, "head"),
    ("gaze360", PARTS, 3, "part"),
    ("eth_xgaze", FACES, 0, "head norm"),
    ("faze", STRIPS, 0, "head norm"),
    ("plain", FACES, 0, "head"),
    ("plain", EYES, 0, "head"),
]


def pictures(found):
    images = found.images.take(np.arange(len(found))).astype(int)
    return images[..., :1] if found.kind == "eye" else images


def matched(found, written):
    """Rows of what was read, in the order of what was written: pictures are all different."""
    a, b = pictures(found), pictures(written)
    off = np.abs(b[:, None, ::4, ::4] - a[None, :, ::4, ::4]).mean((2, 3, 4))
    rows = off.argmin(1)
    assert sorted(rows) == list(range(len(written)))
    return rows


def off_deg(a, b):
    """The angle between directions given as (pitch, yaw), written apart from the package."""
    a, b = (
        Rotation.from_euler("YX", np.stack([x[:, 1], -x[:, 0]], 1).astype(float)).apply([0, 0, -1])
        for x in (a, b)
    )
    return np.rad2deg(np.linalg.norm(a - b, axis=1))


@pytest.mark.parametrize(("name", "written", "loss", "kept"), FORMATS)
def test_what_was_written_is_read(tmp_path, name, written, loss, kept):
    writers.write(written, tmp_path, name)
    found = readers.read(name, tmp_path)
    assert (found.name, found.kind, len(found)) == (name, written.kind, len(written))
    rows = matched(found, written)
    assert np.abs(pictures(found)[rows] - pictures(written)).mean() <= loss
    assert off_deg(found.gaze[rows], written.gaze).max() < 1e-4
    np.testing.assert_array_equal(found.side[rows], written.side)
    np.testing.assert_array_equal(found.person[rows], written.person)
    assert len(found.persons) == len(written.persons)
    assert found.has_head.all() == ("head" in kept)
    if "head" in kept:
        assert off_deg(found.head[rows], written.head).max() < 1e-4
    for column in ("norm", "scale"):
        if column in kept:
            np.testing.assert_allclose(
                getattr(found, column)[rows], getattr(written, column), atol=1e-6
            )
    if "part" in kept:
        assert [found.part[row] for row in rows] == list(written.part)
    assert found.space == ("camera" if "gaze360" in name else "normalised")


def test_reading_some_rows_in_any_order_reads_those(tmp_path):
    for name, written in (("eth_xgaze", FACES), ("gazehub_eth", FACES), ("faze", STRIPS)):
        writers.write(written, tmp_path / name, name)
        images = readers.read(name, tmp_path / name).images
        everything = images.take(np.arange(6))
        rows = np.array([5, 0, 3, 3, 1])
        np.testing.assert_array_equal(images.take(rows), everything[rows])


@pytest.mark.parametrize("name", ["eth_xgaze", "gazehub_eth", "mpiifacegaze", "gaze360", "plain"])
def test_colours_are_red_first(tmp_path, name):
    red = np.zeros((4, 224, 224, 3), np.uint8)
    red[..., 0] = 200
    images = dataclasses.replace(FACES.images, array=red)
    written = random_set("face", persons=2, per_person=2, size=(224, 224, 3), images=images)
    writers.write(written, tmp_path, name)
    mean = readers.read(name, tmp_path).images.take(np.array([1])).mean((0, 1, 2))
    assert np.abs(mean - [200, 0, 0]).max() < 3


def test_digests_follow_labels_and_not_places(tmp_path):
    writers.write(EYES, tmp_path / "a", "mpiigaze")
    writers.write(EYES, tmp_path / "b", "mpiigaze")
    gaze = EYES.gaze.copy()
    gaze[3, 0] += 0.01
    writers.write(dataclasses.replace(EYES, gaze=gaze), tmp_path / "c", "mpiigaze")
    writers.write(dataclasses.replace(EYES, head=-EYES.head), tmp_path / "d", "mpiigaze")
    a, b, c, d = (readers.read("mpiigaze", tmp_path / place).digest for place in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_eyes_of_eyediap_are_brought_into_left_form(tmp_path):
    written = smooth_set("face", persons=1, per_person=2, size=(36, 60, 3))
    writers.write(written, tmp_path, "gazehub_eyediap")
    eyes = readers.read("gazehub_eyediap_eyes", tmp_path)
    assert eyes.name == "gazehub_eyediap_eyes"
    assert list(eyes.side) == [LEFT, RIGHT] * 2
    assert eyes.size == (36, 60, 1)
    images = eyes.images.take(np.arange(4))
    # The writer puts one picture into both columns.
    np.testing.assert_array_equal(images[1], images[0][:, ::-1])
    np.testing.assert_allclose(eyes.gaze[1], eyes.gaze[0] * [1, -1])
    np.testing.assert_allclose(eyes.gaze[::2], written.gaze, atol=1e-6)


def test_persons_of_a_list_of_several_are_told_apart(tmp_path):
    """A list is not a person: whose a picture is stands in its line, or the line is bad."""
    written = dataclasses.replace(
        smooth_set("face", persons=2, per_person=2, size=(8, 8, 3)),
        part=("cluster1", "cluster1", "cluster2", "cluster2"),
    )
    writers.write(written, tmp_path / "a", "gazehub_rtgene")
    assert readers.read("gazehub_rtgene", tmp_path / "a").persons == ("s000", "s001")
    written = dataclasses.replace(written, part=("train",) * 2 + ("test",) * 2)
    writers.write(written, tmp_path / "b", "gazehub_eyediap")
    lists = tmp_path / "b/Label/train.label"
    lists.write_text(lists.read_text().replace("p00/face", "face"))
    found, problems = readers.load("gazehub_eyediap", tmp_path / "b")
    assert found.persons == ("p01",)
    assert len(problems) == 2
    assert "line 2: Face is 'face/1.jpg', which names no person" in problems[0]


def test_clusters_of_eyediap(tmp_path):
    written = dataclasses.replace(
        smooth_set("face", persons=2, per_person=2, size=(8, 8, 3)),
        part=("cluster0", "cluster0", "cluster1", "cluster1"),
    )
    writers.write(written, tmp_path, "gazehub_eyediap")
    assert (tmp_path / "ClusterLabel" / "Cluster1.label").is_file()
    assert readers.read("gazehub_eyediap", tmp_path).part == written.part


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("mpiifacegaze", {"sign": "negated"}, lambda gaze: -gaze),
        ("eth_xgaze", {"order": "yaw_pitch"}, lambda gaze: gaze[:, ::-1]),
        ("faze", {"order": "yaw_pitch"}, lambda gaze: gaze[:, ::-1]),
    ],
)
def test_other_conventions_of_the_same_layout(tmp_path, name, option, expected):
    written = STRIPS if name == "faze" else FACES
    writers.write(written, tmp_path, name)
    found = readers.read(name, tmp_path, **option)
    np.testing.assert_allclose(found.gaze, expected(written.gaze), atol=1e-6)


def test_labels_may_be_converted_from_other_tables(tmp_path):
    from gaze_jax.readers import plain

    writers.write(FACES, tmp_path, "plain")
    lines = ["file;".replace(";", ",") + "yaw,pitch,who"]
    lines += [
        f"images/{row:06d}.png,{np.rad2deg(-yaw):.9f},{np.rad2deg(-pitch):.9f},someone"
        for row, (pitch, yaw) in enumerate(FACES.gaze)
    ]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    columns = {"image": "file", "first": "yaw", "second": "pitch", "person": "who"}
    options = {"order": "yaw_pitch", "sign": "negated"}
    assert plain.convert(tmp_path / "theirs.csv", tmp_path, columns=columns, **options) == 6
    found = readers.read("plain", tmp_path)
    np.testing.assert_allclose(found.gaze, FACES.gaze, atol=1e-6)
    assert found.persons == ("someone",)
    assert not found.has_head.any()
    (tmp_path / "theirs.csv").write_text("file,a,b,c,d\nx,1,2,3,4\nx,1,2,3,\nx,1,nan,3,4\n")
    names = ("image", "first", "second", "head_first", "head_second")
    with pytest.raises(readers.ReaderError, match=r"line 3: .* the head's alone\n  line 4"):
        plain.convert(
            tmp_path / "theirs.csv", tmp_path, columns=dict(zip(names, ("file", *"abcd")))
        )
    assert readers.read("plain", tmp_path, size=10).size == (10, 10, 3)


def test_names_and_options_that_do_not_exist(tmp_path):
    with pytest.raises(readers.ReaderError, match="expected one of mpiigaze"):
        readers.read("mpigaze", tmp_path)
    with pytest.raises(
        readers.ReaderError, match="eth_xgaze has no option sign; its options: order"
    ):
        readers.read("eth_xgaze", tmp_path, sign="negated")
    with pytest.raises(readers.ReaderError, match="What to fetch: ETH-XGaze"):
        readers.read("eth_xgaze", tmp_path / "nowhere")
    with pytest.raises(
        readers.ReaderError, match="eyes_A has no option order; its options: persons"
    ):
        readers.read("eyes_A", tmp_path, order="yaw_pitch")


@pytest.mark.parametrize("name", list(readers.FORMATS))
def test_an_empty_folder_is_no_data_set(tmp_path, name):
    found, problems = readers.load(name, tmp_path)
    assert found is None
    assert problems


def test_writers_refuse_what_a_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="one eye each, the format one face each"):
        writers.write(EYES, tmp_path, "eth_xgaze")
    without = dataclasses.replace(FACES, has_head=np.zeros(6, bool))
    with pytest.raises(ValueError, match="6 samples have no head pose"):
        writers.write(without, tmp_path, "faze")
    with pytest.raises(ValueError, match=r"pictures are \(8, 8, 1\)"):
        writers.write(random_set("eye", size=(8, 8, 1)), tmp_path, "mpiigaze")
