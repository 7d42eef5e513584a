"""Every data set of the catalogue, read from a tiny copy in its public layout; what the readers refuse."""

import dataclasses
import json
import re

import pytest

from fdbpl_jax import catalogue, check, datasets
from tests.fdbpl_jax import coop_layout

PUBLISHED = {
    # CoOp's paper, table of data sets: classes, train, val, test; and pictures in all, by the sets' makers.
    "caltech101": (100, 4128, 1649, 2465, 9144 - 467 - 435),
    "oxford_pets": (37, 2944, 736, 3669, 7349),
    "stanford_cars": (196, 6509, 1635, 8041, 16_185),
    "oxford_flowers": (102, 4093, 1633, 2463, 8189),
    "food101": (101, 50_500, 20_200, 30_300, 101_000),
    "fgvc_aircraft": (100, 3334, 3333, 3333, 10_000),
    "sun397": (397, 15_880, 3970, 19_850, 39_700),
    "dtd": (47, 2820, 1128, 1692, 5640),
    "eurosat": (10, 13_500, 5400, 8100, 27_000),
    "ucf101": (101, 7639, 1898, 3783, 9537 + 3783),
    "imagenet": (1000, 1_281_167, 0, 50_000, 1_331_167),
    "imagenetv2": (1000, 0, 0, 10_000, 10_000),
    "imagenet_sketch": (1000, 0, 0, 50_889, 50_889),
    "imagenet_a": (200, 0, 0, 7500, 7500),
    "imagenet_r": (200, 0, 0, 30_000, 30_000),
}
# fdbpl's tables: test pictures of the base and of the new classes.
HALVES = {
    "imagenet": (25_000, 25_000),
    "caltech101": (1549, 916),
    "oxford_pets": (1881, 1788),
    "stanford_cars": (4002, 4039),
    "oxford_flowers": (1053, 1410),
    "food101": (15_300, 15_000),
    "fgvc_aircraft": (1666, 1667),
    "sun397": (9950, 9900),
    "dtd": (864, 828),
    "eurosat": (4200, 3900),
    "ucf101": (1934, 1849),
}
TEMPLATES = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All of them below one root."""
    place = tmp_path_factory.mktemp("coop")
    return place, {name: coop_layout.write(name, place) for name in coop_layout.ALL}


def test_counts_of_the_catalogue():
    assert set(coop_layout.ALL) == set(PUBLISHED) == set(catalogue.LAYOUTS) - {"world_objects"}
    for name, (classes, *lists, total) in PUBLISHED.items():
        layout = catalogue.LAYOUTS[name]
        assert (layout.classes, layout.train, layout.val, layout.test) == (classes, *lists), name
        assert sum(lists) == total, name
        assert layout.template == TEMPLATES.get(name, "a photo of a {}."), name
        assert layout.halves == HALVES.get(name), name
        assert layout.halves is None or sum(layout.halves) == layout.test
        assert layout.test_only == (name not in HALVES), name


@pytest.mark.parametrize("name", coop_layout.ALL)
def test_lists_are_those_that_were_written(root, name):
    place, written = root
    lists, images = written[name]
    found = datasets.read(name, place)
    for split in datasets.SPLITS:
        rows = [(item.path, item.label, item.name) for item in getattr(found, split)]
        assert rows == lists[split], split
        assert all((found.root / path).is_file() for path, _, _ in rows)
    assert found.root == images
    names = {label: called for rows in lists.values() for _, label, called in rows}
    assert found.classes == tuple(names[label] for label in range(len(names)))
    assert found.template == catalogue.LAYOUTS[name].template


@pytest.mark.parametrize("name", sorted(HALVES))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_shot_lists_are_those_of_dassl(root, name, seed):
    found = datasets.read(name, root[0])
    for shots in (1, 2, 4, 8):
        train, val = coop_layout.dassl(found.train, found.val, shots, seed)
        chosen = datasets.few_shot(found, shots, seed)
        assert (list(chosen.train), list(chosen.val)) == (train, val)
        assert chosen.test == found.test
        for part, wanted in zip(("base", "new"), coop_layout.halves(train, val, found.test)):
            cut = datasets.half(chosen, part)
            rows = [
                [(item.path, item.label, item.name) for item in getattr(cut, split)]
                for split in datasets.SPLITS
            ]
            assert rows == wanted
            assert all(cut.classes[label] == name for one in rows for _, label, name in one)


@pytest.mark.parametrize("name", coop_layout.ALL)
def test_a_good_copy_is_complete(root, name, monkeypatch):
    place, written = root
    lists, _ = written[name]
    classes = len({label for rows in lists.values() for _, label, _ in rows})
    middle = (classes + 1) // 2
    base = sum(label < middle for _, label, _ in lists["test"])
    counts = {"classes": classes} | {split: len(rows) for split, rows in lists.items()}
    halves = (base, len(lists["test"]) - base)
    layout = dataclasses.replace(catalogue.LAYOUTS[name], **counts, halves=halves)
    monkeypatch.setitem(catalogue.LAYOUTS, name, layout)
    found = check.check(name, place)
    assert found.problems == ()
    assert (found.state, found.counts) == ("complete", tuple(counts.values()))
    # And a copy with the halves exchanged has its classes in another order.
    wrong = dataclasses.replace(layout, halves=(base - 1, halves[1] + 1))
    monkeypatch.setitem(catalogue.LAYOUTS, name, wrong)
    assert "the classes have another order" in check.check(name, place).problems[0]


def test_of_two_classes_with_one_name_each_keeps_its_own(root):
    found = datasets.read("imagenet", root[0])
    assert found.classes[4:] == ("missile", "missile")
    assert [item.label for item in datasets.relabel(found, found.classes).train] == [
        item.label for item in found.train
    ]
    new = datasets.half(found, "new")
    again = datasets.relabel(new, found.classes)
    assert {item.label for item in again.test} == {3, 4, 5}
    assert [item.path for item in again.test if item.label == 5] == [
        item.path for item in found.test if item.label == 5
    ]
    assert {item.label for item in datasets.relabel(found, ("goldfish", "tench")).test} == {
        0,
        1,
        -1,
    }


def test_sets_that_are_only_tested_on(root):
    found = datasets.read("imagenet_a", root[0])
    assert (found.train, found.val) == ((), ())
    base, new = datasets.half(found, "base"), datasets.half(found, "new")
    assert base.classes + new.classes == found.classes == ("goldfish", "American robin", "missile")
    assert len(base.test) + len(new.test) == len(found.test) == 9
    assert datasets.few_shot(found, 16, 1).test == found.test


# ---- what the readers refuse


def problems(name, place):
    return "\n".join(datasets.load(name, place)[1])


def test_everything_that_is_missing_is_told(tmp_path):
    (tmp_path / "fgvc_aircraft").mkdir()
    told = problems("fgvc_aircraft", tmp_path)
    for part in (
        "images does not exist",
        "variants.txt does not",
        "images_variant_val.txt does not",
    ):
        assert part in told, part
    (tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val").mkdir(parents=True)
    assert "classnames.txt does not exist" in problems("imagenetv2", tmp_path)
    with pytest.raises(datasets.DatasetError, match=r"fetch: .*modestyachts[\s\S]*classnames\.txt"):
        datasets.read("imagenetv2", tmp_path)


def test_aircraft_lines_that_are_no_variant(tmp_path):
    coop_layout.write("fgvc_aircraft", tmp_path)
    folder = tmp_path / "fgvc_aircraft"
    (folder / "variants.txt").write_text("707-320\nA300B4\nA300B4\nCessna 172\n")
    told = problems("fgvc_aircraft", tmp_path)
    assert "names a class twice: A300B4" in told
    assert "images_variant_train.txt, line 3: 'Boeing 717' is no line of variants.txt" in told
    assert "images_variant_test.txt, line 3" in told


def test_imagenet_with_other_folders(tmp_path):
    coop_layout.write("imagenet", tmp_path)
    images = tmp_path / "imagenet" / "images"
    (images / "val" / "n01443537").rename(images / "val" / "n99999999")
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01440764 tench\nn01443537\n\n")
    told = problems("imagenet", tmp_path)
    assert "classnames.txt, line 2, 'n01443537': expected a WordNet id and a name" in told
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01440764 tench\nn01443537 goldfish")
    told = problems("imagenet", tmp_path)
    assert "4 class folders of " in told
    assert re.search(r"images/val lacks 1 of the class folders of train/: n01443537", told)
    assert re.search(r"images/train lacks 1 of the class folders of val/: n99999999", told)


def test_imagenet_without_validation_pictures(tmp_path):
    coop_layout.write("imagenet", tmp_path)
    (tmp_path / "imagenet/images/val").rename(tmp_path / "val")
    (tmp_path / "imagenet/classnames.txt").unlink()
    found = check.check("imagenet", tmp_path)
    assert found.state == "lacks images/val, classnames.txt"
    assert len(found.problems) == 2
    assert "images/val does not exist" in found.problems[0]


def test_variants_have_the_names_of_imagenet(root, tmp_path):
    assert not any("no copy" in line for line in check.check("imagenet_r", root[0]).problems)
    for name in ("imagenet", "imagenet_r"):
        coop_layout.write(name, tmp_path)
    file = tmp_path / "imagenet-rendition/classnames.txt"
    for old, new, told in (
        ("goldfish", "gold fish", "the first other line is 'n01443537 gold fish'"),
        ("n04008634", "n04000000 more\nn04008634", "'n04000000 more'"),
        ("n04008634 missile", "n04008634 missile\nn09999999 more", "one is longer"),
    ):
        file.write_text(coop_layout.CLASSNAMES.replace(old, new))
        found = check.check("imagenet_r", tmp_path)
        (line,) = [line for line in found.problems if "is no copy of" in line]
        assert line.endswith(told)


def test_states_of_sets_without_lists(tmp_path):
    for name in ("eurosat", "imagenetv2"):
        coop_layout.write(name, tmp_path)
    split = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    split.write_text('{"train": [')
    assert check.check("eurosat", tmp_path).state == "unreadable lists"
    split.unlink()
    assert check.check("eurosat", tmp_path).state == "lacks split_zhou_EuroSAT.json"
    (tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val/3").rename(tmp_path / "3")
    assert check.check("imagenetv2", tmp_path).state == "other folders or names"
    assert check.check("folder", tmp_path / "3").state == "other folders or names"
    assert check.check("dtd", tmp_path).state == "absent"


def test_validation_pictures_that_were_not_sorted(tmp_path):
    coop_layout.write("imagenet", tmp_path)
    val = tmp_path / "imagenet" / "images" / "val"
    for number, path in enumerate(sorted(val.rglob("*.JPEG"))):
        path.rename(val / f"ILSVRC2012_val_{number:08d}.JPEG")
    for folder in [path for path in val.iterdir() if path.is_dir()]:
        folder.rmdir()
    assert "val holds pictures where a folder for each class was expected" in problems(
        "imagenet", tmp_path
    )


def test_version_2_wants_a_folder_for_every_line(tmp_path):
    coop_layout.write("imagenetv2", tmp_path)
    place = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    (place / "3").rename(place / "17")
    told = problems("imagenetv2", tmp_path)
    assert "must hold the folders 0 to 5" in told
    assert "lacks 1: 3" in told
    assert "has beside them 1: 17" in told


def test_class_folders_that_have_no_name(tmp_path):
    coop_layout.write("imagenet_r", tmp_path)
    coop_layout.save(tmp_path / "imagenet-rendition/imagenet-r/n00000001/art_1.jpg")
    told = problems("imagenet_r", tmp_path)
    assert "1 class folders of " in told
    assert "are not in classnames.txt: n00000001" in told


def test_other_names_and_other_counts(tmp_path):
    lists, _ = coop_layout.write("stanford_cars", tmp_path)
    turned = {
        split: [[path, label, f"{name[5:]} {name[:4]}"] for path, label, name in rows]
        for split, rows in lists.items()
    }
    (tmp_path / "stanford_cars/split_zhou_StanfordCars.json").write_text(json.dumps(turned))
    found = check.check("stanford_cars", tmp_path)
    told = "\n".join(found.problems)
    assert "3 class names are not as in CoOp's list" in told
    assert "Audi TTS Coupe 2012" in told
    assert "3 classes, expected 196" in told
    assert "15 train pictures, expected 6,509" in told
    assert found.state == "other counts, other class names"


def test_a_split_file_of_full_size(tmp_path):
    """EuroSAT's real class sizes: 50 % train, 20 % val, 30 % test of each."""
    sizes = (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000)
    lists = {"train": [], "val": [], "test": []}
    for label, (size, (folder, name)) in enumerate(zip(sizes, coop_layout.EUROSAT.items())):
        for i in range(size):
            split = "train" if i < size // 2 else "val" if i < size * 7 // 10 else "test"
            lists[split].append([f"{folder}/{folder}_{i + 1}.jpg", label, name])
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    (tmp_path / "eurosat/split_zhou_EuroSAT.json").write_text(json.dumps(lists))
    found = check.check("eurosat", tmp_path, decode=False)
    assert found.state == "27,000 pictures missing"
    assert found.counts == (10, 13_500, 5400, 8100)
    assert len(found.problems) == 21
    assert found.problems[-1] == "and 26,980 more such pictures"
