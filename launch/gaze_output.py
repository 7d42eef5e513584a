"""What a prediction of gaze writes: lines, a table, pictures, films, and a window for those who watch."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from launch import config, gaze_sources
from launch.gaze_sources import Shot

Path = pathlib.Path
LINES, TABLE, FACTS = "gaze.jsonl", "gaze.csv", "gaze.json"


def facts(estimator: Any, inputs: Sequence[str]) -> dict[str, Any]:
    """What the lines of a folder depend on: a run that differs in any of it cannot go on with them."""
    from core_jax.data import files
    from gaze_jax import face_model
    from gaze_jax.people import calibration_file

    lens, screen, personal = estimator.intrinsics, estimator.screen, estimator.personal
    place = screen and [screen.rotation.tolist(), screen.translation_mm.tolist()]
    size = screen and [screen.px_per_mm.tolist(), screen.size_px]
    return {
        "model": estimator.model.name,
        "model_digest": estimator.digest,
        "input": list(inputs),
        "faces": str(getattr(estimator.landmarker, "path", "")),
        "virtual_camera": estimator.camera.name,
        "face_model": face_model.digest(estimator.face_points_mm),
        "intrinsics": lens and lens.matrix.tolist(),
        "distortion": lens and lens.distortion.tolist(),
        "screen": screen and files.digest([place, size]),
        "person": personal and personal.person,
        "calibration": personal and calibration_file.digest(personal),
        "max_faces": estimator.max_faces,
        "smooth": estimator.smooth,
    }


class Lines:
    """gaze.jsonl: what is in it, and its end."""

    def __init__(self, out: Path, facts: dict[str, Any], *, resume: bool) -> None:
        from core_jax.data import files

        self._path = out / LINES
        self.rows: list[dict[str, Any]] = []
        if resume and (out / FACTS).is_file():
            self._require_same(out / FACTS, facts)
            self.rows = _read_lines(self._path)
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        files.atomic_write(self._path, text)
        files.atomic_write(out / FACTS, json.dumps(facts, indent=1) + "\n")
        self._done = {(row["source"], row["frame"]): row for row in self.rows}

    @staticmethod
    def _require_same(path: Path, facts: dict[str, Any]) -> None:
        before = json.loads(path.read_text(encoding="utf-8"))
        wrong = [
            f"{name} was {before.get(name)}, now it is {value}"
            for name, value in facts.items()
            if before.get(name) != value
        ]
        if wrong:
            raise config.ConfigError(
                f"--resume: {path.parent} holds the results of something else: " + "; ".join(wrong)
            )

    def __enter__(self) -> "Lines":
        self._file = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def done(self, shot: Shot) -> dict[str, Any] | None:
        """The line of a frame."""
        return self._done.get((shot.source, shot.number))

    def add(self, shot: Shot, faces: list[dict[str, Any]]) -> None:
        """Write a line."""
        row = {
            "source": shot.source,
            "frame": shot.number,
            "time_s": shot.time_s,
            "size_px": None if shot.image is None else [shot.image.shape[1], shot.image.shape[0]],
            "faces": faces,
        }
        if shot.error:
            row["error"] = shot.error
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self.rows.append(row)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; a last one that was cut off is dropped."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        try:
            if line:
                rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines) - 1:
                raise config.ConfigError(
                    f"{path}, line {number + 1}: not JSON ({error})"
                ) from error
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """gaze.csv of these lines: a row a face."""
    from gaze_jax.people import face_gaze

    file = io.StringIO()
    writer = csv.DictWriter(file, face_gaze.CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for face in row["faces"]:
            writer.writerow(face_gaze.csv_row(row["source"], row["frame"], row["time_s"], face))
    return file.getvalue()


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many frames and faces there are, and how many of them say nothing."""
    faces = [face for row in rows for face in row["faces"]]
    return {
        "frames": len(rows),
        "faces": len(faces),
        "without_face": sum(not row["faces"] and not row.get("error") for row in rows),
        "unreadable": sum(bool(row.get("error")) for row in rows),
        "without_gaze": sum(bool(face["problem"]) for face in faces),
    }


def summary(counts: dict[str, int], out: Path) -> str:
    """The counts in words: nothing is left out silently."""
    said = [_several(counts["frames"], "frame"), _several(counts["faces"], "face")]
    for name, thing, what in (
        ("without_face", "frame", "without a face"),
        ("unreadable", "file", "that cannot be read"),
        ("without_gaze", "face", "without gaze (see problem)"),
    ):
        if counts[name]:
            said.append(f"{_several(counts[name], thing)} {what}")
    return f"{', '.join(said)}: {out / LINES}, {out / TABLE}"


def _several(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


class Names:
    """A file name in the folder for each source: the source's own, numbered where several have it."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._used: dict[str, str] = {}

    def of(self, source: str, suffix: str) -> Path:
        """The file for a source; asked in the order of the sources, as a resumed run does again."""
        stem = "camera" if source.startswith("camera:") else Path(source).stem
        name, count = stem, 1
        while self._used.setdefault(name, source) != source:
            count += 1
            name = f"{stem}-{count}"
        return self._out / f"{name}_gaze{suffix}"


def save(picture: Any, path: Path) -> None:
    """Write a pillow picture as PNG, whole or not at all."""
    from core_jax.data import files

    with files.atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


class Film:
    """A video file that takes its name when it is closed, complete or not."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps, self._writer = path, fps, None
        # OpenCV tells the container from the suffix.
        self._partial = path.with_name(f".{os.getpid()}-{path.name}")

    def add(self, picture: Any) -> None:
        """One more frame; all have the size of the first."""
        import numpy as np

        cv2 = gaze_sources.opencv()
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), code, self._fps, picture.size)
            if not self._writer.isOpened():
                raise config.ConfigError(
                    f"{self._path}: this OpenCV cannot write MP4; --draw= writes none"
                )
        self._writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """End the file; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._partial, self._path)


class Window:
    """Pictures on the screen: OpenCV's window where its build has one, else matplotlib's."""

    def __init__(self) -> None:
        self._cv2 = None
        try:
            import cv2

            cv2.namedWindow("gaze")
            self._cv2 = cv2
        except Exception as error:
            # Builds without windows raise cv2.error, which cannot be named where cv2 is absent.
            if not isinstance(error, ImportError) and type(error).__name__ != "error":
                raise
            from matplotlib import pyplot

            self._pyplot = pyplot
            self._axes = pyplot.figure("gaze").add_axes((0, 0, 1, 1))

    def show(self, picture: Any) -> None:
        """One more; q or Ctrl-C ends."""
        import numpy as np

        if self._cv2 is not None:
            self._cv2.imshow("gaze", np.asarray(picture)[:, :, ::-1])
            if self._cv2.waitKey(1) == ord("q"):
                raise KeyboardInterrupt
            return
        self._axes.clear()
        self._axes.imshow(picture)
        self._axes.set_axis_off()
        self._pyplot.pause(0.001)
