"""launch/slurm.sbatch: what it calls, and what it makes of exit statuses and signals."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from launch.pods import PREEMPTED_STATUS
from tests.launch.stub_programs import NASTY, RUNNING, TRAIN, Stubs

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"
STEP = ["srun", "--ntasks-per-node=8"]
REST = ["--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=120"]
JOB_ID = {"SLURM_JOB_ID": "17"}
# 2 nodes x 8 GPUs, as SLURM describes them to the batch script.
JOB = JOB_ID | {"SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "8"}


@pytest.fixture
def stubs(tmp_path) -> Stubs:
    stubs = Stubs(tmp_path / "bin")
    stubs.add("srun", "scontrol")
    return stubs


def environment(stubs: Stubs, **more: str) -> dict[str, str]:
    found = stubs.environment(**more)
    return {name: found[name] for name in found if not name.startswith("SLURM_") or name in more}


def submit(stubs: Stubs, *command: str, **job: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *command],
        env=environment(stubs, **job),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_directives():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert directives >= {"--signal=B:TERM@120", "--requeue", "--open-mode=append"}
    # SLURM reads directives up to the first command only.
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_one_task_for_each_gpu(stubs):
    assert submit(stubs, *TRAIN, **JOB).returncode == 0
    assert stubs.calls() == [[*STEP, *REST, *TRAIN, "--coordinator=auto"]]


def test_one_task_for_all_gpus_of_a_node(stubs):
    job = {name: JOB[name] for name in ("SLURM_JOB_ID", "SLURM_GPUS_ON_NODE")}
    assert submit(stubs, *TRAIN, **job).returncode == 0
    assert stubs.calls() == [
        ["srun", "--ntasks-per-node=1", *REST, *TRAIN, "--coordinator=auto"],
    ]


def test_cpus_and_the_users_own_words_are_handed_on(stubs):
    words = [*TRAIN, "--coordinator=n1:1234", *NASTY]
    assert submit(stubs, *words, **JOB, SLURM_CPUS_PER_TASK="12").returncode == 0
    assert stubs.calls() == [[*STEP, "--cpus-per-task=12", *REST, *words]]


def test_a_dry_run_prints_what_a_shell_would_read_back(stubs):
    words = [*TRAIN, *NASTY, "--mesh=data:-1,model:2"]
    options = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "12"}
    dry = submit(stubs, "--dry_run", *words, **options)
    assert (dry.returncode, stubs.calls(), dry.stdout.count("\n")) == (0, [], 1)
    assert submit(stubs, *words, **options, **JOB_ID).returncode == 0
    subprocess.run(["bash", "-c", dry.stdout], env=environment(stubs), check=True)
    made = [*STEP, "--cpus-per-task=12", *REST, *words, "--coordinator=auto"]
    assert stubs.calls() == [made, made]
    refused = submit(stubs, "--dry_run", *words, **JOB | {"SLURM_NTASKS_PER_NODE": "3"})
    assert (refused.returncode, refused.stdout) == (2, "")


def test_a_preempted_job_is_queued_again_and_resumed(stubs):
    stubs.answer("srun", ("", "", PREEMPTED_STATUS))
    first = submit(stubs, *TRAIN, **JOB)
    assert (first.returncode, stubs.calls()[1:]) == (75, [["scontrol", "requeue", "17"]])
    assert "queued again" in first.stderr
    assert submit(stubs, *TRAIN, **JOB, SLURM_RESTART_COUNT="1").returncode == 0
    assert stubs.calls()[2] == [*STEP, *REST, *TRAIN, "--coordinator=auto", "--resume"]


@pytest.mark.parametrize(
    ("module", "more"), [("launch.lookup", []), ("launch.trainer", []), ("mine", ["--resume"])]
)
def test_only_what_has_the_flag_is_told_to_resume(stubs, module, more):
    words = ["python", "-m", module, "build"]
    assert submit(stubs, *words, **JOB, SLURM_RESTART_COUNT="1").returncode == 0
    assert stubs.calls() == [[*STEP, *REST, *words, "--coordinator=auto", *more]]


@pytest.mark.parametrize("status", [0, 1, 137])
def test_other_endings_are_the_jobs(stubs, status):
    stubs.answer("srun", ("", "", status))
    assert submit(stubs, *TRAIN, **JOB).returncode == status
    assert len(stubs.calls()) == 1


@pytest.mark.parametrize(
    ("command", "job", "message"),
    [
        ([], JOB, "no command"),
        (TRAIN, {}, "submit it with sbatch"),
        (TRAIN, JOB | {"SLURM_NTASKS_PER_NODE": "3"}, "--ntasks-per-node=8"),
    ],
)
def test_what_cannot_work_is_refused_before_it_runs(stubs, command, job, message):
    done = submit(stubs, *command, **job)
    assert done.returncode == 2
    assert message in done.stderr
    assert stubs.calls() == []


def test_the_notice_reaches_the_tasks_and_is_waited_for(stubs, tmp_path):
    """A task that takes a while to save after SIGTERM: the script waits for its status."""
    (stubs.folder / "srun").write_text(RUNNING)
    mark = tmp_path / "ready"
    text = f"trap 'sleep 0.3; exit 75' TERM; touch {shlex.quote(str(mark))}; while :; do sleep 0.02; done"
    script = subprocess.Popen(
        ["bash", str(SCRIPT), "bash", "-c", text],
        env=environment(stubs, **JOB),
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    while not mark.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(script.pid, signal.SIGTERM)
    _, told = script.communicate(timeout=20)
    assert script.returncode == PREEMPTED_STATUS
    assert "queued again" in told
    assert stubs.calls() == [["scontrol", "requeue", "17"]]


def test_the_commands_of_the_page_are_those_that_run(stubs):
    """From the shell's line for 2 x 8 GPUs to that of the 16 processes, word by word."""
    page = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(sbatch.*?)```", page, re.S)
    assert block is not None
    stubs.add("sbatch")
    subprocess.run(["bash", "-c", block[1]], env=environment(stubs), cwd=ROOT, check=True)
    train = [
        *["python", "-m", "launch.train", "--config=configs/gaze_dfenet_eth.py"],
        *["--workdir=runs/eth", "--config.data.root=data/xgaze_224"],
        "--config.dfenet.clip=data/CLIP_RN50",
    ]
    own = ["--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=8", "--cpus-per-task=12"]
    assert stubs.calls() == [["sbatch", *own, "--time=24:00:00", "launch/slurm.sbatch", *train]]
    assert submit(stubs, *train, **JOB, SLURM_CPUS_PER_TASK="12").returncode == 0
    made = [*STEP, "--cpus-per-task=12", *REST, *train, "--coordinator=auto"]
    assert stubs.calls()[-1] == made
    assert shlex.join(made) in page.splitlines()
    dry = re.search(r"`(SLURM_\S+ .* bash launch/slurm.sbatch --dry_run) python", page)
    assert dry is not None
    line = f"{dry[1]} {shlex.join(train)}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=environment(stubs),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{shlex.join(made)}\n"
