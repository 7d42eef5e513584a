"""What is told of a lookup does not depend on how many of its pictures are read at a time; quantiles are NumPy's."""

import dataclasses

import numpy as np
import pytest

from fdbpl_jax import build, lookup, summary
from tests.fdbpl_jax import stub


@pytest.fixture(scope="module", params=[3, None], ids=["top3", "dense"])
def folder(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("summary")
    dataset = stub.write_pictures(root / "pictures", 10)
    return build.build(
        root / "l", dataset, stub.teacher(), stub.settings(top_k=request.param), shards=(0, 1)
    )


def test_pictures_at_a_time(folder, monkeypatch):
    whole = dataclasses.asdict(summary.summarise(folder))
    monkeypatch.setattr(summary, "_ROWS_AT_ONCE", 3)
    for name, value in dataclasses.asdict(summary.summarise(folder)).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_residual_mass_of_a_lookup(folder):
    found, opened = summary.summarise(folder).residual, lookup.open(folder)
    if found is None:
        assert opened.dense
        return
    mass = np.exp(opened.arrays()["rest"].astype(np.float64))
    np.testing.assert_allclose(found, np.quantile(mass, summary.QUANTILES), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 1000])
def test_quantiles_of_counts(count):
    values = np.random.default_rng(count).uniform(-3, 0, count).astype(np.float16)
    counts = np.bincount(values.view(np.uint16), minlength=2**16)
    wanted = np.quantile(np.exp(values.astype(np.float64)), summary.QUANTILES)
    np.testing.assert_allclose(summary._quantiles(counts), wanted, rtol=1e-12)
