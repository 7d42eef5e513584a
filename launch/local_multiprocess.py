"""Several processes on this machine that work as one job, over the loopback interface.

python -m launch.local_multiprocess --processes=4 [--devices_each=2] [--retries=3] [--grace=60] [--dry_run] \\
    -- launch.train --config=configs/fdbpl_world.py --workdir=runs/x

Everything after `--` is a module of this project and its flags; each process gets them with --coordinator,
--num_processes and --process_id added. Their output comes line by line with [number] in front. When one fails, the others
are stopped. SIGTERM and Ctrl-C are passed on as SIGTERM, so that a training saves and leaves with status 75. When the
processes leave with 75 by themselves (a preemption), they are started again with --resume, --retries times at most. The
exit status is the worst of theirs: the first failure's, else 75, else 0. A process ended by signal n counts as 128 + n.

On CPU each process gets `--devices_each` devices. GPUs are shared out where CUDA_VISIBLE_DEVICES names them.
"""

import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from absl import flags

from launch import config
from launch.pods import PREEMPTED_STATUS, is_told_to_resume, split

_PROCESSES = flags.DEFINE_integer("processes", 2, "number of processes", lower_bound=1)
_DEVICES_EACH = flags.DEFINE_integer("devices_each", 1, "devices of a process", lower_bound=1)
_RETRIES = flags.DEFINE_integer(
    "retries", 3, "how often to start again what left with status 75", lower_bound=0
)
_GRACE = flags.DEFINE_float(
    "grace", 60.0, "seconds to save in after SIGTERM, before the end by SIGKILL", lower_bound=0.0
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the commands and start nothing")

# After a failure there is nothing to save: the processes wait for one that is gone.
_GRACE_AFTER_FAILURE_S = 10.0
_POLL_S = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What starts one process: its words, and the variables that differ from this process' own."""

    words: tuple[str, ...]
    variables: Mapping[str, str]

    def shell(self) -> str:
        """The same as a line for a POSIX shell."""
        before = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*before, shlex.join(self.words)])


def main(words: Sequence[str]) -> int:
    """Start the processes, again where they were preempted; returns the exit status.

    Raises:
      ConfigError: there is no module to start, or not enough GPUs.
    """

    def make(resume: bool) -> list[Command]:
        return commands(
            words,
            processes=_PROCESSES.value,
            devices_each=_DEVICES_EACH.value,
            port=free_port(),
            resume=resume,
        )

    if _DRY_RUN.value:
        print("\n".join(command.shell() for command in make(False)))
        return 0
    told = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: told.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return supervise(make, retries=_RETRIES.value, told=told, grace_s=_GRACE.value)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def supervise(
    make: Callable[[bool], Sequence[Command]],
    *,
    retries: int,
    told: threading.Event,
    grace_s: float,
) -> int:
    """Run a job, and again as long as it is preempted.

    Args:
      make: the commands; called with whether they go on from an earlier start.
      retries: further starts at most.
      told: set by a signal to this process, after which nothing is started again.
      grace_s: see `run`.

    Returns:
      The exit status of the last start.
    """
    status = run(make(False), told=told, grace_s=grace_s)
    for start in range(retries):
        if status != PREEMPTED_STATUS or told.is_set():
            break
        _say(f"preempted (status {PREEMPTED_STATUS}); start {start + 2} of at most {1 + retries}")
        status = run(make(True), told=told, grace_s=grace_s)
    return status


def commands(
    words: Sequence[str],
    *,
    processes: int,
    devices_each: int,
    port: int,
    resume: bool,
    environment: Mapping[str, str] = os.environ,
) -> list[Command]:
    """The command of each process.

    Args:
      words: a module and its flags.
      processes: how many.
      devices_each: CPU devices, or GPUs of CUDA_VISIBLE_DEVICES, of each process.
      port: of process 0.
      resume: add --resume, where it is not there and the module has it.
      environment: where CUDA_VISIBLE_DEVICES and JAX_PLATFORMS are looked up.

    Raises:
      ConfigError: no module, or too few GPUs.
    """
    if not words or words[0].startswith("-"):
        raise config.ConfigError(
            f"expected a module after --, got {' '.join(words) or 'nothing'}: for example "
            "python -m launch.local_multiprocess --processes=2 -- launch.train --config=... --workdir=..."
        )
    resume = resume and "--resume" not in words and is_told_to_resume(words[0])
    shares = _shares(processes, devices_each, environment)
    return [
        Command(
            words=(
                *(sys.executable, "-m", *words, *(["--resume"] if resume else [])),
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={process}",
            ),
            variables=shares[process],
        )
        for process in range(processes)
    ]


def _shares(processes: int, each: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [name.strip() for name in visible if name.strip()]
    if not gpus or environment.get("JAX_PLATFORMS") == "cpu":
        return [{"JAX_NUM_CPU_DEVICES": str(each)}] * processes
    if len(gpus) < processes * each:
        raise config.ConfigError(
            f"--processes={processes} with --devices_each={each} need {processes * each} GPUs; "
            f"CUDA_VISIBLE_DEVICES names {len(gpus)}: {','.join(gpus)}"
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])}
        for i in range(processes)
    ]


def free_port() -> int:
    """A port of the loopback interface that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(started: Sequence[Command], *, told: threading.Event, grace_s: float) -> int:
    """Run all commands to their end and show what they print.

    Args:
      started: one command a process.
      told: set by a signal: pass SIGTERM on.
      grace_s: seconds between SIGTERM and SIGKILL.

    Returns:
      The worst status: of the first that failed, else 75 if one left with it, else 0.

    Raises:
      OSError: one could not be started; those before it have been stopped.
    """
    running: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    try:
        for number, command in enumerate(started):
            process = _popen(command)
            running.append(process)
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                words = (f"[{number}] ", source, target)
                readers.append(threading.Thread(target=_show, args=words, daemon=True))
                readers[-1].start()
        return _watch(running, told, grace_s)
    finally:
        for process in running:
            if process.poll() is None:
                _signal_group(process, signal.SIGKILL)
                process.wait()
        for reader in readers:
            # A worker that has left its process group may hold the pipe open.
            reader.join(timeout=2.0)


def _popen(command: Command) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.words,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **command.variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A session of its own: Ctrl-C reaches the processes through this one alone, and their workers end with them.
        start_new_session=True,
    )


def _watch(
    running: Sequence[subprocess.Popen[bytes]], told: threading.Event, grace_s: float
) -> int:
    deadline, worst, passed_on = float("inf"), 0, False
    ended: set[int] = set()
    while len(ended) < len(running):
        for number, process in enumerate(running):
            status = process.poll()
            if status is None or number in ended:
                continue
            ended.add(number)
            # Data workers that it has left behind.
            _signal_group(process, signal.SIGKILL)
            status = 128 - status if status < 0 else status
            if status == PREEMPTED_STATUS:
                # They have agreed on a step to leave after, so the others are about to do the same.
                worst = worst or PREEMPTED_STATUS
                deadline = min(deadline, time.monotonic() + grace_s)
            elif status and worst in (0, PREEMPTED_STATUS):
                worst = status
                _say(f"process {number} ended with status {status}; stopping the others")
                deadline = min(deadline, time.monotonic() + min(grace_s, _GRACE_AFTER_FAILURE_S))
                _terminate(running)
        if told.is_set() and not passed_on:
            passed_on = True
            _say(f"told to stop: SIGTERM to all, SIGKILL in {grace_s:g} s")
            deadline = min(deadline, time.monotonic() + grace_s)
            _terminate(running)
        if time.monotonic() > deadline and len(ended) < len(running):
            left = sorted(set(range(len(running))) - ended)
            _say(f"processes {left} did not leave in time: SIGKILL")
            for number in left:
                _signal_group(running[number], signal.SIGKILL)
            deadline = float("inf")
        time.sleep(_POLL_S)
    return worst


def _terminate(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        # The process alone: its data workers have to live while it saves.
        process.terminate()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # Nobody of it is left; some systems call that forbidden.
        return


def _show(prefix: str, source: IO[bytes], target: IO[str]) -> None:
    with source:
        for line in source:
            # Of a progress bar, which redraws its line, the last state.
            text = line.decode(errors="replace").rstrip("\r\n").rsplit("\r", 1)[-1]
            target.write(f"{prefix}{text}\n")
            target.flush()


def _say(text: str) -> None:
    print(f"launch.local_multiprocess: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.argv, _given = split(sys.argv)
    config.run(lambda _: main(_given))
