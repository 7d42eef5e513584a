"""DRNet, a differential residual network for gaze from eyes (arXiv 2208.04298; Sensors 22(14):5462, 2022).

A query eye I and a reference eye F of the same person go through one trunk E. A difference map m tells what changed; added
to a projection of the query's own map it is a residual that the gaze answer starts from, so that a bad reference does little
harm. A second head predicts the difference of the two gazes, as Diff-NN does (arXiv 1904.09459).

The paper's layer sizes, loss weight and recipe are not public to us and no code was released: this is our reconstruction
from what is certain, on Diff-NN's trunk.

  f = E(picture)    m = conv3(ReLU(BN(conv3([f_I, f_F]))))    r = ReLU(m + conv1(f_I))
  gaze g^ = head(r, h_I, h_F)    difference d^ = head'(ReLU(m), h_I, h_F), of g_I - g_F    h: angles of the head

Shapes: B pairs, (H, W, c) pictures, (h, w, E) maps, P = 2 angles in radians.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core_jax.nn import STATS
from core_jax.train import Params
from gaze_jax import augment, corrupt, losses
from gaze_jax.model import Batch, Codes, Model, References
from gaze_jax.networks.drnet_network import DRNetConfig, Network
from gaze_jax.recipe import Recipe

RECIPE = Recipe(epochs=20, batch_size=128, warmup_epochs=1.0, weight_decay=1e-4)

PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {"weight": 0.75, "normalise": "scale", "augment": False, "corrupt": 0.0},
    "recommended": {"weight": 0.5, "normalise": "image", "augment": True, "corrupt": 0.1},
}
"""The two presets; `recommended` also has the data sample a tenth of the references as the query itself."""


def make(
    config: DRNetConfig, size: tuple[int, int, int] = (36, 60, 1), *, dtype: str = "float32"
) -> Model:
    """DRNet, or one of the two baselines that fall out of it.

    Args:
      config: which, and how.
      size: (H, W, c) of the pictures.
      dtype: of activations; statistics, heads' last layers and losses are float32.
    """
    network = Network(config, jnp.dtype(dtype))
    bind = lambda function: functools.partial(function, network, config)
    pairs, gaze = config.use != "absolute", config.use != "difference"
    return Model(
        name={"difference": "diffnn"}.get(config.use, config.use),
        kind="eye",
        size=size,
        uses_head=config.uses_head,
        init=functools.partial(init, network, size),
        loss=losses.Loss(see=bind(see), judge=functools.partial(judge, config), predicts=gaze),
        predict=bind(predict) if gaze else None,
        features=bind(features),
        references=References(encode=bind(encode), compare=bind(compare)) if pairs else None,
    )


def init(network: Network, size: tuple[int, int, int], key: PRNGKeyArray) -> Params:
    """Fresh parameters and statistics."""
    pairs = network.config.use != "absolute"
    pictures = jnp.zeros((2, *network.config.input_size, size[2]), jnp.float32)
    method = network.pair if pairs else network.alone
    start = jax.jit(lambda key: network.init(key, pictures, jnp.zeros((2, 2)), method=method))
    variables = start(key)
    return Params(trainable=variables["params"], stats=variables.get(STATS, {}))


def see(
    network: Network,
    config: DRNetConfig,
    trainable: Any,
    frozen: Any,
    stats: Any,
    batch: Batch,
    key: Array,
) -> tuple[tuple[Array | None, Array | None], Any]:
    """One training step's answers ((g^, d^), new statistics), None where there is no such head."""
    del frozen
    pairs = config.use != "absolute"
    corrupt_key, augment_key, dropout_key = jax.random.split(key, 3)
    pictures, head = batch["image"], batch["head"]
    if pairs:
        reference = batch["ref_image"]
        if config.corrupt:
            reference = corrupt.sometimes(reference, config.corrupt, key=corrupt_key)
        pictures = jnp.concatenate([pictures, reference])
        head = jnp.concatenate([head, batch["ref_head"]])
    if config.augment:
        pictures = augment.augment(pictures, key=augment_key)
    shape = (2 if pairs else 1, batch["gaze"].shape[0], config.hidden)
    kept = 1.0 - config.dropout
    keep = jax.random.bernoulli(dropout_key, kept, shape).astype(jnp.float32) / kept
    answers, new = network.apply(
        {"params": trainable, STATS: stats},
        _seen(config, pictures),
        head,
        keep,
        True,
        method=network.pair if pairs else network.alone,
        mutable=[STATS],
    )
    return answers if pairs else (answers, None), dict(new).get(STATS, {})


def judge(
    config: DRNetConfig, trainable: Any, frozen: Any, answers: Any, batch: Batch, key: Array
) -> tuple[Array, Array, dict[str, losses.Pair]]:
    """The loss.

      L = w |g^ - g_I|_1 + (1 - w) |d^ - (g_I - g_F)|_1,  means over pairs and angles

    Returns:
      (g^, or d^ where there is no gaze head; the loss; metrics).
    """
    del trainable, frozen, key
    gaze, difference = answers
    value, metrics = jnp.zeros((), jnp.float32), {}
    weights = {"absolute": (1.0, 0.0), "difference": (0.0, 1.0)}
    own, rest = weights.get(config.use, (config.weight, 1.0 - config.weight))
    if gaze is not None:
        metrics["loss_gaze"] = losses.l1(gaze, batch["gaze"])
        value = value + own * losses.mean(metrics["loss_gaze"])
    if difference is not None:
        metrics["loss_difference"] = losses.l1(difference, batch["gaze"] - batch["ref_gaze"])
        value = value + rest * losses.mean(metrics["loss_difference"])
    predicted = difference if gaze is None else gaze
    assert predicted is not None
    return predicted, value, metrics


def encode(
    network: Network,
    config: DRNetConfig,
    params: Params,
    images: UInt8[Array, "B H W c"],
    head: Float[Array, "B P"],
) -> Codes:
    """See `gaze_jax.model.References`."""
    return _ask(network, params, network.encode, _seen(config, images), head)


def compare(
    network: Network, config: DRNetConfig, params: Params, query: Codes, reference: Codes
) -> tuple[Array | None, Array | None]:
    """See `gaze_jax.model.References`."""
    del config
    return _ask(network, params, network.compare, query, reference)


def predict(
    network: Network, config: DRNetConfig, params: Params, images: Array, head: Array
) -> Float[Array, "B P"]:
    """Gaze from one picture: the picture is its own reference."""
    if config.use == "absolute":
        return _ask(network, params, network.alone, _seen(config, images), head)
    codes = encode(network, config, params, images, head)
    gaze, _ = compare(network, config, params, codes, codes)
    assert gaze is not None
    return gaze


def features(
    network: Network, config: DRNetConfig, params: Params, images: Array, head: Array
) -> Float[Array, "B F"]:
    """See `gaze_jax.model.Model`."""
    return _ask(network, params, network.features, _seen(config, images), head)


def _seen(config: DRNetConfig, images: Array) -> Float[Array, "B H W c"]:
    return augment.resize(augment.normalise(images, config.normalise), *config.input_size)


def _ask(network: Network, params: Params, method: Any, *arguments: Any) -> Any:
    return network.apply(
        {"params": params.trainable, STATS: params.stats}, *arguments, method=method
    )
