"""launch.train on two and four real processes over loopback: as one process, preempted, killed, and read by one."""

import json
import pathlib
import shutil
import signal

import jax
import ml_collections
import numpy as np
import pytest

from core_jax import train
from fdbpl_jax import build
from launch import config as config_lib
from launch import runs
from tests.launch.processes import Job, losses, write_config

STEPS = 40
pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def config(base, tmp_path_factory) -> ml_collections.ConfigDict:
    """FDBPL from a lookup with all of its terms: 20 epochs of 2 steps."""
    lookup = tmp_path_factory.mktemp("lookup")
    changes = {"lookup.dir": str(lookup), "epochs": STEPS // 2, "fit.save_every": STEPS}
    config = config_lib.override(base, changes)
    build.build_from_config(config, progress=False)
    return config


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """A function: number of processes -> work directory of the run that nothing interrupts."""
    made: dict[int, pathlib.Path] = {}

    def workdir(processes: int) -> pathlib.Path:
        if processes not in made:
            folder = tmp_path_factory.mktemp(f"straight{processes}")
            file, made[processes] = write_config(folder / "tiny.py", config), folder / "run"
            with Job(*words(file, folder / "run"), processes=processes) as job:
                status, printed = job.end()
            assert status == 0, printed
        return made[processes]

    return workdir


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> pathlib.Path:
    """Work directory of the same run in this process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    runs.train(config, workdir, progress=False)
    return workdir


def words(file: pathlib.Path, workdir: pathlib.Path) -> tuple[str, ...]:
    return "launch.train", f"--config={file}", f"--workdir={workdir}"


def final(workdir: pathlib.Path) -> list[np.ndarray]:
    """What a run has learned, as it is saved."""
    return jax.tree.leaves(runs.learned(workdir)[0])


def judged(workdir: pathlib.Path) -> list[tuple[str, int, int]]:
    """What results.jsonl says: split, pictures that are right, pictures."""
    lines = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    return [(line["split"], line["correct"], line["total"]) for line in lines]


def assert_identical(workdir: pathlib.Path, other: pathlib.Path) -> None:
    for a, b in zip(final(workdir), final(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_like_one_process(workdir: pathlib.Path, alone: pathlib.Path) -> None:
    """The same parameters, and the same loss in every step: the same data in the same order."""
    for a, b in zip(final(workdir), final(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert len(losses(alone)) == STEPS
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)


def test_two_processes_train_what_one_trains(config, straight, alone):
    workdir = straight(2)
    assert_like_one_process(workdir, alone)
    # Two processes have judged what they have learned; one that reads their checkpoint judges alike.
    lines = runs.evaluate(workdir)
    assert (
        judged(workdir) == [(line["split"], line["correct"], line["total"]) for line in lines] * 2
    )


@pytest.mark.slow
def test_four_processes_train_what_one_trains(straight, alone):
    assert_like_one_process(straight(4), alone)


@pytest.mark.slow
def test_devices_of_a_process_share_parameters_and_those_of_two_do_not(config, alone, tmp_path):
    values = config.to_dict()
    values["fit"] |= {"mesh": "model:2"}
    cut = write_config(tmp_path / "tiny.py", ml_collections.ConfigDict(values))
    given = words(cut, tmp_path / "run")
    with Job(*given, processes=2) as job:
        status, printed = job.end()
    assert status != 0
    assert "the processes [0, 1] would share the parameters of one group" in printed
    own = ("--devices_each=2",)
    with Job(*given, "--mesh=data:-1,model:2", processes=2, own=own) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert_like_one_process(tmp_path / "run", alone)
    assert len(judged(tmp_path / "run")) == len({part for part, *_ in judged(tmp_path / "run")})


@pytest.mark.slow
def test_a_process_may_come_long_after_the_others(config, alone, tmp_path):
    # The first collective on CPUs waits half a minute for all.
    file = write_config(tmp_path / "late.py", config, first_s=45)
    with Job(*words(file, tmp_path / "run"), processes=2) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert_like_one_process(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_one_preempted_process_makes_all_leave_and_the_launcher_resumes(
    config, straight, tmp_path, processes
):
    file, workdir = write_config(tmp_path / "slow.py", config, pause_s=0.1), tmp_path / "run"
    with Job(*words(file, workdir), processes=processes) as job:
        job.wait_for(lambda: len(losses(workdir)) >= 3)
        job.signal(processes - 1, signal.SIGTERM)
        status, printed = job.end()
    assert status == 0, printed
    assert f"preempted (status {train.PREEMPTED_EXIT_CODE}); start 2 of at most 4" in printed
    saved = {line.split("saved step ")[1].split(" ")[0] for line in told(printed)}
    assert len(told(printed)) == processes
    (step,) = saved
    assert 3 < int(step) < STEPS
    # The second start went on from that step.
    assert json.loads((workdir / "timing.json").read_text())["restarts"] == 1
    assert losses(workdir) == losses(straight(processes))
    assert_identical(workdir, straight(processes))
    assert judged(workdir) == judged(straight(processes))


def told(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "preempted: saved step" in line]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_one_killed_process_ends_the_job_and_nothing_is_lost(config, straight, tmp_path, processes):
    often = config_lib.override(config, {"fit.save_every": 3})
    file, workdir = write_config(tmp_path / "slow.py", often, pause_s=0.05), tmp_path / "run"
    with Job(*words(file, workdir), processes=processes) as job:
        job.wait_for(lambda: len(losses(workdir)) >= 10)
        job.signal(processes - 1, signal.SIGKILL)
        status, printed = job.end()
    assert status == 128 + signal.SIGKILL, printed
    assert f"process {processes - 1} ended with status 137; stopping the others" in printed
    assert not runs.is_trained(workdir)

    with Job(*words(file, workdir), "--resume", processes=processes) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert json.loads((workdir / "timing.json").read_text())["restarts"] == 1
    assert losses(workdir) == losses(straight(processes))
    assert_identical(workdir, straight(processes))


@pytest.mark.slow
def test_one_and_two_processes_go_on_where_four_were_preempted(config, alone, tmp_path):
    file, workdir = write_config(tmp_path / "slow.py", config, pause_s=0.1), tmp_path / "four"
    with Job(*words(file, workdir), processes=4, own=("--retries=0",)) as job:
        job.wait_for(lambda: len(losses(workdir)) >= 3)
        job.signal(0, signal.SIGTERM)
        status, printed = job.end()
    assert status == train.PREEMPTED_EXIT_CODE, printed
    assert len(told(printed)) == 4
    assert len(losses(workdir)) < STEPS

    shutil.copytree(workdir, tmp_path / "one")
    runs.train(config, tmp_path / "one", resume=True, progress=False)
    assert_like_one_process(tmp_path / "one", alone)
    shutil.copytree(workdir, tmp_path / "two")
    with Job(*words(file, tmp_path / "two"), "--resume", processes=2) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert_like_one_process(tmp_path / "two", alone)


@pytest.mark.slow
def test_one_process_reads_what_four_saved(straight):
    workdir = straight(4)
    restored = runs.restore(workdir)
    assert restored.step == STEPS
    for a, b in zip(jax.tree.leaves(restored.params.trainable), final(workdir), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)
    before = judged(workdir)
    lines = runs.evaluate(workdir, task=restored.task)
    assert [(line["split"], line["correct"], line["total"]) for line in lines] == before
