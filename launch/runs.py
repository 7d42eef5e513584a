"""A run in its work directory: train it, find out how far it is, restore it, evaluate it.

Everything an entry point does with a run is here as a function, so that several runs can share one process.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import ml_collections

from launch import config as config_lib
from launch import rollcall, tasks

Path = pathlib.Path
RESULTS = "results.jsonl"
# Where the parameters of a run came from that began elsewhere (launch.prompts import).
ORIGIN = "imported.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def failures() -> tuple[type[Exception], ...]:
    """Errors of a run that are no bugs and no wrong input: their message says what to do."""
    from core_jax import train as train_lib

    return (train_lib.CheckpointError, train_lib.NonFiniteError, rollcall.JoinError)


def fit_options(config: ml_collections.ConfigDict, *, progress: bool = True) -> Any:
    """The loop's options: the group `config.fit`, the run's seed and its data workers.

    Returns:
      core_jax.train.FitOptions.

    Raises:
      ConfigError: keys of config.fit that the loop does not have, or values it refuses.
    """
    from core_jax import train

    values = config.to_dict()
    given: dict[str, Any] = dict(values.get("fit", {}))
    known = {field.name for field in dataclasses.fields(train.FitOptions)}
    # Not of the recipe: the seed is the run's own key, the others belong to one start of it.
    known -= {"seed", "progress", "profile"}
    unknown = sorted(set(given) - known)
    if unknown:
        listed = ", ".join(f"config.fit.{name}={given[name]}" for name in unknown)
        raise config_lib.ConfigError(
            f"{listed}: there is no such key; config.fit has {', '.join(sorted(known))}"
        )
    if "workers" in values.get("data", {}):
        given.setdefault("workers", values["data"]["workers"])
    try:
        return train.FitOptions(seed=values.get("seed", 0), progress=progress, **given)
    except ValueError as error:
        raise config_lib.ConfigError(f"config.fit: {error}") from error


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
) -> Any:
    """Train what a configuration describes, from the start or from the newest checkpoint.

    Args:
      config: the experiment.
      workdir: of the run.
      resume: go on from the newest checkpoint.
      progress: show progress.
      profile: first and last step of a trace in `workdir`/profile.

    Returns:
      The task, a core_jax.train.Task, with all it has opened; `evaluate` can go on with it.

    Raises:
      ValueError: the configuration or its inputs cannot be used, or `workdir` holds something else.
    """
    from core_jax import train as train_lib
    from core_jax.train import trace

    options = dataclasses.replace(fit_options(config, progress=progress), profile=profile)
    task = tasks.build(config)
    values = config_lib.to_json(config)
    if task.total_steps:
        train_lib.fit(task, options, workdir=workdir, config_json=values, resume=resume)
    else:
        trace.check(profile, 0)
        claim_untrained(Path(workdir), values, resume)
    return task


def claim_untrained(workdir: Path, config: dict[str, Any], resume: bool) -> None:
    """The work directory of a method that makes no step: it only has to be found and told apart later."""
    import jax

    from core_jax.data import files
    from core_jax.train import writers

    writers.check(workdir, config, resume=resume)
    writers.claim(workdir, config)
    if jax.process_index() == 0:
        timing = {"seconds": {}, "steps": 0, "restarts": 0}
        files.atomic_write(workdir / "timing.json", json.dumps(timing, indent=2) + "\n")


def require_same(config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Refuse a configuration that is not the one a work directory was trained with, naming the differences.

    Raises:
      WorkdirError: they differ.
    """
    from core_jax.train import writers

    writers.check(Path(workdir), config_lib.to_json(config), resume=True)


def require_one(
    config: ml_collections.ConfigDict, workdir: str | Path
) -> ml_collections.ConfigDict:
    """The configuration of a work directory, which has to be that of one run.

    Raises:
      ConfigError: it is that of a program that trained several (`launch.several`).
    """
    names = [str(Path(workdir) / name) for name in tasks.several(config)]
    if names:
        raise config_lib.ConfigError(
            f"--workdir={workdir}: several runs were trained there; name one of them: {', '.join(names)}"
        )
    return config


def is_trained(workdir: str | Path) -> bool:
    """Whether a run has made its last step."""
    return (Path(workdir) / "timing.json").is_file()


def timing(workdir: str | Path) -> dict[str, float]:
    """Seconds of a finished run by part; empty before it has finished."""
    return _timing(workdir).get("seconds", {})


def training_seconds(workdir: str | Path) -> float | None:
    """Wall-clock seconds of a finished run without its evaluations, over all restarts; 0 if it made no step."""
    written = _timing(workdir)
    if not written:
        return None
    if not written["steps"]:
        return 0.0
    parts = written["seconds"]
    return round(sum(value for name, value in parts.items() if name != "evaluation"), 3)


def _timing(workdir: str | Path) -> dict[str, Any]:
    path = Path(workdir) / "timing.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """A trained run.

    Attributes:
      config: what it was trained with.
      task: built from it.
      params: its arrays on the device, a core_jax.train.Params.
      step: updates made.
    """

    config: ml_collections.ConfigDict
    task: Any
    params: Any
    step: int


def restore(workdir: str | Path, task: Any = None) -> Restored:
    """A run from its work directory alone: config.json and the newest checkpoint.

    Args:
      workdir: of the run.
      task: built from its configuration; None builds it.

    Raises:
      ConfigError: nothing was trained there.
      CheckpointError: the newest checkpoint does not belong to this configuration and these inputs.
    """
    from core_jax import train as train_lib
    from core_jax.train import sharding
    from core_jax.train import step as step_lib

    config = require_one(config_lib.from_workdir(workdir), workdir)
    mesh = sharding.where_it_fits(fit_options(config).mesh)
    task = tasks.build(config) if task is None else task
    if task.total_steps:
        params, step = train_lib.restore(task, workdir=workdir, mesh=mesh)
    else:
        # Nothing to train, so no checkpoint: what the task starts with is what there is.
        mesh, seed = sharding.make_mesh(mesh), fit_options(config).seed
        state, frozen, _ = step_lib.init(task, mesh, seed=seed)
        params = train_lib.Params(trainable=state["trainable"], frozen=frozen, stats=state["stats"])
        step = 0
    return Restored(config=config, task=task, params=params, step=step)


def learned(workdir: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The trained parameters of a run and the digests they depend on: `arrays` without the statistics."""
    trainable, _, pins = arrays(workdir)
    return trainable, pins


def arrays(workdir: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """What a run has learned, without opening its data, lookup or models (`core_jax.train.learned`).

    Args:
      workdir: of a run, finished or not.

    Returns:
      (trained parameters, statistics, the digests they depend on), nested dicts of NumPy arrays; all empty for a run that
      trains nothing.

    Raises:
      ConfigError: there is no checkpoint.
    """
    from core_jax import train as train_lib

    require_one(config_lib.from_workdir(workdir), workdir)
    if _timing(workdir).get("steps") == 0:
        return {}, {}, {}
    try:
        found, pins = train_lib.learned(workdir, ("trainable", "stats"))
    except train_lib.CheckpointError as error:
        raise config_lib.ConfigError(f"--workdir={error}") from error
    return found["trainable"], found["stats"], pins


def evaluate(
    workdir: str | Path, *, task: Any = None, extra: Mapping[str, Any] | None = None
) -> list[dict]:
    """Evaluate a run and append its result lines to results.jsonl.

    Where the task selects by a result and was evaluated while it trained, its best steps are judged beside the last one.

    Args:
      workdir: of the run; nothing else is needed.
      task: built from its configuration; None builds it.
      extra: fields to add to each line, such as the name of a variant.

    Returns:
      The lines, as written; every process computes them, process 0 writes.
    """
    import jax

    run = restore(workdir, task)
    common = {**common_fields(workdir, run), **(extra or {})}
    found = tasks.result_lines(run.config, run.task, run.params, step=run.step)
    lines = [{**line, **common} for line in found]
    for step, best in best_steps(workdir, run).items():
        params = _params_of(workdir, run, step)
        own = tasks.result_lines(run.config, run.task, params, step=step, best=best)
        lines += [{**line, **common, "steps": step} for line in own]
    if jax.process_index() == 0:
        append(Path(workdir) / RESULTS, lines)
    return lines


def common_fields(workdir: str | Path, run: Restored) -> dict[str, Any]:
    """What every result line of a run says beside the result."""
    return {
        "seed": run.config.get("seed", 0),
        "steps": run.step,
        "seconds_train": training_seconds(workdir),
        "config_digest": recipe_digest(run.config),
        **provenance(),
        **_origin(workdir),
    }


def _origin(workdir: str | Path) -> dict[str, Any]:
    """What sets the lines of a run that began elsewhere apart from those of a run of the same recipe made here."""
    path = Path(workdir) / ORIGIN
    if not path.is_file():
        return {}
    origin = json.loads(path.read_text(encoding="utf-8"))
    further = " and trained on" if is_trained(workdir) else ""
    variant = f"{origin['learner']}, imported{further}"
    return {"imported": origin["sha256"], "variant": variant}


def best_steps(workdir: str | Path, run: Restored) -> dict[int, list[int]]:
    """The steps at which one of `Task.selected` was lowest, and which ones; empty for a run that was never evaluated."""
    from core_jax.train import writers

    if not fit_options(run.config).eval_every:
        return {}
    names = run.task.selected
    lowest = writers.lowest(Path(workdir) / "metrics.jsonl", names)
    found: dict[int, list[int]] = {}
    for place, name in enumerate(names):
        if name in lowest:
            found.setdefault(lowest[name][1], []).append(place)
    return found


def _params_of(workdir: str | Path, run: Restored, step: int) -> Any:
    from core_jax import train as train_lib
    from core_jax.train import sharding

    if step == run.step:
        return run.params
    mesh = sharding.where_it_fits(fit_options(run.config).mesh)
    return train_lib.restore(run.task, workdir=workdir, step=step, mesh=mesh)[0]


def recipe_digest(config: ml_collections.ConfigDict) -> str:
    """Digest of what a configuration says beyond seeds, folds and places: runs that share it are repetitions of one recipe."""
    from core_jax.data import files

    values = config_lib.to_json(config)
    apart = {
        "seed": (),
        "accumulate": (),
        "remat": (),
        "seeds": (),
        "lrs": (),
        "fit": (),
        "text_cache": (),
        "data": ("seed", "root", "cache", "fold"),
        "lookup": ("dir", "seeds"),
    }
    if values.get("ghost_norm"):
        # Pieces that are normalised by themselves are another recipe.
        del apart["accumulate"]
    for group, names in apart.items():
        if not names:
            values.pop(group, None)
        for name in names:
            values.get(group, {}).pop(name, None)
    return files.digest(values)


def append(path: Path, lines: list[dict]) -> None:
    """Add lines to a JSONL file, all or none of them."""
    from core_jax.data import files

    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    files.atomic_write(path, before + text)


def read_metrics(workdir: str | Path) -> dict[str, list]:
    """metrics.jsonl as columns: {"step": [...], name: [...]}, for the steps that have every training metric."""
    from core_jax.train import writers

    lines = writers.read_jsonl(Path(workdir) / "metrics.jsonl")
    lines = [line for line in lines if line.get("loss") is not None]
    names = set.intersection(*(set(line) for line in lines)) if lines else set()
    return {name: [line[name] for line in lines] for name in sorted(names)}


def provenance() -> dict[str, Any]:
    """What computed a result: device, versions of the libraries, commit of this source tree where it is one."""
    import jax

    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "git": _commit(),
    }


@functools.cache
def _commit() -> str | None:
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
