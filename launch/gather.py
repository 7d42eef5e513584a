"""What a report draws, read from the work directories of runs: curves, times, regions, similarities."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np

from launch import config as config_lib
from launch import results, runs

Path = pathlib.Path
_PICTURES = 8


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
      folder: its work directory.
      label: of its results, else its method or the folder's name.
      seed: of the run.
    """

    folder: Path
    label: str
    seed: int

    @functools.cached_property
    def config(self) -> ml_collections.ConfigDict:
        """What it was trained with."""
        return config_lib.from_workdir(self.folder)

    @functools.cached_property
    def timing(self) -> dict[str, float]:
        """Seconds by part; empty if it has not finished or had nothing to train."""
        return runs.timing(self.folder)

    @functools.cached_property
    def curves(self) -> dict[str, list]:
        """Training metrics as columns; empty if nothing was logged."""
        return runs.read_metrics(self.folder)


def find(folders: Iterable[str | Path], labels: Sequence[str] | None = None) -> list[Run]:
    """The runs below some folders, by folder name.

    Args:
      folders: searched at any depth.
      labels: only these; None for all.
    """
    found = []
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("config.json")):
            run = _run(path.parent)
            if run is not None and (labels is None or run.label in labels):
                found.append(run)
    return found


def _run(folder: Path) -> Run | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "task" not in config:
        # A model folder has a config.json too.
        return None
    if config.get("seeds") or config.get("lrs"):
        # A program of several runs, each in a folder of its own below this one.
        return None
    path, label = folder / runs.RESULTS, config.get("method", folder.name)
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        label = results.label(rows[-1]) if rows and "metrics" not in rows[-1] else label
    return Run(folder, label, config.get("seed", 0))


def first_of_each_label(runs_found: Iterable[Run]) -> dict[str, Run]:
    """The run of the lowest seed for each label, in order of first appearance."""
    first: dict[str, Run] = {}
    for run in runs_found:
        if run.label not in first or run.seed < first[run.label].seed:
            first[run.label] = run
    return first


def slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")


def region_examples(runs_found: Iterable[Run], count: int = _PICTURES) -> list[dict[str, Any]]:
    """Some pictures of the first lookup that any of the runs used, with all of their regions.

    Returns:
      As `figures.regions` takes them; empty if no run has a lookup that is still there.
    """
    from core_jax.data import images
    from fdbpl_jax import config as fdbpl_config
    from fdbpl_jax import datasets, lookup

    for run in runs_found:
        if run.config.get("task") != "fdbpl":
            continue
        settings = fdbpl_config.read(run.config.to_dict())
        folder, data = settings.lookup.dir, settings.data
        if not folder or not (Path(folder) / "manifest.json").is_file():
            continue
        opened = lookup.open(folder)
        root = datasets.read(data.dataset, data.root, template=data.template or None).root
        # Pictures of classes outside the lookup's label space have no title.
        named = np.flatnonzero([image.label >= 0 for image in opened.images])
        if not len(named):
            continue
        rows = named[np.unique(np.linspace(0, len(named) - 1, count).astype(int))]
        return [
            {
                "image": images.decode(root / opened.images[row].path),
                "box": opened.record(row)["box"],
                # Informativeness, before any switch of the loss: 1 - entropy / log C.
                "w": 1.0 - opened.record(row)["entropy"].astype(np.float64),
                "title": opened.classes[opened.images[row].label],
            }
            for row in rows.tolist()
        ]
    return []


def similarities(
    run: Run, pictures: int = 120, regions: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Cosines of stored regions with the positive and the negative prompt of the teacher's class.

    Args:
      run: a trained run.
      pictures: how many of the lookup's, evenly spaced.
      regions: of each, evenly spaced.

    Returns:
      (positive, negative, informativeness), each [pictures * regions]; None for runs without two prompts, whose prompts
      differ by picture, or which do not see the stored features: there are none, or visual prompts change them.
    """
    if run.config.get("task") != "fdbpl" or run.config.method != "fdbpl" or not run.timing:
        return None
    from fdbpl_jax import config, evaluate

    if not config.read(run.config).frozen_pictures:
        return None
    restored = runs.restore(run.folder)
    inputs, learned = restored.task.evaluate.inputs, restored.params.trainable
    lookup, signs = inputs.lookup, ("positive", "negative")
    if set(learned.get("context", ())) < set(signs) or "meta" in learned:
        return None
    if lookup is None or lookup.student is None:
        return None
    prompts = np.stack(
        [
            evaluate.class_features(inputs, "train", learned, sign, restored.params.frozen)
            for sign in signs
        ]
    )
    rows = np.unique(np.linspace(0, lookup.num_images - 1, pictures).astype(int)).tolist()
    chosen = np.unique(np.linspace(0, lookup.regions - 1, regions).astype(int))
    found = []
    for row in rows:
        record, features = lookup.record(row), lookup.features(row)[chosen].astype(np.float32)
        # Top-k labels are in descending order; dense ones are in class order.
        top = record["logp"][chosen].argmax(-1)
        classes = record["index"][chosen][:, 0] if "index" in record.dtype.names else top
        cosine = np.einsum("rd,srd->sr", features, prompts[:, classes])
        found.append([*cosine, 1.0 - record["entropy"][chosen].astype(np.float32)])
    positive, negative, weight = np.concatenate(found, axis=1)
    return positive, negative, weight
