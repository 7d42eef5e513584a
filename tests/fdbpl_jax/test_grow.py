"""A lookup that grows: batches are those of a lookup built beforehand, and the towers see nothing twice."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from fdbpl_jax import build, config, grow, grown, label, layout, lookup, plan
from tests.fdbpl_jax import stub
from tests.fdbpl_jax.growing import (
    Counted,
    asked,
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


@pytest.mark.parametrize("top_k", [3, None])
def test_batches_are_those_of_a_lookup_built_beforehand(dataset, tmp_path, top_k):
    built = build.build(
        tmp_path / "built",
        dataset,
        stub.teacher(),
        stub.settings(top_k=top_k),
        student=stub.student(),
    )
    teacher, student = Counted(stub.teacher()), Counted(stub.student())
    one = wanted(
        dataset, tmp_path / "grown", teacher=teacher.tower, student=student.tower, top_k=top_k
    )
    growing = grow.open(one, expected(dataset))
    digest = stub.student().digest
    opened = lookup.open(built, expected(dataset, source="features", student_digest=digest))
    ours = take(stream(dataset, "grow", growing=growing), 9)
    assert_same(ours, take(stream(dataset, "features", opened=opened), 9))
    # Exactly what was asked for, in full batches of the towers, and not again.
    pairs = kept_pairs(tmp_path / "grown")
    assert set(pairs) == asked(ours) == set(kept_pairs(tmp_path / "grown", "features-stub-student"))
    assert teacher.regions == student.regions == len(pairs) == len(set(pairs))
    assert teacher.passes == student.passes == -(-len(pairs) // 16)
    again = grow.open(one, expected(dataset))
    assert_same(take(stream(dataset, "grow", growing=again), 9), ours)
    assert teacher.regions == len(pairs)
    assert growing.lookup.digest == again.lookup.digest


def test_the_data_end_with_the_run(dataset, tmp_path):
    growing = grow.open(wanted(dataset, tmp_path), expected(dataset))
    assert len(list(stream(dataset, "grow", growing=growing, steps=3))) == 3
    assert len(kept_pairs(tmp_path)) == 3 * 8


def test_another_seed_labels_only_what_the_first_left(dataset, tmp_path):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    first = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    second = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset)), seed=2), 9)
    assert asked(first) & asked(second)
    assert teacher.regions == len(asked(first) | asked(second))


def test_another_student_needs_no_teacher(dataset, tmp_path):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    first = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    passes = teacher.passes
    student = dataclasses.replace(stub.student(seed=6), name="stub:other", digest="other")
    other = dataclasses.replace(one, student=student)
    second = take(stream(dataset, "grow", growing=grow.open(other, expected(dataset))), 9)
    assert teacher.passes == passes
    assert_same(
        *([{k: b[k] for k in b if k != "feature"} for b in some] for some in (first, second))
    )
    assert not np.array_equal(first[0]["feature"], second[0]["feature"])


def test_students_whose_names_begin_alike_are_kept_apart(dataset, whole, tmp_path):
    longer = dataclasses.replace(stub.student(seed=6), name="stub:student-336", digest="longer")
    first = wanted(dataset, tmp_path / "l", student=longer)
    take(stream(dataset, "grow", growing=grow.open(first, expected(dataset))), 9)
    one = wanted(dataset, tmp_path / "l")
    digest = stub.student().digest
    opened = lookup.open(whole, expected(dataset, source="features", student_digest=digest))
    assert_same(
        take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9),
        take(stream(dataset, "features", opened=opened), 9),
    )
    # A build of the one leaves what has grown of the other.
    build.build_all([one])
    assert len(kept_pairs(tmp_path / "l", "features-stub-student-336")) == 72
    left = {path.name[:25] for path in (tmp_path / "l" / grown.FOLDER).iterdir()}
    assert left == {"features-stub-student-336"}


@pytest.mark.parametrize("lose", ["nothing", "shards"])
def test_what_a_build_left_is_read(dataset, whole, tmp_path, lose):
    shutil.copytree(whole, tmp_path / "l")
    if lose == "shards":
        (tmp_path / "l" / layout.MANIFEST).unlink()
        for path in (tmp_path / "l").glob("*-00001-of-*"):
            path.unlink()
    teacher = Counted(stub.teacher())
    growing = grow.open(wanted(dataset, tmp_path / "l", teacher=teacher.tower), expected(dataset))
    ours = take(stream(dataset, "grow", growing=growing), 9)
    digest = stub.student().digest
    opened = lookup.open(whole, expected(dataset, source="features", student_digest=digest))
    assert_same(ours, take(stream(dataset, "features", opened=opened), 9))
    lost = {pair for pair in asked(ours) if 4 <= pair[0] < 8}
    assert teacher.regions == (len(lost) if lose == "shards" else 0)


def test_two_processes_grow_one_lookup(dataset, whole, tmp_path):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    halves = []
    for process in (0, 1):
        growing = grow.open(one, expected(dataset))
        halves.append(
            take(
                stream(dataset, "grow", growing=growing, process_index=process, process_count=2),
                9,
            )
        )
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves)]
    growing = grow.open(one, expected(dataset))
    regions = teacher.regions
    assert_same(take(stream(dataset, "grow", growing=growing), 9), joined)
    assert teacher.regions == regions == len(asked(joined))


def test_an_iterator_goes_on_where_it_was_and_may_go_back(dataset, tmp_path):
    growing = grow.open(wanted(dataset, tmp_path), expected(dataset))
    iterator = iter(stream(dataset, "grow", growing=growing))
    ours = [next(iterator) for _ in range(4)]
    state = json.loads(json.dumps(iterator.get_state()))
    reader = growing.reader(lambda number: {k: ours[number][k] for k in ("row", "region")}, 4)
    assert_same([reader(3) | ours[3]], ours[3:])
    again = iter(
        stream(dataset, "grow", growing=grow.open(wanted(dataset, tmp_path), expected(dataset)))
    )
    again.set_state(state)
    assert_same([next(again) for _ in range(5)], [next(iterator) for _ in range(5)])
    fresh = grow.open(wanted(dataset, tmp_path / "fresh"), expected(dataset))
    steps = stream(dataset, "grow", growing=fresh)
    backwards = fresh.reader(lambda number: ours[number], 4)
    assert_same([backwards(3), backwards(0)], [ours[3], ours[0]])
    assert_same(take(steps, 4), ours)


def test_a_batch_larger_than_the_towers_is_labelled_in_parts(dataset, whole, tmp_path):
    growing = grow.open(wanted(dataset, tmp_path, batch_size=3), expected(dataset))
    digest = stub.student().digest
    opened = lookup.open(whole, expected(dataset, source="features", student_digest=digest))
    assert_same(
        take(stream(dataset, "grow", growing=growing), 2),
        take(stream(dataset, "features", opened=opened), 2),
    )


def test_regions_on_their_way_are_not_labelled_again(dataset, tmp_path):
    teacher = Counted(stub.teacher())
    growing = grow.open(wanted(dataset, tmp_path, teacher=teacher.tower), expected(dataset))
    # The regions of three pictures over and over: 24, in batches of 16.
    read = growing.reader(lambda number: {"row": np.full(8, number % 3), "region": np.arange(8)}, 9)
    for number in range(9):
        read(number)
    assert (teacher.regions, teacher.passes) == (24, 2)
    assert len(kept_pairs(tmp_path)) == 24


def test_the_coming_steps_are_looked_at_from_the_present_one_and_not_to_the_end(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(grow, "STEPS_AHEAD", 4)
    growing = grow.open(wanted(dataset, tmp_path), expected(dataset))
    seen = []

    def ids(number):
        seen.append(number)
        return {"row": np.array([number // 6]), "region": np.array([0])}

    read = growing.reader(ids, 12)
    for number in range(7):
        read(number)
    # 0 and 6 find nothing there: they look at four steps, themselves included.
    assert seen == [0, *range(4), 1, 2, 3, 4, 5, 6, *range(6, 10)]


def test_other_inputs_are_refused_with_every_difference(dataset, whole, tmp_path):
    before = stub.contents(whole)
    other = wanted(dataset, whole, teacher=stub.teacher(digest="another"), seed=3)
    with pytest.raises(
        plan.PlanMismatch, match=r"(?s)2 differences.*seed: 0, now 3.*teacher.digest"
    ):
        grow.open(other, expected(dataset))
    space = dataclasses.replace(dataset, template="the {}.")
    with pytest.raises(plan.PlanMismatch, match=r"template: 'a \{}\.', now 'the \{}\.'"):
        grow.open(wanted(space, whole), expected(space))
    student = dataclasses.replace(stub.student(), digest="another")
    with pytest.raises(plan.PlanMismatch, match=r"(?s)features-stub-student\.json.*digest"):
        grow.open(wanted(dataset, whole, student=student), expected(dataset))
    assert stub.contents(whole) == before
    items = (*dataset.train, dataclasses.replace(dataset.train[0], path="gone.png"))
    with pytest.raises(lookup.UnusableLookup, match=r"(?s)cannot grow.*gone\.png"):
        grow.open(wanted(dataset, tmp_path), expected(dataset, items=items))


def test_a_picture_that_changes_stops_the_run(tmp_path):
    dataset = stub.write_pictures(tmp_path / "p", 10)
    one = wanted(dataset, tmp_path / "l")
    growing = grow.open(one, expected(dataset))
    for path in (tmp_path / "p").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(label.PictureErrors, match=r"png has changed since"):
        take(stream(dataset, "grow", growing=growing), 1)
    read = growing.reader(lambda number: {"row": np.array([number]), "region": np.array([0])}, 3)
    for number in (0, 0, 1):
        with pytest.raises(label.PictureErrors, match=r"00\d\.png has changed since"):
            read(number)
    with pytest.raises(lookup.UnusableLookup, match="10 training pictures have changed"):
        grow.open(one, expected(dataset))


def test_a_lookup_larger_than_the_memory_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(grow.os, "sysconf", lambda name: 10)
    with pytest.raises(
        config.ConfigError, match=r"14 pictures take .* build the lookup beforehand"
    ):
        grow.open(wanted(dataset, tmp_path / "l"), expected(dataset))
    assert not (tmp_path / "l").exists()
