"""Pictures of prepared TFDS sets as files: their bytes, their places, whose split it is, and what is refused."""

import json
import sys

import pytest
from array_record.python import array_record_data_source, array_record_module

from fdbpl_jax import catalogue, datasets, tfds_sets
from tests.fdbpl_jax import coop_layout

# Reading defines flags when it is first imported: before any test that puts flags back as they were.
assert array_record_data_source
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def prepare(data_dir, name, splits, *, labels, feature="file_name", kind="array_record"):
    """A prepared TFDS set, as `tfds build` leaves it: {split: [(picture's name, label, bytes), ...]}."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    plain, _, version = name.partition(":")
    version = version or "3.0.0"
    folder = data_dir / plain / version
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image()}
    if labels:
        features["label"] = tfds.features.ClassLabel(names=labels)
    if feature:
        features[feature] = tfds.features.Text()
    tfds.features.FeaturesDict(features).save_config(folder)
    first, *config = plain.split("/")
    info = {
        "fileFormat": kind,
        "name": first,
        "version": version,
        "splits": [
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(rows))],
                "filepathTemplate": TEMPLATE,
            }
            for split, rows in splits.items()
        ],
    }
    info |= {"configName": config[0]} if config else {}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for split, rows in splits.items():
        path = folder / f"{first}-{split}.{kind}-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for picture, label, data in rows:
            example = tf_example_pb2.Example()
            fields = example.features.feature
            fields["image"].bytes_list.value.append(data)
            if labels:
                fields["label"].int64_list.value.append(label)
            if feature:
                fields[feature].bytes_list.value.append(picture.encode())
            writer.write(example.SerializeToString())
        writer.close()
    return folder


def only_lists(root, name):
    """A data set's lists without its pictures, and the rows of all lists."""
    lists, images = coop_layout.write(name, root)
    for path in images.rglob("*"):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            path.unlink()
    return images, [row for rows in lists.values() for row in rows]


def picture(number, kind="JPEG"):
    """Different for each number; what follows the end of a JPEG file does not matter."""
    return coop_layout.encoded(kind) + bytes([number])


def test_pictures_go_where_coop_looks_for_them(tmp_path):
    images, rows = only_lists(tmp_path, "dtd")
    data = {path: picture(i) for i, (path, _, _) in enumerate(rows)}
    named = [(path, label, data[path]) for path, label, _ in rows]
    # Another cut than CoOp's, another order, and one more picture.
    splits = {
        "train": [*named[::-2], ("banded/banded_9999.jpg", 0, picture(99))],
        "validation": named[-2::-4],
        "test": named[-4::-4],
    }
    prepare(tmp_path / "tfds", "dtd", splits, labels=["banded", "blotchy", "zigzagged"])
    written = tfds_sets.export("dtd", tmp_path, tmp_path / "tfds")
    assert (written.folder, written.count, written.kept, written.unused) == (images, 30, 0, 1)
    assert {path: (images / path).read_bytes() for path in data} == data
    found = datasets.read("dtd", tmp_path)
    assert [item.path for split in datasets.SPLITS for item in getattr(found, split)] == list(data)
    # A second time nothing but what was lost is written.
    (images / rows[3][0]).unlink()
    again = tfds_sets.export("dtd", tmp_path, tmp_path / "tfds")
    assert (again.count, again.kept) == (30, 29)
    assert "tensorflow" not in sys.modules


def test_small_letters_and_a_configuration(tmp_path):
    images, rows = only_lists(tmp_path, "caltech101")
    folders = sorted({path.split("/")[0] for path, _, _ in rows})
    labels = [folder.lower() for folder in folders] + ["background_google"]
    named = [
        (path.split("/")[1], folders.index(path.split("/")[0]), picture(i))
        for i, (path, _, _) in enumerate(rows)
    ]
    named.append(("image_0001.jpg", len(folders), picture(99)))
    prepare(
        tmp_path / "tfds",
        "caltech101",
        {"train": named[:3], "test": named[3:]},
        labels=labels,
        feature="image/file_name",
    )
    written = tfds_sets.export("caltech101", tmp_path, tmp_path / "tfds")
    assert (written.count, written.unused) == (len(rows), 1)
    assert (images / "Faces" / "image_0001.jpg").is_file()
    images, rows = only_lists(tmp_path, "eurosat")
    labels = list(coop_layout.EUROSAT)
    named = [(path.split("/")[1], label, picture(i)) for i, (path, label, _) in enumerate(rows)]
    prepare(tmp_path / "tfds", "eurosat/rgb", {"train": named}, labels=labels, feature="filename")
    assert tfds_sets.export("eurosat", tmp_path, tmp_path / "tfds").count == len(rows)
    assert all((images / path).is_file() for path, _, _ in rows)


def test_variants_of_imagenet_need_no_list(tmp_path):
    wnids = list(coop_layout.WNIDS)
    named = [(f"0.00{i}_digital clock_0.9.jpg", i, picture(i)) for i in (1, 3)]
    prepare(tmp_path / "tfds", "imagenet_a", {"test": named}, labels=wnids)
    tfds_sets.export("imagenet_a", tmp_path, tmp_path / "tfds")
    folder = tmp_path / "imagenet-adversarial"
    (folder / "classnames.txt").write_text(coop_layout.CLASSNAMES)
    found = datasets.read("imagenet_a", tmp_path)
    assert found.classes == (coop_layout.WNIDS[wnids[1]], coop_layout.WNIDS[wnids[3]])
    assert found.test[0].path == f"{wnids[1]}/0.001_digital clock_0.9.jpg"


@pytest.mark.parametrize(
    ("name", "given", "place"),
    [
        ("stanford_cars", ("test", "2012 Audi", "00007"), "cars_test/00007.jpg"),
        ("food101", ("train", "apple_pie", "apple_pie/1005649"), "apple_pie/1005649.jpg"),
        ("imagenet", ("train", "n1", "n1_2.JPEG"), "train/n1/n1_2.JPEG"),
        ("imagenet", ("validation", "n1", "ILSVRC2012_val_1.JPEG"), "val/n1/ILSVRC2012_val_1.JPEG"),
        ("imagenet_r", ("test", "n1", "/cache/imagenet-r/n1/art_0.jpg"), "n1/art_0.jpg"),
        ("imagenetv2", ("test", "n1", "7/ab.jpeg"), "7/ab.jpeg"),
        ("oxford_pets", ("test", "x", "Abyssinian_1.jpg"), "Abyssinian_1.jpg"),
    ],
)
def test_places(name, given, place):
    assert tfds_sets.SOURCES[name].place(*given) == place


def test_every_set_is_accounted_for():
    known = {*tfds_sets.SOURCES, *tfds_sets.WITHOUT}
    assert known == set(catalogue.LAYOUTS) - {"world_objects"}


def test_what_is_refused(tmp_path):
    def export(name="dtd", data_dir=tmp_path / "tfds"):
        with pytest.raises(datasets.DatasetError) as caught:
            tfds_sets.export(name, tmp_path, data_dir)
        return str(caught.value)

    assert "'nothing' cannot come from TFDS: no such data set; known are imagenet" in export(
        "nothing"
    )
    assert "TFDS has no such set" in export("fgvc_aircraft")
    assert "put it there first" in export()
    _, rows = only_lists(tmp_path, "dtd")
    told = export()
    assert f"'dtd' is not prepared below {tmp_path / 'tfds'}" in told
    assert "tfds build dtd" in told
    labels = ["banded", "blotchy", "zigzagged"]
    named = [(path, label, picture(i)) for i, (path, label, _) in enumerate(rows)]
    cut = {"train": named[:9], "validation": named[9:12], "test": named[13:]}
    prepare(tmp_path / "tfds", "dtd", cut, labels=labels)
    assert f"names 1 pictures that TFDS's dtd does not have: {named[12][0]}" in export()
    other = tmp_path / "old"
    prepare(other, "dtd", {"train": named}, labels=labels, feature="")
    told = export(data_dir=other)
    assert "lacks the splits validation, test and the features file_name" in told
    records = tmp_path / "records"
    prepare(records, "dtd", cut, labels=labels, kind="tfrecord")
    assert "is not in the ArrayRecord format" in export(data_dir=records)
    only_lists(tmp_path, "food101")
    prepare(other, "food101:2.0.0", {"train": named}, labels=labels, feature="")
    assert f"'food101:2.1.0' is not prepared below {other} (there is 2.0.0)" in export(
        "food101", other
    )


def test_a_split_of_this_projects_own(tmp_path):
    labels = ["/a/abbey", "/a/apse/indoor"]
    rows = [("", i % 2, picture(i, "PNG" if i == 4 else "JPEG")) for i in range(20)]
    prepare(
        tmp_path / "tfds",
        "places:1.0.0",
        {"train": rows[:12], "test": rows[12:]},
        labels=labels,
        feature="",
    )
    written = tfds_sets.export_folders("places", tmp_path, tmp_path / "tfds")
    assert (written.folder, written.count) == (tmp_path / "tfds_places", 20)
    assert "this project's own" in written.note
    found = datasets.read("folder", written.folder)
    assert found.classes == ("a abbey", "a apse indoor")
    assert [len(getattr(found, split)) for split in datasets.SPLITS] == [10, 4, 6]
    assert (written.folder / "a abbey" / "train_0000004.png").read_bytes() == rows[4][2]
    prepare(tmp_path / "tfds", "plain", {"train": rows[:1]}, labels=None, feature="")
    with pytest.raises(datasets.DatasetError, match="lacks the features label"):
        tfds_sets.export_folders("plain", tmp_path, tmp_path / "tfds")
