"""Runs on each worker of a pod: keeps one job alive behind the ssh session, and tells about it.

python -m launch.pods.worker start -- COMMAND ...     returns at once; the job goes on when the session ends
python -m launch.pods.worker status                   one line: never started, running PID, exited STATUS, lost
python -m launch.pods.worker stop                     SIGTERM: a training saves and leaves with status 75
python -m launch.pods.worker logs LINES [follow]      the last lines of the log, each with the worker's number in front

It is called through `launch.pod`, from the root of the source tree. A worker has one job, because a TPU has one user;
`.job/` holds what is known of it: `lock` (held as long as the job lives), `pid`, `status`, `log.txt`.
"""

import fcntl
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TextIO

FOLDER = pathlib.Path(".job")
LOG = FOLDER / "log.txt"
_LOCK, _PID, _STATUS = FOLDER / "lock", FOLDER / "pid", FOLDER / "status"
_NOT_FOUND = 127


def main(argv: Sequence[str]) -> int:
    """Does what the first word says; returns the exit status."""
    word, rest = argv[0], list(argv[1:])
    if word == "start":
        return start(rest[1:])
    if word == "keep":
        return keep(int(rest[0]), rest[2:])
    if word == "stop":
        return stop()
    if word == "logs":
        return logs(int(rest[0]), follow="follow" in rest[1:])
    print(f"worker {number()}: {state()}")
    return 0


def number() -> str:
    """The number of this worker: hosts of a TPU are called ...-w-0, ...-w-1; elsewhere the name of the host."""
    host = socket.gethostname().split(".")[0]
    found = re.search(r"-w-(\d+)$", host)
    return found[1] if found else host


def state() -> str:
    """One of never started, running PID, exited STATUS, and lost: ended without a status, as when power fails."""
    if not _LOCK.exists():
        return "never started"
    with open(_LOCK, encoding="utf-8") as lock:
        runs = not _take(lock)
    # The status comes first: a keeper that has noted it may still be on its way out.
    if status := _read(_STATUS):
        return f"exited {status}"
    return f"running {_read(_PID)}" if runs else "lost"


def start(command: Sequence[str]) -> int:
    """Start the job in a session of its own, unless one runs."""
    FOLDER.mkdir(exist_ok=True)
    with open(_LOCK, "a", encoding="utf-8") as lock, open(LOG, "a", encoding="utf-8") as log:
        if not _take(lock):
            print(
                f"worker {number()}: process {_read(_PID)} runs already; wait for it, or stop it first",
                file=sys.stderr,
            )
            return 1
        _STATUS.unlink(missing_ok=True)
        _PID.unlink(missing_ok=True)
        print(f"== {time.strftime('%F %T %Z')}: {shlex.join(command)}", file=log, flush=True)
        # The lock belongs to the open file, which the keeper inherits: it never changes hands.
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "launch.pods.worker",
                "keep",
                str(lock.fileno()),
                "--",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    print(f"worker {number()}: started")
    return 0


def keep(lock: int, command: Sequence[str]) -> int:
    """Run the job to its end and note its exit status.

    Args:
      lock: descriptor of the locked file; the job inherits it, so that the lock outlives a killed keeper.
      command: the job.
    """
    # A machine that shuts down signals every process: the keeper stays to note how the job ended. A function, because
    # the job would inherit SIG_IGN.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock])
    except OSError as error:
        print(error, flush=True)
        status = _NOT_FOUND
    else:
        _write(_PID, str(process.pid))
        code = process.wait()
        # As a shell counts: 128 and the number of the signal.
        status = code if code >= 0 else 128 - code
    _write(_STATUS, str(status))
    print(f"== {time.strftime('%F %T %Z')}: exited {status}", flush=True)
    return 0


def stop() -> int:
    """Ask the job to save and leave; it is not waited for."""
    here, pid = state(), _read(_PID)
    if here.startswith("running") and pid:
        subprocess.run(["kill", "-TERM", pid], check=True)
        here = f"told process {pid} to stop"
    print(f"worker {number()}: {here}")
    return 0


def logs(lines: int, *, follow: bool) -> int:
    """Print the end of the log; following ends with the job."""
    if not LOG.exists():
        print(f"worker {number()}: no log, nothing was started here", file=sys.stderr)
        return 1
    words = ["tail", f"--lines={lines}"]
    while follow and state().startswith("running"):
        if pid := _read(_PID):
            words += ["--follow=name", f"--pid={pid}"]
            break
        # Its keeper has the lock and is about to start it.
        time.sleep(0.05)
    with subprocess.Popen([*words, str(LOG)], stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        for line in tail.stdout:
            print(f"[{number()}] {line}", end="", flush=True)
    return tail.returncode


def _take(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _write(path: pathlib.Path, text: str) -> None:
    # Only the keeper writes these; the other words answer faster without.
    from core_jax.data import files

    files.atomic_write(path, text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
