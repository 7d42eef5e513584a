"""Evaluate a trained run from its work directory alone.

python -m launch.evaluate --workdir=runs/x

Restores config.json and the newest checkpoint, prints the results and appends them to results.jsonl. Of a program of
several runs (`launch.several`) each run is evaluated.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import config, runs, several, start, tasks


def main(argv: Sequence[str]) -> None:
    """Restore, evaluate, print."""
    del argv
    start.start()
    show(lines(flags.FLAGS.workdir))


def lines(workdir: str, task: Any = None) -> list[dict]:
    """Evaluate what lies in a work directory, one run or several; `task` is what its training returned, if it was now."""
    if tasks.several(config.from_workdir(workdir)):
        return several.evaluate(workdir, task)
    return runs.evaluate(workdir, task=task)


def show(found: Sequence[dict]) -> None:
    """Print result lines as tables, on process 0."""
    from core_jax.train import report
    from launch.comparisons import base as comparisons

    if not start.is_main():
        return
    plain = [line for line in found if "metrics" in line]
    for line in plain:
        rows = tuple((name, float(value)) for name, value in line["metrics"].items())
        title = f"{line['task']} after {line['steps']} steps"
        print(report.terminal(report.Table(title=title, columns=("result", "value"), rows=rows)))
    scored = [{"run": "", **line} for line in found if "metrics" not in line]
    for tables in comparisons.of(scored).tables(scored).values() if scored else ():
        for table in tables:
            print(report.terminal(table))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    config.run(main, runs.failures)
