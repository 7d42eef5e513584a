"""Gaze networks against the same networks in torch, and what DRNet's references and stacked folds cost.

- Inference and training step (loss, gradient, Adam) of DRNet, which in training sees pairs, and of CFE with its linear
  head, GazeTR-Hybrid, against torch with the same weights and pictures (left out where torch is not installed).
- DRNet with nine stored references ("other") against one picture alone ("ours"): the ratio is what calibration costs.
- Four folds of DRNet in one program ("ours") against the same program four times in a row ("other").

A ratio below 1 says that torch, or the runs in a row, are faster. On CPUs DRNet's inference is about as fast as torch's;
training is slower, and so is the extractor: torch's convolutions there, oneDNN's, do more arithmetic a second than XLA's. The
kernel's gradient, which XLA computes most slowly of all, is already a matrix product here (`core_jax.nn.convolve`). Stacked
folds pay on accelerators, if anywhere: on two cores one after another is quicker. Both sides run under the same memory settings:
on CPUs measure with the second, longer `GLIBC_TUNABLES` of docs/troubleshooting.md, as a long training would be run.

--gaze=drnet,cfe,references,folds chooses.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from core_jax.train import Aux, Params, Task, stack
from gaze_jax import modes
from gaze_jax.model import Model
from gaze_jax.networks import cfe, drnet
from gaze_jax.networks.cfe import CFEConfig
from gaze_jax.networks.drnet_network import DRNetConfig
from launch.benchmarks import timing

PARTS = ("drnet", "cfe", "references", "folds")
_PARTS = flags.DEFINE_list("gaze", list(PARTS), f"gaze: which of {', '.join(PARTS)}")

# Neither side augments: the networks are compared.
DRNET = DRNetConfig(augment=False, corrupt=0.0)
DRNET_BATCHES, CFE_BATCHES, K, FOLDS = (1, 32, 256), (1, 8, 32), 9, 4

Call = Callable[[], Any]


def run() -> list[dict[str, Any]]:
    """Measure and print the chosen rows."""
    rows = timing.Rows("JAX, torch; one picture, with references; folds stacked, in a row")
    if not importlib.util.find_spec("torch"):
        print("  torch is not installed: its side of the rows is left out", flush=True)
    if "drnet" in _PARTS.value:
        network_rows(rows, "DRNet", drnet.make(DRNET), DRNET, DRNET_BATCHES)
    if "cfe" in _PARTS.value:
        network_rows(rows, "CFE", cfe.make(CFEConfig()), CFEConfig(), CFE_BATCHES)
    if "references" in _PARTS.value:
        reference_rows(rows, DRNET, (1, 32))
    if "folds" in _PARTS.value:
        fold_rows(rows, drnet.make(DRNET), FOLDS, 32)
    return rows.rows


def network_rows(
    rows: timing.Rows,
    name: str,
    model: Model,
    config: Any,
    batches: Sequence[int],
    repeats: int = 5,
) -> None:
    """Inference and training of a network, ours and torch's in turns.

    Args:
      rows: where the rows go.
      name: for the rows.
      model: ours.
      config: what it was made of.
      batches: pictures, or in training pairs, at once.
      repeats: timed rounds.
    """
    params = model.init(jax.random.key(0))
    with_torch = importlib.util.find_spec("torch") is not None
    for count in batches:
        batch = random_batch(model.size, count)
        theirs = torch_calls(config, params, batch) if with_torch else {}
        for work, ours in (
            ("infer", inference(model, params, batch)),
            ("train", training(model, params, batch)),
        ):
            if work == "train" and count < 2:
                # One picture is no batch to normalise by.
                continue
            calls = [ours, theirs[work]] if theirs else [ours]
            rows.add(f"{work} {name}, batch {count}", *timing.in_turns(calls, repeats=repeats))


def inference(model: Model, params: Params, batch: dict[str, jax.Array]) -> Call:
    """Gaze from one picture each."""
    assert model.predict is not None
    predict = jax.jit(model.predict)
    return lambda: predict(params, batch["image"], batch["head"])


def training(model: Model, params: Params, batch: dict[str, jax.Array]) -> Call:
    """One step of Adam; the state goes on from call to call, in the place of the old one."""
    adam = optax.adam(1e-3)

    def step(state, frozen, batch, key):
        trainable, stats, adam_state = state
        (_, aux), grads = jax.value_and_grad(model.loss, has_aux=True)(
            trainable, frozen, stats, batch, key
        )
        updates, adam_state = adam.update(grads, adam_state)
        return optax.apply_updates(trainable, updates), aux.stats, adam_state

    compiled, key = jax.jit(step, donate_argnums=0), jax.random.key(1)
    own = jax.tree.map(jnp.copy, (params.trainable, params.stats))
    state = [(*own, adam.init(own[0]))]

    def call():
        state[0] = compiled(state[0], params.frozen, batch, key)
        return state[0]

    return call


def torch_calls(config: Any, params: Params, batch: dict[str, jax.Array]) -> dict[str, Call]:
    """The same network in torch: calls named "infer" and "train"."""
    import torch

    from launch.benchmarks import torch_gaze

    same = {
        name: torch.from_numpy(
            np.moveaxis(np.array(x), -1, 1).copy() if x.ndim == 4 else np.array(x)
        )
        for name, x in batch.items()
    }
    # Inference on a copy of its own: training moves the weights.
    if isinstance(config, DRNetConfig):
        network, fixed = (torch_gaze.drnet(config, params) for _ in range(2))
        ask = lambda: fixed.single(same["image"], same["head"])
    else:
        network, fixed = (torch_gaze.gazetr(config, params) for _ in range(2))
        ask = lambda: fixed(same["image"])
    fixed.eval()
    adam = torch.optim.Adam(network.parameters(), 1e-3)

    def infer():
        with torch.no_grad():
            ask()

    def train():
        adam.zero_grad()
        network.loss(same).backward()
        adam.step()

    return {"infer": infer, "train": train}


def reference_rows(
    rows: timing.Rows, config: DRNetConfig, batches: Sequence[int], repeats: int = 10
) -> None:
    """What nine encoded references cost DRNet over looking at the picture alone."""
    model = drnet.make(config)
    params, references = model.init(jax.random.key(0)), model.references
    assert references is not None
    stored = random_batch(model.size, K)
    known = jax.jit(references.encode)(params, stored["image"], stored["head"])

    @jax.jit
    def calib(params, known, images, head):
        codes = references.encode(params, images, head)
        count = images.shape[0]
        queries = jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), codes)
        others = jax.tree.map(lambda x: jnp.tile(x, (count,) + (1,) * (x.ndim - 1)), known)
        gaze, _ = references.compare(params, queries, others)
        assert gaze is not None
        return modes.combine("calib", gaze.reshape(count, K, 2), None, None)

    for count in batches:
        batch = random_batch(model.size, count)
        calls = [
            inference(model, params, batch),
            lambda batch=batch: calib(params, known, batch["image"], batch["head"]),
        ]
        times = timing.in_turns(calls, repeats=repeats)
        rows.add(f"DRNet, batch {count}: one picture, {K} references", *times)


def fold_rows(rows: timing.Rows, model: Model, folds: int, count: int, repeats: int = 3) -> None:
    """Folds in one program against the same step once a fold."""
    task = Task(
        init=model.init,
        loss=model.loss,
        train_data=lambda seed: None,
        evaluate=lambda *_: {},
        optimizer=lambda: optax.adam(1e-3),
        sharding_rules=(),
        total_steps=1,
    )
    together = stack.stack([task] * folds)
    one = random_batch(model.size, count)
    batch = {name: jnp.stack([x] * folds, axis=1) for name, x in one.items()}
    side_by_side = training(_as_model(model, together), together.init(jax.random.key(0)), batch)
    alone = training(model, model.init(jax.random.key(0)), one)

    def in_a_row():
        return [alone() for _ in range(folds)][-1]

    times = timing.in_turns([side_by_side, in_a_row], repeats=repeats)
    rows.add(f"train {model.name}, {folds} folds of batch {count}: stacked, in a row", *times)


def _as_model(model: Model, task: Task) -> Model:
    loss: Callable[..., tuple[jax.Array, Aux]] = task.loss
    return dataclasses.replace(model, loss=loss)


def random_batch(size: tuple[int, int, int], count: int) -> dict[str, jax.Array]:
    """Random pairs of pictures and angles."""
    rng = np.random.default_rng(0)
    picture = lambda: jnp.asarray(rng.integers(0, 256, (count, *size), np.uint8))
    angles = lambda: jnp.asarray(rng.normal(0.0, 0.2, (count, 2)), jnp.float32)
    return {
        "image": picture(),
        "gaze": angles(),
        "head": angles(),
        "ref_image": picture(),
        "ref_gaze": angles(),
        "ref_head": angles(),
        "person": jnp.zeros(count, jnp.int32),
        "side": jnp.zeros(count, jnp.int32),
    }
