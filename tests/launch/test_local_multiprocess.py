"""Several local processes: their commands, their output, and what happens when one fails or is preempted."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch import local_multiprocess
from launch.config import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
WORDS = ["launch.train", "--workdir=runs/a b", '--config.name=it\'s "x" $HOME']

# A process without JAX: does what its --act says, and leaves a note of every start.
STUB = r"""
import pathlib, signal, sys, time
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
number, act = flags["process_id"], flags.get("act")
notes = pathlib.Path(flags["notes"])
tries = len(list(notes.glob(f"{number}-*")))
(notes / f"{number}-{tries}").write_text(" ".join(sys.argv[1:]))
print("out", number); print("progress 1\rprogress 2", file=sys.stderr)
def leave(*_):
    print("saving", flush=True); sys.exit(75)
if act == "save":
    signal.signal(signal.SIGTERM, leave)
if act == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(notes / f"ready{number}").touch()
if act == "preempted":
    sys.exit(75 if tries < int(flags["times"]) else 0)
if act in ("fail", "deaf") and number == "1":
    while not (notes / "ready0").exists():
        time.sleep(0.01)
    sys.exit(3)
if act in ("fail", "save", "deaf"):
    time.sleep(30)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A folder with stub.py on the path of started processes; notes go to its folder `notes`."""
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path


def words(stub: pathlib.Path, act: str, **more: int) -> list[str]:
    return [
        *("stub", f"--notes={stub / 'notes'}", f"--act={act}"),
        *(f"--{name}={value}" for name, value in more.items()),
    ]


def commands(words, processes=2, **options):
    options = {"devices_each": 1, "port": 5, "resume": False, "environment": {}, **options}
    return local_multiprocess.commands(words, processes=processes, **options)


def run(given: list[local_multiprocess.Command], grace_s: float = 5.0) -> int:
    return local_multiprocess.run(given, told=threading.Event(), grace_s=grace_s)


def launcher(*own: str, given: list[str]) -> list[str]:
    return [sys.executable, "-m", "launch.local_multiprocess", *own, "--", *given]


def test_every_process_gets_its_flags_and_its_devices():
    made = commands(WORDS, processes=3, devices_each=2, port=1234)
    for number, command in enumerate(made):
        flags = [
            "--coordinator=127.0.0.1:1234",
            "--num_processes=3",
            f"--process_id={number}",
        ]
        assert list(command.words) == [sys.executable, "-m", *WORDS, *flags]
        assert command.variables == {"JAX_NUM_CPU_DEVICES": "2"}


def test_gpus_are_shared_out():
    visible = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    shares = [c.variables for c in commands(WORDS, devices_each=2, environment=visible)]
    assert shares == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    on_cpu = commands(WORDS, environment={**visible, "JAX_PLATFORMS": "cpu"})
    assert "CUDA_VISIBLE_DEVICES" not in on_cpu[0].variables
    with pytest.raises(ConfigError, match=r"need 6 GPUs; CUDA_VISIBLE_DEVICES names 4"):
        commands(WORDS, processes=3, devices_each=2, environment=visible)


def test_resume_is_added_once_and_only_where_it_exists():
    assert "--resume" in commands(WORDS, resume=True)[0].words
    assert commands([*WORDS, "--resume"], resume=True)[0].words.count("--resume") == 1
    for words in (["launch.lookup", "build"], ["launch.doctor"]):
        assert "--resume" not in commands(words, resume=True)[0].words
    assert "--resume" in commands(["mine.train"], resume=True)[0].words


@pytest.mark.parametrize("given", [[], ["--config=x"]])
def test_a_module_is_needed(given):
    with pytest.raises(ConfigError, match="expected a module after --"):
        commands(given)


def test_a_dry_run_prints_what_a_shell_would_read_back(stub):
    command = launcher("--dry_run", "--processes=2", given=WORDS)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        variable, *found = shlex.split(line)
        assert variable == "JAX_NUM_CPU_DEVICES=1"
        assert found[:6] == [sys.executable, "-m", *WORDS, found[5]]
        assert found[6:] == ["--num_processes=2", f"--process_id={number}"]
    assert not list((stub / "notes").iterdir())


def test_output_carries_the_number_of_its_process(stub, capfd):
    assert run(commands(words(stub, "end"))) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["[0] out 0", "[1] out 1"]
    assert sorted(err.splitlines()) == ["[0] progress 2", "[1] progress 2"]


def test_one_failure_stops_all(stub, capfd):
    began = time.monotonic()
    assert run(commands(words(stub, "fail"))) == 3
    assert time.monotonic() - began < 5
    assert "process 1 ended with status 3" in capfd.readouterr().err


def test_those_before_one_that_cannot_be_started_are_stopped(stub, monkeypatch):
    began, start = [], local_multiprocess._popen

    def note(command):
        began.append(start(command))
        return began[-1]

    monkeypatch.setattr(local_multiprocess, "_popen", note)
    nowhere = local_multiprocess.Command(words=(str(stub / "nowhere"),), variables={})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run([*commands(words(stub, "save")), nowhere])
    assert [process.returncode for process in began] == [-signal.SIGKILL] * 2


def test_who_ignores_the_word_is_killed(stub, capfd):
    assert run(commands(words(stub, "deaf")), grace_s=0.3) == 3
    assert "processes [0] did not leave in time" in capfd.readouterr().err


@pytest.mark.parametrize(("times", "status", "starts"), [(1, 0, 2), (9, 75, 3)])
def test_preempted_processes_are_started_again(stub, times, status, starts):
    given = words(stub, "preempted", times=times)
    ended = local_multiprocess.supervise(
        lambda resume: commands(given, resume=resume),
        retries=2,
        told=threading.Event(),
        grace_s=5,
    )
    assert ended == status
    notes = [(stub / "notes" / f"1-{i}").read_text() for i in range(starts)]
    assert not (stub / "notes" / f"1-{starts}").exists()
    assert ["--resume" in note for note in notes] == [False] + [True] * (starts - 1)


def test_sigterm_is_passed_on_and_ends_the_job(stub):
    with subprocess.Popen(
        launcher("--processes=2", given=words(stub, "save")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launched:
        deadline = time.monotonic() + 20
        while len(list((stub / "notes").glob("ready*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        launched.send_signal(signal.SIGTERM)
        out, err = launched.communicate(timeout=20)
    # Saved, and not started again: it was this machine that was told to stop.
    assert launched.returncode == 75, err
    assert "[0] saving" in out
    assert "[1] saving" in out
    assert not (stub / "notes" / "0-1").exists()
