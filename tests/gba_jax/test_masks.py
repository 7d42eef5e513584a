"""Mask classification: masking, heads and vocabularies by hand, a small training, precision and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict
from jax.extend import core

from gba_jax import losses, matching
from gba_jax.hosts.mask_decoder import Head, unit, visible
from gba_jax.hosts.masks import MaskClassification, MaskConfig
from gba_jax.hosts.pyramid import SimplePyramid
from gba_jax.vocabulary import TextRows
from tests.gba_jax import fresh

D, ROWS, CLASSES = 12, 8, 8
CHANNELS = {"res2": 5, "res3": 6, "res4": 7, "res5": 9}
SIZES = {"res2": (13, 17), "res3": (6, 8), "res4": (3, 4), "res5": (1, 2)}


def _config(**changes):
    sizes = {"queries": 6, "layers": 3, "heads": 2, "width": 16, "groups": 4, "points": 2}
    sizes |= {"feed_forward": 24, "pixel_feed_forward": 24, "pixel_layers": 1}
    return MaskConfig(**{**sizes, **changes})


def _text(class_of_row, real_rows=ROWS, real_classes=CLASSES, seed=0):
    rows = np.random.default_rng(seed).normal(size=(ROWS, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return TextRows(
        rows=jnp.asarray(rows),
        row_mask=jnp.arange(ROWS) < real_rows,
        class_of_row=jnp.asarray(class_of_row, jnp.int32),
        class_mask=jnp.arange(CLASSES) < real_classes,
    )


APART = _text(range(ROWS))
# Four classes of 2, 1, 2 and 1 words, two rows and four classes of padding.
GROUPED = _text([0, 0, 1, 2, 2, 3, 7, 7], real_rows=6, real_classes=4)


def _scene(seed=0):
    """A picture of three segments: (maps that tell them apart with noise, segments, classes)."""
    rng = np.random.default_rng(seed)
    segments = np.zeros((1, 26, 34), np.int32)
    segments[:, :14, 16:] = 1
    segments[:, 14:, 10:] = 2
    maps = {}
    for name, (h, w) in SIZES.items():
        look = rng.normal(size=(3, CHANNELS[name]))
        rows, columns = (np.arange(h) * 26 // h)[:, None], (np.arange(w) * 34 // w)[None]
        clean = look[segments[0][rows, columns]]
        maps[name] = jnp.asarray(clean + 0.3 * rng.normal(size=clean.shape), jnp.float32)[None]
    return maps, jnp.asarray(segments), jnp.asarray([[2, 0, 1, -1]], jnp.int32)


def _shapes(config, maps, text=APART, dtype=jnp.float32):
    module = MaskClassification(config, dtype)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), maps, text)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (7, 5), (20, 30)])
def test_a_query_sees_its_mask_or_everything(size):
    logits = np.random.default_rng(0).normal(size=(2, 5, 7, 9)).astype(np.float32)
    logits[:, 0] = -1.0
    logits[:, 1] = 1.0
    got = np.asarray(visible(jnp.asarray(logits), *size)).reshape(2, 5, *size)
    small = torch.nn.functional.interpolate(torch.tensor(logits), size=size, mode="bilinear")
    inside = small.sigmoid().numpy() >= 0.5
    for b in range(2):
        for q in range(5):
            expected = inside[b, q] if inside[b, q].any() else np.ones(size, bool)
            np.testing.assert_array_equal(got[b, q], expected)
    assert got.any(axis=(2, 3)).all(), "no query is blocked everywhere"


@pytest.fixture(scope="module")
def head():
    """(compiled head of a vocabulary and void, its arguments)."""
    rng = np.random.default_rng(1)
    query = jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.float32)
    features = jnp.asarray(rng.normal(size=(2, 4, 5, 16)), jnp.float32)
    void = unit(jnp.asarray(rng.normal(size=D), jnp.float32))
    module = Head(D)
    params = jax.jit(module.init)(jax.random.key(0), query, features, APART, void)
    run = jax.jit(lambda text, row: module.apply(params, query, features, text, row))
    return run, void


def test_a_class_scores_its_best_word_and_padding_never_wins(head):
    run, void = head
    (words, masks), (classes, same) = run(APART, void), run(GROUPED, void)
    np.testing.assert_array_equal(masks, same)
    assert classes.shape == (2, 5, CLASSES + 1)
    members = [[0, 1], [2], [3, 4], [5]]
    for c, rows in enumerate(members):
        best = np.max([words[..., row] for row in rows], axis=0)
        np.testing.assert_allclose(classes[..., c], best, rtol=1e-6)
    assert np.all(np.isneginf(classes[..., 4:-1]))
    np.testing.assert_array_equal(classes[..., -1], words[..., -1])


def test_void_is_the_last_class(head):
    run, void = head
    before, after = run(GROUPED, void)[0], run(GROUPED, -void)[0]
    np.testing.assert_array_equal(before[..., :-1], after[..., :-1])
    np.testing.assert_allclose(before[..., -1], -after[..., -1], rtol=1e-6)
    assert np.abs(before[..., -1]).max() <= 1 / 0.07 + 1e-4, "a cosine times the first scale"


@pytest.mark.parametrize("kind", ["fpn_attn", pytest.param("deform", marks=pytest.mark.slow)])
def test_a_small_training_fits_a_picture_and_reaches_every_leaf(kind):
    module = MaskClassification(_config(pixel_decoder=kind, layers=1))
    maps, segments, classes = _scene()
    settings = losses.MaskLossConfig(points=64, match=matching.MatchConfig(points=64))
    shapes = jax.eval_shape(module.init, jax.random.key(0), maps, GROUPED)["params"]
    params = fresh.draw(shapes)
    optimizer = optax.adam(3e-3)

    def step(carry, key):
        params, state = carry

        def loss(params):
            outputs = module.apply({"params": params}, maps, GROUPED)
            total, terms = losses.mask_classification(outputs, segments, classes, settings, key=key)
            return total, [losses.mean(terms[name]) for name in sorted(terms)]

        (total, terms), grads = jax.value_and_grad(loss, has_aux=True)(params)
        # optax counts steps in int32, as the trainer lets it.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        sizes = jax.tree.map(lambda g: jnp.max(jnp.abs(g)), grads)
        return (optax.apply_updates(params, updates), state), (jnp.stack([total, *terms]), sizes)

    @jax.jit
    def train(params, key):
        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, 60))[1]

    history, sizes = jax.device_get(train(params, jax.random.key(1)))
    assert np.isfinite(history).all()
    first, last = np.mean(history[:3], axis=0), np.mean(history[-3:], axis=0)
    assert last[0] < 0.5 * first[0]
    assert np.all(last < first), f"total, bce, class, dice: {first} to {last}"
    flat = {name: steps.max() for name, steps in flatten_dict(sizes, sep="/").items()}
    assert np.isfinite(list(flat.values())).all()
    # A bias of all keys shifts all scores of a query alike, which softmax does not see.
    silent = [name for name, size in flat.items() if size == 0 and not name.endswith("key/bias")]
    assert not silent


@pytest.mark.parametrize("kind", ["fpn_attn", "deform"])
def test_outputs_are_those_of_the_queries_and_of_every_layer(kind):
    """Also for maps of odd sizes, which do not divide each other."""
    outputs, variables = _shapes(_config(pixel_decoder=kind), _scene()[0])
    assert len(outputs) == 4
    for classes, masks in outputs:
        assert (classes.shape, classes.dtype) == ((1, 6, CLASSES + 1), jnp.float32)
        assert (masks.shape, masks.dtype) == ((1, 6, 13, 17), jnp.float32)
    assert variables["params"]["void"].shape == (D,)


@pytest.mark.parametrize(("kind", "layers"), [("fpn_attn", 3), ("deform", 6)])
def test_the_published_number_of_pixel_layers(kind, layers):
    config = _config(pixel_decoder=kind, pixel_layers=None)
    params = _shapes(config, _scene()[0])[1]["params"]["pixel_decoder"]
    kept = [name for name in params if name.startswith(("layer_", "self_"))]
    assert len(kept) == layers


def test_a_vit_takes_part_through_the_simple_pyramid():
    dense = jnp.zeros((2, 7, 9, 12))
    maps, _ = jax.eval_shape(SimplePyramid(width=8).init_with_output, jax.random.key(0), dense)
    maps = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), maps)
    outputs, _ = _shapes(_config(), maps)
    assert outputs[-1][1].shape == (2, 6, 28, 36)


def test_half_precision_keeps_norms_softmax_and_results_in_float32():
    maps = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _scene()[0])
    module = MaskClassification(_config(), jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        variables = jax.eval_shape(module.init, jax.random.key(0), maps, APART)
        program = jax.make_jaxpr(module.apply)(variables, maps, APART).jaxpr
    assert _input_types(program, ("rsqrt", "exp")) == {"float32"}
    assert "bfloat16" in _input_types(program, ("dot_general",))
    assert {x.aval.dtype.name for x in program.outvars} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"float32"}


def _input_types(jaxpr, names):
    """The types that these operations read, inner programs included."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in names:
            found |= {x.aval.dtype.name for x in equation.invars}
        for inner in core.jaxprs_in_params(equation.params):
            found |= _input_types(inner, names)
    return found


def test_missing_maps_are_named():
    maps = {name: x for name, x in _scene()[0].items() if name in ("res2", "res5")}
    with pytest.raises(ValueError, match=r"res3, res4 are not among res2, res5.*SimplePyramid"):
        _shapes(_config(), maps)


def test_sizes_that_do_not_fit_are_refused_together():
    with pytest.raises(ValueError, match=r"heads=4.*groups=5.*multiple of 4.*'fpn'.*fpn_attn") as e:
        _config(width=18, heads=4, groups=5, pixel_decoder="fpn")
    assert str(e.value).count(";") == 3
    with pytest.raises(ValueError, match=r"queries=0: expected at least 1; heads=0: .*layers=-1"):
        _config(queries=0, heads=0, layers=-1)
