"""Statistics of protocols against scipy, harmonic means by both definitions, and what may stand in one table."""

import statistics

import numpy as np
import pytest
from scipy import stats

from core_jax.train.report import Spread
from launch.protocols import numbers, published, reporting, sets, tables


def line(method, dataset, split, seed, accuracy, **more):
    return {
        "method": method,
        "dataset": dataset,
        "trained_on": dataset,
        "protocol": "base_to_new",
        "split": split,
        "seed": seed,
        "accuracy": accuracy,
        "setting": "inductive",
        "shots": 16,
        "student": "B/16",
        "teacher": None,
        "run": f"{method}/{dataset}/{seed}",
        **more,
    }


def found(rows):
    return numbers.series(rows)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_intervals_are_students(count):
    values = np.random.default_rng(count).normal(70.0, 3.0, count)
    spread = Spread.of(values.tolist())
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    width = numbers.half_width(spread)
    assert (spread.mean - width, spread.mean + width) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert numbers.half_width(Spread.of([70.0])) is None


def test_harmonic_means_by_both_definitions():
    base, new = {1: 60.0, 2: 80.0}, {1: 40.0, 2: 50.0}
    pair = numbers.Pair(base, new)
    single = [statistics.harmonic_mean([60.0, 40.0]), statistics.harmonic_mean([80.0, 50.0])]
    assert pair.hm_of_averages == pytest.approx(statistics.harmonic_mean([70.0, 45.0]))
    assert pair.hms.mean == pytest.approx(statistics.fmean(single))
    assert pair.hms.std == pytest.approx(statistics.stdev(single))


def test_published_zero_shot_rows_give_the_published_averages():
    rows = [
        line("zeroshot", name, split, 1, value)
        for name, pair in published.ZERO_SHOT.items()
        for split, value in zip(("base", "new"), pair)
    ]
    made = tables.tables(found(rows))
    whole = made["base_to_new"][-1]
    assert "average of 11" in whole.title
    ((_, _, _, base, _, new, _, hm, hms, _),) = whole.rows
    clip = published.AVERAGES[0]
    assert (base.mean, new.mean, hm) == pytest.approx((clip.base, clip.new, clip.hm), abs=0.005)
    assert hms.mean == pytest.approx(71.59, abs=0.005)


def test_averages_over_data_sets_have_their_own_spread():
    rows = [
        line("coop", name, split, seed, value + step)
        for name, value in (("dtd", 50.0), ("eurosat", 70.0))
        for split in ("base", "new")
        for seed, step in ((1, 0.0), (2, 4.0))
    ]
    whole = tables.tables(found(rows))["base_to_new"][2]
    assert "average of 2" in whole.title
    assert whole.rows[0][3] == Spread.of([60.0, 64.0])


def test_zero_shot_in_many_templates_is_a_row_of_its_own():
    rows = [
        line("zeroshot", "dtd", split, seed, value, run=f"{value}/seed{seed}", switches=switches)
        for value, switches in ((50.0, {}), (55.0, {"templates": ["imagenet_80", "a {}."]}))
        for split in ("base", "new")
        for seed in (1, 2)
    ]
    (table,) = tables.tables(found(rows))["base_to_new"]
    assert [row[0] for row in table.rows] == ["zeroshot (imagenet_80, a {}.)", "zeroshot"]


def test_whole_training_sets_are_called_that():
    rows = [line("zeroshot", "dtd", split, 1, 50.0, shots=0) for split in ("base", "new")]
    (table,) = tables.tables(found(rows))["base_to_new"]
    assert table.title == "Base to new classes, dtd (inductive, all pictures, student B/16)"


def test_training_on_all_classes_without_names_has_a_table_and_a_picture():
    rows = [line("kdpl", "dtd", "all", seed, 50.0, protocol="class_agnostic") for seed in (1, 2)]
    table, _ = tables.tables(found(rows))["class_agnostic"]
    assert table.columns[3:] == ("dtd %",)
    (picture,) = reporting.pictures(rows)
    assert picture.name == "class_agnostic.png"


def test_settings_never_share_a_table():
    rows = [
        line(method, "dtd", split, 1, value, setting=setting)
        for method, setting, value in (
            ("coop", "inductive", 60.0),
            ("maple", "inductive", 70.0),
            ("promptkd_kdpl", "transductive", 90.0),
        )
        for split in ("base", "new")
    ]
    first, second = tables.tables(found(rows))["base_to_new"]
    assert [row[:2] for row in first.rows] == [("maple", "inductive"), ("coop", "inductive")]
    assert [row[:2] for row in second.rows] == [("promptkd_kdpl", "transductive")]
    for table in (first, second):
        assert "setting" in table.columns
    shown = tables.tables(found(rows))["published"]
    assert not any(
        {"inductive", "transductive"} <= {row[table.columns.index("setting")] for row in table.rows}
        for table in shown
        if "setting" in table.columns
    )


def test_students_shots_and_training_sets_stay_apart():
    own = {"protocol": "cross_dataset", "trained_on": "imagenet"}
    rows = [
        line("coop", "dtd", "all", 1, 50.0, **{**own, **more})
        for more in ({}, {"student": "B/32"}, {"shots": 4}, {"trained_on": "food101"})
    ]
    made = tables.tables(found(rows))["cross_dataset"]
    assert len(made) == 4
    assert len({table.title for table in made}) == 4


def test_runs_with_other_teachers_are_rows_of_their_own():
    rows = [
        line("fdbpl", "dtd", split, 1, 50.0, teacher=teacher, run=f"{teacher}/fdbpl/seed1")
        for teacher in ("large", "huge")
        for split in ("base", "new")
    ]
    (table,) = tables.tables(found(rows))["base_to_new"]
    assert [row[0] for row in table.rows] == ["fdbpl", "fdbpl (huge/fdbpl)"]


def transfer_rows(protocol, others, trained_on="imagenet", seeds=(1, 2, 3)):
    return [
        line(method, name, "all", seed, value + seed, protocol=protocol, trained_on=trained_on)
        for method, value in (("zeroshot", 50.0), ("coop", 55.0))
        for name in (trained_on, *others)
        for seed in seeds
    ]


def test_transfer_averages_the_other_data_sets_only():
    rows = transfer_rows("cross_dataset", ("dtd", "eurosat"))
    for row in rows:
        row["accuracy"] += 30.0 * (row["dataset"] == "imagenet")
    table, widths = tables.tables(found(rows))["cross_dataset"]
    assert table.columns[3:] == ("imagenet %", "dtd %", "eurosat %", "average of 2 %")
    assert [row[0] for row in table.rows] == ["coop", "zeroshot"]
    assert table.rows[0][3].mean == pytest.approx(87.0)
    assert table.rows[0][-1] == Spread.of([56.0, 57.0, 58.0])
    assert widths.rows[0][-1] == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))


def test_a_run_of_both_transfers_keeps_its_training_set_in_both():
    rows = transfer_rows("cross_dataset", ("dtd",))
    further = [
        row
        for row in transfer_rows("domain_generalisation", ("imagenetv2",))
        if row["dataset"] != "imagenet"
    ]
    made = tables.tables(found(rows + further))
    assert made["cross_dataset"][0].columns[3:] == ("imagenet %", "dtd %")
    assert made["domain_generalisation"][0].columns[3:] == ("imagenet %", "imagenetv2 %")


def test_published_numbers_stand_beside_real_data_only():
    real = tables.tables(found(transfer_rows("domain_generalisation", ("imagenetv2",))))
    assert [table.note for table in real["published"]] == [published.NOTE]
    crossed = tables.tables(found(transfer_rows("cross_dataset", ("dtd",))))
    (theirs,) = crossed["published"]
    row = dict(zip(theirs.columns, theirs.rows[2], strict=True))
    assert (row["method"], row["dtd %"], row["average of 10 %"]) == ("MaPLe", 46.49, 66.30)
    rendered = transfer_rows("domain_generalisation", ("world_blur",), "world_objects")
    made = tables.tables(found(rendered))
    assert "published" not in made
    assert "synthetic" in made["domain_generalisation"][0].title


def test_published_rows_are_consistent():
    for row in published.AVERAGES:
        assert statistics.harmonic_mean([row.base, row.new]) == pytest.approx(row.hm, abs=0.01)
    for row in published.DOMAINS:
        mean = statistics.fmean([row.v2, row.sketch, row.a, row.r])
        assert mean == pytest.approx(row.mean, abs=0.01)
    for row in published.CROSSING:
        assert len(row.others) == len(sets.OTHERS)
        assert statistics.fmean(row.others) == pytest.approx(row.mean, abs=0.01)


def shot_rows(datasets=("dtd", "eurosat")):
    rows = []
    for name in datasets:
        own = {"protocol": "few_shot"}
        rows += [line("zeroshot", name, "all", seed, 40.0, shots=1, **own) for seed in (1, 2)]
        rows += [
            line("coop", name, "all", seed, 40.0 + shots + seed, shots=shots, **own)
            for shots in (1, 2, 4)
            for seed in (1, 2)
        ]
    return rows


def test_few_shot_curves_start_at_zero_shot():
    first, widths, *_ = tables.tables(found(shot_rows()))["few_shot"]
    assert first.columns[3:] == ("0 shots %", "1 shots %", "2 shots %", "4 shots %")
    rows = {row[0]: row[3:] for row in first.rows}
    assert rows["zeroshot"][0] == Spread(40.0, 0.0, 2)
    assert rows["zeroshot"][1:] == (None, None, None)
    assert rows["coop"][0] is None
    assert rows["coop"][3] == Spread.of([45.0, 46.0])
    assert widths.rows[0][-1] == pytest.approx(stats.t.ppf(0.975, 1) * 0.5)


def test_pictures_for_every_protocol():
    halves = [
        line(m, "dtd", s, 1, v) for m, v in (("a", 50.0), ("b", 60.0)) for s in ("base", "new")
    ]
    cases = {
        "base_to_new_dtd.png": halves,
        "cross_dataset.png": transfer_rows("cross_dataset", ("dtd", "eurosat")),
        "few_shot.png": shot_rows(),
    }
    for name, rows in cases.items():
        (picture,) = reporting.pictures(rows)
        assert picture.name == name
    many = [line(f"m{i}", n, "all", 1, 50.0 + i) for i in range(10) for n in ("dtd", "eurosat")]
    many = [row | {"protocol": "cross_dataset", "trained_on": "dtd"} for row in many]
    (axis,) = reporting.pictures(many)[0].figure.axes
    styles = {(bar.get_facecolor(), bar.get_hatch()) for bar in axis.patches}
    assert len(styles) == 10
    figure = reporting.pictures(cases["few_shot.png"])[0].figure
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["dtd", "eurosat", "average of 2"]
