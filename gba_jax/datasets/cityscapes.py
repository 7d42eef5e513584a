"""Cityscapes: 19 classes, label maps of train ids or of label ids, with segments where they have been prepared."""

import dataclasses
import pathlib

from gba_jax.datasets import names, pairs, panoptic
from gba_jax.datasets.common import Dataset, SegmentList, some
from gba_jax.datasets.labels import LabelTable, read_ids

Path = pathlib.Path

LABEL_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
_ALL_IDS = range(-1, 34)
IS_THING = tuple(k >= 11 for k in range(19))
_TRAIN_IDS = LabelTable(tuple(range(19)), largest=True)
# The 8-bit files hold -1, the licence plate, as 255.
_IDS = LabelTable(
    LABEL_IDS, ignored=tuple(i % 256 for i in _ALL_IDS if i not in LABEL_IDS), largest=False
)


def load(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`leftImg8bit/{split}/CITY/`, `gtFine/{split}/CITY/*_gtFine_labelTrainIds.png` or, without any, `*_labelIds.png`.

    Where `gtFine/cityscapes_panoptic_{split}.json` and the folder of that name (or both with `_trainId`) exist, pictures
    have segments.
    """
    folders = root / "leftImg8bit" / split, root / "gtFine" / split
    problems = pairs.absent(*folders)
    if problems:
        return None, problems
    pictures, _ = pairs.collect(folders[0], "_leftImg8bit", suffixes=(".png",))
    labels, _ = pairs.collect(folders[1], "_gtFine_labelTrainIds", suffixes=(".png",))
    table = _TRAIN_IDS
    if not labels:
        labels, _ = pairs.collect(folders[1], "_gtFine_labelIds", suffixes=(".png",))
        table = _IDS
    segments, problems = _segments(root / "gtFine", split)
    items, lacking = pairs.match(pictures, labels, segments)
    problems += lacking + (pairs.missing_files(items) if segments else [])
    classes, source, wrong = names.find(
        [], count=19, user=root / "classes.txt", given=given, shipped=names.CITYSCAPES
    )
    dataset = Dataset(
        name="cityscapes",
        split=split,
        classes=classes,
        names_from=source,
        is_thing=IS_THING,
        items=items,
        read_labels=table,
        read_ids=read_ids if segments is not None else None,
    )
    return dataset, problems + wrong


def _segments(folder: Path, split: str) -> tuple[dict[str, SegmentList] | None, list[str]]:
    """Segments by "city/picture", labelled by their category's name: ids differ between the two kinds of file."""
    stems = [f"cityscapes_panoptic_{split}{kind}" for kind in ("", "_trainId")]
    stem = next((stem for stem in stems if (folder / f"{stem}.json").is_file()), None)
    if stem is None:
        return None, []
    found, problems = panoptic.read(folder / f"{stem}.json", folder / stem)
    problems += pairs.absent(folder / stem)
    if found is None:
        return None, problems
    unknown = [name for name in found.classes if name not in names.CITYSCAPES]
    if unknown:
        return None, [*problems, f"{stem}.json has categories that are none: {some(unknown)}"]
    label = [names.CITYSCAPES.index(name) for name in found.classes]
    out = {}
    for name, entry in found.segments.items():
        key = name.removesuffix("_gtFine_panoptic")
        labels = tuple(label[k] for k in entry.labels)
        out[f"{key.split('_')[0]}/{key}"] = dataclasses.replace(entry, labels=labels)
    return out, problems
