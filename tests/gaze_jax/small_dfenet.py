"""Quick stand-ins for the towers of CLIP-DFENet: one convolution each, 64 x 64 pictures, 12 channels."""

import flax.linen as nn
import jax.numpy as jnp

from core_jax.nn import STATS, BatchNorm
from core_jax.train import Params
from gaze_jax.networks import cfe, clip_towers
from gaze_jax.networks.face_input import prepare


class Patches(nn.Module):
    """Pictures to maps of 2 x 2: quick to differentiate."""

    channels: int

    @nn.compact
    def __call__(self, pixels, train=False):
        x = nn.Conv(self.channels, (32, 32), (32, 32))(pixels)
        return BatchNorm()(x, train)


class SmallCFE(cfe.CFE):
    """In place of the extractor: the same interface around one convolution."""

    def init(self, *, key):
        made = Patches(12).init(key, jnp.zeros((1, 64, 64, 3)))
        head = nn.Dense(2).init(key, jnp.zeros((1, 12)))["params"]
        return Params(trainable={**made["params"], "head": head}, stats=made[STATS])

    def features(self, params, stats, images, *, train=False, fuse=cfe.untouched, key=None):
        variables = {"params": params, STATS: stats}
        pixels = prepare(images, "imagenet", 64)
        x, new = Patches(12).apply(variables, pixels, train, mutable=[STATS])
        return jnp.mean(fuse(x), axis=(1, 2)), x, new[STATS]


def small_vision(opened):
    """In place of a CLIP's image tower."""
    del opened
    tower, none = Patches(5), (0.0, 0.0, 0.0)

    def init(key):
        made = tower.init(key, jnp.zeros((1, 64, 64, 3)))
        return made["params"], made[STATS]

    def maps(params, stats, pixels, train):
        x, new = tower.apply({"params": params, STATS: stats}, pixels, train, mutable=[STATS])
        return x, new[STATS]

    return clip_towers.Vision(
        init=init, maps=maps, size=64, mean=none, std=(1.0, 1.0, 1.0), digest=""
    )
