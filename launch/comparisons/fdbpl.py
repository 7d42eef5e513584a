"""Comparing FDBPL with the prompt learners it is measured against: base and new classes, one lookup for all runs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from configs import fdbpl_learners
from launch.comparisons.base import Line, Picture

# What a teacher's labels are taken from, or how, behind a learner's name.
_TAUGHT: dict[str, dict[str, Any]] = {
    "kdpl_online": {"method": "kdpl", "teacher_source": "online"},
    "kdpl": {"method": "kdpl", "teacher_source": "lookup"},
    "fdbpl": {"method": "fdbpl", "teacher_source": "lookup"},
}
# Learners whose prompts are not those of the common configuration: what they are made of comes with them.
_DEEP = ("vpt", "ivlp", "maple", "promptsrc")
_SHALLOW = ("cocoop", "kgcoop", "prograd")


def _learner(name: str) -> dict[str, dict[str, Any]]:
    """A learner's rows: with hard labels, and under each supervision."""
    own = fdbpl_learners.structure(name) if name in _DEEP else {"learner": name, "method": "ce"}
    return {name: own, **{f"{name}_{way}": {**own, **how} for way, how in _TAUGHT.items()}}


METHODS: dict[str, dict[str, Any]] = {
    "zeroshot": {"method": "zeroshot"},
    "coop": {"method": "ce", "learner": "coop"},
    **{way: {**how, "learner": "coop"} for way, how in _TAUGHT.items()},
    **{row: how for name in (*_SHALLOW, *_DEEP) for row, how in _learner(name).items()},
    "promptkd": {**fdbpl_learners.structure("promptkd"), "teacher_source": "lookup"},
    "promptkd_online": {**fdbpl_learners.structure("promptkd"), "teacher_source": "online"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_negative_prompt": {"loss.dual": False},
    "no_weight": {"loss.weight": "none"},
    "no_negative_loss": {"loss.lam_neg": 0.0},
    "no_dissimilarity": {"loss.lam_dis": 0.0},
    "no_cascade": {"loss.pcd": "off"},
    "unit_cascade": {"loss.pcd_unit": True},
    "maxprob_weight": {"loss.weight": "maxprob"},
    "forward_kl": {"loss.kl": (1.0, 0.0)},
    "one_region": {"regions_per_visit": 1},
}
ABLATION: tuple[str, ...] = (
    "fdbpl",
    "fdbpl+no_negative_prompt",
    "fdbpl+no_weight",
    "fdbpl+no_negative_loss",
    "fdbpl+no_dissimilarity",
    "fdbpl+no_cascade",
    "kdpl",
)
DEFAULT: tuple[str, ...] = ("zeroshot", "coop", "kdpl_online", "fdbpl")
FIELDS: frozenset[str] = frozenset({"method", "dataset", "split", "seed", "accuracy"})
KEY: tuple[str, ...] = ("dataset", "split", "pictures", "seed")


def changes(
    base: ml_collections.ConfigDict,
    *,
    seed: int,
    seeds: Sequence[int],
    workdir: Path,
    lookup: str | Path | None,
) -> dict[str, Any]:
    """Seeds of run and few-shot list; the lookup and the features, which all runs share."""
    return {
        "seed": seed,
        "data.seed": seed,
        "lookup.seeds": tuple(seeds),
        "lookup.dir": str(lookup or workdir / "lookup"),
        "data.cache": base.to_dict()["data"]["cache"] or str(workdir / "features"),
    }


def fitted(base: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts and sentences that fit the student; a lookup of its own where pictures of all classes are labelled."""
    common = base.to_dict()
    found = fdbpl_learners.within(dict(changes), changes.get("student", common["student"]))
    if found.get("data.transductive", common["data"]["transductive"]):
        folder = found.get("lookup.dir", common["lookup"]["dir"])
        found["lookup.dir"] = f"{folder}_all_classes"
    return found


def folds(config: ml_collections.ConfigDict) -> int:
    """One: nothing is cross-validated."""
    del config
    return 1


def prepare(configs: Sequence[ml_collections.ConfigDict]) -> None:
    """Write the embedded world's pictures and build the lookups that configurations need and that are not there."""
    from core_jax import world
    from core_jax.world import datasets
    from fdbpl_jax import build
    from fdbpl_jax import config as fdbpl_config

    settings = [fdbpl_config.read(config) for config in configs]
    data = [one.data for one in settings]
    for root in dict.fromkeys(one.root for one in data if one.dataset == "world_objects"):
        if not (Path(root) / datasets.OBJECTS / datasets.OBJECTS_SPLIT).is_file():
            print(f"pictures of the embedded world -> {root}", flush=True)
            world.write_objects(root)
    missing = {
        one.lookup.dir: config
        for one, config in zip(settings, configs)
        if one.needs_lookup
        and not one.grows
        and not (Path(one.lookup.dir) / "manifest.json").is_file()
    }
    for folder, config in missing.items():
        print(f"lookup -> {folder}", flush=True)
        build.build_from_config(config.to_dict())


def score(lines: Sequence[Line]) -> str:
    """The accuracy of each part of the classes."""
    return ", ".join(f"{line['split']} {line['accuracy']:.2f} %" for line in lines)


def method(line: Line) -> str:
    """What was trained."""
    return str(line["method"])


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The tables of protocols; of other runs base-to-new tables, whole class lists, and grids of several learners."""
    from launch import results
    from launch.comparisons import learner_grid
    from launch.protocols import reporting

    plain, of_protocols = _apart(rows)
    files: dict[str, list[Any]] = reporting.tables(of_protocols)
    summaries = results.summarise(plain)
    made = results.tables(summaries)
    for table in made:
        name = "results" if table.columns == made[0].columns else "results_all"
        files.setdefault(name, []).append(table)
    for items in results.grouped(item for item in summaries if item.hm is not None):
        grids = learner_grid.tables(items, learner_grid.grid(items, METHODS))
        for name, table in zip(("learners", "learner_seconds"), grids):
            files.setdefault(name, []).append(table)
    return files


def details(rows: Sequence[dict[str, Any]]) -> Any:
    """Models, shots, seeds and digests behind each row."""
    from launch import results

    return results.details(results.summarise(rows))


def pictures(rows: Sequence[dict[str, Any]], drawn: Sequence[Any]) -> list[Picture]:
    """Accuracies, time and training; stored regions, and what the trained prompts make of them."""
    from launch import figures, gather, results
    from launch.comparisons import learner_grid, shared
    from launch.protocols import reporting

    plain, of_protocols = _apart(rows)
    found = reporting.pictures(of_protocols)
    both = [item for item in results.summarise(plain) if item.hm is not None]
    for number, items in enumerate(results.grouped(both)):
        bars = [{"label": i.label, "base": i.base, "new": i.new, "hm": i.hm} for i in items]
        title = results.heading("Base to new classes", items[0])
        caption = f"Seeds: {', '.join(map(str, items[0].seeds))}. Bars: means; whiskers: standard deviation."
        name = "base_new.png" if number == 0 else f"base_new_{number + 1}.png"
        found.append(Picture(title, name, figures.base_new_bars(bars, title), caption))
        grid = learner_grid.grid(items, METHODS)
        if len(grid) > 1:
            title = results.heading("Accuracy against training time", items[0])
            caption = (
                "A point a learner and supervision: means over seeds; whiskers: standard deviation."
            )
            name = "learners.png" if number == 0 else f"learners_{number + 1}.png"
            found.append(Picture(title, name, learner_grid.figure(items, grid, title), caption))
    first = gather.first_of_each_label(drawn)
    found += shared.pictures(first)
    examples = shared.if_still_there(lambda: gather.region_examples(first.values()), "regions")
    if examples:
        caption = "Nine of the stored regions of some training pictures. Bright: the teacher is sure; dark: it is not."
        found.append(Picture("Regions", "regions.png", figures.regions(examples), caption))
    for label, run in first.items():
        read = functools.partial(gather.similarities, run)
        points = shared.if_still_there(read, f"{label}'s prompts")
        if points is not None:
            title = f"Positive against negative prompts, {label}"
            caption = "Each point is a stored region, with the prompts of the class the teacher sees in it."
            positive, negative, weight = points
            figure = figures.similarity_scatter(positive, negative, weight, title)
            found.append(Picture(title, f"similarity_{gather.slug(label)}.png", figure, caption))
    return found


def _apart(
    rows: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Result lines of no protocol, and those that `launch.protocol` made."""
    plain = [row for row in rows if "protocol" not in row]
    return plain, [row for row in rows if "protocol" in row]
