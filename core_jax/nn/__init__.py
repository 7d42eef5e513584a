"""Backbones that are not CLIP's own, in Flax linen, and what they share with CLIP's: the norm, and taps."""

from core_jax.nn.batch_norm import STATS, BatchNorm
from core_jax.nn.convnext import TAPS, ConvNeXt, ConvNeXtConfig, Tap, norm, untouched
from core_jax.nn.convolution import convolve, larger, max_pool
from core_jax.nn.resnet import RESNET18, RESNET50, ResNet, ResNetConfig

__all__ = [
    "RESNET18",
    "RESNET50",
    "STATS",
    "TAPS",
    "BatchNorm",
    "ConvNeXt",
    "ConvNeXtConfig",
    "ResNet",
    "ResNetConfig",
    "Tap",
    "convolve",
    "larger",
    "max_pool",
    "norm",
    "untouched",
]
