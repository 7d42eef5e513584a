"""FDBPL: faster distillation-based prompt learning (arXiv 2505.18053), and the prompt learners beside it.

The task itself is `fdbpl_jax.task.build(config)`; `fdbpl_jax.build` is the module that builds lookups.
"""

from fdbpl_jax.config import Config, ConfigError, DataConfig, LookupConfig
from fdbpl_jax.losses import LossConfig, SoftLabels
from fdbpl_jax.predict import Prediction, Predictor, predictor
from fdbpl_jax.prompts import PromptConfig, PromptError

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "LookupConfig",
    "LossConfig",
    "Prediction",
    "Predictor",
    "PromptConfig",
    "PromptError",
    "SoftLabels",
    "predictor",
]
