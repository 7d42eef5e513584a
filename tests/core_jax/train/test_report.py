"""Tables: the same cells in Markdown, CSV and the terminal."""

import csv
import io
import statistics

import numpy as np
import pytest
from PIL import Image

from core_jax.train import report
from core_jax.train.report import Spread, Table

TABLE = Table(
    title="Accuracies",
    columns=("method", "HM %", "runs", "seconds"),
    rows=(
        ("coop", Spread.of([50.0, 52.0]), 2, 10.0),
        ("a|b", Spread.of([60.123]), 1, None),
        ("fdbpl", Spread.of([60.0, 62.0]), 2, 3.25),
    ),
    note="One note.",
    best=("HM %",),
)


def test_spread_is_the_sample_standard_deviation():
    values = [1.0, 2.0, 4.0]
    assert Spread.of(values) == (statistics.mean(values), statistics.stdev(values), 3)
    assert Spread.of([5.0]) == (5.0, 0.0, 1)


def test_markdown_marks_the_best_and_escapes_bars():
    lines = report.markdown(TABLE).splitlines()
    assert lines[0] == "### Accuracies"
    assert lines[3] == "| :--- | ---: | ---: | ---: |"
    assert lines[4] == "| coop | 51.00 ± 1.41 | 2 | 10.00 |"
    assert lines[5] == "| a\\|b | 60.12 | 1 | – |"
    assert lines[6] == "| fdbpl | **61.00 ± 1.41** | 2 | 3.25 |"
    assert lines[-1] == "One note."


def test_equal_as_printed_is_equally_good():
    rows = (("a", 1.001), ("b", 1.004), ("c", 0.5))
    table = Table(title="", columns=("name", "x"), rows=rows, best=("x",))
    text = report.markdown(table)
    assert "| a | **1.00** |" in text
    assert "| b | **1.00** |" in text
    assert "| c | 0.50 |" in text


def test_a_single_number_is_no_winner():
    table = Table(title="", columns=("name", "x"), rows=(("a", 1.0),), best=("x",))
    assert "**" not in report.markdown(table)


def test_csv_keeps_full_precision_and_spreads():
    rows = list(csv.DictReader(io.StringIO(report.csv([TABLE]))))
    assert [row["method"] for row in rows] == ["coop", "a|b", "fdbpl"]
    assert float(rows[0]["HM % std"]) == statistics.stdev([50.0, 52.0])
    assert float(rows[1]["HM %"]) == 60.123
    assert (rows[1]["seconds"], rows[2]["HM % runs"]) == ("", "2")


def test_csv_of_unlike_tables_is_refused():
    other = Table(title="x", columns=("a",), rows=())
    with pytest.raises(ValueError, match="columns differ"):
        report.csv([TABLE, other])


def test_terminal_columns_line_up():
    table = Table(
        title="T", columns=("name", "x"), rows=(("wide 图", 10.0), ("b", 2.5)), best=("x",)
    )
    lines = report.terminal(table).splitlines()
    assert lines[4] == "wide 图  10.00 *"
    assert lines[5] == "b         2.50"


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="rows without 2 cells"):
        Table(title="T", columns=("a", "b"), rows=((1,),))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(value, text):
    assert report.seconds(value) == text


def test_files_are_written_whole(tmp_path):
    paths = report.write_tables(tmp_path / "new", "table", [TABLE])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["table.csv", "table.md"]
    assert paths[0].read_text() == report.markdown(TABLE)


def test_a_figure_becomes_a_png(tmp_path):
    from matplotlib.figure import Figure

    with report.figure_style():
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1])
    path = report.save_figure(figure, tmp_path / "new" / "plot.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (288, 144)
        assert np.asarray(image.convert("L")).std() > 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["plot.png"]
