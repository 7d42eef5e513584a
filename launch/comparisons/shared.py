"""The pictures that every comparison has, whatever was trained: time and training curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch import figures, gather
from launch.comparisons.base import Picture

_TIMES = {
    "setup": "set-up",
    "compile": "compile",
    "data_wait": "wait for data",
    "step": "steps",
    "logging": "logging",
    "saving": "saving",
    "evaluation": "evaluation",
}
_MOST_PANELS = 12


def pictures(first: Mapping[str, gather.Run]) -> list[Picture]:
    """Time and training curves of the first run of each label, as far as there is something to draw."""
    found = []
    seconds = {label: _seconds(run) for label, run in first.items() if run.timing}
    if seconds:
        caption = "Wall-clock seconds of one run (the lowest seed)."
        figure = figures.time_bars(seconds, "Where the time went")
        found.append(Picture("Time", "time.png", figure, caption))
    curves = {label: columns for label, run in first.items() if (columns := run.curves)}
    if curves:
        caption = (
            "Means between log lines (pale) and their running mean, lowest seed of each method."
        )
        figure = figures.loss_curves(curves, _panels(curves))
        found.append(Picture("Training", "training.png", figure, caption))
    return found


def if_still_there(read: Callable[[], Any], what: str) -> Any:
    """What `read` gives, or None where pictures, lookup or models have moved or changed since the run."""
    from core_jax.train import CheckpointError

    try:
        return read()
    except (CheckpointError, OSError, ValueError) as error:
        print(f"the report leaves out the picture of {what}: {error}")
        return None


def _seconds(run: gather.Run) -> dict[str, float]:
    return {name: run.timing[part] for part, name in _TIMES.items() if run.timing.get(part)}


def _panels(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """The loss and its terms, then every other metric."""
    names = {name for columns in curves.values() for name in columns}
    names -= {"step", "seconds", "steps_per_second", "data_wait_share"}
    return sorted(names, key=lambda name: (not name.startswith("loss"), name))[:_MOST_PANELS]
