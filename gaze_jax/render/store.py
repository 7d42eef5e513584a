"""Rendered data sets on disk: rendered once, read back afterwards.

A set lies in ROOT/<name>-<persons>x<per person>-seed<seed>/ as one ArrayRecord shard per person (`pictures-*.arrayrecord`
with its sidecar) and `manifest.json`, which names everything the pictures depend on and appears last. An interrupted
rendering goes on where it stopped: shards that are complete are kept. A record is 16 little-endian float32 numbers, gaze 2,
head 2, norm 9, scale, side, 0, and then a PNG.
"""

import dataclasses
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from tqdm import tqdm

from core_jax.data import files, records
from gaze_jax.gaze_set import GazeSet, InMemory
from gaze_jax.normalization import CAMERAS
from gaze_jax.render import domains, frames
from gaze_jax.render import persons as people_of
from gaze_jax.render.frames import write_frames as write_frames
from gaze_jax.render.scene import Scene

MANIFEST = "manifest.json"
# Raised whenever pictures or labels of the same seed change.
LOOK = 1
_LABELS = 16
_KIND = {"eyes": "eye", "faces": "face"}


class StoreError(ValueError):
    """A folder that holds another set than the one asked for, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class RecordImages:
    """Pictures that stay in their records until they are asked for."""

    reader: records.Reader

    def __len__(self) -> int:
        return len(self.reader)

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """See `gaze_set.Images`."""
        return np.stack([_picture(self.reader[int(row)]) for row in rows])


def sets() -> tuple[str, ...]:
    """The names that `open_set` knows: "eyes_A" .. "faces_D"."""
    return tuple(f"{kind}_{domain}" for kind in _KIND for domain in domains.DOMAINS)


def open_set(
    name: str,
    root: str | os.PathLike,
    *,
    persons: int = 15,
    per_person: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> GazeSet:
    """A rendered data set; rendered now if it is not there yet.

    Args:
      name: "eyes_A" .. "eyes_D" or "faces_A" .. "faces_D".
      root: folder under which sets are kept.
      persons: number of people.
      per_person: pictures of each; of eyes half are left and half are right ones.
      seed: of people and scenes.
      progress: whether to show a bar while rendering.

    Raises:
      ValueError: an unknown name, or a count below 1.
      StoreError: the folder was written by another version of the renderer, or is damaged.
    """
    if name not in sets():
        raise ValueError(f"rendered data set {name!r}: expected one of {', '.join(sets())}")
    if persons < 1 or per_person < 1:
        raise ValueError(f"{persons} persons x {per_person} pictures: expected at least 1 of each")
    kind, domain = name.split("_")
    folder = pathlib.Path(root) / f"{name}-{persons}x{per_person}-seed{seed}"
    wanted = {
        "name": name,
        "persons": persons,
        "per_person": per_person,
        "seed": seed,
        "look": LOOK,
    }
    manifest = _manifest(folder)
    if manifest is None:
        manifest = _render(folder, wanted, progress=progress)
    different = [
        f"{k} {manifest.get(k)!r}, not {v!r}" for k, v in wanted.items() if manifest.get(k) != v
    ]
    if different:
        raise StoreError(
            f"{folder} holds another rendering ({', '.join(different)}); delete the folder and run the command again"
        )
    shards = [records.Shard(**entry) for entry in manifest["shards"]]
    wrong = [text for shard in shards for text in records.problems(folder, shard, digest=False)]
    if wrong:
        raise StoreError(
            f"{folder}: {'; '.join(wrong)}. Delete {folder / MANIFEST} and run the command again: what is complete is kept"
        )
    return _read(folder, name, kind, domain, manifest, shards)


def _manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON ({error}); delete it and run the command again"
        ) from error


def _render(folder: pathlib.Path, wanted: dict[str, Any], *, progress: bool) -> dict[str, Any]:
    kind, domain = wanted["name"].split("_")
    people, per_person, seed = wanted["persons"], wanted["per_person"], wanted["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)
    shards = []
    with tqdm(
        total=people * per_person, unit="picture", desc=folder.name, disable=not progress
    ) as bar:
        for person in range(people):
            # Shards of another look never count as done: their names differ.
            path = folder / records.shard_name(f"pictures{LOOK}", person, people)
            shard = records.read_sidecar(path)
            if shard is None or records.problems(folder, shard, digest=True):
                what = domains.scenes(kind, domain, person, per_person, seed)
                pictures = domains.shade(kind, domain, what)
                payloads = [_record(what, row, pixels) for row, pixels in enumerate(pictures)]
                shard = records.write_shard(path, payloads, first_row=person * per_person)
            shards.append(shard)
            bar.update(per_person)
    described = [dataclasses.asdict(shard) for shard in shards]
    manifest = {**wanted, "digest": files.digest([wanted, described]), "shards": described}
    files.atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _record(what: Scene, row: int, pixels: UInt8[np.ndarray, "H W c"]) -> bytes:
    numbers = np.concatenate(
        [
            what.gaze[row],
            what.head[row],
            what.norm[row].reshape(-1),
            [what.scale[row], what.side[row], 0.0],
        ]
    )
    return numbers.astype("<f4").tobytes() + frames.encode(pixels)


def _picture(payload: bytes) -> UInt8[np.ndarray, "H W c"]:
    with Image.open(io.BytesIO(payload[4 * _LABELS :])) as picture:
        pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _read(
    folder: pathlib.Path,
    name: str,
    kind: str,
    domain: str,
    manifest: dict[str, Any],
    shards: list[records.Shard],
) -> GazeSet:
    reader = records.Reader(folder, shards)
    payloads = reader.read_all()
    labels = np.stack([np.frombuffer(payload[: 4 * _LABELS], "<f4") for payload in payloads])
    labels = labels.astype(np.float32)
    people, per_person = manifest["persons"], manifest["per_person"]
    camera = domains.camera_of(kind, domains.find(domain))
    virtual = CAMERAS[domains.CAMERA[kind]]
    if kind == "eyes":
        images = InMemory(np.stack([_picture(payload) for payload in payloads]))
    else:
        images = RecordImages(reader)
    count = len(labels)
    return GazeSet(
        name=name,
        kind=_KIND[kind],
        images=images,
        size=(virtual.height, virtual.width, 1 if kind == "eyes" else 3),
        gaze=labels[:, 0:2],
        head=labels[:, 2:4],
        has_head=np.ones(count, bool),
        person=np.repeat(np.arange(people), per_person),
        persons=people_of.names(people),
        side=labels[:, 14].astype(np.int64),
        norm=labels[:, 4:13].reshape(-1, 3, 3),
        scale=labels[:, 13],
        source=tuple(f"{folder.name}/{row}" for row in range(count)),
        camera=camera,
        digest=manifest["digest"],
        space="normalised" if camera else "camera",
        synthetic=True,
    )
