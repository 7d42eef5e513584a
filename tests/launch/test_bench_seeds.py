"""The benchmark of seeds in one program compares them with the very runs that they are."""

import pytest

from fdbpl_jax import config
from launch.benchmarks import seeds as bench


def measured(function, values, *rest):
    """Stands for a process: (what it returns, its peak memory), by what was called and with which seed."""
    settings = config.read(values)
    step = 6.0 if settings.seeds else float(settings.seed)
    parts = {"seconds": {"compile": 1.0, "step": 4 * step, "data_wait": 4.0}, "steps": 4}
    return (10.0 * step, parts), 100.0 + step


def test_rows_add_up_the_runs_of_the_row(monkeypatch, tmp_path):
    calls = []

    def apart(function, values, *rest):
        calls.append((function.__name__, config.read(values)))
        return measured(function, values, *rest)

    monkeypatch.setattr(bench, "apart", apart)
    monkeypatch.setattr(bench.embedded.world, "write_objects", lambda *args, **kwargs: None)
    rows = bench.measure(tmp_path, shots=1, epochs=3, seeds=(4, 5))
    assert [name for name, _ in calls] == ["build_lookup", "_together", "_alone", "_alone"]
    built, together, first, second = [settings for _, settings in calls]
    assert built == together
    assert together.seeds == (4, 5)
    assert [(one.seed, one.data.seed, one.seeds) for one in (first, second)] == [
        (4, 4, ()),
        (5, 5, ()),
    ]
    assert {one.data.cache for one in (together, first, second)} == {""}
    whole, compiling, step, memory = [(row["ours"], row["other"]) for row in rows]
    assert whole == (60, 40 + 50)
    assert compiling == (1, 2)
    assert step == (6 + 1, (4 + 1) + (5 + 1))
    assert memory == (106, 105)


@pytest.mark.slow
def test_a_small_table_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "apart", lambda function, *args: (function(*args), 1.0))
    rows = bench.measure(tmp_path, shots=1, epochs=1, seeds=(1, 2))
    assert all(row["ours"] > 0 for row in rows)
    for folder in ("together/seed1", "together/seed2", "seed1", "seed2"):
        assert (tmp_path / folder / "results.jsonl").is_file()
