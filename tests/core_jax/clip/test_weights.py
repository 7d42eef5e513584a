"""The weight table: both directions, total accounting, every problem in one message; digests; position embeddings."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

import core_jax.clip as clip
from core_jax.clip import weights


def tensors(saved) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in saved.torch.state_dict().items()}


def test_every_tensor_goes_out_as_it_came_in(saved):
    theirs = tensors(saved)
    params = weights.from_huggingface(theirs, saved.ours.config)
    back = weights.to_huggingface(params, saved.ours.config)
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
        assert back[name].flags.c_contiguous, name
        assert back[name].shape == value.shape, name


def test_every_leaf_of_ours_is_written(saved):
    expected = traverse_util.flatten_dict(
        clip.init(saved.ours.config, key=jax.random.key(0)), sep="/"
    )
    flat = traverse_util.flatten_dict(saved.ours.params, sep="/")
    assert {p: (x.shape, x.dtype) for p, x in flat.items()} == {
        p: (x.shape, x.dtype) for p, x in expected.items()
    }


def test_rows_are_ordered_without_overlap(saved):
    """No tensor matches two rows, and no row is left without a tensor."""
    hits = dict.fromkeys(weights.TABLE, 0)
    for name in tensors(saved):
        pattern = lambda row: re.escape(row.foreign).replace(r"\{\}", r"\d+")
        matching = [row for row in weights.TABLE if re.fullmatch(pattern(row), name)]
        assert len(matching) == 1, name
        hits[matching[0]] += 1
    assert all(hits.values()), [row for row, count in hits.items() if not count]


def test_position_ids_of_old_exports_are_ignored(saved):
    extra = {
        "text_model.embeddings.position_ids": np.arange(20)[None],
        "vision_model.embeddings.position_ids": np.arange(5)[None],
    }
    params = weights.from_huggingface(tensors(saved) | extra, saved.ours.config)
    assert clip.weights_digest(params) == clip.weights_digest(saved.ours.params)


def test_all_problems_are_listed_together(saved):
    bad = tensors(saved)
    del bad["text_model.final_layer_norm.bias"]
    del bad["vision_model.encoder.layers.1.mlp.fc2.weight"]
    bad["vision_model.encoder.layers.7.mlp.fc1.bias"] = np.zeros(96, np.float32)
    bad["ema.decay"] = np.zeros((), np.float32)
    bad["visual_projection.weight"] = bad["visual_projection.weight"].T
    bad["text_projection.weight"] = bad["text_projection.weight"].astype(np.int8)
    spoilt = bad["vision_model.post_layernorm.weight"].copy()
    spoilt[:3] = [np.nan, np.inf, 1.0]
    bad["vision_model.post_layernorm.weight"] = spoilt
    with pytest.raises(clip.WeightsError) as error:
        weights.from_huggingface(bad, saved.ours.config)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0] == "the checkpoint does not fit its configuration (7 problems):"
    assert sorted(lines[1:]) == [
        "extra: ema.decay is not a weight of this model",
        "extra: vision_model.encoder.layers.7.mlp.fc1.bias is not a weight of this model",
        "missing: text_model.final_layer_norm.bias of shape (32,)",
        "missing: vision_model.encoder.layers.1.mlp.fc2.weight of shape (32, 96)",
        "not finite: 2 of 32 values of vision_model.post_layernorm.weight",
        "shape: visual_projection.weight is (32, 24), expected (24, 32)",
        "type: text_projection.weight is int8, expected one of float32, float16, bfloat16",
    ]


def test_problems_of_our_parameters_are_listed_together(saved):
    flat = traverse_util.flatten_dict(saved.ours.params, sep="/")
    del flat["text/final_norm/bias"]
    flat["vision/head/kernel"] = jnp.zeros((2, 2), jnp.float32)
    flat["text/projection/kernel"] = flat["text/projection/kernel"].T
    # Finite in float32, infinite in float16.
    flat["vision/class_embedding"] = jnp.full(32, 1e6, jnp.float32)
    params = traverse_util.unflatten_dict(flat, sep="/")
    with pytest.raises(clip.WeightsError) as error:
        weights.to_huggingface(params, saved.ours.config, "float16")
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert sorted(lines[1:]) == [
        "extra: vision/head/kernel is not a weight of this model",
        "missing: text/final_norm/bias of shape (32,)",
        "not finite: 32 of 32 values of vision/class_embedding as float16",
        "shape: text/projection/kernel is (24, 32), expected (32, 24)",
    ]


def test_an_unknown_type_is_refused(saved):
    with pytest.raises(clip.WeightsError, match=r"float64.*bfloat16"):
        weights.to_huggingface(saved.ours.params, saved.ours.config, "float64")


def test_digest_names_the_weights(saved):
    digest = clip.weights_digest(saved.ours.params)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    on_host = jax.tree.map(np.asarray, saved.ours.params)
    assert clip.weights_digest(on_host) == digest
    moved = on_host | {"logit_scale": on_host["logit_scale"] + np.float32(1e-6)}
    assert clip.weights_digest(moved) != digest
    # The same bytes under another name are other weights.
    block = dict(on_host["vision"])
    block["block_0"], block["block_1"] = block["block_1"], block["block_0"]
    assert clip.weights_digest(on_host | {"vision": block}) != digest


@pytest.mark.parametrize("size", [48, 16, 80])
def test_another_image_size_is_torchs_interpolation(saved, size):
    """Bicubic, the class token kept: `interpolate_pos_encoding` of the reference, end to end."""
    ours = clip.load(saved.folder, image_size=size)
    assert ours.config.vision.image_size == size
    pixels = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = saved.torch.get_image_features(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
            interpolate_pos_encoding=True,
        ).pooler_output
    features = jax.jit(clip.encode_image, static_argnums=1)(ours.params, ours.config, pixels)
    np.testing.assert_allclose(features, theirs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(
        ours.params["vision"]["position_embedding"][0],
        saved.ours.params["vision"]["position_embedding"][0],
    )


def test_the_same_image_size_changes_nothing(saved):
    ours = clip.load(saved.folder, image_size=32)
    assert ours.config == saved.ours.config
    assert clip.weights_digest(ours.params) == clip.weights_digest(saved.ours.params)


def test_an_impossible_image_size_is_refused(saved):
    with pytest.raises(clip.ConfigError, match="image_size 40 is not a multiple of patch_size 16"):
        clip.load(saved.folder, image_size=40)


def test_shapes_follow_the_configuration(saved):
    config = dataclasses.replace(saved.ours.config, projection_dim=7)
    assert weights.shapes(config)["text/projection/kernel"] == (32, 7)
