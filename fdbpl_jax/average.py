"""PromptSRC's average of the prompts over epochs (arXiv 2307.06948, section 3.3): the prompts that are judged.

The prompts at the end of epoch e = 1 .. E are averaged with the weights of a Gaussian over e, which leaves out the first,
immature ones and the last, task-specific ones. The average is a part of what is trained, "average", a tree like the prompts
beside it, so it is checkpointed, evaluated and exported as they are; no gradient reaches it, and neither do weight decay
nor momentum.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

NAME = "average"


class AverageState(NamedTuple):
    """How many steps were made."""

    count: Int[Array, ""]


def gaussian_weights(epochs: int, mean: float, std: float) -> Float[np.ndarray, "E"]:
    """The weight of each epoch e = 1 .. E: exp(-((e - mean) / std)^2 / 2), divided by their sum; float64."""
    return np.exp(_log_weights(epochs, mean, std))


def start(trainable: Mapping[str, Any]) -> dict[str, Any]:
    """The trainable tree with an average, which is the prompts as they start until the first epoch has ended."""
    # A copy: the two are donated to the same step.
    return {**trainable, NAME: jax.tree.map(jnp.array, dict(trainable))}


def judged(trainable: Mapping[str, Any]) -> Mapping[str, Any]:
    """The prompts that evaluation, export and prediction use: the average where there is one."""
    return trainable.get(NAME, trainable)


def over_epochs(
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    steps: int,
    mean: float,
    std: float,
) -> optax.GradientTransformation:
    """An optimizer of the prompts that also keeps their average.

    At the end of epoch e the average moves towards the prompts by w_e / (w_1 + ... + w_e). So after every epoch it is the
    weighted mean of the epochs so far, normalised, and after the last the mean with `gaussian_weights`.

    Args:
      optimizer: of everything in the trainable tree but "average".
      epochs: E.
      steps: of one epoch.
      mean: of the Gaussian, in epochs.
      std: likewise.

    Returns:
      A transformation for trees from `start`; it needs the parameters.
    """

    def prompts(tree: Mapping[str, Any]) -> dict[str, bool]:
        return {name: name != NAME for name in tree}

    return optax.chain(optax.masked(optimizer, prompts), _follow(_moves(epochs, mean, std), steps))


def _follow(moves: Float[np.ndarray, "E"], steps: int) -> optax.GradientTransformation:
    """Last in a chain: the others' updates pass, and "average" gets its own."""

    def init(params: Any) -> AverageState:
        del params
        return AverageState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError(
                "the average of prompts needs them: call update(updates, state, params)"
            )
        count = state.count + 1
        epoch = jnp.clip(count // steps, 1, len(moves))
        move = jnp.where(count % steps == 0, jnp.asarray(moves)[epoch - 1], 0.0)
        rest = {name: tree for name, tree in params.items() if name != NAME}
        changes = {name: updates[name] for name in rest}
        after = optax.apply_updates(rest, changes)
        follow = jax.tree.map(lambda new, old: move * (new - old), after, dict(params[NAME]))
        return {**changes, NAME: follow}, AverageState(count=count)

    return optax.GradientTransformation(init, update)


def _log_weights(epochs: int, mean: float, std: float) -> Float[np.ndarray, "E"]:
    # In logarithms: far from its mean a narrow Gaussian is smaller than any number.
    logs = -0.5 * ((np.arange(1, epochs + 1) - mean) / std) ** 2
    return logs - np.logaddexp.reduce(logs)


def _moves(epochs: int, mean: float, std: float) -> Float[np.ndarray, "E"]:
    """w_e / (w_1 + ... + w_e)."""
    logs = _log_weights(epochs, mean, std)
    return np.exp(logs - np.logaddexp.accumulate(logs)).astype(np.float32)
