"""Pictures of somebody who looks at dots on the screen: what --calibrate=dots:9 takes with a camera.

Written into a folder: dot-1.png, ... and targets.csv, after every picture, so that a sequence that was stopped goes on with
--resume, and --calibrate=FOLDER/targets.csv reads what there is.
"""

import csv
import io
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from launch import config, gaze_output, gaze_sources
from launch.gaze_sources import Shot

Path = pathlib.Path
TARGETS = "targets.csv"
_COLUMNS = ("frame", "screen_x_px", "screen_y_px")
TAKE, BACK, STOP = "take", "back", "stop"
# Space and the enter keys; the two codes of backspace; escape.
_KEYS = {32: TAKE, 10: TAKE, 13: TAKE, 8: BACK, 127: BACK, 27: STOP}
_USUAL_WORDS = "look at the dot and press space; backspace: the one before again; escape: stop"


class Screen(Protocol):
    """What shows the dots."""

    def ask(self, picture: np.ndarray, meanwhile: Callable[[], object]) -> str:
        """Show a picture until a key means something: TAKE, BACK or STOP. `meanwhile` is called again and again."""
        ...


def take(
    estimator: Any, inputs: list[str], folder: str | os.PathLike, count: int, *, resume: bool
) -> bool:
    """Show dots on the whole screen and take a picture of who looks at each.

    Args:
      estimator: gaze_jax.predict.GazeEstimator with a screen; it says which pictures have a usable face.
      inputs: camera:0 or another one.
      folder: to write into.
      count: dots.
      resume: keep the pictures that are there.

    Returns:
      Whether there is a picture for every dot.

    Raises:
      ValueError: screen, camera or landmarker are not what this needs, or this OpenCV has no windows.
    """
    from gaze_jax.people import landmark_files
    from gaze_jax.predict import Frame

    problems = []
    size_px = estimator.screen and estimator.screen.size_px
    if not size_px:
        problems.append("--screen=FILE with size_px, which says where the dots stand")
    if len(inputs) != 1 or not inputs[0].startswith("camera:"):
        problems.append(f"one camera, --input=camera:0 (got {','.join(inputs)})")
    if isinstance(estimator.landmarker, landmark_files.LandmarkFile):
        problems.append("--landmarker=face_landmarker.task: no file knows these pictures yet")
    if problems:
        raise config.ConfigError("dots on the screen need " + "; ".join(problems))

    def problem(image: np.ndarray) -> str:
        found = estimator.place(Frame(image=image))[:1]
        if not found:
            return "no face"
        return found[0].problem or ("the eyes are closed" if found[0].face.blink else "")

    (camera,) = gaze_sources.find(inputs)
    with Window() as window:
        return record(window, camera.shots(), Path(folder), count, size_px, problem, resume)


def record(
    screen: Screen,
    shots: Iterator[Shot],
    folder: Path,
    count: int,
    size_px: tuple[int, int],
    problem: Callable[[np.ndarray], str],
    resume: bool,
) -> bool:
    """The sequence of `take`, on any screen and with any camera.

    Raises:
      ConfigError: the camera ends, or the folder to go on with is of other dots.
    """
    from PIL import Image

    from gaze_jax.people import dots

    places = dots.places(count, size_px)
    taken = _read(folder, places) if resume else []
    _write(folder, taken, places)
    words = _USUAL_WORDS
    while True:
        number = dots.following(taken, count)
        if number is None:
            shown = dots.picture(size_px, None, "enter: done; backspace: the last one again")
        else:
            shown = dots.picture(size_px, places[number], f"{number + 1} of {count}: {words}")
        # Cameras hold a few pictures back: they are emptied until the key comes.
        asked = screen.ask(shown, lambda: _next(shots))
        words = _USUAL_WORDS
        if asked == STOP:
            return False
        if asked == BACK:
            taken = taken[:-1]
        elif number is None:
            return True
        else:
            image = _next(shots)
            found = problem(image)
            if found:
                words = f"{found}; again, please"
                continue
            gaze_output.save(Image.fromarray(image), folder / _name(number))
            taken = [*taken, number]
        _write(folder, taken, places)


def _next(shots: Iterator[Shot]) -> np.ndarray:
    shot = next(shots, None)
    if shot is None or shot.image is None:
        raise config.ConfigError("the camera gives no more pictures; --resume goes on")
    return shot.image


def _name(number: int) -> str:
    return f"dot-{number + 1}.png"


def _row(number: int, places: np.ndarray) -> list[str]:
    return [_name(number), *(f"{value:g}" for value in places[number])]


def _write(folder: Path, taken: list[int], places: np.ndarray) -> None:
    from core_jax.data import files

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_COLUMNS, *(_row(number, places) for number in taken)])
    files.atomic_write(folder / TARGETS, file.getvalue())


def _read(folder: Path, places: np.ndarray) -> list[int]:
    """The dots that have a picture, in the order in which these were taken: who deletes a picture is asked for it again."""
    path = folder / TARGETS
    if not path.is_file():
        return []
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
    known = {_name(number): number for number in range(len(places))}
    wrong = [row for row in rows if row[0] not in known or row != _row(known[row[0]], places)]
    if wrong:
        raise config.ConfigError(
            f"{path}: {wrong[0]} is none of the {len(places)} dots of this screen; leave --resume out to begin anew"
        )
    return [known[row[0]] for row in rows if (folder / row[0]).is_file()]


class Window:
    """A full-screen window of OpenCV.

    Raises:
      ConfigError: this OpenCV, or this machine, has none.
    """

    _NAME = "gaze calibration"

    def __enter__(self) -> "Window":
        self._cv2 = cv2 = gaze_sources.opencv()
        # Without a display some builds end the whole program instead of raising.
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        try:
            if sys.platform == "linux" and not display:
                raise config.ConfigError("there is no display (DISPLAY is not set)")
            cv2.namedWindow(self._NAME, cv2.WINDOW_NORMAL)
            cv2.setWindowProperty(self._NAME, cv2.WND_PROP_FULLSCREEN, cv2.WINDOW_FULLSCREEN)
        except (cv2.error, config.ConfigError) as error:
            raise config.ConfigError(
                f"no window for the dots: {str(error).strip()}. opencv-python-headless has none: put opencv-python in its place "
                "(pip uninstall opencv-python-headless; pip install opencv-python), or show points in another way and give "
                "--calibrate=targets.csv with --input=PICTURES"
            ) from error
        return self

    def __exit__(self, *_: Any) -> None:
        self._cv2.destroyWindow(self._NAME)

    def ask(self, picture: np.ndarray, meanwhile: Callable[[], object]) -> str:
        """See `Screen`; closing the window stops."""
        self._cv2.imshow(self._NAME, picture[:, :, ::-1])
        while True:
            asked = _KEYS.get(self._cv2.waitKey(10) & 0xFF)
            if asked:
                return asked
            if self._cv2.getWindowProperty(self._NAME, self._cv2.WND_PROP_VISIBLE) < 1:
                return STOP
            meanwhile()
