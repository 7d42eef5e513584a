"""The checks of launch/doctor.py: each looks at one thing and returns facts and problems. Nothing here is changed or joined.

A problem is one line that ends in what to do. What a check looks at is an argument wherever a test wants to pretend.
"""

import math
import os
import pathlib
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

Path = pathlib.Path
Facts = dict[str, Any]
Checked = tuple[Facts, list[str]]

DISTRIBUTION = "clip-methods-jax"
EXTRAS = {
    "coco": "mask AP of instance segmentation",
    "gaze": "MPIIFaceGaze, ETH-XGaze and FAZE files; videos, cameras and OpenCV's calibration files",
    "gaze-face": "finds faces in pictures, videos and cameras",
    "test": "the test suite",
    "lint": "make lint",
    "cuda12": "NVIDIA GPUs, CUDA 12",
    "cuda13": "NVIDIA GPUs, CUDA 13",
    "tpu": "TPUs",
}
"""What each extra of setup.py is for."""

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
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy"),
    *("ml_collections", "safetensors", "tokenizers", "libtpu"),
)
_LEAST_FREE_BYTES = 2 * 2**30


def installed(name: str) -> str | None:
    """The version of an installed distribution; None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def declared() -> list[str] | None:
    """The requirements of this project, extras included; None where it is not installed."""
    try:
        return metadata.requires(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def packages(
    requirements: Sequence[str] | None, version: Callable[[str], str | None] = installed
) -> Checked:
    """Versions, and what is missing or too old for this project."""
    facts: Facts = {name: version(name) for name in _PACKAGES}
    if requirements is None:
        return facts, [
            f"{DISTRIBUTION} is not installed, so its requirements cannot be checked: pip install -e . in its folder"
        ]
    wanted = [text for text, extra in _parsed(requirements) if extra is None]
    problems = []
    if unknown := sorted(set(EXTRAS) - {extra for _, extra in _parsed(requirements)}):
        problems.append(
            f"the installed {DISTRIBUTION} is older than this source tree and knows nothing of the extras "
            f"{', '.join(unknown)}: pip install -e . again in its folder"
        )
    return facts, problems + [
        f"{text.split(';')[0].strip()}: {_state(text, version)}: pip install '{text.split(';')[0].strip()}'"
        for text in wanted
        if not _is_met(text, version)
    ]


def extras(
    requirements: Sequence[str] | None, version: Callable[[str], str | None] = installed
) -> Facts:
    """For each extra: what it is for, whether it is here, and what it lacks."""
    found: Facts = {}
    for name, purpose in EXTRAS.items():
        own = [text for text, extra in _parsed(requirements or ()) if extra == name]
        lacks = [text.split(";")[0].strip() for text in own if not _is_met(text, version)]
        found[name] = {"purpose": purpose, "present": bool(own) and not lacks, "lacks": lacks}
    return found


def _parsed(requirements: Sequence[str]) -> list[tuple[str, str | None]]:
    """Requirements with the extra that they belong to; those of other systems and Pythons are left out."""
    from packaging import requirements as parsing

    found = []
    for text in requirements:
        marker = parsing.Requirement(text).marker
        if marker is None or marker.evaluate({"extra": ""}):
            found.append((text, None))
        else:
            found += [(text, name) for name in EXTRAS if marker.evaluate({"extra": name})]
    return found


def _is_met(text: str, version: Callable[[str], str | None]) -> bool:
    from packaging import requirements as parsing

    wanted = parsing.Requirement(text)
    here = version(wanted.name)
    if here is None or not wanted.specifier.contains(here, prereleases=True):
        return False
    # jax[cuda12] is jax and a plugin; the plugin is what may be missing.
    plugins = {"cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin", "tpu": "libtpu"}
    return all(version(plugins[extra]) for extra in wanted.extras if extra in plugins)


def _state(text: str, version: Callable[[str], str | None]) -> str:
    from packaging import requirements as parsing

    here = version(parsing.Requirement(text).name)
    return "not installed" if here is None else f"{here} is installed"


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
    devices: int,
    processes: int,
    environment: Mapping[str, str],
    cached: Callable[[str], bool],
) -> list[str]:
    """What a configuration asks for and this machine does not have.

    Args:
      values: of the configuration.
      devices: of all processes together.
      processes: how many.
      environment: for HF_HUB_OFFLINE.
      cached: whether a hub id is in the hub's cache folder.
    """
    problems = []
    batch, mesh = values.get("batch_size"), (values.get("fit") or {}).get("mesh_shape")
    if isinstance(mesh, (tuple, list)) and all(isinstance(n, int) and n > 0 for n in mesh):
        if math.prod(mesh) != devices:
            problems.append(
                f"config.fit.mesh_shape={tuple(mesh)} needs {math.prod(mesh)} devices, there are {devices}: change it"
            )
    elif isinstance(batch, int) and batch % devices:
        problems.append(
            f"config.batch_size={batch} does not divide among {devices} devices: expected a multiple of {devices}"
        )
    if isinstance(batch, int) and batch % processes:
        problems.append(
            f"config.batch_size={batch} does not divide among {processes} processes: expected a multiple of {processes}"
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
        return f"config.{name}={value}: there is no such folder: give one with config.json and model.safetensors"
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
