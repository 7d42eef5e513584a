"""Faces from a file that somebody else's detector wrote: points or boxes for each frame, CSV or JSON.

CSV, a line for each face, with any of these columns (points that a face does not have stay empty):

    frame,left,top,right,bottom,right_eye_outer_x,right_eye_outer_y,...

or a line for each point:

    frame,face,point,x,y

JSON: {"a.png": [{"box": [left, top, right, bottom], "points": {"right_eye_outer": [x, y], ...}}], "b.png": []}; points may
also be a list of 5, 68 or 468 pairs (`faces.name_points`). A frame is named as the pictures are, by as much of the path as
one likes, with or without the suffix; frames of a video and of a camera are numbers from 0. What a file does not name has no
face.
"""

import csv
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gaze_jax import face_model
from gaze_jax.people import faces

Path = pathlib.Path
_BOX = ("left", "top", "right", "bottom")
_MOST_NAMED = 10


class LandmarkFile:
    """The faces of a file as a `faces.Landmarker`.

    Args:
      path: CSV or JSON.
      needs: "points" or "box": what every face must have.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be used; the message names every bad entry.
    """

    def __init__(self, path: str | os.PathLike, *, needs: str = "points") -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"{path}: faces come from a .csv or a .json file")
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: there is no such file of faces") from error
        entries = _csv(text, path) if self.path.suffix.lower() == ".csv" else _json(text, path)
        self.frames: dict[str, list[faces.Face]] = {}
        problems = []
        for frame, where, entry in entries:
            found = self.frames.setdefault(key(frame), [])
            if entry is None:
                continue
            try:
                found.append(_face(entry, needs))
            except (TypeError, ValueError) as error:
                problems.append(f"{where}: {error}")
        if problems:
            more = len(problems) - _MOST_NAMED
            raise ValueError(
                f"{path}: {len(problems)} faces cannot be used:\n  "
                + "\n  ".join(problems[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else []))
            )

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], frame: str) -> list[faces.Face]:
        """See `faces.Landmarker`."""
        del image
        return self.find(frame) or []

    def find(self, frame: str) -> list[faces.Face] | None:
        """The faces of a frame; None where the file does not name it."""
        return next((self.frames[name] for name in names(frame) if name in self.frames), None)


def key(frame: Any) -> str:
    """A frame as tables name it, in one form."""
    return Path(str(frame).strip().replace("\\", "/")).as_posix()


def names(frame: str) -> Iterator[str]:
    """What tables may call a frame: the whole path, ever shorter ends of it, and each without the suffix."""
    parts = Path(frame).parts
    for start in range(len(parts)):
        tail = Path(*parts[start:])
        yield from (tail.as_posix(), tail.with_suffix("").as_posix())


Entries = Iterator[tuple[str, str, dict[str, Any] | None]]


def _json(text: str, path: str | os.PathLike) -> Entries:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise ValueError(f"{path}: expected an object with a list of faces for each frame")
    for frame, found in content.items():
        # A frame without faces is named all the same.
        yield frame, "", None
        for number, entry in enumerate(found):
            yield frame, f"{frame!r}, face {number}", entry


def _csv(text: str, path: str | os.PathLike) -> Entries:
    reader = csv.DictReader(text.splitlines())
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    by_point = {"point", "x", "y"} <= set(names)
    known = by_point or set(_BOX) <= set(names) or any(name.endswith("_x") for name in names)
    if "frame" not in names or not known:
        raise ValueError(
            f"{path}: its columns are {', '.join(names) or 'none'}; expected frame and left, top, right, bottom, or "
            "frame and NAME_x, NAME_y of points, or frame, face, point, x, y"
        )
    if by_point:
        yield from _by_point(reader)
        return
    for row in reader:
        points = {
            name[:-2]: (row[name], row.get(f"{name[:-2]}_y"))
            for name in names
            if name.endswith("_x") and row[name]
        }
        box = [row[name] for name in _BOX if row.get(name)]
        where = f"line {reader.line_num}"
        if not points and not box:
            yield row["frame"], where, None
        else:
            yield row["frame"], where, {"points": points, **({"box": box} if box else {})}


def _by_point(reader: csv.DictReader) -> Entries:
    entries: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for row in reader:
        key = (row["frame"], row.get("face") or "0")
        _, entry = entries.setdefault(key, (f"line {reader.line_num}", {"points": {}}))
        entry["points"][(row["point"] or "").strip()] = (row["x"], row["y"])
    for (frame, _), (where, entry) in entries.items():
        yield frame, where, entry


def _face(entry: Any, needs: str) -> faces.Face:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with box and points, got {entry!r:.40}")
    points = entry.get("points") or {}
    if not isinstance(points, Mapping):
        points = faces.name_points(np.asarray(points, np.float64))
    points = {name: (_number(x, name), _number(y, name)) for name, (x, y) in points.items()}
    unknown = sorted(set(points) - set(face_model.POINTS) - set(faces.LIDS))
    if unknown:
        raise ValueError(
            f"no points are called {', '.join(unknown)}; known are "
            + ", ".join([*face_model.POINTS, *faces.LIDS])
        )
    box = entry.get("box")
    if box is not None:
        if len(box) != 4:
            raise ValueError(f"box {box}; expected left, top, right, bottom")
        box = (
            _number(box[0], "left"),
            _number(box[1], "top"),
            _number(box[2], "right"),
            _number(box[3], "bottom"),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(f"box {list(box)} is empty; expected left < right and top < bottom")
    if needs == "box" and box is None:
        raise ValueError("no box")
    if needs == "points" and len(set(points) & set(face_model.POINTS)) < 4:
        raise ValueError(f"{len(points)} named points; a head pose needs at least 4")
    return faces.from_points(points, box)


def _number(text: Any, name: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: {text!r} is no finite number")
    return value
