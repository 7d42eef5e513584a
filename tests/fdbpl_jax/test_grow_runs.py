"""Training on a lookup that grows: the parameters are those of a run on a lookup built beforehand, bit for bit."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from core_jax import train
from fdbpl_jax import build, config, grown, layout, task
from tests.fdbpl_jax.growing import kept_pairs

OPTIONS = train.FitOptions(seed=1, log_every=4, save_every=3, progress=False)


def fit(values, workdir, *, stop_at=None):
    """The parameters of a run, which is stopped after a step if so wanted and then goes on."""
    made = task.build(values)
    if stop_at is not None:
        short = dataclasses.replace(made, total_steps=stop_at)
        train.fit(short, OPTIONS, workdir=workdir, config_json={})
        made = task.build(values)
    state = train.fit(made, OPTIONS, workdir=workdir, config_json={}, resume=stop_at is not None)
    return jax.tree.map(np.asarray, state["trainable"])


@pytest.fixture(scope="module")
def reference(built, tmp_path_factory):
    """The parameters of the run on the lookup built beforehand."""
    return fit(built(data__resident="False"), tmp_path_factory.mktemp("reference"))


def assert_equal(ours, theirs):
    assert ours["context"].keys() == {"positive", "negative"}
    for name, value in theirs["context"].items():
        np.testing.assert_array_equal(ours["context"][name], value)


def test_parameters_equal_those_on_a_lookup_built_beforehand(settings, reference, built, tmp_path):
    growing = settings(data__source="grow", lookup__dir=str(tmp_path / "l"))
    assert_equal(fit(growing, tmp_path / "first"), reference)
    assert not (tmp_path / "l" / layout.MANIFEST).exists()
    pairs = kept_pairs(tmp_path / "l")
    # 16 pictures, 3 epochs: 48 of 128 regions.
    assert len(pairs) == len(set(pairs)) == 48
    files = sorted(path.name for path in (tmp_path / "l" / grown.FOLDER).iterdir())
    assert_equal(fit(growing, tmp_path / "second"), reference)
    assert files == sorted(path.name for path in (tmp_path / "l" / grown.FOLDER).iterdir())
    # A build completes it, to the bytes of one that was built at once; the same configuration goes on reading it.
    build.build_from_config(growing, progress=False)
    one = built().lookup.dir
    assert (tmp_path / "l" / layout.MANIFEST).read_bytes() == (
        pathlib.Path(one) / layout.MANIFEST
    ).read_bytes()
    assert_equal(fit(growing, tmp_path / "third"), reference)


def test_a_run_that_was_interrupted_goes_on_to_the_same_parameters(settings, reference, tmp_path):
    growing = settings(data__source="grow", lookup__dir=str(tmp_path / "l"))
    assert_equal(fit(growing, tmp_path / "run", stop_at=3), reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ce"}, "method=ce"),
        ({"method": "kdpl", "teacher_source": "online"}, "teacher_source=online"),
        ({"data__resident": "True"}, "data.resident=True"),
        ({"data__fresh": "True"}, "data.fresh=True"),
        ({"lookup__dir": ""}, "lookup.dir is empty"),
    ],
)
def test_configurations_that_cannot_grow(settings, changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.read(settings(data__source="grow", **changes))
