"""launch.pod as typed, the commands of its page, and workloads of xpk."""

import json
import pathlib
import shlex
import subprocess
import sys

import pytest

from launch.config import ConfigError
from launch.pods import xpk
from tests.launch.stub_programs import NASTY, TRAIN, Stubs

ROOT = pathlib.Path(__file__).parents[2]
TPU = {"name": "gaze", "zone": "us-west4-a", "project": "P"}


@pytest.fixture
def stubs(tmp_path) -> Stubs:
    stubs = Stubs(tmp_path / "bin")
    stubs.add("gcloud", "xpk")
    return stubs


def test_xpk_workloads():
    place = {**TPU, "cluster": "C"}
    where = ["--cluster=C", "--zone=us-west4-a", "--project=P"]
    policy = [
        *["--max-restarts=50", "--restart-on-exit-codes=75"],
        "--termination-grace-period-seconds=120",
    ]
    train = f"python -u {shlex.join(TRAIN[1:])} --coordinator=auto --resume"
    workload = xpk.Workload(**place, type="v5litepod-16", image="gcr.io/P/x", storage="s")
    assert xpk.create(workload, TRAIN) == [
        *["xpk", "workload", "create", *where, "--workload=gaze", "--tpu-type=v5litepod-16"],
        *["--num-slices=1", "--docker-image=gcr.io/P/x", "--storage=s", *policy],
        f"--command={train}",
    ]
    bare = xpk.create(xpk.Workload(**place, type="v5litepod-16"), TRAIN)
    assert bare[9:11] == ["--base-docker-image=python:3.12", "--script-dir=."]
    assert bare[-1].endswith(f" run tpu {train}")
    assert xpk.status(workload) == ["xpk", "workload", "list", *where, "--filter-by-job=gaze"]
    end = ["--workload=gaze", "--force"]
    assert xpk.delete(workload) == ["xpk", "workload", "delete", *where, *end]
    with pytest.raises(ConfigError, match="line break"):
        xpk.create(workload, [*TRAIN, "a\nb"])


def test_arguments_survive_the_shell_of_a_container(stubs):
    stubs.add("python")
    words = [word for word in NASTY if "\n" not in word]
    workload = xpk.Workload(**TPU, cluster="C", type="v5litepod-16", extras="tpu,gaze")
    argv = xpk.create(workload, ["python", "-m", "launch.train", *words])
    text = argv[-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", text], env=stubs.environment(), check=True)
    assert stubs.calls() == [
        ["python", "-m", "pip", "install", "--quiet", "--editable", ".[tpu,gaze]"],
        ["python", "-u", "-m", "launch.train", *words, "--coordinator=auto", "--resume"],
    ]


def pod(stubs: Stubs, *words: str) -> subprocess.CompletedProcess:
    """The command line as a user types it."""
    argv = [sys.executable, "-m", "launch.pod", *words]
    return subprocess.run(
        argv, cwd=ROOT, env=stubs.environment(), capture_output=True, text=True, check=False
    )


def test_the_command_line(stubs):
    place = [f"--{name}={value}" for name, value in TPU.items()]
    refused = pod(stubs, "delete", *place)
    assert (refused.returncode, stubs.calls()) == (2, [])
    assert "launch.pod: delete takes gaze away for good: add --yes" in refused.stderr

    stubs.answer("gcloud", ("", "ERROR: no such zone\n", 3))
    failed = pod(stubs, "run", *place, "--", *TRAIN, "--config.x=a b")
    assert failed.returncode == 1
    assert "ERROR: no such zone" in failed.stderr
    dry = pod(stubs, "run", *place, "--dry_run", "--", *TRAIN, "--config.x=a b")
    assert [shlex.split(line) for line in dry.stdout.splitlines()] == stubs.calls()


def test_the_page_shows_commands_that_exist(stubs):
    """Every launch.pod line of the page runs dry, and they print every command that it shows."""
    page = (ROOT / "docs" / "pods.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```bash\n")[1:]]
    lines = [
        shlex.split(line)
        for block in blocks
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith("python -m launch.pod ")
    ]
    words = {line[3] for line in lines}
    assert words >= {"create", "setup", "run", "logs", "resume", "delete"}
    program = (
        "import sys, json, shlex; from absl import flags; from launch import pod\n"
        "for argv in json.load(sys.stdin):\n"
        "    own, command = pod.split(argv[2:])\n"
        "    flags.FLAGS.unparse_flags(); flags.FLAGS([*own, '--dry_run'])\n"
        "    pod.main(own[1], command)\n"
        "    [flags.FLAGS[name].unparse() for name in flags.FLAGS if name != 'help']\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(lines),
        cwd=ROOT,
        env=stubs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert stubs.calls() == []
    exact = [line for line in page.splitlines() if line.startswith(("gcloud ", "xpk "))]
    assert len(exact) >= 8
    assert set(exact) <= set(done.stdout.splitlines())
