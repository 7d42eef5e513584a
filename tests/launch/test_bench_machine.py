"""Facts about the machine from made-up system files, and functions called in processes of their own."""

import importlib.metadata
import os

import jax
import numpy as np
import pytest

from launch.benchmarks import machine
from launch.benchmarks.apart import apart

#        user nice system idle iowait irq softirq steal guest
BEFORE = "cpu  100 10 50 1000 40 0 0 0 70\ncpu0 1 1 1 1 1 1 1 1 1\n"
AFTER = "cpu  130 10 60 1150 50 0 0 10 90\ncpu0 2 2 2 2 2 2 2 2 2\n"


def test_busy_cores_are_those_that_worked_meanwhile(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(BEFORE)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine.time, "sleep", lambda _: stat.write_text(AFTER))
    # 30 + 10 + 10 of 210 ticks were work, on 4 cores.
    assert machine.busy_cores(path=stat) == round(4 * 50 / 210, 2)
    assert machine.busy_cores(path=stat) is None
    assert machine.busy_cores(path=tmp_path / "absent") is None


def test_peak_memory_is_the_systems_word(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
    assert machine.peak_mb(status) == 2.0
    assert machine.peak_mb(tmp_path / "absent") > 10


def test_facts_name_what_computes(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    facts = machine.facts()
    assert facts["glibc_tunables"] == "glibc.malloc.arena_max=1"
    assert facts["jax"] == jax.__version__
    assert facts["numpy"] == importlib.metadata.version("numpy")
    assert facts["device"] == f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    assert 1 <= facts["cores"] <= os.cpu_count()
    assert facts["cpu"]


def test_the_name_of_the_processor_comes_from_the_system(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3\nprocessor\t: 1\n")
    assert machine._cpu_name(tmp_path / "cpuinfo") == "Abacus 3"
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine._cpu_name(tmp_path / "absent") == "arm64"


def test_what_is_not_installed_has_no_version():
    assert machine._version("no-such-package-anywhere") is None


def test_a_process_of_its_own_has_its_own_peak():
    held = np.ones(64 * 2**20, np.uint8)  # 64 MB that the other process must not count
    pid, peak = apart(os.getpid)
    assert pid != os.getpid()
    assert 1 < peak < machine.peak_mb()
    del held


def test_an_exception_comes_back_from_the_process():
    with pytest.raises(ZeroDivisionError):
        apart(divmod, 1, 0)
