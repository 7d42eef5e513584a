"""Shards and sidecars: bytes, random access, damage, pickling, a full disk."""

import errno
import hashlib
import json
import os
import pickle

import pytest

from core_jax.data import files, records


def payloads(count, size=100):
    return [hashlib.sha256(str(i).encode()).digest() * (size // 32) for i in range(count)]


@pytest.fixture
def shards(tmp_path):
    data = payloads(10)
    return [
        records.write_shard(
            tmp_path / records.shard_name("labels", i, 2), data[first:last], first_row=first
        )
        for i, (first, last) in enumerate(((0, 6), (6, 10)))
    ]


def test_sidecar_says_what_is_there(tmp_path, shards):
    path = tmp_path / "labels-00001-of-00002.arrayrecord"
    side = json.loads((tmp_path / "labels-00001-of-00002.json").read_text())
    assert side == {
        "name": path.name,
        "first_row": 6,
        "count": 4,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert records.read_sidecar(path) == shards[1]
    assert not records.problems(tmp_path, shards[1], digest=True)
    assert records.read_sidecar(tmp_path / "none.arrayrecord") is None
    (tmp_path / "labels-00001-of-00002.json").write_text("{}")
    assert records.read_sidecar(path) is None


def test_same_records_same_bytes(tmp_path):
    one, two = (
        records.write_shard(tmp_path / name / "x.arrayrecord", payloads(50, 640), first_row=0)
        for name in "ab"
    )
    assert one == two


def test_random_access_across_shards_and_processes(tmp_path, shards):
    reader = records.Reader(tmp_path, shards)
    assert len(reader) == 10
    assert [reader[i] for i in (9, 0, 5, 6)] == [payloads(10)[i] for i in (9, 0, 5, 6)]
    assert reader.read_all() == payloads(10)
    assert pickle.loads(pickle.dumps(reader))[7] == payloads(10)[7]
    assert reader.shard_of(6) == shards[1].name


def test_truncation_loss_and_flipped_bytes_are_told(tmp_path, shards):
    path = tmp_path / shards[0].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "truncated" in records.problems(tmp_path, shards[0], digest=False)[0]
    damaged = bytearray(whole)
    damaged[200] ^= 1
    path.write_bytes(damaged)
    assert not records.problems(tmp_path, shards[0], digest=False)
    assert "corrupted" in records.problems(tmp_path, shards[0], digest=True)[0]
    with pytest.raises(records.RecordError, match=r"labels-00000-of-00002.*corrupted.*again"):
        records.Reader(tmp_path, shards).read_all()
    with pytest.raises(records.RecordError, match="labels-00000-of-00002"):
        [records.Reader(tmp_path, shards)[i] for i in range(6)]
    path.unlink()
    assert "missing" in records.problems(tmp_path, shards[0], digest=True)[0]


def test_a_full_disk_leaves_neither_shard_nor_sidecar(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.DiskFullError):
        records.write_shard(tmp_path / "x.arrayrecord", payloads(3), first_row=0)
    assert list(tmp_path.iterdir()) == []
