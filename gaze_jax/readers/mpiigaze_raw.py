"""MPIIGaze (Zhang et al., CVPR 2015) as it was recorded: `Data/Original/pXX/dayYY/NNNN.jpg`, normalised here.

Line N of `dayYY/annotation.txt` belongs to the frame N, "0001.jpg" first, and has 41 numbers: 24 of landmarks, 2 of the
target on the screen, then in camera space (mm) the target, the head's rotation vector and translation, the centres of the
right and of the left eye. `pXX/Calibration/Camera.mat` is the camera. Both eyes of every frame are looked at; the lists of
the evaluation subset are those of the normalised form (`mpiigaze`).
"""

import pathlib

import numpy as np

from gaze_jax.cameras import Intrinsics
from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers import frames
from gaze_jax.readers.common import Problems, ReaderError, missing
from gaze_jax.readers.frames import Block
from gaze_jax.readers.mpiigaze import CAMERA, LISTS, SIDES, SUBSETS, listed

Path = pathlib.Path

ORIGINAL = Path("Data", "Original")
ANNOTATION = "annotation.txt"
FETCH = "MPIIGaze with Data/Original and Evaluation Subset, from the Max Planck Institute for Informatics"
CONVENTION = frames.CONVENTION
COLUMNS = 41
TARGET, TURN, SHIFT = slice(26, 29), slice(29, 32), slice(32, 35)
CENTRES = {"right": slice(35, 38), "left": slice(38, 41)}
# A day's name -> its lines, None where one cannot be used.
Days = dict[str, list[np.ndarray | None]]


def load(root: Path, *, subset: str = "evaluation") -> tuple[GazeSet | None, Problems]:
    """Both eyes of the frames.

    Args:
      root: holds `Data` and `Evaluation Subset`.
      subset: "evaluation" for the listed eyes, as published results use; "all" for every eye.
    """
    if subset not in SUBSETS:
        return None, [f"subset={subset!r}: expected one of {', '.join(SUBSETS)}"]
    problems = missing(root / ORIGINAL, *([root / LISTS] if subset == "evaluation" else []))
    if problems:
        return None, problems
    blocks = []
    folders = sorted(path for path in (root / ORIGINAL).glob("p*") if path.is_dir())
    for folder in folders:
        days, wrong = _days(folder)
        problems += wrong
        names = {day: [frame_name(i) for i in range(len(days[day]))] for day in days}
        wanted = [(d, i, side) for d in names for i in range(len(names[d])) for side in SIDES]
        if subset == "evaluation":
            wanted, wrong = listed(root / LISTS / f"{folder.name}.txt", names, kind="")
            problems += wrong
        try:
            camera = frames.camera_of(folder / frames.CALIBRATION)
        except ReaderError as error:
            problems.append(str(error))
            continue
        own = [_block(days, wanted, side, folder, camera) for side in SIDES]
        problems += frames.not_there(root, [path for block in own for path in block.paths])
        blocks += [block for block in own if block.paths]
    if not folders:
        problems.append(f"{root / ORIGINAL} has no folders p00, p01, ...")
    if not blocks:
        return None, problems
    return frames.finish(name="mpiigaze_raw", root=root, camera=CAMERA, blocks=blocks), problems


def frame_name(index: int) -> str:
    """The file that a line, counted from 0, belongs to."""
    return f"{index + 1:04d}.jpg"


def _days(folder: Path) -> tuple[Days, Problems]:
    """The lines of every day of a person."""
    days: Days = {}
    problems = []
    for place in sorted(path for path in folder.glob("day*") if path.is_dir()):
        path = place / ANNOTATION
        if not path.is_file():
            problems += missing(path)
            continue
        days[place.name] = []
        for number, line in enumerate(path.read_text("utf-8-sig").rstrip().splitlines(), 1):
            try:
                values = frames.numbers(line.split(), COLUMNS, tuple(CENTRES.values()))
            except ValueError as error:
                problems.append(f"{path} line {number}: {error}")
                values = None
            days[place.name].append(values)
        known = {frame_name(i) for i in range(len(days[place.name]))}
        more = sorted(picture.name for picture in place.glob("*.jpg") if picture.name not in known)
        problems += [f"{path} has no line for {name}" for name in more]
    if not days:
        problems.append(f"{folder} has no days with {ANNOTATION}")
    return days, problems


def _block(
    days: Days, wanted: list[tuple[str, int, str]], side: str, folder: Path, camera: Intrinsics
) -> Block:
    """The eyes of one side whose lines can be used."""
    rows, paths = [], []
    for day, index, which in wanted:
        values = days[day][index]
        if which == side and values is not None:
            rows.append(values)
            paths.append(f"{ORIGINAL.as_posix()}/{folder.name}/{day}/{frame_name(index)}")
    table = np.array(rows).reshape(-1, COLUMNS)
    return Block(
        person=folder.name,
        side=SIDES[side],
        camera=camera,
        paths=paths,
        source=[f"{path.removeprefix(ORIGINAL.as_posix() + '/')} {side}" for path in paths],
        turn=table[:, TURN],
        reference_mm=table[:, CENTRES[side]],
        target_mm=table[:, TARGET],
    )
