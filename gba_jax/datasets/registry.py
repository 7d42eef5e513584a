"""Readers by name, what each needs on disk, and the two ways to open a data set: `read` raises, `load` lists problems."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

from core_jax.world.scene_sets import SCENES
from gba_jax.datasets import ade, cityscapes, coco, folder, pascal
from gba_jax.datasets.common import Dataset, DatasetError

Path = pathlib.Path
Loader = Callable[[Path, str, Path | None], tuple[Dataset | None, list[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A reader.

    Attributes:
      load: (root, split, class list or None) to (data set or None, problems).
      splits: split to the files or folders of which one shows that the split is there; None where `discover` finds them.
      discover: root to the splits below it.
      fetch: what to put where.
    """

    load: Loader
    splits: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    discover: Callable[[Path], list[str]] | None = None
    fetch: str

    def present(self, root: Path) -> list[str]:
        """The splits that are there, at least in part."""
        if self.discover is not None:
            return self.discover(root)
        return [
            split
            for split, places in self.splits.items()
            if any((root / place).exists() for place in places)
        ]


def _both(*patterns: str) -> dict[str, tuple[str, ...]]:
    """The places of train and val: {split} or {folder} (training, validation) in a pattern."""
    return {
        split: tuple(p.format(split=split, folder=long) for p in patterns)
        for split, long in ade.FOLDERS.items()
    }


def _own_splits(root: Path) -> list[str]:
    if (root / "images").is_dir():
        return [folder.ALL]
    return _folders(root, "images")


def _folders(root: Path, marker: str) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if (path / marker).exists())


_VOC = Layout(
    load=functools.partial(pascal.load_voc, classes=20),
    splits=_both(pascal.VOC + "/ImageSets/Segmentation/{split}.txt"),
    fetch="VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets} of the VOC 2012 trainval archive",
)
_CONTEXT = "pascal_ctx_d2/images/{training,validation}/*.jpg and pascal_ctx_d2/annotations_ctx"

LAYOUTS: dict[str, Layout] = {
    "coco_panoptic": Layout(
        load=coco.load_panoptic,
        splits=_both("annotations/panoptic_{split}2017.json"),
        fetch="{train,val}2017/*.jpg, panoptic_{train,val}2017/*.png, annotations/panoptic_{train,val}2017.json (COCO's "
        "2017 pictures and panoptic annotations)",
    ),
    "coco_stuff": Layout(
        load=coco.load_stuff,
        splits=_both("annotations/{split}2017", "images/{split}2017"),
        fetch="images/{train,val}2017/*.jpg, annotations/{train,val}2017/*.png (stuffthingmaps), labels.txt of COCO-Stuff",
    ),
    "ade20k_150": Layout(
        load=ade.load_150,
        splits=_both(ade.CHALLENGE + "/annotations/{folder}", ade.CHALLENGE + "/images/{folder}"),
        fetch="ADEChallengeData2016/{images,annotations}/{training,validation} and objectInfo150.txt; for segments "
        "ade20k_panoptic_{train,val} and the JSON files of that name",
    ),
    "ade20k_847": Layout(
        load=ade.load_847,
        splits=_both(
            ade.FULL + "/annotations_detectron2/{folder}", ade.FULL + "/images/ADE/{folder}"
        ),
        fetch="ADE20K_2021_17_01/{images,annotations}_detectron2/{training,validation}, or the raw images/ADE with the table "
        f"{ade.TABLE} ('id, train id, name' a line)",
    ),
    "pc59": Layout(
        load=functools.partial(pascal.load_context, classes=59),
        splits=_both(pascal.CONTEXT + "/annotations_ctx59/{folder}"),
        fetch=_CONTEXT
        + "59/{training,validation}/*.png, class names in annotations_ctx59/classes.txt",
    ),
    "pc459": Layout(
        load=functools.partial(pascal.load_context, classes=459),
        splits=_both(
            pascal.CONTEXT + "/annotations_ctx459/{folder}",
            *(f"{pascal.RAW}/{place}" for place in ("pascalcontext_{split}.txt", "trainval")),
        ),
        fetch=_CONTEXT
        + "459/{training,validation}/*.tif, or VOC2010/{JPEGImages,trainval/*.mat} with a list of pictures; "
        "and Pascal Context's labels.txt",
    ),
    "voc20": _VOC,
    "voc21": dataclasses.replace(_VOC, load=functools.partial(pascal.load_voc, classes=21)),
    "cityscapes": Layout(
        load=cityscapes.load,
        splits=_both("gtFine/{split}", "leftImg8bit/{split}"),
        fetch="leftImg8bit/{train,val} and gtFine/{train,val} of Cityscapes; for segments gtFine/cityscapes_panoptic_*",
    ),
    "folder": Layout(
        load=folder.load_folder,
        discover=_own_splits,
        fetch="images/, masks/ (pictures of class numbers under the same names) and classes.txt, here or in a folder a split",
    ),
    SCENES: Layout(
        load=folder.load_world,
        discover=lambda root: _folders(root / SCENES, "scenes.json"),
        fetch="nothing: core_jax.world.write_scenes makes it",
    ),
}
NAMES = tuple(LAYOUTS)


def read(
    name: str,
    root: str | os.PathLike,
    split: str = "val",
    *,
    classes: str | os.PathLike | None = None,
) -> Dataset:
    """Opens a split of a data set; no picture is decoded.

    Args:
      name: one of `NAMES`.
      root: the folder that holds what the layout names.
      split: train or val; for "folder" a subfolder, or "all" for the root itself; for the world's scenes any of theirs.
      classes: a `classes.txt` that replaces the data set's names, for example by names with synonyms.

    Raises:
      DatasetError: listing everything that is wrong with folders, lists, pairs and names.
    """
    dataset, problems = load(name, root, split, classes=classes)
    if problems or dataset is None:
        raise DatasetError(describe(name, root, problems))
    return dataset


def load(
    name: str, root: str | os.PathLike, split: str, *, classes: str | os.PathLike | None = None
) -> tuple[Dataset | None, list[str]]:
    """As `read`, but returns (data set or None, problems) instead of raising."""
    if name not in LAYOUTS:
        return None, [f"there is no reader of this name; known are {', '.join(NAMES)}"]
    layout, root = LAYOUTS[name], Path(root)
    if not root.is_dir():
        return None, [f"the folder {root} does not exist"]
    if layout.splits and split not in layout.splits:
        return None, [f"there is no split {split!r}; known are {', '.join(layout.splits)}"]
    return layout.load(root, split, None if classes is None else Path(classes))


def describe(name: str, root: str | os.PathLike, problems: Sequence[str]) -> str:
    """One message for all problems of a data set, with what to fetch."""
    fetch = f"\nwhat to fetch: {LAYOUTS[name].fetch}" if name in LAYOUTS else ""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return f"data set {name!r} below {root}: {count}\n  - " + "\n  - ".join(problems) + fetch
