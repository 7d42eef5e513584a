"""Gaze in a user's pictures, videos or camera: what `launch.predict` does with a gaze network.

Written into the folder: gaze.jsonl (a line a frame, whatever was found in it), gaze.csv (a line a face), the pictures with
arrows, and a video of them for videos. The lines are written as they are made, so an interrupted run loses nothing: with
--resume the frames that have a line are not looked at again, and later ones come out as without the break.
"""

import itertools
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from absl import flags

from launch import config, gaze_calibrate, gaze_output, gaze_sources
from launch.gaze_sources import Pictures, Shot, Source, Video

Path = pathlib.Path
_AT_ONCE = 8


def define(values: flags.FlagValues) -> None:
    """Define the flags of `launch.predict` that only this task has."""
    flags.DEFINE_string(
        "landmarks", None, "faces' points for every frame, CSV or JSON", flag_values=values
    )
    flags.DEFINE_string(
        "boxes", None, "faces' boxes for every frame, CSV or JSON", flag_values=values
    )
    flags.DEFINE_string(
        "landmarker", None, "mediapipe's model file face_landmarker.task", flag_values=values
    )
    flags.DEFINE_string(
        "intrinsics", None, "camera matrix and distortion, YAML, JSON or XML", flag_values=values
    )
    flags.DEFINE_string(
        "virtual_camera", "", "of the training data; default: the run's", flag_values=values
    )
    flags.DEFINE_string(
        "screen",
        None,
        "JSON: size_px, size_mm, camera_mm of a screen with a camera in its plane, or rotation, translation_mm, px_per_mm",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "fold", 0, "which network of a run of all folds", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("calibration", None, "calibration file to use", flag_values=values)
    flags.DEFINE_string("person", "", "whose calibration", flag_values=values)
    flags.DEFINE_string(
        "calibrate",
        None,
        "CSV of frames and where the person looked, or dots:9 (or 5) on the screen; writes --calibration",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "calibration_method",
        "offset",
        ["offset", "affine", "ridge", "references"],
        "what --calibrate fits",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "recentre",
        False,
        "move the offset of --calibration by a look at one dot, or by those of --calibrate",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_faces", None, "only the largest so many", lower_bound=1, flag_values=values
    )
    flags.DEFINE_list(
        "draw",
        None,
        "of arrow, box, landmarks, head, crops, angles; or nothing",
        flag_values=values,
    )
    flags.DEFINE_bool("smooth", True, "steady the angles in videos", flag_values=values)
    flags.DEFINE_bool(
        "resume", False, "continue where an interrupted run stopped", flag_values=values
    )
    flags.DEFINE_bool("show", False, "show the pictures while they are made", flag_values=values)


def names() -> list[str]:
    """The flags that `define` defines."""
    own = flags.FlagValues()
    define(own)
    return list(own)


def run(values: Any) -> None:
    """What the flags of `launch.predict` ask for.

    Raises:
      ValueError: they, or the files that they name, cannot be used.
    """
    for name in ("calibrate", "recentre"):
        if getattr(values, name) and not values.calibration:
            raise config.ConfigError(f"--{name} needs --calibration=FILE to write into")
    options: dict[str, Any] = {"max_faces": values.max_faces, "smooth": values.smooth}
    options["landmarker"] = landmarker(values)
    if values.intrinsics:
        from gaze_jax import cameras

        options["intrinsics"] = cameras.read(values.intrinsics)
    if values.screen:
        from gaze_jax import screen

        options["screen"] = screen.read(values.screen)
    from gaze_jax.people import calibration_file
    from gaze_jax.predict import GazeEstimator

    estimator = GazeEstimator.from_run(
        values.workdir, camera=values.virtual_camera, fold=values.fold, **options
    )
    if values.calibrate and not values.recentre:
        gaze_calibrate.run(estimator, values)
        return
    if values.calibration:
        personal = calibration_file.load(values.calibration, estimator.digest, values.person)
        estimator = estimator.calibrated(personal)
    if values.recentre:
        gaze_calibrate.run(estimator, values)
        return
    parts = None if values.draw is None else [part for part in values.draw if part]
    out = values.out or Path(values.workdir) / "predictions"
    predict(estimator, values.input, out, parts=parts, resume=values.resume, show=values.show)


def landmarker(values: Any) -> Any:
    """What finds the faces, by the flags.

    Raises:
      ConfigError: none or several of them were given.
    """
    from gaze_jax.people import faces, landmark_files

    names = ("landmarks", "boxes", "landmarker")
    given = [name for name in names if getattr(values, name)]
    if len(given) != 1:
        raise config.ConfigError(
            "where are the faces? Expected one of --landmarks=FILE and --boxes=FILE (CSV or JSON) and "
            "--landmarker=face_landmarker.task (mediapipe's model file, which its package does not contain; needs the extra "
            "gaze-face); got " + (" and ".join(f"--{name}" for name in given) or "none")
        )
    if values.landmarker:
        # It finds the surest faces first, not the largest: those are chosen later, from all.
        return faces.FaceLandmarker(values.landmarker, max_faces=max(10, values.max_faces or 0))
    if values.landmarks:
        return landmark_files.LandmarkFile(values.landmarks, needs="points")
    return landmark_files.LandmarkFile(values.boxes, needs="box")


def predict(
    estimator: Any,
    inputs: Sequence[str],
    out: str | Path,
    *,
    parts: Collection[str] | None = None,
    resume: bool = False,
    show: bool = False,
) -> dict[str, int]:
    """Look at every frame of the inputs and write what was found.

    Args:
      estimator: gaze_jax.predict.GazeEstimator.
      inputs: files, folders, globs, videos, camera:0.
      out: folder to write into; made if missing.
      parts: what to draw (`gaze_jax.people.draw.PARTS`); None draws the usual, () writes no pictures.
      resume: keep the lines that are there and go on after them.
      show: open a window.

    Returns:
      How many frames, faces, frames without a face, unreadable frames, faces without gaze there are.

    Raises:
      ValueError: the inputs cannot be used.
    """
    from core_jax.data import files

    estimator.answer.require()
    sources = gaze_sources.find(inputs)
    if resume and any(isinstance(source, Video) and source.is_camera for source in sources):
        raise config.ConfigError(
            "--resume: what a camera has shown cannot be seen again; leave it out"
        )
    _require_named(estimator, sources)
    out = Path(out)
    lines = gaze_output.Lines(out, gaze_output.facts(estimator, inputs), resume=resume)
    window = gaze_output.Window() if show else None
    total = sum(len(source) for source in sources)
    stopped = False
    names = gaze_output.Names(out)
    try:
        with lines, _bar(total) as bar:
            for source in sources:
                _one(estimator, source, lines, names, parts, window, bar)
    except KeyboardInterrupt:
        stopped = True
    files.atomic_write(out / gaze_output.TABLE, gaze_output.table(lines.rows))
    counts = gaze_output.counts(lines.rows)
    print(gaze_output.summary(counts, out))
    if stopped:
        print(f"stopped by Ctrl-C after {counts['frames']} frames; --resume continues")
        raise SystemExit(130)
    errors = [row["error"] for row in lines.rows if row.get("error")]
    if errors and len(errors) == len(lines.rows):
        from core_jax.data import images

        raise images.ImageError("no picture could be read:\n  " + "\n  ".join(errors[:10]))
    return counts


def _one(
    estimator: Any,
    source: Source,
    lines: gaze_output.Lines,
    names: gaze_output.Names,
    parts: Collection[str] | None,
    window: Any,
    bar: Any,
) -> None:
    """All frames of a source: those with a line are lived through again, the others are looked at."""
    from gaze_jax import predict as predict_lib
    from gaze_jax.people import draw, face_gaze

    parts = draw.DEFAULT if parts is None else tuple(parts)
    live = isinstance(source, Video) and source.is_camera
    video = None
    if isinstance(source, Video):
        estimator.forget()
        video = gaze_output.Film(names.of(source.source, ".mp4"), source.fps) if parts else None
    try:
        for shots in _chunks(source.shots(), 1 if live else _AT_ONCE):
            new = [shot for shot in shots if lines.done(shot) is None]
            frames = [
                predict_lib.Frame(image=shot.image, name=shot.name, time_s=shot.time_s)
                for shot in new
                if shot.image is not None
            ]
            for shot in shots:
                row = lines.done(shot)
                if row is not None:
                    estimator.replay(shot.time_s, row["faces"])
            found = iter(estimator.batch(frames))
            for shot in shots:
                row = lines.done(shot)
                fresh = row is None
                faces = []
                if row is not None:
                    faces = [face_gaze.from_row(face) for face in row["faces"]]
                elif shot.image is not None:
                    faces = next(found)
                if shot.image is not None and (parts or window):
                    intrinsics = estimator.intrinsics_of(shot.image)
                    picture = draw.overlay(shot.image, faces, intrinsics, parts=parts)
                    if video is not None:
                        video.add(picture)
                    elif parts:
                        path = names.of(shot.source, ".png")
                        if fresh:
                            gaze_output.save(picture, path)
                    if window is not None:
                        window.show(picture)
                if fresh:
                    lines.add(shot, [face.row() for face in faces])
                bar.update()
    finally:
        if video is not None:
            video.close()
        if isinstance(source, Video):
            source.close()


def _chunks(shots: Iterator[Shot], size: int) -> Iterator[list[Shot]]:
    while chunk := list(itertools.islice(shots, size)):
        yield chunk


def _bar(total: int) -> Any:
    import tqdm

    return tqdm.tqdm(total=total or None, unit="frame", disable=None)


def _require_named(estimator: Any, sources: Sequence[Source]) -> None:
    """Refuse a file of faces that names none of the pictures: it belongs to others."""
    from gaze_jax.people import landmark_files

    listed = estimator.landmarker
    paths = [path for source in sources if isinstance(source, Pictures) for path in source.paths]
    if not isinstance(listed, landmark_files.LandmarkFile) or not paths:
        return
    if all(listed.find(str(path)) is None for path in paths):
        raise config.ConfigError(
            f"{listed.path} names none of the {len(paths)} pictures; its frames are called "
            f"{', '.join(list(listed.frames)[:3]) or '(there are none)'}, the pictures {', '.join(map(str, paths[:3]))}"
        )
