"""Data sets and lookups whose lists lie on disk equal those whose lists are in memory."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from core_jax.data import files, lines
from fdbpl_jax import build, datasets, lookup
from fdbpl_jax.datasets import Item
from tests.fdbpl_jax import stub
from tests.fdbpl_jax.test_lookup_build import expected


@pytest.fixture
def short(monkeypatch):
    """Lists of more than three leave the memory."""

    def set_() -> None:
        monkeypatch.setattr(lines, "HELD", 3)

    return set_


def tree(root, splits=("train", "val", "test")):
    for split in splits:
        for name, count in (("ant", 9), ("bee", 12), ("cat", 5)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i * 7 % 13:02d}.png").touch()
    return root


def read_all(root):
    full = datasets.read_folder(root)
    return [
        full,
        datasets.half(full, "base"),
        datasets.half(full, "new"),
        datasets.few_shot(full, 4, 1),
        datasets.half(datasets.few_shot(full, 2, 3), "base"),
        datasets.union(full, 2, (1, 2)),
        datasets.union(full, 0, (1,)),
        datasets.relabel(full, ("cat", "ant")),
    ]


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("one",)])
def test_folders_and_what_is_chosen_from_them(tmp_path, short, splits):
    root = tree(tmp_path, splits)
    root = root if "train" in splits else root / "one"
    wanted = read_all(root)
    digests = [one.digest for one in wanted]
    short()
    found = read_all(root)
    assert isinstance(found[0].train, lines.Lines)
    for one, two in zip(found, wanted):
        for split in datasets.SPLITS:
            assert list(getattr(one, split)) == list(getattr(two, split))
        assert one.classes == two.classes
    assert [one.digest for one in found] == digests


def test_split_files(tmp_path, short):
    rows = [[f"{i}.png", i % 2, "ab"[i % 2]] for i in range(9)]
    (tmp_path / "split.json").write_text(json.dumps({"train": rows, "val": [], "test": rows[:2]}))
    short()
    found = datasets.read("folder", tmp_path)
    assert list(found.train) == [Item(*row) for row in rows]
    assert isinstance(found.train, lines.Lines)


def test_the_digest_of_a_list_is_that_of_its_json():
    items = [Item("a/é.png", 0, "a"), Item('"b"', -1, "b\n")]
    assert datasets.list_digest(items) == files.digest(
        [[item.path, item.label, item.name] for item in items]
    )
    assert datasets.list_digest([]) == files.digest([])


def test_a_lookup_is_built_and_read_as_from_memory(tmp_path, short):
    dataset = stub.write_pictures(tmp_path / "pictures", 10)

    def built(name, dataset):
        return build.build(
            tmp_path / name,
            dataset,
            stub.teacher(),
            stub.settings(),
            student=stub.student(),
            shards=(0, 1),
        )

    one = built("one", dataset)
    wanted = lookup.open(one, expected(dataset, source="features"))
    stacked, rows = wanted.arrays(), wanted.rows_of(dataset.train[::2])
    short()
    listed = lines.collect(((i.path, i.label, i.name) for i in dataset.train), lambda r: Item(*r))
    two = built("two", dataclasses.replace(dataset, train=listed))
    assert stub.contents(two) == stub.contents(one)
    opened = lookup.open(two, expected(dataset, source="features"))
    assert isinstance(opened.images, lines.Lines)
    assert opened.images == wanted.images
    assert opened.digest == wanted.digest
    np.testing.assert_array_equal(opened.rows_of(dataset.train[::2]), rows)
    for name, value in opened.arrays().items():
        np.testing.assert_array_equal(value, stacked[name])
    assert pickle.loads(pickle.dumps(opened)).record(7) == wanted.record(7)
