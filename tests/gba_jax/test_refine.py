"""What both adapters are made of, in half precision: gradients that are sums over all pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax.adapters.refine import Dense, GatedRefinement, MultiKernelConv

MODULES = {
    "Dense": (Dense(3, jnp.bfloat16), "bias"),
    "MultiKernelConv": (MultiKernelConv(), "bias5"),
    "GatedRefinement": (GatedRefinement(2), "gain"),
}


@pytest.mark.parametrize("name", MODULES)
def test_slopes_of_broadcast_parameters_do_not_saturate(name):
    """4,096 equal terms: summed in bfloat16 they would stop at 1,024 or less."""
    module, leaf = MODULES[name]
    x = jnp.ones((1, 64, 64, 2))
    params = module.init(jax.random.key(0), x)["params"]
    if name == "GatedRefinement":
        params["prompt"], params["project"]["kernel"] = jnp.ones(2), jnp.ones((2, 2))

    @jax.jit
    def slope(params, x):
        total = lambda p: jnp.sum(module.apply({"params": p}, x).astype(jnp.float32))
        return jax.grad(total)(params)[leaf]

    half = slope(params, x.astype(jnp.bfloat16))
    own = module.clone(dtype=jnp.float32) if name == "Dense" else module
    total = lambda p: jnp.sum(own.apply({"params": p}, x))
    whole = jax.jit(jax.grad(total))(params)[leaf]
    assert half.dtype == jnp.float32
    assert np.all(np.abs(whole) > 0)
    np.testing.assert_allclose(half, whole, rtol=0.02)
    if leaf != "gain":
        np.testing.assert_array_equal(half, 4096.0)


def test_dense_is_the_usual_linear_layer():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    module, reference = Dense(7, jnp.float32), nn.Dense(7)
    params = module.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, reference.init(jax.random.key(0), x)
    )
    params["params"]["bias"] = jnp.arange(7.0)
    ours, theirs = (np.asarray(m.apply(params, x)) for m in (module, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
