"""Our own simple format: PNG files, `gaze.csv`, `gaze.json`. See `readers.plain`."""

import csv
import io
import json
import os
import pathlib

import numpy as np

from core_jax.data import files
from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers import plain as layout
from gaze_jax.readers.common import side_name
from gaze_jax.writers.common import as_seen, save

Path = pathlib.Path


def write_plain(gaze_set: GazeSet, root: str | os.PathLike) -> None:
    """Writes pictures, `gaze.csv` and `gaze.json`; nothing of a picture or an angle is lost, rotations are.

    Args:
      gaze_set: any.
      root: gets the files.
    """
    root, text = Path(root), io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*layout.REQUIRED, *layout.HEAD])
    for row in range(len(gaze_set)):
        pictures, gaze, head = as_seen(gaze_set, np.array([row]))
        name = f"images/{row:06d}.png"
        save(root / name, pictures[0])
        angles = [f"{value:.9g}" for value in (*gaze[0], *head[0])]
        if not gaze_set.has_head[row]:
            angles[2:] = ["", ""]
        person, side = gaze_set.persons[gaze_set.person[row]], side_name(gaze_set.side[row])
        table.writerow([name, person, side, *angles])
    about = {"space": gaze_set.space, "camera": gaze_set.camera}
    files.atomic_write(root / layout.ABOUT, json.dumps(about, indent=1) + "\n")
    files.atomic_write(root / layout.TABLE, text.getvalue())
