"""Looking at the pictures in parts: shared out, kept over restarts, every problem told, nothing opened twice."""

import dataclasses
import hashlib
import shutil

import pytest
from PIL import Image

from core_jax.data import files
from fdbpl_jax import build, crew, label, layout, plan, scan
from fdbpl_jax.datasets import Item
from tests.fdbpl_jax import growing, stub

ALONE = crew.Crew(0, 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 14)


@pytest.fixture
def opened(monkeypatch):
    """The names of the pictures that a scan opens."""
    names, real = [], label.read

    def read(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(label, "read", read)
    return names


def parts(folder, dataset, **changes):
    values = {"root": dataset.root, "items": dataset.train, "part_rows": 4, "threads": 2} | changes
    return scan.Scan(folder=folder, **values)


def test_rows_are_the_files(dataset, tmp_path):
    found = parts(tmp_path, dataset)
    scan.scan(found, share=(0, 1), crew=ALONE)
    assert [row.path for row in found] == [item.path for item in dataset.train]
    for row in found:
        path = dataset.root / row.path
        assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as image:
            assert (row.width, row.height) == image.size
        assert row.label == -1


def test_processes_open_what_is_theirs(dataset, tmp_path, opened, monkeypatch):
    # Each of the two hears that the other found no problem either.
    monkeypatch.setattr(crew.Crew, "_meet", lambda self, value: [value, [[0, []], None]])
    found = parts(tmp_path, dataset)
    for process in (1, 0):
        opened.clear()
        scan.scan(found, share=(process, 2), crew=crew.Crew(process, 2))
        own = [range(4), range(8, 12)] if process == 0 else [range(4, 8), range(12, 14)]
        assert sorted(opened) == [f"{i:03d}.png" for rows in own for i in rows]
    assert len(list(found)) == 14


def test_a_job_on_its_own_also_makes_what_others_have_not_made(dataset, tmp_path, opened):
    found = parts(tmp_path, dataset)
    found.make(range(4, 8))
    opened.clear()
    scan.scan(found, share=(1, 3), crew=ALONE)
    assert len(opened) == 10
    assert len(list(found)) == 14
    opened.clear()
    scan.scan(found, share=(0, 3), crew=ALONE)
    assert not opened


def test_parts_of_another_list_are_made_again(dataset, tmp_path, opened):
    scan.scan(parts(tmp_path, dataset), share=(0, 1), crew=ALONE)
    opened.clear()
    swapped = (*dataset.train[:8], dataset.train[9], dataset.train[8], *dataset.train[10:])
    found = parts(tmp_path, dataset, items=swapped)
    scan.scan(found, share=(0, 1), crew=ALONE)
    assert sorted(opened) == ["008.png", "009.png", "010.png", "011.png"]
    assert [row.path for row in found] == [item.path for item in swapped]


def test_problems_are_told_together_and_sound_parts_kept(tmp_path, opened):
    dataset = stub.write_pictures(tmp_path / "p", 14)
    for name in ("001.png", "006.png"):
        (dataset.root / name).write_bytes(b"nothing")
    items = (*dataset.train, dataset.train[13])
    found = parts(tmp_path / "s", dataset, items=items)
    with pytest.raises(label.PictureErrors) as caught:
        scan.scan(found, share=(0, 1), crew=ALONE)
    for words in ("3 of 15 pictures", "013.png is on the list twice", "001.png", "006.png"):
        assert words in str(caught.value)
    opened.clear()
    stub_again = stub.write_pictures(tmp_path / "q", 14)
    for name in ("001.png", "006.png"):
        shutil.copy(stub_again.root / name, dataset.root / name)
    scan.scan(parts(tmp_path / "s", dataset), share=(0, 1), crew=ALONE)
    # The last part was of another length.
    assert sorted(opened) == [f"{i:03d}.png" for i in (*range(8), 12, 13)]


def test_endless_problems_are_counted(tmp_path):
    items = [Item(f"{i}.png", 0, "a") for i in range(250)]
    found = scan.Scan(folder=tmp_path / "s", root=tmp_path, items=items, part_rows=40)
    with pytest.raises(label.PictureErrors, match=r"250 of 250 [\s\S]*and 150 more$") as caught:
        scan.scan(found, share=(0, 1), crew=ALONE)
    assert len(str(caught.value).splitlines()) == 102
    assert not (tmp_path / "s").exists()


def test_twins_are_found_by_name():
    items = [Item(f"{i % 7}.png", 0, "a") for i in range(9)]
    assert scan.doubled(items) == ["0.png is on the list twice", "1.png is on the list twice"]
    assert scan.doubled(items[:7]) == scan.doubled([]) == []


def test_a_killed_build_opens_no_picture_twice_before_its_labels(dataset, tmp_path, opened):
    folder, teacher = tmp_path / "l", stub.teacher()

    def killed(pixels, flip):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build.build(folder, dataset, dataclasses.replace(teacher, features=killed), stub.settings())
    names = [item.path for item in dataset.train]
    assert sorted(set(opened)) == names
    # The list is there: only labelling opens pictures now, each once.
    assert (folder / layout.IMAGES).is_file()
    opened.clear()
    build.build(folder, dataset, teacher, stub.settings())
    assert sorted(opened) == names
    assert not folder.with_name("l.scan").exists()
    # A complete lookup opens none.
    opened.clear()
    build.build(folder, dataset, teacher, stub.settings())
    assert not opened


def test_the_scan_of_a_build_that_has_no_head_yet_is_kept(dataset, tmp_path, opened, monkeypatch):
    folder = tmp_path / "l"

    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(layout, "dump", killed)
        with pytest.raises(RuntimeError, match="killed"):
            build.build(folder, dataset, stub.teacher(), stub.settings())
    assert len(opened) == 14
    assert not (folder / layout.PLAN).exists()
    build.build(folder, dataset, stub.teacher(), stub.settings())
    assert len(opened) == 2 * 14


def test_another_list_is_refused_before_it_is_looked_at(dataset, tmp_path, opened):
    folder = build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    opened.clear()
    other = dataclasses.replace(dataset, train=dataset.train[::-1])
    with pytest.raises(plan.PlanMismatch, match=r"images\.sha256: .* 'of another list"):
        build.build(folder, other, stub.teacher(), stub.settings())
    shorter = dataclasses.replace(dataset, train=dataset.train[:9])
    with pytest.raises(plan.PlanMismatch, match=r"images\.count: 14, now 9"):
        build.build(folder, shorter, stub.teacher(), stub.settings())
    assert not opened


def test_a_folder_that_another_job_begins_at_this_moment_is_refused(dataset, tmp_path, monkeypatch):
    other = growing.wanted(dataset, tmp_path, seed=3).plans("of other pictures")[layout.PLAN]
    write = files.atomic_write

    def overtaken(path, data):
        write(path, layout.dump(other) if path.name == layout.PLAN else data)

    monkeypatch.setattr(files, "atomic_write", overtaken)
    with pytest.raises(plan.PlanMismatch, match="seed: 3, now 0"):
        build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    assert [path.name for path in (tmp_path / "l").iterdir()] == [layout.PLAN]


def test_a_damaged_list_is_made_again(dataset, tmp_path, opened):
    folder = build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    whole = stub.contents(folder)
    path = folder / layout.IMAGES
    path.write_bytes(path.read_bytes()[:-9])
    build.build(folder, dataset, stub.teacher(), stub.settings())
    assert stub.contents(folder) == whole
