"""Personal calibration of gaze from a table of pictures and what was looked at in them, or from dots on the screen."""

import csv
import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from launch import config, gaze_dots, gaze_sources

Path = pathlib.Path
_FORMS = {
    ("target_x_mm", "target_y_mm", "target_z_mm"): "a point in camera space",
    ("pitch_deg", "yaw_deg"): "a direction in camera space",
    (
        "screen_x_px",
        "screen_y_px",
    ): "a point on the screen, whose place --screen says or the points teach",
}


_DOTS = "dots:"


def run(estimator: Any, values: Any) -> None:
    """What --calibrate and --recentre ask for.

    Args:
      estimator: gaze_jax.predict.GazeEstimator; with the calibration that is to be moved, else without one.
      values: the flags of `launch.predict`.

    Raises:
      ValueError: they, or the files that they name, cannot be used.
    """
    from gaze_jax.people import dots, strangers

    targets, inputs = values.calibrate or f"{_DOTS}1", values.input
    if targets.startswith(_DOTS):
        # One look in between leaves the pictures of the calibration itself alone.
        purpose = "recentre" if values.recentre else "dots"
        folder = Path(values.out or f"{Path(values.calibration).with_suffix('')}_{purpose}")
        count = targets.removeprefix(_DOTS)
        if count not in map(str, dots.COUNTS):
            known = ", ".join(f"{_DOTS}{number}" for number in dots.COUNTS)
            raise config.ConfigError(f"--calibrate={targets}: expected one of {known}")
        targets = folder / gaze_dots.TARGETS
        if not gaze_dots.take(estimator, inputs, folder, int(count), resume=values.resume):
            print(
                f"stopped; --resume goes on, --calibrate={targets} --input={folder} uses what there is"
            )
            return
        inputs = [str(folder)]
    if values.recentre:
        recentre(estimator, targets, inputs, values.calibration)
        return
    method, spreads = values.calibration_method, None
    if method != "references":
        spreads = strangers.spreads(values.workdir, values.fold)
    calibrate(
        estimator,
        targets,
        inputs,
        values.calibration,
        person=values.person or "me",
        method=method,
        spreads=spreads,
        blend=functools.partial(strangers.blend, values.workdir, fold=values.fold),
    )


def calibrate(
    estimator: Any,
    targets: str | os.PathLike,
    inputs: Sequence[str],
    out: str | os.PathLike,
    *,
    person: str,
    method: str,
    spreads: Any = None,
    blend: Callable[[int], float | None] | None = None,
) -> Any:
    """Fit a person's calibration and write it into a calibration file.

    Args:
      estimator: gaze_jax.predict.GazeEstimator without calibration.
      targets: CSV with a column frame and those of one form: target_x_mm, target_y_mm, target_z_mm; pitch_deg, yaw_deg;
        or screen_x_px, screen_y_px.
      inputs: where the pictures are.
      out: calibration file, made or added to.
      person: a name.
      method: gaze_jax.people.personal_fit.METHODS.
      spreads: of the network's errors between persons and within one (gaze_jax.people.strangers.spreads); None assumes usual ones.
      blend: number of references to the b of mode "blend" (gaze_jax.people.strangers.blend); None takes the usual one.

    Returns:
      gaze_jax.people.calibration_file.Personal.

    Raises:
      ValueError: table or pictures cannot be used; all problems are named.
    """
    from gaze_jax.people import calibration_file, personal_fit

    looks = _looks(estimator, targets, inputs)
    if looks and looks[0].screen_px is not None:
        personal = personal_fit.fit_screen(estimator, looks, person=person)
    else:
        if spreads is None:
            spreads = personal_fit.SPREADS_RAD
        share = blend(len(looks)) if blend is not None and method == "references" else None
        personal = personal_fit.fit(
            estimator, looks, person=person, method=method, spreads=spreads, blend=share
        )
    calibration_file.save(out, personal, estimator.digest)
    if personal.screen is not None:
        print(
            "no --screen=FILE: the screen is learned from the points and holds for this seat alone"
        )
    for side, errors in personal.residual_deg.items():
        worst = int(np.argmax(errors))
        print(
            f"{side}: {np.mean(errors):.2f} degrees left on average over {len(errors)} pictures, at most {errors[worst]:.2f} "
            f"({personal.points[worst]})"
        )
    print(f"{person}: {personal.method} from {len(looks)} pictures, written to {out}")
    return personal


def recentre(
    estimator: Any, targets: str | os.PathLike, inputs: Sequence[str], out: str | os.PathLike
) -> Any:
    """Move the offset of an estimator's calibration by a few new looks, and write it into its file.

    Raises:
      ValueError: table or pictures cannot be used, or the calibration has no offset.
    """
    from gaze_jax.people import calibration_file, personal_fit

    looks = _looks(estimator, targets, inputs)
    personal = personal_fit.recentre(estimator, looks)
    calibration_file.save(out, personal, estimator.digest)
    for side, fitted in personal.corrections.items():
        move = fitted.offset_rad - estimator.personal.corrections[side].offset_rad
        pitch, yaw = np.rad2deg(move)
        print(f"{side}: moved by {pitch:.2f} degrees of pitch, {yaw:.2f} of yaw")
    print(f"{personal.person}: centred again by {len(looks)} pictures, written to {out}")
    return personal


def _looks(estimator: Any, targets: str | os.PathLike, inputs: Sequence[str]) -> list[Any]:
    """The pictures of a table, each with what was looked at.

    Raises:
      ConfigError: pictures are missing, named by two, or cannot be read.
    """
    from gaze_jax.people import landmark_files, personal_fit
    from gaze_jax.predict import Frame

    wanted = read_targets(targets, estimator.screen)
    looks, shown = [], {}
    for source in gaze_sources.find(inputs):
        for shot in source.shots():
            key = next((name for name in landmark_files.names(shot.name) if name in wanted), None)
            if key is None:
                continue
            if shown.setdefault(key, shot.name) != shot.name:
                raise config.ConfigError(
                    f"{targets}: {key} is {shown[key]} as well as {shot.name}; give more of the path in the table"
                )
            if shot.image is None:
                raise config.ConfigError(shot.error)
            frame = Frame(image=shot.image, name=shot.name)
            looks.append(personal_fit.Look(frame=frame, **wanted[key]))
    unused = [key for key in wanted if key not in shown]
    if unused:
        raise config.ConfigError(
            f"{targets}: --input has no {', '.join(unused[:10])}; expected every frame of the table in it"
        )
    return looks


def read_targets(path: str | os.PathLike, screen: Any) -> dict[str, dict[str, np.ndarray]]:
    """What was looked at in each frame: {"target_mm": (3,)}, {"gaze_rad": (2,)} or {"screen_px": (2,)}.

    Raises:
      ConfigError: the table cannot be used.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise config.ConfigError(f"--calibrate={path} cannot be read: {error.strerror}") from error
    rows = list(csv.DictReader(text.splitlines()))
    names = set(rows[0]) if rows else set()
    form = next((columns for columns in _FORMS if set(columns) <= names), None)
    if form is None or "frame" not in names:
        known = "; ".join(f"{', '.join(columns)} ({what})" for columns, what in _FORMS.items())
        raise config.ConfigError(
            f"--calibrate={path}: {len(rows)} rows with columns {', '.join(sorted(names)) or '(none)'}; expected frame and "
            f"one of: {known}"
        )
    from gaze_jax.people import landmark_files

    found, problems = {}, []
    for number, row in enumerate(rows, start=2):
        try:
            values = np.asarray([float(row[name]) for name in form])
        except (TypeError, ValueError):
            values = np.asarray([math.nan])
        if not np.isfinite(values).all():
            problems.append(f"line {number}: {[row[name] for name in form]}")
            continue
        frame = landmark_files.key(row["frame"])
        if frame in found:
            problems.append(f"line {number}: {frame} for the second time")
        found[frame] = _target(form, values, screen)
    if problems:
        raise config.ConfigError(
            f"--calibrate={path}: expected each frame once and numbers in {', '.join(form)}:\n  "
            + "\n  ".join(problems)
        )
    return found


def _target(form: tuple[str, ...], values: np.ndarray, screen: Any) -> dict[str, np.ndarray]:
    if form[0] == "pitch_deg":
        return {"gaze_rad": np.deg2rad(values)}
    if form[0].startswith("screen"):
        if screen is None:
            return {"screen_px": values}
        flat = np.asarray([*(values / screen.px_per_mm), 0.0])
        values = screen.rotation @ flat + screen.translation_mm
    return {"target_mm": values}
