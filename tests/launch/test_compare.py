"""The comparison end to end: what it leaves, what a second call does, what is read from it."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fdbpl_jax import config as fdbpl_config
from fdbpl_jax.learners import LEARNERS
from launch import compare, config, gather, report, results, runs
from launch.comparisons import fdbpl
from tests.launch.conftest import METHODS


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_run_leaves_results_for_base_and_new(comparison):
    for method in METHODS:
        for seed in (1, 2):
            lines = read_lines(comparison / method / f"seed{seed}" / "results.jsonl")
            assert [line["split"] for line in lines] == ["base", "new"]
            for line in lines:
                assert line["seed"] == seed
                assert line["accuracy"] == pytest.approx(100 * line["correct"] / line["total"])
                assert line["steps"] == (0 if method == "zeroshot" else 4)
                assert "variant" not in line


def test_result_lines_carry_every_documented_field(comparison):
    (line, _) = read_lines(comparison / "fdbpl" / "seed1" / "results.jsonl")
    documented = (
        "method dataset split seed shots setting accuracy correct total train_classes student teacher student_digest "
        "teacher_digest lookup_digest fewshot_digest text_mode switches steps seconds_build seconds_train device dtype "
        "versions git"
    )
    assert set(documented.split()) <= set(line)
    assert line["seconds_train"] > 0
    assert line["seconds_build"] > 0


def test_the_report_shows_all_methods_and_links_its_pictures(comparison):
    folder = comparison / "report"
    text = (folder / "report.md").read_text()
    assert "Base to new classes, world_objects (inductive, 4 shots, student" in text
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert {"base_new.png", "time.png", "training.png", "regions.png"} <= set(pictures)
    assert "similarity_fdbpl.png" in pictures
    for name in pictures:
        assert f"]({name})" in text
        with Image.open(folder / name) as image:
            assert np.asarray(image.convert("L")).std() > 1
    with open(folder / "results.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(METHODS)
    summaries = {item.label: item for item in results.summarise(results.read([comparison]))}
    assert float(rows["coop"]["HM %"]) == pytest.approx(summaries["coop"].hm.mean)
    assert rows["coop"]["seeds"] == "2"


def test_a_second_call_finds_everything_done(comparison, base, capsys):
    before = {p: p.stat().st_mtime_ns for p in comparison.rglob("results.jsonl")}
    compare.compare(base, comparison, compare.arms(["coop", "fdbpl"], {}), seeds=[1, 2])
    assert {p: p.stat().st_mtime_ns for p in comparison.rglob("results.jsonl")} == before
    out = capsys.readouterr().out
    assert out.count("done before") == 4
    assert "zeroshot" not in out


def test_another_configuration_is_refused(comparison, base):
    changed = config.override(base, {"lr": 0.01})
    with pytest.raises(ValueError, match=r"lr: 0\.05 -> 0\.01"):
        compare.compare(changed, comparison, compare.arms(["coop"], {}), seeds=[1])


def test_an_interrupted_run_ends_in_the_same_parameters(comparison, base, tmp_path):
    shutil.copytree(comparison / "lookup", tmp_path / "lookup")
    arms = compare.arms(["fdbpl+no_cascade"], compare.VARIANTS)
    compare.compare(base, tmp_path, arms, seeds=[1])
    folder = tmp_path / "fdbpl+no_cascade" / "seed1"
    (line, _) = read_lines(folder / "results.jsonl")
    assert (line["method"], line["variant"]) == ("fdbpl", "fdbpl+no_cascade")
    whole, _ = runs.learned(folder)
    # As after a kill between the checkpoint of step 2 and the end.
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "timing.json").unlink()
    (folder / "results.jsonl").unlink()
    compare.compare(base, tmp_path, arms, seeds=[1])
    again, _ = runs.learned(folder)
    for sign in ("positive", "negative"):
        np.testing.assert_array_equal(again["context"][sign], whole["context"][sign])
    assert json.loads((folder / "timing.json").read_text())["restarts"] == 1


def test_learned_parameters_equal_the_restored_ones(comparison):
    folder = comparison / "fdbpl" / "seed2"
    learned, pins = runs.learned(folder)
    restored = runs.restore(folder)
    assert restored.step == 4
    assert set(learned) == {"context"}
    for sign, value in learned["context"].items():
        np.testing.assert_array_equal(value, restored.params.trainable["context"][sign])
    assert pins == dict(restored.task.pins)
    assert runs.learned(comparison / "zeroshot" / "seed1") == ({}, {})


def test_similarities_are_cosines_of_stored_regions(comparison):
    run = gather.first_of_each_label(gather.find([comparison]))["fdbpl"]
    positive, negative, weight = gather.similarities(run, pictures=3, regions=4)
    assert positive.shape == negative.shape == weight.shape == (12,)
    for values in (positive, negative):
        assert np.all(np.abs(values) <= 1 + 1e-3)
    assert np.all((weight >= -1e-3) & (weight <= 1 + 1e-3))
    assert (
        gather.similarities(gather.first_of_each_label(gather.find([comparison]))["coop"]) is None
    )


def test_a_report_of_some_methods(comparison, tmp_path):
    report.write([comparison / "coop", comparison / "zeroshot"], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "fdbpl" not in text
    assert not list(tmp_path.glob("similarity*"))


def test_every_learner_is_a_row_under_every_supervision(tmp_path):
    """On the embedded world, whose student is shallow, and on a real one."""
    for file, depth in (("fdbpl_world.py", 2), ("fdbpl_caltech101.py", 9)):
        base = config.load(f"configs/{file}", [])
        arms = compare.arms(list(fdbpl.METHODS), {})
        jobs = {job.arm.label: job for job in compare.jobs(base, tmp_path, arms, seeds=[1])}
        read = {label: fdbpl_config.read(job.config.to_dict()) for label, job in jobs.items()}
        assert {label: one.label for label, one in read.items()} == {label: label for label in read}
        learned = {(one.learner, one.method) for one in read.values() if one.trained}
        ways = [(name, way) for name in LEARNERS for way in ("ce", "kdpl", "fdbpl")]
        assert learned == {way for way in ways if way[0] != "promptkd" or way[1] == "kdpl"}
        assert read["maple_fdbpl"].prompt.depth == depth
        assert read["maple"].prompt.words == "of a"
        # Labels of all classes are other labels.
        assert read["fdbpl"].lookup.dir == read["maple_fdbpl"].lookup.dir
        assert read["promptkd"].lookup.dir == f"{read['fdbpl'].lookup.dir}_all_classes"
    (variant,) = compare.jobs(
        base, tmp_path, compare.arms(["maple+flat"], {"flat": {"prompt.depth": 1}}), seeds=[1]
    )
    assert variant.config.prompt.depth == 1


def test_unknown_names_are_all_reported():
    with pytest.raises(config.ConfigError) as error:
        compare.arms(["cop", "fdbpl+nothing", "coop"], compare.VARIANTS)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("--methods=cop: no such method; there are zeroshot, coop")
    assert lines[1].startswith("--methods=fdbpl+nothing: no such variant")


@pytest.mark.parametrize("texts", [["1", "two"], ["1", "1"], []])
def test_seeds_are_different_numbers(texts):
    assert compare.read_numbers(["3", "1"]) == [3, 1]
    with pytest.raises(config.ConfigError, match="expected different whole numbers"):
        compare.read_numbers(texts)


def test_the_ablation_has_each_term_off_once(base):
    arms = compare.arms(["ablation"], compare.VARIANTS)
    assert [arm.label for arm in arms] == list(compare.ABLATION)
    for arm in arms:
        config.override(base, arm.changes)


def test_own_variants_take_the_configurations_types(base):
    (variant,) = compare.own_variants(base, ["mild:lr=1,loss.kl=(1,0),loss.dual=False"]).items()
    assert variant == ("mild", {"lr": 1.0, "loss.kl": (1, 0), "loss.dual": False})
    with pytest.raises(config.ConfigError, match=r"config\.lrr=1: there is no such key"):
        compare.own_variants(base, ["x:lrr=1"])
    with pytest.raises(config.ConfigError, match="expected NAME:key=value"):
        compare.own_variants(base, ["x"])


def test_evaluating_again_adds_equal_lines(comparison, tmp_path):
    folder = comparison / "coop" / "seed2"
    before = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    lines = runs.evaluate(folder)
    assert lines == before
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in before))
