"""Tiny copies of the data sets in the layout that CoOp's DATASETS.md describes, and CoOp's own way to draw few shots.

Folders, list files and the form of picture names are the public ones; pictures are 8 x 8, and classes are few.
"""

import functools
import io
import json
import math
import random
from collections import defaultdict

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")
# Of each class.
SIZES = {"train": 5, "val": 2, "test": 3}


@functools.cache
def encoded(kind="JPEG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded("PNG" if path.suffix == ".png" else "JPEG"))


def dassl(train, val, shots, seed):
    """CoOp's few-shot lists, after Dassl's description: items by label in a defaultdict, random.sample from each."""
    random.seed(seed)
    chosen = []
    for items, count in ((train, shots), (val, min(shots, 4))):
        by_label = defaultdict(list)
        for item in items:
            by_label[item.label].append(item)
        chosen.append(
            [
                item
                for group in by_label.values()
                for item in (random.sample(group, count) if len(group) >= count else group)
            ]
        )
    return tuple(chosen)


def halves(*lists):
    """CoOp's base and new classes of (train, val, test), after its description: half of the labels that train has."""
    labels = sorted({item.label for item in lists[0]})
    middle = math.ceil(len(labels) / 2)
    return [
        [
            [(item.path, kept.index(item.label), item.name) for item in one if item.label in kept]
            for one in lists
        ]
        for kept in (labels[:middle], labels[middle:])
    ]


EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
# Folder, picture folder, split file; and for each class its name and a picture's path, given the split and a number.
SPLIT_SETS = {
    "caltech101": (
        "caltech-101/101_ObjectCategories",
        "caltech-101/split_zhou_Caltech101.json",
        {
            name: lambda split, i, folder=folder: f"{folder}/image_{i:04d}.jpg"
            for folder, name in (
                ("Faces", "face"),
                ("Leopards", "leopard"),
                ("Motorbikes", "motorbike"),
                ("accordion", "accordion"),
                ("airplanes", "airplane"),
            )
        },
    ),
    "oxford_pets": (
        "oxford_pets/images",
        "oxford_pets/split_zhou_OxfordPets.json",
        {
            "abyssinian": lambda split, i: f"Abyssinian_{i}.jpg",
            "american_bulldog": lambda split, i: f"american_bulldog_{i}.jpg",
            "shiba_inu": lambda split, i: f"shiba_inu_{i}.jpg",
        },
    ),
    "stanford_cars": (
        "stanford_cars",
        "stanford_cars/split_zhou_StanfordCars.json",
        {
            name: lambda split, i, k=k: (
                f"cars_{'test' if split == 'test' else 'train'}/{100 * k + i:05d}.jpg"
            )
            for k, name in enumerate(
                ("2012 Acura TL Sedan", "2012 Audi TTS Coupe", "2007 Dodge Dakota Club Cab")
            )
        },
    ),
    "oxford_flowers": (
        "oxford_flowers/jpg",
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        {
            name: lambda split, i, k=k: f"image_{100 * k + i:05d}.jpg"
            for k, name in enumerate(("pink primrose", "passion flower", "colt's foot"))
        },
    ),
    "food101": (
        "food-101/images",
        "food-101/split_zhou_Food101.json",
        {
            name: lambda split, i, name=name: f"{name}/{1005649 + i}.jpg"
            for name in ("apple_pie", "baby_back_ribs", "waffles")
        },
    ),
    "sun397": (
        "sun397/SUN397",
        "sun397/split_zhou_SUN397.json",
        {
            "abbey": lambda split, i: f"a/abbey/sun_{i:016x}.jpg",
            "outdoor apartment_building": lambda split, i: (
                f"a/apartment_building/outdoor/sun_{i:016x}.jpg"
            ),
        },
    ),
    "dtd": (
        "dtd/images",
        "dtd/split_zhou_DescribableTextures.json",
        {
            name: lambda split, i, name=name: f"{name}/{name}_{i:04d}.jpg"
            for name in ("banded", "blotchy", "zigzagged")
        },
    ),
    "eurosat": (
        "eurosat/2750",
        "eurosat/split_zhou_EuroSAT.json",
        {
            name: lambda split, i, folder=folder: f"{folder}/{folder}_{i}.jpg"
            for folder, name in EUROSAT.items()
        },
    ),
    "ucf101": (
        "ucf101/UCF-101-midframes",
        "ucf101/split_zhou_UCF101.json",
        {
            name: lambda split, i, name=name: (
                f"{name}/v_{name.replace('_', '')}_g{8 + i:02d}_c01.jpg"
            )
            for name in ("Apply_Eye_Makeup", "Apply_Lipstick", "Yo_Yo")
        },
    ),
}
WNIDS = {
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n01484850": "great white shark",
    "n01558993": "American robin",
    # Two classes of one name, as in the real list.
    "n03773504": "missile",
    "n04008634": "missile",
}
CLASSNAMES = "".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items())
VARIANTS = ("707-320", "A300B4", "Boeing 717", "Cessna 172")


def write(name, root):
    """Writes a data set; returns its lists as {split: [(path, label, class name), ...]} and its picture folder."""
    if name in SPLIT_SETS:
        return _split_set(name, root)
    if name == "fgvc_aircraft":
        return _aircraft(root)
    return {
        "imagenet": _imagenet,
        "imagenetv2": _v2,
        "imagenet_sketch": _sketch,
        "imagenet_a": _adversarial,
        "imagenet_r": _rendition,
    }[name](root)


ALL = (*SPLIT_SETS, "fgvc_aircraft", "imagenet", "imagenetv2", "imagenet_sketch")
ALL += ("imagenet_a", "imagenet_r")


def _split_set(name, root):
    images, split_file, classes = SPLIT_SETS[name]
    lists, numbers = {split: [] for split in SPLITS}, dict.fromkeys(classes, 0)
    # The public files list classes in the order in which they first came: not always that of their labels.
    order = list(enumerate(classes.items()))
    order = order[1:] + order[:1]
    for split in SPLITS:
        for label, (called, path) in order:
            for _ in range(SIZES[split]):
                numbers[called] += 1
                lists[split].append((path(split, numbers[called]), label, called))
    _pictures(root / images, lists)
    (root / split_file).write_text(json.dumps(lists, indent=4, separators=(",", ": ")))
    return lists, root / images


def _aircraft(root):
    folder, lists, number = root / "fgvc_aircraft", {}, 34309
    for split in SPLITS:
        lists[split] = []
        # A line is a picture, in the order of their numbers; classes alternate.
        for _ in range(SIZES[split]):
            for label, name in enumerate(VARIANTS):
                number += 7
                lists[split].append((f"{number:07d}.jpg", label, name))
    _pictures(folder / "images", lists)
    for split, rows in lists.items():
        text = "".join(f"{path.removesuffix('.jpg')} {name}\n" for path, _, name in rows)
        (folder / f"images_variant_{split}.txt").write_text(text)
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in VARIANTS))
    (folder / "families.txt").write_text("Boeing 707\n")
    return lists, folder / "images"


def _imagenet(root):
    folder = root / "imagenet"
    lists = {"train": [], "val": [], "test": []}
    for label, (wnid, name) in enumerate(WNIDS.items()):
        for number in (10026, 10027, 2, 30, 4):
            lists["train"].append((f"train/{wnid}/{wnid}_{number}.JPEG", label, name))
        for i in range(3):
            picture = f"ILSVRC2012_val_{100 * label + i:08d}.JPEG"
            lists["test"].append((f"val/{wnid}/{picture}", label, name))
    return _in_folders(folder, "images", lists)


def _v2(root):
    rows = [
        (f"{label}/{i}a{label}f.jpeg", label, name)
        for label, name in enumerate(WNIDS.values())
        for i in range(3)
    ]
    return _variant(root, "imagenetv2", "imagenetv2-matched-frequency-format-val", rows)


def _sketch(root):
    rows = [
        (f"{wnid}/sketch_{i}.JPEG", label, name)
        for label, (wnid, name) in enumerate(WNIDS.items())
        for i in range(3)
    ]
    return _variant(root, "imagenet-sketch", "images", rows)


def _some(form):
    """Rows of every second class: their labels count the folders that are there."""
    return [
        (f"{wnid}/{form.format(i)}", label, WNIDS[wnid])
        for label, wnid in enumerate(list(WNIDS)[1::2])
        for i in range(3)
    ]


def _adversarial(root):
    rows = _some("0.00{}_digital clock _ digital clock_0.8656622.jpg")
    lists, place = _variant(root, "imagenet-adversarial", "imagenet-a", rows)
    (place / "README.txt").write_text("labels")
    return lists, place


def _rendition(root):
    lists, place = _variant(root, "imagenet-rendition", "imagenet-r", _some("art_{}.jpg"))
    (place / "README.txt").write_text("labels")
    return lists, place


def _variant(root, folder, images, rows):
    return _in_folders(root / folder, images, {"train": [], "val": [], "test": rows})


def _in_folders(folder, images, lists):
    _pictures(folder / images, lists)
    (folder / "classnames.txt").write_text(CLASSNAMES)
    # Names within a class are sorted when they are read: "_10026" comes before "_2".
    return {
        split: sorted(rows, key=lambda row: (row[1], row[0])) for split, rows in lists.items()
    }, (folder / images)


def _pictures(place, lists):
    for rows in lists.values():
        for path, _, _ in rows:
            save(place / path)
