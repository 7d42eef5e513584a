"""ADE20K: the 150 classes of the challenge, with segments where they have been prepared, and the 847 of the full set."""

import functools
import pathlib

from gba_jax.datasets import names, pairs, panoptic
from gba_jax.datasets.common import Dataset, DatasetError, some
from gba_jax.datasets.labels import LabelTable, read_ids, read_raw_ade

Path = pathlib.Path

CHALLENGE, FULL = "ADEChallengeData2016", "ADE20K_2021_17_01"
FOLDERS = {"train": "training", "val": "validation"}
TABLE = "classes847.csv"
_CLASSES = 150
# The published conversion of the full set shrinks large pictures to this, because the originals are enormous.
_SHORTEST = 512


def load_150(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`ADEChallengeData2016/{images,annotations}/`, names in `objectInfo150.txt`.

    Where `ade20k_panoptic_{split}.json` and the folder of that name lie beside them, pictures have segments.
    """
    base = root / CHALLENGE
    folders = base / "images" / FOLDERS[split], base / "annotations" / FOLDERS[split]
    problems = pairs.absent(*folders)
    if problems:
        return None, problems
    pictures, twice = pairs.collect(folders[0])
    labels, also_twice = pairs.collect(folders[1], suffixes=(".png",))
    problems += twice + also_twice
    json_path, maps = base / f"ade20k_panoptic_{split}.json", base / f"ade20k_panoptic_{split}"
    found = None
    if json_path.is_file():
        found, wrong = panoptic.read(json_path, maps)
        problems += wrong + pairs.absent(maps)
    items, lacking = pairs.match(pictures, labels, found.segments if found else None)
    problems += lacking + (pairs.missing_files(items) if found and maps.is_dir() else [])
    own = [names.Source(path=base / "objectInfo150.txt", read=names.read_object_info)]
    if found is not None:
        own_classes = list(found.classes)
        own.append(names.Source(path=json_path, read=lambda _: names.without_shared(own_classes)))
        if len(own_classes) != _CLASSES:
            problems.append(f"{len(own_classes)} categories in {json_path}, expected {_CLASSES}")
    classes, source, wrong = names.find(own, count=_CLASSES, user=base / "classes.txt", given=given)
    dataset = Dataset(
        name="ade20k_150",
        split=split,
        classes=classes,
        names_from=source,
        is_thing=found.is_thing if found else None,
        items=items,
        read_labels=LabelTable(tuple(range(1, _CLASSES + 1)), ignored=(0,)),
        read_ids=read_ids if found else None,
    )
    return dataset, problems + wrong


def load_847(root: Path, split: str, given: Path | None) -> tuple[Dataset | None, list[str]]:
    """`ADE20K_2021_17_01/{images,annotations}_detectron2/`, else `images/ADE/` with `*_seg.png` beside each picture.

    The class table `classes847.csv` is the user's: "id, train id, name" a line, id being ADE20K's own class number.
    """
    base = root / FULL
    folders = [base / f"{kind}_detectron2" / FOLDERS[split] for kind in ("images", "annotations")]
    raw = base / "images" / "ADE" / FOLDERS[split]
    table_path = base / TABLE
    if folders[1].is_dir() or not raw.is_dir():
        problems = pairs.absent(*folders)
        if problems:
            return None, [*problems, f"nor is there the raw data set in {raw}"]
        pictures, twice = pairs.collect(folders[0])
        labels, also_twice = pairs.collect(folders[1], suffixes=(".tif", ".tiff"))
        own = [names.Source(path=table_path, read=lambda path: _read_table(path)[1])]
        classes, source, wrong = names.find(own, count=None, user=base / "classes.txt", given=given)
        read = LabelTable(tuple(range(len(classes))), largest=True)
        shortest = None
    else:
        pictures, twice = pairs.collect(raw, suffixes=(".jpg", ".jpeg"))
        labels, also_twice = pairs.collect(raw, "_seg", suffixes=(".png",))
        try:
            ids, own_names = _read_table(table_path)
        except (OSError, UnicodeDecodeError, DatasetError) as error:
            return None, [
                f"{error}. Labels of the raw data set need the table {table_path} of the classes: "
                "'id, train id, name' a line, for example '2978, 0, wall'"
            ]
        classes, source, wrong = tuple(own_names), str(table_path), []
        if given is not None:
            classes, source, wrong = names.find([], count=len(ids), user=given, given=given)
        wrong = wrong or names.check(classes, len(ids), source)
        table = LabelTable(tuple(ids), others=True)
        read = functools.partial(read_raw_ade, table=table)
        shortest = _SHORTEST
    items, lacking = pairs.match(pictures, labels)
    dataset = Dataset(
        name="ade20k_847",
        split=split,
        classes=classes,
        names_from=source,
        items=items,
        read_labels=read,
        shortest=shortest,
    )
    return dataset, twice + also_twice + lacking + wrong


def _read_table(path: Path) -> tuple[list[int], list[str]]:
    """Class numbers and names in the order of train ids."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows: dict[int, tuple[int, str]] = {}
    bad = []
    for number, line in enumerate(lines, 1):
        parts = [part.strip() for part in line.split(",", 2)]
        if not line.strip() or (number == 1 and not parts[0].isdigit()):
            continue  # a header
        if len(parts) < 3 or not (parts[0].isdigit() and parts[1].isdigit() and parts[2]):
            bad.append(f"line {number} ({line!r}) is not 'id, train id, name'")
        elif int(parts[1]) in rows:
            bad.append(f"line {number} repeats the train id {parts[1]}")
        else:
            rows[int(parts[1])] = int(parts[0]), parts[2].strip('"').replace(";", ",")
    missing = sorted(set(range(max(rows, default=0) + 1)) - set(rows))
    bad += [f"no line has train id {some(missing)}"] if missing else []
    ids = [rows[k][0] for k in sorted(rows)]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    bad += [f"the ids {some(twice)} occur more than once"] if twice else []
    if bad:
        raise DatasetError(f"{path}: {some(bad)}")
    return ids, names.without_shared([rows[k][1] for k in sorted(rows)])
