"""The network of CLIP-DFENet (arXiv 2502.20128) out of its opened parts: parameters, features and the loss of training.

Shapes: B faces, (H, W, 3) pictures, F channels of a feature (32), P = 2 angles (pitch, yaw) in radians, G grades, D width of
the anchors.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core_jax.nn import STATS
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.networks import alignment, double_head, fusion
from gaze_jax.networks.cfe import CFE, Fuse
from gaze_jax.networks.cfe import untouched as unfused
from gaze_jax.networks.clip_towers import Vision
from gaze_jax.networks.dfenet_config import DFENetConfig


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """The parts that a configuration asks for, opened; those it leaves out are None.

    Parameters: `trainable` {"cfe", "fusion", "projection" or not, "clip" or not}, `stats` {"cfe", "fusion", "clip" or not},
    `frozen` {"clip": {"params", "stats"}, "anchors" (G, D), "projection"}, whatever there is of them.
    """

    config: DFENetConfig
    cfe: CFE
    vision: Vision | None
    fusion: fusion.Fusion | None
    anchors: Float[np.ndarray, "G D"] | None
    cuts: tuple[float, ...] | None

    def init(self, key: PRNGKeyArray) -> Params:
        """See the class."""
        cfe_key, fusion_key, clip_key, projection_key = jax.random.split(key, 4)
        extractor = self.cfe.init(key=cfe_key)
        trainable: dict[str, Any] = {"cfe": extractor.trainable}
        frozen: dict[str, Any] = {}
        stats: dict[str, Any] = {"cfe": extractor.stats}
        c = self.config
        if self.vision is not None and self.fusion is not None:
            tower, running = self.vision.init(clip_key)
            pixels = jax.ShapeDtypeStruct((1, self.vision.size, self.vision.size, 3), jnp.float32)
            vision = self.vision
            clip_map, _ = jax.eval_shape(
                lambda t, r, x: vision.maps(t, r, x, False), tower, running, pixels
            )
            side, width = self.cfe.config.image_size // 32, self.cfe.config.width
            made = jax.jit(self.fusion.init)(
                fusion_key, jnp.zeros((1, side, side, width)), jnp.zeros(clip_map.shape)
            )
            trainable["fusion"], stats["fusion"] = made["params"], made[STATS]
            if c.tower == "trained":
                trainable["clip"], stats["clip"] = tower, running
            else:
                frozen["clip"] = {"params": tower, "stats": running}
        if self.anchors is not None:
            frozen["anchors"] = jnp.asarray(self.anchors)
            out = self.cfe.config.width * (2 if c.pair == "concat" else 1)
            projection = alignment.init_projection(self.anchors.shape[1], out, key=projection_key)
            (frozen if c.projection == "fixed" else trainable)["projection"] = projection
        return Params(trainable=trainable, frozen=frozen, stats=stats)

    def features(
        self,
        params: Params,
        images: UInt8[Array, "B H W 3"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B F"], dict]:
        """f, and what the statistics become."""
        trainable, stats = params.trainable, dict(params.stats)
        fuse: Fuse = unfused
        if self.vision is not None and self.fusion is not None:
            clip_map = self._clip_map(params, stats, images, train)
            side = self.cfe.config.image_size // 32
            module, own = self.fusion, {"params": trainable["fusion"], STATS: stats["fusion"]}
            c, new = module.apply(
                own,
                fusion.to_grid(clip_map, side),
                train,
                method="reduce",
                mutable=[STATS],
            )
            stats["fusion"] = new[STATS] if train else stats["fusion"]
            fuse = lambda x: _join(module, own, x, c)
        f, _, stats["cfe"] = self.cfe.features(
            trainable["cfe"], stats["cfe"], images, train=train, fuse=fuse, key=key
        )
        return f, stats

    def gaze(self, params: Params, f: Float[Array, "B F"]) -> Float[Array, "B P"]:
        """(pitch, yaw) of head 1."""
        return self.cfe.gaze(params.trainable["cfe"], f)

    def see(
        self, trainable: dict, frozen: dict, stats: dict, batch: Any, key: Array
    ) -> tuple[Float[Array, "B F"], dict]:
        """What `losses.Loss` asks for: f, and what the statistics become."""
        params = Params(trainable=trainable, frozen=frozen, stats=stats)
        return self.features(params, batch["image"], train=True, key=jax.random.split(key)[0])

    def judge(
        self, trainable: dict, frozen: dict, f: Float[Array, "B F"], batch: Any, key: Array
    ) -> tuple[Array, Array, dict[str, losses.Pair]]:
        """Likewise: (gaze, the loss, metrics).

        Raises:
          ValueError: a batch of one with the LDM, or cuts="quantile" without the labels of the training set.
        """
        c, mask_key = self.config, jax.random.split(key)[1]
        predicted, gaze = self.cfe.gaze(trainable["cfe"], f), batch["gaze"]
        metrics = {"loss_l1": losses.l1(predicted, gaze)}
        value = losses.mean(metrics["loss_l1"])
        if c.dgr:
            keep = double_head.draw(f.shape[1], c.dropped, key=mask_key)
            metrics["loss_head2"] = losses.l1(double_head.answer(f, keep, c.mask), gaze)
            value = value + c.head2_weight * losses.mean(metrics["loss_head2"])
        if c.ldm:
            aligned = self._align(f, gaze, trainable, frozen)
            metrics["loss_align"] = (aligned, jnp.ones((), jnp.float32))
            value = value + c.align_weight * aligned
        return predicted, value, metrics

    def _align(self, f: Array, gaze: Array, trainable: dict, frozen: dict) -> Array:
        c = self.config
        if self.cuts is None:
            raise ConfigError(
                "dfenet.cuts='quantile' needs the labels of the training set: give them to `make` as `gaze`"
            )
        layer = (frozen if c.projection == "fixed" else trainable)["projection"]
        return alignment.align(
            f,
            gaze,
            alignment.project(layer, frozen["anchors"]),
            cuts=self.cuts,
            distance=c.distance,
            pair=c.pair,
            softmax=c.softmax,
            tau=c.tau,
        )

    def _clip_map(self, params: Params, stats: dict, images: Array, train: bool) -> Array:
        """CLIP's map; the statistics of a tower that is trained move in `stats`."""
        assert self.vision is not None
        pixels = self.vision.pixels(images, self.config.clip_input, self.cfe.dtype)
        if self.config.tower == "trained":
            clip_map, stats["clip"] = self.vision.maps(
                params.trainable["clip"], stats["clip"], pixels, train
            )
            return clip_map
        own = params.frozen["clip"]
        return jax.lax.stop_gradient(
            self.vision.maps(own["params"], own["stats"], pixels, False)[0]
        )


def _join(module: fusion.Fusion, variables: dict, x: Array, c: Array) -> Array:
    joined: Any = module.apply(variables, x, c, method="join")
    return joined
