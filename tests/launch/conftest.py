"""A comparison of three methods with a tiny random pair: made once, looked at by many tests."""

import dataclasses
import os

import ml_collections
import pytest

from core_jax import world
from fdbpl_jax import config as fdbpl_config
from launch import compare
from tests.fdbpl_jax.conftest import CLASSES, save_tiny

METHODS = ("zeroshot", "coop", "fdbpl")


@pytest.fixture
def no_cluster(monkeypatch):
    """The tests may themselves run in a job."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> ml_collections.ConfigDict:
    """A complete configuration of seconds: 7 classes, 4 of them base, 4 shots, 4 steps."""
    root = tmp_path_factory.mktemp("launch")
    save_tiny(root / "student", seed=1)
    save_tiny(root / "teacher", seed=2, width=48)
    counts = {"train_per_class": 5, "val_per_class": 2, "test_per_class": 3}
    world.write_objects(root, size=40, classes=CLASSES, progress=False, **counts)
    config = ml_collections.ConfigDict(dataclasses.asdict(fdbpl_config.Config()))
    config.task = "fdbpl"
    config.update(batch_size=8, epochs=2, lr=0.05, warmup_lr=0.02)
    config.update(student=str(root / "student"), teacher=str(root / "teacher"))
    config.data.update(root=str(root), shots=4)
    config.lookup.update(regions=8, batch_size=64)
    config.fit = ml_collections.ConfigDict({"log_every": 1, "save_every": 2})
    return config.lock()


@pytest.fixture(scope="session")
def comparison(base, tmp_path_factory):
    """The folder of a finished comparison of `METHODS`, two seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    compare.compare(base, folder, compare.arms(METHODS, compare.VARIANTS), seeds=[1, 2])
    return folder
