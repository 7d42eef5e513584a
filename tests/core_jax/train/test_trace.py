"""Traces hold the steps that were asked for, no others, and those that are left where a run goes on."""

import dataclasses
import shutil

import jax
import pytest

from core_jax import train
from core_jax.train import trace
from tests.core_jax.train import toy

# jaxlib 0.12's reader of traces is a type without a module, which Python 3.12 warns of; raised in there, it ends the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")

OPTIONS = train.FitOptions(seed=1, profile=(2, 3))


def traced(folder):
    """Numbers of the steps in the one trace of a work directory."""
    (file,) = (folder / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == "train")


def test_some_steps_are_traced_and_then_those_that_are_left(tmp_path, capfd):
    train.fit(toy.make(4), OPTIONS, workdir=tmp_path)
    assert traced(tmp_path) == [2, 3]
    shutil.rmtree(tmp_path / "profile")
    later = dataclasses.replace(OPTIONS, profile=(3, 6))
    train.fit(toy.make(9), later, workdir=tmp_path, resume=True)
    assert traced(tmp_path) == [5, 6]
    assert "goes on after step 4, so steps 5 to 6 are traced" in capfd.readouterr().err


def test_steps_that_the_run_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"profile=2:3: the run has 2 steps; expected FIRST:LAST"):
        train.fit(toy.make(2), OPTIONS, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"profile=\(3, 2\) must be"):
        dataclasses.replace(OPTIONS, profile=(3, 2))


def test_steps_that_are_done_are_not_traced(tmp_path):
    done = trace.Trace(tmp_path / "profile", (3, 6), 9)
    assert not any(done.begins(step) for step in range(10, 20))
    done.stop()
    assert done.problems == ["profile=3:6: the run goes on after step 9, so nothing is traced"]
    assert not trace.Trace(tmp_path, None, 0).problems
    assert not (tmp_path / "profile").exists()


def test_a_trace_is_written_when_the_run_breaks_off(tmp_path):
    def fail(*_):
        raise RuntimeError("no evaluation")

    options = dataclasses.replace(OPTIONS, profile=(2, 6), eval_every=4, progress=False)
    with pytest.raises(RuntimeError, match="no evaluation"):
        train.fit(toy.make(8, evaluate=fail), options, workdir=tmp_path)
    assert traced(tmp_path) == [2, 3, 4]
