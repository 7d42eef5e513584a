"""CLIP-DFENet put together: what each module adds, what stays frozen, and what happens without a CLIP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip, world
from core_jax.clip import Clip, ClipConfig, ResNetVisionConfig, TextConfig, Tokenizer
from core_jax.nn import ResNetConfig
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import losses
from gaze_jax.networks import anchors, cfe, clip_towers, dfenet, double_head
from gaze_jax.networks.dfenet import DFENetConfig
from tests.gaze_jax.small_dfenet import SmallCFE, small_vision

CFE = cfe.CFEConfig(
    image_size=64,
    layers=1,
    heads=2,
    width=12,
    mlp_width=8,
    dropout=0.0,
    trunk=ResNetConfig(width=4, depths=(1, 1, 1, 1)),
)
PLAIN = {"ldm": False, "vfm": "none", "dgr": False}
RN = {"anchors": "ordinal", "dropped": 2}
VIT = RN | {"clip": "world", "source": "vit_patches"}
WORDS = ("the picture is plain .", "the picture is not plain .")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (4, 48, 48, 3)), jnp.uint8),
        "gaze": jnp.asarray(rng.uniform(-0.4, 0.4, (4, 2)), jnp.float32),
        "head": jnp.zeros((4, 2)),
        "person": jnp.zeros(4, jnp.int32),
        "side": jnp.full(4, 2, jnp.int32),
    }


def _filled(init):
    """The arrays of `init` with random values, norms and variances near 1: drawn by numpy, which compiles nothing."""
    rng = np.random.default_rng(3)

    def fill(path, leaf):
        positive = path[-1].key in ("scale", "var")
        values = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="module")
def rn():
    """A ResNet CLIP with maps of 2 x 2 x 64; its running statistics are not those of its batches."""
    text = TextConfig(vocab_size=8, context_length=4, width=8, layers=1, heads=1, mlp_width=8)
    vision = ResNetVisionConfig(depths=(1, 1, 1, 1), width=2, image_size=64)
    config = ClipConfig(vision=vision, text=text, projection_dim=8)
    params = _filled(lambda key: clip.init(config, key=key))
    return Clip(config, params, Tokenizer("nowhere"))


def _changed(before, after):
    return [
        bool(np.any(np.asarray(a) != np.asarray(b)))
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]


@pytest.mark.parametrize(
    "parts", ["small", pytest.param("real", marks=pytest.mark.slow)], ids=["small", "real"]
)
@pytest.mark.parametrize("preset", ["faithful", "recommended"])
def test_both_presets_learn_and_only_a_trained_tower_moves(preset, parts, rn, batch, monkeypatch):
    if parts == "small":
        monkeypatch.setattr(dfenet, "CFE", SmallCFE)
        monkeypatch.setattr(clip_towers, "vision", small_vision)
    settings = DFENetConfig(**dfenet.PRESETS[preset], **RN)
    model = dfenet.make(settings, CFE, clip=rn)
    params = _filled(model.init)

    @jax.jit
    def run(params, key):
        own = lambda t, f: model.loss(t, f, params.stats, batch, key)
        return jax.value_and_grad(own, argnums=(0, 1), has_aux=True)(
            params.trainable, params.frozen
        )

    (value, aux), (own, of_frozen) = run(params, jax.random.key(2))
    terms = {name: float(losses.mean(pair)) for name, pair in aux.metrics.items()}
    expected = terms["loss_l1"] + 0.1 * terms["loss_head2"] + 0.1 * terms["loss_align"]
    assert value == pytest.approx(expected, rel=1e-6)
    assert all(bool(np.all(np.isfinite(g))) for g in jax.tree.leaves(own))
    learns = {name: any(bool(np.any(g)) for g in jax.tree.leaves(own[name])) for name in own}
    assert all(learns.values()), learns
    assert jax.tree.structure(aux.stats) == jax.tree.structure(params.stats)
    assert all(_changed(params.stats["fusion"], aux.stats["fusion"]))
    if preset == "faithful":
        assert set(own) == {"cfe", "fusion", "clip"}
        assert set(params.frozen) == {"anchors", "projection"}
        assert any(_changed(params.stats["clip"], aux.stats["clip"]))
    else:
        assert set(own) == {"cfe", "fusion", "projection"}
        assert set(params.frozen) == {"anchors", "clip"}
        assert "clip" not in aux.stats
        # The tower gets no gradient even where somebody asks for one.
        assert not any(bool(np.any(g)) for g in jax.tree.leaves(of_frozen["clip"]))


def test_a_loaded_tower_starts_as_it_was_loaded(rn):
    own = clip_towers.vision(rn).init(jax.random.key(0))
    loaded = rn.params["vision"]["trunk"], rn.params["vision"]["stats"]
    assert not any(_changed(own, loaded))


def test_a_frozen_tower_sees_clip_pixels_and_uses_its_running_statistics(rn, batch):
    vision = clip_towers.vision(rn)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)), jnp.uint8)
    pixels = vision.pixels(images, "clip", jnp.float32)
    np.testing.assert_allclose(pixels, clip.normalise(images, rn.config), atol=1e-5)
    bgr = vision.pixels(images, "bgr", jnp.float32)
    np.testing.assert_allclose(bgr, np.asarray(images)[..., ::-1] / 255.0, atol=1e-6)
    params, stats = vision.init(jax.random.key(0))
    maps = jax.jit(vision.maps, static_argnums=3)
    first, kept = maps(params, stats, pixels, False)
    second, _ = maps(params, stats, pixels.at[1].multiply(3.0), False)
    # No picture sees the others, and nothing moves.
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 1e-3
    assert not any(_changed(kept, stats))


def test_patches_are_those_that_leave_the_last_block(batch):
    opened = clip_towers.open_clip("world")
    vision = clip_towers.vision(opened)
    pixels = vision.pixels(batch["image"], "clip", jnp.float32)
    params, stats = vision.init(jax.random.key(0))
    assert not {"post_norm", "projection"} & set(params)

    @jax.jit
    def both(params, whole, pixels):
        _, taps = clip.encode_image(whole, opened.config, pixels, taps=True)
        return vision.maps(params, stats, pixels, True)[0], taps[-1][:, 1:]

    got, expected = both(params, opened.params, pixels)
    np.testing.assert_allclose(got, expected.reshape(4, 8, 8, 128), atol=1e-4)


def test_without_its_modules_it_is_the_extractor(batch):
    model, plain = dfenet.make(DFENetConfig(**PLAIN), CFE), cfe.make(CFE)
    params, key = _filled(model.init), jax.random.key(3)
    assert not params.frozen
    assert set(params.trainable) == set(params.stats) == {"cfe"}

    own = Params(trainable=params.trainable["cfe"], stats=params.stats["cfe"])

    def trained(one, of):
        value, aux = jax.jit(one.loss)(of.trainable, of.frozen, of.stats, batch, key)
        return value, aux.stats

    (value, stats), expected = trained(model, params), trained(plain, own)
    jax.tree.map(np.testing.assert_array_equal, (value, stats["cfe"]), expected)
    # The same program, so that it need not run.
    arguments = batch["image"], batch["head"]
    programs = [
        str(jax.make_jaxpr(one.predict)(of, *arguments))
        for one, of in ((model, params), (plain, own))
    ]
    assert programs[0] == programs[1]


def test_language_and_second_head_cost_nothing_at_inference(batch):
    """The embedded pair: a prediction does not read anchors, projection, labels or masks."""
    model = dfenet.make(DFENetConfig(**VIT), CFE)
    params = _filled(model.init)
    text = jax.make_jaxpr(lambda p: model.predict(p, batch["image"], batch["head"]))(params)
    used = {id(v) for e in text.jaxpr.eqns for v in e.invars}
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    unused = {
        jax.tree_util.keystr(path)
        for (path, _), v in zip(paths, text.jaxpr.invars, strict=True)
        if id(v) not in used
    }
    assert unused == {
        ".frozen['anchors']",
        ".trainable['projection']['bias']",
        ".trainable['projection']['kernel']",
    }
    answer = jax.eval_shape(model.predict, params, batch["image"], batch["head"])
    assert (answer.shape, answer.dtype) == ((4, 2), jnp.float32)
    assert jax.eval_shape(model.features, params, batch["image"], batch["head"]).shape == (4, 12)


def test_bfloat16_keeps_losses_and_answers_in_float32(batch):
    model = dfenet.make(DFENetConfig(**VIT), CFE, dtype="bfloat16")
    params = jax.eval_shape(model.init, jax.random.key(0))
    # Flax's own norms promote by themselves.
    with jax.numpy_dtype_promotion("standard"):
        value, aux = jax.eval_shape(
            model.loss, params.trainable, params.frozen, params.stats, batch, jax.random.key(0)
        )
        answer = jax.eval_shape(model.predict, params, batch["image"], batch["head"])
    kept = [value, aux.metrics, aux.stats, answer]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}


def test_sentences_go_through_the_text_tower(tmp_path):
    settings = DFENetConfig(
        ldm=True,
        vfm="none",
        clip="world",
        source="vit_patches",
        grades=2,
        sentences=WORDS,
        anchors_file=str(tmp_path / "anchors.json"),
    )
    network = dfenet.open_network(settings, CFE)
    opened = clip.load(world.pair("student"))
    np.testing.assert_allclose(
        network.anchors, clip.zeroshot.classifier(opened, WORDS, ("{}",)), atol=1e-6
    )
    # From then on the record is enough.
    alone = dataclasses.replace(settings, clip="")
    again = dfenet.open_network(alone, CFE)
    np.testing.assert_array_equal(again.anchors, network.anchors)
    assert dfenet.pins(alone) == dfenet.pins(settings)
    assert set(dfenet.pins(settings)) == {"anchors"}


def test_pins_name_the_tower_and_the_anchors(rn):
    first = dfenet.pins(DFENetConfig(**VIT))
    assert set(first) == {"clip", "anchors"}
    assert first == dfenet.pins(DFENetConfig(**VIT))
    assert dfenet.pins(DFENetConfig(**RN), clip=rn)["clip"] != first["clip"]
    assert dfenet.pins(DFENetConfig(**VIT | {"anchors": "random"}))["anchors"] != first["anchors"]


def test_words_that_a_small_vocabulary_lacks_are_named():
    with pytest.raises(ConfigError, match=r"(?s)'gaze'.*dfenet\.sentences.*anchors='ordinal'"):
        dfenet.make(DFENetConfig(clip="world", source="vit_patches"), CFE)


def test_missing_weights_are_one_error():
    with pytest.raises(ConfigError, match=r"(?s)vfm='affinity'.*anchors='clip'.*dfenet\.clip"):
        dfenet.make(DFENetConfig(), CFE)
    with pytest.raises(ConfigError, match=r"vfm='film'") as error:
        dfenet.make(DFENetConfig(anchors="ordinal", vfm="film"), CFE)
    assert "anchors='clip'" not in str(error.value)
    with pytest.raises(ConfigError, match="anchors='clip'"):
        dfenet.make(DFENetConfig(vfm="none"), CFE)
    # What needs no CLIP runs without one.
    dfenet.make(DFENetConfig(vfm="none", anchors="ordinal"), CFE)
    dfenet.make(DFENetConfig(vfm="none", ldm=False), CFE)


def test_a_clip_of_the_other_kind_is_refused(rn):
    with pytest.raises(ConfigError, match=r"set dfenet\.source='rn50_map'"):
        dfenet.make(DFENetConfig(source="vit_patches", ldm=False), CFE, clip=rn)


def test_impossible_settings_are_listed_together():
    with pytest.raises(ConfigError, match=r"(?s)vfm='add'.*grades=4.*1 sentences.*tau=0") as error:
        DFENetConfig(vfm="add", grades=4, sentences=("a",), tau=0.0)  # pyright: ignore
    assert "clip" not in str(error.value)
    with pytest.raises(ConfigError, match="must be 'vit_patches'"):
        DFENetConfig(clip="world")


def test_quantile_cuts_need_labels_for_training_alone(batch):
    settings = DFENetConfig(vfm="none", anchors="ordinal", cuts="quantile")
    model = dfenet.make(settings, CFE)
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = params.trainable, params.frozen, params.stats, batch, jax.random.key(0)
    with pytest.raises(ConfigError, match="needs the labels"):
        jax.eval_shape(model.loss, *state)
    gaze = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    cuts = dfenet.open_network(settings, CFE, gaze=gaze).cuts
    assert cuts is not None
    assert len(cuts) == 4


def _count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("source", "fusion", "tower"), [("rn50_map", 65_632, 23_527_264), ("vit_patches", 24_672, None)]
)
def test_parameters_of_the_published_sizes(source, fusion, tower):
    settings = DFENetConfig(source=source, anchors="ordinal", clip_init="random", pair="concat")
    model = dfenet.make(settings)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert _count(params.trainable["cfe"]) == 11_420_738
    assert _count(params.trainable["fusion"]) == fusion
    assert _count(params.trainable["projection"]) == 1024 * 64 + 64
    assert params.frozen["anchors"].shape == (5, 1024)
    if tower is not None:
        assert _count(params.frozen["clip"]["params"]) == tower
    assert model.size == (224, 224, 3)


def test_second_head_answers_from_the_feature(batch, monkeypatch):
    monkeypatch.setattr(dfenet, "CFE", SmallCFE)
    model = dfenet.make(DFENetConfig(**PLAIN | {"dgr": True}, dropped=2), CFE)
    params, key = _filled(model.init), jax.random.key(5)

    @jax.jit
    def run(params):
        _, aux = model.loss(params.trainable, params.frozen, params.stats, batch, key)
        own = params.trainable["cfe"], params.stats["cfe"]
        f, _, _ = SmallCFE(CFE).features(*own, batch["image"], train=True)
        return losses.mean(aux.metrics["loss_head2"]), f

    value, f = run(params)
    keep = double_head.draw(12, 2, key=jax.random.split(key)[1])
    answer = np.asarray(double_head.answer(f, keep, "exclude"))
    assert value == pytest.approx(np.abs(answer - batch["gaze"]).mean(), rel=1e-4)


def test_anchors_of_another_number_are_refused():
    with pytest.raises(ConfigError, match=r"3 anchors for dfenet\.grades=5"):
        dfenet.make(DFENetConfig(vfm="none"), CFE, anchors=anchors.ordinal(3, 8))
