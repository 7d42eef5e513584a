"""Who a process is: alone, by flags, in a SLURM step, under Open MPI, on a TPU pod."""

import pytest

from launch import clusters
from launch.config import ConfigError

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


pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.fixture
def in_step(no_cluster, monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


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
