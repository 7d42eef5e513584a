"""A segmenter: a host on a CLIP image tower, with or without GBA's adapters (arXiv 2409.08468), as pure functions.

What is trained is `trainable["host"]` and `trainable["gba"]`, and parts of the tower where asked for; the tower and the
training vocabulary's text rows are frozen. Shapes: B pictures, S their side, (h, w) a host's map, C classes (padded), Q
queries, G segment slots.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from core_jax.train import Params
from core_jax.train.memory import WHOLE, Memory, run
from gba_jax import adapters, fourier, losses
from gba_jax.adapters import GBA, Plug
from gba_jax.backbones import Backbone
from gba_jax.hosts import cost, ensemble, mask_outputs, maskclip, masks
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.masks import MaskConfig
from gba_jax.hosts.pyramid import SimplePyramid
from gba_jax.vocabulary import TextRows

Tree = Mapping[str, Any]

# What `clip_finetune` trains of the image tower, as patterns of paths.
FINETUNED = {
    "none": r"(?!)",
    "qv": r".*/attention/(query|value)/.*|.*position_embedding",
    "full": r".*",
}


class Queries(NamedTuple):
    """What mask classification says of a picture.

    Attributes:
      probabilities: of the classes, void last; they sum to 1, masked classes have 0.
      mask_logits: of the queries' masks.
    """

    probabilities: Float[Array, "B Q C+1"]
    mask_logits: Float[Array, "B Q h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter:
    """The static half of a model; arrays are arguments.

    Attributes:
      host: "maskclip", "cost" or "masks".
      backbone: the image tower.
      gba: adapters, None for none.
      cost: of the host of that name.
      masks: likewise.
      mask_loss: likewise.
      ignore: cost aggregation: what ignored pixels count as.
      amplitude: amplitude augmentation of the training pictures, "none" for none.
      finetune: key of `FINETUNED`.
      alpha, beta: exponents of the out-of-vocabulary branch for words seen and unseen in training.
      denoise, key_smoothing: of host 0.
      memory: how tower and host run over a batch in training.
    """

    host: str
    backbone: Backbone
    gba: GBA | None = None
    cost: CostConfig = dataclasses.field(default_factory=CostConfig)
    masks: MaskConfig = dataclasses.field(default_factory=MaskConfig)
    mask_loss: losses.MaskLossConfig = dataclasses.field(default_factory=losses.MaskLossConfig)
    ignore: Literal["drop", "negative"] = "drop"
    amplitude: str = "none"
    finetune: str = "none"
    alpha: float = 0.4
    beta: float = 0.8
    denoise: float | None = None
    key_smoothing: float | None = None
    memory: Memory = WHOLE

    def __post_init__(self):
        """Refuse a training-free host on a tower that it cannot read."""
        if self.host == "maskclip" and not self.backbone.is_vit:
            raise ValueError("host 'maskclip' needs a ViT: its last block is what it changes")

    def init(self, clip_params: Tree, text: TextRows, *, key: PRNGKeyArray) -> Params:
        """Fresh host and adapters on given towers.

        Args:
          clip_params: {"vision", "logit_scale"} of the image tower.
          text: the training vocabulary.
          key: of everything that starts at random.

        Returns:
          trainable {"host", "gba", "clip"} (those there are), frozen {"clip", "text"}, stats {"gba"}.
        """
        host_key, gba_key = jax.random.split(key)
        trainable, stats = {}, {}
        tuned, still = partition(clip_params, FINETUNED[self.finetune])
        if self.host != "maskclip":
            trainable |= self._init_host(clip_params, text, host_key)
        if tuned:
            trainable["clip"] = tuned
        if self.gba is not None:
            params, state = adapters.init(self.gba, self.backbone.width, key=gba_key)
            trainable["gba"], stats["gba"] = params, state
        return Params(
            trainable=trainable, frozen={"clip": still, "text": text._asdict()}, stats=stats
        )

    def _init_host(self, clip_params: Tree, text: TextRows, key: PRNGKeyArray) -> dict:
        """Parameters of the host, and of the pyramid where it needs one."""
        pyramid_key, host_key = jax.random.split(key)
        side = self.backbone.image_size or 2 * self.backbone.stride
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        # Shapes are all that matters here: the tower is traced, never run.
        shapes = jax.eval_shape(lambda x: self.backbone.features(clip_params, x), images)
        maps = {name: jnp.zeros(s.shape, jnp.float32) for name, s in shapes.items()}
        made = {}
        if self._has_pyramid:
            made["pyramid"] = _init(SimplePyramid(self.masks.width), maps["dense"], key=pyramid_key)
        args = self._inputs(made, clip_params, maps, text)
        options = {"train": False} if self.host == "cost" else {}
        made["host"] = _init(self._module, *args, key=host_key, **options)
        return made

    def loss(
        self, trainable: Tree, frozen: Tree, stats: Tree, batch: Tree, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict, dict[str, losses.Pair]]:
        """The host's loss on a batch of `gba_jax.data`; the adapters have none of their own.

        Returns:
          (loss, new stats, metrics as (sum, count)).
        """
        image_key, plug_key, loss_key = jax.random.split(key, 3)
        clip_params, text = _merge(trainable, frozen), TextRows(**frozen["text"])
        images, labels = batch["image"], batch["label"]
        classes = text.class_mask.shape[0]
        # A class that is masked in training is one whose pixels are to be ignored.
        known = jnp.append(text.class_mask, False)[labels]
        labels = jnp.where(known, labels, -1)
        if self.amplitude != "none":
            images = fourier.augment_amplitude(images, kind=self.amplitude, key=image_key)
        present = jax.vmap(lambda own: adapters.present_classes(own, classes))(labels)

        def network(own: dict, part: Tree, key: PRNGKeyArray) -> tuple[Any, dict]:
            """The host's answers; the adapters' statistics come and go."""
            seen = part["present"]
            plug = self._plug(trainable, own, text, present=jnp.any(seen, 0), key=key)
            maps = self.backbone.features(clip_params, part["image"], plug)
            args = self._inputs(trainable, clip_params, maps, text)
            options = {"required": seen, "train": True} if self.host == "cost" else {}
            found: Any = self._module.apply({"params": trainable["host"]}, *args, **options)
            if self.host == "cost":
                # The vocabulary's mask has no batch axis.
                found = found._replace(class_mask=None)
            return found, {} if plug is None else {"gba": plug.stats}

        own = {} if self.gba is None else {"gba": stats["gba"]}
        pictures = {"image": images, "present": present}
        found, new = run(network, own, pictures, memory=self.memory, key=plug_key)
        if self.host == "cost":
            found = found._replace(class_mask=text.class_mask)
            value, metrics = cost.loss(found, labels, text.class_mask, ignore=self.ignore)
            return value, new, metrics
        slots = jnp.where(
            jnp.append(text.class_mask, False)[batch["classes"]], batch["classes"], -1
        )
        value, metrics = losses.mask_classification(
            found, batch["segment"], slots, self.mask_loss, key=loss_key
        )
        return value, new, metrics

    def scores(
        self,
        params: Params,
        images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"],
        text: TextRows,
        seen: Bool[Array, "C"],
    ) -> Float[Array, "B C h w"]:
        """How well each class fits each place, 0 for padded classes: in [0, 1], but sums of masks may exceed 1.

        Clip where a score is shown, never before an arg-max: clipping makes ties, and the first class would win them.

        Args:
          params: as `init` makes them; `frozen["text"]` is not read.
          images: uint8 or normalised; a ViT takes its own size, a ConvNeXt any multiple of its stride.
          text: any vocabulary.
          seen: classes that share a word with the training vocabulary; mask classification weighs its branches by it.
        """
        clip_params = _merge(params.trainable, params.frozen)
        if self.host == "maskclip":
            options = {"denoise": self.denoise, "key_smoothing": self.key_smoothing}
            pixels = self.backbone.pixels(images)
            config, mode = self.backbone.clip, self.backbone.mode
            found = maskclip.logits(clip_params, config, pixels, text, mode=mode, **options)
            return jnp.moveaxis(jax.nn.softmax(found, axis=-1), -1, 1)
        if self.host == "masks":
            found = self.queries(params, images, text, seen)
            return mask_outputs.semantic(*found)
        plug = self._plug(params.trainable, params.stats, text)
        maps = self.backbone.features(clip_params, images, plug)
        args = self._inputs(params.trainable, clip_params, maps, text)
        host = {"params": params.trainable["host"]}
        return cost.scores(self._module.apply(host, *args, train=False))

    def queries(
        self,
        params: Params,
        images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"],
        text: TextRows,
        seen: Bool[Array, "C"],
    ) -> Queries:
        """Masks with their classes, both branches together; arguments as those of `scores`.

        Raises:
          ValueError: the host has no queries.
        """
        if self.host != "masks":
            raise ValueError(
                f"host {self.host!r} has no masks of segments; host 'masks' does (panoptic and instance output)"
            )
        clip_params = _merge(params.trainable, params.frozen)
        plug = self._plug(params.trainable, params.stats, text)
        maps = self.backbone.features(clip_params, images, plug)
        clip_map = maps[(plug and plug.clip_name) or self.backbone.deep]
        args = self._inputs(params.trainable, clip_params, maps, text)
        inside, mask_logits = self._module.apply({"params": params.trainable["host"]}, *args)[-1]
        outside = ensemble.out_of_vocabulary(
            clip_map,
            mask_logits,
            lambda x: self.backbone.project(clip_params, x),
            self.backbone.logit_scale(clip_params),
            text,
        )
        probabilities = ensemble.combine(inside, outside, seen, alpha=self.alpha, beta=self.beta)
        return Queries(probabilities, mask_logits)

    def _plug(
        self,
        trainable: Tree,
        stats: Tree,
        text: TextRows,
        *,
        present: Array | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Plug | None:
        if self.gba is None:
            return None
        void = trainable["host"]["void"] if self.gba.config.host_void else None
        return Plug(
            self.gba,
            trainable["gba"],
            stats["gba"],
            text=text.rows,
            row_mask=text.row_mask,
            void=void,
            class_of_row=text.class_of_row,
            present=present,
            train=key is not None,
            key=key,
        )

    @property
    def _module(self) -> Any:
        if self.host == "masks":
            return masks.MaskClassification(self.masks)
        return cost.CostAggregation(self.cost)

    @property
    def _has_pyramid(self) -> bool:
        """A ViT has one resolution, mask classification wants four."""
        return self.host == "masks" and self.backbone.is_vit

    def _inputs(self, trainable: Tree, clip_params: Tree, maps: Tree, text: TextRows) -> tuple:
        """What the host's module is called with."""
        deep = maps[self.backbone.deep]
        if self._has_pyramid:
            pyramid: Any = SimplePyramid(self.masks.width)
            return pyramid.apply({"params": trainable["pyramid"]}, deep), text
        if self.host == "masks":
            return maps, text
        names = self.backbone.shallow_blocks() if self.backbone.is_vit else ("res4", "res3", "res2")
        guides = tuple(maps[name] for name in names)
        return self.backbone.project(clip_params, deep), guides, text


# `Segmenter.scores` and `Segmenter.queries` as one program for all who ask the same host with the same shapes.
run_scores = jax.jit(Segmenter.scores, static_argnums=0)
run_queries = jax.jit(Segmenter.queries, static_argnums=0)


def _init(module: nn.Module, *args: Any, key: PRNGKeyArray, **options: Any) -> dict:
    # The text rows and maps are arguments: as constants they would be folded while compiling.
    return dict(jax.jit(functools.partial(module.init, **options))(key, *args))["params"]


def partition(params: Tree, pattern: str) -> tuple[dict, dict]:
    """(the leaves below "vision" whose whole path fits, all others), as nested dicts."""
    flat = flax.traverse_util.flatten_dict(dict(params), sep="/")
    tuned = {p for p in flat if p.startswith("vision/") and re.fullmatch(pattern, p)}
    nested = lambda paths: flax.traverse_util.unflatten_dict({p: flat[p] for p in paths}, sep="/")
    return nested(sorted(tuned)), nested(sorted(flat.keys() - tuned))


def _merge(trainable: Tree, frozen: Tree) -> dict:
    """The image tower as it is applied: the frozen arrays and those that are trained."""
    parts = (frozen["clip"], trainable.get("clip", {}))
    flat = [flax.traverse_util.flatten_dict(dict(part), sep="/") for part in parts]
    return flax.traverse_util.unflatten_dict(flat[0] | flat[1], sep="/")
