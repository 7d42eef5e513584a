"""Any number of pictures through a compiled function, in batches of a few sizes: 1, 2, 4 .. 32."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from core_jax.train import Params

MOST = 32


def run(
    function: Callable[..., Array],
    params: Params,
    images: UInt8[np.ndarray, "n H W c"],
    heads: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n f"]:
    """A function of pictures over any number of them; it is compiled for six batch sizes at most.

    Args:
      function: (params, images (B, H, W, c), heads (B, 2)) -> (B, f), jitted.
      params: its parameters.
      images: at least one.
      heads: (pitch, yaw) of the heads, radians.
    """
    found = []
    for start in range(0, len(images), MOST):
        rows = slice(start, start + MOST)
        count = len(images[rows])
        missing = (1 << (count - 1).bit_length()) - count
        batch = np.pad(images[rows], ((0, missing), (0, 0), (0, 0), (0, 0)))
        head = np.pad(heads[rows].astype(np.float32), ((0, missing), (0, 0)))
        result = function(params, jnp.asarray(batch), jnp.asarray(head))
        found.append(np.asarray(result, np.float64)[:count])
    return np.concatenate(found)
