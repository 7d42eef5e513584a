"""Start-up: which processes join, and where compiled programs go."""

import pathlib

import pytest

from launch import start


def test_a_lone_process_joins_nobody():
    assert start.distributed_arguments(None, None, None) is None


def test_the_cluster_can_tell():
    assert start.distributed_arguments("auto", None, None) == {}


def test_three_flags_make_a_process():
    assert start.distributed_arguments("host:1234", 4, 3) == {
        "coordinator_address": "host:1234",
        "num_processes": 4,
        "process_id": 3,
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host:1", None, 0), "--num_processes missing"),
        ((None, 2, None), "--coordinator, --process_id missing"),
        (("host:1", 2, 2), "--process_id=2 with --num_processes=2: expected 0 to 1"),
    ],
)
def test_incomplete_flags_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        start.distributed_arguments(*flags)


def test_the_cache_lies_in_the_users_own_folder():
    folder = start.cache_folder("auto", {"XDG_CACHE_HOME": "/caches"})
    assert folder == pathlib.Path("/caches/clip-methods-jax/compiled")
    assert start.cache_folder("auto", {}).is_relative_to(pathlib.Path.home())


def test_the_cache_can_be_elsewhere_or_off():
    assert start.cache_folder("/fast/disk", {}) == pathlib.Path("/fast/disk")
    assert start.cache_folder("off", {}) is None
    # JAX reads its own variable; --compile_cache=DIR still wins over it.
    assert start.cache_folder("auto", {"JAX_COMPILATION_CACHE_DIR": "/theirs"}) is None
    assert start.cache_folder("/ours", {"JAX_COMPILATION_CACHE_DIR": "/theirs"}) == pathlib.Path(
        "/ours"
    )
