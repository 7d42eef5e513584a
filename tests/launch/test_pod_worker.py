"""The keeper of a worker's job: one at a time, behind the session, with its exit status noted."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.pods import worker

ROOT = pathlib.Path(__file__).parents[2]
# Leaves with 75 when told to, as a training does.
PATIENT = ["bash", "-c", "trap 'exit 75' TERM; echo ready; while :; do sleep 0.02; done"]


@pytest.fixture
def call(tmp_path):
    """Calls the program in a folder of its own; ends a job that is left."""

    def call(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "launch.pods.worker", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    yield call
    pid = tmp_path / ".job" / "pid"
    if "running" in call("status").stdout and pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def until(condition, what: str):
    end = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return value


def noted(folder: pathlib.Path) -> str:
    """The exit status of the job, once there is one."""
    file = folder / ".job" / "status"
    return until(lambda: file.exists() and file.read_text().strip(), "no exit status")


def ready(folder: pathlib.Path) -> int:
    """The number of a patient job's process, once it listens."""
    log, pid = folder / ".job" / "log.txt", folder / ".job" / "pid"
    until(lambda: "\nready\n" in log.read_text() and pid.exists(), "the job does not start")
    return int(pid.read_text())


def test_a_job_outlives_the_session_and_runs_once(call, tmp_path):
    assert "never started" in call("status").stdout
    assert call("logs", "5").returncode == 1
    assert "started" in call("start", "--", *PATIENT).stdout
    pid = ready(tmp_path)
    assert os.getsid(pid) not in (os.getsid(0), 0)
    assert f"running {pid}" in call("status").stdout

    again = call("start", "--", *PATIENT)
    assert again.returncode == 1
    assert f"process {pid} runs already" in again.stderr
    assert (tmp_path / ".job" / "log.txt").read_text().count("ready\n") == 1

    # A machine that shuts down tells everybody; the keeper stays until the job has ended.
    keeper = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGTERM)
    assert f"told process {pid}" in call("stop").stdout
    assert noted(tmp_path) == "75"
    assert "exited 75" in call("status").stdout
    lines = call("logs", "2", "follow").stdout.splitlines()
    assert [line.split("] ")[0] for line in lines] == [f"[{worker.number()}"] * 2
    assert lines[0].endswith("ready")
    assert lines[1].endswith("exited 75")


def test_following_ends_with_the_job(call, tmp_path):
    call("start", "--", "bash", "-c", "echo one; sleep 0.5; echo two")
    lines = call("logs", "9", "follow").stdout
    assert "] one\n" in lines
    assert noted(tmp_path) == "0"


def test_a_killed_keeper_leaves_the_job_its_lock(call, tmp_path):
    call("start", "--", *PATIENT)
    pid = ready(tmp_path)
    keeper = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    assert call("start", "--", *PATIENT).returncode == 1
    os.kill(pid, signal.SIGKILL)
    until(lambda: "lost" in call("status").stdout, "the lock is still held")


@pytest.mark.parametrize(
    ("command", "status"),
    [(["no-such-program"], "127"), (["bash", "-c", "kill -KILL $$"], "137")],
)
def test_other_endings(call, tmp_path, command, status):
    call("start", "--", *command)
    assert noted(tmp_path) == status


def test_workers_have_the_numbers_of_their_hosts(monkeypatch):
    for host, number in (("t1v-n-1a2b3c4d-w-13", "13"), ("laptop.lan", "laptop")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert worker.number() == number
