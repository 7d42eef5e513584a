"""Lists on disk against the lists in memory that they stand for."""

import json
import pickle
from concurrent import futures

import pytest

from core_jax.data import lines


def write(path, values):
    path.write_bytes(b"".join(json.dumps(value).encode() + b"\n" for value in values))
    return path


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 100])
def test_lines_are_the_list(tmp_path, count):
    values = [[i, "é\u2028\r\n" * (i % 7)] for i in range(count)]
    found = lines.Lines(write(tmp_path / "l", values), tuple)
    wanted = [tuple(value) for value in values]
    assert len(found) == count
    assert list(found) == wanted
    assert found == wanted
    assert [found[i] for i in range(count)] == wanted
    assert [found[-i - 1] for i in range(count)] == wanted[::-1]
    for cut in (slice(None), slice(3, 70, 4), slice(None, None, -1), slice(5, 2)):
        assert found[cut] == tuple(wanted[cut])
    for place in (count, -count - 1):
        with pytest.raises(IndexError):
            found[place]
    assert found != [*wanted, ()]
    assert (found == wanted[::-1]) == (count < 2)


def test_a_last_line_may_lack_its_end(tmp_path):
    (tmp_path / "l").write_bytes(b"1\n2\n3")
    assert list(lines.Lines(tmp_path / "l", int)) == [1, 2, 3]


def test_other_processes_get_the_path(tmp_path):
    found = lines.Lines(write(tmp_path / "l", range(50)), int)
    sent = pickle.dumps(found)
    assert len(sent) < 500
    assert list(pickle.loads(sent)) == list(range(50))


def test_threads_may_share_it(tmp_path):
    found = lines.Lines(write(tmp_path / "l", range(200)), int)
    with futures.ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda i: found[i * 7 % 200], range(2000)))
    assert read == [i * 7 % 200 for i in range(2000)]


@pytest.mark.parametrize("count", [0, 4, 5, 40, 97])
def test_long_lists_leave_the_memory(monkeypatch, count):
    monkeypatch.setattr(lines, "HELD", 4)
    found = lines.collect(([i, str(i)] for i in range(count)), tuple)
    assert isinstance(found, tuple if count <= 4 else lines.Lines)
    assert list(found) == [(i, str(i)) for i in range(count)]
    if count > 4:
        with pytest.raises(TypeError, match="cannot leave its process"):
            pickle.dumps(found)


def test_short_files_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "HELD", 4)
    assert lines.read(write(tmp_path / "a", range(4)), int) == (0, 1, 2, 3)
    assert isinstance(lines.read(write(tmp_path / "b", range(5)), int), lines.Lines)
