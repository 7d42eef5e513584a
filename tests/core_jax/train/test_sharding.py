"""Rules that place arrays, and sharded steps against unsharded ones on eight fake devices."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from core_jax import train
from core_jax.train import sharding
from core_jax.train.settings import ConfigError

PARAMS = train.Params(
    trainable={"dense": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}, "scale": np.zeros(())},
    frozen={"dense": {"kernel": np.zeros((4, 6))}},
    stats={"mean": np.zeros(6)},
)


def test_the_first_matching_rule_decides_and_the_rest_is_replicated():
    rules = (("trainable/.*/kernel", P(None, "model")), ("trainable/.*", P()))
    placed = sharding.params_shardings(PARAMS, rules, sharding.make_mesh())
    specs = {path: s.spec for path, s in sharding.named_leaves(placed).items()}
    assert specs == {
        "trainable/dense/bias": P(),
        "trainable/dense/kernel": P(None, "model"),
        "trainable/scale": P(),
        "frozen/dense/kernel": P(),
        "stats/mean": P(),
    }


def test_a_rule_may_name_frozen_arrays():
    rules = (("(trainable|frozen)/.*/kernel", P("model")), ("trainable/.*", P()))
    placed = sharding.params_shardings(PARAMS, rules, sharding.make_mesh())
    assert placed.frozen["dense"]["kernel"].spec == P("model")


def test_every_problem_of_the_rules_is_in_the_one_message():
    rules = (
        ("trainable/dense/bias", P(None, "model")),
        ("trainable/dense/kernel", P("expert")),
        ("dense/kernel", P()),
        (".*/dense/.*", P()),
        ("trainable/dense/.*", P()),
    )
    with pytest.raises(ValueError, match="sharding_rules do not fit") as caught:
        sharding.params_shardings(PARAMS, rules, sharding.make_mesh())
    for part in (
        "trainable/dense/bias (6,) has 1 axes",
        "['expert']",
        "rule 2 'dense/kernel' decides nothing",
        "rule 4 'trainable/dense/.*' decides nothing",
        "no rule matches trainable/scale",
    ):
        assert part in str(caught.value)


def test_a_mesh_that_does_not_fit_the_devices():
    with pytest.raises(ValueError, match=r"mesh=\(3, 5\) does not fit"):
        sharding.make_mesh((3, 5))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", (8, 1)),
        ("data:-1", (8, 1)),
        ("data:-1,model:2", (4, 2)),
        ("model:4", (2, 4)),
        ("model:-1", (1, 8)),
        ("data: 2, model:-1", (2, 4)),
        ("model:2,data:4", (4, 2)),
    ],
)
def test_a_mesh_from_text(text, sizes):
    assert sharding.read_mesh(text, 8) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:3,model:2", "does not fit 8 devices"),
        ("data:-1,model:3", "does not fit 8 devices"),
        ("data:-1,model:-1", "at most one of them -1"),
        ("data:4,expert:2", "'expert:2' is not data:SIZE"),
        ("data:4,data:2", "'data:2' is not data:SIZE or model:SIZE, each once"),
        ("4,2", "'4' is not"),
        ("data:0", "'data:0' is not"),
    ],
)
def test_a_text_that_is_no_mesh_of_the_devices(text, message):
    with pytest.raises(ConfigError, match=message):
        sharding.read_mesh(text, 8)


def test_a_group_of_devices_belongs_to_one_process():
    owners = np.arange(8).reshape(4, 2) // 4
    devices = np.vectorize(lambda process: types.SimpleNamespace(process_index=process))
    sharding._check_groups(devices(owners))
    with pytest.raises(
        ConfigError, match=r"mesh=data:1,model:8: the processes \[0, 1\] would share"
    ):
        sharding._check_groups(devices(owners.reshape(1, 8)))


def test_the_largest_axis_that_divides_is_cut_over_the_model():
    mesh = jax.sharding.AbstractMesh((4, 2), sharding.AXES)
    place = lambda *shape: sharding.over_model(shape, mesh)
    assert place(6, 24) == P(None, "model")
    assert place(24, 6) == P("model")
    assert place(8, 8) == P(None, "model")
    assert place(7, 6) == P(None, "model")
    assert place(3, 3, 16, 32) == P(None, None, None, "model")
    assert place(1, 5, 7) == P()
    assert place(64) == P()
    assert sharding.over_model((8, 8), jax.sharding.AbstractMesh((8, 1), sharding.AXES)) == P()


def test_a_mesh_of_other_devices_gives_way_where_a_run_is_judged():
    assert sharding.where_it_fits("data:4,model:-1") in ("", "data:4,model:-1")
    assert sharding.where_it_fits("data:-1,model:1") == "data:-1,model:1"
    assert sharding.where_it_fits("data:977,model:1") == ""


@pytest.mark.parametrize("text", ["data:-1,layers:2", "data:-1,model:-1"])
def test_a_text_that_is_a_mesh_nowhere_is_refused_where_a_run_is_judged(text):
    with pytest.raises(ConfigError, match=f"mesh='{text}'"):
        sharding.where_it_fits(text)


EIGHT = """
import dataclasses, sys
import jax, jax.numpy as jnp, numpy as np, optax, pytest
from jax.sharding import PartitionSpec as P
from core_jax import train
from core_jax.train import sharding, step
from core_jax.train.feed import Feed

RNG = np.random.default_rng(0)
ARRAYS = {k: RNG.normal(size=s).astype(np.float32) for k, s in
          {"w1": (4, 16), "w2": (16, 1), "frozen": (4, 4)}.items()}
BATCH = {k: RNG.normal(size=s).astype(np.float32) for k, s in {"x": (16, 4), "y": 16}.items()}

class Data:
    def __iter__(self): return self
    def __next__(self): return BATCH
    def get_state(self): return {}
    def set_state(self, state): pass

def loss(trainable, frozen, stats, batch, key):
    hidden = jnp.tanh(batch["x"] @ frozen["frozen"] @ trainable["w1"])
    error = (hidden @ trainable["w2"])[:, 0] - batch["y"] + 0.1 * jax.random.normal(key, (16,))
    return jnp.mean(error**2), train.Aux(metrics={"e": (jnp.sum(error), jnp.float32(16))})

task = train.Task(
    init=lambda key: train.Params(
        trainable={k: ARRAYS[k] for k in ("w1", "w2")}, frozen={"frozen": ARRAYS["frozen"]}),
    loss=loss, train_data=lambda seed: Data(), evaluate=None, total_steps=1,
    # One step of plain descent at rate 1: the difference of the parameters is the gradient.
    optimizer=lambda: optax.chain(optax.trace(0.9), optax.scale(-1.0)),
    sharding_rules=(
        ("trainable/w1", P(None, "model")), ("trainable/w2", P("model")), ("frozen/.*", P("model"))))

grads, aux = jax.grad(loss, has_aux=True)(
    {k: ARRAYS[k] for k in ("w1", "w2")}, {"frozen": ARRAYS["frozen"]}, {}, BATCH,
    jax.random.fold_in(jax.random.key(5), 0))
for shape in ((8, 1), (4, 2), (2, 4)):
    mesh = sharding.make_mesh(shape)
    state, frozen, shardings = step.init(task, mesh, seed=5)
    assert state["trainable"]["w1"].addressable_shards[0].data.shape == (4, 16 // shape[1])
    assert state["opt_state"][0].trace["w1"].sharding.spec == P(None, "model")
    assert frozen["frozen"].addressable_shards[0].data.shape == (4 // shape[1], 4)
    feed = Feed(Data(), mesh)
    batch, _ = next(feed)
    feed.close()
    assert batch["x"].addressable_shards[0].data.shape == (16 // shape[0], 4)
    new, packed = step.make_step(task, shardings)(state, frozen, batch, jax.random.key(5))
    for name, grad in grads.items():
        change = ARRAYS[name] - np.asarray(new["trainable"][name])
        np.testing.assert_allclose(change, grad, atol=2e-6)
        assert new["trainable"][name].sharding == state["trainable"][name].sharding
    np.testing.assert_allclose(packed.values[1], optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(packed.values[2], aux.metrics["e"][0], rtol=1e-4, atol=1e-5)

kernel = jax.device_put(ARRAYS["w1"], jax.NamedSharding(mesh, P(None, "model")))
(back,) = sharding.whole([kernel])
assert not kernel.is_fully_replicated and back.is_fully_replicated
np.testing.assert_array_equal(back.addressable_data(3), ARRAYS["w1"])

options = train.FitOptions(seed=5, mesh="data:-1,model:2", progress=False)
last = train.fit(dataclasses.replace(task, total_steps=3), options, workdir=sys.argv[1])
params, number = train.restore(task, workdir=sys.argv[1], mesh=(2, 4))
assert number == 3
for name, array in params.trainable.items():
    np.testing.assert_array_equal(array, last["trainable"][name])
assert params.trainable["w1"].addressable_shards[0].data.shape == (4, 4)

class Odd(Data):
    def __next__(self): return {"x": BATCH["x"][:3]}
with pytest.raises(ValueError, match="3 samples on each of 1 processes does not divide over 8"):
    next(Feed(Odd(), sharding.make_mesh()))
with pytest.raises(ValueError, match="an axis of 4 does not divide into 8"):
    sharding.params_shardings(
        train.Params(trainable={"w": ARRAYS["frozen"]}), ((".*", P("data")),), sharding.make_mesh())
print("equal")
"""


def test_sharded_gradients_equal_unsharded_ones(tmp_path):
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        # The bounds are those of programs as users run them.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(tmp_path / "run")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_optimizer_state_of_another_shape_is_replicated():
    import optax

    trainable = {"w": jax.ShapeDtypeStruct((256, 256), np.float32)}
    mesh = sharding.make_mesh()
    placed = {"w": jax.NamedSharding(mesh, P(None, "model"))}
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=128)
    state = jax.eval_shape(optimizer.init, trainable)
    shardings = sharding.opt_state_shardings(optimizer, trainable, placed, mesh)
    for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert where.spec == (P(None, "model") if leaf.shape == (256, 256) else P())
