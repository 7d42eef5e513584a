"""The two adapters of GBA (arXiv 2409.08468) and the plug that puts them into a backbone.

Hosts need `GBA`, `Plug`, `TapSpec` and `init`; the adapters themselves are for whoever wants one alone.
"""

from gba_jax.adapters import bank
from gba_jax.adapters.cca import CorrelationConstraint, present_classes, sample_vocabulary
from gba_jax.adapters.config import GBAConfig
from gba_jax.adapters.plug import GBA, Plug, TapSpec, init, initial_stats
from gba_jax.adapters.sda import StyleDiversification

__all__ = [
    "GBA",
    "CorrelationConstraint",
    "GBAConfig",
    "Plug",
    "StyleDiversification",
    "TapSpec",
    "bank",
    "init",
    "initial_stats",
    "present_classes",
    "sample_vocabulary",
]
