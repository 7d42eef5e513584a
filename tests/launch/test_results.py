"""Means over seeds, harmonic means, and what is never ranked together."""

import json

import pytest

from core_jax.train import report
from launch import results

# Zero-shot CLIP B/16, base and new classes of the eleven data sets, and the literature's averages of them.
CLIP = {
    "ImageNet": (72.43, 68.14),
    "Caltech101": (96.84, 94.00),
    "OxfordPets": (91.17, 97.26),
    "StanfordCars": (63.37, 74.89),
    "Flowers102": (72.08, 77.80),
    "Food101": (90.10, 91.22),
    "FGVCAircraft": (27.19, 36.29),
    "SUN397": (69.36, 75.35),
    "DTD": (53.24, 59.90),
    "EuroSAT": (56.48, 64.05),
    "UCF101": (70.53, 77.50),
}


def line(method, dataset, split, seed, accuracy, **more):
    return {
        "method": method,
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "accuracy": accuracy,
        "setting": "inductive",
        "shots": 16,
        "student": "B/16",
        "teacher": None,
        "run": f"{method}/{seed}",
        **more,
    }


def test_the_average_row_is_the_harmonic_mean_of_averages():
    rows = [
        line("zeroshot", name, split, 1, value)
        for name, pair in CLIP.items()
        for split, value in zip(("base", "new"), pair)
    ]
    summaries = results.summarise(rows)
    (average,) = results.averages(summaries)
    assert average.base.mean == pytest.approx(69.34, abs=0.005)
    assert average.new.mean == pytest.approx(74.22, abs=0.005)
    assert average.hm.mean == pytest.approx(71.70, abs=0.005)
    assert average.mean_of_hms == pytest.approx(71.59, abs=0.005)
    table = results.tables(summaries)[-1]
    assert table.title.startswith("Base to new classes, average of 11")
    assert table.note == "HM: harmonic mean of the averages. Mean of HMs: zeroshot 71.59."


def test_seeds_are_averaged_before_the_harmonic_mean():
    rows = []
    for seed, base, new in ((1, 60.0, 40.0), (2, 80.0, 50.0)):
        rows += [
            line("coop", "world", "base", seed, base, seconds_train=10.0 * seed, seconds_build=7.0),
            line("coop", "world", "new", seed, new, seconds_train=10.0 * seed, seconds_build=7.0),
        ]
    (item,) = results.summarise(rows)
    assert item.hm.mean == pytest.approx(2 * 70 * 45 / 115)
    single = [2 * 60 * 40 / 100, 2 * 80 * 50 / 130]
    assert item.hm.std == pytest.approx(report.Spread.of(single).std)
    # Two lines of one run carry the same time: it counts once.
    assert item.seconds_train == report.Spread.of([10.0, 20.0])
    assert (item.seconds_build, item.seeds) == (7.0, (1, 2))


def test_other_settings_and_students_stay_apart():
    rows = [
        line("fdbpl", "world", split, 1, 60.0, **more)
        for split in ("base", "new")
        for more in ({}, {"setting": "transductive", "run": "t"}, {"student": "B/32", "run": "s"})
    ]
    summaries = results.summarise(rows)
    assert len(summaries) == 3
    tables = results.tables(summaries)
    inductive = [table for table in tables if "(inductive" in table.title]
    transductive = [table for table in tables if "(transductive" in table.title]
    assert (len(inductive), len(transductive)) == (2, 1)
    assert all(len(table.rows) == 1 for table in tables)


def test_variants_are_rows_of_their_own_and_ranked():
    rows = [
        line("fdbpl", "world", split, 1, value, variant=variant, run=variant or "-")
        for variant, value in ((None, 60.0), ("no negative prompt", 70.0))
        for split in ("base", "new")
    ]
    (table,) = results.tables(results.summarise(rows))
    assert [row[0] for row in table.rows] == ["no negative prompt", "fdbpl"]


def test_whole_class_lists_have_their_own_table():
    (table,) = results.tables(results.summarise([line("coop", "own", "all", 1, 55.0)]))
    assert table.title.startswith("All classes, own")
    assert table.rows[0][2].mean == 55.0


def write(folder, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_a_repeated_evaluation_counts_once(tmp_path):
    write(tmp_path / "a", line("coop", "w", "base", 1, 1.0), line("coop", "w", "base", 1, 2.0))
    write(tmp_path / "b", line("coop", "w", "base", 2, 3.0))
    rows = results.read([tmp_path])
    assert [row["accuracy"] for row in rows] == [2.0, 3.0]
    assert [row["run"] for row in rows] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_every_bad_line_is_named(tmp_path):
    write(tmp_path / "a", line("coop", "w", "base", 1, 1.0), {"method": "coop"})
    with open(tmp_path / "a" / "results.jsonl", "a") as file:
        file.write('{"half": ')
    with pytest.raises(ValueError, match="not a result line") as error:
        results.read([tmp_path])
    assert len(str(error.value).splitlines()) == 2
    assert "results.jsonl:2: not a result line: lacks accuracy, dataset" in str(error.value)


def test_missing_folders_and_results_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        results.read([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"launch\.evaluate"):
        results.read([tmp_path])


def test_details_name_what_rows_were_made_with():
    rows = [
        line("fdbpl", "w", "base", seed, 1.0, student_digest="ab" * 32, lookup_digest="cd" * 32)
        for seed in (1, 2)
    ]
    table = results.details(results.summarise(rows))
    assert table.rows[0][4:] == ("1, 2", "B/16", "", "student abababab; lookup cdcdcdcd")


def test_unlike_recipes_of_one_method_are_never_averaged():
    rows = [
        line(
            "fdbpl", "w", split, seed, value, config_digest=digest, run=f"runs/{digest}/seed{seed}"
        )
        for split in ("base", "new")
        for seed in (1, 2)
        for digest, value in (("a", 50.0), ("b", 70.0))
    ]
    summaries = results.summarise(rows)
    assert [(item.label, item.base.mean) for item in summaries] == [
        ("fdbpl (runs/a)", 50.0),
        ("fdbpl (runs/b)", 70.0),
    ]
    assert [item.label for item in results.summarise(rows[::2])] == ["fdbpl"]
