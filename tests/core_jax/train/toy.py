"""A linear regression with every feature of the task protocol, small enough to check by hand."""

import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from core_jax.data import stream
from core_jax.train import Aux, Params, Task

ROWS, WIDTH, BATCH, RATE, DECAY = 256, 3, 8, 0.05, 0.9


@functools.cache
def rows():
    """Inputs x [256, 3], y [256] of a noisy plane."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=ROWS)).astype(np.float32)
    return x, y


class Source:
    """Rows by number; a stable repr, since grain checks it on restore."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        x, y = rows()
        return {"x": x[index], "y": y[index], "row": np.int32(index), "name": np.str_(f"r{index}")}

    def __repr__(self):
        return "toy.Source"


def train_data(seed, source=None):
    """Endless shuffled batches, of which every process has its slice."""
    rows = grain.MapDataset.source(source or Source()).seed(seed).shuffle().repeat()
    share = stream.Share(per_step=BATCH, process=jax.process_index(), processes=jax.process_count())
    ds = grain.MapDataset.range(stream.ENDLESS).map(lambda i: rows[share.position(int(i))])
    return ds.to_iter_dataset(grain.ReadOptions(num_threads=1)).batch(share.count)


def loss(trainable, frozen, stats, batch, key):
    """Half mean squared error of a plane behind a frozen scale, with noise and a mean of y."""
    noise = frozen["noise"] * jax.random.normal(key, batch["y"].shape)
    predicted = batch["x"] @ (trainable["w"] * frozen["scale"]) + trainable["b"]
    error = predicted + noise - batch["y"]
    count = jnp.float32(error.shape[0])
    new = {"mean": DECAY * stats["mean"] + (1 - DECAY) * jnp.mean(batch["y"])}
    metrics = {"absolute_error": (jnp.sum(jnp.abs(error)), count)}
    return 0.5 * jnp.mean(error**2), Aux(stats=new, metrics=metrics)


def make(total_steps=20, *, noise=0.0, optimizer=lambda: optax.sgd(RATE), **changes):
    """The task; keyword arguments replace fields."""

    def init(key):
        del key
        return Params(
            trainable={"w": jnp.zeros(WIDTH), "b": jnp.zeros(())},
            frozen={"scale": np.full(WIDTH, 2.0, np.float32), "noise": np.float32(noise)},
            stats={"mean": jnp.zeros(())},
        )

    fields = {
        "init": init,
        "loss": loss,
        "train_data": train_data,
        "evaluate": lambda trainable, frozen, stats: {"w_norm": jnp.linalg.norm(trainable["w"])},
        "optimizer": optimizer,
        "sharding_rules": (("trainable/.*", P()),),
        "total_steps": total_steps,
        "batch_ids": ("row", "name"),
    }
    return Task(**{**fields, **changes})
