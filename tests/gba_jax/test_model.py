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
from core_jax.train import Params
from gba_jax import adapters, losses, matching, vocabulary
from gba_jax.backbones import Backbone
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.masks import MaskConfig
from gba_jax.model import FINETUNED, Segmenter, partition
from tests.gba_jax import fresh

WORDS = vocabulary.build(["cat, kitten", "grass", "sky", "road"])
COST = {"width": 8, "heads": 2, "layers": 1, "window": 4, "guide": 8, "lateral": (8, 8)}
COST |= {"features": (8, 8, 8), "guides": (4, 4, 4), "vocabulary": 0, "expansion": 1}
MASKS = MaskConfig(
    queries=5, layers=1, heads=2, width=16, feed_forward=16, pixel_layers=1, groups=4,
    pixel_feed_forward=16,
)  # fmt: skip
LOSS = losses.MaskLossConfig(points=32, match=matching.MatchConfig(points=32))
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
        make = clip.init
    else:
        trunk = ConvNeXtConfig(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
        config = openclip.OpenClipConfig(trunk=trunk, head="linear", text=text, projection_dim=12)
        make = openclip.init
    params = fresh.draw(jax.eval_shape(lambda key: make(config, key=key), jax.random.key(0)))
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
def batch(size: int, count: int = 8) -> dict:
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


def side(model: Segmenter) -> int:
    """Of the pictures; a ConvNeXt of stride 32 needs more than one pixel for anything to be learned."""
    return 32 if model.backbone.is_vit else 64


@functools.cache
def start(model: Segmenter):
    """Parameters on the tiny tower: the adapters' own fresh ones, a host like a fresh one."""
    clip_params = towers("vit" if model.backbone.is_vit else "convnext")[1]
    text = words()
    make = lambda key: model.init(clip_params, text, key=key)
    made = jax.eval_shape(make, jax.random.key(1))
    trainable = {
        name: fresh.draw(made.trainable[name])
        for name in ("host", "pyramid")
        if name in made.trainable
    }
    tuned, still = partition(clip_params, FINETUNED[model.finetune])
    if tuned:
        trainable["clip"] = tuned
    stats = {}
    if model.gba is not None:
        make = jax.jit(lambda key: adapters.init(model.gba, model.backbone.width, key=key))
        trainable["gba"], stats["gba"] = make(jax.random.key(1))
    params = Params(
        trainable=trainable, frozen={"clip": still, "text": text._asdict()}, stats=stats
    )
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(params) == types(made), "these are the parameters of `init`"
    return params


@functools.cache
def slope(model: Segmenter):
    """One program a model: ((loss, new state), gradient) of (trainable, frozen, state, batch, key)."""

    def value(trainable, frozen, stats, data, key):
        loss, new, _ = model.loss(trainable, frozen, stats, data, key)
        return loss, new

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def descend(model: Segmenter, steps: int, rate: float = 3e-3) -> list[float]:
    """The losses of a training with Adam, which is written out: NumPy has nothing to compile."""
    params, data = start(model), batch(side(model))
    trainable, stats = jax.device_get((params.trainable, params.stats))
    first = second = jax.tree.map(np.zeros_like, trainable)
    blend = lambda share: lambda old, new: np.float32(share) * old + np.float32(1 - share) * new
    found = []
    for step in range(1, steps + 1):
        args = trainable, params.frozen, stats, data, jax.random.key(step)
        (loss, new), grads = jax.device_get(slope(model)(*args))
        stats = stats | new
        first = jax.tree.map(blend(0.9), first, grads)
        second = jax.tree.map(blend(0.999), second, jax.tree.map(np.square, grads))
        size = np.float32(rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
        moves = jax.tree.map(lambda m, v: m / (np.sqrt(v) + np.float32(1e-8)), first, second)
        trainable = jax.tree.map(lambda p, m, size=size: p - size * m, trainable, moves)
        found.append(float(loss))
    return found


SEEN = jnp.asarray(np.arange(32) < 2)


@pytest.mark.parametrize(
    "host",
    [
        "cost vit",
        pytest.param("cost convnext", marks=pytest.mark.slow),
        pytest.param("masks vit", marks=pytest.mark.slow),
        "masks convnext",
    ],
)
def test_fresh_adapters_leave_the_host_as_it_is(host):
    plain, with_gba = segmenter(host, "none"), segmenter(host, "intent")
    params, bare = start(with_gba), start(plain)
    images = batch(side(plain))["image"]
    shared = {name: x for name, x in params.trainable.items() if name != "gba"}
    assert jax.tree.structure(shared) == jax.tree.structure(bare.trainable)
    bare = type(bare)(trainable=shared, frozen=bare.frozen, stats={})
    ask = lambda model, params: jax.jit(model.scores)(params, images, words(), SEEN)
    ours, theirs = ask(with_gba, params), ask(plain, bare)
    assert ours.shape[:2] == (8, 32)
    assert float(jnp.std(theirs[:, :4])) > 0, "a comparison of constants says nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert np.all(ours >= 0)
    assert np.all(ours[:, 4:] == 0), "padded classes score nothing"


@pytest.mark.parametrize(
    "host", ["cost vit", pytest.param("masks convnext", marks=pytest.mark.slow)]
)
def test_gates_learn_first_and_the_rest_follows(host):
    model = segmenter(host, "intent")
    params, data = start(model), batch(side(model))
    trainable = jax.device_get(params.trainable)
    reached: set[str] = set()
    for step in range(3):
        args = trainable, params.frozen, params.stats, data, jax.random.key(step)
        (value, _), grads = jax.device_get(slope(model)(*args))
        assert np.isfinite(float(value))
        leaves = jax.tree_util.tree_leaves_with_path(grads["gba"])
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        moved = {name(path) for path, g in leaves if np.abs(g).max() > 0}
        if step == 0:
            assert {"sda/gain", "cca/gain"} <= moved
            assert not any("conv" in leaf for leaf in moved)
        if step == 1:
            assert any(leaf.startswith("sda/conv") for leaf in moved), moved
            assert any(leaf.startswith("cca/conv") for leaf in moved), moved
        reached |= moved
        # A step that is large enough for small gradients to be seen behind it.
        trainable = jax.tree.map(
            lambda p, g: p - np.float32(0.1) * g / (np.linalg.norm(g) + np.float32(1e-12)),
            trainable,
            grads,
        )
    # The attention's key bias shifts all scores of a query alike, and an instance norm removes what is added everywhere.
    inert = ("key/bias", "out/bias", "value/bias", "key_norm/bias")
    missing = [name(p) for p, _ in leaves if name(p) not in reached and not name(p).endswith(inert)]
    assert not missing
    host_grads = jax.tree_util.tree_leaves_with_path(grads["host"])
    assert all(np.isfinite(g).all() for _, g in host_grads)


@pytest.mark.parametrize(
    ("host", "preset"),
    [
        pytest.param("cost vit", "none", marks=pytest.mark.slow),
        pytest.param("cost vit", "released", marks=pytest.mark.slow),
        pytest.param("cost convnext", "intent", marks=pytest.mark.slow),
        ("masks convnext", "intent"),
    ],
)
def test_training_lowers_the_loss(host, preset):
    seen = descend(segmenter(host, preset), 20)
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
    run = lambda frozen, data: slope(model)(
        params.trainable, frozen, params.stats, data, jax.random.key(0)
    )
    (ours, _), grads = run(frozen, data)
    (same, _), slopes = run(frozen, ignored)
    np.testing.assert_array_equal(ours, same)
    jax.tree.map(np.testing.assert_array_equal, grads, slopes)
    (whole, _), _ = run(params.frozen, data)
    assert abs(float(whole) - float(ours)) > 1e-4


@pytest.mark.parametrize(
    ("finetune", "some"),
    [("qv", "attention/query/kernel"), pytest.param("full", "fc1", marks=pytest.mark.slow)],
)
def test_parts_of_the_tower_can_be_trained(finetune, some):
    model = segmenter("cost vit", "none", finetune=finetune)
    params, data = start(model), batch(32)
    flat = jax.tree_util.tree_leaves_with_path(params.trainable["clip"])
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    assert any(some in name for name in names)
    assert all(name.startswith("vision/") for name in names)
    args = params.stats, data, jax.random.key(0)
    (loss, _), grads = slope(model)(params.trainable, params.frozen, *args)
    reached = [float(jnp.max(jnp.abs(g))) > 0 for g in jax.tree.leaves(grads["clip"])]
    # The last block's queries and keys do nothing where tokens do not mix.
    assert sum(reached) >= len(reached) - 6
    # The tower itself is the same as one that is wholly frozen.
    plain = segmenter("cost vit", "none")
    own = start(plain)
    (expected, _), slopes = slope(plain)(own.trainable, own.frozen, *args)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, grads["host"], slopes["host"])


def test_fresh_parameters_are_drawn():
    model = segmenter("cost vit", "none")
    make = jax.jit(lambda key: model.init(towers("vit")[1], words(), key=key).trainable["host"])
    one, other = (make(jax.random.key(i)) for i in (1, 2))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(one))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert sum(bool(np.any(a != b)) for a, b in pairs) > 5


def test_hosts_without_queries_say_so():
    model = segmenter("cost vit", "none")
    with pytest.raises(ValueError, match="'cost' has no masks of segments; host 'masks' does"):
        model.queries(start(model), batch(32)["image"], words(), SEEN)
    with pytest.raises(ValueError, match="'maskclip' needs a ViT"):
        Segmenter(host="maskclip", backbone=towers("convnext")[0])


SHARDED = """
import sys
sys.path.insert(0, {folder!r})
import jax, numpy as np
import test_model as t
mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
for host in {hosts!r}:
    found = t.step_of_eight(host, lambda data: jax.device_put(data, cut))
    np.savez({out!r} + "/" + host + ".npz", **found)
"""


def step_of_eight(host: str, place=lambda data: data) -> dict:
    """Loss, new state and gradients of a training step with eight pictures, numbered."""
    model = segmenter(host, "intent")
    params = start(model)
    args = params.trainable, params.frozen, params.stats, place(batch(side(model)))
    found = slope(model)(*args, jax.random.key(0))
    return {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(found))}


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(tmp_path):
    hosts = ("cost vit",)
    folder = pathlib.Path(__file__).parent
    code = SHARDED.format(folder=str(folder), hosts=hosts, out=str(tmp_path))
    env = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "PYTHONPATH": str(folder.parents[1]),
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=300)
    for host in hosts:
        alone, together = step_of_eight(host), dict(np.load(tmp_path / f"{host}.npz"))
        assert alone.keys() == together.keys()
        largest = max(float(np.abs(x).max()) for x in alone.values())
        assert largest > 1e-3
        for name, one in alone.items():
            np.testing.assert_allclose(
                together[name], one, rtol=1e-4, atol=1e-5 * max(1.0, largest)
            )
