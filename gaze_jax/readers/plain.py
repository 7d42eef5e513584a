"""A user's own data: pictures and `gaze.csv`, one line a picture.

Columns: image (path below the folder), person, side (left, right, face), pitch_rad, yaw_rad, and, blank where unknown,
head_pitch_rad, head_yaw_rad. Pictures and angles are as seen, never mirrored: right eyes are mirrored here. `gaze.json` may
stand beside it: {"space": "normalised" or "camera", "camera": name of the virtual camera}; without it pictures are plain
crops in camera space. `convert` writes `gaze.csv` from a table in other units or another order.
"""

import csv
import io
import json
import pathlib

import numpy as np

from core_jax.data import files, images
from gaze_jax.gaze_set import FACE, LEFT, RIGHT, GazeSet
from gaze_jax.readers.common import Problems, ReaderError, Samples, left_form, missing, some
from gaze_jax.readers.convention import Convention, negated_of, order_of
from gaze_jax.readers.pictures import FileImages

Path = pathlib.Path

FETCH = "gaze.csv with the columns image, person, side, pitch_rad, yaw_rad, head_pitch_rad, head_yaw_rad"
CONVENTION = Convention(stored="pitch_yaw", frame="camera")
TABLE, ABOUT = "gaze.csv", "gaze.json"
REQUIRED = ("image", "person", "side", "pitch_rad", "yaw_rad")
HEAD = ("head_pitch_rad", "head_yaw_rad")
SIDES = {"left": LEFT, "right": RIGHT, "face": FACE}
UNITS = {"rad": 1.0, "deg": np.pi / 180}


def load(
    root: Path, *, size: tuple[int, int] | int | None = None, grey: bool = False
) -> tuple[GazeSet | None, Problems]:
    """The pictures of a folder.

    Args:
      root: holds `gaze.csv`.
      size: (height, width) that pictures are resized to, or the side of squares; unless given, all must have the size of
        the first.
      grey: whether to read one channel.
    """
    if not (root / TABLE).is_file():
        return None, missing(root / TABLE)
    about, problems = _about(root / ABOUT)
    with open(root / TABLE, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        absent = [name for name in REQUIRED if name not in (table.fieldnames or ())]
        if absent:
            return None, [*problems, f"{root / TABLE} has no column {', '.join(absent)}"]
        samples, paths, mirror = Samples(), [], []
        for entry in table:
            try:
                sample = _sample(entry)
            except ValueError as error:
                problems.append(f"{root / TABLE} line {table.line_num}: {error}")
                continue
            samples.add(**sample)
            paths.append(sample["source"])
            mirror.append(sample["side"] == RIGHT)
    if not paths:
        return None, [*problems, f"{root / TABLE} has no usable lines"]
    kinds = {"face" if side == FACE else "eye" for side in samples.column("side")}
    if len(kinds) > 1:
        return None, [*problems, f"{root / TABLE} mixes eyes and faces; write a folder of each"]
    if isinstance(size, int):
        size = (size, size)
    try:
        height, width = size or images.decode(root / paths[0]).shape[:2]
    except images.ImageError as error:
        return None, [*problems, str(error)]
    pictures = FileImages(
        root=root,
        paths=tuple(paths),
        size=(height, width, 1 if grey else 3),
        mirror=np.array(mirror),
        resize=size is not None,
    )
    found = samples.finish(
        name="plain",
        kind=kinds.pop(),
        pictures=pictures,
        size=pictures.size,
        camera=about["camera"],
        space=about["space"],
    )
    return found, problems


def _about(path: Path) -> tuple[dict[str, str], Problems]:
    about = {"space": "camera", "camera": ""}
    if not path.is_file():
        return about, []
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        about |= {name: str(given[name]) for name in about if name in given}
    except (ValueError, TypeError) as error:
        return about, [f"{path} is no JSON object ({error})"]
    if about["space"] not in ("camera", "normalised"):
        return about, [f"{path}: space={about['space']!r}, expected camera or normalised"]
    return about, []


def _sample(entry: dict[str, str | None]) -> dict:
    """What a line says.

    Raises:
      ValueError: it is too short, or a value makes no sense.
    """
    empty = [name for name in REQUIRED if not (entry.get(name) or "").strip()]
    if empty:
        raise ValueError(f"no {', '.join(empty)}")
    text = {name: (value or "").strip() for name, value in entry.items() if isinstance(value, str)}
    if text["side"] not in SIDES:
        raise ValueError(f"side={text['side']!r}, expected left, right or face")
    given = [name for name in HEAD if text.get(name)]
    if len(given) == 1:
        raise ValueError(f"only one of {' and '.join(HEAD)}")
    mirrored = text["side"] == "right"
    angles = [
        _angles(text, names) for names in (("pitch_rad", "yaw_rad"), *([HEAD] if given else []))
    ]
    gaze, head = [left_form(x) if mirrored else x for x in angles] + ([None] if not given else [])
    return {
        "gaze": gaze,
        "head": head,
        "person": text["person"],
        "side": SIDES[text["side"]],
        "source": text["image"].replace("\\", "/"),
    }


def _angles(text: dict[str, str], names: tuple[str, ...]) -> np.ndarray:
    values = np.array([float(text[name]) for name in names])
    if not np.isfinite(values).all():
        raise ValueError(f"{' and '.join(names)} are not finite")
    return values


def convert(
    table: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    columns: dict[str, str],
    unit: str = "deg",
    order: str = "pitch_yaw",
    sign: str = "ours",
    person: str = "person",
    side: str = "face",
) -> int:
    """Writes `gaze.csv` from a table in other units, another order or with other names.

    Args:
      table: a CSV with a header.
      out: the folder of the pictures; gets `gaze.csv`.
      columns: our name to the table's: "image", "first", "second", and where there are such columns "person", "side",
        "head_first", "head_second". First and second are the two angles in the table's order.
      unit: "deg" or "rad".
      order: "pitch_yaw" or "yaw_pitch".
      sign: "ours" (pitch > 0 up, yaw > 0 towards image left) or "negated".
      person: of every picture, where no column says so.
      side: likewise.

    Returns:
      The number of lines.

    Raises:
      ReaderError: columns that are not there, and lines that hold no numbers, all of them.
    """
    if unit not in UNITS:
        raise ReaderError(f"unit={unit!r}: expected deg or rad")
    rule = Convention(stored=order_of(order), negated=negated_of(sign))
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or ()
        absent = [name for name in columns.values() if name not in header]
        absent += [
            f"a column for {name!r}" for name in ("image", "first", "second") if name not in columns
        ]
        if absent:
            raise ReaderError(f"{table} has not {', '.join(absent)}; it has {', '.join(header)}")
        lines, problems = [], []
        for entry in reader:
            try:
                angles = [float(entry[columns[name]]) for name in ("first", "second")]
                head = [
                    entry[columns[name]]
                    for name in ("head_first", "head_second")
                    if name in columns
                ]
                head = [float(text) for text in head if text]
                if len(head) == 1 or not np.isfinite([*angles, *head]).all():
                    raise ValueError
            except (TypeError, ValueError):
                problems.append(
                    f"line {reader.line_num}: angles that are no finite numbers, or one of the head's alone"
                )
                continue
            ours = [
                rule.canonical(np.array([x]) * UNITS[unit])[0]
                for x in (angles, head)
                if len(x) == 2
            ]
            numbers = [f"{value:.9g}" for value in np.concatenate(ours)]
            who = [
                entry[columns[name]] if name in columns else default
                for name, default in (("person", person), ("side", side))
            ]
            lines.append([entry[columns["image"]], *who, *numbers, *[""] * (4 - len(numbers))])
    if problems:
        raise ReaderError(f"{table}: {some(problems)}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*REQUIRED, *HEAD])
    writer.writerows(lines)
    files.atomic_write(Path(out) / TABLE, text.getvalue())
    return len(lines)
