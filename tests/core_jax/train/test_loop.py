"""Runs that stop and go on, folders that refuse, numbers that are not finite, full disks."""

import dataclasses
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import train
from core_jax.train import checkpoint, step, writers
from tests.core_jax.train import toy

STEPS = 21
TIMES = ("seconds", "steps_", "data_wait_share")


def options(**changes):
    return train.FitOptions(
        **{"seed": 1, "log_every": 4, "save_every": 5, "progress": False, **changes}
    )


def task(total_steps=STEPS, **changes):
    return toy.make(total_steps, **{"noise": 0.1, "optimizer": lambda: optax.adam(0.05), **changes})


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def history(folder):
    """metrics.jsonl without its times."""
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines(folder)]


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run: (state, folder)."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    state = train.fit(task(), options(eval_every=7), workdir=folder, config_json={"lr": 0.05})
    return state, folder


def test_what_a_run_leaves_behind(straight):
    _, folder = straight
    assert json.loads((folder / "config.json").read_text()) == {"lr": 0.05}
    steps = [line["step"] for line in history(folder)]
    assert steps == [4, 7, 8, 12, 14, 16, 20, 21, 21]
    assert [s["step"] for s in history(folder) if "eval/w_norm" in s] == [7, 14, 21]
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [20, 21]
    timing = json.loads((folder / "timing.json").read_text())
    assert timing["steps"] == STEPS
    assert timing["restarts"] == 0
    for part in ("compile", "data_wait", "step", "evaluation", "saving"):
        assert timing["seconds"][part] > 0
    assert list((folder / "tensorboard").iterdir())
    shares = [line["data_wait_share"] for line in lines(folder) if "loss" in line]
    assert len(shares) == 6
    assert all(0 <= share <= 1 for share in shares)


def test_a_run_told_to_leave_saves_and_goes_on_bit_for_bit(straight, tmp_path):
    def leave(trainable, frozen, stats):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"w_norm": jnp.linalg.norm(trainable["w"])}

    run = {"workdir": tmp_path, "config_json": {"lr": 0.05}}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Preempted, match="saved step 8") as caught:
        train.fit(task(evaluate=leave), options(eval_every=7), **run)
    assert caught.value.code == train.PREEMPTED_EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) is before
    # A line of a step that the checkpoint does not know, and half a line: a process killed later
    # leaves both.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    state = train.fit(task(), options(eval_every=7), resume=True, **run)
    assert_same(state, straight[0])
    assert history(tmp_path) == history(straight[1])
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert timing["restarts"] == 1


def test_elastic_data_go_on_with_other_workers_bit_for_bit(straight, tmp_path):
    # Here workers are only a number in the checkpoint, as processes are: the position is found anew from the step.
    run = {"workdir": tmp_path / "run", "config_json": {"lr": 0.05}}
    train.fit(task(11), options(), **run)
    with pytest.raises(train.CheckpointError, match="data workers: 0 there, 2 now") as caught:
        train.fit(task(), options(workers=2), resume=True, **run)
    assert "depends on the number of processes and data workers" in str(caught.value)
    state = train.fit(task(elastic=True), options(workers=2), resume=True, **run)
    assert_same(state, straight[0])
    # What it saved itself is read as ever.
    assert_same(train.fit(task(), options(workers=2), resume=True, **run), state)


def test_resuming_a_finished_run_changes_nothing(straight):
    state, folder = straight
    lines = history(folder)
    again = train.fit(
        task(), options(eval_every=7), workdir=folder, config_json={"lr": 0.05}, resume=True
    )
    assert_same(again, state)
    assert history(folder) == lines


def test_an_evaluation_lost_to_a_kill_is_made_up_for(straight):
    folder = straight[1]
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    train.fit(task(), options(eval_every=7), workdir=folder, config_json={"lr": 0.05}, resume=True)
    assert history(folder) == [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMES)} for line in lines
    ]


def test_the_checkpoint_of_the_best_evaluation_stays(tmp_path):
    scores = {3: 5.0, 6: 1.0, 9: float("nan"), 12: 1.0, 15: 3.0, 18: 2.0, 21: 4.0}
    left = list(scores.values())
    own = {"evaluate": lambda *_: {"score": left.pop(0)}, "selected": ("score",)}
    run = {"workdir": tmp_path / "run", "config_json": {}}
    train.fit(task(12, **own), options(eval_every=3, save_every=100, keep=1), **run)
    kept = lambda: {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept() == {6, 12}
    # A resumed run knows what was reached before it.
    train.fit(task(**own), options(eval_every=3, save_every=100, keep=1), resume=True, **run)
    assert not left
    assert kept() == {6, 21}
    lowest = writers.lowest(tmp_path / "run" / "metrics.jsonl", ("score", "other"))
    assert lowest == {"score": (1.0, 6)}


def test_a_used_work_directory_is_refused(straight):
    folder = straight[1]
    before = files_below(folder)
    with pytest.raises(train.WorkdirError, match=r"already holds a run .* --resume"):
        train.fit(task(), options(), workdir=folder, config_json={"lr": 0.05})
    for resume in (False, True):
        with pytest.raises(train.WorkdirError, match="another configuration") as caught:
            train.fit(
                task(),
                options(),
                workdir=folder,
                config_json={"lr": 0.1, "a": {"b": 1}},
                resume=resume,
            )
        assert "lr: 0.05 -> 0.1" in str(caught.value)
        assert "a: '(absent)' -> {'b': 1}" in str(caught.value)
    assert files_below(folder) == before


def test_checkpoints_without_a_configuration_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(train.WorkdirError, match=r"no config\.json"):
        train.fit(task(), options(), workdir=tmp_path, resume=True)


def test_a_checkpoint_of_something_else_is_refused_with_every_difference(straight):
    folder = straight[1]
    other = task(
        pins={"lookup": "abc"},
        init=lambda key: train.Params(
            trainable={"w": jnp.zeros(5), "c": jnp.zeros(())}, stats={"mean": jnp.zeros(())}
        ),
    )
    with pytest.raises(train.CheckpointError, match="does not belong to this run") as caught:
        train.fit(
            other, options(workers=2, seed=2), workdir=folder, config_json={"lr": 0.05}, resume=True
        )
    for part in (
        "pin lookup: absent there, abc now",
        "data workers: 0 there, 2 now",
        "seed: 1 there, 2 now",
        "trainable/w: float32[3] there, float32[5] now",
        "trainable/b: float32[] there, absent now",
        "opt_state/0/mu/c: absent there, float32[] now",
    ):
        assert part in str(caught.value)
    with pytest.raises(train.CheckpointError, match="pin lookup") as caught:
        train.restore(task(pins={"lookup": "abc"}), workdir=folder)
    assert "workers" not in str(caught.value)
    with pytest.raises(train.CheckpointError, match=r"no checkpoint of step 7 .* \[20, 21\]"):
        train.restore(task(), workdir=folder, step=7)


def test_inputs_that_are_wrong_leave_nothing_behind(tmp_path):
    class Unreadable(toy.Source):
        def __getitem__(self, index):
            raise OSError("picture.png is no picture")

    data = grain.MapDataset.source(Unreadable()).repeat().to_iter_dataset().batch(toy.BATCH)
    for wrong, message in (
        ({"train_data": lambda seed: data}, "picture.png"),
        ({"sharding_rules": ()}, "no rule matches"),
        ({"loss": lambda *args: jnp.zeros(())}, "must return"),
    ):
        with pytest.raises((OSError, ValueError, TypeError), match=message):
            train.fit(task(**wrong), options(), workdir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"log_every=0 .*; keep=0 .*; profile="):
        options(log_every=0, keep=0, profile=(3, 2))
    assert not (tmp_path / "run").exists()


class Poisoned(toy.Source):
    """One row holds a NaN."""

    def __init__(self, row):
        self._row = row

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, "y": np.float32(np.nan)} if index == self._row else item


@pytest.mark.parametrize("save_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(save_every, tmp_path):
    bad = 6
    batch = next(itertools.islice(toy.train_data(1), bad - 1, None))
    row = int(batch["row"][3])

    def poisoned(seed):
        return toy.train_data(seed, Poisoned(row))

    with pytest.raises(train.NonFiniteError, match=f"step {bad}: loss nan") as caught:
        train.fit(
            task(train_data=poisoned), options(save_every=save_every, keep=10), workdir=tmp_path
        )
    assert f"row: {batch['row'].tolist()}" in str(caught.value)
    assert f"'r{row}'" in str(caught.value)
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    if save_every == 1:
        # Not even the step in which it went wrong, though its metrics are read late.
        assert saved == list(range(1, bad))
        assert f"last finite checkpoint is step {bad - 1} in {tmp_path}" in str(caught.value)
        assert np.isfinite(train.restore(task(), workdir=tmp_path)[0].trainable["w"]).all()
    else:
        assert saved == []
        assert "no checkpoint yet" in str(caught.value)


def test_a_finite_loss_with_an_infinite_update_is_not_saved(tmp_path):
    wild = task(optimizer=lambda: optax.sgd(3e38))
    with pytest.raises(train.NonFiniteError, match="trainable/w") as caught:
        train.fit(wild, options(save_every=1), workdir=tmp_path)
    assert "step 1" in str(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_full_disk_is_one_error_and_keeps_what_was_saved(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    save = ocp.CheckpointManager.save

    def full(manager, step, **keywords):
        if step == 10:  # as TensorStore words it
            raise ValueError(
                "RESOURCE_EXHAUSTED: Failed to write 84429 bytes to file 21: No space left on device"
            )
        return save(manager, step, **keywords)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(
        train.CheckpointError, match=r"saving step 10 .* complete checkpoint is step 5"
    ):
        train.fit(task(), options(), workdir=tmp_path)
    monkeypatch.undo()
    assert train.restore(task(), workdir=tmp_path)[1] == 5


# On a loaded machine a write that orbax started may still end after the failed save has closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        identity = checkpoint.Identity(config="", seed=0, pins={}, workers=0, processes=1)
        saved = checkpoint.Checkpoints(disk / "c", identity, keep=9)
        state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=60_000), jnp.float32)}
        with pytest.raises(train.CheckpointError, match="no space left"):  # noqa: PT012
            for number in range(1, 9):
                saved.save(number, state, {}, {})
        complete = number - 1
        restored, _, _ = saved.restore(state, data=False)
        saved.close()
        assert complete == checkpoint.Checkpoints(disk / "c", identity, keep=9).latest() >= 1
        np.testing.assert_array_equal(restored["w"], state["w"])
        history = writers.History(disk / "metrics.jsonl", step=0)
        with pytest.raises(OSError, match=r"writing step .* to .*metrics\.jsonl"):  # noqa: PT012
            for number in range(200):
                history.write(number, {str(n): 0.5 for n in range(2000)})
        history.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(capfd, monkeypatch):
    lines = writers.Progress(10, 0, shown=True)
    lines.write(5, {"loss": 0.25, "term_of_no_sample": float("nan")})
    lines.close()
    assert capfd.readouterr().err == "step 5/10 loss=0.25\n"
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = writers.Progress(10, 4, shown=True)
        bar.advance()
        bar.write(5, {"eval/accuracy": 0.5})
        bar.close()
        terminal.flush()
        shown = os.read(parent, 100_000).decode()
    os.close(parent)
    assert "5/10" in shown
    assert "step 5/10 eval/accuracy=0.5" in shown


def test_a_run_traces_its_step_once(tmp_path):
    traces = []

    def loss(trainable, frozen, stats, batch, key):
        traces.append(1)
        value, aux = toy.loss(trainable, frozen, stats, batch, key)
        # The result of `where` on Python numbers is weakly typed.
        weak = jnp.where(value > 0, 1.0, 2.0)
        return value, train.Aux(stats={"mean": weak}, metrics=aux.metrics)

    optimizer = lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    train.fit(task(4, loss=loss, optimizer=optimizer), options(), workdir=tmp_path)
    assert len(traces) == 1


def test_restore_makes_random_frozen_arrays_from_the_seed_of_the_run(tmp_path):
    def init(key):
        params = toy.make().init(key)
        return dataclasses.replace(
            params, frozen={**params.frozen, "scale": jax.random.normal(key, (toy.WIDTH,))}
        )

    train.fit(task(2, init=init), options(seed=11), workdir=tmp_path)
    restored, _ = train.restore(task(init=init), workdir=tmp_path)
    expected = jax.random.normal(step.init_key(11), (toy.WIDTH,))
    np.testing.assert_array_equal(restored.frozen["scale"], expected)


def test_the_loop_costs_little_beside_the_step(tmp_path, monkeypatch):
    # CPU seconds of the loop's thread, dispatch included: other work on the machine does not count.
    class Constant:
        def __iter__(self):
            return self

        def __next__(self):
            return batch

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    batch = next(iter(toy.train_data(0)))
    marks = []
    monkeypatch.setattr(writers.Progress, "advance", lambda self: marks.append(time.thread_time()))
    train.fit(
        task(400, train_data=lambda seed: Constant()), options(save_every=1000), workdir=tmp_path
    )
    assert np.median(np.diff(marks)) < 1e-3
