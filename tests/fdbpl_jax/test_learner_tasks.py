"""Every learner as a task: what is learned, one step, evaluation, prediction, resuming; and every learner under every method."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fdbpl_learners
from core_jax import clip, train
from core_jax.train import sharding
from fdbpl_jax import average, objective, predict, prompted, task
from fdbpl_jax.config import ConfigError
from fdbpl_jax.inputs import open_inputs
from fdbpl_jax.learners import LEARNERS, label
from fdbpl_jax.predict import PredictError

CONTEXT = {"context/positive"}
META = {f"meta/{layer}/{part}" for layer in ("fc1", "fc2") for part in ("kernel", "bias")}
PROJECTOR = {name.replace("meta", "projector") for name in META}
PROJECTOR |= {"projector/norm/scale", "projector/norm/bias"}
LEARNED = {
    "coop": CONTEXT,
    "cocoop": CONTEXT | META,
    "kgcoop": CONTEXT,
    "prograd": CONTEXT,
    "vpt": {"visual"},
    "ivlp": CONTEXT | {"deep/positive", "visual"},
    "maple": CONTEXT | {"deep/positive", "coupling/kernel", "coupling/bias"},
    "promptsrc": CONTEXT | {"deep/positive", "visual"},
    "promptkd": PROJECTOR | {"visual"},
}
# Batch normalisation takes out what is added to every picture alike.
INERT = {"projector/fc1/bias"}
OPTIONS = train.FitOptions(seed=1, log_every=2, save_every=2, progress=False)


def _names(tree):
    return set(sharding.named_leaves(tree))


def _step(built_task, params, batch):
    run = jax.jit(
        jax.value_and_grad(built_task.loss, has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return run(params.trainable, params.frozen, params.stats, batch, jax.random.key(1))


def _check_step(config, learned):
    built_task = task.build(config)
    params = built_task.init(jax.random.key(0))
    averages = LEARNERS[config.learner].average
    names = learned | ({f"average/{name}" for name in learned} if averages else set())
    assert _names(params.trainable) == names
    batch = next(iter(built_task.train_data(1)))
    (value, aux), grads = _step(built_task, params, batch)
    assert np.isfinite(value)
    assert value > 0
    assert jax.tree.structure(grads) == jax.tree.structure(params.trainable)
    for name, gradient in sharding.named_leaves(grads).items():
        moved = np.abs(gradient).max()
        if name.startswith("average/"):
            assert moved == 0
        elif name not in INERT:
            assert moved > 0, name
    assert jax.tree.structure(aux.stats) == jax.tree.structure(params.stats)
    return params, aux


@pytest.mark.parametrize("learner", LEARNERS)
def test_what_is_learned_and_what_lies_on_the_device(small, learner):
    params = task.build(small(learner)).init(jax.random.key(0))
    learned = LEARNED[learner]
    averages = {f"average/{name}" for name in learned} if learner == "promptsrc" else set()
    assert _names(params.trainable) == learned | averages
    # Towers that nobody looks into stay where they are.
    assert ("text" in params.frozen["student"]) == ("context" in params.trainable)
    assert "vision" in params.frozen["student"]
    assert ("classes" in params.frozen) == (learner in ("vpt", "promptkd"))
    assert ("template" in params.frozen) == (learner in ("kgcoop", "prograd", "promptsrc"))
    assert set(params.stats) == ({"projector"} if learner == "promptkd" else set())


@pytest.mark.parametrize(
    ("learner", "held"), [("vpt", "classes"), ("kgcoop", "template"), ("promptsrc", "template")]
)
def test_sentences_of_the_frozen_student_are_averaged(small, learner, held):
    sentences = ("a photo of a {}.", "a {} in the picture.")
    made = task.build(small(learner, **{"data.templates": sentences}))
    inputs, found = made.evaluate.inputs, made.init(jax.random.key(0)).frozen[held]
    names, student = inputs.train.classes, inputs.student
    each = [
        clip.zeroshot.text_features(student, [one.format(name) for name in names])
        for one in sentences
    ]
    # PromptSRC's code makes the mean unit norm, CLIP's ensembles each sentence as well.
    if learner != "promptsrc":
        each = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in each]
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(
        found, mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_one_step_reaches_all_that_is_learned(small, learner):
    params, aux = _check_step(small(learner), LEARNED[learner])
    terms = {name for name in aux.metrics if name.startswith("loss_")}
    own = {
        "kgcoop": {"loss_ce", "loss_kg"},
        "prograd": {"loss_ce", "loss_zero_shot"},
        "promptsrc": {"loss_ce", "loss_src_text", "loss_src_image", "loss_src_logits"},
        "promptkd": {"loss_pos"},
    }
    assert terms == own.get(learner, {"loss_ce"})
    if learner == "promptkd":
        mean = params.stats["projector"]["mean"]
        assert np.abs(aux.stats["projector"]["mean"] - mean).max() > 0
        assert params.frozen["classes"].shape == (4, 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "method"),
    [
        (learner, method)
        for learner, method in itertools.product(LEARNERS, ("ce", "kdpl", "online", "fdbpl"))
        if learner != "promptkd" or method in ("kdpl", "online")
    ],
)
def test_every_learner_under_every_method(small, learner, method):
    changes = {"teacher_source": "online"} if method == "online" else {}
    config = small(learner, "kdpl" if method == "online" else method, **changes)
    learned = LEARNED[learner]
    if method == "fdbpl":
        config.prompt.negative_init = "no photo" if learner == "maple" else "a photo of no"
        learned = learned | {"context/negative"}
        if "deep/positive" in learned:
            learned |= {"deep/negative"}
    _check_step(config, learned)


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_batch_in_pieces_and_computed_again_gives_the_same_step(small, learner):
    whole = task.build(small(learner))
    params, batch = whole.init(jax.random.key(0)), next(iter(whole.train_data(1)))
    (value, _), grads = _step(whole, params, batch)
    pieces = task.build(small(learner, accumulate=2, remat=True))
    (same, _), same_grads = _step(pieces, params, batch)
    np.testing.assert_allclose(same, value, rtol=1e-5)
    named = sharding.named_leaves(same_grads)
    for name, b in sharding.named_leaves(grads).items():
        # What is inert has rounding errors alone.
        if name not in INERT:
            largest = max(1.0, np.abs(b).max())
            np.testing.assert_allclose(named[name], b, rtol=1e-3, atol=1e-5 * largest)


def test_prompts_start_as_coops_whatever_else_is_learned(small):
    starts = {}
    for learner in ("coop", "ivlp", "promptsrc"):
        words = {"prompt.context_init": "a photo of a"}
        inputs = open_inputs(task.configs.read(small(learner, **words)))
        tree, _ = prompted.init(inputs.config, inputs.student, classes=4, key=jax.random.key(3))
        starts[learner] = tree
    positive = starts["coop"]["context"]["positive"]
    for tree in starts.values():
        np.testing.assert_array_equal(tree["context"]["positive"], positive)
    own = starts["promptsrc"]["average"]
    np.testing.assert_array_equal(own["visual"], starts["promptsrc"]["visual"])


PUBLISHED = {
    "coop": 8_192,
    "cocoop": 35_360,
    "kgcoop": 2_048,
    "prograd": 8_192,
    "vpt": 73_728,
    "ivlp": 46_080,
    "maple": 3_555_072,
    "promptsrc": 46_080,
    # 4 tokens in 9 blocks of width 768; 512 -> 768, batch normalisation, 768 -> 768.
    "promptkd": 27_648 + 393_984 + 1_536 + 590_592,
}


@pytest.fixture(scope="module")
def vit_b16():
    """(configuration, shapes of the parameters): no such tower is made."""
    towers = clip.ClipConfig(vision=clip.VisionConfig(patch_size=16))
    return towers, jax.eval_shape(functools.partial(clip.init, towers), key=jax.random.key(0))


@pytest.mark.parametrize("learner", LEARNERS)
def test_as_many_numbers_as_published_at_vit_b16(student, vit_b16, learner):
    towers, shapes = vit_b16
    recipe = {**fdbpl_learners.RECIPES[learner], "lookup.dir": "x"}
    tree = {}
    for key, value in recipe.items():
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    config = task.configs.read(tree)

    def init(params, key):
        model = clip.Clip(config=towers, params=params, tokenizer=student.tokenizer)
        return prompted.init(config, model, classes=50, named_width=768, key=key)

    trainable, _ = jax.eval_shape(init, shapes, jax.random.key(0))
    assert prompted.count(trainable) == PUBLISHED[learner]


@pytest.mark.parametrize("learner", ["maple", pytest.param("cocoop", marks=pytest.mark.slow)])
def test_evaluation_and_prediction_see_what_the_loss_sees(small, learner):
    config = small(learner)
    run = task.build(config)
    inputs, params = run.evaluate.inputs, run.init(jax.random.key(0))
    noise = lambda x: x + 0.3 * jax.random.normal(jax.random.key(5), x.shape)
    trainable = jax.tree.map(noise, params.trainable)
    part = inputs.parts["base"]
    files = [part.root / item.path for item in part.test]
    predictor = predict.predictor(config, trainable, classes=part.classes)
    prediction = predictor(files, top_k=4)
    size = predictor.student.image_size
    pixels = np.stack([clip.preprocess(task.evaluate.images.decode(file), size) for file in files])
    batch = {"image": pixels, "flip": np.zeros(len(pixels), bool)}
    look = jax.jit(lambda *args: objective.see(inputs, *args, jax.random.key(0)).cosines[0])
    want = np.asarray(look(trainable, params.frozen, {}, batch))
    best = np.take_along_axis(want, prediction.classes, axis=1)
    np.testing.assert_allclose(best, -np.sort(-want, axis=1), atol=1e-5)
    chosen, _ = run.evaluate.choices("base", trainable, params.frozen, {})
    np.testing.assert_array_equal(chosen, prediction.classes[:, 0])
    chance = jax.nn.softmax(predictor.scale * want)
    np.testing.assert_allclose(prediction.probabilities[:, 0], chance.max(1), rtol=1e-3)


@pytest.mark.parametrize("learner", ["promptsrc", pytest.param("promptkd", marks=pytest.mark.slow)])
def test_a_run_is_trained_resumed_evaluated_and_predicts_from_its_checkpoint(
    small, tmp_path, learner
):
    config = small(learner, epochs=2, **{"average.mean": 1.5})
    run = task.build(config)
    frozen = run.init(jax.random.key(0)).frozen
    before = jax.tree.map(np.array, frozen)
    state = train.fit(run, OPTIONS, workdir=tmp_path)
    kept = train.restore(run, workdir=tmp_path)[0]
    for a, b in zip(jax.tree.leaves(kept.trainable), jax.tree.leaves(state["trainable"])):
        np.testing.assert_array_equal(a, b)
    results = run.evaluate(kept.trainable, kept.frozen, kept.stats)
    assert {"base/correct", "new/correct", "harmonic_mean_percent"} <= set(results)
    jax.tree.map(np.testing.assert_array_equal, before, frozen)
    if learner == "promptsrc":
        # Both epochs weigh alike, so the mean is not where the last one ended.
        last, mean = kept.trainable["visual"], average.judged(kept.trainable)["visual"]
        assert np.abs(mean - last).max() > 1e-6
    if learner == "promptkd":
        with pytest.raises(PredictError, match="hand over the run's stats"):
            predict.predictor(config, kept.trainable, classes=["ring", "star"])
    part = run.evaluate.inputs.parts["new"]
    files = [part.root / item.path for item in part.test]
    arrays, _ = train.learned(tmp_path, ("trainable", "stats"))
    predictor = predict.predictor(
        config, arrays["trainable"], stats=arrays["stats"], classes=part.classes
    )
    chosen = predictor(files, top_k=1).classes[:, 0]
    labels = np.array([item.label for item in part.test])
    assert int((chosen == labels).sum()) == results["new/correct"]


def test_pictures_of_all_classes_are_learned_from_and_judged_by_halves(small):
    config = small("promptkd", teacher_source="online")
    config.data.transductive = True
    run = task.build(config)
    inputs = run.evaluate.inputs
    assert len(inputs.train.classes) == 7
    assert {item.label for item in inputs.train.train} == set(range(7))
    assert {name: len(part.classes) for name, part in inputs.parts.items()} == {"base": 4, "new": 3}
    metrics = {f"base/{name}": 1.0 for name in ("accuracy_percent", "correct", "total")}
    (line,) = task.evaluate.result_lines(config, metrics, run.pins)
    assert (line["method"], line["setting"], line["train_classes"]) == (
        "promptkd_online",
        "transductive",
        7,
    )
    assert (line["text_mode"], line["switches"]["visual_tokens"]) == ("template", 3)
    assert {"kd_weight", "kl"} <= set(line["switches"])
    assert "kgcoop_weight" not in line["switches"]


def test_stored_features_and_learned_image_towers_exclude_each_other(small):
    for key, value in (
        ("data.source", "features"),
        ("data.source", "grow"),
        ("data.resident", "True"),
    ):
        changes = {key: value, **({} if key == "data.source" else {"data.source": "auto"})}
        with pytest.raises(ConfigError, match=r"learns visual prompts .*set data\.source=images"):
            task.build(small("maple", "kdpl", **changes))
    auto = task.build(small("maple", "kdpl", **{"data.source": "auto"}))
    assert auto.evaluate.inputs.source == "images"


def test_names_of_runs():
    assert label("zeroshot", "maple") == "zeroshot"
    assert label("ce", "coop") == "coop"
    assert label("ce", "maple") == "maple"
    assert label("kdpl", "coop", online=True) == "kdpl_online"
    assert label("fdbpl", "coop") == "fdbpl"
    assert label("fdbpl", "vpt") == "vpt_fdbpl"
    assert label("kdpl", "maple", online=True) == "maple_kdpl_online"
    assert label("kdpl", "promptkd") == "promptkd"


def test_fdbpl_of_contexts_by_picture_equals_the_shared_ones_where_they_are_the_same(rng):
    labels = objective.losses.dense_labels(jnp.asarray(rng.normal(size=(5, 4)), jnp.float32))
    text = clip.unit(jnp.asarray(rng.normal(size=(2, 4, 8)), jnp.float32))
    regions = clip.unit(jnp.asarray(rng.normal(size=(5, 8)), jnp.float32))
    logits = 10.0 * jnp.einsum("bd,scd->sbc", regions, text)
    own = [jnp.broadcast_to(text[0], (5, 4, 8)), text[1]]

    @jax.jit
    def value(text):
        options = objective.losses.LossConfig()
        return objective.losses.fdbpl(labels, logits, regions, text, jnp.ones(5), options)[0]

    np.testing.assert_allclose(value(own), value(text), rtol=1e-6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
