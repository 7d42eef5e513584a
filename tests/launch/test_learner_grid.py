"""The grid of learners and supervisions, from result lines written by hand."""

import statistics

import pytest

from launch import results
from launch.comparisons import fdbpl, learner_grid

ROWS = {
    "zeroshot": (60.0, 70.0, 0.0),
    "coop": (80.0, 50.0, 4.0),
    "kdpl_online": (70.0, 70.0, 30.0),
    "fdbpl": (70.0, 72.0, 3.0),
    "maple": (82.0, 60.0, 9.0),
    "maple_fdbpl": (75.0, 74.0, 8.0),
    "maple_fdbpl+low_lr": (99.0, 99.0, 1.0),
}


@pytest.fixture(scope="module")
def summaries() -> list[results.Summary]:
    lines = []
    for label, (base, new, seconds) in ROWS.items():
        method, _, variant = label.partition("+")
        for seed in (1, 2):
            for split, accuracy in {"base": base + seed, "new": new - seed}.items():
                lines.append(
                    {
                        **{"method": method, "dataset": "d", "split": split, "seed": seed},
                        **{"accuracy": accuracy, "seconds_train": seconds + seed, "student": "s"},
                        **({"variant": label} if variant else {}),
                        "run": f"{label}/seed{seed}",
                    }
                )
    return results.summarise(lines)


def test_each_row_stands_in_the_cell_of_its_learner_and_supervision(summaries):
    found = learner_grid.grid(summaries, fdbpl.METHODS)
    cells = {
        learner: {way: row.label for way, row in ways.items()} for learner, ways in found.items()
    }
    assert cells == {
        "coop": {"ce": "coop", "kdpl_online": "kdpl_online", "fdbpl": "fdbpl"},
        "maple": {"ce": "maple", "fdbpl": "maple_fdbpl"},
    }


def test_every_row_of_the_comparison_has_a_cell():
    places = [
        (how["learner"], how["method"], how.get("teacher_source"))
        for label, how in fdbpl.METHODS.items()
        if label != "zeroshot"
    ]
    items = [_item(label) for label in fdbpl.METHODS]
    found = learner_grid.grid(items, fdbpl.METHODS)
    assert sum(map(len, found.values())) == len(places)


def test_tables_hold_harmonic_means_and_seconds(summaries):
    found = learner_grid.grid(summaries, fdbpl.METHODS)
    means, seconds = learner_grid.tables(summaries, found)
    assert means.columns == (
        *("learner", "zero-shot", "hard labels", "KDPL online"),
        *("KDPL from lookup", "FDBPL"),
    )
    row = means.rows[1]
    assert row[0] == "maple"
    assert row[3] is None
    assert row[4] is None
    assert row[1].mean == pytest.approx(statistics.harmonic_mean([61.5, 68.5]))
    assert row[5].mean == pytest.approx(statistics.harmonic_mean([76.5, 72.5]))
    assert seconds.rows[1][1] is None
    assert seconds.rows[1][5].mean == 9.5
    assert seconds.rows[0][3].mean == 31.5


def test_one_learner_needs_no_grid(summaries):
    alone = [item for item in summaries if not item.label.startswith("maple")]
    assert not learner_grid.tables(alone, learner_grid.grid(alone, fdbpl.METHODS))


def test_the_figure_has_a_point_a_row_and_a_line_for_zero_shot(summaries):
    found = learner_grid.grid(summaries, fdbpl.METHODS)
    axis = learner_grid.figure(summaries, found, "title").axes[0]
    points = {
        (float(bar.lines[0].get_xdata()[0]), float(bar.lines[0].get_ydata()[0]))
        for bar in axis.containers
    }
    expected = {
        (row.seconds_train.mean, row.hm.mean) for ways in found.values() for row in ways.values()
    }
    assert points == expected
    assert len(points) == 5
    assert axis.get_lines()[0].get_ydata()[0] == learner_grid.zeroshot(summaries).hm.mean


def _item(label: str) -> results.Summary:
    return results.Summary(
        label=label,
        setting="inductive",
        dataset="d",
        pictures="test",
        shots=1,
        student="s",
        teacher="t",
        seeds=(1,),
    )
