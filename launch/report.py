"""Turn finished runs into tables and pictures.

python -m launch.report --workdir=runs/x[,runs/y,...] [--out=DIR]

Prints the tables and writes DIR (default: report/ in the first work directory): report.md with all tables and pictures,
each kind of table as Markdown and CSV (results, details, and what else the task has: docs/workdir.md), and the pictures as
PNG. A folder may hold runs at any depth, all of one task; those that `launch.protocol` made get the tables of their protocol.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch import config, gather, results, runs, start
from launch.comparisons import base as comparisons

Path = pathlib.Path


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

    rows = _rows(folders, labels)
    for tables in comparisons.of(rows).tables(rows).values():
        for table in tables:
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
      ValueError: damaged result lines, all of them named, or results of several tasks.
    """
    from core_jax.data import files
    from core_jax.train import report

    out, rows = Path(out), _rows(folders, labels)
    comparison = comparisons.of(rows)
    tables, details = comparison.tables(rows), comparison.details(rows)
    parts = ["# Report", *(report.markdown(table) for kind in tables.values() for table in kind)]
    for name, kind in {**tables, "details": [details]}.items():
        report.write_tables(out, name, kind)
    for picture in comparison.pictures(rows, gather.find(folders, labels)):
        report.save_figure(picture.figure, out / picture.name)
        parts.append(
            f"## {picture.heading}\n\n![{picture.heading}]({picture.name})\n\n{picture.caption}\n"
        )
    parts.append(report.markdown(details))
    files.atomic_write(out / "report.md", "\n".join(parts))
    return out / "report.md"


def _rows(folders: Sequence[str | Path], labels: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = results.read(folders)
    return [row for row in rows if labels is None or results.label(row) in labels]


if __name__ == "__main__":
    flags.DEFINE_list("workdir", None, "folders of runs, comma-separated", required=True)
    flags.DEFINE_string(
        "out", None, "folder of the report; default: report/ in the first --workdir"
    )
    config.run(main, runs.failures)
