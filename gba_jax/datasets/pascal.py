"""Pascal: VOC 2012 with 20 or 21 classes, and Pascal Context with 59 or 459."""

import functools
import pathlib

from gba_jax.datasets import names, pairs
from gba_jax.datasets.common import Dataset, DatasetError, Item, some
from gba_jax.datasets.labels import LabelTable, read_mat

Path = pathlib.Path

VOC, CONTEXT, RAW = "VOCdevkit/VOC2012", "pascal_ctx_d2", "VOC2010"
FOLDERS = {"train": "training", "val": "validation"}
_MAT_CLASSES = 459


def load_voc(
    root: Path, split: str, given: Path | None, *, classes: int
) -> tuple[Dataset | None, list[str]]:
    """`VOCdevkit/VOC2012/{JPEGImages,SegmentationClass}/`, the pictures of `ImageSets/Segmentation/{split}.txt`.

    With 21 classes the first is the background; with 20 its pixels are ignored.
    """
    base = root / VOC
    folders = base / "JPEGImages", base / "SegmentationClass"
    problems = pairs.absent(*folders)
    if problems:
        return None, problems
    items, problems = pairs.listed(
        base / "ImageSets" / "Segmentation" / f"{split}.txt",
        (folders[0], ".jpg"),
        (folders[1], ".png"),
    )
    shipped = names.VOC if classes == 20 else (names.BACKGROUND, *names.VOC)
    found, source, wrong = names.find(
        [], count=classes, user=base / "classes.txt", given=given, shipped=shipped
    )
    table = (
        LabelTable(tuple(range(1, 21)), ignored=(0,), largest=True)
        if classes == 20
        else LabelTable(tuple(range(21)), largest=True)
    )
    dataset = Dataset(
        name=f"voc{classes}",
        split=split,
        classes=found,
        names_from=source,
        is_thing=tuple(classes == 20 or k > 0 for k in range(classes)),
        items=items,
        read_labels=table,
    )
    return dataset, problems + wrong


def load_context(
    root: Path, split: str, given: Path | None, *, classes: int
) -> tuple[Dataset | None, list[str]]:
    """`pascal_ctx_d2/{images,annotations_ctx59,annotations_ctx459}/`; for 459 also `VOC2010/trainval/*.mat`.

    Names of the 459 are in `labels.txt`; those of the 59 come in several orders, so the user says which: `classes.txt`
    beside the label folders.
    """
    base, raw = root / CONTEXT, root / RAW
    kind = f"annotations_ctx{classes}"
    folders = base / "images" / FOLDERS[split], base / kind / FOLDERS[split]
    own = [
        names.Source(path=place / "labels.txt", read=_context_names)
        for place in (base, base / kind, raw, raw / "trainval")
        if classes == _MAT_CLASSES
    ]
    problems: list[str] = []
    user = base / kind / "classes.txt"
    if classes == _MAT_CLASSES and not folders[1].is_dir() and (raw / "trainval").is_dir():
        table = LabelTable(tuple(range(1, classes + 1)), ignored=(0,))
        read, user = functools.partial(read_mat, table=table), raw / "classes.txt"
        items, problems = _raw_items(raw, split)
    else:
        lost = pairs.absent(*folders)
        if lost:
            also = [f"nor is there {raw / 'trainval'}"] if classes == _MAT_CLASSES else []
            return None, lost + also
        pictures, twice = pairs.collect(folders[0])
        labels, also_twice = pairs.collect(folders[1], suffixes=(".png", ".tif", ".tiff"))
        items, lacking = pairs.match(pictures, labels)
        problems = twice + also_twice + lacking
        read = LabelTable(tuple(range(classes)), largest=True)
    found, source, wrong = names.find(own, count=classes, user=user, given=given)
    dataset = Dataset(
        name=f"pc{classes}",
        split=split,
        classes=found,
        names_from=source,
        items=items,
        read_labels=read,
    )
    return dataset, problems + wrong


def _raw_items(raw: Path, split: str) -> tuple[tuple[Item, ...], list[str]]:
    """The pictures of the split's list; VOC 2010's own, which holds the same, where Pascal Context's is not there."""
    lists = [
        raw / f"pascalcontext_{split}.txt",
        raw / "ImageSets" / "SegmentationContext" / f"{split}.txt",
        raw / "ImageSets" / "Main" / f"{split}.txt",
    ]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        return (), [f"the list of {split} pictures is neither {' nor '.join(map(str, lists))}"]
    return pairs.listed(path, (raw / "JPEGImages", ".jpg"), (raw / "trainval", ".mat"))


def _context_names(path: Path) -> list[str]:
    found = names.read_numbered(path)
    missing = sorted(set(range(1, _MAT_CLASSES + 1)) - set(found))
    if missing:
        raise DatasetError(f"{path} has no line for class {some(missing)}")
    return [found[k] for k in range(1, _MAT_CLASSES + 1)]
