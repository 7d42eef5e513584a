"""What this machine has for a run, and what is wrong with it, before a job is lost to it.

python -m launch.doctor [--workdir=DIR] [--config=FILE] [--json=FILE]

Prints versions, devices and memory, this process' place among others, the cache of compiled programs, free disk, optional
extras and the variables that matter; then each problem in one line with what to do, and warnings of what no run fails of.
Exit status 1 when there is a problem. It joins other processes only with --coordinator; seconds.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from core_jax.data import files
from launch import clusters, config, doctor_checks, doctor_packages, rollcall, start

_CONFIG = config.define()
_WORKDIR = flags.DEFINE_string("workdir", ".", "folder that a run is to write to")
_JSON = flags.DEFINE_string("json", None, "also write everything to this file")

PROBLEM_STATUS = 1
_DEVICES_TIMEOUT_S = 180
_TASK_SETTINGS = {"fdbpl": "fdbpl_jax", "gba": "gba_jax", "gaze": "gaze_jax"}


def main(argv: Sequence[str]) -> int:
    """Look at everything, print it, and return the exit status."""
    del argv
    report = examine()
    print(text(report))
    if _JSON.value:
        files.atomic_write(_JSON.value, json.dumps(report, indent=2) + "\n")
    return PROBLEM_STATUS if report["problems"] else 0


def examine() -> dict[str, Any]:
    """All facts by section, and "problems" and "warnings", lists of lines."""
    requirements = doctor_packages.declared()
    packages, problems = doctor_packages.packages(requirements)
    variables, more = doctor_checks.variables(os.environ)
    problems += more
    layout, more = _layout()
    problems += more
    devices, more = _devices(layout["joined"])
    problems += more
    folder = start.cache_folder(flags.FLAGS.compile_cache, os.environ)
    if folder is None and flags.FLAGS.compile_cache != "off":
        folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    cache, more = doctor_checks.cache(folder)
    problems += more
    disk, more = doctor_checks.disk(pathlib.Path(_WORKDIR.value))
    problems += more
    warnings = doctor_packages.outdated(requirements)
    if _CONFIG.value is not None:
        # One process of many that has not joined the others sees its own devices, or all of a node.
        alone = layout["processes"] == 1 and layout["found"] != "unknown"
        known = layout["joined"] or alone
        total = devices.get("total") if known else None
        problems += _configuration(_CONFIG.value, total, layout["processes"])
        if not known:
            warnings.append(
                "config.fit.mesh and the batch size are not compared with the devices: those of all processes are known "
                "where they have joined (--coordinator=auto)"
            )
    return {
        "versions": {"python": platform.python_version(), **packages},
        "devices": devices,
        "memory": doctor_checks.host_memory(),
        "processes": layout,
        "cache": cache,
        "disk": disk,
        "extras": doctor_packages.extras(requirements),
        "variables": variables,
        "hub": doctor_checks.hub(os.environ),
        "problems": problems,
        "warnings": warnings,
    }


def _layout() -> tuple[dict[str, Any], list[str]]:
    """The place of the process among others, which it joins only when told with --coordinator."""
    told = flags.FLAGS.coordinator not in (None, "none")
    try:
        layout = start.start() if told else start.found()
    except (config.ConfigError, rollcall.JoinError, OSError) as error:
        alone = clusters.Layout(found="unknown")
        return {**dataclasses.asdict(alone), "joined": False}, str(error).splitlines()
    return {**dataclasses.asdict(layout), "joined": told and layout.processes > 1}, []


def _devices(joined: bool) -> tuple[dict[str, Any], list[str]]:
    """The devices, asked for in a process of its own: XLA ends the one that asks when a flag or a driver is wrong."""
    if joined:
        facts = doctor_checks.devices()
    else:
        code = "import json; from launch import doctor_checks; print(json.dumps(doctor_checks.devices()))"
        folder = str(pathlib.Path(__file__).parents[1])
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=_DEVICES_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {}, [
                f"JAX did not find its devices within {_DEVICES_TIMEOUT_S} s: look for another process that holds them, "
                "and on a TPU pod start on every worker"
            ]
        if done.returncode:
            return {}, [doctor_checks.no_devices(done.stderr, os.environ)]
        facts = json.loads(done.stdout.splitlines()[-1])
    present = doctor_checks.accelerators()
    unused = doctor_checks.unused(facts["backend"], present, os.environ)
    return {**facts, "accelerators": present}, unused


def _configuration(values: Any, devices: int | None, processes: int) -> list[str]:
    """Problems of a configuration: its own settings, then what it needs of this machine."""
    import huggingface_hub

    from launch import runs, tasks

    problems = []
    task = values.get("task")
    if task not in tasks.TASKS:
        problems.append(f"config.task={task}: expected one of {', '.join(sorted(tasks.TASKS))}")
    readers = [lambda: runs.fit_options(values)]
    if task in _TASK_SETTINGS:
        settings = importlib.import_module(f"{_TASK_SETTINGS[task]}.config")
        readers.append(lambda: settings.read(values))
    for read in readers:
        try:
            read()
        except ValueError as error:
            # All but the heading: each line names its key.
            lines = [line.strip() for line in str(error).splitlines()]
            problems += [line for line in lines if not line.endswith(":")]
    return problems + doctor_checks.configuration(
        values.to_dict(),
        devices=devices,
        processes=processes,
        environment=os.environ,
        cached=lambda name: any(
            isinstance(huggingface_hub.try_to_load_from_cache(name, file), str)
            for file in ("config.json", "open_clip_config.json")
        ),
    )


def text(report: dict[str, Any]) -> str:
    """A report for people."""
    size = doctor_checks.size
    lines = ["versions     " + ", ".join(f"{n} {v}" for n, v in report["versions"].items() if v)]
    devices = report["devices"]
    for device in devices.get("here", []):
        limit = f", {size(device['bytes_limit'])}" if "bytes_limit" in device else ""
        lines.append(f"device       {device['id']}: {device['kind']}{limit}")
    if memory := report["memory"]:
        free, total = memory.get("available_bytes", 0), memory.get("total_bytes", 0)
        lines.append(f"memory       {size(free)} available of {size(total)}")
    layout = report["processes"]
    joined = "joined" if layout["joined"] else "not joined"
    lines.append(
        f"processes    number {layout['process']} of {layout['processes']} (counted from 0), {layout['found']}"
        + (f", coordinator {layout['coordinator']}, {joined}" if layout["coordinator"] else "")
    )
    cache, disk = report["cache"], report["disk"]
    lines.append(
        f"cache        {cache['folder']}: {cache['files']} programs, {size(cache['bytes'])}, "
        + ("writable" if cache["writable"] else "not writable")
        if cache["folder"]
        else "cache        off"
    )
    lines.append(
        f"disk         {disk['folder']}: {size(disk['free_bytes'])} free of {size(disk['total_bytes'])}"
    )
    for name, extra in report["extras"].items():
        state = "present" if extra["present"] else "absent "
        lines.append(f"extra        {name:<9} {state}  {extra['purpose']}")
    lines += [f"variable     {name}={value}" for name, value in report["variables"].items()]
    lines.append(f"hub          {report['hub']}")
    problems = report["problems"]
    lines += ["", *[f"WRONG        {problem}" for problem in problems]]
    lines += [f"WARNING      {warning}" for warning in report["warnings"]]
    lines.append("" if problems else "nothing is wrong")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    config.run(main)
