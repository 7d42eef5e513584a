"""TPU pods: create, set up, start on every worker, follow, resume, delete. docs/pods.md shows whole sessions.

  python -m launch.pod create --name=gaze --type=v5litepod-16 --zone=us-west4-a --project=P [--queued] [--spot]
  python -m launch.pod setup  --name=gaze --zone=... --project=P --copy=. [--bucket=B] [--queued]
  python -m launch.pod setup  --name=gaze --zone=... --project=P --repo=URL --ref=COMMIT
  python -m launch.pod run    --name=gaze --zone=... --project=P -- python -m launch.train --config=... --workdir=runs/x
  python -m launch.pod logs   --name=gaze --zone=... --project=P [--nofollow] [--lines=50]
  python -m launch.pod status | stop --name=gaze --zone=... --project=P
  python -m launch.pod resume --name=gaze --zone=... --project=P [--recreate --queued ...] -- python -m launch.train ...
  python -m launch.pod delete --name=gaze --zone=... --project=P [--queued] --yes

  python -m launch.pod run | status | delete --backend=xpk --cluster=C --name=gaze --zone=... --project=P ...

`--dry_run` prints the commands that would run, ready for a shell, and runs none. What stands after `--` is what one would
type on one machine; --coordinator=auto is added to it.
"""

import sys
from collections.abc import Sequence

from absl import flags

from launch import config as config_lib
from launch.config import ConfigError
from launch.pods import gcloud, remote, session, split, xpk
from launch.pods.runner import CommandFailed, Runner

WORDS = ("create", "setup", "run", "logs", "status", "stop", "resume", "delete")
_BACKEND = flags.DEFINE_enum(
    "backend", "tpu-vm", ["tpu-vm", "xpk"], "Cloud TPU VMs, or workloads of a GKE cluster"
)
_NAME = flags.DEFINE_string("name", "", "of the TPU, or of the workload")
_ZONE = flags.DEFINE_string("zone", "", "of the TPU or the cluster, such as us-west4-a")
_PROJECT = flags.DEFINE_string("project", "", "id of the Google Cloud project")
_TYPE = flags.DEFINE_string("type", "", "accelerator type, such as v5litepod-16")
_RUNTIME = flags.DEFINE_string("runtime", "", "system image; the one for the type unless given")
_QUEUED = flags.DEFINE_bool("queued", False, "the TPU is a queued resource")
_SPOT = flags.DEFINE_bool("spot", False, "create: cheap, and may be taken away")
_COPY = flags.DEFINE_string("copy", "", "setup: copy the source tree in this folder")
_REPO = flags.DEFINE_string("repo", "", "setup: clone the source tree from this URL")
_REF = flags.DEFINE_string("ref", "", "setup: branch, tag or full commit id of --repo")
_BUCKET = flags.DEFINE_string("bucket", "", "setup: mount this bucket as runs/ of every worker")
_EXTRAS = flags.DEFINE_string("extras", "tpu", "setup: extras of setup.py to install")
_LINES = flags.DEFINE_integer("lines", 50, "logs: this many lines of the past", lower_bound=0)
_FOLLOW = flags.DEFINE_bool("follow", True, "logs: go on until the job ends")
_RECREATE = flags.DEFINE_bool(
    "recreate", False, "resume: if the queued resource was taken away, ask for it again first"
)
_YES = flags.DEFINE_bool("yes", False, "delete: really")
_CLUSTER = flags.DEFINE_string("cluster", "", "xpk: name of the GKE cluster")
_IMAGE = flags.DEFINE_string(
    "image", "", "xpk: container image with the project; the tree in this folder unless given"
)
_STORAGE = flags.DEFINE_string("storage", "", "xpk: storage of the cluster for the work directory")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the commands and run none")


def main(word: str, command: Sequence[str]) -> None:
    """Does what one of `WORDS` says.

    Args:
      word: which.
      command: what stood after -- on the command line.
    """
    if command and word not in ("run", "resume"):
        raise ConfigError(f"{word} takes no command; got -- {' '.join(command)}")
    if word == "delete" and not (_YES.value or _DRY_RUN.value):
        raise ConfigError(f"delete takes {_NAME.value or 'the TPU'} away for good: add --yes")
    runner = Runner(dry_run=_DRY_RUN.value)
    if _BACKEND.value == "xpk":
        _xpk(word, runner, command)
    else:
        _tpu(word, runner, command)


def _tpu(word: str, runner: Runner, command: Sequence[str]) -> None:
    pod = gcloud.Pod(
        name=_NAME.value,
        zone=_ZONE.value,
        project=_PROJECT.value,
        type=_TYPE.value,
        runtime=_RUNTIME.value,
        queued=_QUEUED.value,
        spot=_SPOT.value,
    )
    if word == "create":
        runner.call(gcloud.create(pod))
    elif word == "setup":
        session.setup(runner, pod, _source())
    elif word == "run":
        session.run(runner, pod, command)
    elif word == "logs":
        session.logs(runner, pod, _LINES.value, follow=_FOLLOW.value)
    elif word == "resume":
        session.resume(runner, pod, command, _source() if _RECREATE.value else None)
    elif word == "delete":
        runner.call(gcloud.delete(pod))
    else:
        runner.call(gcloud.ssh(pod, remote.worker(word)))


def _source() -> session.Source:
    return session.Source(
        copy=_COPY.value,
        repo=_REPO.value,
        ref=_REF.value,
        bucket=_BUCKET.value,
        extras=_EXTRAS.value,
    )


def _xpk(word: str, runner: Runner, command: Sequence[str]) -> None:
    if word not in ("run", "status", "delete"):
        raise ConfigError(
            f"{word} does not exist with --backend=xpk: expected run, status or delete. xpk resumes by itself, and "
            "makes clusters: see docs/pods.md"
        )
    workload = xpk.Workload(
        name=_NAME.value,
        cluster=_CLUSTER.value,
        zone=_ZONE.value,
        project=_PROJECT.value,
        type=_TYPE.value,
        image=_IMAGE.value,
        storage=_STORAGE.value,
        extras=_EXTRAS.value,
    )
    if word == "run":
        runner.call(xpk.create(workload, command))
    else:
        runner.call({"status": xpk.status, "delete": xpk.delete}[word](workload))


if __name__ == "__main__":
    sys.argv, _command = split(sys.argv)
    config_lib.run(lambda argv: main(argv[1], _command), lambda: (CommandFailed,), words=WORDS)
