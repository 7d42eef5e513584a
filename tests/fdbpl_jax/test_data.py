"""The visit stream against its definition, and batches: content, independence of processes and workers, restarts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core_jax.data import images, rng
from fdbpl_jax import build, data, label, lookup, regions
from tests.fdbpl_jax import stub
from tests.fdbpl_jax.test_lookup_build import expected

KEYS = {"row", "region", "label", "mask"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return stub.write_pictures(tmp_path_factory.mktemp("pictures"), 10)


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup") / "l"
    return build.build(
        folder, dataset, stub.teacher(), stub.settings(), student=stub.student(), shards=(0, 1)
    )


@pytest.fixture(scope="module")
def opened(dataset, folder):
    return lookup.open(folder, expected(dataset, source="features"))


def stream(dataset, opened, **changes):
    values = {
        "source": "resident",
        "batch_size": 8,
        "regions_per_visit": 2,
        "seed": 1,
        "image_size": stub.SIZE,
        "lookup": opened,
        "process_index": 0,
        "process_count": 1,
    } | changes
    items = values.pop("items", dataset.train)
    return data.train_data(items, dataset.root, **values)


def take(source, count):
    iterator = iter(source)
    return [next(iterator) for _ in range(count)]


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_the_stream_is_its_definition(dataset, opened):
    n, r, k, seed = 10, 8, 2, 7
    batches = take(stream(dataset, opened, seed=seed, batch_size=4), 60)
    rows = np.concatenate([batch["row"] for batch in batches])
    found = np.concatenate([batch["region"] for batch in batches])
    for v in range(120):
        e, place = divmod(v, n)
        words = rng.philox_words(f"images:{seed}:{e}", n).tolist()
        i = sorted(range(n), key=words.__getitem__)[place]
        c, j = divmod(e, r // k)
        words = rng.philox_words(f"regions:{seed}:{opened.images[i].sha256}:{c}", r).tolist()
        chosen = sorted(range(r), key=words.__getitem__)[j * k : (j + 1) * k]
        assert rows[k * v : k * v + k].tolist() == [i] * k
        assert found[k * v : k * v + k].tolist() == chosen


def test_no_region_repeats_within_a_cycle_and_all_are_seen(dataset, opened):
    # n R regions in batches of 8: a whole cycle of R/K passes.
    batches = take(stream(dataset, opened), 10)
    seen = [
        pair for batch in batches for pair in zip(batch["row"].tolist(), batch["region"].tolist())
    ]
    assert len(seen) == len(set(seen)) == 10 * 8


def test_a_pass_visits_every_image_once_across_batches(dataset, opened):
    rows = np.concatenate([b["row"] for b in take(stream(dataset, opened), 5)])[::2]
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))
    assert rows[:10].tolist() != rows[10:20].tolist()


def test_a_subset_reads_its_own_rows_and_labels(dataset, opened):
    items = [dataclasses.replace(dataset.train[i], label=i // 3) for i in (8, 3, 5)]
    (batch,) = take(stream(dataset, opened, items=items, batch_size=6), 1)
    assert dict(zip(batch["row"].tolist(), batch["label"].tolist())) == {8: 2, 3: 1, 5: 1}


def test_streamed_batches_hold_the_records_and_the_pixels(dataset, opened):
    (batch,) = take(stream(dataset, opened, source="images"), 1)
    assert batch.keys() == KEYS | {"image", "flip", "index", "logp", "rest", "entropy"}
    types = {key: str(value.dtype) for key, value in batch.items()}
    assert types == dict.fromkeys(("row", "region", "label", "index"), "int32") | dict.fromkeys(
        ("logp", "rest", "entropy"), "float16"
    ) | {"image": "uint8", "flip": "bool", "mask": "float32"}
    assert batch["mask"].tolist() == [1] * 8
    for b in range(8):
        row, region = int(batch["row"][b]), int(batch["region"][b])
        record, item = opened.record(row), dataset.train[row]
        assert batch["label"][b] == item.label
        for key in ("flip", "index", "logp", "rest", "entropy"):
            np.testing.assert_array_equal(batch[key][b], record[key][region])
        top, left, h, w = record["box"][region].tolist()
        crop = images.crop_resize(
            images.decode(dataset.root / item.path), (top, left, h, w), stub.SIZE
        )
        np.testing.assert_array_equal(batch["image"][b], crop)


def test_pixels_at_build_and_in_training_are_byte_equal(dataset, opened, monkeypatch):
    seen = {}
    labeller = label.Labeller(
        root=dataset.root,
        images=opened.images,
        regions=8,
        seed=0,
        rule=regions.CropRule(),
        batch_size=80,
    )
    teacher = stub.teacher()

    def features(pixels, flip):
        seen["pixels"] = pixels.reshape(10, 8, *pixels.shape[1:])
        return teacher.features(pixels, flip)

    labeller(range(10), [label.labels(dataclasses.replace(teacher, features=features), 3)])
    for batch in take(stream(dataset, opened, source="images"), 10):
        np.testing.assert_array_equal(batch["image"], seen["pixels"][batch["row"], batch["region"]])


def test_features_images_and_resident_see_the_same_regions(dataset, opened):
    by_source = {
        source: take(stream(dataset, opened, source=source), 6)
        for source in ("resident", "features", "images")
    }
    arrays = jax.tree.map(jnp.asarray, opened.arrays())
    for resident, features, pixels in zip(*by_source.values()):
        assert "image" not in features
        shared = {k: v for k, v in pixels.items() if k != "image"}
        assert_same([{k: v for k, v in features.items() if k != "feature"}], [shared])
        gathered = jax.jit(data.gather)(arrays, resident["row"], resident["region"])
        assert_same([resident | {k: np.asarray(v) for k, v in gathered.items()}], [features])
        features = np.asarray(stub.student().features(pixels["image"], pixels["flip"]))
        np.testing.assert_allclose(gathered["feature"], features, atol=1e-3)


def test_fresh_regions_are_drawn_from_seed_and_visit(dataset):
    batches = take(stream(dataset, None, source="fresh", teacher_size=20), 5)
    assert batches[0].keys() == KEYS | {"image", "teacher_image", "flip"}
    for step, batch in enumerate(batches):
        for place in range(4):
            visit = 4 * step + place
            order = rng.permutation(f"images:1:{visit // 10}", 10)
            item = dataset.train[order[visit % 10]]
            image = images.decode(dataset.root / item.path)
            drawn = regions.draw(f"fresh:1:{visit}", *image.shape[:2], 2, regions.FRESH_RULE)
            part = slice(2 * place, 2 * place + 2)
            for key, size in (("image", stub.SIZE), ("teacher_image", 20)):
                np.testing.assert_array_equal(
                    batch[key][part], regions.crop(image, drawn.box, size)
                )
            np.testing.assert_array_equal(batch["flip"][part], drawn.flip)
            assert batch["label"][part].tolist() == [item.label] * 2
            assert batch["row"][part].tolist() == batch["region"][part].tolist() == [-1, -1]


def test_an_online_teacher_of_the_same_size_shares_the_pixels(dataset, opened):
    (batch,) = take(stream(dataset, opened, source="images", teacher_size=stub.SIZE), 1)
    assert "teacher_image" not in batch


@pytest.mark.parametrize("source", ["resident", "features", "images", "fresh"])
def test_two_processes_share_every_step(dataset, opened, source):
    whole = take(stream(dataset, opened, source=source), 6)
    halves = [
        take(stream(dataset, opened, source=source, process_index=p, process_count=2), 6)
        for p in (0, 1)
    ]
    joined = [
        {key: np.concatenate([one[key], two[key]]) for key in one} for one, two in zip(*halves)
    ]
    assert_same(whole, joined)


@pytest.mark.multiprocess
def test_workers_change_nothing(dataset, opened):
    found = take(stream(dataset, opened, source="images", workers=2), 5)
    assert_same(take(stream(dataset, opened, source="images"), 5), found)


@pytest.mark.parametrize("source", ["resident", "images", "fresh"])
def test_a_restored_iterator_goes_on_where_it_was(dataset, opened, source):
    whole = take(stream(dataset, opened, source=source), 9)
    iterator = iter(stream(dataset, opened, source=source))
    for _ in range(4):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    again = iter(stream(dataset, opened, source=source))
    again.set_state(state)
    assert_same(whole[4:], [next(again) for _ in range(5)])


def test_a_picture_of_another_size_stops_the_run(opened, tmp_path):
    dataset = stub.write_pictures(tmp_path / "p", 10)
    for path in (tmp_path / "p").iterdir():
        Image.open(path).resize((70, 70)).save(path)
    with pytest.raises(images.ImageError, match=r"png is now 70 x 70 pixels, and was \d+ x \d+"):
        take(stream(dataset, opened, source="images"), 1)


def test_what_does_not_fit_is_told_together(dataset, opened, folder):
    with pytest.raises(
        ValueError, match=r"source='x'.*batch_size=9.*no multiple of regions_per_visit=3"
    ):
        stream(dataset, opened, source="x", batch_size=9, regions_per_visit=3, process_count=2)
    with pytest.raises(ValueError, match="list of training pictures is empty"):
        stream(dataset, opened, items=())
    with pytest.raises(ValueError, match="reads a lookup, and none was given"):
        stream(dataset, None, source="images")
    plain = lookup.open(folder)
    with pytest.raises(ValueError, match="opened without stored features"):
        stream(dataset, plain, source="features")


@pytest.mark.parametrize(("n", "steps"), [(5, 50), (32, 50), (80, 100), (800, 1250)])
def test_step_totals(n, steps):
    assert data.total_steps(n, 32, 50) == steps
