"""CLIP as teacher and student of a lookup, and a whole build from a configuration."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip, world
from core_jax.data import images
from fdbpl_jax import build, datasets, label, lookup, plan, regions, towers, verify
from tests.fdbpl_jax import stub

CLASSES = ("red plain circle", "blue dotted ring", "green striped cross")
STYLES = (("sketch", 0.5), ("grain", 0.5))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The embedded world's classification pictures, four classes of them."""
    root = tmp_path_factory.mktemp("world")
    world.write_objects(
        root,
        size=40,
        train_per_class=4,
        val_per_class=1,
        test_per_class=1,
        classes=(*CLASSES, "white plain star"),
        progress=False,
    )
    return root


@pytest.fixture
def config(pair, root, tmp_path):
    return {
        "teacher": str(pair["teacher"]),
        "student": str(pair["student"]),
        "data": {"root": str(root), "shots": 2, "seed": 1, "split": "all"},
        "lookup": {
            "dir": str(tmp_path / "lookup"),
            "regions": 4,
            "shard_size": 3,
            "batch_size": 8,
            "seeds": (1, 2),
        },
    }


def test_teacher_is_zero_shot_clip(pair):
    model = clip.load(pair["teacher"])
    teacher = towers.teacher(model, "t", CLASSES, "a {}.")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 32, 32, 3), np.uint8)
    flip = np.array([True, False, True, False, True])
    seen = np.stack([p[:, ::-1] if f else p for p, f in zip(pixels, flip)])
    x = clip.normalise(jnp.asarray(seen), model.config)
    encode_image, encode_text = (
        jax.jit(f, static_argnums=1) for f in (clip.encode_image, clip.encode_text)
    )
    image = np.asarray(encode_image(model.params, model.config, x))
    ids = model.tokenizer([f"a {name}." for name in CLASSES])
    text = np.asarray(encode_text(model.params, model.config, jnp.asarray(ids)))
    cosine = (image / np.linalg.norm(image, axis=1)[:, None]) @ (
        text / np.linalg.norm(text, axis=1)[:, None]
    ).T
    scale = np.exp(float(model.params["logit_scale"]))
    np.testing.assert_allclose(teacher.logits(pixels, flip), scale * cosine, atol=1e-4)
    assert teacher.logit_scale == pytest.approx(scale, rel=1e-6)
    assert teacher.digest == clip.weights_digest(model.params)
    student = towers.student(model, "s")
    unit = image / np.linalg.norm(image, axis=1)[:, None]
    np.testing.assert_allclose(student.features(pixels, flip), unit, atol=1e-5)
    assert (student.width, student.image_size) == (24, 32)


def split_over_two_devices(folder, out):
    jax.config.update("jax_num_cpu_devices", 2)
    logits = four_pictures(folder)
    assert len(logits.sharding.device_set) == 2
    np.save(out, logits)


def four_pictures(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    teacher = towers.teacher(clip.load(folder), "t", ("ring", "star"), "a {}.")
    return teacher.logits(pixels, np.arange(4) % 2 == 0)


@pytest.mark.multiprocess
def test_a_batch_is_split_over_the_devices_of_a_process(pair, tmp_path):
    process = stub.start(split_over_two_devices, pair["teacher"], tmp_path / "out.npy")
    process.join()
    assert process.exitcode == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), four_pictures(pair["teacher"]), atol=1e-4
    )


def test_another_template_in_the_same_pass_is_a_build_of_its_own(config, tmp_path):
    folder, other = tmp_path / "lookup", tmp_path / "other"
    build.build_from_config(config, also=other, also_template="the {}.", progress=False)
    assert lookup.open(folder).manifest["students"]
    alone = config | {
        "data": config["data"] | {"template": "the {}."},
        "lookup": config["lookup"] | {"dir": str(tmp_path / "alone")},
    }
    build.build_from_config(alone, features=False, progress=False)
    assert stub.contents(other) == stub.contents(tmp_path / "alone")
    logp = [lookup.open(one).arrays()["logp"].astype(np.float32) for one in (folder, other)]
    assert np.max(np.abs(logp[0] - logp[1])) > 0.1


def test_all_classes_beside_the_base_classes_label_the_same_pictures(config, root, pair, tmp_path):
    config["data"] |= {"split": "base", "source": "images"}
    folder = build.build_from_config(
        config, also=tmp_path / "all", also_split="all", progress=False
    )
    base, every = lookup.open(folder), lookup.open(tmp_path / "all")
    full = datasets.read("world_objects", root)
    assert (base.classes, every.classes) == (full.classes[:2], full.classes)
    names = {item.path: item.name for item in full.train}
    for opened in (base, every):
        assert [image.path for image in opened.images] == [image.path for image in base.images]
        assert all(opened.classes[i.label] == names[i.path] for i in opened.images)
    assert not verify.verify_from_config(every.folder, config).problems
    # Base classes beside all of them: a run on the base classes reads its own rows.
    config["data"] |= {"split": "all"}
    config["lookup"] |= {"dir": str(tmp_path / "whole")}
    build.build_from_config(config, also=tmp_path / "base", also_split="base", progress=False)
    run = datasets.half(datasets.few_shot(full, 2, 1), "base")
    opened = lookup.open(
        tmp_path / "base",
        lookup.Expected(
            items=run.train,
            root=run.root,
            classes=run.classes,
            template="a {}.",
            teacher_digest=every.manifest["teacher"]["digest"],
            regions_per_visit=2,
        ),
    )
    assert -1 in {image.label for image in opened.images}
    row = opened.rows_of(run.train)[0]
    first = [i.path for i in base.images].index(run.train[0].path)
    np.testing.assert_allclose(opened.record(row)["logp"], base.record(first)["logp"], atol=2e-2)


def test_a_second_lookup_needs_a_folder_and_a_label_space_of_its_own(config, tmp_path):
    for changes, message in (
        ({"also_split": "base"}, "name its folder"),
        ({"also": tmp_path / "o"}, "same 4 classes in the same 'a {}.' would be labelled twice"),
        ({"also": tmp_path / "o", "also_split": "all", "also_template": "a {}."}, "twice"),
        ({"also": tmp_path / "o", "also_template": "a photo"}, "must hold {} exactly once"),
        ({"also": tmp_path / "lookup", "also_split": "new"}, "a folder of its own"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            build.build_from_config(config, progress=False, **changes)
    assert not (tmp_path / "o").exists()


def test_build_from_config_covers_every_seed_and_verifies(config, root, pair):
    folder = build.build_from_config(config, progress=False)
    full = datasets.read("world_objects", root)
    wanted = {i.path for seed in (1, 2) for i in datasets.few_shot(full, 2, seed).train}
    student = clip.load(pair["student"])
    for seed in (1, 2):
        run = datasets.few_shot(full, 2, seed)
        opened = lookup.open(
            folder,
            lookup.Expected(
                items=run.train,
                root=run.root,
                classes=run.classes,
                template="a {}.",
                teacher=config["teacher"],
                regions_per_visit=2,
                scale=(0.08, 0.936),
                student_digest=clip.weights_digest(student.params),
                source="features",
            ),
        )
    assert {image.path for image in opened.images} == wanted
    manifest = opened.manifest
    assert manifest["dataset"]["seeds"] == [1, 2]
    assert manifest["dataset"]["few_shot_digests"]["2"] == datasets.list_digest(run.train)
    assert opened.dense
    # One record from first principles.
    model = clip.load(config["teacher"])
    image = images.decode(full.root / opened.images[3].path)
    drawn = regions.draw(f"boxes:0:{opened.images[3].sha256}", 40, 40, 4)
    pixels = regions.crop(image, drawn.box, 32)
    teacher = towers.teacher(model, "t", full.classes, "a {}.")
    truth = label.truncate(teacher.logits(pixels, drawn.flip), None)
    np.testing.assert_allclose(opened.record(3)["logp"], truth["logp"], atol=2e-2)
    report = verify.verify_from_config(folder, config)
    assert not report.problems
    assert report.measured["cosine"] < 1e-3
    # Another teacher: refused by the build, told by verify, refused by a run that pins the digest.
    other = config | {"teacher": config["student"]}
    with pytest.raises(plan.PlanMismatch, match=r"teacher\.digest"):
        build.build_from_config(other, progress=False)
    assert "was built with teacher" in verify.verify_from_config(folder, other).problems[0]


def test_base_classes_are_the_label_space_and_images_need_no_features(config):
    config["data"] |= {"split": "base", "source": "images"}
    opened = lookup.open(build.build_from_config(config, progress=False))
    assert opened.classes == CLASSES[:2]
    assert {image.label for image in opened.images} == {0, 1}
    assert opened.manifest["students"] == {}


def test_missing_data_and_models_stop_before_anything_is_written(config, tmp_path):
    for change, error in (
        ({"teacher": str(tmp_path / "none")}, "none"),
        (
            {"data": config["data"] | {"root": str(tmp_path / "none")}},
            "world_objects does not exist",
        ),
        ({"lookup": {"dir": ""}}, r"lookup\.dir is empty"),
    ):
        with pytest.raises((ValueError, OSError), match=error):
            build.build_from_config(config | change, progress=False)
    assert not (tmp_path / "lookup").exists()
