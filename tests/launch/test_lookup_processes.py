"""`launch.lookup build` by two real processes over loopback, one of them killed in the middle."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fdbpl_jax import layout
from launch import config as config_lib
from tests.fdbpl_jax import stub
from tests.launch import processes

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

# Process 1 kills itself when it is about to write its third shard, once.
_DIES = """
import os
import pathlib
import signal

from core_jax.data import records

_write, _marker, _calls = records.write_shard, pathlib.Path({marker!r}), []


def _dying(*args, **words):
    import jax

    _calls.append(args)
    if jax.process_index() == 1 and len(_calls) == 3 and not _marker.exists():
        _marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _write(*args, **words)


records.write_shard = _dying
"""


@pytest.fixture(scope="module")
def config(base, tmp_path_factory):
    """More pictures than a part of the scan has, in eighteen shards, dense labels and features."""
    root = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    for name, count in (("red plain circle", 600), ("blue striped ring", 500)):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (6, 7, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    changes = {
        "data.dataset": "folder",
        "data.root": str(root),
        "data.shots": 0,
        "data.split": "all",
        "lookup.regions": 2,
        "lookup.shard_size": 64,
        "lookup.batch_size": 64,
    }
    return config_lib.override(base, changes)


def write_config(path, config, folder, before=""):
    processes.write_config(path, config_lib.override(config, {"lookup.dir": str(folder)}))
    path.write_text(before + path.read_text())
    return path


def digests(printed):
    return re.findall(r"complete, 1100 pictures .*; digest ([0-9a-f]{16})", printed)


def test_one_of_two_is_killed_and_nothing_is_lost_or_done_twice(config, tmp_path):
    alone = subprocess.run(
        [
            *(sys.executable, "-m", "launch.lookup", "build"),
            f"--config={write_config(tmp_path / 'alone.py', config, tmp_path / 'alone')}",
        ],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "together"
    dies = _DIES.format(marker=str(tmp_path / "died"))
    words = (
        *("launch.lookup", "build"),
        f"--config={write_config(tmp_path / 'together.py', config, folder, dies)}",
    )
    with processes.Job(*words, processes=2) as job:
        status, printed = job.end()
    assert status == 128 + 9, printed
    assert (tmp_path / "died").exists()
    assert not (folder / layout.MANIFEST).exists()
    with processes.Job(*words, processes=2) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert len(digests(printed)) == 2
    assert set(digests(printed)) == set(digests(alone.stdout))
    assert stub.contents(folder) == stub.contents(tmp_path / "alone")
    log = [json.loads(line) for line in (folder / layout.TIMING).read_text().splitlines()]
    written = sorted(name for line in log for name in line["shards"])
    wanted = sorted(path.name for path in folder.glob("*.arrayrecord"))
    assert len(written) == len(set(written))
    # Labels and features of a shard get one line, after both: the end of each process may have come before it.
    assert len(set(wanted) - set(written)) <= 2


def test_told_to_leave_it_leaves_at_once_and_the_same_command_goes_on(config, tmp_path):
    folder = tmp_path / "l"
    path = write_config(tmp_path / "c.py", config, folder)
    with processes.Job("launch.lookup", "build", f"--config={path}", processes=2) as job:
        job.wait_for(lambda: any(folder.glob("labels-*.json")))
        job._launcher.terminate()
        status, printed = job.end()
    assert status == 75, printed
    assert "told to leave" in printed
    with processes.Job("launch.lookup", "build", f"--config={path}", processes=2) as job:
        status, printed = job.end()
    assert status == 0, printed
    assert len(set(digests(printed))) == 1
