"""Personal calibrations in a JSON file: what a network has to know of a person, for this network only.

    {"format": "gaze calibration 1", "model_digest": ..., "space": "normalised", "unit": "radian",
     "persons": {"ann": {"method": "offset", "sides": {"face": {...}}}}}

A person has either corrections fitted to a few labelled pictures (`gaze_jax.calibrate`) or, for networks that compare
pictures, the labelled pictures themselves as PNG. Each side (left eye, right eye in left-eye form, face) has its own.
Errors at the points are kept, in degrees, so that a bad point can be found and redone. Shapes: n pictures, k points.
"""

import base64
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from core_jax.clip import weights
from core_jax.data import files
from core_jax.train import Params
from gaze_jax import calibrate
from gaze_jax.model import Model
from gaze_jax.screen import Regression

Path = pathlib.Path
FORMAT = "gaze calibration 1"
SIDES = ("left", "right", "face")
"""By number: `gaze_set.LEFT`, `RIGHT`, `FACE`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """Pictures of one side of a person with known gaze.

    Attributes:
      images: patches as the network takes them.
      gaze: (pitch, yaw) in their space, radians.
      head: (pitch, yaw) of the head, radians.
    """

    images: UInt8[np.ndarray, "k H W c"]
    gaze: Float[np.ndarray, "k 2"]
    head: Float[np.ndarray, "k 2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Personal:
    """What is known of one person.

    Attributes:
      person: a name.
      method: "offset", "affine", "ridge", "references", or "screen", which corrects no gaze.
      corrections: side to what was fitted; empty with references.
      references: side to labelled pictures; empty otherwise.
      mode: how comparisons become one answer (`modes.MODES`), with references.
      blend: of mode "blend".
      residual_deg: side to the error at each point after the calibration.
      screen: the screen as it was learned, with method "screen".
      points: what each point was, such as the file.
      face_model: digest of the face model that head poses came from (`face_model.digest`).
      spread_rad: what an offset was shrunk by: (between persons, within them), each (pitch, yaw).
    """

    person: str
    method: str
    corrections: Mapping[str, calibrate.Calibration] = dataclasses.field(default_factory=dict)
    references: Mapping[str, Labelled] = dataclasses.field(default_factory=dict)
    mode: str = "calib"
    blend: float = 0.0
    residual_deg: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    screen: Regression | None = None
    points: tuple[str, ...] = ()
    face_model: str = ""
    spread_rad: tuple[tuple[float, ...], ...] = ()

    @property
    def needs_features(self) -> bool:
        """Whether a correction reads the network's features."""
        return any(fitted.kind == "ridge" for fitted in self.corrections.values())

    def require(self, model: Model) -> None:
        """Refuse a network that this cannot be used with.

        Raises:
          ValueError: other sides, or references for a network that does not compare.
        """
        if self.method == "screen":
            return
        needed = ("left", "right") if model.kind == "eye" else ("face",)
        missing = [side for side in needed if side not in (self.references or self.corrections)]
        if missing:
            raise ValueError(
                f"the calibration of {self.person} has nothing for {' and '.join(missing)}, which {model.name} looks at: "
                "calibrate again"
            )
        if self.references and model.references is None:
            raise ValueError(
                f"the calibration of {self.person} has reference pictures, but {model.name} compares none: calibrate again "
                "with --calibration_method=offset"
            )

    def correct(
        self,
        angles: Float[np.ndarray, "n 2"],
        sides: Int[np.ndarray, " n"],
        features: Float[np.ndarray, "n F"] | None,
    ) -> Float[np.ndarray, "n 2"]:
        """The network's answers, corrected side by side."""
        corrected = np.array(angles, np.float64)
        for number, side in enumerate(SIDES):
            rows = np.flatnonzero(sides == number)
            if len(rows):
                given = None if features is None else features[rows]
                fitted = self.corrections[side]
                corrected[rows] = np.asarray(calibrate.apply(fitted, angles[rows], given))
        return corrected


def model_digest(params: Params) -> str:
    """SHA-256 of what a network has learned."""
    return weights.weights_digest({"trainable": params.trainable, "stats": params.stats})


def digest(personal: Personal) -> str:
    """SHA-256 of what is known of a person: other answers come out where it differs."""
    return files.digest(_to_json(personal))


def save(path: str | os.PathLike, personal: Personal, model_digest: str) -> None:
    """Write a person into a calibration file, beside the persons who are in it already.

    Raises:
      ValueError: the file is of another network.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "model_digest": model_digest,
        "space": "normalised",
        "unit": "radian",
        "persons": {},
    }
    if Path(path).exists():
        content = _read(path, model_digest)
    content["persons"][personal.person] = _to_json(personal)
    files.atomic_write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: str | os.PathLike, model_digest: str, person: str = "") -> Personal:
    """The calibration of a person.

    Args:
      path: of the file.
      model_digest: of the network that asks.
      person: a name; "" for the only one in the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no calibration, of another network, or does not have the person.
    """
    persons = _read(path, model_digest)["persons"]
    if not person and len(persons) == 1:
        person = next(iter(persons))
    if person not in persons:
        raise ValueError(
            f"{path}: --person={person or '(none)'}; the file has {', '.join(sorted(persons)) or 'nobody'}"
        )
    try:
        return _from_json(person, persons[person])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: the calibration of {person} is damaged ({error!r})") from error


def _read(path: str | os.PathLike, model_digest: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such calibration file") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: no calibration file (expected format {FORMAT!r})")
    missing = [name for name in ("model_digest", "persons") if name not in content]
    if missing:
        raise ValueError(
            f"{path}: a calibration file without {' and '.join(missing)}: it is damaged"
        )
    if content["model_digest"] != model_digest:
        raise ValueError(
            f"{path}: made with another network ({content['model_digest'][:12]}) than this one ({model_digest[:12]}): "
            "calibrate again with this one, or use the run it was made with"
        )
    return content


def _to_json(personal: Personal) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for side, fitted in personal.corrections.items():
        sides[side] = {
            "kind": fitted.kind,
            "count": fitted.count,
            "offset_rad": np.asarray(fitted.offset_rad).tolist(),
            "centre": np.asarray(fitted.centre).tolist(),
            "weight": np.asarray(fitted.weight).tolist(),
        }
    for side, labelled in personal.references.items():
        sides[side] = {
            "images_png": [_png(image) for image in labelled.images],
            "gaze": np.asarray(labelled.gaze, np.float64).tolist(),
            "head": np.asarray(labelled.head, np.float64).tolist(),
        }
    return {
        "method": personal.method,
        "mode": personal.mode,
        "blend": float(personal.blend),
        "points": list(personal.points),
        "face_model": personal.face_model,
        "spread_rad": [list(values) for values in personal.spread_rad],
        "residual_deg": {side: list(v) for side, v in personal.residual_deg.items()},
        "sides": sides,
        "screen": None if personal.screen is None else _lists(personal.screen),
    }


def _lists(record: Any) -> dict[str, Any]:
    """The arrays of a dataclass as lists."""
    fields = dataclasses.fields(record)
    return {field.name: np.asarray(getattr(record, field.name)).tolist() for field in fields}


def _from_json(person: str, entry: Mapping[str, Any]) -> Personal:
    corrections, references = {}, {}
    for side, values in entry["sides"].items():
        if entry["method"] == "references":
            references[side] = Labelled(
                images=np.stack([_pixels(text) for text in values["images_png"]]),
                gaze=np.asarray(values["gaze"], np.float32),
                head=np.asarray(values["head"], np.float32),
            )
        else:
            centre = np.asarray(values["centre"], np.float64)
            corrections[side] = calibrate.Calibration(
                kind=values["kind"],
                count=int(values["count"]),
                offset_rad=np.asarray(values["offset_rad"], np.float64),
                centre=centre,
                # Without inputs JSON has an empty list, whatever its width.
                weight=np.asarray(values["weight"], np.float64).reshape(len(centre), 2),
            )
    return Personal(
        person=person,
        method=entry["method"],
        corrections=corrections,
        references=references,
        mode=entry["mode"],
        blend=entry["blend"],
        residual_deg={side: tuple(v) for side, v in entry["residual_deg"].items()},
        screen=_screen(entry["screen"]),
        points=tuple(entry["points"]),
        face_model=entry["face_model"],
        spread_rad=tuple(tuple(values) for values in entry["spread_rad"]),
    )


def _screen(values: Mapping[str, Any] | None) -> Regression | None:
    if values is None:
        return None
    return Regression(**{name: np.asarray(value, np.float64) for name, value in values.items()})


def _png(image: UInt8[np.ndarray, "H W c"]) -> str:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _pixels(text: str) -> UInt8[np.ndarray, "H W c"]:
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
        pixels = np.asarray(picture, np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
