"""Reference numbers published by others, for the reports of protocols on the real data sets.

None of them was measured with this project. They stand in tables of their own beside ours, with their source, and never in
a report of rendered pictures. Accuracies in percent, 16 shots, three seeds; zero-shot CLIP is not trained.
"""

from collections.abc import Sequence
from typing import NamedTuple

from core_jax.train.report import Table
from fdbpl_jax.evaluate import harmonic_mean
from launch.protocols import sets

NOTE = "Published by others; not measured here."
B16 = "ViT-B/16"


class BaseNew(NamedTuple):
    """Averages over the eleven data sets: accuracy on base classes, on new classes, HM of these averages."""

    method: str
    setting: str
    base: float
    new: float
    hm: float
    source: str


AVERAGES = (
    BaseNew("CLIP", "inductive", 69.34, 74.22, 71.70, "arXiv 2203.05557"),
    BaseNew("CoOp", "inductive", 82.69, 63.22, 71.66, "arXiv 2203.05557"),
    BaseNew("CoCoOp", "inductive", 80.47, 71.69, 75.83, "arXiv 2203.05557"),
    BaseNew("KgCoOp", "inductive", 80.73, 73.60, 77.00, "arXiv 2303.13283"),
    BaseNew("ProGrad", "inductive", 82.48, 70.75, 76.16, "arXiv 2303.13283"),
    BaseNew("VPT (deep, 8 tokens)", "inductive", 80.24, 73.43, 76.68, "MaPLe's repository"),
    BaseNew("IVLP", "inductive", 84.21, 71.79, 77.51, "arXiv 2307.06948"),
    BaseNew("MaPLe", "inductive", 82.28, 75.14, 78.55, "arXiv 2210.03117"),
    BaseNew("PromptSRC", "inductive", 84.26, 76.10, 79.97, "arXiv 2307.06948"),
    BaseNew("PromptKD", "transductive", 86.96, 80.73, 83.73, "arXiv 2403.02781"),
)
"""Student ViT-B/16."""

ZERO_SHOT = {
    "imagenet": (72.43, 68.14),
    "caltech101": (96.84, 94.00),
    "oxford_pets": (91.17, 97.26),
    "stanford_cars": (63.37, 74.89),
    "oxford_flowers": (72.08, 77.80),
    "food101": (90.10, 91.22),
    "fgvc_aircraft": (27.19, 36.29),
    "sun397": (69.36, 75.35),
    "dtd": (53.24, 59.90),
    "eurosat": (56.48, 64.05),
    "ucf101": (70.53, 77.50),
}
"""Zero-shot CLIP ViT-B/16 on base and new classes (arXiv 2203.05557): what an installation should reproduce first."""


class Domains(NamedTuple):
    """One model trained on ImageNet, or none, on ImageNet and its four variants; `mean` is over the variants."""

    student: str
    method: str
    imagenet: float
    v2: float
    sketch: float
    a: float
    r: float
    mean: float
    source: str


_KDPL = "arXiv 2407.03056"
DOMAINS = (
    Domains(B16, "CLIP", 66.73, 60.83, 46.15, 47.77, 73.96, 57.18, "arXiv 2203.05557"),
    Domains(B16, "CoOp", 71.51, 64.20, 47.99, 49.71, 75.21, 59.28, "arXiv 2203.05557"),
    Domains(B16, "CoCoOp", 71.02, 64.07, 48.75, 50.63, 76.18, 59.91, "arXiv 2203.05557"),
    Domains(B16, "KgCoOp", 71.20, 64.10, 48.97, 50.69, 76.70, 60.11, "arXiv 2303.13283"),
    Domains(B16, "MaPLe", 70.72, 64.07, 49.15, 50.90, 76.98, 60.27, "arXiv 2210.03117"),
    Domains(B16, "PromptSRC", 71.27, 64.35, 49.55, 50.90, 77.80, 60.65, "arXiv 2307.06948"),
    Domains("ViT-B/32", "zero-shot", 62.00, 54.70, 40.80, 29.60, 66.00, 47.78, _KDPL),
    Domains("ViT-H/14 (DFN5B)", "zero-shot", 82.80, 76.60, 71.10, 71.10, 91.30, 77.53, _KDPL),
    Domains("RN50", "CoOp", 62.40, 55.17, 33.70, 23.13, 56.20, 42.05, _KDPL),
    Domains("RN50", "CoOp + KDPL", 62.73, 55.37, 35.20, 23.27, 57.77, 42.90, _KDPL),
    Domains("ViT-B/32", "CoOp", 66.33, 58.30, 41.40, 31.47, 65.87, 49.26, _KDPL),
    Domains("ViT-B/32", "CoOp + KDPL", 65.97, 58.10, 42.50, 31.63, 67.37, 49.90, _KDPL),
    Domains("ViT-B/32", "VPT", 64.97, 56.73, 41.27, 27.00, 66.50, 47.88, _KDPL),
    Domains("ViT-B/32", "VPT + KDPL", 65.10, 57.37, 41.67, 27.77, 67.47, 48.57, _KDPL),
    Domains("ViT-B/32", "MaPLe", 66.80, 58.53, 42.23, 30.13, 66.40, 49.32, _KDPL),
    Domains("ViT-B/32", "MaPLe + KDPL", 66.50, 58.47, 42.77, 29.87, 67.70, 49.70, _KDPL),
    Domains("ViT-B/32", "PromptSRC", 66.33, 58.70, 42.97, 32.07, 68.93, 50.67, _KDPL),
    Domains("ViT-B/32", "PromptSRC + KDPL", 66.27, 58.60, 43.07, 31.70, 68.83, 50.55, _KDPL),
)
"""KDPL's teacher is ViT-H/14 trained on DFN5B."""

UNSEEN = (
    ("RN50", "CoOp", 60.82),
    ("RN50", "CoOp + KDPL", 63.80),
    ("ViT-B/32", "CoOp", 64.52),
    ("ViT-B/32", "CoOp + KDPL", 66.35),
    ("ViT-B/32", "VPT", 68.02),
    ("ViT-B/32", "VPT + KDPL", 68.76),
    ("ViT-B/32", "MaPLe", 69.79),
    ("ViT-B/32", "MaPLe + KDPL", 71.41),
)
"""KDPL's accuracies on new classes, averages over the eleven data sets (arXiv 2407.03056)."""


class Crossing(NamedTuple):
    """One model trained on ImageNet, on ImageNet and on the ten others in the order of `sets.OTHERS`, with their mean."""

    method: str
    imagenet: float
    others: tuple[float, ...]
    mean: float
    source: str


CROSSING = (
    Crossing(
        "CoOp",
        71.51,
        (93.70, 89.14, 64.51, 68.71, 85.30, 18.47, 64.15, 41.92, 46.39, 66.55),
        63.88,
        "arXiv 2203.05557",
    ),
    Crossing(
        "CoCoOp",
        71.02,
        (94.43, 90.14, 65.32, 71.88, 86.06, 22.94, 67.36, 45.73, 45.37, 68.21),
        65.74,
        "arXiv 2203.05557",
    ),
    Crossing(
        "MaPLe",
        70.72,
        (93.53, 90.49, 65.57, 72.23, 86.20, 24.74, 67.01, 46.49, 48.06, 68.69),
        66.30,
        "arXiv 2210.03117",
    ),
    Crossing(
        "PromptSRC",
        71.27,
        (93.60, 90.25, 65.70, 70.25, 86.15, 23.90, 67.10, 46.87, 45.50, 68.75),
        65.81,
        "arXiv 2307.06948",
    ),
)
"""Student ViT-B/16."""


def base_to_new(datasets: Sequence[str]) -> list[Table]:
    """The published averages, each setting in a table of its own, and zero-shot CLIP on some data sets.

    Args:
      datasets: those of a report; none of the real ones: nothing is shown.
    """
    shown = [name for name in datasets if name in ZERO_SHOT]
    if not shown:
        return []
    columns = ("method", "setting", "base %", "new %", "HM of averaged accuracies %", "source")
    found = []
    for setting in dict.fromkeys(row.setting for row in AVERAGES):
        rows = tuple(tuple(row) for row in AVERAGES if row.setting == setting)
        title = f"Published: base to new classes, average of 11 data sets ({setting}, student {B16}, 16 shots)"
        found.append(Table(title=title, columns=columns, rows=rows, note=NOTE))
    rows = tuple(
        (name, "inductive", *ZERO_SHOT[name], harmonic_mean(*ZERO_SHOT[name]), "arXiv 2203.05557")
        for name in shown
    )
    title = f"Published: zero-shot CLIP, base and new classes (student {B16})"
    columns = ("data set", *columns[1:])
    note = f"{NOTE} HM is computed here from the two published numbers."
    return [*found, Table(title=title, columns=columns, rows=rows, note=note)]


def domains(datasets: Sequence[str]) -> list[Table]:
    """Models on ImageNet's variants, if a report has one of these."""
    if not set(sets.VARIANTS) & set(datasets):
        return []
    return [
        Table(
            title="Published: trained on ImageNet, judged on its variants (inductive, 16 shots)",
            columns=(
                *("student", "method", "imagenet %", *(f"{name} %" for name in sets.VARIANTS)),
                *("average of 4 %", "source"),
            ),
            rows=tuple(map(tuple, DOMAINS)),
            note=NOTE,
        )
    ]


def crossing(datasets: Sequence[str]) -> list[Table]:
    """Models trained on ImageNet on the ten other data sets, if a report has one of these."""
    if not set(sets.OTHERS) & set(datasets):
        return []
    return [
        Table(
            title=f"Published: trained on ImageNet, judged on ten others (inductive, student {B16}, 16 shots)",
            columns=(
                *("method", "imagenet %", *(f"{name} %" for name in sets.OTHERS)),
                *("average of 10 %", "source"),
            ),
            rows=tuple(
                (row.method, row.imagenet, *row.others, row.mean, row.source) for row in CROSSING
            ),
            note=NOTE,
        )
    ]


def unseen(datasets: Sequence[str]) -> list[Table]:
    """KDPL's new-class averages over the eleven data sets, if a report has one of these."""
    if not set(ZERO_SHOT) & set(datasets):
        return []
    return [
        Table(
            title="Published: new classes, average of 11 data sets (inductive, 16 shots)",
            columns=("student", "method", "new %", "source"),
            rows=tuple((*row, _KDPL) for row in UNSEEN),
            note=NOTE,
        )
    ]
