"""Parameters of large modules without compiling their `init`, which takes longer than most tests."""

import jax
import numpy as np


def draw(shapes, seed=0):
    """Arrays of these shapes as a fresh module has them: kernels by their fan-in, norms 1, biases 0, the rest normal.

    Args:
      shapes: nested dicts from `jax.eval_shape` of an `init`.
      seed: of NumPy's generator.
    """
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        name = path[-1].key
        if name.startswith("bias"):
            return np.zeros(leaf.shape, np.float32)
        if name.startswith("gamma") or name.endswith("scale"):
            # A norm's or a block's; one without axes is the logarithm of cosines' factor.
            return np.full(leaf.shape, 1.0 if leaf.shape else np.log(1 / 0.07), np.float32)
        value = rng.normal(size=leaf.shape)
        if name.startswith("kernel"):
            value = value / np.sqrt(np.prod(leaf.shape[:-1]))
        if name.endswith("embedding"):
            value = 0.1 * value
        return value.astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)
