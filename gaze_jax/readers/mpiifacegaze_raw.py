"""MPIIFaceGaze (Zhang et al., CVPR Workshops 2017) as it was recorded: frames `pXX/dayYY/NNNN.jpg`, normalised here.

A line of `pXX/pXX.txt` has 28 columns: the frame's path, 2 numbers of the target on the screen, 12 of six landmarks (eye and
mouth corners), then in camera space (mm) the head's rotation vector and translation, the face's centre, the target; last,
which eye the evaluation subset takes. `pXX/Calibration/Camera.mat` is the camera. Faces are as seen, never mirrored.
"""

import pathlib

import numpy as np

from gaze_jax.gaze_set import FACE, GazeSet
from gaze_jax.readers import frames
from gaze_jax.readers.common import Problems, ReaderError, missing
from gaze_jax.readers.frames import Block
from gaze_jax.readers.mpiifacegaze import CAMERA

Path = pathlib.Path

FETCH = "the original MPIIFaceGaze, p00 to p14 with p00.txt, Calibration and frames, from the Max Planck Institute for Informatics"
CONVENTION = frames.CONVENTION
COLUMNS = 28
EYES = ("left", "right")
# Among the 26 numbers between the path and the eye.
TURN, SHIFT, CENTRE, TARGET = slice(14, 17), slice(17, 20), slice(20, 23), slice(23, 26)


def load(root: Path) -> tuple[GazeSet | None, Problems]:
    """The faces of all frames; `root` holds the folders pXX."""
    blocks, problems = [], []
    folders = sorted(path for path in root.glob("p*") if path.is_dir())
    for folder in folders:
        rows, paths, wrong = _rows(folder)
        problems += wrong
        try:
            camera = frames.camera_of(folder / frames.CALIBRATION)
        except ReaderError as error:
            problems.append(str(error))
            continue
        problems += frames.not_there(root, paths)
        if not paths:
            continue
        blocks.append(
            Block(
                person=folder.name,
                side=FACE,
                camera=camera,
                paths=paths,
                source=paths,
                turn=rows[:, TURN],
                reference_mm=rows[:, CENTRE],
                target_mm=rows[:, TARGET],
            )
        )
    if not folders:
        problems.append(f"{root} has no folders p00, p01, ...")
    if not blocks:
        return None, problems
    return frames.finish(name="mpiifacegaze_raw", root=root, camera=CAMERA, blocks=blocks), problems


def _rows(folder: Path) -> tuple[np.ndarray, list[str], Problems]:
    """(n, 26) numbers and the frames of the usable lines of a person."""
    path = folder / f"{folder.name}.txt"
    if not path.is_file():
        return np.zeros((0, COLUMNS - 2)), [], missing(path)
    rows, paths, problems = [], [], []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != COLUMNS or fields[-1] not in EYES:
                raise ValueError(
                    f"{len(fields)} columns, expected {COLUMNS}, the last one left or right"
                )
            rows.append(frames.numbers(fields[1:-1], COLUMNS - 2, (CENTRE,)))
        except ValueError as error:
            problems.append(f"{path} line {number}: {error}")
            continue
        picture = fields[0].replace("\\", "/")
        paths.append(f"{folder.name}/{picture}")
    if not rows and not problems:
        problems.append(f"{path} lists no frames")
    return np.array(rows).reshape(-1, COLUMNS - 2), paths, problems
