"""Facts about the machine that a measurement stands beside: cores, memory, versions, load, peak memory."""

import importlib.metadata
import os
import pathlib
import platform
import resource
import sys
import time
from typing import Any

from launch import doctor_checks

_KB = 1024
_MB = 2**20
_PACKAGES = ("jax", "jaxlib", "numpy", "torch")


def facts() -> dict[str, Any]:
    """What computes here. Starts JAX's backend.

    Returns:
      cpu (its name), cores (that this process may use), memory_mb (None where the system does not say), device ("1 x cpu"),
      platform, python, the version of each of jax, jaxlib, numpy and torch, None where it is not installed; and
      glibc_tunables, the variable GLIBC_TUNABLES of this process, None where it is not set.
    """
    import jax

    devices = jax.devices()
    memory = doctor_checks.host_memory().get("total_bytes")
    return {
        "cpu": _cpu_name(pathlib.Path("/proc/cpuinfo")),
        "cores": cores(),
        "memory_mb": memory and round(memory / _MB),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores(wait_s: float = 2.0, path: str | pathlib.Path = "/proc/stat") -> float | None:
    """How many cores work for others while this process sleeps; None where the system does not say.

    Args:
      wait_s: how long to look.
      path: the kernel's counters of processor time.
    """
    before = _ticks(pathlib.Path(path))
    time.sleep(wait_s)
    after = _ticks(pathlib.Path(path))
    if before is None or after is None:
        return None
    busy, total = after[0] - before[0], after[1] - before[1]
    return round((os.cpu_count() or 1) * busy / total, 2) if total else None


def peak_mb(path: str | pathlib.Path = "/proc/self/status") -> float:
    """Most memory that this process has held at once, in MB of 2^20 bytes."""
    path = pathlib.Path(path)
    if path.is_file():
        # Of this program alone: what getrusage says begins with the peak of the process that started it.
        for line in path.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _KB / _MB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MB if sys.platform == "darwin" else peak * _KB / _MB


def _ticks(path: pathlib.Path) -> tuple[int, int] | None:
    """(busy, all) ticks of all cores since the system started."""
    if not path.is_file():
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted among users.
    values = [int(value) for value in path.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(values) - sum(values[3:5]), sum(values)


def _cpu_name(path: pathlib.Path) -> str:
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
