"""What every reader makes: a list of pictures with labels, decoded one at a time.

Labels are int32 and -1 where a pixel is ignored, whatever the files hold. Shapes: H, W picture; S segments of a picture.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

from core_jax.data import images
from gba_jax.vocabulary import Vocabulary, build

IGNORE = -1
_LISTED = 20


class DatasetError(ValueError):
    """A data set or one of its files that cannot be used; the message lists every problem found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """The segments of a picture: a map of positions in a table, and the table.

    Attributes:
      map: 0 .. S - 1, or -1 where a pixel belongs to no segment.
      classes: label of each segment.
      crowd: whether a segment is a crowd: many objects in one, not to be learned; they come last.
    """

    map: Int32[np.ndarray, "H W"]
    classes: Int32[np.ndarray, "S"]
    crowd: Bool[np.ndarray, "S"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A decoded picture; `segments` is None where the data set has labels only."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: Int32[np.ndarray, "H W"]
    image_id: str
    segments: Segments | None


@dataclasses.dataclass(frozen=True)
class SegmentList:
    """What a data set says of one picture's segments: the file of ids, and id, label and crowd flag of each."""

    path: Path
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """The files of one picture; without a label file the labels are those of the segments."""

    image_id: str
    image: Path
    labels: Path | None
    segments: SegmentList | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set: `len(dataset)` pictures, `dataset[i]` decodes one. Workers may share it.

    Attributes:
      name: of the reader.
      split: of the pictures.
      classes: "name, synonym, ..." in label order.
      names_from: where the names come from, for people.
      is_thing: whether a class is countable; None where the data set does not say.
      items: the files.
      read_labels: label file to labels.
      read_ids: file of segment ids to the ids.
      shortest: pictures whose shorter side is longer are resized to it, labels by nearest neighbour.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    names_from: str
    is_thing: tuple[bool, ...] | None = None
    items: tuple[Item, ...]
    read_labels: Callable[[Path], np.ndarray] | None = None
    read_ids: Callable[[Path], np.ndarray] | None = None
    shortest: int | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes as words."""
        return build(self.classes, self.is_thing)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Decodes one picture.

        Raises:
          DatasetError: its labels cannot be read, have values that are no label, or another size than the picture.
          ImageError: the picture cannot be read.
        """
        item = self.items[index]
        image = images.decode(item.image)
        segments, labels = None, None
        if item.segments is not None and self.read_ids is not None:
            ids = self.read_ids(item.segments.path)
            segments = _segments(item.segments, ids)
            _same_size(item.image, image, item.segments.path, segments.map)
            labels = segment_labels(segments)
        if item.labels is not None and self.read_labels is not None:
            labels = self.read_labels(item.labels)
            _same_size(item.image, image, item.labels, labels)
        assert labels is not None, "a reader gives every item labels or segments"
        if self.shortest is not None and min(labels.shape) > self.shortest:
            image, labels = _shrink(image, labels, self.shortest)
        return Sample(image=image, labels=labels, image_id=item.image_id, segments=segments)


def segment_labels(segments: Segments) -> Int32[np.ndarray, "H W"]:
    """The label of every pixel's segment; crowds and pixels without a segment are ignored."""
    table = np.where(segments.crowd, np.int32(IGNORE), segments.classes)
    return np.append(table, np.int32(IGNORE))[segments.map]


def some(names: Iterable[object]) -> str:
    """The first twenty of many names, and how many more there are."""
    listed = [str(name) for name in names]
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _segments(entry: SegmentList, ids: np.ndarray) -> Segments:
    """The map and table of the segments that have pixels. Id 0, unless listed, is no segment."""
    # Ids by size, for the search; then the table in its own order, crowds last.
    by_size = np.argsort(np.asarray(entry.ids, np.int64), kind="stable")
    known = np.asarray(entry.ids, np.int64)[by_size]
    # One more place than ids: that of everything unlisted.
    place = np.searchsorted(known, ids)
    place = np.where(np.append(known, -1)[place] == ids, place, len(known))
    unlisted = np.unique(ids[(place == len(known)) & (ids != 0)])
    if unlisted.size:
        raise DatasetError(
            f"{entry.path} holds the segment ids {some(unlisted)}, which its table does not list: "
            "picture and table do not belong together"
        )
    pixels = np.bincount(place.ravel(), minlength=len(known) + 1)[:-1]
    there = set(by_size[pixels > 0].tolist())
    kept = sorted(there, key=lambda k: (entry.crowd[k], k))
    row = np.full(len(known) + 1, IGNORE, np.int32)
    row[np.argsort(by_size)[kept]] = np.arange(len(kept))
    return Segments(
        map=row[place],
        classes=np.asarray([entry.labels[k] for k in kept], np.int32),
        crowd=np.asarray([entry.crowd[k] for k in kept], bool),
    )


def _same_size(picture: Path, image: np.ndarray, path: Path, labels: np.ndarray) -> None:
    if image.shape[:2] != labels.shape:
        raise DatasetError(
            f"{picture} is {image.shape[0]} x {image.shape[1]} pixels, its labels {path} are "
            f"{labels.shape[0]} x {labels.shape[1]}: they do not belong together"
        )


def _shrink(
    image: np.ndarray, labels: np.ndarray, shortest: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]:
    scale = shortest / min(labels.shape)
    width, height = (round(side * scale) for side in (labels.shape[1], labels.shape[0]))
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    labels_small = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(labels_small, np.int32)
