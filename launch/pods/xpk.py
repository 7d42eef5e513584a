"""Command lines of xpk, which runs jobs on TPU node pools of a GKE cluster; TPU7x included.

A cluster has a name of its own and outlives its workloads. xpk restarts a workload that leaves with a listed exit status,
so that a preempted training goes on by itself: its command has --resume from the start, which begins at the beginning
where there is no checkpoint.
"""

import dataclasses
import shlex
from collections.abc import Sequence

from launch.config import ConfigError
from launch.pods import PREEMPTED_STATUS, remote

BASE_IMAGE = "python:3.12"
"""The local tree is laid over it when no image is named."""

MOST_RESTARTS = 50
_GRACE_S = 120

_INSTALL = 'python -m pip install --quiet --editable ".[$1]"; shift; exec "$@"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A job of a cluster.

    Attributes:
      name: of the workload.
      cluster: that runs it.
      zone: of the cluster.
      project: id of the Google Cloud project.
      type: accelerator type, such as v5litepod-16; only running needs it.
      image: container image with the project installed; empty: the tree in the current folder, installed at each start.
      storage: name of a storage attached to the cluster, for the work directory; empty for none.
      extras: of setup.py, installed where there is no image.
    """

    name: str
    cluster: str
    zone: str
    project: str
    type: str = ""
    image: str = ""
    storage: str = ""
    extras: str = "tpu"

    def __post_init__(self):
        missing = [
            f"--{field} is missing"
            for field in ("name", "cluster", "zone", "project")
            if not getattr(self, field)
        ]
        if missing:
            raise ConfigError("\n".join(missing))


def create(workload: Workload, command: Sequence[str]) -> list[str]:
    """Queue the job.

    Args:
      workload: where and what for.
      command: python -m MODULE and its arguments.

    Raises:
      ConfigError: the type is missing, the command is none, or holds a line break, which xpk cannot carry.
    """
    if not workload.type:
        raise ConfigError("--type is missing: the accelerator type, such as v5litepod-16")
    # Everything but the interpreter, which is the container's.
    job = ["python", *remote.job(command, resume=True)[1:]]
    if any("\n" in word for word in job):
        raise ConfigError("a line break in an argument: xpk writes the command into one YAML line")
    if workload.image:
        source = [f"--docker-image={workload.image}"]
    else:
        job = ["bash", "-euc", _INSTALL, "run", workload.extras, *job]
        source = [f"--base-docker-image={BASE_IMAGE}", "--script-dir=."]
    return [
        *_words("create", workload),
        f"--workload={workload.name}",
        f"--tpu-type={workload.type}",
        "--num-slices=1",
        *source,
        *([f"--storage={workload.storage}"] if workload.storage else []),
        f"--max-restarts={MOST_RESTARTS}",
        f"--restart-on-exit-codes={PREEMPTED_STATUS}",
        f"--termination-grace-period-seconds={_GRACE_S}",
        f"--command={shlex.join(job)}",
    ]


def status(workload: Workload) -> list[str]:
    """List the job: queued, running or how it ended."""
    return [*_words("list", workload), f"--filter-by-job={workload.name}"]


def delete(workload: Workload) -> list[str]:
    """Delete the job, not the cluster, without asking."""
    return [*_words("delete", workload), f"--workload={workload.name}", "--force"]


def _words(word: str, workload: Workload) -> list[str]:
    where = [f"--cluster={workload.cluster}", f"--zone={workload.zone}"]
    return ["xpk", "workload", word, *where, f"--project={workload.project}"]
