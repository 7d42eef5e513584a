"""Evaluate a trained run from its work directory alone.

python -m launch.evaluate --workdir=runs/x

Restores config.json and the newest checkpoint, prints the results and appends them to results.jsonl.
"""

from collections.abc import Sequence

from absl import flags

from launch import config, runs, start


def main(argv: Sequence[str]) -> None:
    """Restore, evaluate, print."""
    del argv
    start.start()
    show(runs.evaluate(flags.FLAGS.workdir))


def show(lines: Sequence[dict]) -> None:
    """Print result lines as tables, on process 0."""
    from core_jax.train import report
    from launch.comparisons import base as comparisons

    if not start.is_main():
        return
    plain = [line for line in lines if "metrics" in line]
    for line in plain:
        rows = tuple((name, float(value)) for name, value in line["metrics"].items())
        title = f"{line['task']} after {line['steps']} steps"
        print(report.terminal(report.Table(title=title, columns=("result", "value"), rows=rows)))
    scored = [{**line, "run": ""} for line in lines if "metrics" not in line]
    for tables in comparisons.of(scored).tables(scored).values() if scored else ():
        for table in tables:
            print(report.terminal(table))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    config.run(main, runs.failures)
