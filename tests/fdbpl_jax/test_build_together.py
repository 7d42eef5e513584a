"""Processes that build one lookup: threads stand for them here, and a dictionary for JAX's key-value store."""

import dataclasses
import itertools
import threading
from concurrent import futures

import pytest

from core_jax.data import records
from fdbpl_jax import begin, build, crew, label, layout, plan, scan
from tests.fdbpl_jax import stub


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 26)


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """Folder of `stub.two_targets`, built by one process: seven shards of each kind."""
    folder = tmp_path_factory.mktemp("alone")
    build.build_all(stub.two_targets(folder, dataset), shards=(0, 1))
    return folder


class Store:
    """JAX's key-value store."""

    def __init__(self):
        self._values, self._lock = {}, threading.Lock()

    def key_value_set(self, key, value):
        with self._lock:
            assert key not in self._values
            self._values[key] = value

    def key_value_dir_get(self, folder):
        with self._lock:
            return [(k, v) for k, v in self._values.items() if k.startswith(f"{folder}/")]


@pytest.fixture
def job(monkeypatch):
    """Runs a function of the process' number in as many threads; gives what each returned or raised, and wrote."""

    class Me(threading.local):
        number = -1

    me = Me()
    wrote = {}
    write = records.write_shard

    def write_shard(path, *args, **words):
        wrote.setdefault(me.number, []).append(path.name)
        return write(path, *args, **words)

    class Meetings:
        def __next__(self):
            return next(me.meetings)

    monkeypatch.setattr(records, "write_shard", write_shard)
    monkeypatch.setattr(crew, "_meetings", Meetings())
    monkeypatch.setattr(scan.Scan.__init__, "__kwdefaults__", {"part_rows": 4, "threads": 2})

    def run(processes, function):
        store = Store()
        monkeypatch.setattr(crew, "_store", lambda: store)
        own = staticmethod(lambda: crew.Crew(me.number, processes))
        monkeypatch.setattr(crew.Crew, "of_job", own)

        def start(number):
            me.number, me.meetings = number, itertools.count()
            wrote[number] = []
            try:
                return function(number)
            except (ValueError, RuntimeError) as error:
                return error

        with futures.ThreadPoolExecutor(processes) as pool:
            return list(pool.map(start, range(processes))), dict(wrote)

    return run


def assert_same(folder, other):
    for name in ("one", "two"):
        assert stub.contents(folder / name) == stub.contents(other / name)


@pytest.mark.parametrize("processes", [2, 4])
def test_they_write_what_one_writes_and_nothing_twice(
    dataset, alone, tmp_path, job, monkeypatch, processes
):
    looked, real = [], scan.Scan.make

    def make(self, rows):
        looked.append(rows.start)
        return real(self, rows)

    monkeypatch.setattr(scan.Scan, "make", make)
    found, wrote = job(processes, lambda _: build.build_all(stub.two_targets(tmp_path, dataset)))
    assert found == [None] * processes
    assert_same(tmp_path, alone)
    assert sorted(looked) == list(range(0, 26, 4))
    shards = [name for names in wrote.values() for name in names]
    # Labels of both, and the features of one: seven shards each.
    assert len(shards) == 21
    for number, names in wrote.items():
        assert {int(name.split("-of-")[0][-5:]) for name in names} == set(
            range(number, 7, processes)
        )
    assert not (tmp_path / "one.scan").exists()


def test_what_a_lost_process_leaves_is_dealt_out(dataset, alone, tmp_path, job):
    def dies(number):
        targets = stub.two_targets(tmp_path, dataset)
        see, calls = targets[0].teacher.features, itertools.count()

        def features(pixels, flip):
            if number == 1 and next(calls) == 2:
                raise RuntimeError("gone")
            return see(pixels, flip)

        build.build_all(
            [
                dataclasses.replace(t, teacher=dataclasses.replace(t.teacher, features=features))
                for t in targets
            ]
        )

    found, first = job(2, dies)
    assert str(found[1]) == "gone"
    assert isinstance(found[0], crew.CrewError)
    assert "process 1 of 2 failed: gone" in str(found[0])
    assert not (tmp_path / "one" / layout.MANIFEST).exists()
    # Shards 3 and 5 are missing, and both belong to process 1.
    found, second = job(2, lambda _: build.build_all(stub.two_targets(tmp_path, dataset)))
    assert found == [None, None]
    assert_same(tmp_path, alone)
    numbers = [{name.split("-of-")[0][-5:] for name in second[number]} for number in (0, 1)]
    assert numbers == [{"00003"}, {"00005"}]
    written = [name for run in (first, second) for names in run.values() for name in names]
    assert len(written) == 21


def test_unreadable_pictures_are_told_by_every_process(tmp_path, job):
    dataset = stub.write_pictures(tmp_path / "p", 10)
    for name in ("001.png", "006.png"):
        (dataset.root / name).write_bytes(b"nothing")
    found, _ = job(2, lambda _: build.build_all(stub.two_targets(tmp_path / "l", dataset)))
    assert str(found[0]) == str(found[1])
    for error in found:
        assert isinstance(error, label.PictureErrors)
        assert "001.png" in str(error)
        assert "006.png" in str(error)
    assert not (tmp_path / "l" / "one").exists()


def test_other_inputs_are_refused_by_every_process(dataset, tmp_path, job):
    def other(number):
        target, _ = stub.two_targets(tmp_path, dataset)
        settings = stub.settings(seed=number)
        build.build_all([dataclasses.replace(target, settings=settings)])

    found, wrote = job(3, other)
    assert not any(wrote.values())
    for error in found:
        assert isinstance(error, crew.CrewError)
        assert "process 1, 2 of 3 would build another lookup" in str(error)
    # A folder that was begun otherwise: process 0 finds out, the others hear of it.
    build.build_all(stub.two_targets(tmp_path, dataset)[:1], shards=(0, 1))
    found, _ = job(
        2,
        lambda _: build.build_all(
            [dataclasses.replace(stub.two_targets(tmp_path, dataset)[0], origin={"a": 1})]
        ),
    )
    assert isinstance(found[0], plan.PlanMismatch)
    assert "process 0 of 2 failed" in str(found[1])
    assert "dataset.a" in str(found[1])


def test_a_folder_that_is_not_shared_is_told(dataset, tmp_path, job, monkeypatch):
    monkeypatch.setattr(crew, "VISIBLE_WITHIN_S", 0.1)
    monkeypatch.setattr(crew, "_LONGEST_PAUSE_S", 0.02)

    def own_disk(number):
        targets = stub.two_targets(tmp_path / str(number), dataset)
        return begin.begin(targets, share=(number, 2), crew=crew.Crew(number, 2))

    found, _ = job(2, own_disk)
    assert "that all hosts share" in str(found[0])
    assert "that all hosts share" in str(found[1])
