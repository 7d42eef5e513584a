"""The field's protocol: a data set's pictures in, mIoU, seen / unseen, absent-class rate, panoptic quality, mask AP out.

Pictures stream in order and are decoded ahead in threads; runs of pictures of equal size are judged in batches. With
several processes each judges its share (every P-th picture) by itself, and counts are summed at the end, so the result
is that of one process. A score is a share in [0, 1], nan where there was nothing to score.

Shapes: B pictures of equal size (H, W), C classes (padded), Q queries.
"""

import collections
import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from gba_jax import metrics, panoptic, processes, shifts, windows
from gba_jax.datasets.common import Dataset, Sample
from gba_jax.hosts import mask_outputs
from gba_jax.mask_ap import MaskAP
from gba_jax.vocabulary import TextRows

_THREADS = 4
# Pictures decoded ahead of a batch.
_AHEAD = 8
# Label maps are counted as rows of a multiple of this many pixels, so that pictures of many sizes share programs.
_PIXELS = 2**14
# A bar appears when judging takes longer than this many seconds.
_PATIENCE = 2.0


class Found(Protocol):
    """What a host with queries says of its inputs: probabilities (B Q C+1), void last, and mask logits (B Q h w)."""

    @property
    def probabilities(self) -> Array:
        """Of every query."""
        ...

    @property
    def mask_logits(self) -> Array:
        """Of every query."""
        ...


Score = Callable[[UInt8[np.ndarray, "b S T 3"]], Float[Array, "b C h w"]]
Queries = Callable[[UInt8[np.ndarray, "b S T 3"]], Found]


def judge(
    score: Score | None,
    dataset: Dataset,
    text: TextRows,
    *,
    seen: Bool[np.ndarray, "C"],
    plan: windows.Plan,
    batch_size: int = 8,
    shift: shifts.Shift | None = None,
    references: UInt8[np.ndarray, "N h w 3"] | None = None,
    queries: Queries | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Scores of a host on a data set.

    Args:
      score: inputs of the host to scores of classes; None where `queries` says everything.
      dataset: what is judged on.
      text: the data set's classes, as the host sees them.
      seen: classes that share a word with the training vocabulary; padding may be left out.
      plan: how pictures become inputs.
      batch_size: pictures of equal size that are judged together.
      shift: changes the style of every picture first, each in its own way, the same in every call.
      references: pictures that the shifts "fda" and "apr" borrow from (`shifts.reference_set`).
      queries: of a host that has them: scores come from the queries, in one pass with everything that segments are needed
        for. Needs a plan of one input a picture.
      progress: a bar on process 0 (on a terminal, and when it takes long).

    Returns:
      "miou", "fwiou", "macc", "pacc", "seen", "unseen", "harmonic", "absent", "images" (a count). With queries, and where the
      data set has segments: "pq", "sq", "rq" and the same with "_things" and "_stuff"; where it has things and pycocotools
      is installed also "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large".

    Raises:
      ValueError: no pictures, neither score nor queries, or a vocabulary that is not the data set's (all in one message);
        queries with a plan of several inputs.
      DatasetError: labels that cannot be read.
    """
    classes, real = len(dataset.classes), int(np.sum(text.class_mask))
    problems = []
    if not len(dataset):
        problems.append(f"data set {dataset.name!r} ({dataset.split}) has no pictures")
    if score is None and queries is None:
        problems.append("neither score nor queries is given")
    if real != classes or not classes <= len(seen) <= len(text.class_mask):
        problems.append(
            f"data set {dataset.name!r} has {classes} classes, the text rows are of {real}, seen has {len(seen)}"
        )
    if problems:
        raise ValueError("cannot judge: " + "; ".join(problems))
    is_thing = np.zeros(len(text.class_mask), bool)
    is_thing[:classes] = dataset.vocabulary.is_thing
    tally = _Tally(classes, is_thing)

    import tqdm

    index, count = jax.process_index(), jax.process_count()
    mine = range(index, len(dataset), count)
    title = f"judging {dataset.name} {dataset.split}"
    # None: shown on a terminal only.
    quiet = None if progress and index == 0 else True
    shown: dict[str, Any] = {"unit": "picture", "leave": False, "delay": _PATIENCE}
    with tqdm.tqdm(total=len(mine), desc=title, disable=quiet, **shown) as bar:
        for places, samples in _batches(dataset, mine, batch_size):
            # One picture, or a full batch: a host is compiled for no other numbers.
            filling = 0 if len(samples) == 1 else batch_size - len(samples)
            images = np.stack([s.image for s in (*samples, *samples[-1:] * filling)])
            if shift is not None:
                images = _shifted(images, places + places[-1:] * filling, shift, references)
            if queries is None:
                assert score is not None
                maps = windows.scores(score, images, plan)
            else:
                maps = _with_queries(queries, images, samples, plan, tally)
            tally.labels(windows.labels(maps, images.shape[1:3])[0], samples)
            bar.update(len(samples))
    return tally.scores(np.asarray(seen)[:classes])


def judge_suite(judge_one: Callable[[shifts.Shift], dict[str, float]]) -> dict[str, float]:
    """The style-shift suite: mIoU of every kind, averaged over the severities, and "mean" over the kinds.

    Args:
      judge_one: scores under one shift, for example `lambda shift: judge(..., shift=shift, references=references)`.
    """
    found: dict[str, list[float]] = collections.defaultdict(list)
    for shift in shifts.SUITE:
        found[shift.kind].append(judge_one(shift)["miou"])
    kinds = {kind: float(np.mean(values)) for kind, values in found.items()}
    return kinds | {"mean": float(np.mean(list(kinds.values())))}


@dataclasses.dataclass
class _Tally:
    """Everything that is counted, per process; `scores` sums over the processes."""

    classes: int
    is_thing: Bool[np.ndarray, "C"]

    def __post_init__(self):
        self.images = 0
        self.confusion = np.zeros((self.classes + 1, self.classes + 1), np.int64)
        self.absent = np.zeros(2, np.int64)
        nothing = np.zeros(self.classes, np.int64)
        self.panoptic = panoptic.PanopticCounts(
            iou=nothing.astype(np.float64), tp=nothing, fp=nothing, fn=nothing
        )
        self.segmented = 0
        self.ap = self._new_ap()

    def _new_ap(self) -> MaskAP | None:
        things = np.flatnonzero(self.is_thing).tolist()
        possible = importlib.util.find_spec("pycocotools") is not None
        return MaskAP(things) if possible and things else None

    def labels(self, prediction: np.ndarray, samples: Sequence[Sample]) -> None:
        """Counts the label maps of a batch; maps behind the last sample are filling."""
        prediction = _rows(prediction[: len(samples)])
        truth = _rows(np.stack([sample.labels for sample in samples]))
        counts = metrics.confusion(prediction, truth, self.classes)
        self.confusion = metrics.accumulate(self.confusion, counts)
        self.absent += np.asarray(metrics.absent_class_counts(prediction, truth, self.classes))
        self.images += len(samples)

    def queries(self, probabilities: Array, mask_logits: Array, sample: Sample) -> None:
        """Counts the segments of one picture."""
        if sample.segments is None:
            return
        size, truth = sample.labels.shape, sample.segments
        things = jnp.asarray(self.is_thing)
        found = mask_outputs.panoptic(probabilities, mask_logits, things, size)
        self.panoptic += panoptic.panoptic_counts(
            np.asarray(found.segments),
            np.asarray(found.classes),
            truth.map,
            truth.classes,
            classes=self.classes,
            crowd=truth.crowd,
        )
        self.segmented += 1
        if self.ap is not None:
            objects = mask_outputs.instances(probabilities, mask_logits, things, size)
            masks, classes, scores = (np.asarray(x) for x in objects)
            self.ap.add(masks, classes, scores, truth.map, truth.classes, crowd=truth.crowd)

    def scores(self, seen: Bool[np.ndarray, "C"]) -> dict[str, float]:
        """The scores of all processes' pictures."""
        numbers = np.asarray([self.images, self.segmented], np.int64)
        own = (numbers, self.confusion, self.absent, *dataclasses.astuple(self.panoptic))
        numbers, confusion, absent, *segments = (processes.summed(x) for x in own)
        found = metrics.segmentation_scores(confusion)
        iou = found.pop("iou")
        found |= metrics.seen_unseen_scores(iou, seen)
        found["absent"] = float(absent[0] / absent[1]) if absent[1] else math.nan
        found["images"] = int(numbers[0])
        if numbers[1]:
            iou, tp, fp, fn = segments
            counts = panoptic.PanopticCounts(iou=iou, tp=tp, fp=fp, fn=fn)
            quality = panoptic.panoptic_scores(counts, self.is_thing[: self.classes])
            found |= {name: x for name, x in quality.items() if not name.endswith("_per_class")}
            found |= self._ap_scores()
        return found

    def _ap_scores(self) -> dict[str, float]:
        """Mask AP of all processes' pictures, where it can be had."""
        every = self._new_ap()
        if self.ap is None or every is None:
            return {}
        for part in processes.collected(self.ap.export()):
            every.merge(part)
        return every.scores()


def _with_queries(
    queries: Queries,
    images: np.ndarray,
    samples: Sequence[Sample],
    plan: windows.Plan,
    tally: _Tally,
) -> Float[Array, "B C h w"]:
    """Counts the segments of a batch; returns its scores of classes over the whole pictures."""
    inputs = plan.inputs(images)
    if inputs.shape[1] != 1:
        raise ValueError(
            f"queries of {inputs.shape[1]} windows cannot be joined: use windows.whole or windows.padded"
        )
    found = queries(inputs[:, 0])
    masks = plan.merge(found.mask_logits[:, None], images.shape[1:3])
    for i, sample in enumerate(samples):
        tally.queries(found.probabilities[i], masks[i], sample)
    return mask_outputs.semantic(found.probabilities, masks)


def _shifted(
    images: np.ndarray,
    places: Sequence[int],
    shift: shifts.Shift,
    references: np.ndarray | None,
) -> np.ndarray:
    """Pictures in another style; the random choices belong to a picture's position in the data set."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(np.asarray(places))
    return np.asarray(shifts.apply(images, shift, references, key=keys))


def _batches(
    dataset: Dataset, places: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], list[Sample]]]:
    """Pictures of equal size that follow each other, as (positions, samples), at most `batch_size` of them."""
    run: list[tuple[int, Sample]] = []
    for place, sample in zip(places, _decoded(dataset, places, batch_size), strict=True):
        if run and (len(run) == batch_size or run[0][1].labels.shape != sample.labels.shape):
            yield from _cut(run, batch_size)
            run = []
        run.append((place, sample))
    yield from _cut(run, batch_size)


def _cut(
    run: list[tuple[int, Sample]], batch_size: int
) -> Iterator[tuple[list[int], list[Sample]]]:
    """A run in one piece where filling up the batch costs less than its pictures one by one."""
    size = batch_size if 2 * len(run) >= batch_size else 1
    for start in range(0, len(run), size):
        part = run[start : start + size]
        yield [place for place, _ in part], [sample for _, sample in part]


def _decoded(dataset: Dataset, places: Sequence[int], batch_size: int) -> Iterator[Sample]:
    """The samples in order, decoded ahead in threads."""
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        waiting: collections.deque[futures.Future[Sample]] = collections.deque()
        for place in places:
            waiting.append(pool.submit(dataset.__getitem__, place))
            if len(waiting) > batch_size + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _rows(x: np.ndarray) -> np.ndarray:
    """Label maps (B, H, W) as (B, 1, P), filled up with -1, which is no label and no class."""
    flat = x.reshape(len(x), 1, -1)
    missing = -flat.shape[-1] % _PIXELS
    return np.pad(flat, [(0, 0), (0, 0), (0, missing)], constant_values=metrics.IGNORE)
