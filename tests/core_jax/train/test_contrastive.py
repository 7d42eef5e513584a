"""The contrastive task: its losses against loops, its patches against brute force, one step, and what is exported."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from core_jax import clip, train, world
from core_jax.train import contrastive, contrastive_data, contrastive_losses, settings
from launch import config as config_lib
from tests.core_jax.train import eight


@pytest.fixture(scope="module")
def config() -> ml_collections.ConfigDict:
    """`configs/world_clip.py`, shrunk until it compiles in seconds."""
    base = config_lib.load("configs/world_clip.py")
    tiny = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 32}
    changes = {
        f"{tower}.{name}": size for tower in ("vision", "text") for name, size in tiny.items()
    }
    changes |= {"projection_dim": 8, "batch_size": 6, "steps": 3, "warmup_steps": 1}
    return config_lib.override(
        base, changes | {"eval_scenes": 6, "vision.patch_size": 16, "patches_kept": 8}
    )


@pytest.fixture(scope="module")
def built(config):
    task = contrastive.build(config)
    params = task.init(jax.random.key(0))
    return task, params, next(iter(task.train_data(0)))


def test_several_positives_is_the_mean_over_rows_and_their_positives():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5)).astype(np.float32)
    positive = rng.random((4, 5)) < 0.4
    positive[:, 0] = True
    total = 0.0
    for row, marks in zip(logits, positive, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        total += -np.mean([log_p[j] for j in range(5) if marks[j]])
    got = contrastive_losses.several_positives(jnp.asarray(logits), jnp.asarray(positive))
    np.testing.assert_allclose(got, total / 4, rtol=1e-6)


def test_patch_cells_are_the_masks_pixels():
    mask = np.random.default_rng(1).random((2, 8, 8)) < 0.5
    cells = np.asarray(contrastive_data.patch_cells(jnp.asarray(mask), 4))
    for b in range(2):
        for n, (row, column) in enumerate((r, c) for r in (0, 4) for c in (0, 4)):
            expected = mask[b, row : row + 4, column : column + 4].ravel()
            np.testing.assert_array_equal(cells[b, n], expected.astype(np.float32))


def test_patches_of_the_object_are_kept_first():
    cells = np.zeros((3, 16, 4), np.float32)
    touched = [{1, 5}, set(range(10)), set()]
    for b, marks in enumerate(touched):
        cells[b, list(marks), 0] = 1.0
    chosen = np.asarray(
        contrastive_data.choose_patches(jnp.asarray(cells), 6, key=jax.random.key(0))
    )
    for row, marks in zip(chosen, touched, strict=True):
        assert len(set(row.tolist())) == 6
        assert len(marks & set(row.tolist())) == min(6, len(marks))


def test_kept_patches_in_any_order_give_the_full_feature(built):
    task, params, batch = built
    model = contrastive.model_config(contrastive.read_config(config_of(task)))
    pixels = clip.normalise(jnp.asarray(batch["image"]), model)
    order = np.random.default_rng(2).permutation(16)
    keep = jnp.asarray(np.tile(order, (len(pixels), 1)))
    towers = params.trainable["clip"]
    whole, taps = clip.encode_image(towers, model, pixels, taps=True)
    kept, some = clip.encode_image(towers, model, pixels, taps=True, keep=keep)
    np.testing.assert_allclose(kept, whole, atol=1e-5)
    np.testing.assert_allclose(some[-1][:, 1:], taps[-1][:, 1:][:, order], atol=1e-5)


def config_of(task) -> ml_collections.ConfigDict:
    """The settings that `build` bound into the task's loss, as a configuration again."""
    return ml_collections.ConfigDict(vars(task.loss.args[1]))


def test_a_crop_of_everything_without_flip_changes_nothing():
    scenes = world.render_batch(0, "test", 0, 4)
    image, mask = contrastive_data.augment(
        jnp.asarray(scenes["image"]),
        jnp.asarray(scenes["mask"]),
        0.0,
        (0.5, 1.0),
        key=jax.random.key(3),
    )
    for b in range(4):
        same = np.array_equal(image[b], scenes["image"][b])
        flipped = np.array_equal(image[b], scenes["image"][b][:, ::-1])
        assert same or flipped
        expected = scenes["mask"][b] if same else scenes["mask"][b][:, ::-1]
        np.testing.assert_array_equal(mask[b], expected)


def test_batches_are_a_function_of_seed_and_number(config):
    def third(seed):
        stream = iter(contrastive.build(config).train_data(seed))
        return [next(stream) for _ in range(3)][-1]

    first, again, other = third(0), third(0), third(1)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(first["image"], other["image"])
    assert first["index"].tolist() == list(range(12, 18))


def test_held_out_compositions_never_appear(config):
    longer = config_lib.override(config, {"steps": 40})
    stream = iter(contrastive.build(longer).train_data(0))
    seen = set()
    for _ in range(40):
        batch = next(stream)
        triples = zip(batch["shape"], batch["colour"], batch["texture"], strict=True)
        seen |= {world.class_name(*map(int, triple)) for triple in triples}
    assert len(seen) > 100
    assert not seen & world.HELD_OUT


def test_one_loss_and_its_parts(built):
    task, params, batch = built
    value, aux = jax.jit(task.loss)(params.trainable, {}, {}, batch, jax.random.key(0))
    means = {name: float(total / count) for name, (total, count) in aux.metrics.items()}
    weights = task.loss.args[1]
    expected = (
        means["contrast"]
        + weights.attribute_weight * means["attribute"]
        + weights.outline_weight * means["outline"]
        + weights.dense_weight * means["dense"]
    )
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)
    # Heads start at zero: every guess is uniform.
    uniform = sum(np.log(size) for size in contrastive_data.ATTRIBUTES.values())
    np.testing.assert_allclose(means["attribute"], uniform, rtol=1e-5)
    np.testing.assert_allclose(means["outline"], np.log(2), rtol=1e-5)


def test_evaluation_names_every_style(built):
    task, params, _ = built
    results = task.evaluate(params.trainable, {}, {})
    assert {name.split("/")[1] for name in results} == set(world.TRAIN_STYLES)
    assert all(0.0 <= value <= 100.0 for value in results.values())
    for style in world.TRAIN_STYLES:
        assert results[f"zeroshot/{style}/percent"] <= results[f"shape/{style}/percent"]


def test_a_configuration_without_a_key_is_refused():
    with pytest.raises(TypeError, match=r"lacks .*steps"):
        contrastive.read_config(ml_collections.ConfigDict({"seed": 0}))


def first_step(config, **changes):
    """Loss and gradient where nothing is drawn: no crops, all patches. Flips stay, and are the same for a whole batch."""
    still = {"crop_share": 0.0, "full_share": 1.0, **changes}
    task = contrastive.build(config_lib.override(config, still))
    params = task.init(jax.random.key(0))
    heads = jax.tree.map(
        lambda x: x + 0.01 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params.trainable["heads"]
    )
    params = train.Params(trainable={**params.trainable, "heads": heads})
    return eight.slope(task, params, next(iter(task.train_data(0))))


def test_pieces_and_what_is_computed_again_change_nothing(config, monkeypatch):
    # Every piece draws its own flips.
    monkeypatch.setattr(contrastive_data, "augment", lambda image, mask, *_, key: (image, mask))
    expected = first_step(config)
    eight.same(first_step(config, accumulate=3, remat=True), expected)


@pytest.mark.slow
def test_half_precision_is_near(config):
    (value, _), _ = first_step(config)
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its norms
        (half, _), gradient = first_step(config, dtype="bfloat16")
    np.testing.assert_allclose(half, value, rtol=0.02)
    assert {x.dtype.name for x in jax.tree.leaves(gradient)} == {"float32"}


def test_parity_computes_every_product_in_full_float32(config):
    try:
        exact = contrastive.build(config_lib.override(config, {"dtype": "parity"}))
        lines = eight.products(eight.lowered(exact))
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert lines
    assert all("bf16" not in line and line.count("HIGHEST") == 2 for line in lines)
    plain = eight.products(eight.lowered(contrastive.build(config)))
    assert not all("HIGHEST" in line for line in plain)


def test_values_that_cannot_be_used(config):
    for changes, message in (
        ({"dtype": "half"}, "config.dtype='half'"),
        ({"accumulate": 0}, "config.accumulate=0"),
    ):
        with pytest.raises(settings.ConfigError, match=message):
            contrastive.build(config_lib.override(config, changes))


def on_eight():
    base = config_lib.load("configs/world_clip.py")
    tiny = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
    changes = {f"{t}.{n}": size for t in ("vision", "text") for n, size in tiny.items()}
    changes |= {"projection_dim": 8, "batch_size": 16, "steps": 3, "warmup_steps": 1}
    small = config_lib.override(base, changes | {"vision.patch_size": 16, "patches_kept": 8})
    eight.check(contrastive.build(small))
    eight.check(contrastive.build(config_lib.override(small, {"accumulate": 2, "remat": True})))


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    eight.run("tests.core_jax.train.test_contrastive.on_eight")
