"""A lookup that grows: the run on a lookup built beforehand is the oracle, and so is the build itself."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from core_jax import train
from core_jax.data import records
from fdbpl_jax import (
    build,
    config,
    data,
    grow,
    label,
    layout,
    lookup,
    plan,
    target,
    task,
)
from tests.fdbpl_jax import stub

OPTIONS = train.FitOptions(seed=1, log_every=4, save_every=3, progress=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 14)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A lookup built beforehand: top three of the classes, with a student's features."""
    folder = tmp_path_factory.mktemp("built") / "l"
    return build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())


def wanted(dataset, folder, *, teacher=None, student=None, **settings):
    return target.Target(
        folder=pathlib.Path(folder),
        dataset=dataset,
        teacher=teacher or stub.teacher(),
        settings=stub.settings(**settings),
        student=student or stub.student(),
        origin={},
    )


def expected(dataset, **changes):
    values = {
        "items": dataset.train,
        "root": dataset.root,
        "classes": dataset.classes,
        "template": dataset.template,
        "regions_per_visit": 2,
    }
    return lookup.Expected(**(values | changes))


class Counted:
    """A tower that counts its passes and the regions in them that are no padding."""

    def __init__(self, tower):
        self.passes, self.regions = 0, 0
        self.tower = dataclasses.replace(tower, features=self._see)
        self._features = tower.features

    def _see(self, pixels, flip):
        self.passes += 1
        self.regions += int(np.any(pixels != 0, axis=(1, 2, 3)).sum())
        return self._features(pixels, flip)


def stream(dataset, source, *, opened=None, growing=None, seed=1, steps=9, **changes):
    values = {
        "source": source,
        "batch_size": 8,
        "regions_per_visit": 2,
        "seed": seed,
        "image_size": stub.SIZE,
        "lookup": opened or growing.lookup,
        "growing": growing,
        "steps": steps,
        "process_index": 0,
        "process_count": 1,
    } | changes
    return data.train_data(dataset.train, dataset.root, **values)


def take(dataset, count):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(count)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs):
        assert one.keys() == two.keys()
        for key in one:
            assert one[key].dtype == two[key].dtype, key
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def asked(batches):
    return {pair for one in batches for pair in zip(one["row"].tolist(), one["region"].tolist())}


def kept_pairs(folder, kind="labels"):
    """The regions that the shards of one kind hold, read with the plain reader."""
    found = []
    for path in sorted((folder / grow.FOLDER).glob(f"{kind}-*.arrayrecord")):
        shard = records.read_sidecar(path)
        if shard is None:  # killed before it was complete
            continue
        assert not records.problems(path.parent, shard, digest=True)
        for payload in records.Reader(path.parent, [shard]).read_all():
            # magic, then row and region: docs/formats.md.
            found.append(
                (int.from_bytes(payload[4:8], "little"), int.from_bytes(payload[8:10], "little"))
            )
    return found


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


def _grow_until_killed(dataset, folder, last):
    """Reads and kills its own process at the last-th moment at which the disk changes."""
    calls = 0

    def counted(real):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
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
    build.build_all([wanted(dataset, tmp_path / "l")])
    # What has grown may lie beside the shards; they are those of a build at once.
    for path in sorted(whole.iterdir()):
        if path.name != layout.TIMING:
            assert (tmp_path / "l" / path.name).read_bytes() == path.read_bytes(), path.name


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
    found = grow.remember(plain, parts)(range(2, 14), outputs, tick=ticks.append)
    assert sum(ticks) == 12 * 8
    missing = 14 * 8 - known
    assert teacher.regions == student.regions <= missing
    for ours, theirs, part in zip(found, plain(range(2, 14), outputs), parts):
        assert list(part.encode(range(2, 14), images[2:14], ours)) == list(
            part.encode(range(2, 14), images[2:14], theirs)
        )
    grow.forget(parts)
    assert not (tmp_path / "l" / grow.FOLDER).exists()


def test_a_damaged_shard_is_labelled_again(dataset, tmp_path, caplog):
    teacher = Counted(stub.teacher())
    one = wanted(dataset, tmp_path, teacher=teacher.tower)
    ours = take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9)
    path = sorted((tmp_path / grow.FOLDER).glob("labels-*.arrayrecord"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    teacher.regions = 0
    assert_same(take(stream(dataset, "grow", growing=grow.open(one, expected(dataset))), 9), ours)
    shard = records.read_sidecar(path)
    assert shard is not None
    assert teacher.regions == shard.count
    assert "is left out" in caplog.text


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
    with pytest.raises(plan.PlanMismatch, match=r"features-stub-student\.json.*digest"):
        grow.open(wanted(dataset, whole, student=student), expected(dataset))
    assert stub.contents(whole) == before
    items = (*dataset.train, dataclasses.replace(dataset.train[0], path="gone.png"))
    with pytest.raises(lookup.UnusableLookup, match=r"cannot grow.*(?s).*gone\.png"):
        grow.open(wanted(dataset, tmp_path), expected(dataset, items=items))


def test_a_picture_that_changes_stops_the_run(tmp_path):
    dataset = stub.write_pictures(tmp_path / "p", 10)
    one = wanted(dataset, tmp_path / "l")
    growing = grow.open(one, expected(dataset))
    for path in (tmp_path / "p").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(label.PictureErrors, match=r"png has changed since"):
        take(stream(dataset, "grow", growing=growing), 1)
    with pytest.raises(lookup.UnusableLookup, match="10 training pictures have changed"):
        grow.open(one, expected(dataset))


def test_a_lookup_larger_than_the_memory_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(grow.os, "sysconf", lambda name: 10)
    with pytest.raises(
        config.ConfigError, match=r"14 pictures take .* build the lookup beforehand"
    ):
        grow.open(wanted(dataset, tmp_path / "l"), expected(dataset))
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "coop"}, "method=coop"),
        ({"method": "kdpl", "teacher_source": "online"}, "teacher_source=online"),
        ({"data__resident": "True"}, "data.resident=True"),
        ({"data__fresh": "True"}, "data.fresh=True"),
        ({"lookup__dir": ""}, "lookup.dir is empty"),
    ],
)
def test_configurations_that_cannot_grow(settings, changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.read(settings(data__source="grow", **changes))


def fit(values, workdir, *, stop_at=None):
    """The parameters of a run, which is stopped after a step if so wanted and then goes on."""
    made = task.build(values)
    if stop_at is not None:
        short = dataclasses.replace(made, total_steps=stop_at)
        train.fit(short, OPTIONS, workdir=workdir, config_json={})
        made = task.build(values)
    state = train.fit(made, OPTIONS, workdir=workdir, config_json={}, resume=stop_at is not None)
    return jax.tree.map(np.asarray, state["trainable"])


@pytest.fixture(scope="module")
def reference(built, tmp_path_factory):
    """The parameters of the run on the lookup built beforehand."""
    return fit(built(data__resident="False"), tmp_path_factory.mktemp("reference"))


def assert_equal(ours, theirs):
    assert ours["context"].keys() == {"positive", "negative"}
    for name, value in theirs["context"].items():
        np.testing.assert_array_equal(ours["context"][name], value)


def test_parameters_equal_those_on_a_lookup_built_beforehand(settings, reference, built, tmp_path):
    grown = settings(data__source="grow", lookup__dir=str(tmp_path / "l"))
    assert_equal(fit(grown, tmp_path / "first"), reference)
    assert not (tmp_path / "l" / layout.MANIFEST).exists()
    pairs = kept_pairs(tmp_path / "l")
    # 16 pictures, 3 epochs: 48 of 128 regions.
    assert len(pairs) == len(set(pairs)) == 48
    files = sorted(path.name for path in (tmp_path / "l" / grow.FOLDER).iterdir())
    assert_equal(fit(grown, tmp_path / "second"), reference)
    assert files == sorted(path.name for path in (tmp_path / "l" / grow.FOLDER).iterdir())
    # A build completes it, to the bytes of one that was built at once; the same configuration goes on reading it.
    build.build_from_config(grown, progress=False)
    one = built().lookup.dir
    assert (tmp_path / "l" / layout.MANIFEST).read_bytes() == (
        pathlib.Path(one) / layout.MANIFEST
    ).read_bytes()
    assert_equal(fit(grown, tmp_path / "third"), reference)


def test_a_run_that_was_interrupted_goes_on_to_the_same_parameters(settings, reference, tmp_path):
    grown = settings(data__source="grow", lookup__dir=str(tmp_path / "l"))
    assert_equal(fit(grown, tmp_path / "run", stop_at=3), reference)
