"""How adapters are put into a backbone that knows nothing of them.

A backbone publishes its taps as `TapSpec`s, takes `tap: Callable[[str, Array], Array]` (default: the identity), calls it on
the output of every stage or block, continues with the result, and returns a dict of maps with `name` (after the tap) and
`name/raw` (before). `GBA` holds the adapters; a `Plug` is what a host hands to the backbone as `tap`.

State is threaded, never hidden. `init` gives (params, stats) for `trainable["gba"]` and `stats["gba"]`, plain nested dicts;
a `Plug` takes both, every tap turns the stats into new ones, and after the forward pass `plug.stats` has the structure,
shapes and dtypes it started with. At eval it is the dict that came in. In a loss:

    plug = Plug(gba, trainable["gba"], stats["gba"], text=rows, row_mask=mask, train=True, key=key)
    maps = plug.merge(backbone(frozen, pixels, tap=plug))
    dense = maps[plug.clip_name]                 # what out-of-vocabulary pooling reads
    ...
    return loss, Aux(stats={"gba": plug.stats}, metrics=metrics)

A `Plug` belongs to one forward pass of one trace: make a new one per call, and keep it out of remat, scan and vmap (remat
the code between the taps instead).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gba_jax.adapters import bank as banks
from gba_jax.adapters import cca, sda
from gba_jax.adapters.config import GBAConfig, check_preset

KINDS = ("map", "tokens")


@dataclasses.dataclass(frozen=True)
class TapSpec:
    """A place in a backbone where features can be read and replaced.

    Attributes:
      name: "res2".."res5" of a ConvNeXt, "block_0".. and "dense" of a ViT.
      channels: E.
      stride: pixels of the image per row of the map.
      kind: "map" for (B, h, w, E), "tokens" for (B, P + h w, E).
      prefix_tokens: P, tokens in front of the grid (the class token) that bypass the adapters.
    """

    name: str
    channels: int
    stride: int
    kind: str
    prefix_tokens: int = 0


class GBA(nn.Module):
    """SDA at one tap and CCA at another; either may be left out.

    Attributes:
      taps: as the backbone publishes them.
      shallow: the tap of SDA, None for none.
      deep: the tap of CCA, None for none.
      preset: "intent", or "released", which implies the flow "stop" and the clip tap "post_cca".
      config: the switches.
    """

    taps: tuple[TapSpec, ...]
    shallow: str | None = None
    deep: str | None = None
    preset: str = "intent"
    config: GBAConfig = GBAConfig()

    def __post_init__(self):
        """Refuse taps that the backbone does not have, all in one message."""
        check_preset(self.preset)
        known = {tap.name: tap for tap in self.taps}
        chosen = {"shallow": self.shallow, "deep": self.deep}
        problems = [
            f"{where}={name!r} is not a tap; there are {', '.join(known) or 'none'}"
            for where, name in chosen.items()
            if name is not None and name not in known
        ]
        problems += [
            f"tap {tap.name!r} has kind={tap.kind!r}, expected one of {', '.join(KINDS)}"
            for tap in self.taps
            if tap.kind not in KINDS
        ]
        if self.shallow is not None and self.shallow == self.deep:
            problems.append(f"shallow and deep are both {self.deep!r}, expected two taps")
        if problems:
            raise ValueError("the adapters do not fit the backbone: " + "; ".join(problems))
        super().__post_init__()

    def setup(self):
        """Only the adapters that have a tap have parameters."""
        if self.shallow is not None:
            self.sda = sda.StyleDiversification(self.preset, self.config)
        if self.deep is not None:
            self.cca = cca.CorrelationConstraint(self.preset, self.config)

    def diversify(self, x, state, *, train=False, key=None):
        """SDA on a map; see `sda.StyleDiversification`."""
        return self.sda(x, state, train=train, key=key)

    def constrain(self, x, text, row_mask, state, *, void=None, pixel_mask=None, train=False):
        """CCA on a map; see `cca.CorrelationConstraint`."""
        options = {"void": void, "pixel_mask": pixel_mask, "train": train}
        return self.cca(x, text, row_mask, state, **options)

    def __call__(self, maps: Mapping[str, Array], text: Array, void: Array | None = None) -> None:
        """Touch every parameter once, with maps by tap name: what `init` traces."""
        stats = initial_stats(self)
        if self.shallow is not None:
            self.diversify(maps[self.shallow], stats)
        if self.deep is not None:
            mask = jnp.ones(text.shape[0], bool)
            self.constrain(maps[self.deep], text, mask, stats, void=void)


def init(module: GBA, text_width: int, *, key: PRNGKeyArray) -> tuple[dict, dict]:
    """Fresh (params, stats) of the adapters; text rows have width D = `text_width`."""
    maps = {tap.name: jnp.zeros((1, 1, 1, tap.channels)) for tap in module.taps}
    void = jnp.zeros(text_width) if module.config.host_void and module.deep else None
    variables: dict = dict(module.init(key, maps, jnp.zeros((1, text_width)), void))
    return variables.get("params", {}), initial_stats(module)


def initial_stats(module: GBA) -> dict:
    """The state before any step, flat by name: "style_bank", and the norms' statistics where there are any."""
    stats = {}
    if module.shallow is not None:
        stats |= sda.initial_state(
            _tap(module, module.shallow).channels, module.preset, module.config
        )
    if module.deep is not None:
        stats |= cca.initial_state(_tap(module, module.deep).channels, module.preset, module.config)
    return stats


class Plug:
    """The adapters bound to a vocabulary, a state and a key for one forward pass: the backbone's `tap`."""

    def __init__(
        self,
        module: GBA,
        params: Mapping[str, Any],
        stats: Mapping[str, Any],
        *,
        text: Float[Array, "V D"],
        row_mask: Bool[Array, "V"],
        void: Float[Array, "D"] | None = None,
        class_of_row: Int[Array, "V"] | None = None,
        present: Bool[Array, "C"] | None = None,
        pixel_mask: Bool[Array, "B h w"] | None = None,
        grid: tuple[int, int] | None = None,
        train: bool = False,
        key: PRNGKeyArray | None = None,
    ):
        """Bind, and sample the vocabulary in training.

        Args:
          module: the adapters.
          params: `trainable["gba"]`.
          stats: `stats["gba"]`; may be {} at eval, unless a norm keeps statistics.
          text: unit text rows.
          row_mask: rows that exist.
          void: the host's void row, where `config.host_void`.
          class_of_row: with `present`, turns on vocabulary sampling in training.
          present: the classes of the batch (`cca.present_classes`).
          pixel_mask: pixels inside the image, at the resolution of the deep tap.
          grid: (h, w) of token taps; by default they are square.
          train: training or eval.
          key: needed in training.

        Raises:
          ValueError: training without a key, parameters made for other channels or text rows, or a style bank of zeros.
        """
        if train and key is None:
            raise ValueError("the adapters are random in training: pass key=, or train=False")
        _check_params(module, params, text.shape[-1])
        if module.preset == "intent" and "style_bank" in stats:
            banks.check(stats["style_bank"])
        style_key, words_key = (None, None) if key is None else jax.random.split(key)
        sampling = module.preset == "intent" and module.config.sample_vocabulary > 0
        if train and sampling and present is not None and class_of_row is not None:
            assert words_key is not None
            probability = module.config.sample_vocabulary
            row_mask = cca.sample_vocabulary(
                row_mask, class_of_row, present, probability=probability, key=words_key
            )
        self.stats = dict(stats)
        self._module, self._params = module, params
        self._words = {"text": text, "row_mask": row_mask, "void": void}
        self._pixel_mask, self._grid = pixel_mask, grid
        self._train, self._key = train, style_key
        self._aside: dict[str, Array] = {}

    def __call__(self, name: str, x: Array) -> Array:
        """What the backbone continues with after the tap `name`; x itself where no adapter sits.

        Raises:
          ValueError: the features do not have the channels that the tap announced.
        """
        if name not in (self._module.shallow, self._module.deep):
            return x
        tap = _tap(self._module, name)
        if x.shape[-1] != tap.channels:
            raise ValueError(
                f"tap {name!r} was announced with {tap.channels} channels, but the backbone passes {x.shape}"
            )
        prefix, body = _to_map(x, tap, self._grid)
        options: dict[str, Any]
        if name == self._module.deep:
            method, args = GBA.constrain, (body, self._words["text"], self._words["row_mask"])
            options = {"void": self._words["void"], "pixel_mask": self._pixel_mask}
        else:
            method, args, options = GBA.diversify, (body,), {"key": self._key}
        y, self.stats = self._module.apply(
            {"params": self._params}, *args, self.stats, train=self._train, method=method, **options
        )
        y = y if prefix is None else jnp.concatenate([prefix, y.reshape(*_flat(y))], axis=1)
        flow = "stop" if self._module.preset == "released" else self._module.config.sda_flow
        if name == self._module.deep or flow == "through":
            return y
        self._aside[name] = y
        return jax.lax.stop_gradient(y) if flow == "stop" else x

    def merge(self, features: Mapping[str, Array]) -> dict[str, Array]:
        """The backbone's maps as the decoder is to see them: with SDA's output where the later stages saw another."""
        return {**features, **self._aside}

    @property
    def clip_name(self) -> str | None:
        """The map that out-of-vocabulary pooling reads; None without a deep tap."""
        deep = self._module.deep
        after = self._module.preset == "released" or self._module.config.clip_tap == "post_cca"
        return deep if deep is None or after else f"{deep}/raw"


def _tap(module: GBA, name: str) -> TapSpec:
    return next(tap for tap in module.taps if tap.name == name)


def _flat(y: Array) -> tuple[int, int, int]:
    return y.shape[0], y.shape[1] * y.shape[2], y.shape[3]


def _to_map(x: Array, tap: TapSpec, grid: tuple[int, int] | None) -> tuple[Array | None, Array]:
    """(tokens that bypass, the rest on its grid)."""
    if tap.kind == "map":
        return None, x
    prefix, tokens = x[:, : tap.prefix_tokens], x[:, tap.prefix_tokens :]
    side = math.isqrt(tokens.shape[1])
    height, width = grid or (side, side)
    if height * width != tokens.shape[1]:
        raise ValueError(
            f"tap {tap.name!r} has {tokens.shape[1]} tokens behind {tap.prefix_tokens}, but the grid is {height} x {width}: "
            "pass grid=(h, w)"
        )
    return prefix, tokens.reshape(x.shape[0], height, width, x.shape[2])


def _check_params(module: GBA, params: Mapping[str, Any], text_width: int) -> None:
    problems = []
    for name, adapter in ((module.shallow, "sda"), (module.deep, "cca")):
        if name is None:
            continue
        if adapter not in params:
            problems.append(f"{adapter} at tap {name!r} has no parameters")
            continue
        inside = params[adapter]
        # The outer gain (released: the affine) is as wide as the map; the convolutions may sit in a bottleneck.
        made_for = inside["gain" if module.preset == "intent" else "bias"].shape[0]
        channels = _tap(module, name).channels
        if made_for != channels:
            problems.append(
                f"{adapter} was made for {made_for} channels, tap {name!r} has {channels}"
            )
        if adapter == "cca" and (rows := inside["key_norm"]["scale"].shape[0]) != text_width:
            problems.append(f"cca was made for text rows of width {rows}, they have {text_width}")
    if problems:
        raise ValueError("the parameters do not fit the backbone: " + "; ".join(problems))
