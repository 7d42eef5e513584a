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
    Problems,
    Samples,
    from_rotation_vector,
    left_form,
    missing,
)
from gaze_jax.readers.gazehub_columns import VARIANTS, Variant
from gaze_jax.readers.pictures import FileImages

Path = pathlib.Path

IMAGES, LABELS, CLUSTERS = "Image", "Label", "ClusterLabel"
EYES = "_eyes"


def names() -> tuple[str, ...]:
    """What `load` reads: the variants, and where they have pictures of both eyes, these under a name of their own."""
    return (*VARIANTS, *(name + EYES for name, variant in VARIANTS.items() if variant.eyes))


def load(name: str, root: Path) -> tuple[GazeSet | None, Problems]:
    """One of `names`, in GazeHub's form."""
    eyes = name.endswith(EYES)
    variant, problems = VARIANTS[name.removesuffix(EYES)], missing(root / IMAGES)
    lists = _label_files(root)
    if not lists:
        problems.append(f"{root} has no {LABELS}/*.label and no {CLUSTERS}/Cluster*")
    samples, paths, mirror = Samples(), [], []
    for path, part in lists:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        header = lines[0].split() if lines else []
        if len(header) < len(variant.columns):
            problems.append(
                f"{path} line 1: the header has {len(header)} columns, expected {' '.join(variant.columns)}"
            )
            continue
        if not any(line.strip() for line in lines[1:]):
            problems.append(f"{path} lists no samples behind its header")
        table, below = _Table(variant, header, path.stem, part, eyes), None
        for number, line in enumerate(lines[1:], 2):
            if not line.strip():
                continue
            try:
                found = table.samples(line.replace("\\", "/").split())
            except ValueError as error:
                problems.append(f"{path} line {number}: {error}")
                continue
            if below is None:
                below = _folder(root, found[0][0], part)
            for picture, mirrored, sample in found:
                samples.add(**sample)
                paths.append(f"{below}/{picture}")
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
    # Some versions put them into a folder more.
    paths = sorted((root / LABELS).glob("*.label")) or sorted((root / LABELS).rglob("*.label"))
    return [(path, _part(path.stem)) for path in paths]


def _part(stem: str) -> str:
    """What a list's name says: train, val, test, or one of RT-Gene's three folds."""
    if stem in ("train", "val", "test"):
        return stem
    if stem == "valid":
        return "val"
    fold = re.fullmatch(r"train(\d)", stem)
    return f"cluster{fold[1]}" if fold else ""


def _folder(root: Path, picture: str, part: str) -> str:
    """The folder that pictures of a list are named from: some lists leave out their own name."""
    own = f"{IMAGES}/{part}"
    if part and not (root / IMAGES / picture).exists() and (root / own / picture).exists():
        return own
    return IMAGES


@dataclasses.dataclass(frozen=True)
class _Table:
    """How the lines of one label file are read.

    Attributes:
      variant: of the data set.
      header: of the file.
      stem: the file's name, the person's where no column tells and the file is no list of several.
      part: what the list stands for.
      eyes: whether to read both eyes instead of the face.
    """

    variant: Variant
    header: list[str]
    stem: str
    part: str
    eyes: bool

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return self.variant.places(self.header)

    def samples(self, fields: list[str]) -> list[tuple[str, bool, dict]]:
        """What a line says: (picture, whether to mirror it, columns of the sample) of the face, the eye, or both eyes.

        Raises:
          ValueError: it is too short, holds no numbers where there should be some, or does not say whose it is.
        """
        if len(fields) != len(self.header):
            raise ValueError(
                f"{len(fields)} fields, expected {len(self.header)}: {' '.join(self.header)}"
            )
        variant, rule = self.variant, self.variant.convention
        turn, scale = (
            self._numbers(fields, 3, "Rmat", "Rvec"),
            self._numbers(fields, 3, "Smat", "Svec"),
        )
        gaze, head = self._numbers(fields, 2, "2DGaze"), self._numbers(fields, 2, "2DHead")
        assert gaze is not None
        factor = 1.0 if scale is None else float(scale[2])
        if factor <= 0:
            raise ValueError(f"the scale of the normalisation is {factor}, expected a positive one")
        right = "WhichEye" in self._places and fields[self._places["WhichEye"]].lower() == "right"
        norm = None if turn is None else from_rotation_vector(turn)
        if right and variant.kind == "face" and norm is not None:
            norm = MIRROR @ norm @ MIRROR
        # The head is not an eye's direction: it was never scaled.
        plain = dataclasses.replace(rule, scaled=False)
        sample = {
            "gaze": rule.canonical(gaze[None], np.array([factor]))[0],
            "head": None if head is None else plain.canonical(head[None])[0],
            "person": self._person(fields),
            "side": FACE if variant.kind == "face" else RIGHT if right else LEFT,
            "norm": norm,
            "scale": factor,
            "part": self.part,
        }
        if not self.eyes:
            picture = fields[self._places[variant.columns[0]]]
            return [(picture, False, sample | {"source": picture})]
        left, other = (fields[self._places[name]] for name in ("Left", "Right"))
        mirrored = {
            "side": RIGHT,
            "source": other,
            "gaze": left_form(sample["gaze"]),
            "head": None if head is None else left_form(sample["head"]),
        }
        return [
            (left, False, sample | {"side": LEFT, "source": left}),
            (other, True, sample | mirrored),
        ]

    def _numbers(self, fields: list[str], count: int, *names: str) -> np.ndarray | None:
        """The numbers in the first of these columns that there is; None where there is none."""
        name = next((name for name in names if name in self._places), None)
        if name is None:
            return None
        text = fields[self._places[name]]
        values = np.array([float(part) for part in text.split(",")])
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"{name} is {text!r}, expected {count} numbers")
        return values

    def _person(self, fields: list[str]) -> str:
        column, pattern = self.variant.person
        match = re.search(pattern, fields[self._places[column]])
        if match:
            return "/".join(match.groups())
        if self.part:
            # A list of many persons: taken for one, they would stand on both sides of a split.
            raise ValueError(f"{column} is {fields[self._places[column]]!r}, which names no person")
        return self.stem


def _first_size(root: Path, paths: list[str], most: int = 20) -> tuple[int, int] | None:
    """(height, width) of the first picture that can be read; missing ones are `check`'s to tell."""
    for path in paths[:most]:
        try:
            height, width = images.decode(root / path).shape[:2]
        except images.ImageError:
            continue
        return height, width
    return None
