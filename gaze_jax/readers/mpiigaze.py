"""MPIIGaze (Zhang et al., CVPR 2015), normalised eyes: `Data/Normalized/pXX/dayYY.mat`.

A MATLAB v5 file holds `data.left` and `data.right`, each with image (N, 36, 60), gaze (N, 3) and pose (N, 3), a rotation
vector, all in normalised space, and `filenames` (N,). A day with a single picture has lost its first axis. The evaluation
subset, 1,500 left and 1,500 right eyes of each person, is listed in `Evaluation Subset/sample list for eye image/pXX.txt`:
lines "dayYY/NNNN.jpg left". Right eyes are stored as they are and are mirrored here.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gaze_jax.gaze_set import LEFT, RIGHT, GazeSet, InMemory
from gaze_jax.readers.common import (
    Problems,
    ReaderError,
    Samples,
    from_rotation_vector,
    head_of,
    left_form,
    missing,
    read_mat,
)
from gaze_jax.readers.convention import Convention

Path = pathlib.Path

NORMALIZED = Path("Data", "Normalized")
LISTS = Path("Evaluation Subset", "sample list for eye image")
FETCH = "MPIIGaze with Data/Normalized and Evaluation Subset, from the Max Planck Institute for Informatics"
CONVENTION = Convention(stored="vector", colour="grey")
CAMERA = "mpiigaze_eye"
HEIGHT, WIDTH = 36, 60
SIDES = {"left": LEFT, "right": RIGHT}
SUBSETS = ("evaluation", "all")


def load(root: Path, *, subset: str = "evaluation") -> tuple[GazeSet | None, Problems]:
    """The normalised eyes.

    Args:
      root: holds `Data` and `Evaluation Subset`.
      subset: "evaluation" for the listed eyes, as published results use; "all" for every eye.
    """
    if subset not in SUBSETS:
        return None, [f"subset={subset!r}: expected one of {', '.join(SUBSETS)}"]
    problems = missing(root / NORMALIZED, *([root / LISTS] if subset == "evaluation" else []))
    if problems:
        return None, problems
    samples, pictures = Samples(), []
    folders = sorted(path for path in (root / NORMALIZED).glob("p*") if path.is_dir())
    for folder in folders:
        days = {}
        for path in sorted(folder.glob("day*.mat")):
            try:
                days[path.stem] = _read_day(path)
            except ReaderError as error:
                problems.append(str(error))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                problems.append(f"{path} is no day of MPIIGaze ({error})")
        wanted = _every(days)
        if subset == "evaluation":
            names = {day: content["names"] for day, content in days.items()}
            wanted, wrong = listed(root / LISTS / f"{folder.name}.txt", names)
            problems += wrong
        for day, number, side in wanted:
            _add(samples, pictures, days[day], day, number, side, folder.name)
    if not folders:
        problems.append(f"{root / NORMALIZED} has no folders p00, p01, ...")
    if not len(samples):
        return None, problems
    found = samples.finish(
        name="mpiigaze",
        kind="eye",
        pictures=InMemory(np.stack(pictures)[..., None]),
        size=(HEIGHT, WIDTH, 1),
        camera=CAMERA,
    )
    return found, problems


def _read_day(path: Path) -> dict[str, Any]:
    content = read_mat(path, squeeze_me=True, struct_as_record=False)
    names = [str(name) for name in np.atleast_1d(content["filenames"])]
    day: dict[str, Any] = {"names": names}
    for side in SIDES:
        eye = getattr(content["data"], side)
        # One picture a day: the axis of pictures is gone, whoever squeezed it.
        image = np.asarray(eye.image).reshape(-1, HEIGHT, WIDTH).astype(np.uint8)
        gaze, pose = (np.asarray(x, np.float64).reshape(-1, 3) for x in (eye.gaze, eye.pose))
        if not len(image) == len(gaze) == len(pose) == len(names):
            raise ValueError(
                f"{side}: {len(image)} pictures, {len(gaze)} gazes, {len(pose)} poses, {len(names)} names"
            )
        head = head_of(from_rotation_vector(pose))
        day[side] = image, CONVENTION.canonical(gaze), head
    return day


def _every(days: dict[str, dict]) -> list[tuple[str, int, str]]:
    return [
        (day, number, side)
        for day, content in days.items()
        for number in range(len(content["names"]))
        for side in SIDES
    ]


def listed(
    path: Path, names: Mapping[str, Sequence[str]], kind: str = ".mat"
) -> tuple[list[tuple[str, int, str]], Problems]:
    """(day, number, side) of the lines of a list of the evaluation subset.

    Args:
      path: of the list.
      names: day to the names of its pictures.
      kind: how the name of a day's file ends.
    """
    if not path.is_file():
        return [], missing(path)
    places = {(day, name): number for day in names for number, name in enumerate(names[day])}
    found, problems = [], []
    for line_number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = line.replace("\\", "/").split()
        if not fields:
            continue
        day, _, name = fields[0].partition("/")
        if len(fields) != 2 or fields[1] not in SIDES:
            problems.append(f"{path} line {line_number} ({line!r}) is not 'dayYY/NNNN.jpg left'")
        elif (day, name) not in places:
            problems.append(f"{path} line {line_number}: no {day}{kind} has a picture {name}")
        else:
            found.append((day, places[day, name], fields[1]))
    return found, problems


def _add(
    samples: Samples, pictures: list, content: dict, day: str, number: int, side: str, person: str
) -> None:
    image, gaze, head = (column[number] for column in content[side])
    if side == "right":
        image, gaze, head = image[:, ::-1], left_form(gaze), left_form(head)
    pictures.append(image)
    samples.add(
        gaze=gaze,
        head=head,
        person=person,
        side=SIDES[side],
        source=f"{person}/{day}/{content['names'][number]} {side}",
    )
