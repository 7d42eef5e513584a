"""Comparing a segmentation host with itself under the adapters of GBA, and with training-free segmentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from launch.comparisons.base import Line, Picture
from launch.config import ConfigError

METHODS: dict[str, dict[str, Any]] = {
    # MaskCLIP reads the last block in a way of its own; CAT-Seg's would make it a weaker opponent than it is.
    "zeroshot": {"host": "maskclip", "dense_mode": "residual", "adapters.use": "none"},
    "host": {"adapters.use": "none"},
    "sda": {"adapters.use": "sda"},
    "cca": {"adapters.use": "cca"},
    "both": {"adapters.use": "both"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {"adapters.preset": "released"},
    "norm_bn": {"adapters.norm": "pcnorm_bn"},
    "norm_highpass": {"adapters.norm": "highpass"},
    "norm_none": {"adapters.norm": "none"},
    "style_shade_bank": {"adapters.style": "shade_bank"},
    "style_mixstyle": {"adapters.style": "mixstyle"},
    "style_dsu": {"adapters.style": "dsu"},
    "style_aloft_e": {"adapters.style": "aloft_e"},
    "style_fda": {"adapters.style": "fda"},
    "style_apr": {"adapters.style": "apr"},
    "residual": {"adapters.sda_mode": "residual"},
    "stop": {"adapters.sda_flow": "stop"},
    "side": {"adapters.sda_flow": "side"},
    "full": {"adapters.cca_width": "full"},
    "whole_vocabulary": {"adapters.sample_vocabulary": 0.0},
    "amplitude_mixup": {"data.amplitude": "mixup"},
    "amplitude_apr": {"data.amplitude": "apr"},
    "amplitude_fda": {"data.amplitude": "fda"},
}
ABLATION: tuple[str, ...] = (
    "host",
    "sda",
    "cca",
    "both",
    *(f"both+{name}" for name in VARIANTS if name.startswith(("released", "norm_", "style_"))),
)
DEFAULT: tuple[str, ...] = tuple(METHODS)
FIELDS: frozenset[str] = frozenset({"host", "adapters", "dataset", "split", "seed", "miou"})
KEY: tuple[str, ...] = ("dataset", "split", "pictures", "seed")


def changes(
    base: ml_collections.ConfigDict,
    *,
    seed: int,
    seeds: Sequence[int],
    workdir: Path,
    lookup: str | Path | None,
) -> dict[str, Any]:
    """The seed, and the text embeddings, which all runs share.

    Raises:
      ConfigError: a lookup is named.
    """
    del seeds
    if lookup:
        raise ConfigError(f"--lookup={lookup}: only FDBPL reads a lookup; leave it out")
    return {"seed": seed, "text_cache": base.get("text_cache") or str(workdir / "text")}


def fitted(base: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> dict[str, Any]:
    """As they are: nothing depends on the common configuration."""
    del base
    return dict(changes)


def folds(config: ml_collections.ConfigDict) -> int:
    """One: nothing is cross-validated."""
    del config
    return 1


def prepare(configs: Sequence[ml_collections.ConfigDict]) -> None:
    """Write the embedded world's scenes where configurations read them and they are not there."""
    from core_jax import world
    from core_jax.world.scene_sets import SCENES

    data = [config.to_dict()["data"] for config in configs]
    for root in dict.fromkeys(one["root"] for one in data if one["dataset"] == SCENES):
        if not (Path(root) / SCENES).is_dir():
            print(f"scenes of the embedded world -> {root}", flush=True)
            world.write_scenes(root)


def score(lines: Sequence[Line]) -> str:
    """The mIoU of each judged split."""
    scores = [
        (line["split"], "no class to judge" if line["miou"] is None else f"{line['miou']:.2f} %")
        for line in lines
    ]
    return "mIoU " + ", ".join(f"{split} {value}" for split, value in scores)


def method(line: Line) -> str:
    """Training-free, the host alone, or the adapters that it has."""
    if line["host"] == METHODS["zeroshot"]["host"]:
        return "zeroshot"
    return "host" if line["adapters"] == "none" else str(line["adapters"])


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Scores, gains over the host, further measures, and scores under shifts of style."""
    from launch.comparisons import score_tables, scores

    return score_tables.tables(scores.summarise(rows))


def details(rows: Sequence[dict[str, Any]]) -> Any:
    """Host, adapters, models, seeds and digests behind each row."""
    from launch.comparisons import score_tables, scores

    return score_tables.details(scores.summarise(rows))


def pictures(rows: Sequence[dict[str, Any]], drawn: Sequence[Any]) -> list[Picture]:
    """Scores by split, time and training; pictures on which the adapters gain and lose most."""
    from launch import gather, segmentation_figures
    from launch.comparisons import examples, score_tables, scores, shared

    found = []
    groups = score_tables.grouped(scores.summarise(rows))
    for number, group in enumerate(groups, 1):
        title, splits = score_tables.heading("mIoU", group[0]), score_tables.splits(group)
        bars = {item.label: {s: item.of_seeds(s, "miou") for s in splits} for item in group}
        figure = segmentation_figures.split_bars(bars, score_tables.about(splits), title)
        caption = "Bars: means over seeds; whiskers: standard deviation; dots: the seeds."
        name = "miou.png" if number == 1 else f"miou_{number}.png"
        found.append(Picture(title, name, figure, caption))
    first = gather.first_of_each_label(drawn)
    found += shared.pictures(first)
    compared = {name: first[name] for name in ("host", "sda", "cca", "both") if name in first}
    images = {
        f"{item.dataset}:{split}": count
        for group in groups
        for item in group
        for split, count in item.images.items()
        if item.label in compared and count
    }
    grids = shared.if_still_there(
        lambda: examples.choose(compared, images, examples.label_maps), "label maps"
    )
    for entry, grid in (grids or {}).items():
        dataset, _, split = entry.partition(":")
        about = score_tables.about([split])[split]
        title = f"Successes and failures, {dataset}, {split}{f' ({about})' if about else ''}"
        caption = (
            "The pictures whose pixel accuracy (above each map) gains and loses most by the adapters, lowest seed. Names in "
            "italics are of classes that are not in the picture."
        )
        figure = segmentation_figures.label_map_grid(grid, title)
        found.append(Picture(title, f"examples_{gather.slug(entry)}.png", figure, caption))
    return found
