"""The text tower three ways, at ViT-B size (12 layers, width 512): 77 tokens, trimmed, shared prefix.

M = 16 context tokens, suffixes of 6 (three words of a name, the full stop, the end token), so a sentence has 1 + 16 + 6
= 23 tokens. "gradient" is with respect to the context. Weights are random. The torch tower runs the same 77 tokens where
torch and transformers are installed. Sentences go through in chunks of 200, recomputed in the backward pass, where 77
tokens for all classes would not fit into memory. With ten classes too few tokens are left to fill the cores: the ratio grows
with the number of classes.

--classes=10,100,1000 chooses the numbers of classes.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from core_jax import clip
from launch.benchmarks import timing

_CLASSES = flags.DEFINE_list("classes", ["10", "100"], "text_tower: numbers of classes")

CONTEXT, SUFFIX, CHUNK = 16, 6, 200


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    config = clip.ClipConfig()
    params = clip.init(config, key=jax.random.key(0))
    rows = timing.Rows("text tower, 12 x 512, M = 16, suffix 6 tokens; ours: shared prefix")
    torch_times = _torch_times if _has_torch() else None
    for classes in map(int, _CLASSES.value):
        prefix, suffix = _embedded(config, classes)
        modes = {mode: _mode(config, mode) for mode in ("prefix", "trimmed", "full")}
        repeats = 3 if classes <= 100 else 1
        times = {}
        for mode, features in modes.items():
            forward = jax.jit(features)
            gradient = jax.jit(jax.grad(_scalar(features)))
            for name, call in (("forward", forward), ("gradient", gradient)):
                call = functools.partial(call, prefix, suffix, params)
                times[mode, name] = timing.seconds(call, repeats=repeats)
        reference = torch_times(config, prefix, suffix, repeats) if torch_times else {}
        for name in ("forward", "gradient"):
            ours = times["prefix", name]
            work = f"C = {classes}, {name}: shared prefix against"
            rows.add(f"{work} trimmed (23 tokens)", ours, times["trimmed", name])
            rows.add(f"{work} 77 tokens", ours, times["full", name])
            if name in reference:
                rows.add(f"{work} torch, 77 tokens", ours, reference[name])
    return rows.rows


def _embedded(config: clip.ClipConfig, classes: int) -> tuple[jax.Array, jax.Array]:
    width = config.text.width
    prefix_key, suffix_key = jax.random.split(jax.random.key(1))
    prefix = 0.02 * jax.random.normal(prefix_key, (1, 1 + CONTEXT, width))
    return prefix, 0.02 * jax.random.normal(suffix_key, (classes, SUFFIX, width))


def _mode(config: clip.ClipConfig, mode: str) -> Callable[..., jax.Array]:
    """(prefix, suffix, params) -> features (C, D) in one of the three ways."""

    def features(prefix, suffix, params):
        end = jnp.full((len(suffix),), SUFFIX - 1)
        if mode == "prefix":
            past = clip.encode_prefix(params, config, prefix)
            return clip.encode_with_prefix(params, config, past, suffix, end)[0]
        length = config.text.context_length if mode == "full" else 1 + CONTEXT + SUFFIX
        chunk = min(CHUNK, len(suffix))

        @jax.checkpoint
        def some(suffix):
            before = jnp.broadcast_to(prefix, (len(suffix), *prefix.shape[1:]))
            whole = jnp.concatenate([before, suffix], axis=1)
            whole = jnp.pad(whole, ((0, 0), (0, length - whole.shape[1]), (0, 0)))
            return clip.encode_embedded(params, config, whole, end[:chunk] + 1 + CONTEXT)

        if chunk == len(suffix):
            return some.__wrapped__(suffix)
        return jax.lax.map(some, suffix.reshape(-1, chunk, *suffix.shape[1:])).reshape(
            len(suffix), -1
        )

    return features


def _scalar(features: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda prefix, suffix, params: jnp.sum(features(prefix, suffix, params) ** 2)


def _has_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def _torch_times(config, prefix, suffix, repeats) -> dict[str, float]:
    """The same sentences, padded to 77 tokens, through HuggingFace's encoder."""
    import torch
    from transformers import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    text = config.text
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            intermediate_size=text.mlp_width,
            hidden_act=text.activation,
        )
    ).eval()
    model.requires_grad_(False)
    tower = getattr(model, "text_model", model)
    causal = torch.full((77, 77), -torch.inf).triu(1)[None, None]

    def features(before, behind):
        whole = torch.cat([before.expand(len(behind), -1, -1), behind], dim=1)
        whole = torch.nn.functional.pad(whole, (0, 0, 0, 77 - whole.shape[1]))
        hidden = tower.embeddings(inputs_embeds=whole)
        hidden = tower.encoder(inputs_embeds=hidden, attention_mask=causal)[0]
        return tower.final_layer_norm(hidden[:, CONTEXT + SUFFIX])

    before = torch.from_numpy(np.array(prefix)).requires_grad_(True)
    chunks = torch.from_numpy(np.array(suffix)).split(CHUNK)

    def forward():
        with torch.no_grad():
            for behind in chunks:
                features(before, behind)

    def gradient():
        for behind in chunks:
            features(before, behind).square().sum().backward()

    return {
        "forward": timing.seconds(forward, repeats=repeats),
        "gradient": timing.seconds(gradient, repeats=repeats),
    }
