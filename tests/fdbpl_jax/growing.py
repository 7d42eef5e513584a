"""What the tests of a growing lookup share: a lookup to grow, towers that count, the visit stream."""

import dataclasses
import pathlib

import numpy as np

from core_jax.data import records
from fdbpl_jax import data, grown, lookup, target
from tests.fdbpl_jax import stub


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
        "lookup": growing.lookup if growing else opened,
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
    for path in sorted((folder / grown.FOLDER).glob(f"{kind}-*.arrayrecord")):
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
