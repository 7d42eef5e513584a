"""Several FDBPL runs in one program: seeds, each with its few-shot list, and learning rates (`core_jax.train.stack`).

What the runs share is in memory once: the student, the lookup, the text plans, an online teacher, and the features of the
pictures that they are judged on.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from core_jax.train import Task
from fdbpl_jax import config as configs
from fdbpl_jax import task
from fdbpl_jax.inputs import Inputs, open_inputs

# What is each run's own of `Inputs`, and of the digests that pin it.
_OWN = ("config", "train", "parts", "pins")
_OWN_PINS = ("fewshot",)


def changes(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each run of `config.seeds` and `config.lrs` changes, by its name.

    Returns:
      {"seed1": ...} for seeds, {"lr0.01": ...} for learning rates, {"lr0.01/seed1": ...} for both; empty for one run.

    Raises:
      ConfigError: the configuration cannot be used, or names a seed or a learning rate twice.
    """
    settings = configs.read(config)
    for name, given in (("seeds", settings.seeds), ("lrs", settings.lrs)):
        if len(set(given)) < len(given):
            raise configs.ConfigError(f"config.{name}={given}: expected different numbers")
    if not settings.seeds and not settings.lrs:
        return {}
    if settings.grows:
        raise configs.ConfigError(
            "config.data.source=grow with config.seeds or config.lrs: a lookup grows for one run at a time; build it first "
            "(python -m launch.lookup build), or train one run"
        )
    rates = [(f"lr{lr}", {"lr": lr}) for lr in settings.lrs] or [("", {})]
    seeds = [(f"seed{s}", {"seed": s, "data.seed": s}) for s in settings.seeds] or [("", {})]
    return {
        "/".join(filter(None, (rate, seed))): {"seeds": (), "lrs": (), **of_rate, **of_seed}
        for (rate, of_rate), (seed, of_seed) in itertools.product(rates, seeds)
    }


def build(each: Sequence[ml_collections.ConfigDict | Mapping[str, Any]]) -> list[Task]:
    """The tasks of several configurations, each as `task.build` makes it, around one copy of what they share.

    Args:
      each: configurations of one run each; they may differ in seeds, few-shot lists and learning rates.

    Raises:
      ConfigError: they differ in something else that the loss depends on.
      ValueError: as `task.build`.
    """
    first = open_inputs(configs.read(each[0]))
    opened = [first, *(_sharing(first, open_inputs(configs.read(one))) for one in each[1:])]
    # Few-shot lists of validation pictures are each seed's own; test pictures are the same for all.
    judged: dict[str, Any] = {}
    same = first.config.data.judge == "test"
    return [task.of_inputs(one, judged if same else None) for one in opened]


def _sharing(first: Inputs, own: Inputs) -> Inputs:
    """The inputs of a run with everything that is not its own taken from the first run."""
    differing = [
        f"{name}: {first.pins.get(name)} and {own.pins.get(name)}"
        for name in sorted(set(first.pins) | set(own.pins))
        if first.pins.get(name) != own.pins.get(name) and name not in _OWN_PINS
    ]
    if len(first.train.train) != len(own.train.train):
        differing.append(f"training pictures: {len(first.train.train)} and {len(own.train.train)}")
    if differing:
        raise configs.ConfigError(
            "runs in one program share all but seeds, few-shot lists and learning rates, and these differ:\n  "
            + "\n  ".join(differing)
        )
    shared = {field.name for field in dataclasses.fields(Inputs)} - set(_OWN)
    return dataclasses.replace(own, **{name: getattr(first, name) for name in shared})
