"""Training batches: content against the definition, slots, independence of processes and workers, restarts, bad files."""

import dataclasses
import json
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import world
from core_jax.data import images, rng, stream
from core_jax.train.feed import Feed
from core_jax.world.scene_sets import SCENE_SPLITS
from gba_jax import data, datasets, geometry
from tests.gba_jax import trees

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 24
TYPES = dict.fromkeys(("label", "segment", "classes", "dropped"), "int32") | {"image": "uint8"}
RULES = tuple(geometry.RULES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    splits = (dataclasses.replace(SCENE_SPLITS[0], count=7),)
    world.write_scenes(root, size=32, splits=splits, progress=False)
    return root


@pytest.fixture(scope="module")
def scenes(root):
    return datasets.read("world_scenes", root, "train")


def batches(dataset, **changes):
    values = {"batch_size": 4, "size": SIZE, "seed": 1, "augment": "crop", "slots": 6}
    return data.train_data(dataset, **values | {"process_index": 0, "process_count": 1} | changes)


def take(source, count):
    iterator = iter(source)
    return [next(iterator) for _ in range(count)]


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype.kind == b[key].dtype.kind
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("augment", RULES)
def test_batches_are_their_definition(scenes, augment):
    for step, batch in enumerate(take(batches(scenes, augment=augment), 5)):
        assert {k: str(v.dtype) for k, v in batch.items() if k != "image_id"} == TYPES
        assert batch["image"].shape == (4, SIZE, SIZE, 3)
        assert batch["label"].shape == batch["segment"].shape == (4, SIZE, SIZE)
        assert batch["classes"].shape == (4, 6)
        for b in range(4):
            g = 4 * step + b
            order = rng.permutation(f"images:1:{g // 7}", 7)
            sample = scenes[int(order[g % 7])]
            assert batch["image_id"][b] == sample.image_id
            draws = rng.uniform(rng.philox_words(f"window:1:{g}", 4))
            placement = geometry.RULES[augment]((32, 32), SIZE, draws)
            seen = geometry.place(
                geometry.Picture(sample.image, sample.labels, sample.segments.map), placement, SIZE
            )
            np.testing.assert_array_equal(batch["image"][b], seen.image)
            np.testing.assert_array_equal(batch["label"][b], seen.labels)
            check_slots(batch, b, seen.segments, sample.segments.classes, 6)


def check_slots(batch, b, rows, classes, slots):
    """Every slot is one segment in the window, larger ones first; what is left over is smaller, and counted."""
    segment, table = batch["segment"][b], batch["classes"][b]
    areas = {r: int((rows == r).sum()) for r in range(len(classes)) if (rows == r).any()}
    kept = min(slots, len(areas))
    assert (table[kept:] == -1).all()
    assert batch["dropped"][b] == len(areas) - kept
    found = []
    for slot in range(kept):
        (row,) = set(rows[segment == slot].tolist())
        assert table[slot] == classes[row]
        assert (segment == slot).sum() == areas[row]
        found.append(row)
    assert len(set(found)) == kept
    assert [areas[r] for r in found] == sorted(areas.values(), reverse=True)[:kept]
    assert (segment[~np.isin(rows, found)] == -1).all()


@pytest.mark.parametrize("augment", RULES)
def test_the_same_seed_gives_the_same_batches(scenes, augment):
    first = take(batches(scenes, augment=augment), 4)
    assert_same(first, take(batches(scenes, augment=augment, threads=1), 4))
    other = take(batches(scenes, augment=augment, seed=2), 4)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other))


def test_a_picture_is_seen_anew_in_every_pass(scenes):
    seen = take(batches(scenes, batch_size=1), 21)
    assert {str(b["image_id"][0]) for b in seen[:7]} == {item.image_id for item in scenes.items}
    views = [b["image"].tobytes() for b in seen if b["image_id"][0] == seen[0]["image_id"][0]]
    assert len(views) == len(set(views)) == 3


def test_two_processes_share_every_step(scenes):
    whole = take(batches(scenes, batch_size=6), 6)
    halves = [
        take(batches(scenes, batch_size=6, process_index=p, process_count=2), 6) for p in (0, 1)
    ]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves)]
    assert_same(whole, joined)
    # The first step lies within a pass, which reads no picture twice.
    first, second = (set(half[0]["image_id"]) for half in halves)
    assert len(first) == len(second) == 3
    assert not first & second


def test_a_restored_iterator_goes_on_where_it_was(scenes):
    whole = take(batches(scenes), 9)
    iterator = iter(batches(scenes))
    for _ in range(4):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    again = iter(batches(scenes))
    again.set_state(state)
    assert_same(whole[4:], [next(again) for _ in range(5)])


WORKERS = """
import pathlib, pickle, sys
from absl import flags
from gba_jax import data, datasets
def main():
    flags.FLAGS.mark_as_parsed()
    dataset = datasets.read("world_scenes", sys.argv[1], "train")
    make = lambda: iter(data.train_data(dataset, batch_size=4, size=24, seed=1, augment="crop", slots=6, workers=2,
        process_index=0, process_count=1))
    first, again = make(), make()
    found = [next(first) for _ in range(3)]
    again.set_state(first.get_state())
    pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(found + [next(again) for _ in range(2)]))
if __name__ == "__main__":
    main()
"""


@pytest.mark.multiprocess
def test_workers_change_nothing_and_restore(scenes, root, tmp_path):
    # A program of its own: workers are spawned, and import the main module again.
    (tmp_path / "script.py").write_text(WORKERS)
    subprocess.run(
        [sys.executable, tmp_path / "script.py", root, tmp_path / "out"],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert_same(take(batches(scenes), 5), pickle.loads((tmp_path / "out").read_bytes()))


def test_the_source_is_called_the_same_on_every_machine(scenes, root):
    name = source_name(scenes)
    assert str(root) not in name
    assert "0x" not in name
    assert name == source_name(datasets.read("world_scenes", root, "train"))
    shorter = dataclasses.replace(scenes, items=scenes.items[:-1])
    assert name != source_name(shorter)
    assert data.digest(scenes) != data.digest(shorter)


def source_name(dataset):
    share = stream.Share(per_step=4, process=0, processes=1)
    return repr(
        data._Windows(dataset=dataset, share=share, seed=1, size=8, augment="crop", slots=2)
    )


def test_the_loop_can_feed_on_it(scenes):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    feed = Feed(batches(scenes), mesh, host_keys=("image_id",))
    (expected,) = take(batches(scenes), 1)
    try:
        batch, host = next(feed)
    finally:
        feed.close()
    assert batch.keys() == expected.keys() - {"image_id"}
    np.testing.assert_array_equal(host["image_id"], expected["image_id"])
    np.testing.assert_array_equal(batch["segment"], expected["segment"])


def own(root, masks, names=("background", "cat", "dog"), picture=None):
    """A folder of the user's with one picture a mask."""
    trees.text(root / "classes.txt", "\n".join(names))
    for name, mask in masks.items():
        trees.grey(root / f"masks/{name}.png", mask)
        if picture is None:
            trees.picture(root / f"images/{name}.png", np.shape(mask))
        else:
            trees.save(root / f"images/{name}.png", picture)
    return datasets.read("folder", root, "all")


def test_without_segments_every_class_in_the_window_has_a_slot(tmp_path):
    mask = np.zeros((8, 8), int)
    mask[:2], mask[2], mask[3, :3] = 2, 255, 1
    (batch,) = take(batches(own(tmp_path, {"a": mask}), batch_size=1, size=8, augment="resize"), 1)
    assert batch["classes"].tolist() == [[0, 2, 1, -1, -1, -1]]
    slot = np.asarray([0, 2, 1, -1])[np.where(mask == 255, 3, mask)]
    np.testing.assert_array_equal(batch["segment"][0], slot)
    assert batch["dropped"].tolist() == [0]


def test_more_segments_than_slots_keep_the_largest(tmp_path):
    mask = np.zeros((8, 8), int)
    mask[:2], mask[2], mask[3, :3] = 2, 255, 1
    source = batches(own(tmp_path, {"a": mask}), batch_size=1, size=8, augment="resize", slots=1)
    (batch,) = take(source, 1)
    assert batch["classes"].tolist() == [[0]]
    np.testing.assert_array_equal(batch["segment"][0], np.where(mask == 0, 0, -1))
    assert batch["dropped"].tolist() == [2]


def test_crowds_have_no_slot_however_large(tmp_path):
    trees.coco_panoptic(tmp_path)
    dataset = datasets.read("coco_panoptic", tmp_path)
    found = {}
    for batch in take(batches(dataset, batch_size=1, size=8, augment="resize"), 4):
        found[str(batch["image_id"][0])] = batch
    batch = found["000000000007"]
    # In the file: 0 7 7 crowd / 0 300 300 300; 300 is a rug (class 2), 7 a bottle (class 1).
    assert batch["classes"].tolist() == [[2, 1, -1, -1, -1, -1]]
    expected = np.asarray([[-1, 1, 1, -1], [-1, 0, 0, 0]]).repeat(4, 0).repeat(2, 1)
    np.testing.assert_array_equal(batch["segment"][0], expected)
    np.testing.assert_array_equal(batch["label"][0], np.asarray([2, 1, -1])[expected])
    assert batch["dropped"].tolist() == [0]


@pytest.mark.parametrize("augment", RULES)
@pytest.mark.parametrize("shape", [(3, 5), (7, 2000), (2000, 7), (1, 1)])
def test_pictures_of_any_shape(tmp_path, augment, shape):
    mask = np.ones(shape, int)
    mask[:, : shape[1] // 2] = 2
    source = batches(own(tmp_path, {"a": mask}), augment=augment)
    for batch in take(source, 3):
        inside = batch["label"] >= 0
        assert inside.any(axis=(1, 2)).all()
        assert (batch["image"][~inside] == 128).all()
        assert (batch["segment"][~inside] == -1).all()
        assert (batch["segment"][inside] >= 0).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16"])
def test_pictures_of_any_kind_become_rgb(tmp_path, mode):
    dataset = own(tmp_path, {"a": np.ones((6, 6), int)})
    path = dataset.items[0].image
    grey = Image.fromarray(np.full((6, 6), 130, np.uint8))
    if mode == "I;16":
        grey = Image.fromarray(np.full((6, 6), 130 * 257, np.uint16))
    kind = {"format": "TIFF"} if mode == "CMYK" else {}
    (grey if mode == "I;16" else grey.convert(mode)).save(path, **kind)
    (batch,) = take(batches(dataset, batch_size=1, augment="resize"), 1)
    assert (batch["image"] == 130).all()


def test_labels_that_eight_bits_cannot_hold_are_one_error(tmp_path):
    dataset = own(tmp_path, {"a": [[0, 44]]}, names=[f"class {k}" for k in range(301)])
    with pytest.raises(datasets.DatasetError, match=r"a.png has 8-bit labels.*301 classes.*16-bit"):
        take(batches(dataset), 1)


def test_a_label_that_is_none_is_one_error(tmp_path):
    dataset = own(tmp_path, {"a": [[0, 9]]})
    with pytest.raises(datasets.DatasetError, match=r"a.png holds the values 9 in 1 pixels"):
        take(batches(dataset), 1)


def test_a_broken_picture_is_one_error_that_names_it(tmp_path):
    dataset = own(tmp_path, {"a": [[0, 1]], "b": [[0, 1]]})
    path = tmp_path / "images/b.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(images.ImageError, match=r"images/b\.png is not a readable picture"):
        take(batches(dataset), 2)


def test_what_does_not_fit_is_told_together(scenes):
    empty = dataclasses.replace(scenes, items=())
    with pytest.raises(
        ValueError,
        match=r"split 'train', holds no pictures; batch_size=5 .* 2 process.*size=0 .*slots=0 .*'zoom' is none of",
    ):
        batches(empty, batch_size=5, process_count=2, size=0, slots=0, augment="zoom")
