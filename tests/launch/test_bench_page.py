"""`launch.bench all`: every benchmark once, each in a process of its own, resumable; and the page on fixed rows."""

import json
import pathlib
import sys
import types

import pytest

from launch.benchmarks import page, suite, timing
from launch.benchmarks.suite import Benchmark
from launch.config import ConfigError

FACTS = {
    "cpu": "Abacus 3",
    "cores": 2,
    "memory_mb": 24_064,
    "device": "1 x cpu",
    "platform": "Linux x86_64",
    "python": "3.11.7",
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "numpy": "2.4.6",
    "torch": None,
    "glibc_tunables": None,
}
ROWS = [
    {"work": "a | b", "ours": 0.5, "other": 1.0, "unit": "s", "ratio": 2.0, "note": "paid off"},
    {"work": "alone", "ours": 1234.5, "other": None, "unit": "MB", "ratio": None},
]


def result(**changes):
    kept = {
        "benchmark": "first",
        "arguments": ["--sizes=1,2"],
        "machine": FACTS,
        "date": "2026-01-02 03:04 UTC",
        "seconds": 61.2,
        "peak_mb": 300.0,
        "busy_cores_before": 0.125,
        "rows": ROWS,
    }
    return kept | changes


def section(**changes):
    return page.Section(name="first", title="The first", prose="Prose.\n", result=result(**changes))


def test_a_section_is_heading_prose_table_notes_and_provenance():
    text = page.page([section()])
    assert text.startswith("# Performance\n")
    _, _, body = text.partition("## The first")
    assert body == (
        "\n\nProse.\n\n"
        "| work | ours | other | ratio |\n| --- | ---: | ---: | ---: |\n"
        "| a \\| b | 0.5000 s | 1.0000 s | 2.00x |\n"
        "| alone | 1,234 MB |  |  |\n\n"
        "- a | b: paid off\n\n"
        "`python -m launch.bench first --sizes=1,2`, 2026-01-02 03:04 UTC: 61 s, peak memory of its process 300 MB. "
        "Before it began, others kept 0.12 of 2 cores busy.\n"
    )


def test_rows_that_compare_nothing_have_one_column_of_numbers():
    assert page.table(ROWS[1:]) == "| work | measured |\n| --- | ---: |\n| alone | 1,234 MB |"


def test_the_machine_stands_once_or_once_for_each():
    told = (
        "2 cores of Abacus 3, 23.5 GB of memory, JAX devices 1 x cpu; Linux x86_64, Python 3.11.7, jax 0.10.2, "
        "jaxlib 0.10.2, numpy 2.4.6, without torch, whose side is left out"
    )
    assert page.page([section(), section()]).count(told) == 1
    other = section(machine=FACTS | {"cores": 64, "memory_mb": None, "torch": "2.9.1"})
    both = page.page([section(), other])
    assert f"- The first: measured on {told}." in both
    assert "- The first: measured on 64 cores of Abacus 3, JAX devices" in both
    assert "torch 2.9.1." in both
    settings = section(machine=FACTS | {"glibc_tunables": "glibc.malloc.hugetlb=1"})
    assert f"{told}; GLIBC_TUNABLES=glibc.malloc.hugetlb=1." in page.page([settings])


def test_what_was_not_measured_is_named():
    text = page.page([section(), page.Section(name="late", title="L", prose="", result=None)])
    assert "Not measured here: `late`." in text
    assert "## L" not in text
    assert "`x`, `y`" in page.page(
        [page.Section(name=name, title=name, prose="", result=None) for name in "xy"]
    )


def test_an_unknown_load_is_left_out():
    assert "busy" not in page.page([section(busy_cores_before=None)])


@pytest.mark.parametrize(
    ("unit", "ratio", "shown"),
    [
        ("s", 2.0, "4.0000 s"),
        ("MB", 2.0, "4 MB"),
        ("bytes", 2.0, "4.0 bytes"),
        ("per s", 0.5, "4 per s"),
    ],
)
def test_the_ratio_is_above_one_where_ours_is_better(unit, ratio, shown, capsys):
    rows = timing.Rows("title")
    rows.add("work", 4.0, 8.0, unit=unit)
    assert rows.rows[0]["ratio"] == ratio
    assert shown in capsys.readouterr().out


def test_a_note_stays_with_its_row(capsys):
    rows = timing.Rows("title")
    rows.add("first", 1.0)
    rows.note("said of the first")
    rows.add("second", 1.0)
    assert [row.get("note") for row in rows.rows] == ["said of the first", None]
    assert "  said of the first" in capsys.readouterr().out


@pytest.fixture
def started(monkeypatch):
    """What `all` started, as (name, flags, environment); each writes a result, those in `broken` fail."""
    calls, broken = [], set()

    def run(command, *, env, check):
        assert command[:3] == [sys.executable, "-m", "launch.bench"]
        assert not check
        name, *arguments, json_flag = command[3:]
        calls.append((name, arguments, env))
        if name not in broken:
            path = pathlib.Path(json_flag.removeprefix("--json="))
            path.parent.mkdir(exist_ok=True)
            kept = result(benchmark=name, arguments=arguments, seconds=100 + len(calls))
            path.write_text(json.dumps(kept))
        return types.SimpleNamespace(returncode=int(name in broken))

    monkeypatch.setattr(suite.subprocess, "run", run)
    return types.SimpleNamespace(calls=calls, broken=broken)


BENCHMARKS = {
    "one": Benchmark("One", lambda: []),
    "two": Benchmark("Two", lambda: [], full=("--sizes=long",)),
}


def everything(folder, **changes):
    return suite.run_all(BENCHMARKS, folder=folder / "kept", page_file=folder / "p.md", **changes)


def test_all_measures_each_once_and_writes_the_page(started, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    assert everything(tmp_path) == 0
    assert [(name, arguments) for name, arguments, _ in started.calls] == [("one", []), ("two", [])]
    assert all("JAX_COMPILATION_CACHE_DIR" not in env for _, _, env in started.calls)
    text = (tmp_path / "p.md").read_text()
    assert text.index("## One") < text.index("## Two")
    # The text below a heading is the docstring of the benchmark's module.
    assert text.count(__doc__) == 2


def test_an_interrupted_all_goes_on(started, tmp_path):
    started.broken.add("two")
    assert everything(tmp_path) == 1
    assert "Not measured here: `two`." in (tmp_path / "p.md").read_text()
    started.broken.clear()
    assert everything(tmp_path) == 0
    assert [name for name, _, _ in started.calls] == ["one", "two", "two"]
    assert everything(tmp_path) == 0
    assert len(started.calls) == 3


def test_only_measures_again_and_nothing_else(started, tmp_path):
    everything(tmp_path)
    assert everything(tmp_path, only=["one"]) == 0
    assert [name for name, _, _ in started.calls] == ["one", "two", "one"]
    text = (tmp_path / "p.md").read_text()
    assert "103 s" in text
    assert "102 s" in text


def test_a_failed_repetition_leaves_what_was_there(started, tmp_path, capsys):
    everything(tmp_path)
    started.broken.add("one")
    assert everything(tmp_path, only=["one"]) == 1
    assert "--only=one" in capsys.readouterr().err
    assert "101 s" in (tmp_path / "p.md").read_text()


def test_full_measures_the_long_sizes_which_then_stand_for_the_others(started, tmp_path):
    everything(tmp_path)
    everything(tmp_path, full=True)
    assert [(name, arguments) for name, arguments, _ in started.calls] == [
        ("one", []),
        ("two", []),
        ("two", ["--sizes=long"]),
    ]
    everything(tmp_path)
    assert len(started.calls) == 3


def test_an_unknown_name_is_refused_before_anything_runs(started, tmp_path):
    with pytest.raises(ConfigError, match=r"--only=one,six: six is none of one, two"):
        everything(tmp_path, only=["one", "six"])
    assert not started.calls


def test_one_benchmark_keeps_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(suite.machine, "busy_cores", lambda: 0.5)
    path = tmp_path / "one.json"
    kept = suite.run_one("one", Benchmark("One", lambda: ROWS), str(path))
    assert json.loads(path.read_text()) == kept
    assert kept["rows"] == ROWS
    assert kept["busy_cores_before"] == 0.5
    assert kept["peak_mb"] > 10
    # It can stand on a page as it is.
    page.page([page.Section(name="one", title="One", prose="", result=kept)])
