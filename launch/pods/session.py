"""What the words of `launch.pod` do with a Cloud TPU: the commands of `gcloud` and `remote`, in order."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from launch.config import ConfigError
from launch.pods import PREEMPTED_STATUS, gcloud, remote
from launch.pods.gcloud import Pod
from launch.pods.runner import Runner

_WAITING = ("ACCEPTED", "WAITING_FOR_RESOURCES", "CREATING", "PROVISIONING")
_GONE = ("SUSPENDED", "FAILED")
_WORKER = re.compile(r"^worker (\S+): (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the workers get the source tree, and what comes with it.

    Attributes:
      copy: folder of a tree here; or
      repo: URL to clone, and
      ref: branch, tag or full commit id of it.
      bucket: mounted as runs/ of every worker; empty for none.
      extras: of setup.py.
    """

    copy: str = ""
    repo: str = ""
    ref: str = ""
    bucket: str = ""
    extras: str = "tpu"

    def __post_init__(self):
        if bool(self.copy) == bool(self.repo) or bool(self.repo) != bool(self.ref):
            raise ConfigError(
                "expected --copy=FOLDER, or --repo=URL together with --ref=COMMIT; "
                f"got --copy={self.copy} --repo={self.repo} --ref={self.ref}"
            )
        if self.copy and not (pathlib.Path(self.copy) / "setup.py").is_file():
            raise ConfigError(f"--copy={self.copy}: no setup.py in it, so it is no source tree")


def setup(runner: Runner, pod: Pod, source: Source) -> None:
    """Bring tree and environment to every worker; again, bring them up to date. A queued TPU is waited for."""
    if pod.queued:
        wait(runner, pod)
    if source.copy:
        archive = _archive(pod)
        runner.call(["mkdir", "-p", str(archive.parent)])
        runner.call(remote.pack(source.copy, str(archive)))
        runner.call(gcloud.scp(pod, str(archive), remote.ARCHIVE))
        runner.call(gcloud.ssh(pod, remote.unpack()))
    else:
        runner.call(gcloud.ssh(pod, remote.clone(source.repo, source.ref)))
    if source.bucket:
        runner.call(gcloud.ssh(pod, remote.mount(source.bucket)))
    runner.call(gcloud.ssh(pod, remote.install(source.extras)))


def run(runner: Runner, pod: Pod, command: Sequence[str], *, resume: bool = False) -> None:
    """Start a job on every worker, behind the ssh session; refused where one runs."""
    job = remote.job(command, resume=resume)
    runner.call(gcloud.ssh(pod, remote.worker("start", "--", *job)))


def logs(runner: Runner, pod: Pod, lines: int, *, follow: bool) -> None:
    """Show the last lines of every worker's log, and what comes until the job ends or Ctrl-C."""
    words = ["logs", str(lines), *(["follow"] if follow else [])]
    try:
        runner.call(gcloud.ssh(pod, remote.worker(*words)))
    except KeyboardInterrupt:
        runner.tell("the job goes on; `stop` ends it")


def resume(runner: Runner, pod: Pod, command: Sequence[str], source: Source | None) -> None:
    """Start a preempted job again with --resume.

    Args:
      runner: of the commands.
      pod: the TPU.
      command: python -m MODULE and its arguments.
      source: recreate a queued resource that was taken away, and set it up with this; None: never.

    Raises:
      ConfigError: a worker still runs, or ended in another way than preempted.
    """
    remote.job(command, resume=True)
    if source is not None:
        if not pod.queued:
            raise ConfigError("--recreate needs --queued: only a queued resource is recreated")
        create = gcloud.create(pod)
        state = runner.ask(gcloud.state(pod), assumed="SUSPENDED")
        if state in _GONE:
            runner.tell(f"the queued resource {pod.name} is {state}: asking for it again")
            runner.call(gcloud.delete(pod))
            runner.call(create)
            setup(runner, pod, source)
            run(runner, pod, command, resume=True)
            return
    ended = f"worker 0: exited {PREEMPTED_STATUS}"
    answer = runner.ask(gcloud.ssh(pod, remote.worker("status")), assumed=ended)
    require_preempted(answer)
    run(runner, pod, command, resume=True)


def require_preempted(answer: str) -> None:
    """Refuse to start a job again that was not preempted on every worker.

    Args:
      answer: what the workers say of themselves, a line each.

    Raises:
      ConfigError: some worker runs, or ended in another way.
    """
    states = dict(_WORKER.findall(answer))
    # A machine that lost power leaves no status; its checkpoints are as good.
    fine = ("never started", "lost", f"exited {PREEMPTED_STATUS}")
    if not states:
        raise ConfigError(f"no worker told its state; got {answer!r}")
    if all(state == "exited 0" for state in states.values()):
        raise ConfigError("the job has finished on every worker: there is nothing to resume")
    if any(state not in fine for state in states.values()):
        lines = [f"worker {name}: {state}" for name, state in sorted(states.items())]
        lines.append(
            f"expected exited {PREEMPTED_STATUS} (preempted) everywhere. Look at the logs and stop what still runs; "
            "run with --resume in the command starts the job in spite of this"
        )
        raise ConfigError("\n".join(lines))


def wait(runner: Runner, pod: Pod) -> None:
    """Wait until a queued TPU is there.

    Raises:
      ConfigError: it never will be.
    """
    while (state := runner.ask(gcloud.state(pod), assumed="ACTIVE")) != "ACTIVE":
        if state not in _WAITING:
            raise ConfigError(
                f"the queued resource {pod.name} is {state} and does not become ACTIVE by itself: delete and create "
                "it, or resume --recreate"
            )
        runner.tell(
            f"the queued resource {pod.name} is {state}: asking again in {runner.poll_s:.0f} s"
        )
        runner.pause()


def _archive(pod: Pod) -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(cache) / "clip-methods-jax" / "pods" / f"{pod.name}.tar.gz"
