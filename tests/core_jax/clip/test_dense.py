"""Dense features against torch's CLIPModel with its last layer computed by hand, and the taps of the image tower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import core_jax.clip as clip

TOLERANCE = 1e-5
MODES = ("residual", "value_only", "cls")
encode_dense = jax.jit(clip.encode_dense, static_argnums=1, static_argnames=("mode", "keys"))
few = pytest.mark.parametrize(
    "reference", ["float16 file", "towers of different sizes"], indirect=True
)


def random_pixels(reference, count: int = 3) -> np.ndarray:
    size = reference.case.image
    return np.random.default_rng(2).normal(size=(count, size, size, 3)).astype(np.float32)


def by_hand(reference, pixels: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """(features, keys) on the grid; every layer but the last is torch's own."""
    tower = reference.torch.vision_model
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        states = tower(pixel_values=images, output_hidden_states=True).hidden_states
        layer, x = tower.encoder.layers[-1], states[-2]
        first = layer.layer_norm1(x)
        attention = layer.self_attn
        value = first @ attention.v_proj.weight.T + attention.v_proj.bias
        value = value @ attention.out_proj.weight.T + attention.out_proj.bias
        if mode == "value_only":
            out = value
        else:
            out = (x if mode == "residual" else x[:, :1]) + value
            out = out + layer.mlp(layer.layer_norm2(out))
        out = reference.torch.visual_projection(tower.post_layernorm(out))
        keys = first @ attention.k_proj.weight.T + attention.k_proj.bias
    grid = reference.case.image // reference.case.patch
    shape = (len(pixels), grid, grid, -1)
    return out[:, 1:].reshape(shape).numpy(), keys[:, 1:].reshape(shape).numpy()


def close(ours, theirs) -> None:
    assert ours.shape == theirs.shape
    largest = float(np.max(np.abs(theirs)))
    assert largest > 1e-4, "a comparison of zeros says nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * min(1, largest))


@pytest.mark.parametrize("mode", MODES)
def test_features_and_keys(reference, mode):
    pixels = random_pixels(reference)
    ours = reference.ours
    features, keys = encode_dense(ours.params, ours.config, pixels, mode=mode, keys=True)
    expected, expected_keys = by_hand(reference, pixels, mode)
    close(features, expected)
    close(keys, expected_keys)


@few
def test_modes_differ_and_residual_is_the_default(reference):
    pixels = random_pixels(reference)
    ours = reference.ours
    maps = {m: encode_dense(ours.params, ours.config, pixels, mode=m) for m in MODES}
    np.testing.assert_array_equal(encode_dense(ours.params, ours.config, pixels), maps["residual"])
    for one, other in (("residual", "cls"), ("cls", "value_only"), ("value_only", "residual")):
        assert np.abs(maps[one] - maps[other]).max() > 1e-2


def test_the_grid_is_row_major():
    """Without mixing in a single block, a patch depends on its own pixels alone."""
    vision = clip.VisionConfig(image_size=24, patch_size=8, width=32, layers=1, heads=2)
    text = clip.TextConfig(vocab_size=99, context_length=8, width=32, layers=1, heads=2)
    config = clip.ClipConfig(vision=vision, text=text, projection_dim=8)
    params = clip.init(config, key=jax.random.key(0))
    pixels = np.random.default_rng(2).normal(size=(1, 24, 24, 3)).astype(np.float32)
    changed = pixels.copy()
    changed[0, :8, 8:16] += 1.0
    before, after = (encode_dense(params, config, x) for x in (pixels, changed))
    moved = np.abs(after - before).max(-1)[0] > 1e-6
    expected = np.zeros((3, 3), bool)
    expected[0, 1] = True
    np.testing.assert_array_equal(moved, expected)


@few
def test_taps_are_called_in_order_with_what_leaves_the_blocks(reference):
    ours, pixels = reference.ours, random_pixels(reference)
    layers, width, grid = (getattr(ours.config.vision, n) for n in ("layers", "width", "grid"))
    seen: list[tuple[str, tuple[int, ...]]] = []
    kept: list[jax.Array] = []

    def record(name, x):
        seen.append((name, x.shape))
        kept.append(x)
        return x

    @jax.jit
    def run(pixels):
        features = clip.encode_image(ours.params, ours.config, pixels, tap=record)
        dense = clip.encode_dense(ours.params, ours.config, pixels, tap=record)
        out = list(kept)
        kept.clear()
        return features, dense, out

    features, dense, maps = run(pixels)
    tokens = (3, 1 + grid**2, width)
    whole = [(f"block_{i}", tokens) for i in range(layers)]
    assert seen == [*whole, *whole[:-1], ("dense", (3, grid, grid, width))]
    plain, taps = jax.jit(clip.encode_image, static_argnums=1, static_argnames="taps")(
        ours.params, ours.config, pixels, taps=True
    )
    close(features, np.asarray(plain))
    close(dense, np.asarray(encode_dense(ours.params, ours.config, pixels)))
    for tapped, theirs in zip(maps[:layers], taps, strict=True):
        close(tapped, np.asarray(theirs))


@few
@pytest.mark.parametrize("place", ["first", "last"])
def test_the_tower_continues_with_what_the_tap_returns(reference, place):
    """A tap that swaps the pictures of a batch swaps their features: nothing goes around it."""
    ours, pixels = reference.ours, random_pixels(reference)
    other = pixels[::-1]
    last = ours.config.vision.layers - 1
    image_tap, dense_tap = (
        ("block_0", "block_0") if place == "first" else (f"block_{last}", "dense")
    )

    def flip(at):
        return lambda name, x: x[::-1] if name == at else x

    image = jax.jit(lambda x: clip.encode_image(ours.params, ours.config, x, tap=flip(image_tap)))
    dense = jax.jit(lambda x: clip.encode_dense(ours.params, ours.config, x, tap=flip(dense_tap)))
    plain = jax.jit(clip.encode_image, static_argnums=1)
    close(image(pixels), np.asarray(plain(ours.params, ours.config, other)))
    close(dense(pixels), np.asarray(encode_dense(ours.params, ours.config, other)))


@few
def test_tokens_that_are_returned_include_the_tap(reference):
    ours, pixels = reference.ours, jnp.asarray(random_pixels(reference))
    double = lambda name, x: 2.0 * x if name == "block_0" else x
    _, plain = clip.encode_image(ours.params, ours.config, pixels, taps=True)
    _, tapped = clip.encode_image(ours.params, ours.config, pixels, taps=True, tap=double)
    close(tapped[0], 2.0 * np.asarray(plain[0]))


def test_bfloat16_follows_the_pixels(saved):
    ours, pixels = saved.ours, random_pixels(saved)
    exact = clip.unit(encode_dense(ours.params, ours.config, pixels))
    # flax's LayerNorm promotes on its own account.
    with jax.numpy_dtype_promotion("standard"):
        rough = encode_dense(ours.params, ours.config, jnp.asarray(pixels, jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    cosine = jnp.sum(clip.unit(rough.astype(jnp.float32)) * exact, axis=-1)
    assert float(cosine.min()) > 0.999


def test_wrong_calls_are_refused(saved):
    params, config = saved.ours.params, saved.ours.config
    with pytest.raises(ValueError, match=r"\(2, 48, 48, 3\).*image_size=48"):
        clip.encode_dense(params, config, jnp.zeros((2, 48, 48, 3), jnp.float32))
    with pytest.raises(ValueError, match="'values': expected one of residual, value_only, cls"):
        clip.encode_dense(
            params,
            config,
            jnp.zeros((2, 32, 32, 3), jnp.float32),
            mode="values",  # pyright: ignore[reportArgumentType]
        )


@few
def test_maps_before_and_after_the_tap(reference):
    ours, pixels = reference.ours, random_pixels(reference)
    layers, grid = ours.config.vision.layers, ours.config.vision.grid
    doubled = lambda name, x: 2 * x if name == "dense" else x

    @jax.jit
    def run(pixels):
        maps = clip.dense_maps(ours.params, ours.config, pixels, tap=doubled)
        return maps, clip.project_dense(ours.params, ours.config, maps["dense/raw"])

    maps, projected = run(pixels)
    names = [*(f"block_{i}" for i in range(layers - 1)), "dense"]
    assert sorted(maps) == sorted([*names, *(f"{name}/raw" for name in names)])
    np.testing.assert_array_equal(maps["dense"], 2 * maps["dense/raw"])
    np.testing.assert_array_equal(maps["block_0"], maps["block_0/raw"])
    assert projected.shape[:3] == (3, grid, grid)
    close(projected, np.asarray(encode_dense(ours.params, ours.config, pixels)))
