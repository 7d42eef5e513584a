"""Amplitude and phase of images and feature maps: split, join, mix, swap and restyle (arXiv 2409.08468 and others).

The amplitude spectrum of a picture carries its style, the phase its content. Usable alone, in anybody's JAX code: jitted
pure functions of arrays (B, H, W, E), E = 3 for images; any H and W, odd and 1 included. Spectra are those of a real
two-dimensional FFT per channel with orthonormal scaling, (B, H, F, E) with F = W // 2 + 1, always in float32.

uint8 is read as x / 255 and comes back as uint8; floats come back in their own dtype and unclipped, since feature maps
have no range (`augment_amplitude` clips). New amplitudes are put in as F * (A' / max(A, 1e-6)): the angle is never
computed, which is faster, and gradients are finite everywhere, at zero amplitude too. Where A = 0 there is no phase to
give an amplitude to, so such a frequency stays 0.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray, UInt8

KINDS = ("mixup", "apr", "fda", "aloft_e")

_SMALLEST = 1e-6
_FDA_BETA = 0.05
# ALOFT perturbs half of the shifted spectrum's area around its centre.
_ALOFT_AREA = 0.5
# How far restyling may scale the mean brightness of a channel, either way.
_DC_RANGE = (0.25, 4.0)

Maps = Num[Array, "B H W E"]
Spectrum = Float[Array, "B H F E"]


@jax.jit
def amplitude_phase(x: Maps) -> tuple[Spectrum, Spectrum]:
    """Amplitude |F| and phase in radians of every channel's spectrum, for `join`.

    Args:
      x: images or feature maps.

    Returns:
      (amplitude, phase in (-pi, pi]), float32; the phase of an amplitude below 1e-6 is 0 and has no gradient.
    """
    spectrum = _spectrum(_float32(x))
    amplitude = jnp.abs(spectrum)
    # The slope of the angle is 1 / A: both arguments are replaced before atan2 sees them, not after.
    visible = amplitude > _SMALLEST
    phase = jnp.arctan2(
        jnp.where(visible, jnp.imag(spectrum), 0.0), jnp.where(visible, jnp.real(spectrum), 1.0)
    )
    return amplitude, phase


@functools.partial(jax.jit, static_argnames=("width",))
def join(amplitude: Spectrum, phase: Spectrum, width: int) -> Float[Array, "B H W E"]:
    """The float32 map with this amplitude and phase: the inverse of `amplitude_phase`.

    Args:
      amplitude: of the half spectrum.
      phase: radians.
      width: W, which F = W // 2 + 1 columns leave open between an even and an odd number.

    Raises:
      ValueError: the spectra disagree in shape, or cannot belong to a map of this width.
    """
    if (
        amplitude.shape != phase.shape
        or amplitude.ndim != 4
        or amplitude.shape[2] != width // 2 + 1
    ):
        raise ValueError(
            f"amplitude {amplitude.shape} and phase {phase.shape} must both be (B, H, {width // 2 + 1}, E) for a map "
            f"of width {width}: pass the W of the array they were split from"
        )
    spectrum = jax.lax.complex(amplitude * jnp.cos(phase), amplitude * jnp.sin(phase))
    return _inverse(spectrum, amplitude.shape[1], width)


@jax.jit
def amplitude_swap(x: Maps, reference: Maps) -> Maps:
    """Every amplitude from `reference`, the phase of `x`.

    Args:
      x: images or feature maps.
      reference: of the same shape, or one (1, H, W, E) for all.

    Raises:
      ValueError: the shapes differ.
    """
    own = _float32(x)
    return _as(_swap(own, _reference(own, reference)), x)


@jax.jit
def apr(x: Maps, *, key: PRNGKeyArray) -> Maps:
    """Amplitude-phase recombination (arXiv 2108.08487): each sample keeps its phase and gets another one's amplitudes."""
    own = _float32(x)
    return _as(_swap(own, own[partners(own.shape[0], key=key)]), x)


@jax.jit
def amplitude_mixup(x: Maps, *, key: PRNGKeyArray) -> Maps:
    """Amplitudes (1 - l) A + l A' with those of another sample, l ~ U(0, 1) per sample (FACT, arXiv 2105.11120)."""
    own = _float32(x)
    who, how = jax.random.split(key)
    share = jax.random.uniform(how, (own.shape[0], 1, 1, 1))
    spectrum = _spectrum(own)
    amplitude = jnp.abs(spectrum)
    other = amplitude[partners(own.shape[0], key=who)]
    return _as(
        _with_amplitude(spectrum, amplitude, amplitude + share * (other - amplitude), own), x
    )


@functools.partial(jax.jit, static_argnames=("beta",))
def fda(x: Maps, reference: Maps, beta: float = _FDA_BETA) -> Maps:
    """Fourier domain adaptation (arXiv 2004.05498): the low frequencies' amplitudes come from `reference`.

    Args:
      x: images or feature maps.
      reference: of the same shape, or one (1, H, W, E) for all.
      beta: half the side of the swapped square: |ky|, |kx| <= floor(beta min(H, W)). 0 swaps the mean alone.

    Raises:
      ValueError: the shapes differ, or beta is outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta}, but a share of the image's side lies in [0, 1]")
    own = _float32(x)
    height, width = own.shape[1:3]
    # Products such as 0.29 * 100 fall a rounding error short of the whole number they mean.
    reach = int(beta * min(height, width) + 1e-9)
    low = _low(height, width, reach, reach)
    return _as(_swap(own, _reference(own, reference), low), x)


@jax.jit
def aloft_e(x: Maps, *, key: PRNGKeyArray) -> Maps:
    """ALOFT-E (arXiv 2303.11674): A + e std_batch(A), e ~ N(0, 1), on the central half of the shifted spectrum.

    The deviation is taken over the batch for every frequency and channel on its own and carries no gradient; amplitudes
    are floored at 0. The noise is drawn symmetrically, so that the spectrum stays that of a real map. A batch of one has
    no deviation and comes back as it is.
    """
    own = _float32(x)
    height, width = own.shape[1:3]
    spectrum = _spectrum(own)
    amplitude = jnp.abs(spectrum)
    spread = jax.lax.stop_gradient(jnp.std(amplitude, axis=0, keepdims=True))
    noise = jax.random.normal(key, amplitude.shape)
    # Columns 0 and W / 2 hold k and -k both, which a real map forces to be equal.
    rows, columns = jnp.arange(height), jnp.arange(width // 2 + 1)
    own_mirror = (columns == 0) | (2 * columns == width)
    mirrored = noise[:, jnp.minimum(rows, height - rows)]
    noise = jnp.where(own_mirror[None, None, :, None], mirrored, noise)
    side = _ALOFT_AREA**0.5
    low = _low(height, width, int(height * side) // 2, int(width * side) // 2)
    new = jnp.where(low, jnp.maximum(amplitude + spread * noise, 0.0), amplitude)
    return _as(_with_amplitude(spectrum, amplitude, new, own), x)


@jax.jit
def amplitude_statistics(x: Maps) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """Mean and standard deviation of the amplitudes off DC, over the full spectrum.

    A real FFT stores one of each pair k, -k: column 0 and, for even W, the last one count once, all others twice. A map of
    one pixel has no amplitude off DC; both are 0.

    Returns:
      (a, t), float32, per sample and channel.
    """
    own = _float32(x)
    return _statistics(jnp.abs(_spectrum(own)), own.shape[2])


@jax.jit
def restyle(
    x: Maps,
    mean: Float[Array, "B E"],
    deviation: Float[Array, "B E"],
    strength: Float[Array, "B"],
) -> Maps:
    """Adaptive instance normalisation of the amplitudes, phase untouched: GBA's style change.

    With A = |F| and a, t its own statistics: off DC A_s = relu(t' (A - a) / (t + 1e-6) + a'); at DC
    A_s = A clip(a' / (a + 1e-6), 1/4, 4), which keeps the sign of the channel's mean; A' = (1 - l) A + l A_s.

    Args:
      x: feature maps (images work too).
      mean: a', the amplitude mean to take on.
      deviation: t', the deviation.
      strength: l in [0, 1]; 0 returns x up to the rounding of the FFT.

    Returns:
      The restyled maps. None of the four statistics carries a gradient.
    """
    own = _float32(x)
    height, width = own.shape[1:3]
    spectrum = _spectrum(own)
    amplitude = jnp.abs(spectrum)
    detached = [*_statistics(amplitude, width), _float32(mean), _float32(deviation)]
    a, t, a_new, t_new = (jax.lax.stop_gradient(s)[:, None, None] for s in detached)
    styled = jax.nn.relu(t_new * (amplitude - a) / (t + _SMALLEST) + a_new)
    at_dc = amplitude * jnp.clip(a_new / (a + _SMALLEST), *_DC_RANGE)
    styled = jnp.where(_low(height, width, 0, 0), at_dc, styled)
    share = _float32(strength)[:, None, None, None]
    return _as(
        _with_amplitude(spectrum, amplitude, amplitude + share * (styled - amplitude), own), x
    )


@functools.partial(jax.jit, static_argnames=("kind",))
def augment_amplitude(
    images: Float[Array, "B H W 3"] | UInt8[Array, "B H W 3"],
    *,
    kind: str,
    p: float = 0.5,
    key: PRNGKeyArray,
) -> Float[Array, "B H W 3"] | UInt8[Array, "B H W 3"]:
    """A training augmentation: each image is changed with probability p, its partner being another one of the batch.

    Args:
      images: uint8, or float in [0, 1].
      kind: "mixup" (`amplitude_mixup`), "apr", "fda" (beta 0.05) or "aloft_e".
      p: probability per image.
      key: decides who changes, with whom, and how much.

    Returns:
      Images of the same dtype, clipped to its range; the ones left alone are the same bit for bit.

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind is {kind!r}, but the amplitude augmentations are {', '.join(KINDS)}"
        )
    own = _float32(images)
    chance, how = jax.random.split(key)
    if kind == "fda":
        changed = fda(own, own[partners(own.shape[0], key=how)])
    else:
        changed = {"mixup": amplitude_mixup, "apr": apr, "aloft_e": aloft_e}[kind](own, key=how)
    chosen = jax.random.bernoulli(chance, p, (own.shape[0],))[:, None, None, None]
    return jnp.where(chosen, _as(jnp.clip(changed, 0.0, 1.0), images), images)


def partners(batch: int, *, key: PRNGKeyArray) -> Num[Array, "B"]:
    """For each of the samples another one, drawn as a random cycle: nobody is its own partner unless alone."""
    order = jax.random.permutation(key, batch)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))


def _float32(x: Array) -> Array:
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"got {x.dtype} of shape {x.shape}, but maps are uint8 or floating: cast them first"
        )
    return x.astype(jnp.float32)


def _as(y: Float[Array, "B H W E"], like: Array) -> Array:
    if like.dtype == jnp.uint8:
        return jnp.round(jnp.clip(y, 0.0, 1.0) * 255.0).astype(jnp.uint8)
    return y.astype(like.dtype)


def _spectrum(x: Float[Array, "B H W E"]) -> Array:
    if x.ndim != 4:
        raise ValueError(f"got shape {x.shape}, but maps are (B, H, W, E): add the missing axes")
    return jnp.fft.rfft2(x, axes=(1, 2), norm="ortho")


def _inverse(spectrum: Array, height: int, width: int) -> Float[Array, "B H W E"]:
    return jnp.fft.irfft2(spectrum, s=(height, width), axes=(1, 2), norm="ortho")


def _with_amplitude(spectrum: Array, old: Array, new: Array, like: Array) -> Array:
    ratio = new / jnp.maximum(old, _SMALLEST)
    scaled = jax.lax.complex(jnp.real(spectrum) * ratio, jnp.imag(spectrum) * ratio)
    return _inverse(scaled, *like.shape[1:3])


def _swap(own: Array, reference: Array, where: Array | None = None) -> Array:
    spectrum, other = _spectrum(own), jnp.abs(_spectrum(reference))
    amplitude = jnp.abs(spectrum)
    other = jnp.broadcast_to(other, amplitude.shape)
    return _with_amplitude(
        spectrum, amplitude, other if where is None else jnp.where(where, other, amplitude), own
    )


def _reference(own: Array, reference: Array) -> Array:
    if reference.shape not in (own.shape, (1, *own.shape[1:])):
        raise ValueError(
            f"the reference has shape {reference.shape}, but spectra can only be exchanged between maps of one size: "
            f"expected {own.shape} or {(1, *own.shape[1:])}; resize it first"
        )
    return _float32(reference)


def _low(height: int, width: int, up: int, across: int) -> Bool[Array, "1 H F 1"]:
    """True at |ky| <= up and |kx| <= across."""
    rows, columns = jnp.arange(height), jnp.arange(width // 2 + 1)
    inside = (jnp.minimum(rows, height - rows) <= up)[:, None] & (columns <= across)[None]
    return inside[None, :, :, None]


def _statistics(amplitude: Spectrum, width: int) -> tuple[Array, Array]:
    height, columns = amplitude.shape[1], jnp.arange(amplitude.shape[2])
    once = (columns == 0) | (2 * columns == width)
    weight = jnp.where(once, 1.0, 2.0)[None, None, :, None]
    weight = jnp.where(_low(height, width, 0, 0), 0.0, weight)
    count = max(height * width - 1, 1)
    mean = jnp.sum(weight * amplitude, axis=(1, 2), keepdims=True) / count
    variance = jnp.sum(weight * (amplitude - mean) ** 2, axis=(1, 2)) / count
    # The slope of the square root is infinite at 0, where equal amplitudes put it.
    spread = variance > 0
    deviation = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1.0)), 0.0)
    return mean[:, 0, 0], deviation
