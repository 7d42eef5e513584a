"""The columns of GazeHub's label files, data set by data set, and what they mean. See `gazehub`."""

import dataclasses

from gaze_jax.readers.convention import Convention

_ANGLES = Convention(stored="yaw_pitch")
_SCALED = Convention(stored="yaw_pitch", mirrored="right", scaled=True)
_MPII = ("3DGaze", "3DHead", "2DGaze", "2DHead", "Rmat", "Smat", "GazeOrigin")
# p00/face/1.jpg: the folder of a person.
_NUMBERED = r"(?:^|/)(p\d+)/"
_THREE = ("Face", "Left", "Right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """The columns of one of the data sets, and what they mean.

    Attributes:
      kind: "eye" or "face".
      columns: the header, in order.
      convention: of 2DGaze and 2DHead.
      camera: the virtual camera, "" for plain crops.
      person: column and pattern of the person's name; where it does not match, the label file is named after the person, unless it
        is a list of several.
      eyes: whether the Left and Right columns are pictures of eyes, which can be read instead of the face.
    """

    kind: str
    columns: tuple[str, ...]
    convention: Convention
    camera: str
    person: tuple[str, str]
    eyes: bool = False

    def places(self, header: list[str]) -> dict[str, int]:
        """Column -> position: where a file's own header names it, else where it usually stands."""
        usual = {name: place for place, name in enumerate(self.columns)}
        return usual | {name: header.index(name) for name in self.columns if name in header}


VARIANTS = {
    "mpiigaze": Variant(
        kind="eye",
        columns=("Image", "Origin", "WhichEye", *_MPII),
        convention=dataclasses.replace(_SCALED, colour="grey"),
        camera="mpiigaze_eye",
        person=("Image", _NUMBERED),
    ),
    "mpiifacegaze": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "WhichEye", *_MPII),
        convention=_SCALED,
        camera="eth_face",
        person=("Face", _NUMBERED),
    ),
    "eyediap": Variant(
        kind="face",
        columns=(*_THREE, "Metapath", *_MPII[:4], "Rvec", "Svec", "GazeOrigin"),
        convention=_ANGLES,
        camera="eth_face",
        person=("Face", _NUMBERED),
        eyes=True,
    ),
    "gaze360": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "3DGaze", "2DGaze"),
        convention=dataclasses.replace(_ANGLES, frame="camera"),
        camera="",
        # rec_000/head/000012/000345.jpg: a number is one person's within a recording only.
        person=("Origin", r"(rec_\d+)/head/(\d+)/"),
    ),
    "eth": Variant(
        kind="face",
        columns=("Face", "2DGaze", "2DHead", "Origin"),
        convention=Convention(stored="pitch_yaw"),
        camera="eth_face",
        person=("Face", r"(subject\d+)"),
    ),
    "rtgene": Variant(
        kind="face",
        columns=(*_THREE, "Origin", "3DGaze", "3DHead", "2DGaze", "2DHead"),
        convention=_ANGLES,
        camera="eth_face",
        # Some lists hold several persons: s003, or s003_glasses.
        person=("Face", r"(?:^|/)(s\d+)"),
        eyes=True,
    ),
}
