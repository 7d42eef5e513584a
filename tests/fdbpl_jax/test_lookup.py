"""Opening a lookup: every reason for refusing it, several at once; reading records, damaged ones included."""

import json
import pickle
import shutil

import numpy as np
import pytest

from core_jax.data import files, records
from fdbpl_jax import build, datasets, layout, lookup
from tests.fdbpl_jax import stub


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 10)


@pytest.fixture(scope="module")
def original(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup") / "l"
    return build.build(
        folder, dataset, stub.teacher(), stub.settings(), student=stub.student(), shards=(0, 1)
    )


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "l")
    return tmp_path / "l"


def expected(dataset, **changes):
    values = {
        "items": dataset.train,
        "root": dataset.root,
        "classes": dataset.classes,
        "template": dataset.template,
        "teacher": "stub:teacher",
        "teacher_digest": "teacher-digest",
        "logit_scale": 100.0,
        "scale": (0.08, 0.936),
        "regions_per_visit": 2,
        "student_digest": "student-digest",
        "source": "features",
    } | changes
    return lookup.Expected(**values)


def refusal(folder, wanted=None):
    with pytest.raises(lookup.UnusableLookup) as caught:
        lookup.open(folder, wanted)
    return str(caught.value)


def test_a_fitting_lookup_opens(dataset, original):
    opened = lookup.open(original, expected(dataset))
    assert (opened.num_images, opened.regions, opened.top_k, opened.dense) == (10, 8, 3, False)
    assert (opened.student, opened.classes) == ("stub-student", dataset.classes)
    assert opened.nbytes == 10 * (28 + 8 * (9 + 4 * 3 + 4) + 24 + 2 * 8 * 8)
    assert opened.rows_of(dataset.train[::-1]).tolist() == list(range(10))[::-1]


def test_stacked_arrays_are_the_records(dataset, original):
    opened = lookup.open(original, expected(dataset))
    arrays = opened.arrays()
    assert {name: str(value.dtype) for name, value in arrays.items()} == {
        "box": "uint16",
        "flip": "bool",
        "index": "uint16",
        "logp": "float16",
        "rest": "float16",
        "entropy": "float16",
        "feature": "float16",
    }
    for row in range(10):
        record = opened.record(row)
        for name in ("box", "flip", "index", "logp", "rest", "entropy"):
            np.testing.assert_array_equal(arrays[name][row], record[name])
        np.testing.assert_array_equal(arrays["feature"][row], opened.features(row))
    assert pickle.loads(pickle.dumps(opened)).record(3) == opened.record(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": tuple(f"class_{c}" for c in range(5))}, "has 7 classes, this run has 5"),
        ({"classes": ("x", *(f"class_{c}" for c in range(1, 7)))}, "class names: class 0 is"),
        ({"template": "the {}."}, "template: the lookup was built with 'a {}.'"),
        ({"teacher_digest": "else"}, "teacher digest"),
        ({"teacher_digest": None, "teacher": "else"}, "teacher: the lookup was built with 'stub"),
        ({"logit_scale": 99.0}, "logit scale"),
        ({"scale": (0.08, 1.0)}, "region scale"),
        ({"regions_per_visit": 16}, "exceeds the 8 stored regions"),
        ({"regions_per_visit": 3}, "no multiple of regions_per_visit=3"),
        ({"student_digest": "else"}, "no features of this run's student (else"),
        ({"items": [datasets.Item("new.png", 0, "class_0")]}, "1 training pictures have no labels"),
        ({"items": [datasets.Item("000.png", 3, "class_3")]}, "carry another label"),
        ({"root": "/nowhere"}, "10 training pictures are not below /nowhere"),
    ],
)
def test_each_mismatch_is_told(dataset, original, change, words):
    text = refusal(original, expected(dataset, **change))
    assert "for 1 reason:" in text
    assert words in text


def test_class_order_is_told_apart_from_class_names(dataset, original):
    swapped = (dataset.classes[1], dataset.classes[0], *dataset.classes[2:])
    assert "class order: class 0" in refusal(original, expected(dataset, classes=swapped))


def test_two_at_once_are_both_named(dataset, folder):
    (folder / "labels-00001-of-00003.arrayrecord").unlink()
    text = refusal(folder, expected(dataset, template="the {}.", regions_per_visit=3))
    assert "for 3 reasons" in text
    for words in ("labels-00001-of-00003.arrayrecord is missing", "template", "no multiple"):
        assert words in text


def test_small_deviations_of_the_scale_and_unknown_values_pass(dataset, original):
    lookup.open(original, expected(dataset, logit_scale=100.0001))
    lookup.open(original, expected(dataset, logit_scale=None, scale=None, root=None))
    assert lookup.open(original, expected(dataset, teacher="moved/elsewhere")).student


def test_sources(dataset, original):
    assert lookup.open(original, expected(dataset, source="auto")).student == "stub-student"
    other = expected(dataset, source="auto", student_digest="else")
    assert lookup.open(original, other).student is None
    opened = lookup.open(original, expected(dataset, source="images"))
    assert opened.student is None
    assert "feature" not in opened.arrays()
    with pytest.raises(lookup.UnusableLookup, match="opened without stored features"):
        opened.features(0)


def test_changed_pictures_are_told(original, dataset, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "p")
    shutil.copy(tmp_path / "p" / "001.png", tmp_path / "p" / "000.png")
    text = refusal(original, expected(dataset, root=tmp_path / "p"))
    assert "1 training pictures have changed since, for example 000.png" in text


def edit(folder, change):
    path = folder / layout.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(layout.dump(manifest))


def test_incomplete_and_foreign_lookups(folder, tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")
    edit(folder, lambda m: m.update(complete=False))
    assert "not complete" in refusal(folder)
    edit(folder, lambda m: m.update(version=99))
    assert "version is 99; this release reads version 1" in refusal(folder)
    (folder / layout.MANIFEST).write_text("{")
    assert "not JSON" in refusal(folder)
    (folder / layout.MANIFEST).unlink()
    assert "the build has not finished" in refusal(folder)


def test_files_unlike_the_manifest(folder):
    edit(folder, lambda m: m.update(record_bytes=5))
    path = folder / "features-stub-student-00000-of-00003.arrayrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with open(folder / layout.IMAGES, "a") as file:
        file.write("\n")
    text = refusal(folder)
    assert "for 3 reasons" in text
    for words in ("records have 5 bytes", "truncated", "images.jsonl is not the one"):
        assert words in text


def rewrite(folder, change):
    """Replaces records of the first label shard, with digests that hold: damage that only reading can find."""
    dtype = layout.label_dtype(regions=8, classes=7, top_k=3)
    opened = lookup.open(folder)
    stacked = np.array([opened.record(row) for row in range(4)], dtype)
    payloads = change(stacked)
    shard = records.write_shard(folder / "labels-00000-of-00003.arrayrecord", payloads, first_row=0)
    edit(
        folder,
        lambda m: m["shards"].__setitem__(0, files.json.loads(files.canonical_json(vars(shard)))),
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("magic", b"RLD1", "expected b'RLK1'"),
        ("row", 9, "says it is row 9"),
        ("image", 0, "belongs to another picture than 001.png"),
        ("size", 1, "picture size is (1, 1)"),
    ],
)
def test_a_damaged_record_names_itself(folder, field, value, words):
    def change(stacked):
        stacked[field][1] = value
        return [record.tobytes() for record in stacked]

    rewrite(folder, change)
    opened = lookup.open(folder)
    opened.record(0)
    for read in (lambda: opened.record(1), opened.arrays):
        with pytest.raises(records.RecordError, match=r"record 1 in .*labels-00000") as caught:
            read()
        assert words in str(caught.value)


def test_a_record_of_another_length_names_itself(folder):
    rewrite(folder, lambda stacked: [record.tobytes()[:-1] for record in stacked])
    with pytest.raises(records.RecordError, match="227 bytes, expected 228"):
        lookup.open(folder).record(2)


def test_dense_lookups(dataset, tmp_path):
    folder = build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings(top_k=None))
    opened = lookup.open(folder)
    arrays = opened.arrays()
    assert sorted(arrays) == ["box", "entropy", "flip", "logp"]
    assert opened.dense
    assert arrays["logp"].shape == (10, 8, 7)
    np.testing.assert_allclose(np.exp(arrays["logp"].astype(np.float32)).sum(-1), 1, atol=2e-3)
