"""launch.train with data.source=grow on real processes: killed in the middle, as two, and completed by launch.lookup."""

import json
import pathlib
import signal

import jax
import ml_collections
import numpy as np
import pytest

from fdbpl_jax import build, grown
from launch import config as config_lib
from launch import runs
from tests.launch.processes import Job, losses, write_config

EPOCHS = 8
pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(scope="module")
def built(base, tmp_path_factory) -> ml_collections.ConfigDict:
    """The configuration of a run on a lookup built beforehand: 16 steps that read 64 of 128 regions twice over."""
    folder = tmp_path_factory.mktemp("built")
    changes = {"lookup.dir": str(folder / "l"), "epochs": EPOCHS, "data.resident": "False"}
    changes |= {"lookup.batch_size": 16, "fit.save_every": 3}
    config = config_lib.override(base, changes)
    build.build_from_config(config.to_dict(), progress=False)
    return config


@pytest.fixture(scope="module")
def reference(built, tmp_path_factory) -> pathlib.Path:
    """Its work directory, made by a process of its own."""
    folder = tmp_path_factory.mktemp("reference")
    return train(write_config(folder / "built.py", built), folder / "run", 1)


def grown_config(built, folder: pathlib.Path) -> ml_collections.ConfigDict:
    changes = {"data.source": "grow", "data.resident": "auto", "lookup.dir": str(folder / "l")}
    return config_lib.override(built, changes)


def words(file: pathlib.Path, workdir: pathlib.Path) -> tuple[str, ...]:
    return "launch.train", f"--config={file}", f"--workdir={workdir}"


def train(file: pathlib.Path, workdir: pathlib.Path, processes: int, *more: str) -> pathlib.Path:
    with Job(*words(file, workdir), *more, processes=processes) as job:
        status, printed = job.end()
    assert status == 0, printed
    return workdir


def saved(workdir: pathlib.Path) -> bool:
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def learned(workdir: pathlib.Path) -> list[np.ndarray]:
    return jax.tree.leaves(runs.learned(workdir)[0])


def test_a_killed_run_goes_on_and_a_build_completes_what_it_left(built, reference, tmp_path):
    config = grown_config(built, tmp_path)
    slow = write_config(tmp_path / "grown.py", config, pause_s=0.2)
    with Job(*words(slow, tmp_path / "run"), processes=1) as job:
        job.wait_for(lambda: len(losses(tmp_path / "run")) >= 5 and saved(tmp_path / "run"))
        job.signal(0, signal.SIGKILL)
        status, printed = job.end()
    assert status == 128 + signal.SIGKILL, printed
    assert not runs.is_trained(tmp_path / "run")
    assert list((tmp_path / "l" / grown.FOLDER).glob("labels-*.json"))
    workdir = train(slow, tmp_path / "run", 1, "--resume")
    assert json.loads((workdir / "timing.json").read_text())["restarts"] == 1
    assert losses(workdir) == losses(reference)
    for a, b in zip(learned(workdir), learned(reference), strict=True):
        np.testing.assert_array_equal(a, b)
    with Job("launch.lookup", "build", f"--config={slow}", processes=1) as job:
        status, printed = job.end()
    assert status == 0, printed
    whole = pathlib.Path(built.lookup.dir)
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in (tmp_path / "l").iterdir()} == names
    for name in names - {"timing.jsonl"}:
        assert (tmp_path / "l" / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_processes_grow_what_one_reads(built, reference, tmp_path):
    file = write_config(tmp_path / "grown.py", grown_config(built, tmp_path))
    two = train(file, tmp_path / "two", 2)
    shards = sorted((tmp_path / "l" / grown.FOLDER).iterdir())
    one = train(file, tmp_path / "one", 1)
    assert sorted((tmp_path / "l" / grown.FOLDER).iterdir()) == shards
    for a, b, c in zip(learned(two), learned(one), learned(reference), strict=True):
        np.testing.assert_array_equal(b, c)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)
