"""Checkpoints of the reference implementation: names both ways, every problem at once, the same outputs as torch."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from core_jax.clip import WeightsError
from gba_jax.adapters import GBA, GBAConfig, Plug, StyleDiversification, TapSpec, init, released
from tests.gba_jax.released_torch import STYLES, random_checkpoint

SHALLOW, DEEP, D, V = 6, 8, 5, 7
TAPS = (TapSpec("res2", SHALLOW, 4, "map"), TapSpec("res5", DEEP, 32, "map"))
KEY = jax.random.key(0)


def _module(shallow: str | None = "res2", deep: str | None = "res5", **switches):
    return GBA(TAPS, shallow, deep, "released", GBAConfig(**switches))


def _tensors():
    state = random_checkpoint(SHALLOW, DEEP, D).state_dict()
    return {name: value.numpy() for name, value in state.items()}


def _maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _nchw(x):
    return torch.tensor(np.asarray(x)).movedim(-1, 1)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 6)])
def test_sda_computes_what_the_checkpoints_module_does(height, width):
    model, module = random_checkpoint(SHALLOW, DEEP, D), _module()
    params, stats = released.from_released(_tensors(), module, D)
    x = _maps(3, height, width, SHALLOW)
    weights = np.random.default_rng(2).dirichlet(np.ones(STYLES), 3).astype(np.float32)
    adapter = StyleDiversification("released")
    y, after = jax.jit(adapter.apply)({"params": params["sda"]}, x, stats, weights=weights)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    with torch.no_grad():
        expected = model.backbone["mona_st"](_nchw(x), torch.tensor(weights)).movedim(1, -1)
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("host_void", [False, True])
def test_cca_computes_what_the_checkpoints_module_does(host_void):
    model, module = random_checkpoint(SHALLOW, DEEP, D), _module(host_void=host_void)
    params, stats = released.from_released(_tensors(), module, D)
    assert ("null" in params["cca"]) != host_void
    x, text = _maps(2, 3, 4, DEEP), _maps(V, D, seed=1)
    void = model.void_embedding.weight.detach()
    words = {"text": text, "row_mask": np.ones(V, bool)}
    words |= {"void": jnp.asarray(void[0].numpy())} if host_void else {}
    y = jax.jit(lambda x: Plug(module, params, stats, **words)("res5", x))(x)
    rows = torch.cat([torch.tensor(text), torch.nn.functional.normalize(void)])
    with torch.no_grad():
        expected = model.backbone["mona_sem"](_nchw(x), rows).movedim(1, -1)
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("shallow", "deep"), [("res2", "res5"), ("res2", None), (None, "res5")])
def test_a_file_comes_back_bit_for_bit_and_torch_opens_it(tmp_path, shallow, deep):
    module, tensors = _module(shallow, deep), _tensors()
    absent = [n for n, tap in (("mona_st.", shallow), ("mona_sem.", deep)) if tap is None]
    tensors = {n: v for n, v in tensors.items() if not any(a in n for a in absent)}
    params, stats = released.from_released(tensors, module, D)
    fresh = jax.eval_shape(lambda: init(module, D, key=KEY))
    assert jax.tree.map(jnp.shape, (params, stats)) == jax.tree.map(jnp.shape, fresh)
    path = tmp_path / "adapters.safetensors"
    released.save(path, params, stats, module, D)
    again = released.load(path, module, D)
    jax.tree.map(np.testing.assert_array_equal, again, (params, stats))
    written = released.to_released(params, stats, module, D)
    outside = {"backbone.clip_model.weight", "backbone.clip_model.bias"}
    outside |= set() if deep else {"void_embedding.weight"}
    counted = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert set(written) == set(tensors) - outside - counted
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)


def test_half_precision_is_read_and_widened(tmp_path):
    tensors = {
        n: v.astype(ml_dtypes.bfloat16) for n, v in _tensors().items() if v.dtype.kind == "f"
    }
    params, _ = released.from_released(tensors, _module(), D)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_all_problems_of_the_adapters_are_told_at_once():
    tensors = _tensors()
    del tensors["backbone.mona_st.st.proto_std"]
    tensors["backbone.mona_st.gamma"] = np.zeros(3, np.float32)
    tensors["backbone.mona_sem.ci.attn.k_proj.weight"] = np.zeros((DEEP, D + 1), np.float32)
    tensors["backbone.mona_sem.prompt"][2] = np.nan
    with pytest.raises(WeightsError) as error:
        released.from_released(tensors, _module(), D)
    for part in (
        "missing: backbone.mona_st.st.proto_std of shape (64, 6)",
        "extra: backbone.mona_st.gamma",
        "backbone.mona_sem.ci.attn.k_proj.weight is (8, 6), expected (8, 5)",
        "backbone.mona_sem.prompt",
    ):
        assert part in str(error.value)
    assert "clip_model" not in str(error.value)


def test_tensors_of_an_adapter_that_is_left_out_are_unknown():
    with pytest.raises(WeightsError, match=r"extra: backbone\.mona_sem\.ci\.attn\.q_proj\.weight"):
        released.from_released(_tensors(), _module(deep=None), D)


def test_other_presets_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="preset='intent'"):
        released.from_released(_tensors(), GBA(TAPS, "res2", "res5"), D)
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(WeightsError, match=r"broken\.safetensors is unreadable"):
        released.load(path, _module(), D)
