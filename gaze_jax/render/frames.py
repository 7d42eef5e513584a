"""Raw camera frames with landmarks as files, as a user would have them, and the truth beside them.

person-00/camera.json           {"matrix": 3 x 3, "distortion": [0, 0, 0, 0, 0]}: every person has a camera
person-00/0000.png              640 x 480
landmarks.csv                   frame,left,top,right,bottom, then NAME_x,NAME_y of the points of the face model
truth.csv                       frame,person, then in camera space: head rotation r00 .. r22 and translation_mm, gaze of
                                face, left and right eye, target_mm, reference_mm; (pitch, yaw) of the face patch; closed
"""

import csv
import io
import json
import os
import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from core_jax.data import files
from gaze_jax.render import domains, scene
from gaze_jax.render import persons as people_of
from gaze_jax.render.scene import Scene

LANDMARKS, TRUTH = "landmarks.csv", "truth.csv"
_AXES = ("x", "y", "z")
_VECTORS = ("translation_mm", "gaze", "left_gaze", "right_gaze", "target_mm", "reference_mm")


def write_frames(
    folder: str | os.PathLike,
    domain: str,
    *,
    persons: int = 15,
    per_person: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> pathlib.Path:
    """Renders frames of people into a folder; frames that stand there are not rendered again.

    Args:
      folder: where to; made if absent. Another domain, number or seed needs another folder.
      domain: "A", "B", "C" or "D".
      persons: number of people.
      per_person: frames of each.
      seed: of people and scenes.
      progress: whether to show a bar.

    Returns:
      The folder.

    Raises:
      ValueError: an unknown domain, a count below 1, or a folder that holds other frames.
    """
    if persons < 1 or per_person < 1:
        raise ValueError(f"{persons} persons x {per_person} frames: expected at least 1 of each")
    domains.find(domain)
    folder = pathlib.Path(folder)
    # More frames of the same seed begin with those that are there: only what changes them is pinned.
    _claim(folder, {"domain": domain, "seed": seed})
    marks, truths = [], []
    with tqdm(total=persons * per_person, unit="frame", disable=not progress) as bar:
        for person, name in enumerate(people_of.names(persons)):
            what = domains.scenes("frames", domain, person, per_person, seed)
            (folder / name).mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(folder / name)
            files.atomic_write(folder / name / "camera.json", _camera(what))
            names = [f"{name}/{row:04d}.png" for row in range(per_person)]
            _pictures(folder, domain, what, names, bar)
            marks += _landmark_rows(what, names)
            truths += _truth_rows(what, names, name)
    files.atomic_write(folder / LANDMARKS, _csv(marks))
    files.atomic_write(folder / TRUTH, _csv(truths))
    return folder


def encode(pixels: UInt8[np.ndarray, "H W c"]) -> bytes:
    """A picture, grey or RGB, as the bytes of a PNG file."""
    file = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(flat).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _claim(folder: pathlib.Path, wanted: dict[str, object]) -> None:
    marker = folder / "frames.json"
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != wanted:
            raise ValueError(
                f"{folder} holds frames of {found}, not of {wanted}: choose another folder or delete this one"
            )
        return
    files.atomic_write(marker, json.dumps(wanted) + "\n")


def _camera(what: Scene) -> str:
    return json.dumps({"matrix": what.intrinsics[0].tolist(), "distortion": [0.0] * 5}) + "\n"


def _pictures(folder: pathlib.Path, domain: str, what: Scene, names: list[str], bar: tqdm) -> None:
    # A few at a time: frames are large, and an interrupted rendering loses little.
    for first in range(0, len(names), 8):
        some = range(first, min(first + 8, len(names)))
        rows = np.asarray([row for row in some if not (folder / names[row]).is_file()], np.int64)
        if len(rows):
            for row, pixels in zip(
                rows, domains.shade("frames", domain, scene.take(what, rows)), strict=True
            ):
                files.atomic_write(folder / names[row], encode(pixels))
        bar.update(len(some))


def _landmark_rows(what: Scene, names: list[str]) -> list[dict[str, object]]:
    points = list(people_of.points(what.person))
    found = []
    for frame, pixels in zip(names, domains.landmarks(what), strict=True):
        # A detector's box: the span of the landmarks, enlarged to the face.
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        grow = 0.35 * (high - low).max()
        row: dict[str, object] = {"frame": frame}
        row |= dict(zip(("left", "top"), (low - grow).tolist(), strict=True))
        row |= dict(zip(("right", "bottom"), (high + grow).tolist(), strict=True))
        for name, (x, y) in zip(points, pixels.tolist(), strict=True):
            row |= {f"{name}_x": x, f"{name}_y": y}
        found.append(row)
    return found


def _truth_rows(what: Scene, names: list[str], person: str) -> list[dict[str, object]]:
    found = []
    for i, frame in enumerate(names):
        row: dict[str, object] = {"frame": frame, "person": person}
        row |= {f"r{a}{b}": float(what.rotation[i, a, b]) for a in range(3) for b in range(3)}
        values = (
            what.translation[i],
            what.gaze_camera[i],
            what.visual[i, 0],
            what.visual[i, 1],
            what.target[i],
            what.reference[i],
        )
        for name, value in zip(_VECTORS, values, strict=True):
            row |= {f"{name}_{axis}": float(v) for axis, v in zip(_AXES, value, strict=True)}
        row |= {"pitch_rad": float(what.gaze[i, 0]), "yaw_rad": float(what.gaze[i, 1])}
        row["closed"] = int(what.opening[i] <= 0.0)
        found.append(row)
    return found


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
