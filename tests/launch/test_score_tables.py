"""Tables of segmentation runs against means, deviations and paired differences worked out by hand; chosen examples."""

import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from launch.comparisons import examples, gba, score_tables, scores

MIOU = {"host": {1: 30.0, 2: 34.0, 3: 29.0}, "both": {1: 33.0, 2: 35.0, 3: 34.0}}


def line(method, split, seed, miou, **more):
    zeroshot = method == "zeroshot"
    return {
        "task": "gba",
        "dataset": "world_scenes",
        "split": split,
        "seed": seed,
        "host": "maskclip" if zeroshot else "cost",
        "adapters": "none" if method in ("zeroshot", "host") else method,
        "clip": "world:student",
        "vocabulary": 257,
        "images": 200,
        "miou": miou,
        "absent": 40.0 - miou if miou is not None else None,
        "pacc": 90.0,
        "seen": miou,
        "unseen": None,
        "harmonic": None,
        "shift": None,
        "run": f"runs/{method}/seed{seed}",
        "seconds_train": 10.0 * seed,
        "clip_digest": "ab" * 32,
        **more,
    }


def rows(splits=("val",), **more):
    return [
        line(method, split, seed, value, **more)
        for method, values in MIOU.items()
        for seed, value in values.items()
        for split in splits
    ]


def cells(table, label):
    (row,) = [row for row in table.rows if row[0] == label]
    return dict(zip(table.columns, row))


def test_means_and_sample_deviations_over_seeds():
    found = [*rows(("both", "val")), line("zeroshot", "val", 1, 5.0)]
    (table,) = score_tables.tables(scores.summarise(found))["results"]
    assert table.columns == ("method", "seeds", "val %", "both %", "train s")
    assert [row[0] for row in table.rows] == ["zeroshot", "host", "both"]
    host = cells(table, "host")
    values = list(MIOU["host"].values())
    assert host["val %"].mean == pytest.approx(statistics.fmean(values))
    assert host["val %"].std == pytest.approx(statistics.stdev(values))
    # A run's time stands in the lines of both splits and counts once.
    assert host["train s"].count == 3
    assert cells(table, "zeroshot")["both %"] is None
    assert table.note.endswith(
        "over seeds. val: seen words, known styles; both: unseen words, new styles."
    )


def test_gains_are_paired_by_seed():
    found = [*rows(), line("both", "val", 4, 90.0), line("zeroshot", "val", 1, 5.0)]
    miou, absent = score_tables.tables(scores.summarise(found))["gain"]
    pairs = [3.0, 1.0, 5.0]
    assert [row[0] for row in miou.rows] == ["both"]
    gain = cells(miou, "both")
    # Seed 4 has no host beside it, and the training-free host is another one.
    assert (gain["seeds"], gain["val"].count) == (3, 3)
    assert gain["val"].mean == pytest.approx(statistics.fmean(pairs))
    assert gain["val"].std == pytest.approx(statistics.stdev(pairs))
    assert cells(absent, "both")["val"].mean == pytest.approx(-3.0)


def test_seen_and_unseen_stand_only_where_a_split_holds_both():
    plain = score_tables.tables(scores.summarise(rows()))["measures"]
    assert plain[0].columns == ("method", "seeds", "absent %", "pACC %")
    mixed = [*rows(), *rows(("all",), unseen=10.0, harmonic=15.0, pq=20.0)]
    val, every = score_tables.tables(scores.summarise(mixed))["measures"]
    assert val.columns == every.columns
    assert cells(val, "host")["seen mIoU %"] is None
    assert cells(every, "host")["harmonic %"].mean == 15.0
    assert cells(every, "both")["PQ %"].mean == 20.0
    assert "PQ %" in every.best
    assert "absent %" not in every.best


def test_style_shifts_have_a_table_where_they_were_judged():
    assert "shift" not in score_tables.tables(scores.summarise(rows()))
    found = [*rows(shift={"noise": 12.0, "blur": 8.0, "mean": 10.0}), *rows(("both",))]
    (table,) = score_tables.tables(scores.summarise(found))["shift"]
    assert table.columns[2:] == ("unshifted", "noise", "blur", "mean")
    assert cells(table, "both")["mean"].mean == 10.0
    assert cells(table, "both")["unshifted"].mean == pytest.approx(34.0)


def test_nothing_scored_is_a_gap_not_a_zero():
    (table,) = score_tables.tables(scores.summarise([line("host", "val", 1, None)]))["results"]
    assert cells(table, "host")["val %"] is None
    assert gba.score([line("host", "val", 1, None)]) == "mIoU val no class to judge"


def test_other_hosts_and_data_sets_stay_apart():
    found = [*rows(), *rows(host="masks"), *rows(dataset="pc59", vocabulary=59)]
    tables = score_tables.tables(scores.summarise(found))
    labels = [row[0] for row in tables["results"][0].rows]
    assert labels == ["host (cost)", "host (masks)", "both (cost)", "both (masks)"]
    assert [row[0] for row in tables["gain"][0].rows] == ["both (cost)", "both (masks)"]
    assert "pc59 (CLIP world:student, 59 classes)" in tables["results_2"][0].title


def test_details_name_digests_and_pictures():
    table = score_tables.details(scores.summarise(rows(("val", "both"))))
    both = cells(table, "both")
    assert (both["adapters"], both["seeds"], both["digests"]) == (
        "both",
        "1, 2, 3",
        "clip abababab",
    )
    assert both["pictures"] == "val 200, both 200"


def test_examples_are_the_largest_gains_and_losses():
    truth = np.zeros((1, 100), np.int32)
    right = {"host": np.full(5, 50), "sda": np.full(5, 10), "both": np.array([50, 90, 20, 60, 45])}
    asked = {}

    def label_maps(method, positions):
        asked[method] = positions
        return {
            entry: {
                place: examples.LabelMap(
                    np.zeros((1, 100, 3), np.uint8),
                    truth,
                    (np.arange(100) >= right[method][place]).astype(np.int32)[None],
                    ("a", "b"),
                )
                for place in places
            }
            for entry, places in positions.items()
        }

    chosen = examples.choose({m: m for m in right}, {"world:val": 5}, label_maps)["world:val"]
    titles = [row["title"].splitlines() for row in chosen]
    assert [gain for _, gain in titles] == [
        "+40.0 points",
        "+10.0 points",
        "−5.0 points",
        "−30.0 points",
    ]
    assert titles[0][0] == "+both against host"
    assert list(chosen[0]["predictions"]) == ["host", "+SDA", "+both"]
    # Every picture is predicted by the two that are compared, the rest only where they are shown.
    assert asked["both"] == {"world:val": [0, 1, 2, 3, 4]}
    assert asked["sda"] == {"world:val": [1, 3, 4, 2]}
    assert examples.choose({"host": SimpleNamespace()}, {"world:val": 5}, label_maps) == {}
