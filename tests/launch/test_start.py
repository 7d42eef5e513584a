"""Start-up: who a process is, who is late, and where compiled programs go."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from jax._src import distributed

from launch import rollcall, start
from launch.local_multiprocess import free_port

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_cluster")


JOIN = """
import sys
from absl import flags
from launch import config, rollcall, start

def main(argv):
    start.start()
    import jax
    import numpy as np
    from jax.experimental import multihost_utils
    mine = np.full(3, 1 + jax.process_index(), np.float32)
    print("sum", multihost_utils.process_allgather(mine).sum(), flush=True)
    if jax.process_index() == 0:
        try:
            rollcall.barrier("lonely", 0.3)
        except rollcall.JoinError as error:
            print(error, flush=True)
    rollcall.barrier("end", 30)

config.run(main)
"""


FAIL = """
import sys
import time
from launch import config, rollcall, start

rollcall._ALIKE_S = 2.0

def main(argv):
    me = start.start().process
    if me == 1:
        raise {kind}("this file is damaged")
    time.sleep(1e6)

config.run(main)
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("kind", "status"), [("ValueError", 2), pytest.param("KeyError", 1, marks=pytest.mark.slow)]
)
def test_a_process_that_fails_alone_does_not_wait_for_the_others(kind, status):
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    code = FAIL.format(kind=kind)
    command = [sys.executable, "-c", code, f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    healthy = subprocess.Popen([*command, "--process_id=0"], env=environment)
    try:
        # JAX itself would wait for five minutes.
        failed = subprocess.run(
            [*command, "--process_id=1"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
        )
    finally:
        healthy.kill()
        healthy.wait()
    assert failed.returncode == status
    assert failed.stderr.count("this file is damaged") == 1


@pytest.mark.parametrize(("error", "status"), [(SystemExit(75), 75), (KeyError("x"), 1)])
def test_a_process_keeps_its_status_when_process_0_is_gone(monkeypatch, error, status):
    class Gone:
        def key_value_set(self, *_, **__):
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: failed to connect")

    ended = []
    monkeypatch.setattr(distributed.global_state, "client", Gone())
    monkeypatch.setattr(rollcall.os, "_exit", ended.append)
    rollcall.leave(error)
    assert ended == [status]


@pytest.mark.multiprocess
def test_two_processes_join_compute_and_miss_each_other():
    """A real start over loopback: the one line, an all-reduce, and a barrier that one of them never reaches."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", JOIN, f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    running = [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            env={**environment, "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    done = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], done
    for i, (out, err) in enumerate(done):
        assert re.search(
            rf"process {i} of 2 \(counted from 0\) on \S+: 2 of 4 devices here .*told by flags", err
        )
        # 3 * 1 + 3 * 2.
        assert "sum 9.0" in out
    assert "process 1 of 2 did not come to 'lonely' within 0.3 s" in done[0][0]


@pytest.mark.multiprocess
def test_a_real_process_that_waits_in_vain_says_for_whom():
    port = free_port()
    script = JOIN.replace("config.run(main)", "config.run(main, lambda: (rollcall.JoinError,))")
    command = [sys.executable, "-c", script, f"--coordinator=127.0.0.1:{port}"]
    done = subprocess.run(
        [*command, "--num_processes=2", "--process_id=0", "--start_timeout=0.3"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "process 1 of 2 did not report to process 0 within 0.3 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cache_lies_in_the_users_own_folder():
    folder = start.cache_folder("auto", {"XDG_CACHE_HOME": "/caches"})
    assert folder == pathlib.Path("/caches/clip-methods-jax/compiled")
    assert start.cache_folder("auto", {}).is_relative_to(pathlib.Path.home())


def test_the_cache_can_be_elsewhere_or_off():
    assert start.cache_folder("/fast/disk", {}) == pathlib.Path("/fast/disk")
    assert start.cache_folder("off", {}) is None
    # JAX reads its own variable; --compile_cache=DIR still wins over it.
    assert start.cache_folder("auto", {"JAX_COMPILATION_CACHE_DIR": "/theirs"}) is None
    assert start.cache_folder("/ours", {"JAX_COMPILATION_CACHE_DIR": "/theirs"}) == pathlib.Path(
        "/ours"
    )
