"""What every entry point that computes does first: join the other processes, then turn on the compilation cache.

Both must happen before JAX touches a device. A process joins those that `--coordinator`, `--num_processes` and
`--process_id` name, or those that SLURM (srun), Open MPI, a TPU pod or GKE has started beside it (launch/clusters.py);
otherwise it is alone. Compiled programs are kept in the user's own cache folder.
"""

import math
import os
import pathlib
import socket
import sys

from absl import flags, logging

from launch import clusters, rollcall

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    'address:port of process 0, the same for all; "auto" where the cluster must tell (TPU pods, SLURM), "none" to be '
    "alone even there; without it a process joins those that a cluster has started beside it",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process", lower_bound=0)
_START_TIMEOUT = flags.DEFINE_float(
    "start_timeout", 300.0, "seconds within which all processes have to be there", lower_bound=0.1
)
_COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    "auto",
    'folder for compiled programs, yours alone: its files are trusted; "auto" is in your cache folder, "off" is none',
)


def start() -> clusters.Layout:
    """Join the other processes, set the compilation cache, and say in one line who this process is.

    Returns:
      The layout, as found.

    Raises:
      ConfigError: the flags are incomplete or contradict each other or the environment.
      JoinError: some processes did not come within --start_timeout; the message names them.
    """
    layout = found()
    import jax

    if layout.processes > 1:
        join(layout, _START_TIMEOUT.value)
    folder = cache_folder(_COMPILE_CACHE.value, os.environ)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Programs that compile faster than this are not worth a file.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if layout.processes > 1:
        print(describe(layout), file=sys.stderr, flush=True)
    elif logging.level_debug():
        # Shown with --verbosity=1: nothing to learn for those who are alone, and asking starts the devices.
        logging.debug("%s", describe(layout))
    return layout


def found() -> clusters.Layout:
    """Where the flags and the environment place this process; joins nothing.

    Raises:
      ConfigError: they are incomplete or contradict each other.
    """
    return clusters.layout(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        timeout_s=_START_TIMEOUT.value,
    )


def join(layout: clusters.Layout, timeout_s: float) -> None:
    """Join the processes of a layout. Every wait is bounded.

    Raises:
      JoinError: names the processes that were not there in time.
    """
    import jax

    rollcall.roll_call(layout, timeout_s)
    jax.distributed.initialize(
        coordinator_address=layout.coordinator,
        num_processes=layout.processes,
        process_id=layout.process,
        local_device_ids=layout.local_devices,
        # The layout is complete. JAX's own search would add a choice of GPUs to it.
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, math.ceil(timeout_s)),
        coordinator_bind_address=_bind_address(str(layout.coordinator)),
    )
    rollcall.barrier("start", timeout_s)


def _bind_address(coordinator: str) -> str | None:
    # Without this the service of a job on one machine listens on all of its addresses.
    return coordinator if coordinator.startswith("127.0.0.1:") else None


def describe(layout: clusters.Layout) -> str:
    """Who this process is and what it computes on, in one line. Starts JAX's backend."""
    import jax

    local, total = jax.local_device_count(), jax.device_count()
    kind = jax.local_devices()[0].device_kind
    where = f", coordinator {layout.coordinator}" if layout.coordinator else ""
    return (
        f"process {layout.process} of {layout.processes} (counted from 0) on {socket.gethostname()}: "
        f"{local} of {total} devices here ({kind}); {layout.found}{where}"
    )


def cache_folder(setting: str, environment: clusters.Environment) -> pathlib.Path | None:
    """The folder that `--compile_cache` means; None leaves JAX as its own environment variable has it."""
    if setting == "off" or (setting == "auto" and environment.get("JAX_COMPILATION_CACHE_DIR")):
        return None
    if setting != "auto":
        return pathlib.Path(setting).expanduser()
    cache = environment.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(cache) / "clip-methods-jax" / "compiled"


def is_main() -> bool:
    """Whether this process prints and writes."""
    import jax

    return jax.process_index() == 0
