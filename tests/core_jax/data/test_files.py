"""Atomic writing: what stands on disk after success, failure, a full disk and a kill; digests."""

import errno
import hashlib
import os
import subprocess
import sys

import pytest

from core_jax.data import files


def test_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.atomic_write(path, "first, and longer")
    files.atomic_write(path, "zweite é")
    assert path.read_bytes() == "zweite é".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    files.atomic_write(path, b"old")

    def fail():
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(b"new")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("write() failed: No space left on device; writing x"),
    ],
)
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, error):
    path = tmp_path / "a"
    files.atomic_write(path, b"old")

    def full(_):
        raise error

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.DiskFullError, match=r"no space left.*a .*run the same command again"):
        files.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_other_errors_keep_their_type(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), files.atomic_path(tmp_path / "a"):
        raise RuntimeError("boom")


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path):
    script = (
        "import os, signal, sys\nfrom core_jax.data import files\n"
        "with files.atomic_path(sys.argv[1]) as t:\n"
        "    t.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.tmp-")
    (tmp_path / ".b.tmp-foreign").write_bytes(b"")
    with files.atomic_path(tmp_path / "c") as own:
        own.write_bytes(b"whole")
        files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.tmp-foreign", "c"]


def test_digests_are_sha256_of_known_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert (
        files.digest({"b": (1, 2.5), "a": "ü"})
        == hashlib.sha256('{"a":"ü","b":[1,2.5]}'.encode()).hexdigest()
    )
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.digest(float("nan"))
