"""New styles for the features of a training batch, by the seven ways that are compared.

`bank` and `shade_bank` draw statistics from the style bank, of amplitudes or of pixels; the other five are the published
feature perturbations MixStyle (arXiv 2104.02008), DSU (2202.03958), ALOFT-E (2303.11674), FDA (2004.05498) and APR
(2108.08487), on the same features. Every sample is changed with probability 0.5; no statistic carries a gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gba_jax import fourier
from gba_jax.adapters import bank as banks

BANKED = ("bank", "shade_bank")

_PROBABILITY = 0.5
_SMALLEST = 1e-6
_MIXSTYLE_BETA = 0.1


def stylise(
    x: Float[Array, "B h w E"],
    bank: banks.Bank | None,
    *,
    style: str,
    refresh_steps: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "B h w E"], banks.Bank | None]:
    """Restyled features, and the bank after it has seen them.

    Args:
      x: the features to change.
      bank: the state of `bank` and `shade_bank`, None for the others.
      style: one of `config.STYLES`.
      refresh_steps: of `bank.update`.
      key: decides who changes, into what, and how much.

    Returns:
      (features of the same dtype, those left alone bit for bit; the new bank).
    """
    chance, what, how = jax.random.split(key, 3)
    wide = x.astype(jnp.float32)
    batch = x.shape[0]
    if style in BANKED:
        assert bank is not None
        measure = fourier.amplitude_statistics if style == "bank" else _moments
        own = jax.lax.stop_gradient(measure(wide))
        mean, deviation = banks.draw(bank, own, key=what)
        strength = jax.random.uniform(how, (batch,))
        change = fourier.restyle if style == "bank" else _renormalise
        y = change(wide, mean, deviation, strength)
        bank = banks.update(bank, own, refresh_steps=refresh_steps)
    elif style == "mixstyle":
        y = _mixstyle(wide, fourier.partners(batch, key=what), how)
    elif style == "dsu":
        y = _dsu(wide, what)
    elif style == "fda":
        y = fourier.fda(wide, jax.lax.stop_gradient(wide[fourier.partners(batch, key=what)]))
    elif style == "apr":
        other = jax.lax.stop_gradient(wide[fourier.partners(batch, key=what)])
        y = fourier.amplitude_swap(wide, other)
    else:
        y = fourier.aloft_e(wide, key=what)
    changed = jax.random.bernoulli(chance, _PROBABILITY, (batch,))[:, None, None, None]
    return jnp.where(changed, y.astype(x.dtype), x), bank


def _moments(x: Array) -> tuple[Array, Array]:
    """Spatial mean and deviation, (B, E) each."""
    return jnp.mean(x, axis=(1, 2)), jnp.sqrt(jnp.var(x, axis=(1, 2)) + _SMALLEST)


def _renormalise(x: Array, mean: Array, deviation: Array, strength: Array) -> Array:
    mu, s = (m[:, None, None] for m in jax.lax.stop_gradient(_moments(x)))
    styled = (x - mu) / s * deviation[:, None, None] + mean[:, None, None]
    return x + strength[:, None, None, None] * (styled - x)


def _mixstyle(x: Array, order: Array, key: PRNGKeyArray) -> Array:
    mu, s = jax.lax.stop_gradient(_moments(x))
    share = jax.random.beta(key, _MIXSTYLE_BETA, _MIXSTYLE_BETA, (x.shape[0], 1))
    mean, deviation = (share * own + (1.0 - share) * own[order] for own in (mu, s))
    return _renormalise(x, mean, deviation, jnp.ones(x.shape[0]))


def _dsu(x: Array, key: PRNGKeyArray) -> Array:
    moments = jax.lax.stop_gradient(_moments(x))
    mean, deviation = (
        own + jax.random.normal(k, own.shape) * jnp.std(own, axis=0, keepdims=True)
        for own, k in zip(moments, jax.random.split(key))
    )
    return _renormalise(x, mean, deviation, jnp.ones(x.shape[0]))
