"""The benchmark of a growing lookup compares the runs that it names, with nothing but those between them."""

import pytest

from fdbpl_jax import config, grown
from launch.benchmarks import grow as bench


@pytest.fixture
def called(monkeypatch):
    """Calls in their order instead of processes; each takes a second more than the one before."""
    calls = []

    def apart(function, values, *rest):
        calls.append((function.__name__, config.read(values)))
        return float(len(calls)), 0.0

    monkeypatch.setattr(bench, "apart", apart)
    monkeypatch.setattr(bench.embedded.world, "write_objects", lambda *args, **kwargs: None)
    return calls


def test_every_row_is_the_run_it_names(called, tmp_path, capsys):
    rows = bench.measure(tmp_path, shots=1, epochs=3)
    names = [name for name, _ in called]
    assert names == ["_train_seconds"] * 6 + ["_build_seconds", "_train_seconds"]
    kdpl, kdpl_grown, online, first, second, seed, build, train = [values for _, values in called]
    assert (kdpl.method, kdpl.teacher_source) == ("kdpl", "online")
    assert (online.method, online.teacher_source) == ("fdbpl", "online")
    assert kdpl_grown.method == "kdpl"
    assert kdpl_grown.grows
    assert first.grows
    assert len({values.lookup.dir for values in (kdpl_grown, first, build)}) == 3
    assert first == second
    assert (seed.lookup, seed.seed) == (first.lookup, 2)
    assert build == train
    assert not build.grows
    assert {values.epochs for values in (kdpl, online, first, build)} == {3}
    assert build.lookup.regions == 6
    # Seconds: 1 and 2 KDPL, 3 FDBPL online, 4, 5, 6 grown, 7 built and 8 trained.
    assert [row["ours"] for row in rows] == [1, 2, 3, 4, 5, 6, 15, 7, 8]
    assert [row["other"] for row in rows] == [None, 1, 1, 1, 1, 1, 1, None, 1]
    assert "second run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_small_table_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "apart", lambda function, *args: (function(*args), 0.0))
    rows = bench.measure(tmp_path, shots=1, epochs=2)
    assert all(row["ours"] > 0 for row in rows)
    assert list((tmp_path / "grown" / grown.FOLDER).glob("labels-*.arrayrecord"))
    assert (tmp_path / "lookup" / "manifest.json").is_file()
