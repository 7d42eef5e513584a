"""SDA, the style diversification adapter at a shallow stage of a frozen image tower (arXiv 2409.08468).

Features are split into Fourier amplitude, which carries style, and phase, which carries meaning; only amplitudes change.
Shapes: maps (B, h, w, E), S = 64 styles. Two presets: `released`, the reference implementation's equations operation for
operation, and `intent`, trainable, with the input returned unchanged by a fresh adapter.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gba_jax.adapters import bank as banks
from gba_jax.adapters.config import GBAConfig, check_preset
from gba_jax.adapters.refine import Dense, GatedRefinement, MultiKernelConv, gated_sum
from gba_jax.adapters.style import BANKED, stylise

BOTTLENECK = 64
# Wider maps than this (the taps of a ViT) go through the bottleneck.
_WIDE = 256
_NORM_EPS = 1e-5
_CLAMP = 1e-5
_RELEASED_CONCENTRATION = 0.0156


class StyleDiversification(nn.Module):
    """The adapter; its state goes in and comes out of every call, so that a step stays a pure function.

    Attributes:
      preset: "intent" or "released".
      config: `sda_mode`, `sda_width`, `style` and `refresh_steps` are read by "intent", nothing by "released".
    """

    preset: str = "intent"
    config: GBAConfig = GBAConfig()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w E"],
        state: dict,
        *,
        weights: Float[Array, "B S"] | None = None,
        train: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B h w E"], dict]:
        """The adapted map and the new state.

        Args:
          x: features of the shallow stage.
          state: as `initial_state` gives it. "intent" touches it in training only and takes {} at eval.
          weights: mixture of the styles, "released" only; otherwise drawn with `key`, and without one all equal.
          train: whether to restyle ("intent").
          key: needed in training by "intent".

        Raises:
          ValueError: "intent" in training without a key.
        """
        check_preset(self.preset)
        if self.preset == "released":
            return self._released(x, state, weights, key), state
        if train and key is None:
            raise ValueError("restyling in training is random: pass key=, or train=False")
        c = self.config

        def restyled(features, state):
            if not train:
                return features, state
            assert key is not None
            features, bank = stylise(
                features,
                state.get("style_bank"),
                style=c.style,
                refresh_steps=c.refresh_steps,
                key=key,
            )
            return features, (state if bank is None else {**state, "style_bank": bank})

        channels, narrow = x.shape[-1], bottleneck(x.shape[-1], c)
        if c.sda_mode == "perturb":
            x, state = restyled(x, state)
        u = Dense(narrow, x.dtype, name="down")(x) if narrow else x
        u = MultiKernelConv(name="convs")(u) / 3.0
        if c.sda_mode == "residual":
            u, state = restyled(u, state)
        refinement = GatedRefinement(narrow or channels, name="refine")
        if not narrow:
            return refinement(gated_sum(self, x, u)), state
        u = nn.Dense(channels, use_bias=False, dtype=x.dtype, name="up")(refinement(u))
        return gated_sum(self, x, u), state

    def _released(self, x, state, weights, key):
        channels = x.shape[-1]
        if weights is None and key is not None:
            weights = banks.dirichlet(x.shape[0], concentration=_RELEASED_CONCENTRATION, key=key)
        elif weights is None:
            weights = jnp.full((x.shape[0], banks.STYLES), 1.0 / banks.STYLES)
        bank, norm = state["style_bank"], state["sda_norm"]
        # Un-normalised spectra are of order sqrt(hw) while the banks hold statistics of order 1: part of the preset.
        mu = (weights @ bank["mean"])[:, None, None]
        sigma = (weights @ bank["deviation"])[:, None, None]
        u = MultiKernelConv(name="convs")(x).astype(jnp.float32)
        normed = (u - _wide(norm["mean"])) / jnp.sqrt(_wide(norm["var"]) + _NORM_EPS)
        spectrum = jnp.fft.rfft2(normed, axes=(1, 2))
        re, im = jnp.real(spectrum), jnp.imag(spectrum)
        amplitude = jnp.sqrt(_away_from_zero(re**2 + im**2))
        phase = jnp.arctan2(im, _away_from_zero(re))
        styled = sigma * amplitude + mu
        styled = jax.lax.complex(styled * jnp.cos(phase), styled * jnp.sin(phase))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        styled = jnp.fft.irfft2(styled, s=x.shape[1:3], axes=(1, 2))
        styled = _wide(scale) * styled + _wide(bias)
        y = x + (styled / 3.0).astype(x.dtype)
        return GatedRefinement(channels, gated=False, name="refine")(y)


def bottleneck(channels: int, config: GBAConfig) -> int | None:
    """The width of SDA's bottleneck at a tap of this many channels; None for none."""
    compact = config.sda_width == "compact" or (config.sda_width == "auto" and channels > _WIDE)
    return BOTTLENECK if compact else None


def initial_state(channels: int, preset: str, config: GBAConfig) -> dict:
    """What SDA keeps between steps: {"style_bank": ...}, with stored norm statistics "sda_norm" in "released".

    "intent" has a bank for the styles that draw from one, as wide as the tensor that is restyled, and nothing otherwise.
    The constants of "released" are zeros and ones, as its public code leaves them.
    """
    if preset == "released":
        zeros = jnp.zeros((banks.STYLES, channels))
        return {
            "style_bank": {"mean": zeros, "deviation": zeros},
            "sda_norm": {"mean": jnp.zeros(channels), "var": jnp.ones(channels)},
        }
    if config.style not in BANKED:
        return {}
    inner = config.sda_mode == "residual" and bottleneck(channels, config)
    return {"style_bank": banks.empty(inner or channels)}


def _wide(x: Array) -> Array:
    return x[None, None, None]


def _away_from_zero(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < _CLAMP, _CLAMP, x)
