"""Stacked runs that differ in seed and learning rate against each of them alone, down to the files they leave."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import train
from core_jax.train import apart, stack, step, turns
from tests.core_jax.train import toy

STEPS, CONFIG = 6, {"recipe": "toy"}
KINDS = {"seed1": (1, 0.05), "seed2": (2, 0.05), "quick": (1, 0.2)}


def task(rate):
    def init(key):
        params = toy.make(noise=0.1).init(key)
        first = {"w": jax.random.normal(key, (toy.WIDTH,)), "b": jnp.zeros(())}
        return train.Params(trainable=first, frozen=params.frozen, stats=params.stats)

    def optimizer():
        """Clipping looks at a whole run, so that it would mix them; a schedule counts steps."""
        decay = optax.cosine_decay_schedule(rate, STEPS)
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(decay))

    return toy.make(STEPS, init=init, optimizer=optimizer)


def options(seed, **given):
    return train.FitOptions(seed=seed, progress=False, log_every=2, eval_every=3, **given)


def runs():
    return [
        stack.Run(name=name, seed=seed, task=task(rate)) for name, (seed, rate) in KINDS.items()
    ]


def fit(run, workdir, **given):
    return train.fit(run.task, options(run.seed), workdir=workdir, config_json=CONFIG, **given)


def fit_together(workdir, *, resume=False, **given):
    together = stack.stack_runs(runs())
    return train.fit(together, options(9, **given), workdir=workdir, resume=resume)


def write(state, program):
    for index, run in enumerate(runs()):
        apart.write(
            run,
            state,
            program / run.name,
            program=program,
            index=index,
            count=len(KINDS),
            options=options(run.seed),
            config_json=CONFIG,
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(folder, last state) of each run, trained by itself."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, {run.name: fit(run, folder / run.name) for run in runs()}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(folder, last state) of the program of all of them, their own folders written."""
    folder = tmp_path_factory.mktemp("together")
    state = fit_together(folder, save_every=2)
    write(state, folder)
    return folder, state


def own(state, index):
    groups = ("trainable", "opt_state", "stats")
    return {name: stack.unstack(state[name], index) for name in groups} | {"step": state["step"]}


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_run_is_what_it_is_alone(alone, together):
    for index, name in enumerate(KINDS):
        jax.tree.map(close, own(together[1], index), alone[1][name])


def test_first_arrays_batches_and_keys_are_bit_for_bit_those_of_the_run():
    whole = stack.stack_runs(runs())
    params, keys = whole.init(jax.random.key(9)), whole.key(9)
    batch = next(iter(whole.train_data(9)))
    for index, run in enumerate(runs()):
        expected = run.task.init(step.init_key(run.seed))
        own_params = stack.unstack(params.trainable, index)
        jax.tree.map(np.testing.assert_array_equal, own_params, expected.trainable)
        mine = next(iter(run.task.train_data(run.seed)))
        for name, value in mine.items():
            np.testing.assert_array_equal(batch[name][:, index], value)
        folded = jax.random.fold_in(jax.random.key(run.seed), 4)
        assert jax.random.key_data(step.fold_in(keys, 4))[index].tolist() == (
            jax.random.key_data(folded).tolist()
        )


def test_runs_differ_by_seed_and_rate(together):
    first = np.asarray(together[1]["trainable"]["w"])
    assert len({tuple(row) for row in first.tolist()}) == len(KINDS)


def test_mapped_over_as_one_batch_they_agree_to_rounding(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "in_turns", lambda: False)
    state = fit_together(tmp_path)
    for index, name in enumerate(KINDS):
        jax.tree.map(close, own(state, index), alone[1][name])


def test_a_program_resumes_where_it_was(together, tmp_path):
    fit_together(tmp_path, save_every=2)
    # As after a kill between the checkpoint of step 4 and the end.
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    (tmp_path / "timing.json").unlink()
    resumed = fit_together(tmp_path, save_every=2, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed, together[1])
    assert json.loads((tmp_path / "timing.json").read_text())["restarts"] == 1


def test_written_folders_are_restored_and_resumed_like_runs_of_their_own(alone, together, tmp_path):
    for run in runs():
        folder = shutil.copytree(together[0] / run.name, tmp_path / run.name)
        params, number = train.restore(run.task, workdir=folder)
        assert number == STEPS
        expected = own(together[1], list(KINDS).index(run.name))
        jax.tree.map(np.testing.assert_array_equal, params.trainable, expected["trainable"])
        resumed = fit(run, folder, resume=True)
        jax.tree.map(np.testing.assert_array_equal, resumed, expected)
        jax.tree.map(close, resumed, alone[1][run.name])


def test_written_metrics_are_those_of_the_run(alone, together):
    for name in KINDS:
        mine, expected = (
            [
                json.loads(line)
                for line in (folder / name / "metrics.jsonl").read_text().splitlines()
            ]
            for folder in (together[0], alone[0])
        )
        assert [line["step"] for line in mine] == [line["step"] for line in expected]
        for line, other in zip(mine, expected, strict=True):
            shared = {"loss", "absolute_error", "eval/w_norm"} & set(other)
            assert shared
            assert shared == set(line) - {"step", "seconds"}
            for key in shared:
                assert line[key] == pytest.approx(other[key], rel=1e-5)


def test_seconds_are_a_run_s_share(together):
    whole, mine = (
        json.loads((folder / "timing.json").read_text())
        for folder in (together[0], together[0] / "seed2")
    )
    assert mine["steps"] == STEPS
    assert sum(mine["seconds"].values()) == pytest.approx(sum(whole["seconds"].values()) / 3)


def test_writing_again_changes_nothing(together):
    before = {
        path: path.read_bytes() for path in (together[0] / "seed1").rglob("*") if path.is_file()
    }
    write(together[1], together[0])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_folder_of_another_run_is_not_written_into(together, tmp_path):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "config.json").write_text('{"recipe": "another"}')
    with pytest.raises(train.WorkdirError, match="'another' -> 'toy'"):
        write(together[1], tmp_path)


def test_names_and_steps_are_checked():
    one = stack.Run(name="a", seed=1, task=task(0.1))
    with pytest.raises(ValueError, match="share a name: a, a"):
        stack.stack_runs([one, one])
    with pytest.raises(ValueError, match="no steps"):
        stack.stack_runs([])
