"""COCO's panoptic JSON: categories, and the segments of every picture. ADE20K and Cityscapes come in the same format.

Segment ids live in a PNG as R + 256 G + 65536 B; 0 belongs to no segment.
"""

import dataclasses
import json
import pathlib

from gba_jax.datasets.common import SegmentList, some

Path = pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """What a panoptic JSON says.

    Attributes:
      classes: names of the categories in the file's order, which is that of the labels.
      is_thing: a flag a category.
      pictures: stem of the annotation's PNG to the picture's file name, "" where the file does not give one.
      segments: stem of the annotation's PNG to its segments.
    """

    classes: tuple[str, ...]
    is_thing: tuple[bool, ...]
    pictures: dict[str, str]
    segments: dict[str, SegmentList]


def read(path: Path, folder: Path) -> tuple[Annotations | None, list[str]]:
    """Reads a panoptic JSON.

    Args:
      path: the JSON.
      folder: of its PNG files.

    Returns:
      (annotations or None, problems); bad rows are listed together.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories, rows = content["categories"], content["annotations"]
        label = {category["id"]: k for k, category in enumerate(categories)}
        classes = tuple(str(category["name"]) for category in categories)
        is_thing = tuple(bool(category["isthing"]) for category in categories)
        pictures = {row["id"]: row["file_name"] for row in content["images"]}
    except OSError as error:
        return None, [f"{path} cannot be read: {error.strerror or error}"]
    except (ValueError, KeyError, TypeError) as error:
        return None, [
            f"{path} is no panoptic JSON ({error!r}): expected images, annotations, and categories with id, name and isthing"
        ]
    bad, names, segments = [], {}, {}
    for number, row in enumerate(rows):
        try:
            stem = Path(row["file_name"]).stem
            names[stem] = Path(pictures.get(row["image_id"], "")).name
            segments[stem] = _segments(row["segments_info"], folder / row["file_name"], label)
        except (KeyError, TypeError, ValueError) as error:
            bad.append(f"{number} ({error!r})")
    problems = [f"{path} has bad annotations: {some(bad)}"] if bad else []
    if len(segments) + len(bad) < len(rows):
        problems.append(f"{path} annotates some pictures more than once")
    return Annotations(
        classes=classes, is_thing=is_thing, pictures=names, segments=segments
    ), problems


def _segments(rows: list[dict], path: Path, label: dict[int, int]) -> SegmentList:
    ids = tuple(int(row["id"]) for row in rows)
    if len(set(ids)) < len(ids) or 0 in ids:
        raise ValueError(f"segment ids {ids} repeat, or one of them is 0")
    return SegmentList(
        path=path,
        ids=ids,
        labels=tuple(label[row["category_id"]] for row in rows),
        crowd=tuple(bool(row.get("iscrowd", 0)) for row in rows),
    )
