"""Verifying and describing a lookup: sound ones pass; flipped bytes, wrong labels and other models do not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from core_jax.data import records
from fdbpl_jax import build, datasets, layout, lookup, summary, verify
from tests.fdbpl_jax import stub
from tests.fdbpl_jax.test_lookup_build import expected


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 10)


@pytest.fixture(scope="module", params=[3, None], ids=["top3", "dense"])
def original(request, dataset, tmp_path_factory):
    return build.build(
        tmp_path_factory.mktemp("lookup") / "l",
        dataset,
        stub.teacher(),
        stub.settings(top_k=request.param),
        student=stub.student(),
        shards=(0, 1),
    )


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "l")
    return tmp_path / "l"


def recompute(folder, dataset, **changes):
    opened = lookup.open(folder, expected(dataset, source="features", root=None))
    models = {"teacher": stub.teacher(), "student": stub.student()} | changes
    return verify.recompute(opened, dataset.root, batch_size=16, **models)


def test_a_sound_lookup_passes(original, dataset):
    assert verify.digests(original) == []
    report = recompute(original, dataset)
    assert not report.problems
    assert report.images == 10
    assert set(report.measured) == set(verify.LIMITS)
    assert max(report.measured.values()) < 2e-3
    assert "the lookup is sound" in verify.text(report)
    assert recompute(original, dataset, samples=4).images == 4


@pytest.mark.parametrize("name", ["labels-00002-of-00003", "features-stub-student-00000-of-00003"])
def test_a_flipped_byte_fails(folder, name):
    path = folder / f"{name}.arrayrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (problem,) = verify.digests(folder)
    assert f"{name}.arrayrecord is corrupted" in problem
    assert "NOT sound" in verify.text(verify.Report(problems=(problem,)))


def rewrite(folder, change):
    """Changes the label records of the first shard so that every digest holds."""
    opened = lookup.open(folder)
    stacked = np.array([opened.record(row) for row in range(4)], opened.dtype)
    change(stacked)
    name = "labels-00000-of-00003.arrayrecord"
    shard = records.write_shard(
        folder / name, [record.tobytes() for record in stacked], first_row=0
    )
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    manifest["shards"][0] = dataclasses.asdict(shard)
    (folder / layout.MANIFEST).write_text(layout.dump(manifest))


def swap(stacked, field):
    stacked[field] = stacked[field][..., ::-1].copy()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: swap(s, "logp"), "probability"),
        (lambda s: s["entropy"].fill(0.5), "informativeness"),
        (lambda s: s["logp"].fill(np.nan), "probability"),
        (lambda s: s["box"].fill(1), "the box of 000.png are not the ones its seed gives"),
        (lambda s: np.logical_not(s["flip"], out=s["flip"], casting="unsafe"), "the flip of 000"),
    ],
)
def test_wrong_labels_fail_though_their_digests_hold(folder, dataset, change, words):
    rewrite(folder, change)
    assert verify.digests(folder) == []
    assert any(words in problem for problem in recompute(folder, dataset).problems)


@pytest.mark.parametrize("original", [3], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda s: swap(s, "index"),
        lambda s: s["index"].fill(2),
        lambda s: s["index"].fill(60_000),
    ],
)
def test_wrong_indices_fail(folder, dataset, change):
    rewrite(folder, change)
    problems = recompute(folder, dataset).problems
    assert any("index" in problem for problem in problems)


def test_near_ties_may_come_in_either_order(dataset, tmp_path):
    teacher = stub.teacher()

    def tied(features):
        logits = np.asarray(teacher.label(features)).copy()
        logits[:, 1] = logits[:, 0] + 1e-4
        return logits

    def swapped(features):
        logits = tied(features)
        logits[:, 1] = logits[:, 0] - 1e-4
        return logits

    one, two = (dataclasses.replace(teacher, label=f) for f in (tied, swapped))
    folder = build.build(tmp_path / "l", dataset, one, stub.settings())
    opened = lookup.open(folder)
    assert not verify.recompute(opened, dataset.root, two, batch_size=16).problems


def test_other_models_fail(original, dataset):
    assert recompute(original, dataset, teacher=stub.teacher(seed=3)).problems
    (problem,) = recompute(original, dataset, student=stub.student(seed=3)).problems
    assert problem.startswith("cosine")


def test_limits_are_only_told_on_another_kind_of_device(folder, dataset):
    manifest = json.loads((folder / layout.MANIFEST).read_text())
    manifest["versions"]["platform"] = "tpu"
    (folder / layout.MANIFEST).write_text(layout.dump(manifest))
    report = recompute(folder, dataset, teacher=stub.teacher(seed=3))
    assert not report.problems
    assert report.notes
    assert "note, another kind of device" in verify.text(report)


def test_pictures_without_a_label_are_not_judged(dataset, tmp_path):
    half = datasets.relabel(dataset, dataset.classes[::-1][:4])
    folder = build.build(
        tmp_path / "l", half, stub.teacher(classes=4), stub.settings(), shards=(0, 1)
    )
    opened = lookup.open(folder)
    labels = [image.label for image in opened.images]
    assert labels == [-1, -1, -1, 3, 2, 1, 0, -1, -1, -1]
    right = [opened.record(row)["index"][:, 0] == labels[row] for row in range(3, 7)]
    assert summary.summarise(folder).accuracy == pytest.approx(100 * np.mean(right))


def test_summary_counts_what_is_stored(original, dataset, tmp_path):
    opened, found = lookup.open(original), summary.summarise(original)
    stacked = [opened.record(row) for row in range(10)]
    weight = np.concatenate([1 - r["entropy"].astype(float) for r in stacked])
    first = [
        (r["index"][:, 0] if "index" in r.dtype.names else r["logp"].argmax(-1)) for r in stacked
    ]
    right = [np.mean(f == item.label) for f, item in zip(first, dataset.train)]
    assert found.accuracy == pytest.approx(100 * np.mean(right))
    assert (found.images, found.regions, found.classes) == (10, 8, 7)
    assert found.informativeness.sum() == pytest.approx(1)
    assert found.informativeness[-1] == pytest.approx(np.mean(weight >= 0.9))
    assert found.area[9] == pytest.approx(
        np.mean([
            b[2] * b[3] / (image.height * image.width) >= 0.9
            for r, image in zip(stacked, opened.images)
            for b in r["box"].astype(float)
        ])
    )  # fmt: skip
    assert (found.residual is None) == opened.dense
    text = summary.text(found)
    for words in ("10 pictures x 8 regions", "teacher top-1", "informativeness w", "box area"):
        assert words in text
    summary.plot(found, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as page:
        assert page.size[0] > 500
