"""What is in a lookup: bytes, informativeness, box areas, residual mass, and how often the teacher is right."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float

from core_jax.data import files
from fdbpl_jax import layout, lookup

Path = pathlib.Path
BINS = 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Numbers about a lookup.

    Attributes:
      images, regions, classes, top_k: n, R, C and k (None when dense).
      label_bytes, feature_bytes: of the shard files.
      informativeness: share of regions by w = 1 - entropy / log C, in equal bins over [0, 1].
      area: share of regions by box area over image area, likewise.
      residual: quantiles (`QUANTILES`) of the mass outside the stored classes; None when dense.
      accuracy: percent of regions whose teacher arg-max is the picture's label, among pictures that have one.
      confident_accuracy: the same over regions with w > 0.5, and their share; None if there are none.
      seconds: of computing that it cost.
    """

    images: int
    regions: int
    classes: int
    top_k: int | None
    label_bytes: int
    feature_bytes: int
    informativeness: Float[np.ndarray, " BINS"]
    area: Float[np.ndarray, " BINS"]
    residual: tuple[float, ...] | None
    accuracy: float
    confident_accuracy: tuple[float, float] | None
    seconds: float


def summarise(folder: str | Path) -> Summary:
    """Reads every label of a lookup, some hundred pictures at a time.

    Raises:
      lookup.UnusableLookup: it is not complete.
      core_jax.data.records.RecordError: a record is damaged.
    """
    opened = lookup.open(folder)
    informativeness, area = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    # Of every float16 how often it is a region's residual mass: exact quantiles of any number of regions.
    rests = np.zeros(2**16, np.int64)
    known, right, confident, both = 0, 0, 0, 0
    for rows in layout.shard_rows(opened.num_images, _ROWS_AT_ONCE):
        images = opened.images[rows.start : rows.stop]
        records = np.stack([opened.record(row) for row in rows])
        weight = 1 - records["entropy"].astype(np.float64)
        sizes = np.array([[image.height, image.width] for image in images], np.float64)
        box = records["box"].astype(np.float64)
        share = box[..., 2] * box[..., 3] / (sizes[:, 0] * sizes[:, 1])[:, None]
        informativeness += _counts(weight)
        area += _counts(share)
        if opened.dense:
            best = np.argmax(records["logp"], axis=-1)
        else:
            first = np.argmax(records["logp"], axis=-1)[..., None]
            best = np.take_along_axis(records["index"], first, axis=-1)[..., 0]
            bits = np.ascontiguousarray(records["rest"]).view(np.uint16)
            rests += np.bincount(bits.ravel(), minlength=len(rests))
        label = np.array([image.label for image in images])[:, None]
        hit, sure = best.astype(np.int64) == label, weight > 0.5
        of_class = np.broadcast_to(label >= 0, hit.shape)
        known, right = known + of_class.sum(), right + (hit & of_class).sum()
        confident += (sure & of_class).sum()
        both += (hit & sure & of_class).sum()
    regions = opened.num_images * opened.regions
    students = opened.manifest["students"].values()
    return Summary(
        images=opened.num_images,
        regions=opened.regions,
        classes=len(opened.classes),
        top_k=opened.top_k,
        label_bytes=sum(shard["bytes"] for shard in opened.manifest["shards"]),
        feature_bytes=sum(shard["bytes"] for s in students for shard in s["shards"]),
        informativeness=informativeness / regions,
        area=area / regions,
        residual=None if opened.dense else _quantiles(rests),
        accuracy=100 * float(right / known),
        confident_accuracy=(100 * float(both / confident), 100 * float(confident / known))
        if confident
        else None,
        seconds=lookup.seconds_build(folder),
    )


def _counts(values: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(values, 0, 1), bins=BINS, range=(0, 1))[0]


def _quantiles(counts: np.ndarray) -> tuple[float, ...]:
    """`QUANTILES` of exp(x), between order statistics as `numpy.quantile` has them, given how often each float16 x is."""
    found = np.flatnonzero(counts)
    mass = np.exp(found.astype(np.uint16).view(np.float16).astype(np.float64))
    order = np.argsort(mass)
    mass, last = mass[order], np.cumsum(counts[found][order]) - 1
    place = np.array(QUANTILES) * last[-1]
    low, high = (mass[np.searchsorted(last, side(place))] for side in (np.floor, np.ceil))
    return tuple(float(value) for value in low + (high - low) * (place - np.floor(place)))


def text(summary: Summary) -> str:
    """The numbers for a terminal, histograms as bars."""
    k = "all" if summary.top_k is None else str(summary.top_k)
    lines = [
        f"{summary.images:,} pictures x {summary.regions} regions, {k} of {summary.classes} classes stored",
        f"{summary.label_bytes / 1e6:,.1f} MB of labels, {summary.feature_bytes / 1e6:,.1f} MB of features, "
        f"{summary.seconds:,.0f} s to build",
        f"teacher top-1 against the labels: {summary.accuracy:.2f} % of regions",
    ]
    if summary.confident_accuracy:
        accuracy, share = summary.confident_accuracy
        lines.append(f"  among the {share:.1f} % with w > 0.5: {accuracy:.2f} %")
    if summary.residual:
        pairs = (f"{q:.0%} {value:.4f}" for q, value in zip(QUANTILES, summary.residual))
        lines.append("mass outside the stored classes, quantiles: " + ", ".join(pairs))
    for name, shares in (
        ("informativeness w", summary.informativeness),
        ("box area", summary.area),
    ):
        lines.append(name)
        for i, share in enumerate(shares):
            bar = "#" * round(50 * float(share))
            lines.append(f"  {i / BINS:.1f}-{(i + 1) / BINS:.1f} {100 * share:5.1f} % {bar}")
    return "\n".join(lines)


def plot(summary: Summary, path: str | Path) -> None:
    """The two histograms as a PNG."""
    from matplotlib import figure

    page = figure.Figure(figsize=(9, 3.2), layout="constrained")
    edges = np.linspace(0, 1, BINS + 1)
    for axes, shares, name in zip(
        page.subplots(1, 2),
        (summary.informativeness, summary.area),
        ("informativeness w = 1 - H / log C", "box area / image area"),
    ):
        axes.bar(edges[:-1], 100 * shares, width=1 / BINS, align="edge", edgecolor="white")
        axes.set(xlabel=name, ylabel="regions, %", xlim=(0, 1))
    page.suptitle(
        f"{summary.images:,} pictures x {summary.regions} regions, teacher top-1 {summary.accuracy:.1f} %"
    )
    with files.atomic_path(path) as temporary:
        page.savefig(temporary, format="png", dpi=120)
