"""FDBPL: faster distillation-based prompt learning (arXiv 2505.18053), and the prompt learners beside it."""

from fdbpl_jax.config import Config, ConfigError, DataConfig, LookupConfig
from fdbpl_jax.losses import LossConfig, SoftLabels
from fdbpl_jax.predict import Prediction, Predictor, predictor
from fdbpl_jax.prompts import PromptConfig, PromptError
from fdbpl_jax.task import build

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
    "build",
    "predictor",
]
