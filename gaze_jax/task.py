"""Gaze estimation as a task of the shared training loop: DRNet (arXiv 2208.04298), CLIP-DFENet (arXiv 2502.20128), baselines.

One configuration is one fold of a protocol, or with `data.fold=-1` all folds side by side (`core_jax.train.stack`).
Shapes: B pictures, P = 2 angles (pitch, yaw) in radians; everything that leaves for people is in degrees.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from core_jax.train import Params, Task, sharding
from core_jax.train.stack import stack, unstack
from core_jax.train.task import Rules
from gaze_jax import config as configs
from gaze_jax import data, evaluate, inputs, resident
from gaze_jax.gaze_set import GazeSet
from gaze_jax.inputs import Inputs, open_inputs
from gaze_jax.judging.statistics import Entry
from gaze_jax.networks import registry as networks


def build(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Task:
    """The task of a configuration such as `configs/gaze_drnet_demo.py`.

    All folds together are cut over the devices of the mesh (`fit.mesh`) where their number divides.

    Raises:
      ValueError: unknown keys, wrong types, impossible values, or inputs that cannot be used; all of a kind at once.
    """
    opened = opened_folds(configs.read(config))
    tasks = [_task(one) for one in opened]
    if len(tasks) == 1:
        return tasks[0]
    fit: Mapping[str, Any] = dict(config).get("fit") or {}
    return stack(tasks, sharding.make_mesh(sharding.where_it_fits(fit.get("mesh") or "")))


def opened_folds(config: configs.Config) -> list[Inputs]:
    """The inputs of the fold of a configuration, or of all folds for `data.fold=-1`."""
    if config.data.fold != configs.ALL_FOLDS:
        return [open_inputs(config)]
    each = [_with_fold(config, fold) for fold in range(inputs.folds(config))]
    first, *others = [open_inputs(one) for one in each]
    # One model object: one program for training and judging of all folds. Folds of slightly different sizes make the same
    # number of steps by the same schedule, those of the first.
    names = ("model", "steps_per_epoch", "total_steps")
    shared = {name: getattr(first, name) for name in names}
    return [first, *(dataclasses.replace(one, **shared) for one in others)]


def _with_fold(config: configs.Config, fold: int) -> configs.Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold))


def _task(opened: Inputs) -> Task:
    init, loss = opened.model.init, opened.model.loss
    if resident.chosen(opened.config.data.resident, opened.gaze_set):
        init = functools.partial(resident.init, init, opened.gaze_set)
        loss = functools.partial(resident.loss, loss)
    return Task(
        init=init,
        loss=loss,
        train_data=functools.partial(train_data, opened),
        evaluate=functools.partial(judge, opened),
        optimizer=functools.partial(inputs.optimizer, opened),
        sharding_rules=_rules(opened.config),
        total_steps=opened.total_steps,
        batch_ids=("index",),
        selected=(_selected(opened),),
        elastic=True,
        pins=opened.pins,
    )


def _rules(config: configs.Config) -> Rules:
    """Everything that has two axes is cut, CLIP's tower, too; the set of pictures is read by row."""
    own = (("(trainable|stats)/.*", sharding.over_model),)
    parts = config.dfenet
    if config.model != networks.DFENET or parts.vfm == "none" or parts.tower == "trained":
        return own
    return (*own, ("frozen/clip/.*", sharding.over_model))


def _selected(opened: Inputs) -> str:
    """The result by which a run's best step is found: of one picture, or with the most references."""
    if opened.model.predict is not None:
        return "error_deg"
    return f"diffnn_k{max(opened.config.test.k)}_error_deg"


def train_data(opened: Inputs, seed: int) -> Any:
    """The endless stream of this process' slices of training batches."""
    settings = opened.config.data
    pairs = None
    if opened.model.references is not None:
        pairs = data.Pairs(self_probability=settings.self_pair, pool_sides=settings.pool_sides)
    return data.train_data(
        opened.gaze_set,
        opened.train,
        batch_size=opened.config.recipe.batch_size,
        seed=seed,
        pairs=pairs,
        workers=settings.workers,
        rows_only=resident.chosen(settings.resident, opened.gaze_set),
    )


def judge(opened: Inputs, trainable: dict, frozen: dict, stats: dict) -> dict[str, float]:
    """Mean angular errors over persons in degrees, clean pictures: "error_deg", "calib_k9_error_deg", "faces_B/error_deg".

    Few draws of references: this is for watching a run. `result_lines` has everything.
    """
    test = opened.config.test
    quick = dataclasses.replace(test, draws=min(test.draws, 2), corruptions=())
    # Whole, since every process asks the network by itself.
    params = sharding.whole(Params(trainable=trainable, frozen=frozen, stats=stats))
    found: dict[str, float] = {}
    for gaze_set, rows in judged(opened):
        entries = entries_of(opened, params, gaze_set, rows, quick)
        prefix = "" if gaze_set is opened.gaze_set else f"{gaze_set.name}/"
        for name in dict.fromkeys(_name(entry) for entry in entries):
            errors: dict[str, list[float]] = {}
            for entry in entries:
                if _name(entry) == name:
                    errors.setdefault(entry.person, []).append(entry.angular_error_deg)
            mean = float(np.mean([np.mean(of_person) for of_person in errors.values()]))
            found[f"{prefix}{name}error_deg"] = mean
    return found


def _name(entry: Entry) -> str:
    if entry.mode in ("", "single"):
        return ""
    return f"{entry.mode}_k{entry.k}_"


def judged(opened: Inputs) -> list[tuple[GazeSet, np.ndarray]]:
    """What a fold is judged on: its own test rows, then the whole of each set of `data.cross`."""
    own = [(opened.gaze_set, opened.split.test)] if len(opened.split.test) else []
    settings = opened.config.data
    others = [inputs.open_set(settings, entry) for entry in settings.cross]
    return own + [(one, np.arange(len(one))) for one in others]


def entries_of(
    opened: Inputs,
    params: Params,
    gaze_set: GazeSet,
    rows: np.ndarray,
    test: evaluate.JudgeConfig,
) -> list[Entry]:
    """Errors of every person, mode, number of references, corruption, and after personal calibration."""
    model, held_out = opened.model, (opened.gaze_set, opened.validation)
    fitted = evaluate.calibrated(model, params, gaze_set, rows, held_out, test)
    if model.references is None:
        own = evaluate.judge(model, params, gaze_set, rows, test, progress=True)["entries"]
        return [*own, *fitted]
    blend = None
    if len(opened.validation):
        blend = evaluate.fit_blend(model, params, opened.gaze_set, opened.validation, test)
    pairs = evaluate.judge_pairs(model, params, gaze_set, rows, test, blend=blend, progress=True)
    return [*pairs, *fitted]


def result_lines(
    config: Mapping[str, Any],
    params: Params,
    *,
    step: int | None = None,
    best: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """The lines of results.jsonl (docs/workdir.md): one a person, mode, number of references and corruption.

    Args:
      config: what the run was trained with.
      params: its arrays; with a leading axis for all folds together.
      step: updates that they have seen; None: all of the run.
      best: the folds whose best step this is on the very persons that are judged (their place among those trained
        together); None: the last step, all folds.
    """
    opened, params = opened_folds(configs.read(config)), sharding.whole(params)
    lines = []
    for index, one in enumerate(opened):
        if best is not None and index not in best:
            continue
        own = params
        if len(opened) > 1:
            own = Params(
                trainable=unstack(params.trainable, index),
                frozen=params.frozen,
                stats=unstack(params.stats, index),
            )
        for gaze_set, rows in judged(one):
            inside = gaze_set is one.gaze_set
            common = {
                "method": networks.method(one.config),
                "preset": one.config.preset,
                "anchors": networks.anchors(one.config),
                "trained_on": one.gaze_set.name,
                "protocol": one.split.protocol if inside else "cross",
                "fold": one.split.fold,
                "epoch": (one.total_steps if step is None else step) // one.steps_per_epoch,
                "selection": "last" if best is None else "best",
            }
            entries = entries_of(one, own, gaze_set, rows, one.config.test)
            lines += evaluate.result_lines(entries, gaze_set, common)
            if not inside:
                # Pictures of the set were seen: never in one table with sets that are judged unseen.
                adapted = evaluate.adapted(one.model, own, gaze_set, one.config.test)
                common |= {"protocol": "adapted"}
                lines += evaluate.result_lines(adapted, gaze_set, common)
    return lines
