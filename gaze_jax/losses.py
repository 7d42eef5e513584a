"""The losses of gaze regression, in radians, and the pairwise loss that any regressor may take in addition.

Every term returns (sum, count), so that padded batches and batches spread over devices stay exact; `mean` divides at the
end. Everything is computed in float32. Shapes: B samples, P = 2 angles (pitch, yaw).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from core_jax.train import Aux
from core_jax.train.memory import WHOLE, Memory, run
from core_jax.train.settings import ConfigError
from gaze_jax.model import Batch, Model

Pair = tuple[Float[Array, ""], Float[Array, ""]]

PAIRWISE_WEIGHT = 0.25


def mean(pair: Pair) -> Float[Array, ""]:
    """The mean of a (sum, count) pair; 0 where nothing was counted."""
    total, count = pair
    return total / jnp.maximum(count, 1.0)


def l1(predicted: Float[Array, "B P"], gaze: Float[Array, "B P"]) -> Pair:
    """|predicted - gaze|, summed, and the number of angles."""
    return _pair(jnp.abs(predicted.astype(jnp.float32) - gaze))


def l2(predicted: Float[Array, "B P"], gaze: Float[Array, "B P"]) -> Pair:
    """(predicted - gaze)^2, summed, and the number of angles."""
    return _pair(jnp.square(predicted.astype(jnp.float32) - gaze))


def pairwise(
    predicted: Float[Array, "B P"],
    gaze: Float[Array, "B P"],
    person: Int[Array, " B"],
    side: Int[Array, " B"],
) -> Pair:
    """How wrong the differences between predictions are, over the pairs of one person and side within the batch.

      sum_{i < j} | (g^_i - g^_j) - (g_i - g_j) |_1

    A person's own offset cancels: this term teaches what changes between two pictures, as DRNet's difference head does.

    Args:
      predicted: angles in radians.
      gaze: the labels.
      person: whose picture it is.
      side: which eye, or the face.

    Returns:
      (the sum over pairs and angles, pairs times angles). (0, 0) without a pair.
    """
    residual = predicted.astype(jnp.float32) - gaze
    between = jnp.abs(residual[:, None] - residual[None])
    same = (person[:, None] == person[None]) & (side[:, None] == side[None])
    once = jnp.triu(same, 1).astype(jnp.float32)[:, :, None]
    return jnp.sum(between * once), jnp.sum(once) * residual.shape[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a model with one prediction a sample, as the training loop calls it.

    Attributes:
      see: (trainable, frozen, stats, batch, key) -> (what the network says of every sample, new stats), samples by
        themselves but for statistics of batch normalisation.
      judge: (trainable, frozen, what it said of the whole batch, batch, key) -> (gaze (B, 2) as predicted in training, the
        model's own loss, metrics).
      predicts: whether that prediction is one of the gaze; if not, there is no pairwise loss.
      weight: of the pairwise loss; 0 leaves it out.
      memory: how the network runs over a batch.
      ghost_norm: a batch in pieces may be normalised piece by piece.
    """

    see: Callable[..., tuple[Any, Any]]
    judge: Callable[..., tuple[Float[Array, "B P"], Float[Array, ""], dict[str, Pair]]]
    predicts: bool = True
    weight: float = 0.0
    memory: Memory = WHOLE
    ghost_norm: bool = False

    def __call__(
        self, trainable: Any, frozen: Any, stats: Any, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Aux]:
        """(the whole loss, Aux); "loss_pairwise" is among the metrics where it counts.

        Raises:
          ConfigError: a batch in pieces and a network that normalises by the batch, without `ghost_norm`.
        """
        if self.memory.accumulate > 1 and stats and not self.ghost_norm:
            raise ConfigError(
                f"config.accumulate={self.memory.accumulate}: this network normalises by the statistics of the batch, and "
                "those of pieces are others; config.remat=True saves memory and changes nothing, config.ghost_norm=True "
                "normalises every piece by its own"
            )

        def network(own: Any, part: Any, key: Array) -> tuple[Any, Any]:
            return self.see(trainable, frozen, own, part, key)

        seen, stats = run(network, stats, batch, memory=self.memory, key=key)
        predicted, value, metrics = self.judge(trainable, frozen, seen, batch, key)
        if self.weight:
            pairs = pairwise(predicted, batch["gaze"], batch["person"], batch["side"])
            value, metrics = value + self.weight * mean(pairs), metrics | {"loss_pairwise": pairs}
        return value, Aux(stats=stats, metrics=metrics)


def with_pairwise(model: Model, weight: float = PAIRWISE_WEIGHT) -> Model:
    """The same model, trained with the pairwise loss in addition.

    Args:
      model: its `loss` is a `Loss`, so that what it predicts in training can be seen.
      weight: of the pairwise loss; 0 changes nothing.

    Raises:
      ValueError: the model makes no prediction of its own for the pairwise loss to judge.
    """
    if not weight:
        return model
    if not isinstance(model.loss, Loss) or not model.loss.predicts:
        raise ValueError(
            f"the pairwise loss (weight {weight}) judges what a model predicts in training, and {model.name!r} does not "
            "tell: set its weight to 0, or give the model a gaze_jax.losses.Loss"
        )
    return dataclasses.replace(model, loss=dataclasses.replace(model.loss, weight=weight))


def in_memory(model: Model, how: Memory, *, ghost_norm: bool) -> Model:
    """The same model whose network runs over a batch in training as `how` says; one without a `Loss` has no need of it."""
    if not isinstance(model.loss, Loss):
        return model
    loss = dataclasses.replace(model.loss, memory=how, ghost_norm=ghost_norm)
    return dataclasses.replace(model, loss=loss)


def _pair(values: Array) -> Pair:
    return jnp.sum(values), jnp.asarray(values.size, jnp.float32)
