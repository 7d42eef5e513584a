"""Backbones that are not CLIP's own, in Flax linen, and what they share with CLIP's: the norm, and taps."""

from core_jax.nn.convnext import TAPS, ConvNeXt, ConvNeXtConfig, Tap, norm, untouched

__all__ = ["TAPS", "ConvNeXt", "ConvNeXtConfig", "Tap", "norm", "untouched"]
