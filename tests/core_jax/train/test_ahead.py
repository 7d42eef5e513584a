"""The step is compiled once, before the first one, and a second start finds it in the persistent cache."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import train
from core_jax.train import ahead, metrics, writers
from tests.core_jax.train import toy

COMPILED = "/jax/core/compile/backend_compile_duration"

# Counts what the persistent cache knew and what it did not know.
TWICE = """
import collections, json, sys, jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rsplit("/", 1)[-1]]))
from core_jax import train
from tests.core_jax.train import toy
train.fit(toy.make(3), train.FitOptions(seed=1, progress=False), workdir=sys.argv[1])
print(json.dumps([counts["cache_hits"], counts["cache_misses"]]))
"""


@pytest.fixture
def compiled():
    """Names of the programs that were compiled, as they come."""
    names = []

    def note(event: str, duration_secs: float, **facts: str | int) -> None:
        del duration_secs
        if event == COMPILED:
            names.append(facts.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_the_first_step_finds_its_program(compiled, tmp_path, monkeypatch, capfd):
    steps = lambda: [name for name in compiled if "step" in name]
    before_the_first, claim = [], writers.claim

    def note(*arguments):
        before_the_first.extend(steps())
        claim(*arguments)

    # Nothing is written before this, and no step is made.
    monkeypatch.setattr(writers, "claim", note)
    train.fit(toy.make(5), train.FitOptions(seed=1), workdir=tmp_path)
    assert len(before_the_first) == 1
    assert steps() == before_the_first
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("step compiled in")]
    for part in ("arguments", "outputs", "in place", "temporary", "peak"):
        assert f"{part} " in line


def test_a_second_start_finds_every_program_in_the_cache(tmp_path):
    found = []
    for start in ("first", "second"):
        command = [sys.executable, "-c", TWICE, str(tmp_path / start)]
        caching = {
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        env = {**os.environ, "JAX_PLATFORMS": "cpu", **caching}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    (_, missed), (hits, missed_again) = found
    assert missed > 0
    assert missed_again == 0
    assert hits >= missed


def test_the_memory_of_a_program_is_that_of_its_arrays():
    def add(state, batch):
        # What is sorted lies in memory, whatever a compiler fuses.
        return state + jnp.sum(jnp.sin(jnp.sort(batch @ batch.T))), state[0]

    step = jax.jit(add, donate_argnums=0)
    state, batch = (
        jax.ShapeDtypeStruct((1000,), np.float32),
        jax.ShapeDtypeStruct((300, 50), np.float32),
    )
    parts = ahead.memory(ahead.compile_step(step, state, batch))
    assert parts["arguments"] == 4 * (1000 + 300 * 50)
    assert 4 * 1001 <= parts["outputs"] <= 4 * 1001 + 64
    assert parts["in_place"] == 4 * 1000
    # The product of the batch with itself lives only while the program runs.
    assert parts["temporary"] >= 4 * 300 * 300
    apart = parts["arguments"] + parts["outputs"] + parts["temporary"] + parts["program"]
    assert parts["peak"] == apart - parts["in_place"]


def test_other_batches_are_an_error_and_not_another_program(compiled):
    step = ahead.compile_step(jax.jit(jnp.sin), jnp.zeros(3))
    compiled.clear()
    with pytest.raises(TypeError, match=r"float32\[3\]"):
        step(jnp.zeros(4))
    assert "sin" not in " ".join(compiled)


def test_rates_of_a_window():
    clock = metrics.Clock()
    clock.seconds.update(step=10.0, data_wait=2.0, compile=50.0, saving=9.0)
    window = metrics.Window.from_json(json.loads(json.dumps(clock.window().to_json())))
    for _ in range(4):
        window.add((), np.zeros(2, np.float32))
    clock.seconds.update(step=16.0, data_wait=4.0, compile=70.0, evaluation=30.0)
    assert clock.rates(window) == {
        "seconds": 20.0,
        "steps_per_second": 0.5,
        "data_wait_share": 0.25,
    }
