"""A gaze data set in canonical form: pictures, angles and whose they are.

Every reader ends here and everything else starts here. Angles are (pitch, yaw) in radians in the space of the stored
picture ("normalised" unless the set says otherwise): pitch > 0 looks up, yaw > 0 looks towards image left. Eyes are kept in
left-eye form: a right eye is mirrored and its yaws negated. Shapes: N samples, H, W pixels, c channels (1 grey, 3 RGB).
"""

import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

LEFT, RIGHT, FACE = 0, 1, 2
REFERENCE = ("image", "gaze", "head", "index")
"""What a batch holds of references, each as "ref_" and the name."""


class Images(Protocol):
    """Pictures that are read when they are asked for."""

    def __len__(self) -> int: ...

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """The pictures of some rows, RGB or grey."""
        ...


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Pictures that are all in memory: (N, H, W, c) uint8."""

    array: UInt8[np.ndarray, "N H W c"]

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """See `Images`."""
        return self.array[rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GazeSet:
    """One data set.

    Attributes:
      name: as a configuration names it, such as "mpiigaze".
      kind: "eye" or "face".
      space: "normalised" (a virtual camera looked at the reference point) or "camera" (a plain crop).
      images: the pictures, uint8, all of `size`.
      size: (H, W, c).
      gaze: (pitch, yaw) of every sample, radians.
      head: (pitch, yaw) of the head, radians; 0 where `has_head` is false.
      has_head: whether the head pose is known.
      person: index into `persons`.
      persons: their names, sorted.
      side: LEFT, RIGHT or FACE of every sample.
      norm: the rotation R of the normalisation, g_normalised = R g_camera before a right eye is mirrored; the identity
        where there was none.
      scale: d_n / d of the normalisation; 1 where there was none.
      source: where every sample comes from, for messages and tables.
      camera: name of the virtual camera (`gaze_jax.normalization.CAMERAS`), "" for plain crops.
      synthetic: whether the pictures were rendered.
      part: what the source's own lists put every sample in: "train", "val", "test" of an official split, "cluster0" and so
        on of clusters of persons, "" for none; empty where the source has no such lists.
      digest: SHA-256 of what the set was read from.
    """

    name: str
    kind: str
    images: Images
    size: tuple[int, int, int]
    gaze: Float32[np.ndarray, "N 2"]
    head: Float32[np.ndarray, "N 2"]
    has_head: Bool[np.ndarray, " N"]
    person: Int[np.ndarray, " N"]
    persons: tuple[str, ...]
    side: Int[np.ndarray, " N"]
    norm: Float32[np.ndarray, "N 3 3"]
    scale: Float32[np.ndarray, " N"]
    source: tuple[str, ...]
    camera: str
    digest: str
    space: str = "normalised"
    synthetic: bool = False
    part: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.images)
        wrong = [
            f"{name} has {len(getattr(self, name))}"
            for name in ("gaze", "head", "has_head", "person", "side", "norm", "scale", "source")
            if len(getattr(self, name)) != count
        ]
        if self.part and len(self.part) != count:
            wrong.append(f"part has {len(self.part)}")
        if wrong:
            raise ValueError(f"{self.name}: {count} pictures, but {', '.join(wrong)}")

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """The samples of some rows, as models take them.

        Returns:
          "image" uint8 (n, H, W, c), "gaze" and "head" float32 (n, 2), "has_head" bool, "person", "side", "index" int32,
          "norm" float32 (n, 3, 3), "scale" float32.
        """
        rows = np.asarray(rows, np.int64)
        return {
            "image": self.images.take(rows),
            "gaze": self.gaze[rows],
            "head": self.head[rows],
            "has_head": self.has_head[rows],
            "person": self.person[rows].astype(np.int32),
            "side": self.side[rows].astype(np.int32),
            "index": rows.astype(np.int32),
            "norm": self.norm[rows],
            "scale": self.scale[rows],
        }
