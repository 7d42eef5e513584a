"""Tables of results, for the terminal, Markdown and CSV, and the look that all figures share.

A cell is text, a number, nothing, or a `Spread`: mean, standard deviation and count over seeds. Numbers stay numbers
until they are written, so that the CSV carries full precision where the terminal rounds.
"""

import contextlib
import csv as csv_module
import dataclasses
import io
import math
import pathlib
import statistics
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F4FC9", "#8C564B")
"""Okabe and Ito's colours (two added at the end): told apart under every common colour blindness."""
GREY = "#8A8F98"
INK = "#22262B"


class Spread(NamedTuple):
    """A mean over `count` runs with its sample standard deviation; a single run has none (0)."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Mean and sample standard deviation of some values.

        Raises:
          statistics.StatisticsError: there are none.
        """
        values = list(values)
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), std, len(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
      title: one line; a heading in Markdown.
      columns: their names, units included.
      rows: one cell a column: str, int, float, Spread or None.
      digits: decimals of floats and spreads.
      note: a line below the table, for what a reader must know to read it.
      best: names of columns whose largest number is marked, where there are two or more.
      lowest: names of columns whose smallest number is marked, likewise.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    digits: int = 2
    note: str = ""
    best: tuple[str, ...] = ()
    lowest: tuple[str, ...] = ()

    def __post_init__(self):
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"{self.title}: rows without {len(self.columns)} cells: {wrong}")


def markdown(table: Table) -> str:
    """The table as Markdown: heading, rows, note; the best numbers in bold."""
    cells = _texts(table, lambda text: f"**{text}**")
    right = _numeric(table)
    lines = [f"### {table.title}", ""] if table.title else []
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "|".join(" ---: " if number else " :--- " for number in right) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def terminal(table: Table) -> str:
    """The table as aligned text; the best numbers carry a star."""
    cells = [list(table.columns), *_texts(table, lambda text: f"{text} *")]
    # A star must not move the digits of its column.
    starred = [any(row[i].endswith(" *") for row in cells[1:]) for i in range(len(table.columns))]
    for row in cells[1:]:
        for i, star in enumerate(starred):
            if star and not row[i].endswith(" *"):
                row[i] += "  "
    widths = [max(_width(row[i]) for row in cells) for i in range(len(table.columns))]
    right = _numeric(table)
    lines = [
        "  ".join(_pad(cell, width, number) for cell, width, number in zip(row, widths, right))
        for row in cells
    ]
    rule = "─" * max(_width(line) for line in lines)
    lines = [table.title, rule, lines[0], rule, *lines[1:], rule]
    if table.note:
        lines.append(table.note)
    return "\n".join(line.rstrip() for line in lines if line) + "\n"


def csv(tables: Iterable[Table]) -> str:
    """Tables of the same columns as one CSV, title first; a Spread becomes mean, standard deviation and count.

    Raises:
      ValueError: the tables' columns differ.
    """
    tables = list(tables)
    columns = tables[0].columns if tables else ()
    if any(table.columns != columns for table in tables):
        raise ValueError("one CSV holds one kind of table: their columns differ")
    spread = [
        any(isinstance(row[i], Spread) for table in tables for row in table.rows)
        for i in range(len(columns))
    ]
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    names = [
        [name, f"{name} std", f"{name} runs"] if s else [name] for name, s in zip(columns, spread)
    ]
    writer.writerow(["table", *(name for group in names for name in group)])
    for table in tables:
        for row in table.rows:
            record = [table.title]
            for cell, wide in zip(row, spread):
                if isinstance(cell, Spread):
                    record += list(cell)
                else:
                    record += ["" if cell is None else cell, *(["", ""] if wide else [])]
            writer.writerow(record)
    return out.getvalue()


def seconds(value: float) -> str:
    """A duration a person can read: 0.8 s, 42 s, 3 min 20 s, 2 h 05 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Matplotlib settings of every figure: no display, no chart junk, legible at half size."""
    import cycler
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "axes.axisbelow": True,
            "axes.edgecolor": "#C7CBD1",
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.prop_cycle": cycler.cycler(color=PALETTE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "figure.titlesize": 13,
            "figure.titleweight": "bold",
            "font.size": 10,
            "grid.color": "#E6E8EB",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "savefig.dpi": 144,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        yield


def save_figure(figure: Any, path: str | pathlib.Path) -> pathlib.Path:
    """Write a matplotlib figure as PNG, whole or not at all."""
    from core_jax.data import files

    path = pathlib.Path(path)
    with figure_style(), files.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _texts(table: Table, mark) -> list[list[str]]:
    rows = [[_text(cell, table.digits) for cell in row] for row in table.rows]
    for name, pick in [*((n, max) for n in table.best), *((n, min) for n in table.lowest)]:
        i = table.columns.index(name)
        numbers = [_number(row[i]) for row in table.rows]
        known = [n for n in numbers if n is not None]
        if len(known) < 2:
            continue
        # Equal as printed is equal: two rows that read the same must not be told apart.
        top = round(pick(known), table.digits)
        for row, number in zip(rows, numbers):
            if number is not None and round(number, table.digits) == top:
                row[i] = mark(row[i])
    return rows


def _number(cell: Any) -> float | None:
    value = cell.mean if isinstance(cell, Spread) else cell
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _text(cell: Any, digits: int) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Spread):
        mean = f"{cell.mean:.{digits}f}"
        return f"{mean} ± {cell.std:.{digits}f}" if cell.count > 1 else mean
    if isinstance(cell, float):
        return f"{cell:.{digits}f}"
    return str(cell)


def _numeric(table: Table) -> list[bool]:
    return [
        all(row[i] is None or _number(row[i]) is not None for row in table.rows)
        for i in range(len(table.columns))
    ]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def write_tables(
    folder: str | pathlib.Path, name: str, tables: Sequence[Table]
) -> list[pathlib.Path]:
    """Write tables of one kind as name.md and name.csv."""
    from core_jax.data import files

    folder = pathlib.Path(folder)
    paths = [folder / f"{name}.md", folder / f"{name}.csv"]
    files.atomic_write(paths[0], "\n".join(markdown(table) for table in tables))
    files.atomic_write(paths[1], csv(tables))
    return paths
