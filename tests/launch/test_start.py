"""Start-up: who a process is, who is late, and where compiled programs go."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import jax
import pytest
from jax._src import distributed

from launch import clusters, rollcall, start
from launch.config import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
STEP = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "node[007-008],other3",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    """The tests may themselves run in a job."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)


@pytest.fixture
def in_step(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def member(port: int, process: int, processes: int) -> clusters.Layout:
    return clusters.Layout(
        found="test", coordinator=f"127.0.0.1:{port}", processes=processes, process=process
    )


def test_a_lone_process_joins_nobody():
    assert clusters.layout(None, None, None).processes == 1
    assert clusters.layout("none", None, None).coordinator is None


def test_three_flags_make_a_process():
    found = clusters.layout("host:1234", 4, 3)
    assert (found.coordinator, found.processes, found.process) == ("host:1234", 4, 3)


def test_no_cluster_is_an_error_only_when_asked_for():
    with pytest.raises(ConfigError, match="no cluster is to be seen"):
        clusters.layout("auto", None, None)


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (("host:1", None, 0), ["--num_processes missing"]),
        ((None, 2, None), ["--coordinator, --process_id missing"]),
        (("host:1", 2, 2), ["--process_id=2 with --num_processes=2: expected 0 to 1"]),
        (("host", 2, 3), ["expected address:port", "--process_id=3"]),
        (("host:70000", 2, 0), ["--coordinator=host:70000"]),
        (("auto", 2, None), ["--process_id missing", "--coordinator=auto stands alone"]),
    ],
)
def test_wrong_flags_are_all_named(flags, messages):
    with pytest.raises(ConfigError) as caught:
        clusters.layout(*flags)
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize("coordinator", [None, "auto"])
@pytest.mark.usefixtures("in_step")
def test_a_slurm_step_is_found(coordinator):
    found = clusters.layout(coordinator, None, None)
    # JAX's rule: the first node, and a port made from the number of the job.
    assert found.coordinator == f"node007:{65535 - 4095 + 4242 % 4096}"
    assert (found.processes, found.process, found.found) == (16, 9, "found by SLURM")
    assert clusters.layout("none", None, None).processes == 1


@pytest.mark.usefixtures("in_step")
def test_jax_takes_a_port_of_ones_own(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1111")
    assert clusters.layout("auto", None, None).coordinator == "node007:1111"


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (1,)),
        # --gpus-per-task: each task sees its own GPUs alone, numbered from 0 where the others are out of reach.
        ({"CUDA_VISIBLE_DEVICES": "5", "SLURM_GPUS_ON_NODE": "8"}, (0,)),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "a100:1"}, (0,)),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "16"}, (0, 1)),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, (0, 1)),
        # The same with --gpu-bind=none, as slurm.sbatch has it: each task sees all.
        (
            {
                "CUDA_VISIBLE_DEVICES": "0,1,2,3",
                "SLURM_GPUS_ON_NODE": "4",
                "SLURM_GPUS_PER_TASK": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2(x8)",
            },
            (2, 3),
        ),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "8,2"}, (2, 3)),
        # One task a node drives them all.
        (
            {
                "SLURM_GPUS_ON_NODE": "4",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
                "SLURM_LOCALID": "0",
            },
            (0, 1, 2, 3),
        ),
        ({}, None),
    ],
)
def test_gpus_of_a_node_are_shared_out(changes, devices):
    assert clusters.slurm_devices({**STEP, **changes}) == devices


@pytest.mark.parametrize("more", [{}, {"SLURM_GPUS_ON_NODE": "1"}])
def test_tasks_do_not_share_a_gpu(more):
    with pytest.raises(ConfigError, match=r"on this node and 1 GPUs: .*per-task"):
        clusters.slurm_devices({**STEP, "CUDA_VISIBLE_DEVICES": "0", **more})


def test_what_cannot_work_under_slurm_is_said_at_once():
    environment = {**STEP, "CUDA_VISIBLE_DEVICES": "0,1,2"}
    del environment["SLURM_LOCALID"]
    problems = clusters.slurm_problems(environment, asked=True)
    assert len(problems) == 2
    assert "SLURM_LOCALID" in problems[0]
    assert "8 tasks of SLURM on this node and 3 GPUs" in problems[1]
    # A batch script, and a shell of salloc: one process in a job of many.
    batch = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    shell = {**batch, "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"}
    for environment in (batch, shell):
        assert "put srun in front" in clusters.slurm_problems(environment, asked=True)[0]
        assert clusters.slurm_problems(environment, asked=False) == []


@pytest.mark.usefixtures("in_step")
def test_a_step_of_one_task_is_alone(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "1")
    assert clusters.layout("auto", None, None) == clusters.Layout(found="alone")


def test_open_mpi_is_found(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    for name, value in {"SIZE": 4, "RANK": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    found = clusters.layout(None, None, None)
    assert (found.processes, found.process, found.local_devices) == (4, 2, (1,))
    assert str(found.coordinator).startswith("10.96.0.1:")


def test_tpu_pods_are_found(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster as tpu

    monkeypatch.setattr(tpu, "running_in_cloud_tpu_vm", True)
    for name, value in {
        "TPU_WORKER_HOSTNAMES": "localhost,worker-1",
        "TPU_WORKER_ID": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    found = clusters.layout(None, None, None)
    assert (found.coordinator, found.processes, found.process) == ("localhost:8482", 4, 3)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    assert clusters.layout("auto", None, None).processes == 1


def gather(members: list[clusters.Layout], timeout_s: float = 3.0) -> dict[int, str]:
    """What each member of a roll call is told, "" where all is well; members are threads here."""
    told: dict[int, str] = {}

    def run(place: int) -> None:
        try:
            rollcall.roll_call(members[place], timeout_s)
            told[place] = ""
        except rollcall.JoinError as error:
            told[place] = str(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_a_roll_call_ends_when_all_are_there():
    port = free_port()
    assert gather([member(port, i, 3) for i in range(3)]) == {0: "", 1: "", 2: ""}


def test_late_processes_are_named_to_all():
    port = free_port()
    told = gather([member(port, i, 4) for i in (0, 2)], timeout_s=0.5)
    for text in told.values():
        assert text.startswith("processes 1, 3 of 4 did not report to process 0 within 0.5 s")


def test_process_0_is_named_when_it_is_late():
    told = gather([member(free_port(), 1, 2)], timeout_s=0.3)
    assert told[0].startswith("process 0 did not answer process 1 at 127.0.0.1:")


def test_numbers_used_twice_and_other_counts_are_named():
    port = free_port()
    told = gather([member(port, 0, 3), member(port, 1, 3), member(port, 1, 3)], timeout_s=1)
    assert "two processes call themselves 1" in told[0]
    port = free_port()
    told = gather([member(port, 0, 2), member(port, 1, 3)])
    assert "process 1 on" in told[0]
    assert "belongs to 3 processes, process 0 to 2" in told[1]


def test_strangers_do_not_disturb_a_roll_call():
    port, stop = free_port(), threading.Event()

    def knock() -> None:
        while not stop.wait(0.02):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            except OSError:
                continue

    stranger = threading.Thread(target=knock)
    stranger.start()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    told = gather([member(port, 0, 2), member(port, 1, 2)], timeout_s=10)
    stop.set()
    stranger.join()
    assert told == {0: "", 1: ""}


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{port}.*another port"):
            rollcall.roll_call(member(port, 0, 2), 1)


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
