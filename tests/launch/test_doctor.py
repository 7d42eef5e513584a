"""The doctor: every check against a pretended machine, and one look at the real one."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import doctor_checks as checks
from launch import doctor_packages

ROOT = pathlib.Path(__file__).parents[2]
NEEDED = [
    "jax>=0.10",
    "optax>=0.2.8",
    'tomli>=2; python_version < "3.0"',
    *(f'thing-{name}>=1; extra == "{name}"' for name in doctor_packages.EXTRAS if name != "cuda12"),
    'jax[cuda12]>=0.10; extra == "cuda12"',
]


def has(**versions: str):
    return lambda name: versions.get(name.replace("-", "_"))


def test_the_extras_are_those_of_setup():
    tree = ast.parse((ROOT / "setup.py").read_text())
    (extras,) = [
        word.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "extras_require"
    ]
    assert set(doctor_packages.EXTRAS) == set(ast.literal_eval(extras))


def test_missing_and_old_packages_are_named():
    facts, problems = doctor_packages.packages(NEEDED, has(jax="0.9.1"))
    assert facts["jax"] == "0.9.1"
    assert problems == [
        "jax>=0.10: 0.9.1 is installed: pip install 'jax>=0.10'",
        "optax>=0.2.8: not installed: pip install 'optax>=0.2.8'",
    ]
    assert doctor_packages.packages(NEEDED, has(jax="0.10.2", optax="0.2.8"))[1] == []


def test_a_project_that_is_not_installed_is_a_problem_and_an_outdated_one_a_warning():
    assert "not installed" in doctor_packages.packages(None, has())[1][0]
    assert doctor_packages.outdated(None) == []
    older = ["jax>=0.10"]
    assert doctor_packages.packages(older, has(jax="0.12.0"))[1] == []
    (warning,) = doctor_packages.outdated(older)
    assert "cannot tell whether the extras coco, cuda12" in warning
    assert "pip install -e . again" in warning
    assert doctor_packages.outdated(NEEDED) == []


# An older installation, on a machine that is otherwise in order.
OUTDATED = """
import functools, sys
from absl import flags
from launch import doctor, doctor_checks, doctor_packages

doctor_packages.declared = lambda: ["jax>=0.10"]
doctor_checks.variables = lambda environment: ({}, [])
doctor_checks.disk = functools.partial(doctor_checks.disk, least_bytes=0)
doctor._devices = lambda joined: ({"total": 1}, [])
flags.FLAGS(["launch.doctor", "--compile_cache=off", f"--workdir={sys.argv[1]}", *sys.argv[2:]])
sys.exit(doctor.main([]))
"""


def outdated(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OUTDATED, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_warnings_are_shown_and_leave_the_status_alone(tmp_path):
    done = outdated(str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line.split(" ")[0] for line in done.stdout.splitlines()[-2:]] == ["WARNING", "nothing"]


def test_one_of_many_that_has_not_joined_says_what_it_cannot_know(tmp_path):
    names = ("JOB_ID", "STEP_NODELIST", "STEP_NUM_TASKS", "PROCID", "LOCALID", "NODEID")
    step = dict(zip(names, ("7", "n[1-2]", "16", "3", "3", "0"), strict=True))
    done = outdated(
        str(tmp_path),
        *("--config=configs/fdbpl_world.py", "--config.fit.mesh=data:4,model:4"),
        **{f"SLURM_{name}": value for name, value in step.items()},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "number 3 of 16" in done.stdout
    assert "config.fit.mesh and the batch size are not compared with the devices" in done.stdout


def test_extras_say_what_they_are_for_and_what_they_lack():
    found = doctor_packages.extras(NEEDED, has(jax="0.10.2", thing_coco="1.5"))
    assert found["coco"] == {
        "purpose": "mask AP of instance segmentation",
        "present": True,
        "lacks": [],
    }
    assert found["gaze"]["lacks"] == ["thing-gaze>=1"]
    # jax is there, its plugin is not.
    assert not found["cuda12"]["present"]
    found = doctor_packages.extras(NEEDED, has(jax="0.10.2", jax_cuda12_plugin="0.10.2"))
    assert found["cuda12"]["present"]


def test_harmful_variables_are_named_and_secrets_are_not_shown():
    facts, problems = checks.variables(
        {
            "XLA_FLAGS": "--xla_a=1 xla_b=2",
            "JAX_ENABLE_X64": "True",
            "JAX_DISABLE_JIT": "0",
            "JAX_COORDINATOR_ADDRESS": "host:1",
            "HF_TOKEN": "secret-1",
            "https_proxy": "http://me:secret-2@proxy",
            "HF_HUB_OFFLINE": "1",
            "EDITOR": "vi",
        }
    )
    assert [problem.split(":")[0].split("=")[0] for problem in problems] == [
        "JAX_ENABLE_X64",
        "XLA_FLAGS holds xla_b",
        "JAX_COORDINATOR_ADDRESS",
    ]
    assert facts["https_proxy"] == "(set)"
    assert "secret" not in json.dumps(facts)
    assert "EDITOR" not in facts
    assert checks.variables({}) == ({}, [])


@pytest.mark.parametrize(("value", "word"), [("1", "offline"), ("0", "asked"), (None, "asked")])
def test_the_hub(value, word):
    assert checks.hub({} if value is None else {"HF_HUB_OFFLINE": value}).startswith(word)


def test_accelerators_have_device_files(tmp_path):
    assert checks.accelerators(tmp_path) == []
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()
    (tmp_path / "nvidiactl").touch()
    assert checks.accelerators(tmp_path) == ["gpu"]
    (tmp_path / "vfio" / "0").touch()
    assert checks.accelerators(str(tmp_path)) == ["gpu", "tpu"]


def test_unused_accelerators_are_a_problem_unless_wanted():
    assert "cuda12" in checks.unused("cpu", ["gpu"], {})[0]
    assert "hides it" in checks.unused("cpu", ["gpu"], {"CUDA_VISIBLE_DEVICES": ""})[0]
    assert "[tpu]" in checks.unused("cpu", ["tpu"], {})[0]
    assert checks.unused("cpu", ["gpu", "tpu"], {"JAX_PLATFORMS": "cpu"}) == []
    assert checks.unused("gpu", ["gpu"], {}) == []


def test_devices_that_do_not_start_are_explained():
    stderr = "noise\nF1123 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --xla_x\nmore\n"
    line = checks.no_devices(stderr, {"XLA_FLAGS": "--xla_x"})
    assert "Unknown flag in XLA_FLAGS: --xla_x): look at XLA_FLAGS=--xla_x" in line
    assert "no message" in checks.no_devices("", {})


def test_memory_of_the_host(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  16 kB\nMemAvailable:   4 kB\nHugePages: 0\n")
    assert checks.host_memory(tmp_path / "meminfo") == {
        "total_bytes": 16384,
        "available_bytes": 4096,
    }
    assert checks.host_memory(tmp_path / "none") == {}


def test_the_cache_is_measured_and_guarded(tmp_path):
    folder = tmp_path / "cache"
    facts, problems = checks.cache(folder)
    assert (facts["files"], facts["writable"], problems) == (0, True, [])
    folder.mkdir()
    (folder / "program").write_bytes(b"12345")
    assert checks.cache(folder)[0]["bytes"] == 5
    folder.chmod(0o777)
    assert f"chmod o-w {folder}" in checks.cache(folder)[1][0]
    # A file stands where the folder should be.
    assert "is not writable" in checks.cache(folder / "program" / "below")[1][0]
    assert checks.cache(None) == ({"folder": None}, [])


def test_disk_space_of_a_folder_that_does_not_exist_yet(tmp_path):
    facts, problems = checks.disk(tmp_path / "runs" / "x", least_bytes=0)
    assert facts["free_bytes"] > 0
    assert problems == []
    (tmp_path / "file").touch()
    problems = checks.disk(tmp_path / "file" / "x", least_bytes=1 << 80)[1]
    assert "not a writable folder" in problems[0]
    assert "expected 1099511627776.0 TiB" in problems[1]


def test_what_a_configuration_asks_for(tmp_path):
    values = {
        "batch_size": 30,
        "fit": {"mesh": "data:4,model:4"},
        "student": str(tmp_path),
        "teacher": "./nowhere",
        "clip": "some/model",
    }
    options = {"devices": 8, "processes": 4, "cached": lambda name: False}
    problems = checks.configuration(values, environment={"HF_HUB_OFFLINE": "1"}, **options)
    assert [problem.split(":")[0] for problem in problems] == [
        "config.fit.mesh='data",
        "config.batch_size=30 does not divide among 4 processes",
        "config.teacher=./nowhere",
        "config.clip=some/model",
    ]
    values = {"batch_size": 12, "student": "world:student", "clip": "some/model"}
    assert checks.configuration(values, environment={}, **options) == [
        "config.batch_size=12 does not divide among 8 devices: expected a multiple of 8"
    ]
    values = {"recipe": {"batch_size": 12}}
    assert checks.configuration(values, environment={}, **options) == [
        "config.recipe.batch_size=12 does not divide among 8 devices: expected a multiple of 8"
    ]


def test_devices_that_are_not_known_are_not_judged():
    """16 processes that have not joined, of which this one sees a single device."""
    values = {"batch_size": 24, "fit": {"mesh": "data:4,model:4"}}
    options = {"processes": 16, "environment": {}, "cached": lambda name: False}
    wrong = "config.batch_size=24 does not divide among 16 processes: expected a multiple of 16"
    assert checks.configuration(values, devices=None, **options) == [wrong]
    values["batch_size"] = 32
    assert checks.configuration(values, devices=16, **options) == []


def test_sizes_read_well():
    assert [checks.size(n) for n in (0, 1023, 1536, 3 << 30)] == [
        *("0 bytes", "1023 bytes", "1.5 KiB", "3.0 GiB"),
    ]


def test_the_doctor_reports_and_ends_with_its_status(tmp_path):
    """The real machine, with something wrong put in: a shared cache folder and impossible flags."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    command = [sys.executable, "-m", "launch.doctor", f"--compile_cache={cache}"]
    command += [f"--workdir={tmp_path / 'run'}", f"--json={tmp_path / 'report.json'}"]
    command += ["--config=configs/fdbpl_world.py", "--config.method=nothing", "--process_id=3"]
    flags = "--xla_of_another_version=1"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": flags,
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    # XLA ends a process at such a flag; the doctor survives that.
    assert sum("JAX cannot start its devices" in line and flags in line for line in wrong) == 1
    for words in ("--coordinator, --num_processes missing", "chmod o-w", "config.method='nothing'"):
        assert sum(words in line for line in wrong) == 1, done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["devices"] == {}
    assert report["processes"]["joined"] is False
    assert len(report["problems"]) == len(wrong)
