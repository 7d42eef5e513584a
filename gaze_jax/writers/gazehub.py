"""GazeHub's form: `Image/` and `Label/*.label`. See `readers.gazehub`."""

import dataclasses
import os
import pathlib

import numpy as np

from core_jax.data import files
from gaze_jax.gaze_set import RIGHT, GazeSet
from gaze_jax.readers import gazehub as layout
from gaze_jax.readers.convention import Convention
from gaze_jax.readers.gazehub_columns import VARIANTS, Variant
from gaze_jax.writers.common import (
    as_seen,
    by_person,
    head_rotation_vector,
    numbers,
    require,
    save,
    to_rotation_vector,
)

Path = pathlib.Path

# The distance of the virtual cameras that these data sets were normalised with.
_DISTANCE_MM = 600.0
_UNIT = Convention(stored="vector")


def write_gazehub(gaze_set: GazeSet, root: str | os.PathLike, variant: str) -> None:
    """Writes pictures and label files.

    Face pictures stand for both eyes where a variant lists these. Sets with parts train, val and test get one list each,
    clusters their own folder, all others a list a person.

    Args:
      gaze_set: eyes for "mpiigaze", faces for the others, with head poses where the variant has them.
      root: gets `Image` and `Label`.
      variant: a key of `gazehub_columns.VARIANTS`.

    Raises:
      WriterError: the set holds something else.
    """
    kind = VARIANTS[variant]
    require(gaze_set, f"gazehub_{variant}", kind=kind.kind, head="2DHead" in kind.columns)
    root = Path(root)
    lines: dict[str, list[str]] = {}
    for person, rows in by_person(gaze_set).items():
        for number, row in enumerate(rows, 1):
            fields = _fields(gaze_set, kind, int(row), person, number)
            eye = kind.kind == "eye"
            save(
                root / layout.IMAGES / fields[kind.columns[0]],
                gaze_set.images.take(np.array([row]))[0],
            )
            part = gaze_set.part[row] if gaze_set.part else ""
            if part.startswith("cluster") and not eye:
                place = f"{layout.CLUSTERS}/{part.capitalize()}.label"
            else:
                place = f"{layout.LABELS}/{part or person}.label"
            lines.setdefault(place, [" ".join(kind.columns)]).append(
                " ".join(fields[name] for name in kind.columns)
            )
    for place, own in lines.items():
        files.atomic_write(root / place, "\n".join(own) + "\n")


def _fields(
    gaze_set: GazeSet, variant: Variant, row: int, person: str, number: int
) -> dict[str, str]:
    """Every column a variant may have, as text."""
    rows, rule = np.array([row]), variant.convention
    scale = gaze_set.scale[rows].astype(np.float64)
    gaze, head = (x[rows].astype(np.float64) for x in (gaze_set.gaze, gaze_set.head))
    norm = gaze_set.norm[row].astype(np.float64)
    # The right eye's own direction, not that of its mirror image, goes back to the camera.
    seen = as_seen(gaze_set, rows)[1]
    camera = _UNIT.store(seen)[0] @ norm
    origin = norm[2] * _DISTANCE_MM / scale[0]
    plain = dataclasses.replace(rule, scaled=False)
    if variant is VARIANTS["gaze360"]:
        source = f"rec_{int(gaze_set.person[row]):03d}/head/000000/{number:06d}.jpg"
    else:
        source = f"day01/{number:04d}.jpg"
    if variant.kind == "eye":
        pictures = {"Image": f"{person}/{number}.jpg"}
    else:
        whose = int(gaze_set.person[row])
        own = {VARIANTS["eth"]: f"subject{whose:04d}", VARIANTS["rtgene"]: f"s{whose:03d}"}
        folder = own.get(variant, person)
        pictures = dict.fromkeys(("Face", "Left", "Right"), f"{folder}/face/{number}.jpg")
    return pictures | {
        "Origin": source,
        "Metapath": source,
        "WhichEye": "right" if gaze_set.side[row] == RIGHT else "left",
        "3DGaze": numbers(camera),
        "3DHead": numbers(head_rotation_vector(head)[0]),
        "2DGaze": numbers(rule.store(gaze, scale)[0]),
        "2DHead": numbers(plain.store(head)[0]),
        "Rmat": numbers(to_rotation_vector(norm[None])[0]),
        "Rvec": numbers(to_rotation_vector(norm[None])[0]),
        "Smat": numbers(np.array([1.0, 1.0, scale[0]])),
        "Svec": numbers(np.array([1.0, 1.0, scale[0]])),
        "GazeOrigin": numbers(origin),
    }
