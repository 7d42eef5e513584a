"""What readers make of odd files, and what they say about bad ones: every problem in one message."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core_jax.data import images
from gba_jax import datasets
from gba_jax.datasets import labels as files
from gba_jax.datasets.common import SegmentList, Segments, segment_labels
from gba_jax.datasets.labels import LabelTable
from tests.gba_jax import trees

THREE = LabelTable((0, 1, 2), largest=True)


def raises(*parts):
    """A DatasetError whose message holds all parts."""
    return pytest.raises(
        datasets.DatasetError, check=lambda error: all(part in str(error) for part in parts)
    )


def png(path, rows, *, depth, colour=0):
    """A PNG by hand: one row of packed samples a line, filter 0."""
    height, packed = len(rows), [bytes([0, *row]) for row in rows]
    width = len(rows[0]) * 8 // depth

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(packed)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("depth", "byte", "expected"),
    [
        (1, 0b01000001, [0, 1, 0, 0, 0, 0, 0, 1]),
        (2, 0b00011000, [0, 1, 2, 0]),
        (4, 0x12, [1, 2]),
        (8, 2, [2]),
    ],
)
def test_labels_of_few_bits_are_not_stretched(tmp_path, depth, byte, expected):
    png(tmp_path / "a.png", [[byte], [byte]], depth=depth)
    assert THREE(tmp_path / "a.png").tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint8),
        ("a.png", np.uint16),
        ("a.tif", np.uint8),
        ("a.tif", np.uint16),
        ("a.tif", np.int32),
    ],
)
def test_the_largest_value_of_the_depth_is_ignored(tmp_path, name, dtype):
    largest = 255 if dtype == np.uint8 else 65535
    trees.grey(tmp_path / name, [[0, 2, largest]], dtype)
    assert THREE(tmp_path / name).tolist() == [[0, 2, -1]]


def test_palette_labels_are_indices(tmp_path):
    trees.palette(tmp_path / "a.png", [[2, 0, 255]])
    assert THREE(tmp_path / "a.png").tolist() == [[2, 0, -1]]


def test_big_endian_labels(tmp_path):
    Image.frombytes("I;16B", (2, 1), b"\x00\x01\x00\x02").save(tmp_path / "a.tif")
    assert THREE(tmp_path / "a.tif").tolist() == [[1, 2]]


def test_label_tables_by_hand():
    raw, path = np.asarray([[0, 4, 9], [7, 65535, 3]]), "x.png"
    table = LabelTable((4, 9), ignored=(0, 3), largest=True)
    with raises("the values 7 in 1 pixels", "expected 4, 9 for 2 classes", "0, 3, 65535 where"):
        table.apply(raw, 16, path)
    raw[1, 0] = 3
    assert table.apply(raw, 16, path).tolist() == [[-1, 0, 1], [-1, -1, -1]]
    others = LabelTable((4, 9), others=True)
    assert others.apply(raw, 16, path).tolist() == [[-1, 0, 1], [-1, -1, -1]]
    assert others.apply(raw, 16, path).dtype == np.int32


@pytest.mark.parametrize("value", [-1, 3, 65536, 70000])
def test_values_out_of_range_are_errors(value):
    with raises(str(value), "expected 0..2 for 3 classes"):
        THREE.apply(np.asarray([[0, value]]), 16, "x.tif")


def test_eight_bits_cannot_hold_more_than_255_classes(tmp_path):
    trees.grey(tmp_path / "a.png", [[0, 1]])
    assert LabelTable(tuple(range(255)), largest=True)(tmp_path / "a.png").tolist() == [[0, 1]]
    with raises("8-bit labels", "256 classes", "16-bit"):
        LabelTable(tuple(range(256)), largest=True)(tmp_path / "a.png")


def test_colours_are_no_labels(tmp_path):
    trees.picture(tmp_path / "a.png")
    with raises("mode RGB", "grey or palette"):
        THREE(tmp_path / "a.png")
    trees.grey(tmp_path / "b.png", [[1]])
    with raises("mode L", "expected RGB"):
        files.read_ids(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    with raises("c.png is not a readable"):
        THREE(tmp_path / "c.png")
    with raises("d.mat holds no readable LabelMap"):
        files.read_mat(tmp_path / "d.mat", table=THREE)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.asarray([[7, 200]], np.uint8), [[[7] * 3, [200] * 3]]),
        (np.asarray([[7 * 256 + 3, 65535]], np.uint16), [[[7] * 3, [255] * 3]]),
        (np.asarray([[[1, 2, 3, 0], [4, 5, 6, 255]]], np.uint8), [[[1, 2, 3], [4, 5, 6]]]),
        (np.asarray([[[1, 2, 3], [4, 5, 6]]], np.uint8), [[[1, 2, 3], [4, 5, 6]]]),
        ("palette", [[[254, 254, 254], [253, 253, 253]]]),
    ],
    ids=["grey", "16-bit", "rgba", "rgb", "palette"],
)
def test_pictures_of_every_kind_become_rgb(tmp_path, pixels, expected):
    trees.text(tmp_path / "classes.txt", "one")
    trees.grey(tmp_path / "masks/a.png", [[0, 255]])
    path = tmp_path / "images/a.png"
    if isinstance(pixels, str):
        path.parent.mkdir()
        image = Image.fromarray(np.asarray([[1, 2]], np.uint8))
        image.putpalette([value for i in range(256) for value in [255 - i] * 3])
        image.save(path)
    else:
        trees.save(path, pixels)
    sample = datasets.read("folder", tmp_path, "all")[0]
    assert sample.image.dtype == np.uint8
    assert sample.image.tolist() == expected


def test_segments_equal_a_loop():
    rng = np.random.default_rng(0)
    ids, labels, crowd = (3, 900, 70000, 12), (5, 5, 0, 2), (False, True, False, False)
    picture = rng.choice([0, 3, 900, 12], size=(6, 7))
    found = datasets.common._segments(SegmentList("x", ids, labels, crowd), picture)
    # 70000 has no pixel and is left out; the crowd comes last.
    kept = [0, 3, 1]
    expected = np.full(picture.shape, -1)
    for place, k in enumerate(kept):
        expected[picture == ids[k]] = place
    np.testing.assert_array_equal(found.map, expected)
    assert found.classes.tolist() == [5, 2, 5]
    assert found.crowd.tolist() == [False, False, True]
    by_id = {0: -1, 3: 5, 900: -1, 12: 2}
    expected = np.vectorize(by_id.get)(picture)
    np.testing.assert_array_equal(segment_labels(found), expected)
    with raises("70001", "does not list"):
        datasets.common._segments(SegmentList("x", ids, labels, crowd), picture + 70001)


def test_a_picture_without_segments():
    empty = SegmentList("x", (), (), ())
    found = datasets.common._segments(empty, np.zeros((2, 3), int))
    assert isinstance(found, Segments)
    assert found.map.tolist() == [[-1] * 3] * 2
    assert found.classes.shape == found.crowd.shape == (0,)
    assert segment_labels(found).tolist() == [[-1] * 3] * 2


def test_missing_pairs_are_reported_together(tmp_path):
    trees.folder(tmp_path)
    for name in ("b", "c"):
        trees.picture(tmp_path / f"images/{name}.png")
    for name in ("d", "sub/e"):
        trees.grey(tmp_path / f"masks/{name}.png", [[0]])
    shutil.copy(tmp_path / "images/a.png", tmp_path / "images/a.bmp")
    (tmp_path / "classes.txt").write_text("cat\n\ncat\n")
    with raises(
        "2 pictures without labels: b, c",
        "2 labels without a picture: d, sub/e",
        "several files of one name",
        "no class name in line 2",
        "what to fetch: images/",
    ):
        datasets.read("folder", tmp_path, "all")


def test_a_list_may_name_what_is_missing(tmp_path):
    trees.voc(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2012"
    with (base / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("2007_3\n2007_4\n")
    trees.picture(base / "JPEGImages/2007_3.jpg")
    with raises(
        "1 pictures are listed but missing", "2 labels are listed but missing", "2007_3.png"
    ):
        datasets.read("voc21", tmp_path)
    found = datasets.check("voc20", tmp_path)
    assert len(found.problems) == 2
    assert found.sizes == "20 classes; 4 val"


@pytest.mark.parametrize(
    ("tree", "name", "lost", "said"),
    [
        ("coco_stuff", "coco_stuff", "labels.txt", "classes.txt"),
        ("ade20k_150", "ade20k_150", "ADEChallengeData2016/objectInfo150.txt", "classes.txt"),
        ("ade20k_847", "ade20k_847", "ADE20K_2021_17_01/classes847.csv", "classes847.csv"),
        ("pc59", "pc59", "pascal_ctx_d2/annotations_ctx59/classes.txt", "annotations_ctx59"),
        ("pc459", "pc459", "pascal_ctx_d2/labels.txt", "annotations_ctx459/classes.txt"),
        ("folder", "folder", "classes.txt", "classes.txt"),
    ],
)
def test_the_error_says_where_names_come_from(tmp_path, tree, name, lost, said):
    getattr(trees, tree)(tmp_path)
    (tmp_path / lost).unlink()
    found = datasets.check(name, tmp_path)
    assert len(found.problems) == 1
    for part in ("class names", said, "one class a line", "name, synonym"):
        assert part in found.problems[0]


def test_ade_takes_the_names_of_its_json(tmp_path):
    trees.ade20k_150(tmp_path, panoptic=True)
    (tmp_path / "ADEChallengeData2016/objectInfo150.txt").unlink()
    found = datasets.read("ade20k_150", tmp_path)
    assert found.classes[149] == "name 149"
    assert found.names_from.endswith("ade20k_panoptic_val.json")


def test_the_user_may_bring_the_names(tmp_path):
    trees.ade20k_847(tmp_path)
    base = tmp_path / "ADE20K_2021_17_01"
    (base / "classes847.csv").unlink()
    (base / "classes.txt").write_text("wall\napple\nbuilding, edifice\n")
    assert datasets.read("ade20k_847", tmp_path).classes[2] == "building, edifice"


def test_bad_tables_are_listed(tmp_path):
    trees.ade20k_847(tmp_path)
    path = tmp_path / "ADE20K_2021_17_01/classes847.csv"
    path.write_text("5, 0, wall\n5, 2, sky\nx, 3, sea\n7, 2, tree\n9, 1\n")
    with raises("line 3", "line 5", "repeats the train id 2", "train id 1", "ids 5"):
        datasets.read("ade20k_847", tmp_path)


def test_bad_annotations_are_listed(tmp_path):
    trees.coco_panoptic(tmp_path)
    path = tmp_path / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 999
    content["annotations"][1]["segments_info"].append({"id": 300, "category_id": 1})
    path.write_text(json.dumps(content))
    with raises("0 (KeyError(999))", "1 (ValueError", "annotates no picture"):
        datasets.read("coco_panoptic", tmp_path)
    path.write_text("[]")
    with raises("no panoptic JSON", "isthing"):
        datasets.read("coco_panoptic", tmp_path)


def test_check_finds_everything(tmp_path):
    trees.coco_panoptic(tmp_path)
    trees.ids(tmp_path / "panoptic_val2017/000000000009.png", [[300, 5]])
    trees.picture(tmp_path / "val2017/000000000007.jpg", (5, 5))
    found = datasets.check("coco_panoptic", tmp_path)
    assert len(found.problems) == 2
    text = datasets.report(found, tmp_path)
    for part in (
        "2 problems",
        "segment ids 5",
        "is 5 x 5 pixels",
        "are 2 x 4",
        "what to fetch",
        "COCO",
    ):
        assert part in text


def test_check_of_a_good_set_is_one_line(tmp_path):
    trees.cityscapes(tmp_path, panoptic=True)
    text = datasets.report(datasets.check("cityscapes", tmp_path), tmp_path)
    assert text == f"data set 'cityscapes' below {tmp_path}: complete (19 classes; 1 val)"


def test_check_reports_unreadable_pictures_and_labels(tmp_path):
    trees.folder(tmp_path)
    (tmp_path / "images/a.png").write_bytes(b"no")
    trees.grey(tmp_path / "masks/sub/a.png", [[0, 7, 1]])
    found = datasets.check("folder", tmp_path)
    assert len(found.problems) == 2
    assert any("not a readable picture" in problem for problem in found.problems)
    assert any("the values 7" in problem for problem in found.problems)
    with pytest.raises(images.ImageError):
        datasets.read("folder", tmp_path, "all")[0]


def test_check_does_not_repeat_itself_a_thousand_times(tmp_path):
    trees.text(tmp_path / "classes.txt", "\n".join(f"name {k}" for k in range(256)))
    for number in range(25):
        trees.picture(tmp_path / f"images/{number}.png", (1, 1))
        trees.grey(tmp_path / f"masks/{number}.png", [[0]])
    found = datasets.check("folder", tmp_path)
    assert len(found.problems) == 21
    assert all("cannot hold 256 classes" in problem for problem in found.problems[:20])
    assert found.problems[20].startswith("5 more pictures of all")


@pytest.mark.parametrize("name", datasets.NAMES)
def test_an_empty_root(tmp_path, name):
    found = datasets.check(name, tmp_path)
    assert found.problems
    assert found.problems[0].startswith("no split of it is there")
    with raises("data set", "what to fetch"):
        datasets.read(name, tmp_path)
    with raises("does not exist"):
        datasets.read(name, tmp_path / "nowhere")


def test_unknown_names_and_splits(tmp_path):
    with raises("no reader of this name", "coco_panoptic", "folder"):
        datasets.read("imagenet", tmp_path)
    assert "no reader" in datasets.check("imagenet", tmp_path).problems[0]
    with raises("no split 'test'", "train, val"):
        datasets.read("voc20", tmp_path, "test")
