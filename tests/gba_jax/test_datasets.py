"""Every reader on a miniature tree of its layout, labels by hand."""

import pickle

import numpy as np
import pytest

from core_jax import world
from gba_jax import datasets
from gba_jax.datasets import cityscapes, coco, names
from tests.gba_jax import trees


def check_sample(sample, labels, image_id):
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (*np.shape(labels), 3)
    assert sample.labels.dtype == np.int32
    assert sample.labels.tolist() == labels
    assert sample.image_id == image_id


def check_segments(segments, map_, classes, crowd=None):
    assert segments.map.dtype == segments.classes.dtype == np.int32
    assert segments.map.tolist() == map_
    assert segments.classes.tolist() == classes
    assert segments.crowd.tolist() == (crowd or [False] * len(classes))


def test_coco_panoptic(tmp_path):
    trees.coco_panoptic(tmp_path)
    found = datasets.read("coco_panoptic", tmp_path)
    assert found.classes == ("person", "bottle", "rug-merged")
    assert found.is_thing == (True, True, False)
    assert found.vocabulary.is_thing.tolist() == [True, True, False]
    assert "panoptic_val2017.json" in found.names_from
    assert len(found) == 2
    check_sample(found[0], [[-1, 1, 1, -1], [-1, 2, 2, 2]], "000000000007")
    # The crowd, second in the file, comes last.
    check_segments(
        found[0].segments, [[-1, 0, 0, 2], [-1, 1, 1, 1]], [1, 2, 0], [False, False, True]
    )
    check_sample(found[1], [[0, 0]], "000000000009")


def test_coco_stuff(tmp_path):
    trees.coco_stuff(tmp_path)
    found = datasets.read("coco_stuff", tmp_path, "train")
    # 11 gaps below 182: by hand, 12 has one below it, 24 one, 26 two, 91 and 181 all eleven.
    check_sample(found[0], [[0, 10, 11, 23], [24, 80, 170, -1]], "a")
    assert found[0].segments is None
    assert len(found.classes) == 171
    assert found.classes[10:12] == ("name 11", "name 13")
    assert found.classes[170] == "name 182"
    assert sum(found.is_thing) == 80
    assert len(coco.STUFF_VALUES) == 171


@pytest.mark.parametrize("panoptic", [False, True])
def test_ade20k_150(tmp_path, panoptic):
    trees.ade20k_150(tmp_path, panoptic)
    found = datasets.read("ade20k_150", tmp_path)
    check_sample(found[0], [[-1, 0], [1, 149]], "ADE_val_1")
    # "ground" names two classes and tells neither; "soil" is the name of a third.
    assert found.classes[:4] == ("wall", "earth", "land", "soil")
    assert "objectInfo150.txt" in found.names_from
    if panoptic:
        check_segments(found[0].segments, [[-1, 0], [1, 2]], [0, 1, 149])
        assert found.is_thing == (False,) * 149 + (True,)
    else:
        assert found[0].segments is None
        assert found.is_thing is None


def test_ade20k_847(tmp_path):
    trees.ade20k_847(tmp_path)
    found = datasets.read("ade20k_847", tmp_path)
    check_sample(found[0], [[0, 2, -1], [1, 0, 0]], "a")
    assert found.classes == ("wall", "apple", "building, edifice")


def test_raw_ade20k_847(tmp_path):
    trees.ade20k_847_raw(tmp_path)
    found = datasets.read("ade20k_847", tmp_path)
    expected = np.full((4, 6), -1)
    expected[0, 0], expected[0, 1], expected[1, 0] = 0, 2, 1
    check_sample(found[0], expected.tolist(), "urban/street/ADE_val_5")
    assert found.classes == ("wall", "apple", "building, edifice")


def test_raw_ade20k_is_cut_to_512(tmp_path):
    trees.ade20k_847_raw(tmp_path, (1024, 2000))
    sample = datasets.read("ade20k_847", tmp_path)[0]
    assert sample.image.shape == (512, 1000, 3)
    assert sample.labels.shape == (512, 1000)
    assert set(np.unique(sample.labels)) <= {-1, 0, 1, 2}
    (tmp_path / "ADE20K_2021_17_01/classes847.csv").unlink()
    with pytest.raises(datasets.DatasetError, match="'id, train id, name' a line"):
        datasets.read("ade20k_847", tmp_path)


@pytest.mark.parametrize("classes", [20, 21])
def test_voc(tmp_path, classes):
    trees.voc(tmp_path)
    found = datasets.read(f"voc{classes}", tmp_path)
    shift = 21 - classes
    labels = np.asarray([[0, 1, 20], [-1, 5, 0]])
    labels = np.where(labels < shift, -1, labels - shift)
    # In the list's order.
    assert [item.image_id for item in found.items] == ["2007_2", "2007_1"]
    check_sample(found[0], labels.tolist(), "2007_2")
    assert len(found.classes) == classes == len(found.vocabulary.rows)
    assert found.classes[-20:] == names.VOC
    assert found.is_thing == (False,) * (classes - 20) + (True,) * 20
    assert (found.classes[0] == "background") == (classes == 21)


def test_pc59(tmp_path):
    trees.pc59(tmp_path)
    found = datasets.read("pc59", tmp_path)
    check_sample(found[0], [[0, 58, -1]], "a")
    assert found.classes[58] == "name 58"


@pytest.mark.parametrize(("tree", "labels"), [("pc459", [0, 458, -1]), ("pc459_raw", [-1, 0, 458])])
def test_pc459(tmp_path, tree, labels):
    getattr(trees, tree)(tmp_path)
    found = datasets.read("pc459", tmp_path)
    check_sample(found[0], [labels], "a")
    assert found.classes[0] == "name 1"
    assert found.classes[458] == "name 459"


def test_pc459_falls_back_to_the_list_of_voc(tmp_path):
    trees.pc459_raw(tmp_path)
    old = tmp_path / "VOC2010/pascalcontext_val.txt"
    new = tmp_path / "VOC2010/ImageSets/Main/val.txt"
    new.parent.mkdir(parents=True)
    old.rename(new)
    assert len(datasets.read("pc459", tmp_path)) == 1
    new.unlink()
    with pytest.raises(datasets.DatasetError, match=r"neither .*pascalcontext_val"):
        datasets.read("pc459", tmp_path)


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_cityscapes(tmp_path, kind):
    trees.cityscapes(tmp_path, kind)
    found = datasets.read("cityscapes", tmp_path)
    check_sample(found[0], [[0, 18, -1]], "bonn/bonn_000001_000019")
    assert found.classes == names.CITYSCAPES
    assert [n for n, thing in zip(found.classes, found.is_thing, strict=True) if thing] == [
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    table = dict(zip(cityscapes.LABEL_IDS, found.classes, strict=True))
    by_hand = {7: "road", 8: "sidewalk", 11: "building", 17: "pole", 19: "traffic light"}
    by_hand |= {22: "terrain", 24: "person", 28: "bus", 31: "train", 33: "bicycle"}
    assert {k: table[k] for k in by_hand} == by_hand


def test_cityscapes_segments(tmp_path):
    trees.cityscapes(tmp_path, panoptic=True)
    found = datasets.read("cityscapes", tmp_path)
    check_sample(found[0], [[0, 18, -1]], "bonn/bonn_000001_000019")
    check_segments(found[0].segments, [[0, 1, 2]], [0, 18, 18], [False, False, True])


def test_folder(tmp_path):
    pixels = trees.folder(tmp_path)
    found = datasets.read("folder", tmp_path, "all")
    assert [item.image_id for item in found.items] == ["a", "sub/a"]
    check_sample(found[0], [[0, 1, -1]], "a")
    check_sample(found[1], [[1, 0, -1]], "sub/a")
    np.testing.assert_array_equal(found[1].image, pixels["sub/a"])
    assert found.vocabulary.rows == ("background", "cat", "kitten")
    assert found.is_thing is None


def test_folder_with_splits(tmp_path):
    for split in ("first", "second"):
        trees.folder(tmp_path / split)
    (tmp_path / "first/classes.txt").rename(tmp_path / "classes.txt")
    (tmp_path / "second/classes.txt").write_text("a\nb\n")
    assert datasets.read("folder", tmp_path, "first").classes == ("background", "cat, kitten")
    assert datasets.read("folder", tmp_path, "second").classes == ("a", "b")
    assert datasets.check("folder", tmp_path).sizes == "2 classes; 2 first, 2 second"


def test_world_scenes(tmp_path):
    splits = tuple(
        world.SceneSplit(name=name, count=2, styles="sketch") for name in ("train", "novel")
    )
    world.write_scenes(tmp_path, size=32, splits=splits, progress=False)
    found = datasets.read("world_scenes", tmp_path, "novel")
    scene = world.render_segmentation(
        0, "scenes/novel", 1, style="sketch", size=32, classes=world.SCENE_CLASSES
    )
    sample = found[1]
    check_sample(sample, scene.semantic.tolist(), "00001")
    np.testing.assert_array_equal(sample.image, scene.image)
    check_segments(sample.segments, scene.instance.tolist(), [0, *(o.label for o in scene.objects)])
    assert found.classes == ("background", *world.SCENE_CLASSES)
    assert found.is_thing == (False,) + (True,) * 64
    assert datasets.check("world_scenes", tmp_path).sizes == "65 classes; 2 novel, 2 train"


def test_workers_may_share_a_data_set(tmp_path):
    for make, name in (
        (trees.coco_panoptic, "coco_panoptic"),
        (trees.ade20k_847_raw, "ade20k_847"),
        (trees.pc459_raw, "pc459"),
    ):
        make(tmp_path)
        found = datasets.read(name, tmp_path)
        again = pickle.loads(pickle.dumps(found))
        np.testing.assert_array_equal(again[0].labels, found[0].labels)


def test_a_class_list_of_the_callers(tmp_path):
    trees.voc(tmp_path)
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(f"{name}, {name} thing" for name in names.VOC))
    found = datasets.read("voc20", tmp_path, classes=path)
    assert found.vocabulary.synonyms[0] == ("aeroplane", "aeroplane thing")
    assert found.names_from == str(path)
    with pytest.raises(datasets.DatasetError, match=r"20 class names in .*, expected 21"):
        datasets.read("voc21", tmp_path, classes=path)


def test_shared_synonyms_by_hand():
    classes = ["door", "screen door, screen, door", "screen, tv", "monitor,TV, monitor, crt"]
    assert names.without_shared(classes) == ["door", "screen door", "screen", "monitor, crt"]
