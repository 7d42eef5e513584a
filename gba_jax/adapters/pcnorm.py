"""PCNorm and the other normalisations of the correlation branch (arXiv 2409.08468).

PCNorm(x) is the inverse FFT of the amplitude of (x - mu) / s with the phase of x, per channel. Subtracting mu moves DC
only and dividing by s > 0 keeps every phase, so no FFT is needed. Maps are (B, h, w, E), float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPS = 1e-5
MOMENTUM = 0.1
GROUPS = 16
KNOTS = 8
# sigmoid(-1.0986) = 1/4: the knot next to DC starts at a gain of 0.5, the others at 1.
LOWEST_KNOT = -1.0986


def pcnorm(
    x: Float[Array, "B h w E"],
    mean: Float[Array, "#B 1 1 E"],
    scale: Float[Array, "#B 1 1 E"],
    *,
    mask: Bool[Array, "B h w"] | None = None,
) -> Float[Array, "B h w E"]:
    """(x - m) / s + sgn(m) |m - mu| / s with m the spatial mean and sgn(0) = 1: PCNorm in closed form.

    With mu = m it is instance norm; with (mu, s) = (0, 1) the identity.

    Args:
      x: the map.
      mean: mu.
      scale: s > 0.
      mask: pixels that belong to the image; m is their mean. All by default.
    """
    level = moments(x, mask)[0]
    sign = jnp.where(level < 0, -1.0, 1.0)
    return (x - level) / scale + sign * jnp.abs(level - mean) / scale


def moments(
    x: Float[Array, "B h w E"], mask: Bool[Array, "B h w"] | None = None, *, batch: bool = False
) -> tuple[Float[Array, "#B 1 1 E"], Float[Array, "#B 1 1 E"], Float[Array, "#B 1 1 1"]]:
    """Mean, population variance and number of pixels, per channel and sample (or over the whole batch)."""
    axes = (0, 1, 2) if batch else (1, 2)
    weight = jnp.ones((*x.shape[:3], 1)) if mask is None else mask[..., None].astype(x.dtype)
    count = jnp.sum(weight, axis=axes, keepdims=True)
    # An image without valid pixels has no statistics; dividing by 1 keeps it finite.
    total = jnp.maximum(count, 1.0)
    mean = jnp.sum(weight * x, axis=axes, keepdims=True) / total
    variance = jnp.sum(weight * (x - mean) ** 2, axis=axes, keepdims=True) / total
    return mean, variance, count


def instance(
    x: Float[Array, "B h w E"], mask: Bool[Array, "B h w"] | None = None
) -> Float[Array, "B h w E"]:
    """`pcnorm_in`: PCNorm with each sample's own statistics, which is instance norm; needs no state."""
    mean, variance, _ = moments(x, mask)
    return pcnorm(x, mean, jnp.sqrt(variance + EPS), mask=mask)


def batch(
    x: Float[Array, "B h w E"],
    state: dict,
    *,
    mask: Bool[Array, "B h w"] | None = None,
    train: bool,
) -> tuple[Float[Array, "B h w E"], dict]:
    """`pcnorm_bn`: PCNorm with batch statistics in training and running ones at eval.

    Args:
      x: the map.
      state: {"mean": (E,), "var": (E,)}, updated in training with momentum 0.1 and the unbiased variance, as torch does.
      mask: pixels that count.
      train: which of the two.
    """
    if not train:
        mean, variance = (state[name][None, None, None] for name in ("mean", "var"))
        return pcnorm(x, mean, jnp.sqrt(variance + EPS), mask=mask), state
    mean, variance, count = moments(x, mask, batch=True)
    unbiased = variance * count / jnp.maximum(count - 1.0, 1.0)
    move = lambda old, new: old + MOMENTUM * (jax.lax.stop_gradient(new)[0, 0, 0] - old)
    state = {"mean": move(state["mean"], mean), "var": move(state["var"], unbiased)}
    return pcnorm(x, mean, jnp.sqrt(variance + EPS), mask=mask), state


def initial_state(channels: int) -> dict:
    """Stored statistics before any batch: mean 0, variance 1."""
    return {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}


def initial_knots() -> Float[Array, "16 7"]:
    """The 112 parameters of `highpass`: theta of knots 1 to 7, per channel group."""
    return jnp.zeros((GROUPS, KNOTS - 1)).at[:, 0].set(LOWEST_KNOT)


def highpass_gains(theta: Float[Array, "16 7"]) -> Float[Array, "16 8"]:
    """Gain at each knot: 0 at DC, 2 sigmoid(theta) elsewhere."""
    return jnp.concatenate([jnp.zeros((theta.shape[0], 1)), 2.0 * jax.nn.sigmoid(theta)], axis=1)


def radial_gain(
    x: Float[Array, "B h w E"], gains: Float[Array, "G knots"]
) -> Float[Array, "B h w E"]:
    """Multiply each frequency by a gain that is piecewise linear in its radius; the one norm that shapes a low band.

    Args:
      x: the map.
      gains: per channel group, at equally spaced radii from 0 (DC) to 1 (the largest |(ky / h, kx / w)| of the map).
    """
    height, width, channels = x.shape[1:]
    ky, kx = jnp.fft.fftfreq(height), jnp.fft.rfftfreq(width)
    radius = jnp.sqrt(ky[:, None] ** 2 + kx[None] ** 2)
    groups, last = gains.shape[0], gains.shape[1] - 1
    position = radius / jnp.maximum(jnp.max(radius), 1e-6) * last
    lower = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, last - 1)
    share = (position - lower.astype(position.dtype))[None]
    gain = gains[:, lower] * (1.0 - share) + gains[:, lower + 1] * share
    # Neighbouring channels form a group; where E is no multiple of the groups their sizes differ by one.
    group = jnp.arange(channels) * groups // channels
    gain = jnp.moveaxis(gain[group], 0, -1)[None]
    spectrum = jnp.fft.rfft2(x, axes=(1, 2), norm="ortho")
    scaled = jax.lax.complex(jnp.real(spectrum) * gain, jnp.imag(spectrum) * gain)
    return jnp.fft.irfft2(scaled, s=(height, width), axes=(1, 2), norm="ortho")
