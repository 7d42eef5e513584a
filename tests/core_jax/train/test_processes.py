"""Runs in processes of their own: killed at random moments, and two that train together."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from core_jax import train
from tests.core_jax.train import toy


def start(workdir, *arguments):
    command = [sys.executable, "-m", "tests.core_jax.train.run_toy", str(workdir), *arguments]
    # One device per process, whatever the test run itself has; else compiled alike.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def wait_for_step(workdir, step, process):
    path, deadline = workdir / "metrics.jsonl", time.time() + 600
    while not (path.exists() and f'{{"step": {step},' in path.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.time() < deadline, "the run never got there"
        time.sleep(0.01)


def final(workdir, process=0):
    with np.load(workdir / f"final-{process}.npz") as saved:
        return [saved[name] for name in saved.files]


def toy_task(steps, **changes):
    """What run_toy trains."""
    return toy.make(steps, noise=0.1, optimizer=lambda: optax.adam(0.05), **changes)


def straight(task, workdir):
    """Leaves of the last state of an uninterrupted run in this process."""
    options = train.FitOptions(seed=1, save_every=1000, progress=False)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(train.fit(task, options, workdir=workdir))]


def test_killed_at_random_moments_and_resumed(tmp_path):
    steps, workdir = 60, tmp_path / "killed"
    draw = random.Random()
    arguments = [str(steps), "--save_every=3", "--pause=0.005"]
    for first in (1, 20):
        process = start(workdir, *arguments)
        wait_for_step(workdir, first, process)
        # Saving takes most of the time of so small a run, so the kill often falls into it.
        time.sleep(draw.uniform(0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(workdir, *arguments)
    assert process.wait() == 0, process.communicate()[1]
    process.communicate()
    for a, b in zip(final(workdir), straight(toy_task(steps), tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.multiprocess
def test_two_processes_preempted_and_resumed(tmp_path):
    steps, workdir = 40, tmp_path / "two"

    def pair(*arguments):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        return [
            start(workdir, str(steps), f"--port={port}", f"--process={i}", *arguments)
            for i in (0, 1)
        ]

    both = pair("--pause=0.05", "--save_every=1000")
    wait_for_step(workdir, 2, both[0])
    both[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=600)[1] for process in both]
    assert [p.returncode for p in both] == [train.PREEMPTED_EXIT_CODE] * 2, "\n".join(errors)
    (saved,) = (workdir / "checkpoints").iterdir()
    assert 2 < int(saved.name) < steps
    assert all(f"preempted: saved step {saved.name} " in error for error in errors)
    # The position of the data of two processes means nothing to one, unless the data says so.
    options = train.FitOptions(seed=1, progress=False)
    with pytest.raises(train.CheckpointError, match="processes: 2 there, 1 now") as caught:
        train.fit(toy_task(steps), options, workdir=workdir, resume=True)
    assert "depends on the number of processes" in str(caught.value)
    alone = straight(toy_task(steps), tmp_path / "alone")
    shutil.copytree(workdir, tmp_path / "elastic")
    elastic = toy_task(steps, elastic=True)
    resumed = train.fit(elastic, options, workdir=tmp_path / "elastic", resume=True)
    for a, b in zip(jax.tree.leaves(resumed), alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    both = pair("--profile", str(steps - 1), str(steps))
    errors = [process.communicate(timeout=600)[1] for process in both]
    assert [p.returncode for p in both] == [0, 0], "\n".join(errors)
    for number in (0, 1):
        assert list((workdir / "profile" / f"process-{number}").rglob("*.xplane.pb"))
    for a, b in zip(final(workdir, 0), final(workdir, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(final(workdir), alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
