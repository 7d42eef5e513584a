"""Host 0 against NumPy loops on a tiny random CLIP, and on the shipped student with scenes of the embedded world."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip, world
from gba_jax import templates, text_cache, vocabulary
from gba_jax.hosts import maskclip

WORDS = vocabulary.build(["cat, kitten", "grass", "sky, cloud, air", "road"])
OPTIONS = [
    {},
    {"denoise": 0.3},
    {"key_smoothing": 0.42},
    {"mode": "value_only", "denoise": 0.3, "key_smoothing": 1.0},
]
STATIC = ("mode", "denoise", "key_smoothing")
segment = jax.jit(maskclip.segment, static_argnums=1, static_argnames=("size", *STATIC))
run_logits = jax.jit(maskclip.logits, static_argnums=1, static_argnames=STATIC)
encode_dense = jax.jit(clip.encode_dense, static_argnums=1, static_argnames=("mode", "keys"))


@pytest.fixture(scope="module")
def tiny():
    """(params, config, pixels, unit text rows of `WORDS`)."""
    config = clip.ClipConfig(
        vision=clip.VisionConfig(
            image_size=24, patch_size=8, width=16, layers=2, heads=2, mlp_width=32
        ),
        text=clip.TextConfig(vocab_size=99, context_length=8, width=16, layers=1, heads=2),
        projection_dim=12,
    )
    params = clip.init(config, key=jax.random.key(0))
    rng = np.random.default_rng(1)
    pixels = jnp.asarray(rng.normal(size=(2, 24, 24, 3)), jnp.float32)
    spread = rng.normal(size=(len(WORDS.rows), 12))
    # Nearly the same direction for all words: probabilities between the thresholds, not all 0 or 1.
    rows = rng.normal(size=(1, 12)) + 0.03 * spread
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return params, config, pixels, rows.astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def oracle(tiny, mode="residual", denoise=None, key_smoothing=None) -> list[np.ndarray]:
    """Logits (h, w, C) of each picture; NaN where a class was dropped."""
    params, config, pixels, rows = tiny
    both = encode_dense(params, config, pixels, mode=mode, keys=True)
    features, keys = (np.asarray(x, np.float64) for x in both)
    out = []
    for picture, key in zip(features, keys):
        spots = [(i, j) for i in range(3) for j in range(3)]
        logits = {}
        for spot in spots:
            v = picture[spot] / np.linalg.norm(picture[spot])
            scores = [100 * v @ row for row in rows]
            logits[spot] = np.asarray(
                [
                    max(s for s, c in zip(scores, WORDS.class_of_row) if c == k)
                    for k in range(len(WORDS.classes))
                ]
            )
        kept = list(range(len(WORDS.classes)))
        if denoise is not None:
            best = [max(softmax(logits[s])[k] for s in spots) for k in kept]
            kept = [k for k in kept if best[k] >= denoise or best[k] == max(best)]
        smoothed = dict(logits)
        for s in spots if key_smoothing is not None else []:
            if softmax(logits[s][kept]).max() < key_smoothing:
                cosines = [
                    max(0, key[s] @ key[t] / np.linalg.norm(key[s]) / np.linalg.norm(key[t]))
                    for t in spots
                ]
                total = sum(c * logits[t] for c, t in zip(cosines, spots))
                smoothed[s] = total / sum(cosines)
        grid = np.full((3, 3, len(WORDS.classes)), np.nan)
        for s in spots:
            grid[s][kept] = smoothed[s][kept]
        out.append(grid)
    return out


def probabilities(grid: np.ndarray) -> np.ndarray:
    e = np.exp(np.where(np.isnan(grid), -np.inf, grid - np.nanmax(grid, axis=-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def enlarge(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, the border repeated, a pixel at a time."""
    out = np.zeros((*size, grid.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * grid.shape[0] / size[0] - 0.5, 0), grid.shape[0] - 1)
            x = min(max((j + 0.5) * grid.shape[1] / size[1] - 0.5, 0), grid.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, grid.shape[0] - 1), min(x0 + 1, grid.shape[1] - 1)
            top = (1 - x + x0) * grid[y0, x0] + (x - x0) * grid[y0, x1]
            bottom = (1 - x + x0) * grid[y1, x0] + (x - x0) * grid[y1, x1]
            out[i, j] = (1 - y + y0) * top + (y - y0) * bottom
    return out


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_segment_is_the_loop(tiny, options):
    params, config, pixels, rows = tiny
    count, size = len(WORDS.classes), (10, 7)
    text = vocabulary.pad(WORDS, rows)
    logits = np.asarray(run_logits(params, config, pixels, text, **options))
    labels, scores = (
        np.asarray(x) for x in segment(params, config, pixels, text, size=size, **options)
    )
    expected = oracle(tiny, **options)
    assert logits.dtype == scores.dtype == np.float32
    assert labels.dtype == np.int32
    assert np.isneginf(logits[..., count:]).all()
    assert (scores[..., count:] == 0).all()
    np.testing.assert_allclose(scores.sum(-1), 1.0, atol=1e-5)
    for b, grid in enumerate(expected):
        np.testing.assert_array_equal(np.isneginf(logits[b, ..., :count]), np.isnan(grid))
        finite = ~np.isnan(grid)
        np.testing.assert_allclose(logits[b, ..., :count][finite], grid[finite], atol=2e-4)
        full = enlarge(probabilities(grid), size)
        np.testing.assert_allclose(scores[b, ..., :count], full, atol=1e-4)
        top = np.sort(full, axis=-1)
        clear = top[..., -1] - top[..., -2] > 1e-3
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(labels[b][clear], full.argmax(-1)[clear])


def test_the_options_matter_here(tiny):
    """Otherwise the comparisons above would say nothing about them."""
    plain = oracle(tiny)
    assert any(np.isnan(grid).any() for grid in oracle(tiny, denoise=0.3))
    smooth, partly = oracle(tiny, key_smoothing=1.0), oracle(tiny, key_smoothing=0.42)
    assert np.abs(np.stack(smooth) - np.stack(plain)).max() > 0.1
    changed = (np.abs(np.stack(partly) - np.stack(plain)) > 1e-9).any(-1)
    assert changed.any()
    assert not changed.all()


def test_a_threshold_that_nothing_reaches_leaves_the_best_class(tiny):
    params, config, pixels, rows = tiny
    text = vocabulary.pad(WORDS, rows)
    labels, scores = segment(params, config, pixels, text, size=(3, 3), denoise=1.0)
    assert np.isfinite(scores).all()
    for picture, grid in zip(np.asarray(labels), oracle(tiny)):
        winner = int(probabilities(grid).max((0, 1)).argmax())
        np.testing.assert_array_equal(picture, winner)


def test_another_vocabulary_of_the_bucket_compiles_nothing(tiny):
    params, config, pixels, rows = tiny
    traces = []

    @functools.partial(jax.jit, static_argnums=1)
    def run(params, config, pixels, text):
        traces.append(1)
        return maskclip.segment(params, config, pixels, text, size=(4, 4)).labels

    run(params, config, pixels, vocabulary.pad(WORDS, rows))
    run(params, config, pixels, vocabulary.pad(vocabulary.build(["one"]), rows[:1]))
    assert len(traces) == 1


def test_bad_thresholds_are_named_together(tiny):
    params, config, pixels, rows = tiny
    text = vocabulary.pad(WORDS, rows)
    with pytest.raises(ValueError, match=r"denoise=-0\.1: .*; key_smoothing=2"):
        maskclip.logits(params, config, pixels, text, denoise=-0.1, key_smoothing=2)


def test_the_shipped_student_finds_objects():
    """Single objects among all classes of the world: the right class wins far more object pixels than chance."""
    model = clip.load(world.pair("student"))
    size = model.config.vision.image_size
    words = vocabulary.build(world.CLASSES)
    encoder = text_cache.clip_encoder(model)
    rows = text_cache.text_rows(words.rows, encoder=encoder, templates=templates.resolve("single"))
    scenes = world.render_batch(0, "val", 0, 32, size=size)
    pixels = clip.normalise(jnp.asarray(scenes["image"]), model.config)
    text = vocabulary.pad(words, rows)
    labels = segment(model.params, model.config, pixels, text, size=(size, size)).labels
    triples = zip(*(scenes[name].tolist() for name in ("shape", "colour", "texture")))
    wanted = [world.class_index(world.class_name(*triple)) for triple in triples]
    hits = [np.asarray(m)[o] == k for m, o, k in zip(labels, scenes["mask"], wanted)]
    share, chance = np.concatenate(hits).mean(), 1 / len(words.classes)
    # Measured 0.225 with 256 classes.
    assert share > 20 * chance
