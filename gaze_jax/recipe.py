"""How a network was trained where it was published: data that a configuration takes over or replaces, and its optimizer.

Epochs are passes over the training pictures; t counts updates from 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimizer and schedule.

    Attributes:
      optimizer: "adam" and "sgd" add the decay to the gradient, as torch's of these names; "adamw" takes it off apart.
      lr: learning rate after the warm-up.
      epochs, batch_size: how long and on how many pictures at once.
      schedule: "cosine" to 0; "steps" multiplies by `factor` at each of `milestones`; "constant"; "average" is lr / (t + 1),
        with which plain SGD on half the squared error ends at the mean of all labels it saw.
      milestones: epochs of "steps".
      factor: of "steps".
      warmup_epochs: linear from 0.
      weight_decay: on matrices and kernels only, never on biases or norms.
      betas: of Adam.
      momentum: of SGD, Nesterov's form; 0 is plain.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    epochs: int = 20
    batch_size: int = 128
    schedule: Literal["cosine", "steps", "constant", "average"] = "cosine"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9


def every(interval: int, epochs: int) -> tuple[int, ...]:
    """The milestones of "every `interval` epochs" within a run."""
    return tuple(range(interval, epochs, interval))


def learning_rate(recipe: Recipe, steps_per_epoch: float) -> optax.Schedule:
    """The rate of every update.

    Args:
      recipe: epochs and schedule.
      steps_per_epoch: updates in an epoch; need not be whole.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    after = max(1, round(recipe.epochs * steps_per_epoch) - warmup)
    rest: Callable[[Any], Any]
    if recipe.schedule == "cosine":
        rest = optax.cosine_decay_schedule(recipe.lr, after)
    elif recipe.schedule == "steps":
        # Milestones count from the start of the run, the schedule after the warm-up from its end.
        places: dict[int, float] = {}
        for milestone in recipe.milestones:
            place = max(1, round(milestone * steps_per_epoch) - warmup)
            places[place] = places.get(place, 1.0) * recipe.factor
        rest = optax.piecewise_constant_schedule(recipe.lr, places)
    elif recipe.schedule == "constant":
        rest = optax.constant_schedule(recipe.lr)
    else:
        rest = lambda t: recipe.lr / (1.0 + t)
    if not warmup:
        return rest
    return optax.join_schedules([optax.linear_schedule(0.0, recipe.lr, warmup), rest], [warmup])


def optimizer(
    recipe: Recipe, steps_per_epoch: float, *, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """The optimizer of a recipe.

    Args:
      recipe: what to build.
      steps_per_epoch: updates in an epoch; need not be whole.
      clip_norm: largest global norm of the gradient; 0 does not clip.
    """
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=decayed)
    nothing = optax.identity()
    if recipe.optimizer == "sgd":
        momentum = optax.trace(recipe.momentum, nesterov=True) if recipe.momentum else nothing
        parts = [decay if recipe.weight_decay else nothing, momentum]
    else:
        adam = optax.scale_by_adam(*recipe.betas)
        own = decay if recipe.weight_decay else nothing
        parts = [own, adam] if recipe.optimizer == "adam" else [adam, own]
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else nothing,
        *parts,
        optax.scale_by_learning_rate(learning_rate(recipe, steps_per_epoch)),
    )


def decayed(params: Any) -> Any:
    """Which leaves weight decay acts on: those of two axes and more."""
    return jax.tree.map(lambda x: x.ndim >= 2, params)
