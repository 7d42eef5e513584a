"""python -m launch.train and its relatives, as typed."""

import json
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from core_jax.train import PREEMPTED_EXIT_CODE
from launch import config as config_lib
from launch import runs, tasks

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def file(base, tmp_path) -> pathlib.Path:
    """The tiny configuration as a file; CoOp, which needs no lookup."""
    values = base.to_dict() | {"method": "ce"}
    path = tmp_path / "tiny.py"
    path.write_text(
        "import ml_collections\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({values!r})\n"
    )
    return path


def call(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"launch.{module}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_trained_evaluated_and_then_protected(file, tmp_path):
    workdir = tmp_path / "run"
    done = call("train", f"--config={file}", f"--workdir={workdir}", "--config.lr=0.01")
    assert done.returncode == 0, done.stderr
    assert "Base to new classes, world_objects" in done.stdout
    assert "WARNING" not in done.stderr
    assert runs.is_trained(workdir)
    assert json.loads((workdir / "config.json").read_text())["lr"] == 0.01
    lines = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["base", "new"]

    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = call("train", f"--config={file}", f"--workdir={workdir}", "--config.lr=0.01")
    assert again.returncode == config_lib.USAGE_STATUS
    assert "already holds a run with this configuration" in again.stderr
    other = call("train", f"--config={file}", f"--workdir={workdir}", "--resume")
    assert other.returncode == config_lib.USAGE_STATUS
    assert "lr: 0.01 -> 0.05" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.lerning_rate=1"], "config.lerning_rate=1: there is no such key; the nearest"),
        (["--config.epochs=ten"], "config.epochs=ten: expected an integer such as 2"),
        (["--config.task=segment"], "config.task=segment: expected one of contrastive, fdbpl"),
        (["--process_id=3"], "--coordinator, --num_processes missing"),
        (["--profile=15:10"], "--profile=15:10: expected FIRST:LAST, two steps with 1 <= FIRST"),
        (["--profile=1:2", "--eval_only"], "--profile=1:2 traces steps of a training, and"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(file, tmp_path, arguments, message):
    done = call("train", f"--config={file}", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == config_lib.USAGE_STATUS
    assert done.stderr.startswith(f"launch.train: {message}")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_mesh_needs_no_line_in_the_configuration():
    code = """
import ml_collections
from launch import train
for values in ({}, {"fit": {"save_every": 2}}, {"fit": {"mesh": "data:-1"}}):
    before = ml_collections.ConfigDict(values).lock()
    made = train._with_mesh(before, "data:1")
    assert made.to_dict()["fit"] == {**values.get("fit", {}), "mesh": "data:1"}
    assert made.is_locked and made.fit.is_locked
    assert before.to_dict() == values
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_trace_belongs_to_a_start_and_not_to_the_run(base, tmp_path):
    config = config_lib.override(base, {"method": "ce"})
    with pytest.raises(ValueError, match="profile=3:9: the run has 4 steps"):
        runs.train(config, tmp_path, progress=False, profile=(3, 9))
    runs.train(config, tmp_path, progress=False, profile=(3, 4))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "profile" not in (tmp_path / "config.json").read_text()
    untrained = config_lib.override(base, {"method": "zeroshot"})
    with pytest.raises(ValueError, match="the run has 0 steps"):
        runs.train(untrained, tmp_path / "untrained", progress=False, profile=(1, 2))


@pytest.mark.parametrize("moment", ["runs.train", "evaluate.lines"])
def test_told_to_leave_before_and_after_the_training(file, tmp_path, moment):
    code = f"""
import os, signal, sys, time
from launch import config, evaluate, runs, train
def told(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
runs.train = lambda *_, **__: None
{moment} = told
sys.argv = ["train", "--config={file}", "--workdir={tmp_path / "run"}"]
config.run(train.main, runs.failures)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == PREEMPTED_EXIT_CODE, done.stderr
    assert done.stderr.splitlines()[-1].startswith("told to leave while not training")


def test_keys_of_the_loop_are_checked(base):
    options = runs.fit_options(config_lib.override(base, {"seed": 7, "data.workers": 2}))
    assert (options.seed, options.workers, options.log_every) == (7, 2, 1)
    changed = ml_collections.ConfigDict(base.to_dict())
    changed.fit.save_evry = 3
    with pytest.raises(config_lib.ConfigError, match=r"config\.fit\.save_evry=3: there is no such"):
        runs.fit_options(changed)
    changed = config_lib.override(base, {"fit.save_every": 0})
    with pytest.raises(config_lib.ConfigError, match="save_every=0 must be at least 1"):
        runs.fit_options(changed)


def test_recipes_are_compared_without_seeds_and_places(base):
    digest = runs.recipe_digest(base)
    places = {"seed": 9, "data.seed": 9, "data.root": "elsewhere", "lookup.dir": "there"}
    assert runs.recipe_digest(config_lib.override(base, places)) == digest
    assert runs.recipe_digest(config_lib.override(base, {"lr": 1.0})) != digest


def test_metrics_are_columns_of_the_steps_that_trained(tmp_path):
    lines = [
        {"step": 1, "loss": 2.0, "term": None},
        {"step": 1, "eval/accuracy": 3.0},
        {"step": 2, "loss": 1.0, "term": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.read_metrics(tmp_path) == {"loss": [2.0, 1.0], "step": [1, 2], "term": [None, 0.5]}


def test_tasks_without_classes_have_plain_results():
    class Task:
        @staticmethod
        def evaluate(trainable, frozen, stats):
            return {"accuracy": np.float32(50.0)}

    class Params:
        trainable = frozen = stats = None

    config = ml_collections.ConfigDict({"task": "contrastive"})
    assert tasks.result_lines(config, Task, Params) == [
        {"task": "contrastive", "metrics": {"accuracy": 50.0}}
    ]
