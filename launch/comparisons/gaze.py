"""Comparing gaze networks: DRNet with what it is made of, the parts of CLIP-DFENet, and the baselines of both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from launch.comparisons.base import Line, Picture
from launch.config import ConfigError

_NO_PARTS: dict[str, Any] = {
    "model": "dfenet",
    "dfenet.ldm": False,
    "dfenet.vfm": "none",
    "dfenet.dgr": False,
}
METHODS: dict[str, dict[str, Any]] = {
    # Plain SGD of this rate, on its own schedule, is the mean of the labels.
    "mean": {"model": "mean", "recipe.lr": 1.0},
    "absolute": {"model": "drnet", "drnet.use": "absolute"},
    "diffnn": {"model": "drnet", "drnet.use": "difference"},
    "drnet": {"model": "drnet", "drnet.use": "drnet"},
    # Their learning rates belong to plain SGD, and their schedules to these numbers of epochs.
    "lenet_eye": {
        "model": "lenet_eye",
        "recipe.lr": 0.01,
        "recipe.epochs": 10,
        "recipe.batch_size": 32,
    },
    "resnet8_eye": {
        "model": "resnet8_eye",
        "recipe.lr": 0.1,
        "recipe.epochs": 40,
        "recipe.batch_size": 32,
    },
    "gazenet_eye": {"model": "gazenet_eye", "recipe.lr": 1e-4, "recipe.epochs": 15},
    "resnet18_face": {"model": "resnet18_face", "recipe.lr": 1e-4},
    "resnet50_face": {"model": "resnet50_face", "recipe.lr": 1e-4},
    "l2cs": {"model": "l2cs", "recipe.lr": 1e-5},
    "gazetr_hybrid": {"model": "gazetr_hybrid", "recipe.lr": 5e-4},
    "cfe": _NO_PARTS,
    "ldm": {**_NO_PARTS, "dfenet.ldm": True},
    "vfm": {**_NO_PARTS, "dfenet.vfm": "affinity"},
    "dgr": {**_NO_PARTS, "dfenet.dgr": True},
    "all": {**_NO_PARTS, "dfenet.ldm": True, "dfenet.vfm": "affinity", "dfenet.dgr": True},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "faithful": {"preset": "faithful"},
    "recommended": {"preset": "recommended"},
    "pairwise": {"pairwise": 0.25},
    "w25": {"drnet.weight": 0.25},
    "w50": {"drnet.weight": 0.5},
    "w75": {"drnet.weight": 0.75},
    "w100": {"drnet.weight": 1.0},
    "clean": {"drnet.corrupt": 0.0},
    "no_self": {"data.self_pair": 0.0},
    "clip": {"dfenet.anchors": "clip"},
    "ordinal": {"dfenet.anchors": "ordinal"},
    "random": {"dfenet.anchors": "random"},
    "film": {"dfenet.vfm": "film"},
    "cross_attention": {"dfenet.vfm": "cross_attention"},
    "zero": {"dfenet.mask": "zero"},
    "exclude": {"dfenet.mask": "exclude"},
}
ABLATION: tuple[str, ...] = ("cfe", "ldm", "vfm", "dgr", "all")
DEFAULT: tuple[str, ...] = ("absolute", "diffnn", "drnet")
_JUDGED = ("person", "n", "angular_error_deg", "pitch_error_deg", "yaw_error_deg")
FIELDS: frozenset[str] = frozenset({"method", "dataset", "seed", *_JUDGED})
KEY: tuple[str, ...] = (
    *("dataset", "trained_on", "protocol", "fold", "selection", "seed", "person"),
    *("mode", "k", "draw", "corrupted", "corruption", "severity"),
)
# Methods drawn in one map over directions.
_MOST_MAPS = 6


def changes(
    base: ml_collections.ConfigDict,
    *,
    seed: int,
    seeds: Sequence[int],
    workdir: Path,
    lookup: str | Path | None,
) -> dict[str, Any]:
    """The seed of initialisation and order; all runs see the same pictures and are judged with the same references.

    Raises:
      ConfigError: a lookup is named.
    """
    del base, seeds, workdir
    if lookup:
        raise ConfigError(f"--lookup={lookup}: only FDBPL reads a lookup; leave it out")
    return {"seed": seed}


def fitted(base: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> dict[str, Any]:
    """As they are: nothing depends on the common configuration."""
    del base
    return dict(changes)


def folds(config: ml_collections.ConfigDict) -> int:
    """Those of the protocol on its data set, which is opened for this."""
    from gaze_jax import config as gaze_config
    from gaze_jax import inputs

    return inputs.folds(gaze_config.read(config))


def prepare(configs: Sequence[ml_collections.ConfigDict]) -> None:
    """Nothing: a rendered set is made, once, when the first run opens it."""
    del configs


def score(lines: Sequence[Line]) -> str:
    """Angular error over persons, of one image and with the most references, on each judged data set."""
    from launch.comparisons import gaze_scores

    found = []
    last = [{**line, "run": ""} for line in lines if line.get("selection", "last") == "last"]
    for item in gaze_scores.summarise(last):
        errors = [(one.name, item.of_seeds(one)) for one in item.main()]
        texts = [f"{next(iter(values.values())):.2f}° ({name})" for name, values in errors]
        found.append(f"{item.dataset} {' '.join(texts)}")
    return "angular error " + ", ".join(found)


def method(line: Line) -> str:
    """As the line names it."""
    return str(line["method"])


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Errors by method, mode and k; differences; persons; domains; corruption; published numbers."""
    from launch.comparisons import gaze_scores, gaze_tables

    return gaze_tables.tables(gaze_scores.grouped(gaze_scores.summarise(rows), tuple(METHODS)))


def details(rows: Sequence[dict[str, Any]]) -> Any:
    """Presets, protocols, seeds and digests behind each row."""
    from launch.comparisons import gaze_scores, gaze_tables

    return gaze_tables.details(gaze_scores.summarise(rows))


def pictures(rows: Sequence[dict[str, Any]], drawn: Sequence[Any]) -> list[Picture]:
    """Errors by method, k, person and domain; corruption; maps over directions; best and worst pictures; time, training."""
    from launch import gather
    from launch.comparisons import gaze_pictures, gaze_scores, shared

    summaries = gaze_scores.summarise(rows)
    found = []
    groups = gaze_scores.grouped(summaries, tuple(METHODS))
    for number, items in enumerate(groups, 1):
        found += gaze_pictures.of_group(items, "" if number == 1 else f"_{number}")
    found += gaze_pictures.of_domains(groups)
    first = gather.first_of_each_label(drawn)
    known = dict.fromkeys(item.label for items in groups for item in items)
    of_methods = {
        # All folds of the lowest seed.
        name: [run for run in drawn if (run.label, run.seed) == (name, first[name].seed)]
        for name in known
        if name in first
    }
    found += gaze_pictures.of_samples(dict(list(of_methods.items())[:_MOST_MAPS]))
    return found + shared.pictures(first)
