"""The decoder of cost maps over a ViT: attention in shifted windows and over classes (CAT-Seg, arXiv 2303.11797).

The windows are those of Swin (arXiv 2103.14030), on the map of every class by itself.

Shapes: B images, K classes, (h, w) grid, E channels, G channels of the picture's guide; n windows of t cells.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gba_jax.hosts.cost_blocks import ClassBlock, Guided, Up, Upsample, layer_norm, mlp, xavier
from gba_jax.hosts.cost_config import CostConfig


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a grid is cut into windows: padded to whole ones, rolled by `shift`, so that all have one size.

    Windows are no larger than the grid, and an axis with a single window is not shifted.

    Attributes:
      grid: (h, w).
      size: of a window.
      shifted: whether by half a window.
    """

    grid: tuple[int, int]
    size: int
    shifted: bool

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of a window."""
        return min(self.size, self.grid[0]), min(self.size, self.grid[1])

    @property
    def shift(self) -> tuple[int, int]:
        """How far each axis is rolled."""
        near, far = (
            size // 2 if self.shifted and size < cells else 0
            for size, cells in zip(self.window, self.grid)
        )
        return near, far

    @property
    def padded(self) -> tuple[int, int]:
        """The grid in whole windows."""
        near, far = (-(-cells // size) * size for size, cells in zip(self.window, self.grid))
        return near, far

    def split(self, x: Float[Array, "... h w E"]) -> Float[Array, "... n t E"]:
        """The n windows of t cells each; cells of the padding are 0."""
        *lead, height, width, channels = x.shape
        (rows, columns), (wh, ww) = self.padded, self.window
        if self.padded != self.grid:
            widths = [(0, 0)] * len(lead) + [(0, rows - height), (0, columns - width), (0, 0)]
            x = jnp.pad(x, widths)
        if any(self.shift):
            x = jnp.roll(x, (-self.shift[0], -self.shift[1]), (-3, -2))
        x = x.reshape(*lead, rows // wh, wh, columns // ww, ww, channels).swapaxes(-4, -3)
        return x.reshape(*lead, -1, wh * ww, channels)

    def join(self, x: Float[Array, "... n t E"]) -> Float[Array, "... h w E"]:
        """What `split` came from."""
        *lead, _, _, channels = x.shape
        (rows, columns), (wh, ww) = self.padded, self.window
        x = x.reshape(*lead, rows // wh, columns // ww, wh, ww, channels).swapaxes(-4, -3)
        x = x.reshape(*lead, rows, columns, channels)
        if any(self.shift):
            x = jnp.roll(x, self.shift, (-3, -2))
        return x[..., : self.grid[0], : self.grid[1], :]

    def visible(self) -> Bool[np.ndarray, "n t t"] | None:
        """Which cell (last axis) which cell may attend to; None where all of a window's may.

        Rolling brings the far borders of the grid into one window: they stay apart. Padding is seen by nobody.
        """
        if not any(self.shift) and self.padded == self.grid:
            return None
        axes = []
        for cells, padded, size, shift in zip(self.grid, self.padded, self.window, self.shift):
            place = (np.arange(padded) + shift) % padded
            # The window that the cell would lie in if the shifted cut simply went on beyond the borders.
            axes.append(np.where(place < cells, (place + size - shift) // size, -1))
        (y, x), (wh, ww) = axes, self.window
        region = np.where((y[:, None] < 0) | (x[None] < 0), -1, y[:, None] * x.size + x[None])
        region = region.reshape(y.size // wh, wh, x.size // ww, ww).swapaxes(1, 2)
        region = region.reshape(-1, wh * ww)
        return (region[:, :, None] == region[:, None]) & (region >= 0)[:, None]


class WindowBlock(nn.Module):
    """One pre-norm Swin block on the map of every class; the picture's guide decides who attends to whom.

    Attributes:
      heads: of the attention.
      size: of the windows.
      shifted: whether they are shifted by half.
      expansion: of the MLP.
      dtype: of the activations; the softmax runs in float32.
    """

    heads: int
    size: int
    shifted: bool
    expansion: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B K h w E"], guide: Float[Array, "B h w G"]
    ) -> Float[Array, "B K h w E"]:
        """Queries and keys from [norm(x), guide], values from norm(x); then the MLP (GELU)."""
        width, rows = x.shape[-1], Windows((x.shape[2], x.shape[3]), self.size, self.shifted)
        y = rows.split(layer_norm("norm1", x))
        beside = rows.split(guide)[:, None]
        linear = functools.partial(Guided, width, kernel_init=xavier, dtype=self.dtype)
        heads = lambda z: z.reshape(*z.shape[:-1], self.heads, width // self.heads)
        query = heads(linear(name="query")(y, beside)) * (width // self.heads) ** -0.5
        key, value = heads(linear(name="key")(y, beside)), heads(linear(name="value")(y, None))
        found = jnp.einsum("bkntid,bknsid->bknits", query, key, preferred_element_type=jnp.float32)
        visible = rows.visible()
        if visible is not None:
            shown = jnp.asarray(visible)[None, None, :, None]
            # Finite, so that rows of padding, which see nobody, do not become nan.
            found = jnp.where(shown, found, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(found, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bknits,bknsid->bkntid", weights, value).reshape(y.shape)
        x = x + rows.join(linear(name="out")(mixed, None))
        hidden = layer_norm("norm2", x)
        gelu = functools.partial(jax.nn.gelu, approximate=False)
        return x + mlp(hidden, self.expansion, gelu, self.dtype)


class AggregationLayer(nn.Module):
    """Plain windows, shifted windows, attention over classes.

    Attributes:
      config: the sizes.
      pool: of the attention over classes.
      dtype: of the activations.
    """

    config: CostConfig
    pool: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B K h w E"],
        picture: Float[Array, "B h w G"],
        words: Float[Array, "B K G"],
        real: Bool[Array, "B K"],
    ) -> Float[Array, "B K h w E"]:
        """The features of K classes, `real` where they are no padding, with the guides of pictures and of words."""
        c = self.config
        picture = layer_norm("guide_norm", picture)
        for name, shifted in (("windows", False), ("shifted", True)):
            block = WindowBlock(c.heads, c.window, shifted, c.expansion, self.dtype, name=name)
            x = block(x, picture)
        block = ClassBlock(
            c.heads, self.pool, c.expansion, c.vocabulary, self.dtype, name="classes"
        )
        return block(x, real, words)


class WindowDecoder(nn.Module):
    """Cost features to logits at 4 times their resolution.

    Attributes:
      config: the sizes.
      dtype: of the activations.
    """

    config: CostConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B K h w E"],
        dense: Float[Array, "B h w D"],
        maps: tuple[Float[Array, "B h w F"], ...],
        words: Float[Array, "B K G"],
        real: Bool[Array, "B K"],
        *,
        train: bool,
    ) -> Float[Array, "B K H W"]:
        """The logits.

        Args:
          x: features of the cost.
          dense: what the cost was made of, the guide of the windows.
          maps: of two shallower blocks of the backbone.
          words: guides of the classes.
          real: False for padding.
          train: attention over classes runs on half the grid in training, on all of it at eval.
        """
        c = self.config
        conv = lambda name, width: nn.Conv(width, (3, 3), dtype=self.dtype, name=name)
        picture = jax.nn.relu(conv("picture", c.guide)(dense.astype(self.dtype)))
        for i in range(c.layers):
            layer = AggregationLayer(c, 2 if train else 1, self.dtype, name=f"layer_{i}")
            x = layer(x, picture, words, real)
        for i, (scale, guide) in enumerate(zip((2, 4), maps)):
            up = Upsample(c.lateral[i], scale, self.dtype, name=f"lateral_{i}")
            guide = jax.nn.relu(conv(f"guide_{i}", c.guides[i])(up(guide.astype(self.dtype))))
            x = Up(c.features[i], self.dtype, name=f"up_{i}")(x, guide)
        return conv("head", 1)(x)[..., 0].astype(jnp.float32)
