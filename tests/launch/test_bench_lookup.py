"""The lookup's benchmark compares the same labels on both sides; growing lookups are made of real, tiny files."""

import json

import numpy as np
import pytest
import torch

from fdbpl_jax import lookup as lookups
from launch import config as config_lib
from launch.benchmarks import (
    embedded,
    free_teacher,
    lookup,
    memory,
    scaling,
    startup,
    timing,
    torch_lookup,
)

PICTURES, REGIONS, TOP_K = 3, 4, 2


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    free_teacher.draw(folder / "images", PICTURES)
    made = free_teacher.build(
        folder / "lookup",
        folder / "images",
        PICTURES,
        regions=REGIONS,
        classes=70,
        top_k=TOP_K,
        image_size=8,
    )
    return lookups.open(made)


def test_a_free_teacher_makes_a_real_lookup(opened):
    assert (opened.num_images, opened.regions, opened.top_k) == (PICTURES, REGIONS, TOP_K)
    assert [image.path for image in opened.images] == [f"0000/{i:07d}.png" for i in range(PICTURES)]
    arrays = opened.arrays()
    total = np.exp(arrays["logp"].astype(np.float32)).sum(-1) + np.exp(
        arrays["rest"].astype(np.float32)
    )
    np.testing.assert_allclose(total, 1.0, atol=5e-3)


@pytest.mark.parametrize("form", lookup.FORMS)
def test_torch_files_hold_what_the_records_hold(opened, form, tmp_path):
    labels = {name: value[1] for name, value in opened.arrays().items()}
    image, path = opened.images[1], tmp_path / "one.tar"
    torch_lookup.save(torch_lookup.FORMS[form](labels, image.height, image.width), path)
    chosen = np.array([2, 0])
    box, flip, *found = torch_lookup.take(torch_lookup.load(path), chosen)
    if form == "FKD's form":
        box = box * torch.tensor([image.height, image.width] * 2)
        index, logp = found[0][:, 0], torch.log(found[0][:, 1])
    else:
        index, logp, rest, entropy = found
        np.testing.assert_array_equal(rest, labels["rest"][chosen])
        np.testing.assert_array_equal(entropy, labels["entropy"][chosen])
    np.testing.assert_allclose(box, labels["box"][chosen].astype(np.float32), atol=1e-4)
    np.testing.assert_array_equal(flip, labels["flip"][chosen])
    np.testing.assert_array_equal(index, labels["index"][chosen])
    np.testing.assert_allclose(logp, labels["logp"][chosen].astype(np.float32), atol=1e-5)


def test_every_work_has_a_row_for_each_form(opened, tmp_path):
    rows = timing.Rows("title")
    lookup.stored_rows(rows, opened, tmp_path / "again", with_torch=True)
    first, *others = rows.rows
    assert first["ours"] == opened.dtype.itemsize / REGIONS
    assert [row["work"] for row in others] == [
        f"{w}, {f}" for f in lookup.FORMS for w in lookup.WORKS
    ]
    assert all(row["ratio"] > 0 for row in others)
    # All that lies there, by hand.
    size = sum(path.stat().st_size for path in opened.folder.iterdir() if path.is_file())
    theirs = sum(path.stat().st_size for path in (tmp_path / "again" / lookup.FORMS[0]).iterdir())
    assert (others[0]["ours"], others[0]["other"]) == (size / 12, theirs / 12)
    # What is written anew is what the build wrote.
    for shard in opened.manifest["shards"]:
        written = (tmp_path / "again" / "records" / shard["name"]).read_bytes()
        assert written == (opened.folder / shard["name"]).read_bytes()


def test_torch_is_optional(opened, tmp_path):
    rows = timing.Rows("title")
    lookup.stored_rows(rows, opened, tmp_path / "again", with_torch=False)
    assert [row["work"] for row in rows.rows[1:]] == list(lookup.WORKS)
    assert all(row["other"] is None for row in rows.rows)


def test_growing_lookups_have_their_rows(tmp_path, monkeypatch):
    # In this process: what is tested is the work, not whose memory it takes.
    monkeypatch.setattr(scaling, "apart", lambda call, *given: (call(*given), 1.0))
    monkeypatch.setattr(scaling, "VISITS", 7)
    rows = timing.Rows("title")
    scaling.picture_rows(rows, 120, tmp_path)
    assert [(row["work"], row["unit"]) for row in rows.rows] == [
        ("120 pictures: list, build and opening, pictures", "per s"),
        ("120 pictures: list, build and opening, peak memory", "MB"),
        ("120 pictures: opening", "s"),
        ("120 pictures: visits in random order", "per s"),
        ("120 pictures: opening and visits, peak memory", "MB"),
    ]
    assert lookups.open(tmp_path / "lookup").num_images == 120


def test_the_memory_of_both_sides_is_of_processes_of_their_own(tmp_path, monkeypatch):
    asked = []

    def apart(call, *given):
        asked.append((call.__name__, given[0]["teacher_source"], given[0]["method"]))
        return None, {"fdbpl": 100.0, "kdpl": 300.0}[given[0]["method"]]

    monkeypatch.setattr(memory, "apart", apart)
    monkeypatch.setattr(embedded.world, "write_objects", lambda *_, **__: None)
    rows = timing.Rows("title")
    memory.embedded_row(rows, tmp_path, shots=2, regions=8)
    assert asked == [
        ("build_lookup", "lookup", "fdbpl"),
        ("_embedded", "lookup", "fdbpl"),
        ("_embedded", "online", "kdpl"),
    ]
    assert rows.rows[0]["ratio"] == 3.0


def test_a_first_step_is_timed_while_the_command_runs(tmp_path, monkeypatch):
    program = (
        "import json, pathlib, sys, time\n"
        "folder = pathlib.Path(next(a for a in sys.argv if a.startswith('--workdir=')).split('=', 1)[1])\n"
        "folder.mkdir()\n"
        "time.sleep(0.2)\n"
        "(folder / 'metrics.jsonl').write_text('{}')\n"
        "time.sleep(0.5)\n"
        "(folder / 'timing.json').write_text(json.dumps({'seconds': {'compile': 0.125}}))\n"
        "(folder / 'argv.json').write_text(json.dumps(sys.argv[1:]))\n"
        "sys.exit('--config.seed=13' in sys.argv and 'unlucky')\n"
    )
    real = startup.subprocess.Popen

    def popen(command, **given):
        return real([command[0], "-c", program, *command[2:]], **given)

    monkeypatch.setattr(startup.subprocess, "Popen", popen)
    start = startup.first_step({"epochs": 1}, tmp_path / "run", tmp_path / "cache")
    assert start.compiling_s == 0.125
    assert start.first_step_s >= 0.2
    assert json.loads((tmp_path / "run" / "argv.json").read_text()) == [
        "launch.train",
        f"--config={embedded.CONFIG}",
        f"--workdir={tmp_path / 'run'}",
        f"--compile_cache={tmp_path / 'cache'}",
        "--config.epochs=1",
    ]
    with pytest.raises(OSError, match="unlucky"):
        startup.first_step({"seed": 13}, tmp_path / "other", tmp_path / "cache")


@pytest.mark.slow
def test_the_real_command_is_timed_twice(base, tmp_path):
    changes = {"lookup.dir": str(tmp_path / "lookup"), "data.cache": str(tmp_path / "features")}
    changes |= {"epochs": 1, "fit.log_every": 1}
    embedded.build_lookup(config_lib.override(base, changes).to_dict())
    for key in ("student", "teacher", "batch_size", "data.root", "data.shots", "lookup.regions"):
        group, _, name = key.rpartition(".")
        changes[key] = (base[group] if group else base)[name]
    cold, warm = (
        startup.first_step(changes, tmp_path / name, tmp_path / "compiled")
        for name in ("cold", "warm")
    )
    assert min(cold.first_step_s, warm.first_step_s) > max(cold.compiling_s, warm.compiling_s) > 0
    lines = (tmp_path / "warm" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 1
    assert (tmp_path / "warm.log").is_file()
