"""Which process of how many this one is: told by flags, or found in the environment of SLURM, Open MPI, a TPU pod or GKE.

JAX's own cluster classes read addresses and numbers. What they take for granted is checked here: that a SLURM job was
started by srun, and which GPUs of its node a process is to use.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from launch.config import ConfigError

Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The place of a process among the others.

    Attributes:
      found: how it is known, in words.
      coordinator: address:port of process 0; None for a process that is alone.
      processes: how many there are.
      process: number of this one, from 0.
      local_devices: the GPUs of this host that are its own; None leaves that to JAX.
    """

    found: str
    coordinator: str | None = None
    processes: int = 1
    process: int = 0
    local_devices: tuple[int, ...] | None = None


def layout(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    timeout_s: float = 300,
    environment: Environment = os.environ,
) -> Layout:
    """The layout that three flags and the environment describe.

    Args:
      coordinator: address:port with the two others; "auto" insists on finding other processes, "none" on being alone,
        None joins the processes that a cluster has plainly started and is alone otherwise.
      num_processes: how many.
      process_id: which one.
      timeout_s: bound of waiting for the name of process 0 to be known.
      environment: variables; JAX's own classes read those of the process.

    Raises:
      ConfigError: incomplete or contradicting flags, or an environment that cannot work; all problems in one message.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if num_processes is None and process_id is None and coordinator in (None, "auto", "none"):
        if coordinator == "none":
            return Layout(found="alone, as told")
        return _detected(coordinator == "auto", timeout_s, environment)
    missing = [f"--{name}" for name, value in given.items() if value is None]
    problems = []
    if missing:
        problems.append(
            f"{', '.join(missing)} missing: --coordinator, --num_processes and --process_id come together "
            "(or --coordinator=auto alone, where the cluster tells)"
        )
    if coordinator in ("auto", "none"):
        problems.append(
            f"--coordinator={coordinator} stands alone, without --num_processes and --process_id"
        )
    elif coordinator is not None and not _is_address(coordinator):
        problems.append(
            f"--coordinator={coordinator}: expected address:port of process 0, such as 10.0.0.1:8476"
        )
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        problems.append(
            f"--process_id={process_id} with --num_processes={num_processes}: expected 0 to {num_processes - 1}"
        )
    if problems or num_processes is None or process_id is None:
        raise ConfigError("\n".join(problems))
    return Layout(
        found="told by flags",
        coordinator=coordinator,
        processes=num_processes,
        process=process_id,
    )


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _detected(asked: bool, timeout_s: float, environment: Environment) -> Layout:
    if problems := slurm_problems(environment, asked=asked):
        raise ConfigError("\n".join(problems))
    from jax._src import clusters as known

    # Most plainly set first; Kubernetes needs a client library and may run many single jobs, so it has to be asked for.
    kinds: list[tuple[str, Any, Callable[[], bool]]] = [
        ("found by SLURM", known.SlurmCluster, lambda: slurm_tasks(environment) > 1),
        ("found by Open MPI", known.OmpiCluster, known.OmpiCluster.is_env_present),
        ("found by GKE's TPU variables", known.GkeTpuCluster, known.GkeTpuCluster.is_env_present),
        ("found by the TPU VM's metadata", known.GceTpuCluster, known.GceTpuCluster.is_env_present),
        ("found by Kubernetes", known.K8sCluster, lambda: asked and _kubernetes(environment)),
    ]
    for words, kind, is_here in kinds:
        if not is_here():
            continue
        slurm = kind is known.SlurmCluster
        # SLURM_NTASKS, which JAX reads, is the job's; a step may have fewer.
        count = slurm_tasks(environment) if slurm else kind.get_process_count()
        if count == 1:
            return Layout(found=f"{words}, one process")
        local = kind.get_local_process_id()
        ours = slurm_devices(environment) if slurm else (None if local is None else (local,))
        return Layout(
            found=words,
            coordinator=kind.get_coordinator_address(
                timeout_secs=int(timeout_s),
                override_coordinator_port=environment.get("JAX_COORDINATOR_PORT"),
            ),
            processes=count,
            process=kind.get_process_id(),
            local_devices=ours,
        )
    if asked and slurm_tasks(environment) == 0:
        raise ConfigError(
            "--coordinator=auto: no cluster is to be seen: no step of SLURM (srun), no Open MPI, no TPU of a pod, no "
            "indexed Kubernetes job with the package kubernetes. Name the processes: --coordinator=ADDRESS:PORT "
            "--num_processes=N --process_id=I"
        )
    return Layout(found="alone")


def _kubernetes(environment: Environment) -> bool:
    inside = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return inside and importlib.util.find_spec("kubernetes") is not None


def slurm_tasks(environment: Environment) -> int:
    """Tasks of the SLURM step that this process belongs to; 0 outside of steps."""
    if "SLURM_STEP_NODELIST" not in environment or "SLURM_PROCID" not in environment:
        return 0
    return int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)


def slurm_problems(environment: Environment, *, asked: bool) -> list[str]:
    """What in a SLURM environment would make a start hang or leave GPUs unused.

    Args:
      environment: variables.
      asked: the user wants to join other processes.
    """
    problems = []
    tasks, job_tasks = slurm_tasks(environment), int(environment.get("SLURM_NTASKS") or 1)
    if asked and "SLURM_JOB_ID" in environment and tasks <= 1 < job_tasks:
        problems.append(
            f"--coordinator=auto in a SLURM job of {job_tasks} tasks, of which only one runs this: a batch script and "
            "a shell of salloc start one process; put srun in front of the command"
        )
    if tasks > 1:
        gone = [name for name in ("SLURM_JOB_ID", "SLURM_LOCALID") if name not in environment]
        problems += [
            f"{name} is not set although this is a step of SLURM: use srun" for name in gone
        ]
        try:
            slurm_devices(environment)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def slurm_devices(environment: Environment) -> tuple[int, ...] | None:
    """The GPUs of a SLURM task, as positions among those that it sees; None where none are named.

    JAX gives the n-th task of a node its n-th GPU. That is wrong where a task sees only its own GPUs
    (--gpus-per-task), and leaves GPUs unused where there are fewer tasks than GPUs.

    Raises:
      ConfigError: the GPUs cannot be shared out evenly.
    """
    on_node, here = int(environment.get("SLURM_GPUS_ON_NODE") or 0), _tasks_here(environment)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    # Where there are no GPUs, old versions of SLURM say so in words.
    count = (
        len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
        if visible is not None
        else on_node
    )
    if count == 0:
        return None
    # "2", "a100:2", or of two kinds "a100:1,h100:1".
    asked = re.findall(r"(\d+)(?:,|$)", environment.get("SLURM_GPUS_PER_TASK") or "")
    if count * here <= max(on_node, here * sum(map(int, asked))):
        return tuple(range(count))
    if count % here:
        raise ConfigError(
            f"{here} tasks of SLURM on this node and {count} GPUs: expected one task a GPU "
            f"(--ntasks-per-node={count}), one task a node, or --gpus-per-task"
        )
    each, place = count // here, int(environment.get("SLURM_LOCALID") or 0)
    return tuple(range(place * each, (place + 1) * each))


def _tasks_here(environment: Environment) -> int:
    """From lists such as "8(x2),4": nodes 0 and 1 have 8 tasks, node 2 has 4."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or "1"
    counts = [
        int(tasks)
        for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
        for _ in range(int(times or 1))
    ]
    node = int(environment.get("SLURM_NODEID") or 0)
    return counts[min(node, len(counts) - 1)]
