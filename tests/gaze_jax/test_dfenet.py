"""CLIP-DFENet put together: what each module adds, what stays frozen, and what happens without a CLIP."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip, world
from core_jax.clip import TextConfig, Tokenizer, resnet_model
from core_jax.clip.resnet_model import ResNetClipConfig
from core_jax.clip.resnet_weights import ResNetClip
from core_jax.nn import ResNetConfig
from core_jax.train import Params
from core_jax.train.settings import ConfigError
from gaze_jax import anchors, cfe, clip_towers, dfenet, double_head, losses
from gaze_jax.dfenet import DFENetConfig

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


@pytest.fixture(scope="module")
def rn():
    """A ResNet CLIP with maps of 2 x 2 x 64 and random weights; its running statistics are not those of its batches."""
    text = TextConfig(vocab_size=8, context_length=4, width=8, layers=1, heads=1, mlp_width=8)
    config = ResNetClipConfig(
        depths=(1, 1, 1, 1), width=2, image_size=64, text=text, projection_dim=8
    )
    params = jax.jit(functools.partial(resnet_model.init, config))(key=jax.random.key(1))
    return ResNetClip(config, params, Tokenizer("nowhere"))


def _loss(model):
    """(value, Aux, gradients by trainable and frozen) of a batch, compiled once."""

    def run(params, batch, key):
        def own(trainable, frozen):
            return model.loss(trainable, frozen, params.stats, batch, key)

        (value, aux), grads = jax.value_and_grad(own, argnums=(0, 1), has_aux=True)(
            params.trainable, params.frozen
        )
        return value, aux, grads

    return jax.jit(run)


def _changed(before, after):
    return [
        bool(jnp.any(a != b))
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]


@pytest.mark.parametrize("preset", ["faithful", "recommended"])
def test_both_presets_learn_and_only_a_trained_tower_moves(preset, rn, batch):
    settings = DFENetConfig(**dfenet.PRESETS[preset], **RN)
    model = dfenet.make(settings, CFE, clip=rn)
    params = model.init(jax.random.key(0))
    value, aux, (own, of_frozen) = _loss(model)(params, batch, jax.random.key(2))
    terms = {name: float(losses.mean(pair)) for name, pair in aux.metrics.items()}
    expected = terms["loss_l1"] + 0.1 * terms["loss_head2"] + 0.1 * terms["loss_align"]
    assert value == pytest.approx(expected, rel=1e-6)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(own))
    learns = {name: any(bool(jnp.any(g)) for g in jax.tree.leaves(own[name])) for name in own}
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
        # Sentences are data; the tower gets no gradient even where somebody asks for one.
        assert not any(bool(jnp.any(g)) for g in jax.tree.leaves(of_frozen["clip"]))
        for tower, loaded in (
            ("params", rn.params["vision"]["trunk"]),
            ("stats", rn.params["stats"]),
        ):
            assert not any(_changed(params.frozen["clip"][tower], loaded))


def test_a_frozen_tower_sees_clip_pixels_and_uses_its_running_statistics(rn, batch):
    vision = clip_towers.vision(rn)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)), jnp.uint8)
    pixels = vision.pixels(images, "clip", jnp.float32)
    np.testing.assert_allclose(pixels, clip.normalise(images, rn.config.clip), atol=1e-5)
    bgr = vision.pixels(images, "bgr", jnp.float32)
    np.testing.assert_allclose(bgr, np.asarray(images)[..., ::-1] / 255.0, atol=1e-6)
    params, stats = vision.init(jax.random.key(0))
    alone, _ = jax.jit(vision.maps, static_argnums=3)(params, stats, pixels[:1], False)
    both, _ = jax.jit(vision.maps, static_argnums=3)(params, stats, pixels, False)
    np.testing.assert_allclose(alone[0], both[0], atol=1e-4)


def test_patches_are_those_that_leave_the_last_block(batch):
    opened = clip_towers.open_clip("world", "vit_patches")
    vision = clip_towers.vision(opened)
    pixels = vision.pixels(batch["image"], "clip", jnp.float32)
    params, stats = vision.init(jax.random.key(0))
    assert not {"post_norm", "projection"} & set(params)
    got, _ = jax.jit(vision.maps, static_argnums=3)(params, stats, pixels, True)
    _, taps = jax.jit(lambda p, x: clip.encode_image(p, opened.config, x, taps=True))(
        opened.params, pixels
    )
    np.testing.assert_allclose(got, taps[-1][:, 1:].reshape(4, 8, 8, 128), atol=1e-4)


def test_without_its_modules_it_is_the_extractor(batch):
    model, plain = dfenet.make(DFENetConfig(**PLAIN), CFE), cfe.make(CFE)
    params = model.init(jax.random.key(0))
    assert not params.frozen
    assert set(params.trainable) == set(params.stats) == {"cfe"}
    own = Params(trainable=params.trainable["cfe"], stats=params.stats["cfe"])
    key = jax.random.key(3)
    value, aux, (grads, _) = _loss(model)(params, batch, key)
    expected, expected_aux, (expected_grads, _) = _loss(plain)(own, batch, key)
    assert value == expected
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        (grads["cfe"], aux.stats["cfe"]),
        (expected_grads, expected_aux.stats),
    )
    arguments = batch["image"], batch["head"]
    np.testing.assert_array_equal(
        jax.jit(model.predict)(params, *arguments), jax.jit(plain.predict)(own, *arguments)
    )


def test_language_and_second_head_cost_nothing_at_inference(batch):
    """The embedded pair: a prediction does not read anchors, projection, labels or masks."""
    model = dfenet.make(DFENetConfig(**VIT), CFE)
    params = model.init(jax.random.key(0))
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
    predicted = jax.jit(model.predict)(params, batch["image"], batch["head"])
    assert predicted.shape == (4, 2)
    assert predicted.dtype == jnp.float32
    assert jax.eval_shape(model.features, params, batch["image"], batch["head"]).shape == (4, 12)


def test_bfloat16_keeps_losses_and_answers_in_float32(batch):
    model = dfenet.make(DFENetConfig(**VIT), CFE, dtype="bfloat16")
    params = jax.eval_shape(model.init, jax.random.key(0))
    value, aux = jax.eval_shape(
        model.loss, params.trainable, params.frozen, params.stats, batch, jax.random.key(0)
    )
    kept = [value, aux.metrics, aux.stats]
    kept.append(jax.eval_shape(model.predict, params, batch["image"], batch["head"]))
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
    with pytest.raises(ConfigError, match="set dfenet.source='rn50_map'"):
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


def test_second_head_answers_from_the_feature(rn, batch):
    """Through the whole model: with every weight on the second head, the loss is L1 of its answer."""
    settings = DFENetConfig(**PLAIN | {"dgr": True}, dropped=2)
    model = dfenet.make(settings, CFE)
    params, key = model.init(jax.random.key(0)), jax.random.key(5)
    _, aux, _ = _loss(model)(params, batch, key)
    own = cfe.CFE(CFE)
    f, _, _ = jax.jit(functools.partial(own.features, train=True))(
        params.trainable["cfe"], params.stats["cfe"], batch["image"]
    )
    keep = double_head.draw(12, 2, key=jax.random.split(key)[1])
    answer = double_head.answer(f, keep, "exclude")
    expected = np.abs(np.asarray(answer) - batch["gaze"]).mean()
    assert losses.mean(aux.metrics["loss_head2"]) == pytest.approx(expected, rel=1e-4)


def test_anchors_of_another_number_are_refused():
    with pytest.raises(ConfigError, match="3 anchors for dfenet.grades=5"):
        dfenet.make(DFENetConfig(vfm="none"), CFE, anchors=anchors.ordinal(3, 8))
