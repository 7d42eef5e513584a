"""Processes that tell each other what they did: answers in order, failures in words, files that do not come."""

import json
import threading

import pytest

from fdbpl_jax import crew


class Store:
    """JAX's key-value store as one process sees it; the others' answers come late."""

    def __init__(self, others):
        self.others, self.mine, self.asked = others, {}, 0

    def key_value_set(self, key, value):
        assert key not in self.mine
        self.mine[key] = value

    def key_value_dir_get(self, folder):
        self.asked += 1
        own = [(key, value) for key, value in self.mine.items() if key.startswith(f"{folder}/")]
        late = [(f"{folder}/{number}", json.dumps(value)) for number, value in self.others.items()]
        # Not in the order of their numbers.
        return own + late[::-1][: self.asked]


@pytest.fixture
def join(monkeypatch):
    def join(others):
        store = Store(others)
        monkeypatch.setattr(crew, "_store", lambda: store)
        return store

    return join


def test_alone_it_is_the_work():
    assert crew.Crew(0, 1).share(lambda: 5) == [5]
    with pytest.raises(ZeroDivisionError):
        crew.Crew(0, 1).share(lambda: 1 // 0)


def test_answers_come_in_the_order_of_the_processes(join):
    join({0: ["a", None], 2: [{"c": 1}, None]})
    team = crew.Crew(1, 3)
    assert team.share(lambda: "b") == ["a", "b", {"c": 1}]
    assert not team.leads
    # The next meeting is another one.
    assert team.share(lambda: None) == ["a", None, {"c": 1}]


def test_failures_of_others_are_named(join):
    join({1: [None, "the disk is full"], 2: [3, None]})
    with pytest.raises(crew.CrewError, match="process 1 of 3 failed: the disk is full"):
        crew.Crew(0, 3).share(lambda: 1)


def test_an_own_failure_is_raised_after_the_others_know(join):
    store = join({1: [2, None]})

    def fail():
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        crew.Crew(0, 2).share(fail)
    ((_, told),) = store.mine.items()
    assert json.loads(told) == [None, "no space"]


def test_processes_without_a_job_are_an_error():
    with pytest.raises(RuntimeError, match="none of them joined"):
        crew.Crew(0, 2).share(lambda: 1)


def test_files_may_come_late_but_not_never(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "_LONGEST_PAUSE_S", 0.01)
    path = tmp_path / "file"
    timer = threading.Timer(0.05, path.write_text, ["whole"])
    timer.start()
    crew.await_digest(path, crew.files.digest_text("whole"))
    timer.join()
    monkeypatch.setattr(crew, "VISIBLE_WITHIN_S", 0.05)
    with pytest.raises(crew.CrewError, match="a file system that all hosts share"):
        crew.await_digest(path, crew.files.digest_text("other"))
