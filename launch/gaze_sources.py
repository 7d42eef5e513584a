"""Pictures, videos and cameras as one stream of frames; videos and cameras through OpenCV."""

import dataclasses
import itertools
import logging
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from launch import config, pictures

Path = pathlib.Path
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_USUAL_FPS = 25.0


@dataclasses.dataclass(frozen=True)
class Shot:
    """A frame as its source gives it.

    Attributes:
      source: path of the picture or video, or camera:0.
      number: in its source, from 0.
      time_s: since the source's start; None for pictures.
      image: RGB; None where it cannot be read.
      error: why not.
    """

    source: str
    number: int
    time_s: float | None
    image: np.ndarray | None
    error: str = ""

    @property
    def name(self) -> str:
        """What files of landmarks call it."""
        return self.source if self.time_s is None else f"{self.source}/{self.number}"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture files, one after the other."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def shots(self) -> Iterator[Shot]:
        """One each; a file that cannot be read says why."""
        from core_jax.data import images

        for path in self.paths:
            try:
                yield Shot(str(path), 0, None, images.decode(path))
            except images.ImageError as error:
                yield Shot(str(path), 0, None, None, str(error))


class Video:
    """A video file or a camera.

    Args:
      source: a path or camera:NUMBER.

    Raises:
      ConfigError: it cannot be opened.
      ImportError: OpenCV is not installed.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.is_camera = source.startswith("camera:")
        self._capture = _capture(source)
        cv2 = opencv()
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if np.isfinite(fps) and fps > 0 else _USUAL_FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._count = max(0, count)

    def __len__(self) -> int:
        return self._count

    def shots(self) -> Iterator[Shot]:
        """Its frames in order, until it ends."""
        cv2 = opencv()
        start = time.monotonic()
        try:
            for number in itertools.count():
                there, image = self._capture.read()
                if not there:
                    if number < self._count:
                        logging.warning(
                            "%s: it ends after %d of the %d frames that it says it has; it may be damaged",
                            self.source,
                            number,
                            self._count,
                        )
                    break
                time_s = time.monotonic() - start if self.is_camera else number / self.fps
                yield Shot(self.source, number, time_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        finally:
            self.close()

    def close(self) -> None:
        """Let the camera or file go."""
        self._capture.release()


Source = Pictures | Video


def find(inputs: Sequence[str]) -> list[Source]:
    """What --input names: files, folders, globs, videos, camera:NUMBER, in this order.

    Raises:
      FileNotFoundError: something leads nowhere.
      ConfigError: videos or cameras that cannot be opened; all are named.
    """
    found: list[Source] = []
    problems = []
    for text in (os.path.expanduser(text.strip()) for text in inputs):
        is_video = text.startswith("camera:") or text.lower().endswith(VIDEOS)
        if not is_video:
            found.append(Pictures(tuple(pictures.find_pictures([text], flag="--input"))))
            continue
        try:
            found.append(Video(text))
        except config.ConfigError as error:
            problems.append(str(error))
    if problems:
        raise config.ConfigError("\n".join(problems))
    return found


def opencv() -> Any:
    """The module cv2.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "videos and cameras need OpenCV, which is not installed: pip install 'clip-methods-jax[gaze]', or give pictures"
        ) from error
    return cv2


def _capture(source: str) -> Any:
    cv2 = opencv()
    if source.startswith("camera:"):
        number = source.removeprefix("camera:")
        if not number.isdecimal():
            raise config.ConfigError(f"--input={source}: expected camera:0, camera:1, ...")
        capture = cv2.VideoCapture(int(number))
        reason = "no such camera, or another program uses it"
    else:
        if not os.path.isfile(source):
            raise config.ConfigError(f"--input={source}: there is no such file")
        capture = cv2.VideoCapture(source)
        reason = "no video that OpenCV can decode; it may be damaged"
    if not capture.isOpened():
        raise config.ConfigError(f"--input={source}: {reason}")
    return capture
