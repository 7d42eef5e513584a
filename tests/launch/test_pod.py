"""launch.pod: the exact commands, argument by argument, and what becomes of their answers."""

import contextlib
import io
import pathlib
import shlex
import subprocess

import pytest

from core_jax.train import stop
from launch.config import ConfigError
from launch.pods import PREEMPTED_STATUS, gcloud, remote, session
from launch.pods.runner import CommandFailed, Runner
from tests.launch.stub_programs import NASTY, TRAIN, Stubs

TPU = {"name": "gaze", "zone": "us-west4-a", "project": "P"}
WHERE = ["--zone=us-west4-a", "--project=P"]
SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "gaze", *WHERE, "--worker=all"]
STATE = ["gcloud", "compute", "tpus", "queued-resources", "describe", "gaze", *WHERE]
STATE = [*STATE, "--format=value(state.state)"]
WORKER = "env --chdir=clip-methods-jax .venv/bin/python -m launch.pods.worker"
STARTED = "-m launch.train --config=configs/gaze_drnet_demo.py --workdir=runs/x --coordinator=auto"


@pytest.fixture
def stubs(tmp_path, monkeypatch) -> Stubs:
    """A stub gcloud, first on PATH of this process, and a cache folder of the test's own."""
    stubs = Stubs(tmp_path / "bin")
    stubs.add("gcloud")
    for name, value in stubs.environment(XDG_CACHE_HOME=str(tmp_path / "cache")).items():
        monkeypatch.setenv(name, value)
    return stubs


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """A folder that looks like the source tree, with much that is not to be copied."""
    tree = tmp_path / "my tree"
    kept = ("setup.py", "launch/train.py", "core_jax/data/files.py", "docs/data/x.md")
    left = ("runs/x/big", ".git/HEAD", ".venv/bin/python", "data/x", "launch/__pycache__/a.pyc")
    for name in (*kept, *left, "clip.egg-info/PKG-INFO", ".ruff_cache/x"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    return tree


def real() -> Runner:
    return Runner(dry_run=False, poll_s=0.0)


def printed(action) -> list[list[str]]:
    """The commands that a dry run prints; line breaks inside quotes belong to them."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        action(Runner(dry_run=True))
    commands, words = [], []
    for line in out.getvalue().splitlines(keepends=True):
        words.append(line)
        with contextlib.suppress(ValueError):
            commands.append(shlex.split("".join(words)))
            words = []
    assert not words
    return commands


def test_create_of_a_tpu_vm_and_of_a_queued_resource():
    start = ["gcloud", "compute", "tpus"]
    kind = "--accelerator-type=v5litepod-16"
    assert gcloud.create(gcloud.Pod(**TPU, type="v5litepod-16")) == [
        *[*start, "tpu-vm", "create", "gaze", *WHERE, kind],
        "--version=v2-alpha-tpuv5-lite",
    ]
    pod = gcloud.Pod(**TPU, type="v5litepod-16", queued=True, spot=True)
    assert gcloud.create(pod) == [
        *[*start, "queued-resources", "create", "gaze", "--node-id=gaze", *WHERE, kind],
        *["--runtime-version=v2-alpha-tpuv5-lite", "--spot"],
    ]


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_every_generation_has_its_system_image(kind, image):
    assert gcloud.create(gcloud.Pod(**TPU, type=kind))[-1] == f"--version={image}"
    named = gcloud.Pod(**TPU, type=kind, runtime="mine")
    assert gcloud.create(named)[-1] == "--version=mine"


def test_delete():
    start = ["gcloud", "compute", "tpus"]
    assert gcloud.delete(gcloud.Pod(**TPU)) == [
        *[*start, "tpu-vm", "delete", "gaze", *WHERE, "--quiet"]
    ]
    assert gcloud.delete(gcloud.Pod(**TPU, queued=True)) == [
        *[*start, "queued-resources", "delete", "gaze", *WHERE, "--force", "--quiet"]
    ]


def test_what_is_missing_is_told_in_one_message():
    with pytest.raises(ConfigError) as error:
        gcloud.Pod(name="Gaze_1", zone="", project="")
    assert [line.split(" ")[0] for line in str(error.value).splitlines()] == [
        "--zone",
        "--project",
        "--name=Gaze_1:",
    ]
    with pytest.raises(ConfigError, match="TPU7x is reached through GKE"):
        gcloud.create(gcloud.Pod(**TPU, type="tpu7x-16"))
    with pytest.raises(ConfigError, match="--type is missing"):
        gcloud.create(gcloud.Pod(**TPU))


def test_run_starts_the_same_command_on_all_workers(stubs):
    session.run(real(), gcloud.Pod(**TPU), TRAIN)
    text = f"{WORKER} start -- .venv/bin/python -u {STARTED}"
    assert stubs.calls() == [[*SSH, f"--command={text}"]]


def test_words_of_the_user_are_not_repeated():
    given = [*TRAIN, "--coordinator=10.0.0.2:1234", "--resume"]
    assert remote.job(given, resume=True) == [".venv/bin/python", "-u", *given[1:]]
    with pytest.raises(ConfigError, match="expected a command after --"):
        remote.job(["launch.train", "--config=x"])


def test_only_a_training_is_told_to_resume():
    build = ["python", "-m", "launch.lookup", "build"]
    assert remote.job(build, resume=True) == [
        *[".venv/bin/python", "-u", *build[1:]],
        "--coordinator=auto",
    ]


def test_arguments_survive_the_remote_shell(stubs, tmp_path):
    home = tmp_path / "home"
    stubs.add("python", folder=home / remote.TREE / ".venv" / "bin")
    session.run(real(), gcloud.Pod(**TPU), ["python", "-m", "launch.train", *NASTY])
    text = stubs.calls()[-1][-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", text], cwd=home, env=stubs.environment(), check=True)
    assert stubs.calls()[-1] == [
        *["python", "-m", "launch.pods.worker", "start", "--", ".venv/bin/python", "-u", "-m"],
        *["launch.train", *NASTY, "--coordinator=auto"],
    ]


def test_setup_copies_the_tree_without_what_runs_wrote(stubs, tree, tmp_path):
    source = session.Source(copy=str(tree), bucket="my-bucket", extras="tpu,gaze")
    pod = gcloud.Pod(**TPU, queued=True)
    stubs.answer("gcloud", ("WAITING_FOR_RESOURCES\n", "", 0), ("ACTIVE\n", "", 0))
    session.setup(real(), pod, source)
    first, second, copy, unpack, mount, install = stubs.calls()
    assert first == second == STATE
    archive = tmp_path / "cache/clip-methods-jax/pods/gaze.tar.gz"
    assert copy == [
        *["gcloud", "compute", "tpus", "tpu-vm", "scp", str(archive)],
        *["gaze:clip-methods-jax.tar.gz", *WHERE, "--worker=all"],
    ]
    assert [call[:-1] for call in (unpack, mount, install)] == [SSH] * 3
    scripts = [shlex.split(call[-1].removeprefix("--command=")) for call in (mount, install)]
    assert [script[3:] for script in scripts] == [
        ["setup", "clip-methods-jax", "my-bucket"],
        ["setup", "clip-methods-jax", "3.12", "tpu,gaze"],
    ]

    home = tmp_path / "home"
    home.mkdir()
    archive.rename(home / remote.ARCHIVE)
    text = unpack[-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", text], cwd=home, check=True)
    arrived = {
        str(path.relative_to(home / remote.TREE))
        for path in (home / remote.TREE).rglob("*")
        if path.is_file()
    }
    assert arrived == {"setup.py", "launch/train.py", "core_jax/data/files.py", "docs/data/x.md"}


def test_the_install_script_calls_what_it_should(stubs, tmp_path):
    tree = tmp_path / "home" / remote.TREE
    stubs.add("python", folder=tree / ".venv" / "bin")
    stubs.add("python3")
    text = remote.install("tpu,gaze")
    subprocess.run(["bash", "-c", text], cwd=tree.parent, env=stubs.environment(), check=True)
    assert stubs.calls() == [
        ["python3", "-m", "pip", "install", "--user", "--quiet", "--upgrade", "uv"],
        ["python3", "-m", "uv", "venv", "--allow-existing", "--quiet", "--python", "3.12", ".venv"],
        [
            *["python3", "-m", "uv", "pip", "install", "--quiet", "--python", ".venv/bin/python"],
            *["--editable", ".[tpu,gaze]"],
        ],
        ["python", "-c", "import jax; print(jax.__version__)"],
    ]


@pytest.mark.parametrize(("mounted", "installed"), [(0, True), (1, True), (1, False)])
def test_the_mount_script_does_what_is_left_to_do(stubs, tmp_path, mounted, installed):
    stubs.add("mountpoint", "curl", "sudo", "lsb_release", *(["gcsfuse"] * installed))
    stubs.answer("mountpoint", ("", "", mounted))
    done = subprocess.run(
        ["bash", "-c", remote.mount("my-bucket")],
        cwd=tmp_path,
        env=stubs.environment(),
        check=False,
        capture_output=True,
    )
    names = [call[0] for call in stubs.calls()]
    mount = ["gcsfuse", "--implicit-dirs", "my-bucket", "clip-methods-jax/runs"]
    assert (mount in stubs.calls()) == (mounted != 0 and installed)
    assert ("curl" in names) == (not installed)
    assert (["sudo", "apt-get", "-qq", "install", "gcsfuse"] in stubs.calls()) == (not installed)
    # The stub of apt-get brings no gcsfuse: the script ends with bash's status for that.
    assert done.returncode == (0 if installed else 127)


def test_the_clone_script_reaches_a_commit_twice(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=origin, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    origin, home = tmp_path / "my origin", tmp_path / "home"
    home.mkdir()
    origin.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    for text in ("one", "two"):
        (origin / "file").write_text(text)
        git("add", "file")
        git("commit", "--quiet", "--message", text)
        script = remote.clone(str(origin), "main")
        subprocess.run(["bash", "-c", script], cwd=home, check=True, capture_output=True)
        assert (home / remote.TREE / "file").read_text() == text


def test_a_source_is_one_tree(tree, tmp_path):
    for wrong in ({}, {"copy": str(tree), "repo": "u", "ref": "r"}, {"repo": "u"}, {"ref": "r"}):
        with pytest.raises(ConfigError, match="expected --copy=FOLDER, or --repo"):
            session.Source(**wrong)
    with pytest.raises(ConfigError, match=r"no setup\.py in it"):
        session.Source(copy=str(tmp_path))


@pytest.mark.parametrize("states", ["exited 75", "lost", "never started"])
def test_resume_starts_a_preempted_job_again(stubs, states):
    stubs.answer("gcloud", (f"worker 0: exited 75\nworker 1: {states}\n", "", 0))
    session.resume(real(), gcloud.Pod(**TPU), TRAIN, None)
    assert stubs.calls() == [
        [*SSH, f"--command={WORKER} status"],
        [*SSH, f"--command={WORKER} start -- .venv/bin/python -u {STARTED} --resume"],
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("worker 0: exited 75\nworker 1: exited 1\n", "worker 1: exited 1"),
        ("worker 0: exited 75\nworker 1: running 12\n", "stop what still runs"),
        ("worker 0: exited 0\nworker 1: exited 0\n", "nothing to resume"),
        ("", "no worker told its state"),
    ],
)
def test_resume_refuses_other_endings(stubs, answer, message):
    stubs.answer("gcloud", (answer, "", 0))
    with pytest.raises(ConfigError, match=message):
        session.resume(real(), gcloud.Pod(**TPU), TRAIN, None)
    assert len(stubs.calls()) == 1


def test_resume_recreates_what_was_taken_away(stubs):
    pod = gcloud.Pod(**TPU, type="v5litepod-16", queued=True, spot=True)
    source = session.Source(repo="https://example.org/x.git", ref="main")
    states = ("SUSPENDED", "", "", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    stubs.answer("gcloud", *((f"{state}\n", "", 0) for state in states))
    session.resume(real(), pod, TRAIN, source)
    start = f"--command={WORKER} start -- .venv/bin/python -u {STARTED} --resume"
    assert stubs.calls() == [
        *[STATE, gcloud.delete(pod), gcloud.create(pod), STATE, STATE, STATE],
        [*SSH, f"--command={remote.clone('https://example.org/x.git', 'main')}"],
        [*SSH, f"--command={remote.install('tpu')}"],
        [*SSH, start],
    ]


def test_a_queue_that_failed_is_not_waited_for(stubs):
    stubs.answer("gcloud", ("FAILED\n", "", 0))
    with pytest.raises(ConfigError, match="FAILED and does not become ACTIVE"):
        session.wait(real(), gcloud.Pod(**TPU, queued=True))


def test_dry_runs_print_what_real_runs_call(stubs, tree):
    pod = gcloud.Pod(**TPU, type="v5litepod-16", queued=True)
    source = session.Source(copy=str(tree), bucket="b")
    actions = [
        lambda runner: session.setup(runner, pod, source),
        lambda runner: session.run(runner, pod, [*TRAIN, *NASTY]),
        lambda runner: session.logs(runner, pod, 7, follow=True),
        lambda runner: session.resume(runner, pod, TRAIN, None),
        lambda runner: session.resume(runner, pod, TRAIN, source),
    ]
    lines = [printed(action) for action in actions]
    assert stubs.calls() == []
    answers = [
        *["ACTIVE", "", "", "", "", "", ""],
        *["worker 0: exited 75", ""],
        *["SUSPENDED", "", "", "ACTIVE"],
    ]
    stubs.answer("gcloud", *((f"{answer}\n", "", 0) for answer in answers))
    for action in actions:
        action(real())
    here = ("mkdir", "tar")
    assert stubs.calls() == [argv for some in lines for argv in some if argv[0] not in here]


def test_a_failure_shows_what_gcloud_said(stubs, capfd):
    stubs.answer("gcloud", ("", "ERROR: quota of TPUs exceeded\n", 1))
    with pytest.raises(CommandFailed, match=r"exit status 1 of: gcloud compute tpus"):
        real().call(gcloud.state(gcloud.Pod(**TPU)))
    assert "ERROR: quota of TPUs exceeded" in capfd.readouterr().err


def test_ctrl_c_ends_the_logs_and_not_the_job(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    session.logs(real(), gcloud.Pod(**TPU), 5, follow=True)
    assert "the job goes on" in capsys.readouterr().err


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Install it \\(the Google Cloud CLI"):
        real().call(["gcloud"])


def test_the_status_of_preemption_is_the_trainings():
    assert PREEMPTED_STATUS == stop.PREEMPTED_EXIT_CODE
