"""Building: labels against NumPy, resume after kills, independent jobs, features added later, a full disk."""

import dataclasses
import errno
import json
import os
import pathlib
import random
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.data import files, images
from fdbpl_jax import build, datasets, label, layout, lookup, plan, regions
from tests.fdbpl_jax import stub

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 14)


@pytest.fixture(scope="module")
def built(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup") / "l"
    return build.build(
        folder, dataset, stub.teacher(), stub.settings(), student=stub.student(), shards=(0, 1)
    )


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def test_truncation_against_numpy():
    logits = np.random.default_rng(0).normal(0, 20, (50, 9)).astype(np.float32)
    logits[0] = 3.0
    found = {k: np.asarray(v) for k, v in label.truncate(jnp.asarray(logits), 4).items()}
    p = softmax(logits.astype(np.float64))
    order = np.argsort(-logits, axis=-1, kind="stable")
    np.testing.assert_array_equal(found["index"], order[:, :4])
    kept = np.take_along_axis(p, order, -1)
    np.testing.assert_allclose(np.exp(found["logp"].astype(float)), kept[:, :4], atol=2e-3)
    rest = np.maximum(np.log(kept[:, 4:].sum(-1)), -30)
    np.testing.assert_allclose(found["rest"], rest, rtol=2e-3, atol=2e-3)
    entropy = -np.sum(p * np.log(p), -1) / np.log(9)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-3)
    assert found["index"][0].tolist() == [0, 1, 2, 3]
    dense = label.truncate(jnp.asarray(logits), None)
    assert sorted(dense) == ["entropy", "logp"]
    np.testing.assert_allclose(np.exp(dense["logp"].astype(jnp.float32)), p, atol=2e-3)


def test_the_rest_is_clamped_and_finite_where_one_class_has_everything():
    found = label.truncate(jnp.asarray([[500.0, 0.0, -1.0, -2.0]]), 2)
    assert float(found["rest"][0]) == -30
    assert float(found["entropy"][0]) == 0
    assert np.all(np.isfinite(np.asarray(found["logp"], np.float32)))


def test_labels_and_features_are_the_towers_on_the_boxes(dataset, built):
    opened = lookup.open(built, expected(dataset, source="features"))
    teacher, student = stub.teacher(), stub.student()
    for row, item in enumerate(dataset.train):
        record = opened.record(row)
        image = images.decode(dataset.root / item.path)
        drawn = regions.draw(
            regions.stored_stream(0, opened.images[row].sha256), *image.shape[:2], 8
        )
        np.testing.assert_array_equal(record["box"], drawn.box)
        np.testing.assert_array_equal(record["flip"], drawn.flip)
        pixels = regions.crop(image, record["box"], stub.SIZE)
        logits = np.asarray(teacher.logits(pixels, drawn.flip))
        order = np.argsort(-logits, -1, kind="stable")[:, :3]
        np.testing.assert_array_equal(record["index"], order)
        p = np.take_along_axis(softmax(logits), order, -1)
        np.testing.assert_allclose(np.exp(record["logp"].astype(np.float32)), p, atol=2e-3)
        feature = np.asarray(student.features(pixels, drawn.flip))
        np.testing.assert_allclose(opened.features(row), feature, atol=1e-3)


def expected(dataset, **changes):
    values = {
        "items": dataset.train,
        "root": dataset.root,
        "classes": dataset.classes,
        "template": dataset.template,
        "teacher_digest": "teacher-digest",
        "logit_scale": 100.0,
        "scale": (0.08, 0.936),
        "regions_per_visit": 2,
        "student_digest": "student-digest",
    } | changes
    return lookup.Expected(**values)


def test_batch_size_and_shard_size_change_no_label(dataset, built, tmp_path):
    other = build.build(
        tmp_path / "l", dataset, stub.teacher(), stub.settings(batch_size=48, shard_size=5)
    )
    one, two = lookup.open(built).arrays(), lookup.open(other).arrays()
    for name in ("box", "flip", "index"):
        np.testing.assert_array_equal(one[name], two[name])
    np.testing.assert_allclose(one["logp"], two["logp"], atol=1e-2)


def test_building_again_changes_nothing(dataset, built):
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    build.build(built, dataset, stub.teacher(), stub.settings(), student=stub.student())
    assert {path: path.stat().st_mtime_ns for path in built.iterdir()} == before


def test_jobs_in_any_order_give_the_same_bytes(dataset, built, tmp_path):
    folder = tmp_path / "l"
    for job in (2, 0, 1):
        assert not (folder / layout.MANIFEST).exists()
        build.build(
            folder,
            dataset,
            stub.teacher(),
            stub.settings(),
            student=stub.student(),
            shards=(job, 3),
        )
        if job == 2:
            names = {path.name for path in folder.glob("labels-*.arrayrecord")}
            assert names == {"labels-00002-of-00004.arrayrecord"}
    assert stub.contents(folder) == stub.contents(built)


def test_features_can_be_added_and_are_the_same_bytes(dataset, built, tmp_path):
    folder = build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    assert lookup.open(folder).manifest["students"] == {}
    build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())
    assert stub.contents(folder) == stub.contents(built)
    digests = {lookup.open(one).digest for one in (folder, built)}
    assert len(digests) == 1


def test_damaged_and_lost_shards_are_made_again(dataset, built, tmp_path):
    folder = tmp_path / "l"
    shutil.copytree(built, folder)
    damaged = bytearray((folder / "labels-00001-of-00004.arrayrecord").read_bytes())
    damaged[100] ^= 1
    (folder / "labels-00001-of-00004.arrayrecord").write_bytes(damaged)
    (folder / "features-stub-student-00002-of-00004.json").unlink()
    (folder / layout.MANIFEST).unlink()
    build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())
    assert stub.contents(folder) == stub.contents(built)


@pytest.fixture(scope="module")
def twice(dataset, tmp_path_factory):
    """Folder of `stub.two_targets`, each built on its own."""
    folder = tmp_path_factory.mktemp("two")
    for target in stub.two_targets(folder, dataset):
        build.build_all([target], shards=(0, 1))
    return folder


def assert_same_lookups(folder, other):
    for name in ("one", "two"):
        assert stub.contents(folder / name) == stub.contents(other / name)


def counting(targets, calls):
    """The same targets; their towers append the rows of every batch that they see."""
    see = {target.teacher.features for target in targets}
    assert len(see) == 1

    def features(pixels, flip):
        calls.append(len(pixels))
        return next(iter(see))(pixels, flip)

    return [
        dataclasses.replace(t, teacher=dataclasses.replace(t.teacher, features=features))
        for t in targets
    ]


def test_two_lookups_of_one_pass_are_those_of_two_builds(dataset, twice, tmp_path):
    calls = []
    build.build_all(counting(stub.two_targets(tmp_path, dataset), calls), shards=(0, 1))
    assert_same_lookups(tmp_path, twice)
    # Four shards of up to 32 regions in batches of 16: once each, not once per lookup.
    assert len(calls) == 7
    one, two = (lookup.open(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.arrays()["box"], two.arrays()["box"])
    assert [image.label for image in two.images[:7]] == [-1, -1, 4, 3, 2, 1, 0]
    assert [image.label for image in one.images[:7]] == list(range(7))
    assert two.manifest["dataset"]["label_space"] == "some"
    assert not two.manifest["students"]
    # A shard that one of them lost is made for that one alone.
    for path in ("one/labels-00001-of-00004.json", "two/labels-00003-of-00004.arrayrecord"):
        (tmp_path / path).unlink()
    for name in ("one", "two"):
        (tmp_path / name / layout.MANIFEST).unlink()
    calls.clear()
    build.build_all(counting(stub.two_targets(tmp_path, dataset), calls), shards=(0, 1))
    assert_same_lookups(tmp_path, twice)
    assert len(calls) == 3
    logs = [(tmp_path / name / layout.TIMING).read_text().splitlines() for name in ("one", "two")]
    for log, shard in zip(logs, (1, 3)):
        assert json.loads(log[4])["shards"] == [f"labels-0000{shard}-of-00004.arrayrecord"]


def test_lookups_that_one_pass_cannot_serve_are_refused(dataset, tmp_path):
    one, two = stub.two_targets(tmp_path, dataset)
    for change, message in (
        ({"folder": one.folder}, "each needs a folder of its own"),
        ({"settings": stub.settings(seed=1)}, "build them one by one"),
        ({"dataset": dataclasses.replace(dataset, train=dataset.train[:5])}, "build them one"),
        ({"dataset": datasets.relabel(dataset, ("x", "y"))}, "no picture belongs to a class"),
    ):
        with pytest.raises(ValueError, match=message):
            build.build_all([one, dataclasses.replace(two, **change)])
    # The second folder was begun with other inputs: nothing is written into the first either.
    build.build_all([two], shards=(0, 1))
    with pytest.raises(plan.PlanMismatch, match="label_space"):
        build.build_all([one, dataclasses.replace(two, origin={})])
    assert not one.folder.exists()


def test_killed_at_random_moments_it_ends_in_the_same_bytes(dataset, twice, tmp_path):
    generator = random.Random(0)
    # The whole build makes about 100 such calls; each attempt goes on where the last one was killed.
    for _ in range(4):
        process = stub.start(
            stub.build_until_killed, dataset, tmp_path, generator.randint(1, 24), (0, 1)
        )
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "two" / layout.MANIFEST).exists()
    build.build_all(stub.two_targets(tmp_path, dataset), shards=(0, 1))
    assert_same_lookups(tmp_path, twice)


@pytest.mark.multiprocess
def test_two_processes_at_once_leave_no_gap(dataset, twice, tmp_path):
    jobs = [stub.start(stub.build_until_killed, dataset, tmp_path, 0, (job, 2)) for job in (0, 1)]
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    assert_same_lookups(tmp_path, twice)


def test_other_inputs_are_refused_with_every_difference(dataset, built):
    with pytest.raises(plan.PlanMismatch) as caught:
        build.build(
            built,
            dataclasses.replace(dataset, template="the {}."),
            stub.teacher(digest="other"),
            stub.settings(regions=16, seed=9),
        )
    text = str(caught.value)
    for part in (
        "regions: 8, now 16",
        "seed: 0, now 9",
        "'a {}.', now 'the {}.'",
        "teacher.digest",
    ):
        assert part in text, part
    with pytest.raises(plan.PlanMismatch, match=r"features-stub-student\.json[\s\S]*digest"):
        build.build(
            built, dataset, stub.teacher(), stub.settings(), student=stub.student(digest="other")
        )


def test_shards_without_a_plan_are_refused(dataset, built, tmp_path):
    shutil.copytree(built, tmp_path / "l")
    (tmp_path / "l" / layout.PLAN).unlink()
    with pytest.raises(plan.PlanMismatch, match="what they were made from is unknown"):
        build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    for path in (tmp_path / "l").glob("labels-*"):
        path.unlink()
    grown = tmp_path / "l" / "grown" / "labels-0123456789abcdef.arrayrecord"
    grown.parent.mkdir()
    grown.touch()
    with pytest.raises(plan.PlanMismatch, match="what they were made from is unknown"):
        build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())


def test_unreadable_pictures_are_all_named_and_nothing_is_written(tmp_path):
    dataset = stub.write_pictures(tmp_path / "p", 6)
    (tmp_path / "p" / "002.png").write_bytes(b"nothing")
    (tmp_path / "p" / "004.png").unlink()
    with pytest.raises(label.PictureErrors, match=r"2 of 6 [\s\S]*002\.png[\s\S]*004\.png"):
        build.build(tmp_path / "l", dataset, stub.teacher(), stub.settings())
    assert not (tmp_path / "l").exists()


def test_a_picture_twice_on_the_list_is_refused(dataset, tmp_path):
    doubled = dataclasses.replace(dataset, train=dataset.train + dataset.train[:1])
    with pytest.raises(label.PictureErrors, match=r"000\.png is on the list twice"):
        build.build(tmp_path / "l", doubled, stub.teacher(), stub.settings())


def test_impossible_sizes_are_refused_together(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"--shards=3/2.*regions=0.*top_k=7 with 7 classes"):
        build.build(
            tmp_path / "l",
            dataset,
            stub.teacher(),
            stub.settings(regions=0, top_k=7),
            shards=(3, 2),
        )
    assert not (tmp_path / "l").exists()
    assert plan.choose_top_k(64, 10, None) is None
    assert plan.choose_top_k(65, 10, None) == 10
    assert plan.choose_top_k(30, 10, False) == 10
    with pytest.raises(ValueError, match="needs 2"):
        plan.choose_top_k(1, 10, None)


def test_a_full_disk_keeps_complete_shards_and_leaves_no_rubbish(
    dataset, built, tmp_path, monkeypatch
):
    folder, real, calls = tmp_path / "l", os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        # Each file costs two calls, its own and its folder's: fail in the middle of the third shard.
        if len(calls) > 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.DiskFullError, match="what is complete is kept"):
        build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())
    names = {path.name for path in folder.iterdir()}
    assert layout.MANIFEST not in names
    assert not [name for name in names if name.startswith(".")]
    assert "labels-00000-of-00004.json" in names
    monkeypatch.setattr(os, "fsync", real)
    build.build(folder, dataset, stub.teacher(), stub.settings(), student=stub.student())
    assert stub.contents(folder) == stub.contents(built)


def test_times_are_logged_beside_the_lookup(built):
    assert lookup.seconds_build(built) > 0
    lines = [json.loads(line) for line in (built / layout.TIMING).read_text().splitlines()]
    assert sum(line["regions"] for line in lines) == 14 * 8


def test_a_torn_line_of_the_times_is_left_out(tmp_path):
    (tmp_path / layout.TIMING).write_text('{"seconds":2.5}\n{"reg{"seconds":1}\n{"seconds":1.0}\n')
    assert lookup.seconds_build(tmp_path) == 3.5
