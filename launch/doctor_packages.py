"""Which packages are installed, which are missing or too old, and which optional extras of setup.py are here.

Read from the metadata of the installed project, as pip wrote it.
"""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

Facts = dict[str, Any]

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

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy"),
    *("ml_collections", "safetensors", "tokenizers", "libtpu"),
)


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


def outdated(requirements: Sequence[str] | None) -> list[str]:
    """Warning that the installed metadata lacks extras of this source tree; nothing but their state depends on it."""
    if requirements is None:
        return []
    unknown = sorted(set(EXTRAS) - {extra for _, extra in _parsed(requirements)})
    if not unknown:
        return []
    return [
        f"the installed {DISTRIBUTION} is older than this source tree and cannot tell whether the extras "
        f"{', '.join(unknown)} are present: pip install -e . again in its folder"
    ]


def packages(
    requirements: Sequence[str] | None, version: Callable[[str], str | None] = installed
) -> tuple[Facts, list[str]]:
    """Versions, and what is missing or too old for this project."""
    facts: Facts = {name: version(name) for name in _PACKAGES}
    if requirements is None:
        return facts, [
            f"{DISTRIBUTION} is not installed, so its requirements cannot be checked: pip install -e . in its folder"
        ]
    wanted = [text for text, extra in _parsed(requirements) if extra is None]
    return facts, [
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
