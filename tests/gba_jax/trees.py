"""Miniature data sets of every layout, written by hand: two or three pictures of a few pixels each."""

import json

import numpy as np
from PIL import Image

RNG = np.random.default_rng(5)


def picture(path, size=(3, 4)):
    """A random colour picture; returns its pixels (exact for PNG only)."""
    pixels = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    save(path, pixels)
    return pixels


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def grey(path, values, dtype=np.uint8):
    save(path, np.asarray(values, dtype))


def palette(path, values):
    """A palette picture, as VOC has them: the values are indices, the colours mean nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(path)


def ids(path, values):
    """Segment ids as colours: R + 256 G + 65536 B."""
    values = np.asarray(values)
    save(path, np.stack([values % 256, values // 256 % 256, values // 65536], -1).astype(np.uint8))


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def panoptic_json(path, categories, rows):
    """rows: (picture id, picture file, PNG file, [(id, category, crowd), ...])."""
    content = {
        "categories": [{"id": i, "name": name, "isthing": thing} for i, name, thing in categories],
        "images": [{"id": i, "file_name": file} for i, file, _, _ in rows],
        "annotations": [
            {
                "image_id": i,
                "file_name": png,
                "segments_info": [
                    {"id": s, "category_id": c, "iscrowd": crowd} for s, c, crowd in segments
                ],
            }
            for i, _, png, segments in rows
        ],
    }
    text(path, content)


def coco_panoptic(root):
    ids(root / "panoptic_val2017/000000000007.png", [[0, 7, 7, 70000], [0, 300, 300, 300]])
    picture(root / "val2017/000000000007.jpg", (2, 4))
    ids(root / "panoptic_val2017/000000000009.png", [[300, 300]])
    picture(root / "val2017/000000000009.jpg", (1, 2))
    panoptic_json(
        root / "annotations/panoptic_val2017.json",
        [(1, "person", 1), (44, "bottle", 1), (200, "rug-merged", 0)],
        [
            (
                7,
                "000000000007.jpg",
                "000000000007.png",
                [(7, 44, 0), (70000, 1, 1), (300, 200, 0)],
            ),
            (9, "000000000009.jpg", "000000000009.png", [(300, 1, 0)]),
        ],
    )


def coco_stuff(root):
    grey(root / "annotations/train2017/a.png", [[0, 10, 12, 24], [26, 91, 181, 255]])
    picture(root / "images/train2017/a.jpg", (2, 4))
    lines = ["0: unlabeled", *(f"{k}: name {k}" for k in range(1, 183))]
    text(root / "labels.txt", "\n".join(lines))


def ade20k_150(root, panoptic=False):
    base = root / "ADEChallengeData2016"
    grey(base / "annotations/validation/ADE_val_1.png", [[0, 1], [2, 150]])
    picture(base / "images/validation/ADE_val_1.jpg", (2, 2))
    names = {1: "wall", 2: "earth, ground", 3: "land; ground, soil", 4: "soil"}
    rows = [f"{k}\t0.1\t20\t3\t\t{names.get(k, f'name {k}')}  " for k in range(1, 151)]
    text(base / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\t\tName\n" + "\n".join(rows) + "\n")
    if panoptic:
        ids(base / "ade20k_panoptic_val/ADE_val_1.png", [[0, 5], [6, 900]])
        panoptic_json(
            base / "ade20k_panoptic_val.json",
            [(k, f"name {k}", int(k == 149)) for k in range(150)],
            [
                (
                    "ADE_val_1",
                    "ADE_val_1.jpg",
                    "ADE_val_1.png",
                    [(5, 0, 0), (6, 1, 0), (900, 149, 0)],
                )
            ],
        )


def ade20k_847(root):
    base = root / "ADE20K_2021_17_01"
    values = [[0, 2, 65535], [1, 0, 0]]
    grey(base / "annotations_detectron2/validation/a.tif", values, np.uint16)
    picture(base / "images_detectron2/validation/a.jpg", (2, 3))
    text(base / "classes847.csv", ADE_TABLE)


ADE_TABLE = 'id, train id, name\n2978, 0, wall\n312, 2, building, edifice\n65, 1, "apple"\n'


def ade20k_847_raw(root, size=(4, 6)):
    base = root / "ADE20K_2021_17_01"
    folder = base / "images/ADE/validation/urban/street"
    numbers = np.zeros(size, int)
    numbers[0, 0], numbers[0, 1], numbers[1, 0], numbers[1, 1] = 2978, 312, 65, 3000
    rgb = np.stack([numbers // 256 * 10 + 7, numbers % 256, numbers], -1).astype(np.uint8)
    save(folder / "ADE_val_5_seg.png", rgb)
    picture(folder / "ADE_val_5.jpg", size)
    text(base / "classes847.csv", ADE_TABLE)


def voc(root):
    base = root / "VOCdevkit/VOC2012"
    for name in ("2007_1", "2007_2"):
        picture(base / f"JPEGImages/{name}.jpg", (2, 3))
        palette(base / f"SegmentationClass/{name}.png", [[0, 1, 20], [255, 5, 0]])
    picture(base / "JPEGImages/unlisted.jpg")
    text(base / "ImageSets/Segmentation/val.txt", "2007_2\n2007_1\n")


def pc59(root):
    base = root / "pascal_ctx_d2"
    grey(base / "annotations_ctx59/validation/a.png", [[0, 58, 255]])
    picture(base / "images/validation/a.jpg", (1, 3))
    text(base / "annotations_ctx59/classes.txt", "\n".join(f"name {k}" for k in range(59)) + "\n")


def context_names(path):
    text(path, "\n".join(f"{k}: name {k}" for k in range(1, 460)))


def pc459(root):
    base = root / "pascal_ctx_d2"
    grey(base / "annotations_ctx459/validation/a.tif", [[0, 458, 65535]], np.uint16)
    picture(base / "images/validation/a.jpg", (1, 3))
    context_names(base / "labels.txt")


def pc459_raw(root):
    import scipy.io

    base = root / "VOC2010"
    (base / "trainval").mkdir(parents=True)
    scipy.io.savemat(base / "trainval/a.mat", {"LabelMap": np.asarray([[0, 1, 459]], np.uint16)})
    picture(base / "JPEGImages/a.jpg", (1, 3))
    text(base / "pascalcontext_val.txt", "a\n")
    context_names(base / "labels.txt")


def cityscapes(root, kind="labelTrainIds", panoptic=False):
    values = {"labelTrainIds": [[0, 18, 255]], "labelIds": [[7, 33, 6]]}[kind]
    name = "bonn/bonn_000001_000019"
    grey(root / f"gtFine/val/{name}_gtFine_{kind}.png", values)
    grey(root / f"gtFine/val/{name}_gtFine_instanceIds.png", [[1, 2, 3]], np.uint16)
    picture(root / f"leftImg8bit/val/{name}_leftImg8bit.png", (1, 3))
    if panoptic:
        stem = "bonn_000001_000019"
        folder = root / "gtFine/cityscapes_panoptic_val"
        ids(folder / f"{stem}_gtFine_panoptic.png", [[7, 33001, 33]])
        panoptic_json(
            root / "gtFine/cityscapes_panoptic_val.json",
            [(7, "road", 0), (33, "bicycle", 1)],
            [
                (
                    stem,
                    f"{stem}_leftImg8bit.png",
                    f"{stem}_gtFine_panoptic.png",
                    [(33, 33, 1), (7, 7, 0), (33001, 33, 0)],
                )
            ],
        )


def folder(root):
    text(root / "classes.txt", "background\ncat, kitten\n\n")
    pixels = {name: picture(root / f"images/{name}.png", (1, 3)) for name in ("a", "sub/a")}
    grey(root / "masks/a.png", [[0, 1, 255]])
    grey(root / "masks/sub/a.png", [[1, 0, 65535]], np.uint16)
    return pixels
