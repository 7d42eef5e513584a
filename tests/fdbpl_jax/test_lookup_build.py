"""Building: labels against NumPy, resume after kills, independent jobs, features added later, a full disk."""

import errno
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.data import files, images
from fdbpl_jax import build, label, layout, lookup, plan, regions
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


SCRIPT = """
import os, pathlib, signal, sys
from fdbpl_jax import build
from tests.fdbpl_jax import stub
dataset = stub.write_pictures(pathlib.Path(sys.argv[1]), 14)
calls, last = 0, int(sys.argv[3])
def counted(real):
    def call(*args):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call
# Every file is synced, renamed, and its folder synced: these are the moments at which the disk changes.
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
build.build(sys.argv[2], dataset, stub.teacher(), stub.settings(), student=stub.student(),
    shards=(int(sys.argv[4]), int(sys.argv[5])))
"""


def test_killed_at_random_moments_it_ends_in_the_same_bytes(built, tmp_path):
    folder, generator = tmp_path / "l", random.Random(0)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "pictures"), str(folder)]
    # A run of the whole build makes about 60 such calls; each attempt goes on where the last one was killed.
    for _ in range(4):
        moment = str(generator.randint(1, 16))
        killed = subprocess.run([*command, moment, "0", "1"], cwd=ROOT, check=False)
        assert killed.returncode == -9
        assert not (folder / layout.MANIFEST).exists()
    subprocess.run([*command, "-1", "0", "1"], cwd=ROOT, check=True)
    assert stub.contents(folder) == stub.contents(built)


@pytest.mark.multiprocess
def test_two_processes_at_once_leave_no_gap(built, tmp_path, dataset):
    folder = tmp_path / "l"
    command = [sys.executable, "-c", SCRIPT, str(dataset.root), str(folder), "-1"]
    jobs = [subprocess.Popen([*command, str(job), "2"], cwd=ROOT) for job in (0, 1)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert stub.contents(folder) == stub.contents(built)


def test_other_inputs_are_refused_with_every_difference(dataset, built):
    with pytest.raises(plan.PlanMismatch) as caught:
        build.build(
            built,
            datasets_with_template(dataset, "the {}."),
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


def datasets_with_template(dataset, template):
    return label.dataclasses.replace(dataset, template=template)


def test_shards_without_a_plan_are_refused(dataset, built, tmp_path):
    shutil.copytree(built, tmp_path / "l")
    (tmp_path / "l" / layout.PLAN).unlink()
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
    doubled = label.dataclasses.replace(dataset, train=dataset.train + dataset.train[:1])
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
