"""Judging finished runs on further data sets; what was judged before is left alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdbpl_jax.transfer import Target
from launch import runs


def missing(folder: str | Path, targets: Sequence[Target]) -> list[Target]:
    """The targets that a run has no result line of yet.

    Args:
      folder: the run's work directory.
      targets: further data sets.
    """
    path = Path(folder) / runs.RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    judged = {(row["dataset"], row.get("split")) for row in map(json.loads, lines)}
    return [target for target in targets if (target.name, "all") not in judged]


def judge(
    folder: str | Path, targets: Sequence[Target], extra: Mapping[str, Any], title: str
) -> list[dict[str, Any]]:
    """Judge a trained run on further data sets and append their lines to its results.jsonl, one data set at a time.

    Args:
      folder: the run's work directory.
      targets: data sets; those that were judged before are passed over.
      extra: fields to add to each line.
      title: what is printed of the run.

    Returns:
      The new lines; every process computes them, process 0 writes.

    Raises:
      ValueError: a data set cannot be read, or the run's prompts say nothing about its classes.
    """
    import jax

    from fdbpl_jax import evaluate, transfer

    todo = missing(folder, targets)
    if not todo:
        return []
    run = runs.restore(folder)
    values, own = run.config.to_dict(), run.task.evaluate.inputs
    common, params = runs.common_fields(folder, run), run.params
    written = []
    for target in todo:
        inputs = transfer.open_target(own, target)
        metrics = evaluate.Judge(inputs)(params.trainable, params.frozen, params.stats)
        lines = [
            {**line, "dtype": inputs.dtype, **common, **extra}
            for line in transfer.result_lines(values, inputs, target, metrics)
        ]
        if jax.process_index() == 0:
            runs.append(Path(folder) / runs.RESULTS, lines)
        print(f"{title} on {target.name}: {lines[0]['accuracy']:.2f} %", flush=True)
        written += lines
    return written
