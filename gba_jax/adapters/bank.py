"""The style bank: 64 rows of channel statistics that training collects from its own batches.

A bank is a dict of arrays that functions take and return, so that it lives in `stats["gba"]["style_bank"]`, is checkpointed
and resumes bit for bit:

  mean, deviation  (64, E)     the styles to draw from; zeros until `ready`
  ready            () bool     whether they have been chosen
  fifo             (2048, 2E)  the statistics of the last samples, mean then deviation
  pushed           () int32    rows pushed so far; from 2048 on kept in [2048, 4096), its remainder being the position
  age              () int32    steps since the rows were chosen

The rows are amplitude means and deviations, or spatial ones: the bank does not care. How the authors fill theirs is not
public; choosing rows of the FIFO that are far apart keeps rare styles.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gba_jax import fourier

STYLES = 64
FIFO = 2048
ENOUGH = 512
CONCENTRATION = 1.0 / STYLES
# Without a bank and without another sample, a style is the sample's own, scaled by exp(0.2 n).
_JITTER = 0.2

Bank = dict[str, Any]
Statistics = tuple[Float[Array, "B E"], Float[Array, "B E"]]


def empty(channels: int) -> Bank:
    """A bank that is not ready: `draw` takes styles from the batch until it is."""
    return {
        "mean": jnp.zeros((STYLES, channels)),
        "deviation": jnp.zeros((STYLES, channels)),
        "ready": jnp.zeros((), bool),
        "fifo": jnp.zeros((FIFO, 2 * channels)),
        "pushed": jnp.zeros((), jnp.int32),
        "age": jnp.zeros((), jnp.int32),
    }


def update(bank: Bank, statistics: Statistics, *, refresh_steps: int) -> Bank:
    """The bank after one training step: the batch's rows go into the FIFO, and now and then the styles are chosen anew.

    They are chosen as soon as 512 rows are there, and every `refresh_steps` steps from then on. A batch with a value that
    is not finite leaves the FIFO as it was: one such row would stay among the farthest points for good.

    Args:
      bank: as `empty` gives it.
      statistics: (mean, deviation) of the samples.
      refresh_steps: steps between two choices.
    """
    rows = jnp.concatenate([s.astype(jnp.float32) for s in statistics], axis=-1)[-FIFO:]
    count = rows.shape[0]
    places = (bank["pushed"] + jnp.arange(count)) % FIFO
    sound = jnp.all(jnp.isfinite(rows))
    fifo = bank["fifo"].at[places].set(jnp.where(sound, rows, bank["fifo"][places]))
    pushed = bank["pushed"] + jnp.where(sound, count, 0)
    pushed = jnp.where(pushed < FIFO, pushed, FIFO + pushed % FIFO)
    age = bank["age"] + 1
    due = (pushed >= ENOUGH) & (~bank["ready"] | (age >= refresh_steps))
    choose = lambda: (*_choose(fifo, pushed), jnp.zeros((), jnp.int32))
    keep = lambda: (bank["mean"], bank["deviation"], age)
    mean, deviation, age = jax.lax.cond(due, choose, keep)
    return {
        "mean": mean,
        "deviation": deviation,
        "ready": bank["ready"] | due,
        "fifo": fifo,
        "pushed": pushed,
        "age": age,
    }


def draw(bank: Bank, own: Statistics, *, key: PRNGKeyArray) -> Statistics:
    """A style per sample: a Dirichlet mixture of the bank's rows, which at concentration 1/64 is nearly one row.

    Before the bank is ready: the statistics of another sample of the batch; a batch of one gets its own, scaled at random.

    Args:
      bank: as `empty` or `update` give it.
      own: the batch's statistics.
      key: draws the mixture, the partner and the scale.
    """
    batch = own[0].shape[0]
    mixing, pairing, *scaling = jax.random.split(key, 4)
    weight = dirichlet(batch, key=mixing)
    if batch > 1:
        order = fourier.partners(batch, key=pairing)
        other = tuple(s[order] for s in own)
    else:
        other = tuple(
            s * jnp.exp(_JITTER * jax.random.normal(k, s.shape)) for s, k in zip(own, scaling)
        )
    return (
        jnp.where(bank["ready"], weight @ bank["mean"], other[0]),
        jnp.where(bank["ready"], weight @ bank["deviation"], other[1]),
    )


def dirichlet(
    batch: int, *, concentration: float = CONCENTRATION, key: PRNGKeyArray
) -> Float[Array, "B S"]:
    """Mixture weights of the 64 styles, one row per sample; each sums to 1."""
    return jax.random.dirichlet(key, jnp.full(STYLES, concentration), (batch,))


def fill(bank: Bank, mean: Float[Array, "n E"], deviation: Float[Array, "n E"]) -> Bank:
    """A bank made ready offline from the statistics of at least 2,048 images; call it outside jit.

    Args:
      bank: an `empty` one.
      mean: of the tensor that training restyles, as `fourier.amplitude_statistics` gives it.
      deviation: likewise.

    Returns:
      A ready bank with a full FIFO.

    Raises:
      ValueError: too few images, another number of channels, or nothing but zeros.
    """
    channels = bank["mean"].shape[1]
    if mean.shape != deviation.shape or mean.ndim != 2 or mean.shape[1] != channels:
        raise ValueError(
            f"mean {mean.shape} and deviation {deviation.shape} must both be (images, {channels}), one row per image"
        )
    if mean.shape[0] < FIFO:
        raise ValueError(
            f"{mean.shape[0]} images are too few for a style bank: pass the statistics of at least {FIFO}, or leave it "
            "empty and let training fill it"
        )
    choose = jax.jit(update, static_argnames="refresh_steps")
    filled = choose({**bank, "ready": jnp.zeros((), bool)}, (mean, deviation), refresh_steps=1)
    check(filled)
    return filled


def check(bank: Bank) -> None:
    """Refuse a ready bank whose rows are all 0: restyling with it would erase every image.

    Does nothing inside jit, where values are not known: call it after restoring or filling.

    Raises:
      ValueError: the bank is ready and zero.
    """
    if isinstance(bank["ready"], jax.core.Tracer):
        return
    if bool(bank["ready"]) and not (jnp.any(bank["mean"]) or jnp.any(bank["deviation"])):
        raise ValueError(
            f"all {STYLES} rows of the style bank are 0, so every image would lose its amplitudes: fill it with "
            "bank.fill, or start from bank.empty"
        )


def farthest_points(
    rows: Float[Array, "n d"], valid: Bool[Array, "n"], count: int
) -> Int[Array, "count"]:
    """Greedy farthest-point sampling: each next row is the one farthest from all rows chosen so far.

    Euclidean distances between coordinates that are standardised over the valid rows; the first row is the one nearest
    their mean. Ties go to the lower index.

    Args:
      rows: the candidates.
      valid: which of them exist; at least one.
      count: how many to choose.

    Returns:
      Their indices in the order of choice; repeated only when fewer distinct rows exist.
    """
    here = valid[:, None]
    total = jnp.maximum(jnp.sum(valid), 1).astype(rows.dtype)
    centre = jnp.sum(jnp.where(here, rows, 0.0), axis=0, keepdims=True) / total
    square = jnp.sum(jnp.where(here, (rows - centre) ** 2, 0.0), axis=0, keepdims=True) / total
    # A constant coordinate tells no rows apart: its deviation of 0 is replaced, its differences are 0.
    points = (rows - centre) / jnp.where(square > 0, jnp.sqrt(square), 1.0)
    first = jnp.argmin(jnp.where(valid, jnp.sum(points**2, axis=1), jnp.inf)).astype(jnp.int32)

    def step(i, carry):
        chosen, nearest = carry
        distance = jnp.sum((points - points[chosen[i - 1]][None]) ** 2, axis=1)
        nearest = jnp.minimum(nearest, distance)
        return chosen.at[i].set(jnp.argmax(nearest).astype(jnp.int32)), nearest

    start = jnp.full((count,), first), jnp.where(valid, jnp.inf, -jnp.inf)
    return jax.lax.fori_loop(1, count, step, start)[0]


def _choose(fifo: Array, pushed: Array) -> tuple[Array, Array]:
    chosen = fifo[farthest_points(fifo, jnp.arange(FIFO) < pushed, STYLES)]
    mean, deviation = jnp.split(chosen, 2, axis=1)
    return mean, deviation
