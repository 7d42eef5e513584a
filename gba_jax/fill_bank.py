"""Filling the style bank of SDA before training, from pictures that show the styles to draw from (arXiv 2409.08468).

Left alone, training fills the bank with what its own batches look like. This pass fills it from any pictures, of other
domains too: they go through the frozen backbone up to SDA's tap, where the statistics of the tensor that training
restyles are kept, and 64 of them that are far apart become the bank. How the authors fill theirs is not public.

    params.stats["gba"]["style_bank"] = fill_bank(
        model.backbone, params.frozen["clip"], model.gba, params.trainable["gba"], pictures, key=jax.random.key(0)
    )
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from gba_jax.adapters import GBA, Plug, bank, initial_stats
from gba_jax.backbones import Backbone


def fill_bank(
    backbone: Backbone,
    clip_params: Mapping[str, Any],
    module: GBA,
    params: Mapping[str, Any],
    batches: Iterable[UInt8[np.ndarray, "B H W 3"]],
    *,
    pictures: int = bank.FIFO,
    progress: bool = True,
    key: PRNGKeyArray,
) -> bank.Bank:
    """A ready style bank, for `stats["gba"]["style_bank"]`.

    Args:
      backbone: the image tower.
      clip_params: its parameters.
      module: the adapters.
      params: `trainable["gba"]`; what SDA restyles depends on it with `sda_mode="residual"` only.
      batches: pictures of a size that the backbone takes; may be endless. One program is compiled per shape.
      pictures: how many are read, at least 2,048; of more, the last 2,048 are chosen from.
      progress: a bar where standard error is a terminal.
      key: of SDA's own draws, on which the statistics do not depend.

    Raises:
      ValueError: these adapters have no bank to fill, there are too few pictures, or one gives features that are not
        finite.
    """
    import tqdm

    alone = _shallow_alone(module)
    empty = initial_stats(alone)["style_bank"]
    measure = jax.jit(lambda *arrays: _rows(backbone, alone, *arrays))
    rows, done = [], 0
    hidden = None if progress and jax.process_index() == 0 else True
    with tqdm.tqdm(total=pictures, desc="style bank", unit="picture", disable=hidden) as bar:
        for images in batches:
            images = images[: pictures - done]
            found = np.asarray(measure(clip_params, params, images, key))
            if not np.isfinite(found).all():
                raise ValueError(
                    f"pictures {done} to {done + len(images) - 1} give features at {alone.shallow!r} that are not finite: "
                    "check the weights of the image tower"
                )
            rows.append(found)
            done += len(images)
            bar.update(len(images))
            if done >= pictures:
                break
    whole = np.concatenate(rows) if rows else np.zeros((0, 2 * empty["mean"].shape[1]), np.float32)
    mean, deviation = np.split(whole, 2, axis=1)
    return bank.fill(empty, jnp.asarray(mean), jnp.asarray(deviation))


def _shallow_alone(module: GBA) -> GBA:
    """The adapters without CCA, or an error that names every reason why they have no bank."""
    style = module.config.style
    reasons = [
        (module.shallow is None, "there is no SDA: give it a tap"),
        (module.preset != "intent", f"preset={module.preset!r} has constants for a bank, not one that is filled"),
        ("style_bank" not in initial_stats(module), f"style={style!r} draws from no bank"),
    ]  # fmt: skip
    problems = [text for wrong, text in reasons if wrong]
    if problems:
        raise ValueError("these adapters have no style bank to fill: " + "; ".join(problems))
    return module.clone(deep=None)


def _rows(
    backbone: Backbone,
    module: GBA,
    clip_params: Mapping[str, Any],
    params: Mapping[str, Any],
    images: Array,
    key: PRNGKeyArray,
) -> Float[Array, "B 2E"]:
    """What a training step on these pictures pushes into an empty bank, mean then deviation.

    Nothing behind the statistics is used, so the compiler drops the restyling and all later stages.
    """
    stats = initial_stats(module)
    own = {"sda": params["sda"]}
    # Words are CCA's business.
    text, mask = jnp.zeros((1, 1)), jnp.zeros(1, bool)
    plug = Plug(module, own, stats, text=text, row_mask=mask, train=True, key=key)
    backbone.features(clip_params, images, plug)
    state = cast(bank.Bank, plug.stats["style_bank"])
    # A batch that is not finite is not pushed.
    return jnp.where(state["pushed"] > 0, state["fifo"][: images.shape[0]], jnp.nan)
