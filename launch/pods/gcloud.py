"""Command lines of the Google Cloud CLI for Cloud TPU VMs and queued resources, as lists of arguments.

Nothing here runs anything. `gcloud compute tpus tpu-vm` and `gcloud compute tpus queued-resources` do not know TPU7x.
"""

import dataclasses
import re

from launch.config import ConfigError

RUNTIMES = (
    (r"v[234]-\d+", "tpu-ubuntu2204-base"),
    (r"v5litepod-\d+", "v2-alpha-tpuv5-lite"),
    (r"v5p-\d+", "v2-alpha-tpuv5"),
    (r"v6e-\d+", "v2-alpha-tpuv6e"),
)
"""(pattern of an accelerator type, the system image with which JAX is run on it)."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_TPUS = ("gcloud", "compute", "tpus")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pod:
    """A slice of TPUs: one machine or many, created and deleted together.

    Attributes:
      name: of the TPU, and of its queued resource.
      zone: such as us-west4-a.
      project: id of the Google Cloud project.
      type: accelerator type, such as v5litepod-16; only creating needs it.
      runtime: system image; empty for the one of `RUNTIMES`.
      queued: requested through a queue, instead of now or never.
      spot: cheap, and taken away when others need it.
    """

    name: str
    zone: str
    project: str
    type: str = ""
    runtime: str = ""
    queued: bool = False
    spot: bool = False

    def __post_init__(self):
        problems = [
            f"--{field} is missing"
            for field in ("name", "zone", "project")
            if not getattr(self, field)
        ]
        if self.name and not _NAME.fullmatch(self.name):
            problems.append(
                f"--name={self.name}: expected at most 63 lower-case letters, digits and hyphens, "
                "a letter first and no hyphen last"
            )
        if problems:
            raise ConfigError("\n".join(problems))


def create(pod: Pod) -> list[str]:
    """Ask for the TPU: it exists when the command ends, or waits in the queue for resources.

    Raises:
      ConfigError: the type is missing, or unknown and without a runtime.
    """
    kind = [f"--accelerator-type={pod.type}"]
    spot = ["--spot"] if pod.spot else []
    image = _runtime(pod)
    if pod.queued:
        start = [*_TPUS, "queued-resources", "create", pod.name, f"--node-id={pod.name}"]
        return [*start, *_where(pod), *kind, f"--runtime-version={image}", *spot]
    return [*_TPUS, "tpu-vm", "create", pod.name, *_where(pod), *kind, f"--version={image}", *spot]


def state(pod: Pod) -> list[str]:
    """Print the state of a queued resource: ACTIVE when its TPU is there, SUSPENDED when it was taken away."""
    words = [*_TPUS, "queued-resources", "describe", pod.name, *_where(pod)]
    return [*words, "--format=value(state.state)"]


def delete(pod: Pod) -> list[str]:
    """Delete the TPU, and its queued resource, without asking."""
    if pod.queued:
        words = [*_TPUS, "queued-resources", "delete", pod.name, *_where(pod)]
        # Without --force a queued resource whose TPU still exists is kept.
        return [*words, "--force", "--quiet"]
    return [*_TPUS, "tpu-vm", "delete", pod.name, *_where(pod), "--quiet"]


def ssh(pod: Pod, command: str) -> list[str]:
    """Run a command on all workers at once.

    Args:
      pod: the TPU.
      command: text for the shell of the worker, in the home folder there.
    """
    words = [*_TPUS, "tpu-vm", "ssh", pod.name, *_where(pod)]
    return [*words, "--worker=all", f"--command={command}"]


def scp(pod: Pod, source: str, target: str) -> list[str]:
    """Copy a file to all workers.

    Args:
      pod: the TPU.
      source: path of a file here.
      target: path there, from the home folder.
    """
    words = [*_TPUS, "tpu-vm", "scp", source, f"{pod.name}:{target}", *_where(pod)]
    return [*words, "--worker=all"]


def _where(pod: Pod) -> list[str]:
    return [f"--zone={pod.zone}", f"--project={pod.project}"]


def _runtime(pod: Pod) -> str:
    if not pod.type:
        raise ConfigError("--type is missing: the accelerator type, such as v5litepod-16")
    if pod.runtime:
        return pod.runtime
    found = [image for pattern, image in RUNTIMES if re.fullmatch(pattern, pod.type)]
    if not found:
        raise ConfigError(
            f"--type={pod.type}: expected v2-N, v3-N, v4-N, v5litepod-N, v5p-N or v6e-N, or --runtime=IMAGE beside it; "
            "TPU7x is reached through GKE only (--backend=xpk) or Compute Engine: see docs/pods.md"
        )
    return found[0]
