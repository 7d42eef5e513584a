"""Any folder, split files, few-shot lists in a data set, base and new classes, every problem at once."""

import dataclasses
import hashlib
import json
import random
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from fdbpl_jax import check, datasets
from fdbpl_jax.datasets import Item
from tests.fdbpl_jax import coop_layout


def make(counts, val_counts=(), classes=None):
    """A data set of pictures named label/number, `counts` of each label in train."""
    names = classes or [f"name {label}" for label in range(len(counts))]

    def items(numbers, kind):
        return tuple(
            Item(f"{kind}/{label}/{i}", label, names[label])
            for label, count in enumerate(numbers)
            for i in range(count)
        )

    return datasets.Dataset(
        name="made",
        root=None,
        train=items(counts, "train"),
        val=items(val_counts, "val"),
        test=items([2] * len(counts), "test"),
        classes=tuple(names),
        template="a photo of a {}.",
    )


def positions(items):
    found = defaultdict(list)
    for item in items:
        found[item.label].append(int(item.path.split("/")[-1]))
    return list(found.values())


def test_golden_few_shot_list():
    found = datasets.few_shot(make((20, 3, 40), (6, 2, 8)), 4, 1)
    assert positions(found.train) == [[4, 18, 2, 8], [0, 1, 2], [7, 31, 28, 30]]
    assert positions(found.val) == [[5, 3, 1, 0], [0, 1], [7, 0, 3, 5]]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 16])
def test_few_shot_equals_coop(seed, shots):
    full = make((30, 9, 17, 16), (12, 3, 4, 5))
    shuffled = list(full.train)
    random.Random(9).shuffle(shuffled)
    full = dataclasses.replace(full, train=tuple(shuffled))
    found = datasets.few_shot(full, shots, seed)
    train, val = coop_layout.dassl(full.train, full.val, shots, seed)
    assert (list(found.train), list(found.val)) == (train, val)
    assert found.test == full.test


def test_zero_shots_keep_everything_and_negative_ones_are_refused():
    full = make((3, 4))
    assert datasets.few_shot(full, 0, 1) is full
    with pytest.raises(ValueError, match="shots=-1"):
        datasets.few_shot(full, -1, 1)


def test_union_covers_every_seed_in_list_order():
    full = make((30, 30), (5, 5))
    found = datasets.union(full, 4, (1, 2, 3))
    wanted = {item for seed in (1, 2, 3) for item in datasets.few_shot(full, 4, seed).train}
    assert set(found.train) == wanted
    assert list(found.train) == [item for item in full.train if item in wanted]


@pytest.mark.parametrize(("n", "base"), [(37, 19), (47, 24), (101, 51), (397, 199), (2, 1)])
def test_halves(n, base):
    full = make((2,) * n)
    first, second = datasets.half(full, "base"), datasets.half(full, "new")
    assert (len(first.classes), len(second.classes)) == (base, n - base)
    assert first.classes + second.classes == full.classes
    assert {item.label for item in second.train} == set(range(n - base))
    assert all(second.classes[item.label] == item.name for item in second.train + second.test)
    assert len(first.test) + len(second.test) == len(full.test)
    assert datasets.half(full, "all") is full


def test_sampling_precedes_the_cut():
    full = make((20, 20, 20, 20))
    before = datasets.half(datasets.few_shot(full, 4, 1), "new")
    after = datasets.few_shot(datasets.half(full, "new"), 4, 1)
    assert before.train != after.train
    assert [item.path for item in before.train] == [
        item.path for item in datasets.few_shot(full, 4, 1).train if item.label >= 2
    ]


def test_bad_halves_are_refused():
    with pytest.raises(ValueError, match="expected base, new or all"):
        datasets.half(make((1, 1)), "old")
    with pytest.raises(ValueError, match="no halves"):
        datasets.half(make((1,)), "base")


def test_digest_sees_lists_names_and_template_but_not_the_place():
    full = make((2, 2))
    replace = dataclasses.replace
    assert replace(full, root="elsewhere").digest == full.digest
    changed = (
        replace(full, template="{}"),
        replace(full, classes=("x", "y")),
        replace(full, train=full.train[::-1]),
        replace(full, test=full.test[1:]),
    )
    assert len({one.digest for one in (full, *changed)}) == 5


def test_a_long_list_has_the_digest_of_its_json():
    items = [Item(f"train/{i}.jpg", i % 7, f"näme {i % 7}") for i in range(2001)]
    for some in (items[:1000], items[:1001], items):
        text = json.dumps(
            [[i.path, i.label, i.name] for i in some], ensure_ascii=False, separators=(",", ":")
        )
        assert datasets.list_digest(some) == hashlib.sha256(text.encode()).hexdigest()


def test_texts_turn_underscores_into_spaces():
    assert datasets.texts(["sea_horse", "ox"], "a {}.") == ["a sea horse.", "a ox."]


# ---- readers


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def caltech(root, rows):
    folder = root / "caltech-101"
    (folder / "101_ObjectCategories").mkdir(parents=True)
    for split in rows.values():
        for row in split:
            if isinstance(row, list) and isinstance(row[0], str):
                save(folder / "101_ObjectCategories" / row[0])
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(rows))
    return folder


ROWS = {
    "train": [["ant/1.jpg", 0, "ant"], ["Faces/1.jpg", 1, "face"]],
    "val": [["ant/2.jpg", 0, "ant"]],
    "test": [["Faces/2.jpg", 1, "face"]],
}


def test_coop_layout(tmp_path):
    caltech(tmp_path, ROWS)
    found = datasets.read("caltech101", tmp_path)
    assert found.classes == ("ant", "face")
    assert found.train == (Item("ant/1.jpg", 0, "ant"), Item("Faces/1.jpg", 1, "face"))
    assert found.root == tmp_path / "caltech-101" / "101_ObjectCategories"
    assert (found.template, len(found.val), len(found.test)) == ("a photo of a {}.", 1, 1)
    assert datasets.read("caltech101", tmp_path, template="{}!").template == "{}!"


def test_missing_folder_and_split_file_say_what_to_fetch(tmp_path):
    with pytest.raises(datasets.DatasetError, match=r"caltech-101 does not exist[\s\S]*fetch"):
        datasets.read("caltech101", tmp_path)
    caltech(tmp_path, ROWS)
    split = tmp_path / "caltech-101" / "split_zhou_Caltech101.json"
    split.unlink()
    with pytest.raises(datasets.DatasetError, match=r"split_zhou_Caltech101\.json does not exist"):
        datasets.read("caltech101", tmp_path)
    split.write_text("{")
    with pytest.raises(datasets.DatasetError, match="cannot be read"):
        datasets.read("caltech101", tmp_path)
    split.write_text('{"train": []}')
    with pytest.raises(datasets.DatasetError, match="three lists"):
        datasets.read("caltech101", tmp_path)
    with pytest.raises(
        datasets.DatasetError, match=r"known are imagenet, caltech101, .*, world_objects, folder"
    ):
        datasets.read("imagenet21k", tmp_path)


def test_every_bad_row_is_told(tmp_path):
    rows = {
        "train": [
            ["a.jpg", 0, "ant"],
            ["b.jpg", 0, "bee"],
            ["c.jpg", "2", "cat"],
            ["../d.jpg", 3, "dog"],
            ["e.jpg", 5, "ant"],
            "f.jpg",
        ],
        "val": [],
        "test": [["g.jpg", 7, "gnu"]],
    }
    caltech(tmp_path, rows)
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.read("caltech101", tmp_path)
    for part in (
        "train row 1",
        "label 0 is called 'ant' elsewhere",
        "train row 2",
        "train row 3",
        "stay below",
        "train row 5",
        "missing are [1, 2, 3, 4]",
        "label 7 ('gnu') occurs in val or test but not in train",
        "class name 'ant' stands for several labels",
    ):
        assert part in str(caught.value), part


def test_check_reports_folder_rows_and_pictures_in_one_go(tmp_path):
    folder = caltech(tmp_path, ROWS | {"val": [["ant/2.jpg", 0, "ant"], ["ant/3.jpg", 0]]})
    images = folder / "101_ObjectCategories"
    (images / "ant/1.jpg").write_bytes(b"no picture")
    (images / "Faces/2.jpg").unlink()
    found = check.check("caltech101", tmp_path)
    text = check.report(found, tmp_path)
    for part in (
        "val row 1",
        "ant/1.jpg is not a readable picture",
        "Faces/2.jpg is missing",
        "2 classes, expected 100",
        "2 train pictures, expected 4,128",
        "airplane, leopard, motorbike are missing",
        "what to fetch",
    ):
        assert part in text, part
    assert "does not exist" in check.report(check.check("world_objects", tmp_path), tmp_path)


def test_folder_of_class_folders_is_split_by_seed(tmp_path):
    for name, count in (("zebra", 10), ("apple_pie", 20)):
        for i in range(count):
            save(tmp_path / name / f"{i:02d}.png")
    (tmp_path / "zebra" / "notes.txt").write_text("no picture")
    found = datasets.read("folder", tmp_path)
    assert found.classes == ("apple_pie", "zebra")
    sizes = [len(getattr(found, split)) for split in datasets.SPLITS]
    assert sizes == [15, 6, 9]
    paths = [item.path for split in datasets.SPLITS for item in getattr(found, split)]
    assert len(set(paths)) == 30
    assert datasets.read_folder(tmp_path) == found
    assert datasets.read_folder(tmp_path, seed=1).train != found.train
    # A class's split does not depend on what else is there.
    for i in range(5):
        save(tmp_path / "bee" / f"{i}.png")
    again = datasets.read_folder(tmp_path)
    assert {i.path for i in found.train} <= {i.path for i in again.train}
    assert not check.check("folder", tmp_path).problems


def test_folder_with_splits_and_folder_with_a_split_file(tmp_path):
    for path in ("train/a/1.png", "train/b/1.png", "test/a/2.png", "validation/b/2.png"):
        save(tmp_path / "one" / path)
    found = datasets.read_folder(tmp_path / "one")
    assert found.train == (Item("train/a/1.png", 0, "a"), Item("train/b/1.png", 1, "b"))
    assert found.val == (Item("validation/b/2.png", 1, "b"),)
    assert found.test == (Item("test/a/2.png", 0, "a"),)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "split.json").write_text(json.dumps(ROWS))
    assert datasets.read("folder", tmp_path / "two").classes == ("ant", "face")


def test_empty_class_folders_are_all_told(tmp_path):
    save(tmp_path / "full" / "a.png")
    for name in ("empty", "words"):
        (tmp_path / name).mkdir()
    (tmp_path / "words" / "a.txt").write_text("")
    with pytest.raises(datasets.DatasetError, match=r"2 problems[\s\S]*empty[\s\S]*words"):
        datasets.read_folder(tmp_path)
    with pytest.raises(datasets.DatasetError, match="no class folder"):
        datasets.read_folder(tmp_path / "full")
    with pytest.raises(datasets.DatasetError, match="does not exist"):
        datasets.read_folder(tmp_path / "absent")
    save(tmp_path / "s" / "train" / "a" / "1.png")
    save(tmp_path / "s" / "test" / "b" / "1.png")
    with pytest.raises(
        datasets.DatasetError, match="class 'b' has test pictures but none to train"
    ):
        datasets.read_folder(tmp_path / "s")
