"""A linear layer as a pair of arrays, with torch's default start: what small learned maps beside the towers are made of.

Shapes: B rows, I inputs, O outputs.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Linear = dict[str, Float[Array, "..."]]


def init(inputs: int, outputs: int, *, key: PRNGKeyArray) -> Linear:
    """{"kernel": (I, O), "bias": (O,)}, float32, each entry uniform within 1 / sqrt(I), as torch's `nn.Linear` starts."""
    kernel, bias = jax.random.split(key)
    bound = 1.0 / math.sqrt(inputs)
    draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return {"kernel": draw(kernel, (inputs, outputs)), "bias": draw(bias, (outputs,))}


def apply(layer: Linear, x: Float[Array, "B I"]) -> Float[Array, "B O"]:
    """The product x kernel + bias in float32. The result meets a logit scale of 100: no bfloat16 or TF32 shortcut."""
    product = jnp.matmul(
        x.astype(jnp.float32), layer["kernel"], precision=jax.lax.Precision.HIGHEST
    )
    return product + layer["bias"][None, :]
