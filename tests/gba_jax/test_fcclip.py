"""FC-CLIP's checkpoints: names and shapes, both directions, problems together, and the whole model against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from core_jax.clip import WeightsError
from gba_jax.hosts import fcclip
from gba_jax.hosts.masks import MaskClassification, MaskConfig
from gba_jax.vocabulary import TextRows
from tests.gba_jax.fcclip_torch import Reference

CONFIG = MaskConfig(
    queries=5,
    layers=3,
    heads=2,
    width=16,
    feed_forward=24,
    pixel_decoder="deform",
    pixel_layers=2,
    pixel_feed_forward=20,
    points=3,
    groups=4,
)
CHANNELS, D = (6, 7, 8, 9), 12
# A trunk that leaves rows and columns out when it halves: no size divides the next one.
SIZES = {"res2": (27, 35), "res3": (13, 17), "res4": (6, 8), "res5": (3, 4)}
COUNTS = (2, 1, 3)


def _names(config, channels, d):
    """Every trained tensor of FC-CLIP, written out from its modules."""
    e, levels = config.width, 3
    per_head = config.heads * levels * config.points
    pixels, queries = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    shapes = {"void_embedding.weight": (1, d), f"{queries}.logit_scale": ()}

    def linear(name, out, into, *window):
        shapes[f"{name}.weight"] = (out, into, *window)
        shapes[f"{name}.bias"] = (out,)

    def norm(name):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (e,)

    for i, into in enumerate(channels[:0:-1]):
        linear(f"{pixels}.input_proj.{i}.0", e, into, 1, 1)
        norm(f"{pixels}.input_proj.{i}.1")
    shapes[f"{pixels}.transformer.level_embed"] = (levels, e)
    for i in range(6 if config.pixel_layers is None else config.pixel_layers):
        layer = f"{pixels}.transformer.encoder.layers.{i}"
        linear(f"{layer}.self_attn.sampling_offsets", 2 * per_head, e)
        linear(f"{layer}.self_attn.attention_weights", per_head, e)
        linear(f"{layer}.self_attn.value_proj", e, e)
        linear(f"{layer}.self_attn.output_proj", e, e)
        linear(f"{layer}.linear1", config.pixel_feed_forward, e)
        linear(f"{layer}.linear2", e, config.pixel_feed_forward)
        norm(f"{layer}.norm1")
        norm(f"{layer}.norm2")
    shapes[f"{pixels}.adapter_1.weight"] = (e, channels[0], 1, 1)
    shapes[f"{pixels}.layer_1.weight"] = (e, e, 3, 3)
    norm(f"{pixels}.adapter_1.norm")
    norm(f"{pixels}.layer_1.norm")
    linear(f"{pixels}.mask_features", e, e, 1, 1)
    for name in ("query_feat", "query_embed"):
        shapes[f"{queries}.{name}.weight"] = (config.queries, e)
    shapes[f"{queries}.level_embed.weight"] = (levels, e)
    for i in range(config.layers):
        for kind, attention in (("cross", "multihead_attn"), ("self", "self_attn")):
            layer = f"{queries}.transformer_{kind}_attention_layers.{i}"
            shapes[f"{layer}.{attention}.in_proj_weight"] = (3 * e, e)
            shapes[f"{layer}.{attention}.in_proj_bias"] = (3 * e,)
            linear(f"{layer}.{attention}.out_proj", e, e)
            norm(f"{layer}.norm")
        layer = f"{queries}.transformer_ffn_layers.{i}"
        linear(f"{layer}.linear1", config.feed_forward, e)
        linear(f"{layer}.linear2", e, config.feed_forward)
        norm(f"{layer}.norm")
    norm(f"{queries}.decoder_norm")
    norm(f"{queries}._mask_pooling_proj.0")
    linear(f"{queries}._mask_pooling_proj.1", e, e)
    for name, out in (("mask_embed", e), ("class_embed", d)):
        for i, width in enumerate((e, e, out)):
            linear(f"{queries}.{name}.layers.{i}", width, e)
    return shapes


@pytest.fixture(scope="module")
def tensors():
    """A trained checkpoint: nothing at its initial value, norms near 1, offsets of a few pixels."""
    rng, made = np.random.default_rng(0), {}
    for name, shape in _names(CONFIG, CHANNELS, D).items():
        value = rng.normal(size=shape) / np.sqrt(shape[1] if len(shape) > 1 else 4)
        if "sampling_offsets.bias" in name:
            value = 6 * value
        if "norm" in name and name.endswith("weight"):
            value = 1 + 0.2 * value
        made[name] = np.asarray(2.5 if name.endswith("logit_scale") else value, np.float32)
    return made


@pytest.fixture(scope="module")
def params(tensors):
    return fcclip.from_fcclip(tensors, CONFIG, CHANNELS, D)


def test_the_published_sizes_have_the_published_names():
    """FC-CLIP with ConvNeXt-L: 192, 384, 768 and 1536 channels, 256 wide, 250 queries, text of width 768."""
    channels = (192, 384, 768, 1536)
    expected = _names(fcclip.CONFIG, channels, 768)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in expected.items()}
    made = fcclip.from_fcclip(zeros, fcclip.CONFIG, channels, 768)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == sum(v.size for v in zeros.values())
    assert made["decoder"]["query"].shape == (250, 256)
    assert made["pixel_decoder"]["layer_5"]["attention"]["offsets"]["kernel"].shape == (256, 192)
    assert made["pixel_decoder"]["layer_5"]["attention"]["weights"]["kernel"].shape == (256, 96)
    assert made["void"].shape == (768,)


def test_both_directions_are_inverse(tensors, params):
    back = fcclip.to_fcclip(params, CONFIG, CHANNELS, D)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
        assert back[name].flags.c_contiguous


def test_a_file_is_read_and_what_is_clips_is_left_alone(tensors, params, tmp_path):
    rest = {"backbone.clip_model.ln_final.weight": np.zeros(3, np.float32)}
    save_file({**tensors, **rest}, tmp_path / "model.safetensors")
    read = fcclip.load(tmp_path / "model.safetensors", CONFIG, CHANNELS, D)
    jax.tree.map(np.testing.assert_array_equal, read, params)
    fcclip.save(tmp_path / "own.safetensors", read, CONFIG, CHANNELS, D)
    again = fcclip.load(tmp_path / "own.safetensors", CONFIG, CHANNELS, D)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"torn.safetensors is unreadable"):
        fcclip.load(tmp_path / "torn.safetensors", CONFIG, CHANNELS, D)


def test_all_problems_are_reported_together(tensors):
    broken = dict(tensors)
    query = broken.pop("sem_seg_head.predictor.query_feat.weight")
    broken["sem_seg_head.predictor.static_query.weight"] = query
    del broken["void_embedding.weight"]
    broken["sem_seg_head.pixel_decoder.layer_1.weight"] = np.zeros((16, 16, 1, 1), np.float32)
    broken["sem_seg_head.predictor.logit_scale"] = np.asarray(np.nan, np.float32)
    with pytest.raises(WeightsError) as caught:
        fcclip.from_fcclip(broken, CONFIG, CHANNELS, D)
    for line in (
        "missing: sem_seg_head.predictor.query_feat.weight of shape (5, 16)",
        "extra: sem_seg_head.predictor.static_query.weight is not a weight of this model",
        "missing: void_embedding.weight of shape (1, 12)",
        "shape: sem_seg_head.pixel_decoder.layer_1.weight is (16, 16, 1, 1), expected (16, 16, 3, 3)",
        "sem_seg_head.predictor.logit_scale",
    ):
        assert line in str(caught.value)


def test_leaves_that_do_not_fit_are_reported_together(params):
    broken = {**params, "more": np.zeros(2, np.float32)}
    del broken["void"]
    with pytest.raises(WeightsError, match=r"(?s)missing: void.*extra: more"):
        fcclip.to_fcclip(broken, CONFIG, CHANNELS, D)


def test_another_pixel_decoder_is_refused(tensors):
    with pytest.raises(ValueError, match=r"'fpn_attn'.*'deform'"):
        fcclip.from_fcclip(tensors, MaskConfig(), CHANNELS, D)


def test_every_output_equals_torch(tensors, params):
    rng = np.random.default_rng(1)
    maps = {
        name: rng.normal(size=(2, *size, e)).astype(np.float32)
        for (name, size), e in zip(SIZES.items(), CHANNELS, strict=True)
    }
    rows = rng.normal(size=(sum(COUNTS), D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    text = TextRows(
        rows=jnp.asarray(np.concatenate([rows, np.zeros((2, D), np.float32)])),
        row_mask=jnp.arange(8) < 6,
        class_of_row=jnp.asarray([0, 0, 1, 2, 2, 2, 4, 4], jnp.int32),
        class_mask=jnp.arange(5) < 3,
    )
    reference = Reference(tensors, heads=CONFIG.heads, points=CONFIG.points, groups=CONFIG.groups)
    with torch.no_grad():
        nchw = {name: torch.tensor(x).permute(0, 3, 1, 2) for name, x in maps.items()}
        levels, features = reference.pixel_decoder(nchw, CONFIG.pixel_layers)
        expected = reference.decoder(levels, features, torch.tensor(rows), COUNTS, CONFIG.layers)
    got = jax.jit(MaskClassification(CONFIG).apply)({"params": params}, maps, text)
    assert len(got) == len(expected) == CONFIG.layers + 1
    for (classes, masks), (their_classes, their_masks) in zip(got, expected, strict=True):
        np.testing.assert_allclose(masks, their_masks, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(classes[..., :3], their_classes[..., :3], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(classes[..., 5], their_classes[..., 3], atol=1e-4, rtol=1e-4)
        assert np.all(np.isneginf(classes[..., 3:5])), "classes that are padding"
    shares = np.stack([np.mean(np.asarray(masks) > 0, axis=(2, 3)) for _, masks in got])
    mixed = np.mean((shares > 0) & (shares < 1))
    assert mixed > 0.3, "masks that block some pixels only, or masking was not tested"
