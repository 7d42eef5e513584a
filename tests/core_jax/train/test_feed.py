"""Batches ahead of time: their order, the position a checkpoint keeps, errors of bad batches."""

import itertools
import json
import threading

import grain
import numpy as np
import pytest

from core_jax.train import DataEndedError, sharding
from core_jax.train.feed import SNAPSHOT_EVERY, Feed
from tests.core_jax.train import toy


def open_feed(dataset, **keywords):
    return Feed(dataset, sharding.make_mesh(), **keywords)


@pytest.mark.parametrize("used", [0, 1, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 3])
def test_a_saved_position_goes_on_with_the_next_batch(used):
    expected = iter(toy.train_data(0))
    rows = [next(expected)["row"] for _ in range(used + 20)]
    feed = open_feed(toy.train_data(0))
    for row in rows[:used]:
        np.testing.assert_array_equal(next(feed)[0]["row"], row)
    saved = json.loads(json.dumps(feed.state()))
    feed.close()
    # The restored feed is saved again further on: positions must survive more than one restart.
    for cut in (rows[used : used + 18], rows[used + 18 :]):
        feed = open_feed(toy.train_data(0), saved=saved)
        for row in cut:
            np.testing.assert_array_equal(next(feed)[0]["row"], row)
        saved = feed.state()
        feed.close()


def zipped(seed):
    """Two streams side by side: grain cannot go to an element of these by its number."""
    both = grain.experimental.ZipIterDataset([toy.train_data(seed), toy.train_data(seed + 1)])
    return both.map(lambda pair: {"row": pair[0]["row"], "other": pair[1]["row"]})


@pytest.mark.parametrize("data", [toy.train_data, zipped])
def test_the_first_batches_may_be_left_out(data):
    left_out = SNAPSHOT_EVERY + 3
    rows = [b["row"] for b in itertools.islice(data(0), left_out + SNAPSHOT_EVERY + 2)]
    feed = open_feed(data(0), first=left_out)
    for row in rows[left_out:-1]:
        np.testing.assert_array_equal(next(feed)[0]["row"], row)
    saved = feed.state()
    feed.close()
    feed = open_feed(data(0), saved=saved)
    np.testing.assert_array_equal(next(feed)[0]["row"], rows[-1])
    feed.close()


def test_nothing_is_read_for_batches_that_are_left_out():
    read = []

    class Watched(toy.Source):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    feed = open_feed(toy.train_data(0, Watched()), first=100_000)
    next(feed)
    feed.close()
    # Grain and the feed read ahead.
    assert len(read) < 100 * toy.BATCH


def test_closing_does_not_wait_for_batches_that_are_left_out():
    feed = open_feed(zipped(0), first=10**9)
    feed.close()
    assert "feed" not in [thread.name for thread in threading.enumerate()]


def test_strings_stay_on_the_host_and_name_the_samples():
    feed = open_feed(toy.train_data(0), host_keys=("name", "row"))
    batch, ids = next(feed)
    feed.close()
    assert sorted(batch) == ["row", "x", "y"]
    assert ids["name"].tolist() == [f"r{row}" for row in np.asarray(batch["row"])]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_and_their_position(workers):
    plain = grain.MapDataset.range(64).seed(0).shuffle().repeat()
    plain = plain.map(lambda row: {"row": np.int64(row)}).to_iter_dataset()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)

    def data():
        return plain.mp_prefetch(options).batch(toy.BATCH)

    rows = [batch["row"] for batch in itertools.islice(plain.batch(toy.BATCH), SNAPSHOT_EVERY + 4)]
    feed = open_feed(data())
    for row in rows[: SNAPSHOT_EVERY + 1]:
        np.testing.assert_array_equal(next(feed)[0]["row"], row)
    saved = feed.state()
    feed.close()
    for going_on in ({"saved": saved}, {"first": SNAPSHOT_EVERY + 1}):
        feed = open_feed(data(), **going_on)
        for row in rows[SNAPSHOT_EVERY + 1 :]:
            np.testing.assert_array_equal(next(feed)[0]["row"], row)
        feed.close()


def test_all_problems_of_a_batch_are_named():
    bad = {"a": np.zeros(4), "b": np.zeros(5), "c": np.float32(1)}
    feed = open_feed(grain.MapDataset.source([bad]).to_iter_dataset(), host_keys=("id",))
    with pytest.raises(ValueError, match=r"batch_ids names \['id'\]") as caught:
        next(feed)
    feed.close()
    assert "['c'] have no batch axis" in str(caught.value)
    assert "{'a': 4, 'b': 5}" in str(caught.value)


def test_errors_of_the_source_reach_the_loop_and_the_end_is_one():
    class Unreadable(toy.Source):
        def __getitem__(self, index):
            raise OSError("picture.png is no picture")

    feed = open_feed(grain.MapDataset.source(Unreadable()).to_iter_dataset().batch(4))
    with pytest.raises(OSError, match=r"picture\.png"):
        next(feed)
    feed.close()
    feed = open_feed(grain.MapDataset.source(toy.Source()).to_iter_dataset().batch(toy.ROWS))
    next(feed)
    with pytest.raises(DataEndedError, match="must be endless"):
        next(feed)
    feed.close()
