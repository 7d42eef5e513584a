"""What every entry point that computes does first: join the other processes, then turn on the compilation cache.

Both must happen before JAX touches a device. Without flags a process is alone and keeps compiled programs in the user's
own cache folder.
"""

import os
import pathlib
from typing import Any

from absl import flags

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    'address:port of process 0, the same for all; "auto" where the cluster tells (TPU pods, SLURM)',
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process", lower_bound=0)
_COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    "auto",
    'folder for compiled programs, yours alone: its files are trusted; "auto" is in your cache folder, "off" is none',
)


def start() -> None:
    """Join the processes that the flags name and set the compilation cache.

    Raises:
      ValueError: the flags are incomplete or contradict each other.
    """
    arguments = distributed_arguments(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)

    import jax

    if arguments is not None:
        jax.distributed.initialize(**arguments)
    folder = cache_folder(_COMPILE_CACHE.value, os.environ)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Programs that compile faster than this are not worth a file.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def distributed_arguments(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`, or None for a process that is alone.

    Raises:
      ValueError: some of the three are given and others are not, or the id is not below the number.
    """
    given = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if all(value is None for value in given.values()):
        return None
    if coordinator == "auto" and num_processes is None and process_id is None:
        return {}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing or coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f"{', '.join(missing)} missing: --coordinator, --num_processes and --process_id come together "
            "(or --coordinator=auto alone, where the cluster tells)"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id={process_id} with --num_processes={num_processes}: expected 0 to {num_processes - 1}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }


def cache_folder(setting: str, environment: dict[str, str] | os._Environ) -> pathlib.Path | None:
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
