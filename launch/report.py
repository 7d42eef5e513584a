"""Turn finished runs into tables and pictures.

python -m launch.report --workdir=runs/x[,runs/y,...] [--out=DIR]

Prints the tables and writes DIR (default: report/ in the first work directory): report.md with links, results.md and
results.csv, details.md and details.csv, and the pictures as PNG. A folder may hold runs at any depth.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from launch import config, gather, results, runs, start

Path = pathlib.Path
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


def main(argv: Sequence[str]) -> None:
    """Print tables, write the report."""
    del argv
    start.start()
    folders = [Path(name) for name in flags.FLAGS.workdir]
    out = Path(flags.FLAGS.out or folders[0] / "report")
    print_tables(folders)
    print(f"report: {write(folders, out)}")


def print_tables(folders: Sequence[Path], labels: Sequence[str] | None = None) -> None:
    """Print the tables of all results below some folders.

    Args:
      folders: of runs.
      labels: only these methods and variants; None for all.
    """
    from core_jax.train import report

    for table in results.tables(results.summarise(_rows(folders, labels))):
        print(report.terminal(table))


def write(
    folders: Sequence[str | Path], out: str | Path, labels: Sequence[str] | None = None
) -> Path:
    """Write the report of all runs below some folders.

    Args:
      folders: of runs, at any depth.
      out: receives the files; made if missing.
      labels: only these methods and variants; None for all.

    Returns:
      The path of report.md.

    Raises:
      FileNotFoundError: a folder is missing or there is no result below any of them.
      ValueError: damaged result lines, all of them named.
    """
    from core_jax.data import files
    from core_jax.train import report

    out = Path(out)
    summaries = results.summarise(_rows(folders, labels))
    found = gather.find(folders, labels)
    tables = results.tables(summaries)
    details = results.details(summaries)
    parts = ["# Report", *(report.markdown(table) for table in tables)]
    for kind in _by_columns(tables):
        report.write_tables(
            out,
            "results" if kind is tables[0].columns else "results_all",
            [t for t in tables if t.columns == kind],
        )
    report.write_tables(out, "details", [details])
    for heading, name, figure, caption in pictures(summaries, found):
        report.save_figure(figure, out / name)
        parts.append(f"## {heading}\n\n![{heading}]({name})\n\n{caption}\n")
    parts.append(report.markdown(details))
    files.atomic_write(out / "report.md", "\n".join(parts))
    return out / "report.md"


def pictures(
    summaries: Sequence[results.Summary], drawn: Sequence[gather.Run]
) -> list[tuple[str, str, Any, str]]:
    """All figures that the runs have data for: (heading, file name, figure, caption)."""
    from launch import figures

    found = []
    both = [item for item in summaries if item.hm is not None]
    for number, items in enumerate(results.grouped(both)):
        rows = [{"label": i.label, "base": i.base, "new": i.new, "hm": i.hm} for i in items]
        title = results.heading("Base to new classes", items[0])
        caption = f"Seeds: {', '.join(map(str, items[0].seeds))}. Bars: means; whiskers: standard deviation."
        name = "base_new.png" if number == 0 else f"base_new_{number + 1}.png"
        found.append((title, name, figures.base_new_bars(rows, title), caption))
    first = gather.first_of_each_label(drawn)
    seconds = {label: _seconds(run) for label, run in first.items() if run.timing}
    if seconds:
        caption = "Wall-clock seconds of one run (the lowest seed)."
        found.append(
            ("Time", "time.png", figures.time_bars(seconds, "Where the time went"), caption)
        )
    curves = {label: columns for label, run in first.items() if (columns := run.curves)}
    if curves:
        names = _panels(curves)
        caption = (
            "Means between log lines (pale) and their running mean, lowest seed of each method."
        )
        found.append(("Training", "training.png", figures.loss_curves(curves, names), caption))
    examples = _if_still_there(lambda: gather.region_examples(first.values()), "regions")
    if examples:
        caption = "Nine of the stored regions of some training pictures. Bright: the teacher is sure; dark: it is not."
        found.append(("Regions", "regions.png", figures.regions(examples), caption))
    for label, run in first.items():
        points = _if_still_there(functools.partial(gather.similarities, run), f"{label}'s prompts")
        if points is not None:
            title = f"Positive against negative prompts, {label}"
            caption = "Each point is a stored region, with the prompts of the class the teacher sees in it."
            positive, negative, weight = points
            figure = figures.similarity_scatter(positive, negative, weight, title)
            found.append((title, f"similarity_{gather.slug(label)}.png", figure, caption))
    return found


def _if_still_there(read: Callable[[], Any], what: str) -> Any:
    """What `read` gives, or None where pictures, lookup or models have moved or changed since the run."""
    from core_jax.train import CheckpointError

    try:
        return read()
    except (CheckpointError, OSError, ValueError) as error:
        print(f"the report leaves out the picture of {what}: {error}")
        return None


def _rows(folders: Sequence[str | Path], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = results.read(folders)
    return [row for row in rows if labels is None or results.label(row) in labels]


def _by_columns(tables: Sequence[Any]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(table.columns for table in tables))


def _seconds(run: gather.Run) -> dict[str, float]:
    return {name: run.timing[part] for part, name in _TIMES.items() if run.timing.get(part)}


def _panels(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """The loss and its terms, then every other metric."""
    names = {name for columns in curves.values() for name in columns}
    names -= {"step", "seconds", "steps_per_second"}
    return sorted(names, key=lambda name: (not name.startswith("loss"), name))[:_MOST_PANELS]


if __name__ == "__main__":
    flags.DEFINE_list("workdir", None, "folders of runs, comma-separated", required=True)
    flags.DEFINE_string(
        "out", None, "folder of the report; default: report/ in the first --workdir"
    )
    config.run(main, runs.failures)
