"""Every host with and without adapters: unchanged at the start, gradients where they belong, the same on 8 devices."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip
from core_jax.clip import openclip
from core_jax.nn import ConvNeXtConfig
from gba_jax import adapters, losses, matching, vocabulary
from gba_jax.backbones import Backbone
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.masks import MaskConfig
from gba_jax.model import Segmenter

WORDS = vocabulary.build(["cat, kitten", "grass", "sky", "road"])
COST = {"width": 8, "heads": 2, "layers": 1, "window": 4, "guide": 8, "lateral": (8, 8)}
COST |= {"features": (8, 8, 8), "guides": (4, 4, 4), "vocabulary": 0, "expansion": 1}
MASKS = MaskConfig(
    queries=5, layers=1, heads=2, width=16, feed_forward=16, pixel_layers=1, groups=4,
    pixel_feed_forward=16,
)  # fmt: skip
LOSS = losses.MaskLossConfig(points=32, match=matching.MatchConfig(points=32))
HOSTS = ("cost vit", "cost convnext", "masks vit", "masks convnext")
PRESETS = {"none": None, "intent": "intent", "released": "released"}


@functools.cache
def towers(kind: str):
    """(backbone, its parameters) of a tiny random CLIP."""
    text = clip.TextConfig(vocab_size=99, context_length=8, width=16, layers=1, heads=2)
    if kind == "vit":
        vision = clip.VisionConfig(
            image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_width=32
        )
        config = clip.ClipConfig(vision=vision, text=text, projection_dim=12)
        params = clip.init(config, key=jax.random.key(0))
    else:
        trunk = ConvNeXtConfig(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
        config = openclip.OpenClipConfig(trunk=trunk, head="linear", text=text, projection_dim=12)
        params = openclip.init(config, key=jax.random.key(0))
    kept = {name: params[name] for name in ("vision", "logit_scale")}
    return Backbone(config=config), kept


@functools.cache
def words():
    """Unit text rows of `WORDS`, as a vocabulary's."""
    rows = np.random.default_rng(0).normal(size=(len(WORDS.rows), 12)).astype(np.float32)
    return vocabulary.pad(WORDS, rows / np.linalg.norm(rows, axis=1, keepdims=True))


@functools.cache
def segmenter(host: str, preset: str, **changes) -> Segmenter:
    """A host such as "cost vit" with both adapters, or none."""
    name, kind = host.split()
    backbone, _ = towers(kind)
    gba = None
    if PRESETS[preset]:
        shallow = "block_0" if kind == "vit" else "res2"
        switches = adapters.GBAConfig(host_void=name == "masks", cca_width="full")
        gba = adapters.GBA(
            taps=backbone.taps, shallow=shallow, deep=backbone.deep, preset=preset, config=switches
        )
    form = "window" if kind == "vit" else "pyramid"
    return Segmenter(
        host=name,
        backbone=backbone,
        gba=gba,
        cost=CostConfig(form=form, **COST),
        masks=MASKS,
        mask_loss=LOSS,
        **changes,
    )


@functools.cache
def batch(size: int, count: int = 2) -> dict:
    """Pictures with three segments each."""
    rng = np.random.default_rng(1)
    label = np.full((count, size, size), -1, np.int32)
    label[:, : size // 2], label[:, size // 2 :, : size // 2] = 0, 2
    label[:, -4:, -4:] = 3
    segment = np.select([label == 0, label == 2, label == 3], [0, 1, 2], -1).astype(np.int32)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, size, size, 3), np.uint8)),
        "label": jnp.asarray(label),
        "segment": jnp.asarray(segment),
        "classes": jnp.asarray(np.tile(np.int32([0, 2, 3, -1]), (count, 1))),
    }


def side(host: str) -> int:
    """Of the pictures; a ConvNeXt of stride 32 needs more than one pixel for anything to be learned."""
    return 32 if host.endswith("vit") else 64


def start(model: Segmenter):
    """Fresh parameters on the tiny tower."""
    kind = "vit" if model.backbone.is_vit else "convnext"
    return model.init(towers(kind)[1], words(), key=jax.random.key(1))


SEEN = jnp.asarray(np.arange(32) < 2)


@pytest.mark.parametrize("host", HOSTS)
def test_fresh_adapters_leave_the_host_as_it_is(host):
    plain, with_gba = segmenter(host, "none"), segmenter(host, "intent")
    params, bare = start(with_gba), start(plain)
    images = batch(side(host))["image"]
    shared = {name: x for name, x in params.trainable.items() if name != "gba"}
    assert jax.tree.structure(shared) == jax.tree.structure(bare.trainable)
    bare = type(bare)(trainable=shared, frozen=bare.frozen, stats={})
    ask = lambda model, params: jax.jit(model.scores)(params, images, words(), SEEN)
    ours, theirs = ask(with_gba, params), ask(plain, bare)
    assert ours.shape[:2] == (2, 32)
    assert float(jnp.std(theirs[:, :4])) > 0, "a comparison of constants says nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert np.all((ours >= 0) & (ours <= 1))
    assert np.all(ours[:, 4:] == 0), "padded classes score nothing"


@pytest.mark.parametrize("host", HOSTS)
def test_gates_learn_first_and_the_rest_follows(host):
    model = segmenter(host, "intent")
    params, data = start(model), batch(side(host))

    @jax.jit
    def slope(trainable, stats, key):
        value = lambda t: model.loss(t, params.frozen, stats, data, key)[0]
        return jax.value_and_grad(value)(trainable)

    trainable = params.trainable
    reached: set[str] = set()
    for step in range(3):
        value, grads = slope(trainable, params.stats, jax.random.key(step))
        assert np.isfinite(float(value))
        leaves = jax.tree_util.tree_leaves_with_path(grads["gba"])
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        moved = {name(path) for path, g in leaves if float(jnp.max(jnp.abs(g))) > 0}
        if step == 0:
            assert {"sda/gain", "cca/gain"} <= moved
            assert not any("conv" in leaf for leaf in moved)
        if step == 1:
            assert any(leaf.startswith("sda/conv") for leaf in moved), moved
            assert any(leaf.startswith("cca/conv") for leaf in moved), moved
        reached |= moved
        # A step that is large enough for small gradients to be seen behind it.
        trainable = jax.tree.map(
            lambda p, g: p - 0.1 * g / (jnp.linalg.norm(g) + 1e-12), trainable, grads
        )
    # The attention's key bias shifts all scores of a query alike, and an instance norm removes what is added everywhere.
    inert = ("key/bias", "out/bias", "value/bias", "key_norm/bias")
    missing = [name(p) for p, _ in leaves if name(p) not in reached and not name(p).endswith(inert)]
    assert not missing
    host_grads = jax.tree_util.tree_leaves_with_path(grads["host"])
    assert all(np.isfinite(g).all() for _, g in host_grads)


@pytest.mark.parametrize("host", ["cost vit", "masks convnext"])
@pytest.mark.parametrize("preset", ["none", "released"])
def test_training_lowers_the_loss(host, preset):
    import optax

    model = segmenter(host, preset)
    params, data = start(model), batch(side(host))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(trainable, stats, state, key):
        value = lambda t: model.loss(t, params.frozen, stats, data, key)
        (loss, (new, metrics)), grads = jax.value_and_grad(
            lambda t: (lambda v, n, m: (v, (n, m)))(*value(t)), has_aux=True
        )(trainable)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(trainable, updates), stats | new, state, loss

    trainable, stats = params.trainable, params.stats
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, seen = optimizer.init(trainable), []
        for i in range(20):
            trainable, stats, state, loss = step(trainable, stats, state, jax.random.key(i))
            seen.append(float(loss))
    assert np.isfinite(seen).all()
    assert np.mean(seen[-3:]) < 0.8 * np.mean(seen[:3])


def test_masked_classes_take_no_part_in_training():
    """What the loss sees of a class that is left out: nothing, whether its pixels are there or not."""
    model = segmenter("cost vit", "intent")
    params, data = start(model), batch(32)
    text = words()
    left_out = text._replace(
        row_mask=text.row_mask & (text.class_of_row != 3),
        class_mask=text.class_mask & (jnp.arange(32) != 3),
    )
    frozen = params.frozen | {"text": left_out._asdict()}
    ignored = data | {"label": jnp.where(data["label"] == 3, -1, data["label"])}
    run = jax.jit(model.loss)
    args = params.trainable, frozen, params.stats
    ours = run(*args, data, jax.random.key(0))[0]
    np.testing.assert_array_equal(ours, run(*args, ignored, jax.random.key(0))[0])
    whole = run(params.trainable, params.frozen, params.stats, data, jax.random.key(0))[0]
    assert abs(float(whole) - float(ours)) > 1e-4


@pytest.mark.parametrize(("finetune", "some"), [("qv", "attention/query/kernel"), ("full", "fc1")])
def test_parts_of_the_tower_can_be_trained(finetune, some):
    model = segmenter("cost vit", "none", finetune=finetune)
    params, data = start(model), batch(32)
    flat = jax.tree_util.tree_leaves_with_path(params.trainable["clip"])
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    assert any(some in name for name in names)
    assert all(name.startswith("vision/") for name in names)
    value = lambda t: model.loss(t, params.frozen, params.stats, data, jax.random.key(0))[0]
    grads = jax.jit(jax.grad(value))(params.trainable)["clip"]
    reached = [float(jnp.max(jnp.abs(g))) > 0 for g in jax.tree.leaves(grads)]
    # The last block's queries and keys do nothing where tokens do not mix.
    assert sum(reached) >= len(reached) - 6
    same, plain = segmenter("cost vit", "none"), params
    whole = {"clip": towers("vit")[1], "text": params.frozen["text"]}
    bare = {name: x for name, x in params.trainable.items() if name != "clip"}
    plain = type(params)(trainable=bare, frozen=whole, stats={})
    ask = lambda model, params: jax.jit(model.scores)(params, data["image"], words(), SEEN)
    np.testing.assert_allclose(ask(model, params), ask(same, plain), rtol=0, atol=1e-6)


def test_hosts_without_queries_say_so():
    model = segmenter("cost vit", "none")
    with pytest.raises(ValueError, match="'cost' has no masks of segments; host 'masks' does"):
        model.queries(start(model), batch(32)["image"], words(), SEEN)
    with pytest.raises(ValueError, match="'maskclip' needs a ViT"):
        Segmenter(host="maskclip", backbone=towers("convnext")[0])


SHARDED = """
import json, sys
sys.path.insert(0, {folder!r})
import jax, jax.numpy as jnp, numpy as np
import test_model as t
model = t.segmenter({host!r}, "intent")
params, data = t.start(model), t.batch(t.side({host!r}), 8)
mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
data = jax.device_put(data, cut)
def value(trainable):
    loss, new, _ = model.loss(trainable, params.frozen, params.stats, data, jax.random.key(0))
    return loss, new
(loss, new), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(params.trainable)
np.savez({out!r}, loss=loss, **{{str(i): x for i, x in enumerate(jax.tree.leaves((grads, new)))}})
"""


@pytest.mark.parametrize("host", ["cost vit", "masks convnext"])
def test_eight_devices_compute_what_one_does(tmp_path, host):
    found = []
    for devices in (1, 8):
        out = tmp_path / f"{devices}.npz"
        code = SHARDED.format(folder=str(pathlib.Path(__file__).parent), host=host, out=str(out))
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
        }
        subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=300)
        found.append(dict(np.load(out)))
    assert found[0].keys() == found[1].keys()
    largest = max(float(np.abs(x).max()) for x in found[0].values())
    assert largest > 1e-3
    for name, one in found[0].items():
        np.testing.assert_allclose(found[1][name], one, rtol=1e-4, atol=1e-5 * max(1.0, largest))
