"""Folders of rendered files that are either complete or can be completed, and that say what they hold.

`world.json` in the folder names the parameters from the first moment on, so that a half-written folder is completed only
by the same command; once everything stands there it also holds a digest of all pixels and texts.
"""

import functools
import hashlib
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from tqdm import tqdm

from core_jax.data import files
from core_jax.world import scenes, segmentation, styles

MARKER = "world.json"
_DAMAGED = "{path} is damaged ({why}); delete the folder and write the data set again"
# Writing waits for the disk: a few files in flight hide that.
_WRITERS = 8
_PENDING = 512


class WorldFolderError(ValueError):
    """A folder cannot take the data set: it holds another one, or something else altogether."""


@functools.cache
def fingerprint() -> str:
    """Digest of sample scenes in every style: changes whenever the renderer does."""
    sha = hashlib.sha256()
    for name in styles.STYLE_NAMES:
        sha.update(scenes.render_batch(0, "fingerprint", 0, 8, styles=name)["image"].tobytes())
    for scene in segmentation.render_segmentation_batch(0, "fingerprint", np.arange(4)):
        sha.update(scene.image.tobytes() + scene.instance.astype("<i4").tobytes())
    return sha.hexdigest()[:16]


class Writer:
    """Collects the files of one data set: writes those that are missing, digests all of them in their order."""

    def __init__(self, folder: pathlib.Path, bar: tqdm):
        self._folder, self._bar = folder, bar
        self._sha = hashlib.sha256()
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._pending: list[Future] = []
        self._made: set[pathlib.Path] = set()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error[0] is not None)

    def png(
        self, name: str, pixels: UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W"]
    ) -> None:
        """Adds a picture: RGB, or a 16-bit map. The digest takes its pixels, not the encoder's bytes."""
        self._add(
            name, pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), lambda: _png(pixels)
        )

    def text(self, name: str, text: str) -> None:
        """Adds a text file."""
        self._add(name, text.encode(), text.encode)

    def tick(self, count: int = 1) -> None:
        """Moves the progress bar on."""
        self._bar.update(count)

    def finish(self) -> str:
        """Waits until everything is on disk and returns the digest."""
        self._drain()
        return self._sha.hexdigest()

    def _add(self, name: str, content: bytes, encode: Callable[[], bytes]) -> None:
        self._sha.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        path = self._folder / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(path.parent)
            self._made.add(path.parent)
        if path.exists():
            return
        self._pending.append(self._pool.submit(lambda: files.atomic_write(path, encode())))
        if len(self._pending) >= _PENDING:
            self._drain()

    def _drain(self) -> None:
        for future in self._pending:
            future.result()
        self._pending.clear()


def build(
    folder: pathlib.Path,
    parameters: dict[str, Any],
    total: int,
    fill: Callable[[Writer], None],
    *,
    progress: bool,
) -> pathlib.Path:
    """Makes a data set's folder, completes it, or finds it complete and leaves it alone.

    Args:
      folder: the data set's own folder.
      parameters: everything its content depends on, as JSON values; the renderer's fingerprint is added.
      total: number of scenes, for the progress bar.
      fill: adds all files to a writer, always in the same order.
      progress: whether to show a progress bar (after two seconds).

    Returns:
      `folder`.

    Raises:
      WorldFolderError: the folder holds another data set or files without a marker; nothing is changed.
    """
    # Through JSON, so that what was read compares equal to what was asked for.
    parameters = json.loads(files.canonical_json({**parameters, "renderer": fingerprint()}))
    marker = _read_marker(folder)
    if marker is not None:
        _check_same(folder, marker["parameters"], parameters)
        if marker["complete"] and marker.get("files") == _count_files(folder):
            return folder
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)
    _write_marker(folder, {"complete": False, "parameters": parameters})
    # Quick work shows nothing; a log file gets a line every ten seconds, not ten a second.
    calm = 0.2 if sys.stderr.isatty() else 10.0
    bar = tqdm(
        total=total, desc=folder.name, unit="scene", delay=2, mininterval=calm, disable=not progress
    )
    with bar, Writer(folder, bar) as writer:
        fill(writer)
        digest = writer.finish()
    content = {"complete": True, "parameters": parameters, "digest": digest}
    _write_marker(folder, {**content, "files": _count_files(folder)})
    return folder


def blocks(count: int, size: int = 256) -> Iterator[np.ndarray]:
    """Indices 0..count-1 in blocks, so that only one block of scenes is in memory."""
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def json_text(value: Any) -> str:
    """JSON with one line per entry of the outer lists: small differences stay readable."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")) + "\n"


def json_lines(rows: Iterable[Any]) -> str:
    """One JSON object a line."""
    return "".join(json_text(row) for row in rows)


def check_positive(**counts: int) -> None:
    """Raises ValueError that names every count below one."""
    bad = [f"{name} is {value}" for name, value in counts.items() if value < 1]
    if bad:
        raise ValueError("; ".join(bad) + "; expected at least 1")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _count_files(folder: pathlib.Path) -> int:
    ours = {".png", ".json", ".jsonl", ".txt"}
    names = (name for _, _, found in os.walk(folder) for name in found)
    return sum(not n.startswith(".") and n != MARKER and n[n.rfind(".") :] in ours for n in names)


def _write_marker(folder: pathlib.Path, content: dict[str, Any]) -> None:
    files.atomic_write(folder / MARKER, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read_marker(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / MARKER
    if not path.exists():
        # A process killed before the first marker leaves a temporary file only.
        strangers = [p.name for p in folder.glob("[!.]*")] if folder.is_dir() else []
        if strangers:
            raise WorldFolderError(
                f"{folder} holds {len(strangers)} entries ({', '.join(sorted(strangers)[:3])}, ...) but no {MARKER}: "
                "it was not written by core_jax.world. Choose another root"
            )
        return None
    try:
        marker = json.loads(path.read_text("utf-8"))
        lacking = {"parameters", "complete"} - marker.keys()
    except (ValueError, AttributeError) as error:
        raise WorldFolderError(_DAMAGED.format(path=path, why=error)) from error
    if lacking:
        raise WorldFolderError(_DAMAGED.format(path=path, why=f"no {sorted(lacking)} in it"))
    return marker


def _check_same(folder: pathlib.Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differences = [
        f"  {name}: there {_short(old.get(name))}, asked for {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise WorldFolderError(
            f"{folder} holds a data set with other parameters:\n" + "\n".join(differences) + "\n"
            "Choose another root, or delete the folder first"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and len(text) > 100:
        return f"{len(value)} entries ({text[:60]}..., digest {files.digest(value)[:8]})"
    return text
