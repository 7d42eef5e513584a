"""GazeHub's form of seven data sets (Cheng et al., arXiv 2104.12668): `Image/` and `Label/*.label`.

A label file has a header line; fields are split by spaces and hold lists split by commas. 2DGaze and 2DHead are angles in
normalised space, `Rmat` and `Rvec` the normalisation as a rotation vector, `Smat` and `Svec` the diagonal of its scaling.
In MPIIGaze and MPIIFaceGaze samples of the right eye are mirrored, whole faces too, and labels are unit(S R g_camera): here
they become R g_camera. Mirrored faces stay mirrored, as published results have them; their rotation is mirrored along.
Eyes of the others are stored as seen, and right ones are mirrored here.
"""

import dataclasses
import functools
import pathlib
import re

import numpy as np

from core_jax.data import images
from gaze_jax.gaze_set import FACE, LEFT, RIGHT, GazeSet
from gaze_jax.readers.common import (
    MIRROR,
    FileImages,
    Problems,
    Samples,
    from_rotation_vector,
    left_form,
    missing,
)
from gaze_jax.readers.convention import Convention

Path = pathlib.Path

IMAGES, LABELS, CLUSTERS = "Image", "Label", "ClusterLabel"
_ANGLES = Convention(stored="yaw_pitch")
_SCALED = Convention(stored="yaw_pitch", mirrored="right", scaled=True)
_MPII = ("3DGaze", "3DHead", "2DGaze", "2DHead", "Rmat", "Smat", "GazeOrigin")
_THREE = ("Face", "Left", "Right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """The columns of one of the data sets, and what they mean.

    Attributes:
      kind: "eye" or "face".
      columns: the header, in order.
      convention: of 2DGaze and 2DHead.
      camera: the virtual camera, "" for plain crops.
      person: where the person's name stands: "file" (name of the label file), "folder" (first folder of the picture),
        "subject" (the folder subjectXXXX of the picture), "recording" (recording and identity in the Origin column).
      eyes: whether the Left and Right columns are pictures of eyes that can be read instead of the face.
    """

    kind: str
    columns: tuple[str, ...]
    convention: Convention
    camera: str
    person: str
    eyes: bool = False

    def find(self, *names: str) -> int | None:
        """The position of the first of these columns; None where there is none."""
        return next((self.columns.index(name) for name in names if name in self.columns), None)


VARIANTS = {
    "mpiigaze": Variant(
        kind="eye",
        columns=("Image", "Origin", "WhichEye", *_MPII),
        convention=dataclasses.replace(_SCALED, colour="grey"),
        camera="mpiigaze_eye",
        person="file",
    ),
    "mpiifacegaze": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "WhichEye", *_MPII),
        convention=_SCALED,
        camera="eth_face",
        person="file",
    ),
    "eyediap": Variant(
        kind="face",
        columns=(*_THREE, "Metapath", *_MPII[:4], "Rvec", "Svec", "GazeOrigin"),
        convention=_ANGLES,
        camera="eth_face",
        person="folder",
        eyes=True,
    ),
    "gaze360": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "3DGaze", "2DGaze"),
        convention=dataclasses.replace(_ANGLES, frame="camera"),
        camera="",
        person="recording",
    ),
    "eth": Variant(
        kind="face",
        columns=("Face", "2DGaze", "2DHead", "Origin"),
        convention=Convention(stored="pitch_yaw"),
        camera="eth_face",
        person="subject",
    ),
    "rtgene": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "3DGaze", "3DHead", "2DGaze", "2DHead"),
        convention=_ANGLES,
        camera="eth_face",
        person="file",
    ),
}


def loader(name: str):
    """The reader of one variant; the options of each are those it has."""
    variant = VARIANTS[name]
    if variant.eyes:
        return functools.partial(_load_either, name)
    return functools.partial(_load, name)


def _load(name: str, root: Path) -> tuple[GazeSet | None, Problems]:
    return _read(name, root, eyes=False)


def _load_either(name: str, root: Path, *, kind: str = "face") -> tuple[GazeSet | None, Problems]:
    """`kind` chooses between the faces and the pictures of both eyes."""
    if kind not in ("face", "eye"):
        return None, [f"kind={kind!r}: expected face or eye"]
    return _read(name, root, eyes=kind == "eye")


def _read(name: str, root: Path, *, eyes: bool) -> tuple[GazeSet | None, Problems]:
    variant, problems = VARIANTS[name], missing(root / IMAGES)
    lists = _label_files(root)
    if not lists:
        problems.append(f"{root} has no {LABELS}/*.label and no {CLUSTERS}/Cluster*")
    samples, paths, mirror = Samples(), [], []
    for path, part in lists:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines[1:], 2):
            if not line.strip():
                continue
            try:
                found = _samples(variant, line.replace("\\", "/").split(), path.stem, part, eyes)
            except ValueError as error:
                problems.append(f"{path} line {number}: {error}")
                continue
            for picture, mirrored, sample in found:
                samples.add(**sample)
                paths.append(f"{IMAGES}/{picture}")
                mirror.append(mirrored)
    if not paths:
        return None, [*problems, f"{root} has no usable samples"]
    size = _first_size(root, paths)
    if size is None:
        return None, [*problems, f"{root / IMAGES}: none of the first pictures can be read"]
    eye = eyes or variant.kind == "eye"
    pictures = FileImages(
        root=root,
        paths=tuple(paths),
        size=(*size, 1 if eye else 3),
        mirror=np.array(mirror),
        # Crops of heads have any size; a face or an eye of another size than the first is a mistake.
        resize=variant.camera == "",
    )
    found = samples.finish(
        name=f"gazehub_{name}",
        kind="eye" if eye else "face",
        pictures=pictures,
        size=pictures.size,
        camera=("mpiigaze_eye" if eye else variant.camera),
        space=variant.convention.frame,
    )
    return found, problems


def _label_files(root: Path) -> list[tuple[Path, str]]:
    """(file, part): the files of clusters where there are any, else the lists of train, val and test, or of persons."""
    clusters = sorted((root / CLUSTERS).glob("Cluster*"))
    if clusters:
        return [
            (path, place.stem.lower())
            for place in clusters
            for path in (sorted(place.glob("*.label")) if place.is_dir() else [place])
        ]
    paths = sorted((root / LABELS).glob("*.label"))
    return [(path, path.stem if path.stem in ("train", "val", "test") else "") for path in paths]


def _samples(
    variant: Variant, fields: list[str], stem: str, part: str, eyes: bool
) -> list[tuple[str, bool, dict]]:
    """What a line says: (picture, whether to mirror it, columns of the sample), for both eyes where they are asked for.

    Raises:
      ValueError: it is too short, or holds no numbers where there should be some.
    """
    if len(fields) != len(variant.columns):
        raise ValueError(
            f"{len(fields)} fields, expected {len(variant.columns)}: {' '.join(variant.columns)}"
        )

    def numbers(count: int, *names: str) -> np.ndarray | None:
        place = variant.find(*names)
        if place is None:
            return None
        values = np.array([float(text) for text in fields[place].split(",")])
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(
                f"{variant.columns[place]} is {fields[place]!r}, expected {count} numbers"
            )
        return values

    rule = variant.convention
    stored, head, turn, scale = (
        numbers(2, "2DGaze"),
        numbers(2, "2DHead"),
        numbers(3, "Rmat", "Rvec"),
        numbers(3, "Smat", "Svec"),
    )
    assert stored is not None
    factor = 1.0 if scale is None else float(scale[2])
    if factor <= 0:
        raise ValueError(f"the scale of the normalisation is {factor}, expected a positive one")
    which = variant.find("WhichEye")
    right = which is not None and fields[which].lower() == "right"
    # The head is not an eye's direction: it was never scaled.
    plain = dataclasses.replace(rule, scaled=False)
    norm = None if turn is None else from_rotation_vector(turn)
    if right and variant.kind == "face" and norm is not None:
        norm = MIRROR @ norm @ MIRROR
    sample = {
        "gaze": rule.canonical(stored[None], np.array([factor]))[0],
        "head": None if head is None else plain.canonical(head[None])[0],
        "person": _person(variant, fields, stem),
        "side": FACE if variant.kind == "face" else RIGHT if right else LEFT,
        "source": fields[0],
        "norm": norm,
        "scale": factor,
        "part": part,
    }
    if not eyes:
        return [(fields[0], False, sample)]
    left, other = fields[1], fields[2]
    mirrored = sample | {
        "side": RIGHT,
        "source": other,
        "gaze": left_form(sample["gaze"]),
        "head": None if head is None else left_form(sample["head"]),
    }
    return [(left, False, sample | {"side": LEFT, "source": left}), (other, True, mirrored)]


def _person(variant: Variant, fields: list[str], stem: str) -> str:
    if variant.person == "file":
        return stem
    if variant.person == "folder":
        return fields[0].split("/")[0]
    if variant.person == "subject":
        match = re.search(r"subject\d+", fields[0])
        return match[0] if match else fields[0].split("/")[0]
    origin = fields[variant.columns.index("Origin")].split("/")
    # rec_000/head/000012/000345.jpg: a number is one person's within a recording only.
    return "/".join((origin[0], origin[2])) if len(origin) > 3 else origin[0]


def _first_size(root: Path, paths: list[str], most: int = 20) -> tuple[int, int] | None:
    """(height, width) of the first picture that can be read; missing ones are `check`'s to tell."""
    for path in paths[:most]:
        try:
            height, width = images.decode(root / path).shape[:2]
        except images.ImageError:
            continue
        return height, width
    return None
