"""What has grown of a lookup: whole shards after a kill, a build that completes them, damage."""

import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from core_jax.data import records
from fdbpl_jax import build, grow, grown, label, layout
from tests.fdbpl_jax import stub
from tests.fdbpl_jax.growing import (
    Counted,
    assert_same,
    expected,
    kept_pairs,
    stream,
    take,
    wanted,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 14)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A lookup built beforehand: top three of the classes, with a student's features."""
    folder = tmp_path_factory.mktemp("built") / "l"
    return build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())


def _grow_until_killed(dataset, folder, last):
    """Reads in a process that kills itself: `stub.kill_at`."""
    stub.kill_at(last)
    grown.WRITE_EVERY_S = 0.0
    growing = grow.open(wanted(dataset, folder), expected(dataset))
    take(stream(dataset, "grow", growing=growing), 9)


@pytest.mark.multiprocess
@pytest.mark.parametrize("last", [20, 27])
def test_a_killed_run_leaves_whole_shards_that_a_build_completes(dataset, whole, tmp_path, last):
    process = stub.start(_grow_until_killed, dataset, tmp_path / "l", last)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = kept_pairs(tmp_path / "l")
    assert 0 < len(left) < 72
    teacher = Counted(stub.teacher())
    build.build_all([wanted(dataset, tmp_path / "l", teacher=teacher.tower)])
    assert teacher.regions == 14 * 8 - len(left)
    # The bytes of a build at once, and nothing else.
    assert stub.contents(tmp_path / "l") == stub.contents(whole)


def test_a_labeller_that_remembers_labels_the_rest_alone(dataset, whole, tmp_path):
    teacher, student = Counted(stub.teacher()), Counted(stub.student())
    one = wanted(dataset, tmp_path / "l", teacher=teacher.tower, student=student.tower)
    take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    known = len(kept_pairs(tmp_path / "l"))
    teacher.regions = student.regions = 0
    parts = list(one.parts())
    images = layout.load_images(tmp_path / "l" / layout.IMAGES)
    settings = one.settings
    plain = label.Labeller(
        root=dataset.root,
        images=images,
        regions=settings.regions,
        seed=settings.seed,
        rule=settings.rule,
        batch_size=settings.batch_size,
    )
    assert (
        grow.remember(plain, [dataclasses.replace(part, folder=whole) for part in parts]) is plain
    )
    ticks = []
    outputs = [part.output for part in parts]
    remembering = grow.remember(plain, parts)
    assert isinstance(remembering, grown.Labeller)
    found = remembering(range(2, 14), outputs, tick=ticks.append)
    # What it labels is not held.
    assert [int((kept.table["magic"] != b"").sum()) for kept in remembering.kept] == [known] * 2
    assert sum(ticks) == 12 * 8
    missing = 14 * 8 - known
    assert teacher.regions == student.regions <= missing
    for ours, theirs, part in zip(found, plain(range(2, 14), outputs), parts):
        assert list(part.encode(range(2, 14), images[2:14], ours)) == list(
            part.encode(range(2, 14), images[2:14], theirs)
        )
    grow.forget(parts)
    assert not (tmp_path / "l" / grown.FOLDER).exists()


def _read_some(folder, pictures):
    """Reads four steps of nine."""
    growing = grow.open(wanted(pictures, folder), expected(pictures))
    read = growing.reader(lambda number: {"row": np.full(8, number), "region": np.arange(8)}, 9)
    for number in range(4):
        read(number)


def read_and_fail(folder):
    pictures = stub.write_pictures(pathlib.Path(folder) / "pictures", 14)
    _read_some(pathlib.Path(folder) / "l", pictures)
    growing = grow.open(wanted(pictures, pathlib.Path(folder) / "m"), expected(pictures))
    read = growing.reader(lambda number: {"row": np.full(8, number), "region": np.arange(8)}, 9)
    read(0)
    raise KeyError("somewhere else")


@pytest.mark.multiprocess
def test_a_run_that_fails_writes_what_it_has_labelled(tmp_path):
    script = f"from tests.fdbpl_jax import test_grown; test_grown.read_and_fail({str(tmp_path)!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "somewhere else" in ended.stderr
    assert ended.returncode == 1
    # A full batch of the towers: two pictures. A shard for all of it, though nobody flushed.
    for folder, count in (("l", 32), ("m", 16)):
        assert len(kept_pairs(tmp_path / folder)) == count
        assert len(kept_pairs(tmp_path / folder, "features-stub-student")) == count
        assert len(list((tmp_path / folder / grown.FOLDER).glob("*.arrayrecord"))) == 2


@pytest.mark.parametrize(("every_s", "files"), [(0.0, 5), (1e9, 1)])
def test_labelled_regions_are_gathered(dataset, tmp_path, monkeypatch, every_s, files):
    monkeypatch.setattr(grown, "WRITE_EVERY_S", every_s)
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    ours = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    assert len(grown.shards(next(one.parts()))) == files
    pairs = kept_pairs(tmp_path)
    assert len(pairs) == len(set(pairs)) == teacher.regions == 72
    assert_same(take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9), ours)
    assert teacher.regions == 72


def test_a_build_of_two_label_spaces_sees_each_region_once(dataset, tmp_path):
    teacher = Counted(stub.teacher())
    one, two = (
        dataclasses.replace(
            target, teacher=dataclasses.replace(target.teacher, features=teacher.tower.features)
        )
        for target in stub.two_targets(tmp_path / "grown", dataset)
    )
    take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    teacher.regions = 0
    build.build_all([one, two])
    assert teacher.regions == 14 * 8
    build.build_all(stub.two_targets(tmp_path / "plain", dataset))
    for name in ("one", "two"):
        assert stub.contents(tmp_path / "grown" / name) == stub.contents(tmp_path / "plain" / name)


def test_a_damaged_shard_is_labelled_again(dataset, tmp_path, caplog):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    ours = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    path = sorted((tmp_path / grown.FOLDER).glob("labels-*.arrayrecord"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    teacher.regions = 0
    assert_same(take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9), ours)
    shard = records.read_sidecar(path)
    assert shard is not None
    assert teacher.regions == shard.count
    assert "is left out" in caplog.text


@pytest.mark.parametrize("where", ["grown", "built"])
@pytest.mark.parametrize("field", ["magic", "row", "image"])
def test_records_of_something_else_are_labelled_again(
    dataset, whole, tmp_path, caplog, field, where
):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path / "l", teacher=teacher.tower)
    if where == "built":
        shutil.copytree(whole, tmp_path / "l")
    ours = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    part = next(one.parts())
    built = layout.shard_paths(part.folder, part.kind, 4)[:1]
    path, dtype = (
        (built[0], part.record)
        if where == "built"
        else (grown.shards(part)[0], grown.entry_dtype(part.record))
    )
    shard = records.read_sidecar(path)
    assert shard is not None
    entries = np.frombuffer(b"".join(records.Reader(path.parent, [shard]).read_all()), dtype).copy()
    entries[field][-1] = {"magic": b"RLF1", "row": 14, "image": 7}[field]
    payloads = (entry.tobytes() for entry in entries)
    records.write_shard(path, payloads, first_row=0, options=part.options)
    teacher.regions = 0
    assert_same(take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9), ours)
    assert teacher.regions > 0
    assert (
        f"1 of its {len(entries)} records are not labels of this lookup's pictures" in caplog.text
    )
