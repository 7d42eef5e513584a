"""Backbones that are not CLIP's own, in Flax linen."""

from core_jax.nn.convnext import TAPS, ConvNeXt, ConvNeXtConfig, Tap, untouched

__all__ = ["TAPS", "ConvNeXt", "ConvNeXtConfig", "Tap", "untouched"]
