"""Pictures of TensorFlow Datasets, written once as files in CoOp's layout; TensorFlow is not needed.

Sets prepared in the ArrayRecord format are read as TFDS's data sources; picture files come out byte for byte as TFDS holds
them. TFDS cuts its sets otherwise than CoOp does. A picture's name decides here: it goes where CoOp's lists look for it, so
lists, few-shot lists and halves are CoOp's own. Where names or lists are missing, class folders can be written instead,
which `datasets.read_folder` splits by a seed: that split is this project's own.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tqdm

from core_jax.data import files
from fdbpl_jax import catalogue, label, readers
from fdbpl_jax.pictures import DatasetError

Path = pathlib.Path
FORMAT = "array_record"
_MOST_TOLD = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """How a data set of the catalogue is found in TFDS.

    Attributes:
      name: in TFDS, with its configuration and a version where an older one lacks the pictures' names.
      splits: of TFDS that hold its pictures.
      feature: that names a picture.
      place: (split, class name, picture's name), all TFDS's, to the path below the picture folder.
      note: in what the pictures differ from the makers' files.
    """

    name: str
    splits: tuple[str, ...]
    feature: str = "file_name"
    place: Callable[[str, str, str], str] = lambda split, name, picture: picture
    note: str = ""


def _in_class(split: str, name: str, picture: str) -> str:
    return f"{name}/{picture}"


def _last_two(split: str, name: str, picture: str) -> str:
    """Older versions hold the whole path of the machine where they were prepared."""
    return "/".join(picture.split("/")[-2:])


def _imagenet(split: str, name: str, picture: str) -> str:
    return f"{'train' if split == 'train' else 'val'}/{name}/{picture}"


SOURCES = {
    "imagenet": Source(
        name="imagenet2012",
        splits=("train", "validation"),
        place=_imagenet,
        note="TFDS has encoded 23 of the training pictures anew (22 from CMYK, one from PNG)",
    ),
    "caltech101": Source(
        name="caltech101", splits=("train", "test"), feature="image/file_name", place=_in_class
    ),
    "oxford_pets": Source(
        name="oxford_iiit_pet",
        splits=("train", "test"),
        note="TFDS has encoded a few pictures anew whose files were damaged",
    ),
    "stanford_cars": Source(
        name="cars196",
        splits=("train", "test"),
        feature="id",
        place=lambda split, name, picture: f"cars_{split}/{picture}.jpg",
    ),
    "oxford_flowers": Source(name="oxford_flowers102", splits=("train", "validation", "test")),
    "food101": Source(
        name="food101:2.1.0",
        splits=("train", "validation"),
        feature="id",
        place=lambda split, name, picture: f"{picture}.jpg",
    ),
    "dtd": Source(name="dtd", splits=("train", "validation", "test")),
    "eurosat": Source(name="eurosat/rgb", splits=("train",), feature="filename", place=_in_class),
    "imagenetv2": Source(name="imagenet_v2/matched-frequency", splits=("test",), place=_last_two),
    "imagenet_sketch": Source(name="imagenet_sketch", splits=("test",), place=_last_two),
    "imagenet_a": Source(name="imagenet_a", splits=("test",), place=_in_class),
    "imagenet_r": Source(name="imagenet_r", splits=("test",), place=_last_two),
}
WITHOUT = {
    "fgvc_aircraft": "TFDS has no such set",
    "sun397": "TFDS has its pictures scaled down to 120,000 pixels and compressed anew: they are not the same",
    "ucf101": "TFDS has the videos, and CoOp's pictures are middle frames cut out by its authors",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What was written.

    Attributes:
      folder: where.
      count: pictures that are there now; `kept` of them were there before.
      unused: pictures of TFDS that CoOp's lists do not name.
      note: in what pictures differ from the makers'.
    """

    folder: Path
    count: int
    kept: int
    unused: int = 0
    note: str = ""


def export(
    name: str, root: str | os.PathLike, data_dir: str | os.PathLike, *, progress: bool = False
) -> Written:
    """Writes the pictures of a data set where CoOp's layout has them.

    Args:
      name: of the data set, one of `SOURCES`.
      root: the folder that holds, or shall hold, the data set's folder. A split file must be there already.
      data_dir: TFDS's own folder, such as ~/tensorflow_datasets.
      progress: whether to show a bar in a terminal.

    Raises:
      DatasetError: TFDS does not have the same pictures, they are not prepared as ArrayRecord, the split file is missing,
        or names pictures that TFDS does not have.
    """
    if name not in SOURCES:
        reason = WITHOUT.get(name, f"no such data set; known are {', '.join(SOURCES)}")
        raise DatasetError(f"data set {name!r} cannot come from TFDS: {reason}")
    source, layout = SOURCES[name], catalogue.LAYOUTS[name]
    folder = Path(root) / layout.folder
    wanted = _wanted(name, folder, layout)
    place = folder / layout.images
    told: set[str] = set()

    def target(split: str, example: Mapping[str, Any], names: list[str]) -> Path | None:
        path = source.place(split, names[int(example["label"])], _word(example[source.feature]))
        # TFDS writes some class names in small letters.
        found = path if wanted is None else wanted.get(path.lower())
        if found is None:
            return None
        if ".." in found.split("/"):
            raise DatasetError(
                f"TFDS's {source.name} calls a picture {found!r}: it must stay below {place}"
            )
        told.add(found)
        return place / found

    written = _write(source.name, source.splits, source.feature, data_dir, target, progress)
    lost = sorted(set(wanted.values()) - told) if wanted is not None else []
    if lost:
        raise DatasetError(
            f"{layout.split} names {len(lost)} pictures that TFDS's {source.name} does not have: "
            + ", ".join(lost[:_MOST_TOLD])
            + (", ..." if len(lost) > _MOST_TOLD else "")
        )
    return dataclasses.replace(written, folder=place, note=source.note)


def export_folders(
    name: str, root: str | os.PathLike, data_dir: str | os.PathLike, *, progress: bool = False
) -> Written:
    """Writes any labelled pictures of TFDS as a folder per class, <root>/tfds_<name>/<class>/<split>_<number>.

    Read it with data.dataset=folder: each class is split 50 : 20 : 30 by a seed. That split is neither CoOp's nor TFDS's.

    Args:
      name: in TFDS, with configuration and version if need be; or a data set of `SOURCES`.
      root: where the folder is made.
      data_dir: TFDS's own folder.
      progress: whether to show a bar in a terminal.

    Raises:
      DatasetError: the set is not prepared as ArrayRecord, or has no pictures with labels.
    """
    name = SOURCES[name].name.partition(":")[0] if name in SOURCES else name
    folder = Path(root) / f"tfds_{name.replace('/', '_').replace(':', '_')}"
    number: dict[str, int] = {}

    def target(split: str, example: Mapping[str, Any], names: list[str]) -> Path:
        number[split] = number.get(split, -1) + 1
        kind = names[int(example["label"])].strip("/").replace("/", " ")
        return folder / kind / f"{split}_{number[split]:07d}{_suffix(example['image'], name)}"

    return dataclasses.replace(
        _write(name, None, None, data_dir, target, progress),
        folder=folder,
        note="the split of this folder is this project's own, neither CoOp's nor that of TFDS",
    )


def _wanted(name: str, folder: Path, layout: catalogue.Layout) -> dict[str, str] | None:
    """The paths of the split file by their small letters; None where folders are all the lists there are."""
    if layout.reader != "split":
        return None
    file = folder / layout.split
    if not file.is_file():
        raise DatasetError(
            f"the split file {file} does not exist, and it says which pictures are which: put it there first (it comes from "
            f"{catalogue.COOP}). Without it, the pictures can be had as class folders with a split of this project's own: "
            "--own_split"
        )
    rows, problems = readers.split_file(file)
    if rows is None:
        raise DatasetError("; ".join(problems))
    # A row that is none is for `check` to report.
    lists = [row for split in readers.SPLITS for row in getattr(rows, split)]
    paths = {row[0] for row in lists if isinstance(row, list) and row and isinstance(row[0], str)}
    return {path.lower(): path for path in paths}


def _write(
    name: str,
    splits: tuple[str, ...] | None,
    feature: str | None,
    data_dir: str | os.PathLike,
    target: Callable[[str, Mapping[str, Any], list[str]], Path | None],
    progress: bool,
) -> Written:
    """Writes the pictures of a set's splits (None: of all) to where `target` says; those of the same size are kept."""
    sources = _open(name, splits, feature, data_dir)
    kept = count = 0

    def jobs() -> Iterator[tuple[Path | None, bytes]]:
        for split, (source, names) in sources.items():
            for place in range(len(source)):
                example = source[place]
                yield target(split, example, names), bytes(example["image"])

    def write(job: tuple[Path | None, bytes]) -> bool | None:
        path, data = job
        if path is None:
            return None
        if path.is_file() and path.stat().st_size == len(data):
            return True
        files.atomic_write(path, data)
        return False

    total = sum(len(source) for source, _ in sources.values())
    for old in tqdm.tqdm(
        label.in_order(write, jobs()),
        desc=name,
        total=total,
        unit=" pictures",
        leave=False,
        disable=None if progress else True,
    ):
        count += old is not None
        kept += bool(old)
    return Written(folder=Path(), count=count, kept=kept, unused=total - count)


def _open(
    name: str, splits: tuple[str, ...] | None, feature: str | None, data_dir: str | os.PathLike
) -> dict[str, tuple[Any, list[str]]]:
    """The data sources of a prepared set, by split, with class names in label order; pictures stay encoded."""
    import tensorflow_datasets as tfds

    data_dir = Path(data_dir).expanduser()
    folder = _prepared(name, data_dir)
    try:
        # From its files alone: the code that prepares a set may want TensorFlow.
        builder: Any = tfds.builder_from_directory(folder)
        features = builder.info.features
        encoded = [key for key, one in features.items() if isinstance(one, tfds.features.Image)]
        found = builder.as_data_source(
            decoders={key: tfds.decode.SkipDecoding() for key in encoded}
        )
    except (NotImplementedError, ValueError) as error:
        raise DatasetError(
            f"TFDS's {name!r} in {folder} is not in the ArrayRecord format, the only one that is read without TensorFlow; "
            f"{_how(name, data_dir)}"
        ) from error
    except (ModuleNotFoundError, KeyError, OSError) as error:
        raise DatasetError(f"TFDS's {name!r} in {folder} cannot be opened: {error!r}") from error
    sources = {str(split): source for split, source in found.items()}
    missing = [split for split in splits or () if split not in sources]
    lacking = [key for key in ("image", "label", feature) if key and key not in features]
    if missing or lacking:
        lacks = [f"the splits {', '.join(missing)}"] * bool(missing)
        lacks += [f"the features {', '.join(lacking)}"] * bool(lacking)
        raise DatasetError(f"TFDS's {name!r} in {folder} lacks {' and '.join(lacks)}")
    return {
        split: (source, source.dataset_info.features["label"].names)
        for split, source in sources.items()
        if splits is None or split in splits
    }


def _prepared(name: str, data_dir: Path) -> Path:
    """The folder of a prepared set: of the version in its name, or of the newest."""
    plain, _, version = name.partition(":")
    there = {
        path.parent.name: path.parent
        for path in (data_dir / plain).glob("*.*.*/dataset_info.json")
        if path.parent.name.replace(".", "").isdigit()
    }
    order = sorted(there, key=lambda one: [int(part) for part in one.split(".")])
    wanted = version or (order[-1] if order else "")
    if wanted not in there:
        others = f" (there is {', '.join(order)})" if order else ""
        raise DatasetError(
            f"TFDS's {name!r} is not prepared below {data_dir}{others}; {_how(name, data_dir)}"
        )
    return there[wanted]


def _how(name: str, data_dir: Path) -> str:
    return f"prepare it where TensorFlow is installed: tfds build {name} --data_dir={data_dir} --file_format={FORMAT}"


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _suffix(data: Any, name: str) -> str:
    data = bytes(data)
    for start, suffix in ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif")):
        if data.startswith(start):
            return suffix
    raise DatasetError(f"a picture of TFDS's {name!r} is neither JPEG nor PNG nor GIF")
