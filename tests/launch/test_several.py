"""Several runs in one program against the same runs one after the other: files, results, resuming, tools."""

import json
import shutil

import jax
import numpy as np
import pytest

from launch import compare, config, gather, report, results, runs, several, tasks
from launch.comparisons import base as comparisons

# Of a result line, what depends on when it was made.
TIMES = ("seconds_train", "git", "run")


@pytest.fixture(scope="module")
def fdbpl(base, comparison):
    """FDBPL as the comparison's configurations have it, but for both of its seeds."""
    places = {"seeds": [1, 2], "workdir": comparison, "lookup": None}
    common = comparisons.named("fdbpl").changes(base, seed=1, **places)
    return config.override(base, {**common, "method": "fdbpl", "seeds": (1, 2)})


@pytest.fixture(scope="module")
def program(fdbpl, tmp_path_factory):
    """The folder of a finished program of two seeds, evaluated."""
    folder = tmp_path_factory.mktemp("several") / "fdbpl"
    several.evaluate(folder, several.train(fdbpl, folder, progress=False))
    return folder


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("seed", ["seed1", "seed2"])
def test_each_seed_is_the_run_it_is_alone(comparison, program, seed):
    mine, alone = program / seed, comparison / "fdbpl" / seed
    assert (mine / "config.json").read_text() == (alone / "config.json").read_text()
    (arrays, pins), (expected, others) = runs.learned(mine), runs.learned(alone)
    assert pins == others
    compare_leaves = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(compare_leaves, arrays, expected)
    for line, other in zip(
        read_lines(mine / runs.RESULTS), read_lines(alone / runs.RESULTS), strict=True
    ):
        assert {k: v for k, v in line.items() if k not in TIMES} == {
            k: v for k, v in other.items() if k not in TIMES
        }
        assert line["seconds_train"] > 0


def test_seeds_differ_and_share_one_copy_of_what_is_frozen(fdbpl):
    first, second = (
        task.evaluate.inputs for task in tasks.build_several(list(several.members(fdbpl).values()))
    )
    assert first.student is second.student
    assert first.lookup is second.lookup
    assert first.plans is second.plans
    assert first.pins["fewshot"] != second.pins["fewshot"]


def test_judged_pictures_are_looked_at_once(fdbpl):
    one, two = tasks.build_several(list(several.members(fdbpl).values()))
    assert one.evaluate.pictures("base")[0] is two.evaluate.pictures("base")[0]


def test_an_interrupted_program_goes_on(fdbpl, program, tmp_path):
    folder = shutil.copytree(program, tmp_path / "cut")
    # As after a kill between the checkpoint of step 2 and the end.
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "timing.json").unlink()
    for seed in ("seed1", "seed2"):
        shutil.rmtree(folder / seed)
    with pytest.raises(config.ConfigError, match="seed1, seed2 not trained to the end"):
        several.evaluate(folder)
    several.train(fdbpl, folder, resume=True, progress=False)
    for seed in ("seed1", "seed2"):
        again, before = runs.learned(folder / seed)[0], runs.learned(program / seed)[0]
        jax.tree.map(np.testing.assert_array_equal, again, before)
        assert json.loads((folder / seed / "timing.json").read_text())["restarts"] == 1


@pytest.mark.slow
def test_a_kill_between_two_folders_leaves_one_to_write(fdbpl, program, tmp_path):
    folder = shutil.copytree(program, tmp_path / "cut")
    (folder / "seed2" / "timing.json").unlink()
    before = (folder / "seed1" / "timing.json").read_bytes()
    several.train(fdbpl, folder, resume=True, progress=False)
    assert runs.is_trained(folder / "seed2")
    assert (folder / "seed1" / "timing.json").read_bytes() == before


def test_reports_count_each_seed_once(program, tmp_path):
    rows = results.read([program])
    assert {(row["seed"], row["split"]) for row in rows} == {
        (seed, split) for seed in (1, 2) for split in ("base", "new")
    }
    assert [run.seed for run in gather.find([program])] == [1, 2]
    (summary,) = results.summarise(rows)
    assert (summary.label, summary.seeds) == ("fdbpl", (1, 2))
    assert "fdbpl" in report.write([program], tmp_path).read_text()


def test_the_program_is_no_run(program):
    for call in (runs.learned, runs.restore, runs.evaluate):
        with pytest.raises(config.ConfigError, match=r"name one of them: .*fdbpl/seed1, "):
            call(program)
    assert runs.restore(program / "seed2").step == 4


@pytest.mark.slow
def test_learning_rates_are_trained_side_by_side(base, fdbpl, tmp_path):
    both = config.override(fdbpl, {"lrs": (0.05, 0.5), "seeds": (2,)})
    assert list(several.members(both)) == ["lr0.05/seed2", "lr0.5/seed2"]
    rates = config.override(fdbpl, {"lrs": (0.05, 0.5), "seeds": ()})
    lines = several.evaluate(tmp_path, several.train(rates, tmp_path, progress=False))
    assert {line["run"] for line in lines} == {"lr0.05", "lr0.5"}
    assert len({line["config_digest"] for line in lines}) == 2
    alone = config.override(rates, {"lrs": (), "lr": 0.5})
    runs.train(alone, tmp_path / "alone", progress=False)
    expected, _ = runs.learned(tmp_path / "alone")
    learned, _ = runs.learned(tmp_path / "lr0.5")
    compare_leaves = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(compare_leaves, learned, expected)
    other, _ = runs.learned(tmp_path / "lr0.05")
    assert np.abs(other["context"]["positive"] - learned["context"]["positive"]).max() > 1e-4


@pytest.mark.slow
def test_a_comparison_trains_its_seeds_together(base, comparison, program, tmp_path, capsys):
    # Compiled as the program of the fixture was: other optimisations round in another way.
    jax.config.update("jax_disable_most_optimizations", True)
    lookup = comparison / "lookup"
    chosen = compare.arms(["zeroshot", "fdbpl"], {})
    compare.compare(base, tmp_path, chosen, seeds=[1, 2], lookup=lookup, together=True)
    assert "fdbpl, seed1, seed2: training in one program" in capsys.readouterr().out
    for seed in ("seed1", "seed2"):
        mine, expected = runs.learned(tmp_path / "fdbpl" / seed)[0], runs.learned(program / seed)[0]
        jax.tree.map(np.testing.assert_array_equal, mine, expected)
    compare.compare(base, tmp_path, chosen, seeds=[1, 2], lookup=lookup)
    assert capsys.readouterr().out.count("done before") == 4


def test_what_cannot_be_several_is_refused(fdbpl, program, tmp_path):
    with pytest.raises(ValueError, match=r"config\.seeds=\(1, 1\): expected different"):
        several.members(config.override(fdbpl, {"seeds": (1, 1)}))
    with pytest.raises(ValueError, match=r"of the tasks only fdbpl .* not gaze"):
        several.members(config.override(fdbpl, {"task": "gaze"}))
    with pytest.raises(ValueError, match="grows for one run at a time"):
        several.members(config.override(fdbpl, {"data.source": "grow"}))
    with pytest.raises(ValueError, match="several runs"):
        tasks.build(fdbpl)
    (tmp_path / "seed2").mkdir()
    (tmp_path / "seed2" / "config.json").write_text('{"task": "fdbpl"}')
    with pytest.raises(ValueError, match="holds a run with another configuration"):
        several.train(fdbpl, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_numbers_on_the_command_line(base):
    for text, seeds in (("1,2,3", (1, 2, 3)), ("(4,)", (4,)), ("()", ())):
        assert config.parse_values(base, {"seeds": text})["seeds"] == seeds
    assert config.parse_values(base, {"lrs": "0.01,2e-2"})["lrs"] == (0.01, 0.02)
