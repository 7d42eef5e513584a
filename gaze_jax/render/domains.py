"""Rendered data: four domains in the manner of known data sets, as eyes, as faces or as camera frames with landmarks.

A is like laptop users (MPIIFaceGaze), B like screen and floating targets at low resolution (EyeDiap), C like people
outdoors in plain crops (Gaze360), D like wide poses under hard light (ETH-XGaze). Pictures are rendered in batches of a fixed shape, so that their bytes do not depend on how many are wanted.
"""

import dataclasses
import functools
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from tqdm import tqdm

from gaze_jax.normalization import CAMERAS
from gaze_jax.render import persons, picture, scene
from gaze_jax.render.scene import KINDS, Domain, Scene

DOMAINS = {
    domain.name: domain
    for domain in (
        Domain(name="A", pitch=(-22, 5), yaw=(-20, 20), head_sd=(8, 10)),
        Domain(
            name="B",
            pitch=(-30, 10),
            yaw=(-30, 30),
            head_sd=(12, 15),
            half=True,
            noise=(0.01, 0.04),
        ),
        Domain(
            name="C",
            pitch=(-35, 35),
            yaw=(-80, 80),
            head_sd=(15, 35),
            light=(0.7, 1.2, 0.5),
            strength=(0.5, 1.1),
            ambient=0.55,
            blurred=0.5,
            plain=True,
        ),
        Domain(
            name="D",
            pitch=(-50, 50),
            yaw=(-60, 60),
            head_sd=(25, 35),
            light=(1.3, 0.4, 0.6),
            strength=(0.8, 1.4),
            ambient=0.32,
            noise=(0.003, 0.01),
        ),
    )
}
# What a patch of each kind is seen with; frames are labelled as their face patch is.
CAMERA = {"eyes": "mpiigaze_eye", "faces": "eth_face", "frames": "eth_face"}
_BATCH = {"eyes": 32, "faces": 1, "frames": 1}
_THREADS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """Pictures and the truth about them.

    Attributes:
      kind: "eyes", "faces" or "frames". domain: its letter. camera: virtual camera, "" for plain crops.
      images: eyes (36, 60, 1) in left-eye form, faces (224, 224, 3), frames (480, 640, 3).
      gaze, head: (pitch, yaw) labels in the space of the (normalised) patch, radians.
      person: index into `persons`. side: LEFT, RIGHT, FACE. norm, scale: of the normalisation.
      scenes: everything else, one row a picture: pose, visual axes, target, intrinsics, eyelids.
      landmarks: pixels of the named points of the face model, (N, 11, 2) in the order of `persons.points`; frames only.
    """

    kind: str
    domain: str
    camera: str
    images: UInt8[np.ndarray, "N H W c"]
    persons: tuple[str, ...]
    person: Int64[np.ndarray, " N"]
    scenes: Scene
    landmarks: Float32[np.ndarray, "N 11 2"] | None = None

    @property
    def gaze(self) -> Float32[np.ndarray, "N 2"]:
        """Labels of the patches."""
        return self.scenes.gaze

    @property
    def head(self) -> Float32[np.ndarray, "N 2"]:
        """Head poses of the patches."""
        return self.scenes.head

    @property
    def side(self) -> Int64[np.ndarray, " N"]:
        """LEFT, RIGHT or FACE."""
        return self.scenes.side

    @property
    def norm(self) -> Float32[np.ndarray, "N 3 3"]:
        """R of the normalisation."""
        return self.scenes.norm

    @property
    def scale(self) -> Float32[np.ndarray, " N"]:
        """d_n / d of the normalisation."""
        return self.scenes.scale


def find(name: str) -> Domain:
    """The domain of a letter.

    Raises:
      ValueError: there is none.
    """
    if name not in DOMAINS:
        raise ValueError(f"domain is {name!r}: expected one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def camera_of(kind: str, domain: Domain) -> str:
    """The virtual camera that pictures of a kind are seen with; "" for plain crops."""
    return "" if kind == "faces" and domain.plain else CAMERA[kind]


def scenes(kind: str, domain: str, person: int, per_person: int, seed: int) -> Scene:
    """The scenes of one person.

    Args:
      kind: "eyes", "faces" or "frames".
      domain: its letter.
      person: number of the person.
      per_person: how many.
      seed: of people and scenes.
    """
    found = find(domain)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}")
    people = persons.make(person + 1, seed=f"{domain}:{seed}")
    return scene.sample(
        persons.take(people, np.asarray([person])),
        found,
        kind,
        count=per_person,
        text=f"gaze/{kind}/{domain}:{seed}/{person}",
        distance_mm=CAMERAS[CAMERA[kind]].distance_mm,
    )


@functools.cache
def _shader(kind: str, domain: str) -> Callable[[Scene], jax.Array]:
    found = find(domain)
    virtual = CAMERAS[CAMERA[kind]]
    matrix = jnp.asarray(virtual.matrix)
    if kind == "eyes":
        one = lambda s: picture.eye_patch(s, matrix, virtual.height, virtual.width, half=found.half)
    elif kind == "faces":
        one = lambda s: picture.face_patch(
            s, matrix, virtual.height, virtual.width, half=found.half, plain=found.plain
        )
    else:
        one = lambda s: picture.frame(s, *scene.FRAME, half=found.half)
    if _BATCH[kind] > 1:
        return jax.jit(jax.vmap(one))
    # A batch of one goes without vmap, under which the windows of the eyes would be gathered pixel by pixel.
    return jax.jit(lambda batch: one(jax.tree.map(lambda rows: rows[0], batch))[None])


def shade(kind: str, domain: str, what: Scene) -> UInt8[np.ndarray, "N H W c"]:
    """The pictures of scenes, in batches of the one shape of their kind.

    Args:
      kind: "eyes", "faces" or "frames".
      domain: letter whose sensor sees them.
      what: N scenes.
    """
    shader, size, count = _shader(kind, domain), _BATCH[kind], len(what.side)

    def batch(first: int) -> np.ndarray:
        # The last batch repeats its last scene: one shape, one program, the same bytes.
        rows = np.minimum(np.arange(first, first + size), count - 1)
        pictures = np.asarray(shader(scene.take(what, rows)))[: count - first]
        return _compressed(pictures, what.jpeg[first]) if kind == "frames" else pictures

    # One picture occupies one core: tiles come one after another.
    with ThreadPoolExecutor(max(1, min(_THREADS, os.cpu_count() or 1))) as pool:
        return np.concatenate(list(pool.map(batch, range(0, count, size))))


def _compressed(pictures: UInt8[np.ndarray, "1 H W 3"], quality: int) -> np.ndarray:
    """A frame after JPEG at a quality; 0 leaves it as it is."""
    if quality == 0:
        return pictures
    file = io.BytesIO()
    Image.fromarray(pictures[0]).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file))[None]


def make(
    kind: str,
    domain: str,
    people: int,
    per_person: int,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Rendered:
    """Renders a set in memory.

    Args:
      kind: "eyes" (left and right eyes in turn), "faces" or "frames".
      domain: "A", "B", "C" or "D".
      people: number of people.
      per_person: pictures of each.
      seed: of people and scenes; the same seed gives the same bytes on the same machine.
      progress: whether to show a bar.

    Raises:
      ValueError: an unknown kind or domain, or a count below 1.
    """
    if per_person < 1 or people < 1:
        raise ValueError(f"{people} persons x {per_person} pictures: expected at least 1 of each")
    parts, images = [], []
    with tqdm(total=people * per_person, unit="picture", disable=not progress) as bar:
        for person in range(people):
            parts.append(scenes(kind, domain, person, per_person, seed))
            images.append(shade(kind, domain, parts[-1]))
            bar.update(per_person)
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    return Rendered(
        kind=kind,
        domain=domain,
        camera=camera_of(kind, find(domain)),
        images=np.concatenate(images),
        persons=persons.names(people),
        person=np.repeat(np.arange(people), per_person),
        scenes=joined,
        landmarks=landmarks(joined) if kind == "frames" else None,
    )


def landmarks(what: Scene) -> Float32[np.ndarray, "N 11 2"]:
    """Pixels of the named points of the face model in raw frames, in the order of `persons.points`."""
    named = np.stack(list(persons.points(what.person).values()), axis=1).astype(np.float64)
    seen = np.einsum("nij,npj->npi", what.rotation, named) + what.translation[:, None]
    projected = np.einsum("nij,npj->npi", what.intrinsics, seen)
    return (projected[..., :2] / projected[..., 2:]).astype(np.float32)
