"""The checks of launch/doctor.py: each looks at one thing and returns facts and problems. Nothing here is changed or joined.

A problem is one line that ends in what to do. What a check looks at is an argument wherever a test wants to pretend.
"""

import os
import pathlib
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Path = pathlib.Path
Facts = dict[str, Any]
Checked = tuple[Facts, list[str]]

# Shown by name and value. Tokens and proxies may hold secrets: of proxies the name alone is shown, of tokens nothing.
_TELLING = (
    *("JAX_", "XLA_", "TPU_", "LIBTPU_", "MEGASCALE_", "NCCL_", "CUDA_VISIBLE_DEVICES", "TF_GPU_"),
    *("SLURM_JOB_ID", "SLURM_STEP_", "SLURM_NTASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_"),
    *(
        "HF_HUB_OFFLINE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "XDG_CACHE_HOME",
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
    ),
)
_LEAST_FREE_BYTES = 2 * 2**30


def variables(environment: Mapping[str, str]) -> Checked:
    """The variables that change what JAX and this project do, and those that are set to something harmful."""
    facts: Facts = {
        name: environment[name] for name in sorted(environment) if name.startswith(_TELLING)
    }
    facts |= {name: "(set)" for name in sorted(environment) if name.lower().endswith("_proxy")}
    problems = []
    for name, harm in {
        "JAX_ENABLE_X64": "arrays become float64, which this project does not expect",
        "JAX_DISABLE_JIT": "everything runs uncompiled, a hundred times slower",
        "JAX_LOG_COMPILES": "every compilation is printed",
    }.items():
        if environment.get(name, "").lower() in ("1", "true", "on", "yes"):
            problems.append(f"{name}={environment[name]}: {harm}: unset {name}")
    words = environment.get("XLA_FLAGS", "").split()
    if wrong := [word for word in words if not word.startswith("--")]:
        problems.append(
            f"XLA_FLAGS holds {' '.join(wrong)}: XLA takes words that begin with -- : write --NAME=VALUE"
        )
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        problems.append(
            f"JAX_COORDINATOR_ADDRESS={environment['JAX_COORDINATOR_ADDRESS']} is not looked at: "
            "give --coordinator, --num_processes and --process_id"
        )
    return facts, problems


def hub(environment: Mapping[str, str]) -> str:
    """Whether names of models may be looked up in the Hugging Face hub."""
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "on", "yes"):
        return "offline (HF_HUB_OFFLINE): folders and what is in the cache"
    return "asked for models that are named by a hub id"


def accelerators(root: str | Path = "/dev") -> list[str]:
    """Kinds of accelerators that the system has device files for."""
    root, found = Path(root), []
    if (root / "nvidiactl").exists() or (root / "nvidia0").exists():
        found.append("gpu")
    if list(root.glob("accel[0-9]*")) or list((root / "vfio").glob("[0-9]*")):
        found.append("tpu")
    return found


def unused(backend: str, present: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Accelerators that are there and that JAX does not use, without having been told so."""
    if backend != "cpu" or environment.get("JAX_PLATFORMS"):
        return []
    problems = []
    if "gpu" in present:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        problems.append(
            f"there is a GPU and CUDA_VISIBLE_DEVICES={visible!r} hides it: unset it, or JAX_PLATFORMS=cpu"
            if visible is not None and visible.strip() in ("", "-1")
            else "there is a GPU and JAX computes on the CPU: pip install -e '.[cuda12]' (or cuda13), or JAX_PLATFORMS=cpu"
        )
    if "tpu" in present:
        problems.append(
            "there is a TPU and JAX computes on the CPU: pip install -e '.[tpu]', or JAX_PLATFORMS=cpu; "
            "a TPU belongs to one process at a time"
        )
    return problems


def devices() -> Facts:
    """The devices of this process and their memory in bytes, where the device tells. Starts JAX's backend."""
    import jax

    here = []
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        memory = {name: stats[name] for name in ("bytes_limit", "bytes_in_use") if name in stats}
        here.append({"id": device.id, "kind": device.device_kind, **memory})
    return {"backend": jax.default_backend(), "total": jax.device_count(), "here": here}


def no_devices(stderr: str, environment: Mapping[str, str]) -> str:
    """The problem of a process that asked JAX for its devices and failed, from what it printed."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    telling = [line for line in lines if "Unknown flag" in line or line.startswith("RuntimeError")]
    names = ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "CUDA_VISIBLE_DEVICES")
    given = ", ".join(f"{name}={environment[name]}" for name in names if environment.get(name))
    return (
        f"JAX cannot start its devices ({(telling or lines)[-1]}): look at {given or 'the driver'}, "
        "and at the extras cuda12, cuda13 and tpu"
    )


def host_memory(path: str | Path = "/proc/meminfo") -> Facts:
    """Bytes of main memory, total and available; empty where the system does not say."""
    path = Path(path)
    if not path.is_file():
        return {}
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    names = {"total_bytes": "MemTotal", "available_bytes": "MemAvailable"}
    return {key: int(lines[name].split()[0]) * 1024 for key, name in names.items() if name in lines}


def cache(folder: Path | None) -> Checked:
    """The folder of compiled programs: where, how big, and whether it can be written to by its user and nobody else."""
    if folder is None:
        return {"folder": None}, []
    there = _nearest(folder)
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    facts = {
        "folder": str(folder),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    }
    problems = []
    if not facts["writable"]:
        problems.append(
            f"compiled programs cannot be kept: {there} is not writable: --compile_cache=DIR, or off"
        )
    elif folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:
        problems.append(
            f"everybody can write to {folder}, and its files are run: chmod o-w {folder}"
        )
    return facts, problems


def disk(folder: Path, least_bytes: int = _LEAST_FREE_BYTES) -> Checked:
    """Free space for a work directory, which need not exist yet."""
    there = _nearest(folder)
    usage = shutil.disk_usage(there)
    facts = {"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total}
    problems = []
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        problems.append(f"--workdir={folder}: {there} is not a writable folder: choose another")
    if usage.free < least_bytes:
        problems.append(
            f"--workdir={folder}: {size(usage.free)} are free, expected {size(least_bytes)} for checkpoints: "
            "free some space or choose another"
        )
    return facts, problems


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def configuration(
    values: Mapping[str, Any],
    *,
    devices: int | None,
    processes: int,
    environment: Mapping[str, str],
    cached: Callable[[str], bool],
) -> list[str]:
    """What a configuration asks for and this machine does not have.

    Args:
      values: of the configuration.
      devices: of all processes together; None where that is not known, which leaves out what depends on it.
      processes: how many.
      environment: for HF_HUB_OFFLINE.
      cached: whether a hub id is in the hub's cache folder.
    """
    from core_jax.train import sharding

    problems, parts = [], 1
    # Gaze networks are published with their recipe, batch size included.
    name = "batch_size" if "batch_size" in values else "recipe.batch_size"
    batch = values.get("batch_size", (values.get("recipe") or {}).get("batch_size"))
    try:
        if devices is not None:
            parts, _ = sharding.read_mesh((values.get("fit") or {}).get("mesh") or "", devices)
    except ValueError as error:
        problems.append(f"config.fit.{error}")
    else:
        if isinstance(batch, int) and batch % parts:
            problems.append(
                f"config.{name}={batch} does not divide among {parts} devices: expected a multiple of {parts}"
            )
    if isinstance(batch, int) and batch % processes:
        problems.append(
            f"config.{name}={batch} does not divide among {processes} processes: expected a multiple of {processes}"
        )
    for name in ("student", "teacher", "clip"):
        if problem := _model_problem(name, values.get(name), environment, cached):
            problems.append(problem)
    return problems


def _model_problem(
    name: str, value: Any, environment: Mapping[str, str], cached: Callable[[str], bool]
) -> str | None:
    if not isinstance(value, str) or not value or value.startswith("world:"):
        return None
    if Path(value).expanduser().exists():
        return None
    if value[0] in "./~" or value.count("/") != 1:
        return f"config.{name}={value}: there is no such folder: give that of a CLIP model (docs/models.md)"
    if hub(environment).startswith("offline") and not cached(value):
        return (
            f"config.{name}={value}: not a folder, not in the hub's cache, and HF_HUB_OFFLINE is set: "
            f"unset it, or run huggingface-cli download {value} where there is a network"
        )
    return None


def size(count: float) -> str:
    """Bytes for people: 1536 is "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
