"""Learning without class names: the loss against KDPL's written out in numpy, selection, truncated labels, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip
from fdbpl_jax import agnostic, config, data, dictionary, losses, objective, prompted, task
from fdbpl_jax.losses import SoftLabels

NAMES = (
    *("red circle", "blue ring", "green dotted star", "striped cross", "heart"),
    *("white plain diamond", "yellow plain cross", "purple square", "orange triangle"),
)
TOP = 5


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("\n".join(NAMES) + "\n\nheart\n")
    return str(path)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@functools.cache
def batch_of(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
        "flip": np.array([False, True] * (count // 2)),
        "label": np.array([4, -1] * (count // 2), np.int32),
        "mask": np.array([1.0] * (count - 1) + [0.0], np.float32),
        "row": np.zeros(count, np.int32),
        "region": np.zeros(count, np.int32),
    }


def build(settings, names, **changes):
    own = {"method": "kdpl", "teacher_source": "online", "loss__kl": (0.5, 0.5)}
    return task.build(
        settings(**{**own, **changes}, data__dictionary=names, data__dictionary_top=TOP)
    )


def oracle(made, params, batch):
    """KDPL's class-agnostic loss of the prompts: features by the towers, everything behind them written out."""
    inputs, frozen = made.evaluate.inputs, params.frozen
    teacher, student = inputs.teacher, inputs.student
    flip = batch["flip"][:, None, None, None]
    image = np.where(flip, batch["image"][:, :, ::-1], batch["image"])

    def see(model):
        @jax.jit
        def run(image):
            pixels = clip.normalise(image, model.config)
            return clip.unit(clip.encode_image(model.params, model.config, pixels))

        return np.asarray(run(image))

    real = batch["mask"] > 0
    scale = np.exp(np.asarray(teacher.params["logit_scale"]))
    said = scale * see(teacher) @ np.asarray(frozen["teacher"]["text"]).T
    chosen = np.argsort(-softmax(said[real]).mean(0), kind="stable")[:TOP]
    q, regions = np.log(softmax(said[:, chosen])), see(student)

    def loss(trainable):
        plan, tower = inputs.plans["train"], frozen["student"]
        text = prompted.class_features(tower, student.config, plan, trainable, dtype=jnp.float32)
        logits = jnp.exp(tower["logit_scale"]) * (jnp.asarray(regions) @ text[0].T)
        p = jax.nn.log_softmax(logits[:, chosen])
        each = 0.5 * jnp.sum((jnp.exp(q) - jnp.exp(p)) * (q - p), axis=-1)
        return jnp.sum(each[real]) / float(real.sum())

    return jax.jit(jax.value_and_grad(loss))


def test_loss_and_gradient_equal_kdpls(settings, names):
    made, batch = build(settings, names), batch_of()
    params = made.init(jax.random.key(0))

    key = jax.random.key(1)
    run = lambda trainable: made.loss(trainable, params.frozen, {}, batch, key)
    ours = jax.jit(jax.value_and_grad(run, has_aux=True))
    (value, aux), gradient = ours(params.trainable)
    expected, slope = oracle(made, params, batch)(params.trainable)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    ours, theirs = gradient["context"]["positive"], slope["context"]["positive"]
    assert np.abs(ours).max() > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)
    assert float(aux.metrics["accuracy"][1]) == 5.0


def test_all_names_kept_is_plain_distillation(settings, names):
    made, batch = build(settings, names), batch_of()
    inputs = made.evaluate.inputs
    params = made.init(jax.random.key(0))
    key = jax.random.key(1)
    run = jax.jit(lambda tree: objective.loss(inputs, tree, params.frozen, {}, batch, key)[0])
    value = run(params.trainable)
    whole = task.build(
        settings(
            method="kdpl",
            teacher_source="online",
            loss__kl=(0.5, 0.5),
            data__dictionary=names,
            data__dictionary_top=100,
        )
    )
    run = jax.jit(lambda tree: whole.loss(tree, params.frozen, {}, batch, key)[0])
    kept = run(params.trainable)
    np.testing.assert_allclose(kept, value, rtol=1e-5)


def truncated(rng, count, names, k):
    logp = np.log(softmax(3.0 * rng.normal(size=(count, names))))
    index = np.argsort(-logp, axis=-1)[:, :k]
    stored = np.take_along_axis(logp, index, -1)
    rest = np.log1p(-np.exp(stored).sum(-1))
    entropy = -(np.exp(logp) * logp).sum(-1) / np.log(names)
    labels = SoftLabels(
        logp=jnp.asarray(stored, jnp.float16),
        entropy=jnp.asarray(entropy, jnp.float16),
        index=jnp.asarray(index, jnp.int32),
        rest=jnp.asarray(rest, jnp.float16),
    )
    return labels, index


@pytest.mark.parametrize("recover", ["spread", "renormalise"])
def test_truncated_labels_are_recovered_on_the_kept_names(recover):
    labels, index = truncated(np.random.default_rng(0), 4, 30, 3)
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    total = np.zeros(30)
    for row in range(3):
        total[index[row]] += np.exp(np.asarray(labels.logp[row], np.float64))
    chosen = agnostic.likeliest(labels, mask, names=30, top=6)
    np.testing.assert_array_equal(chosen, np.argsort(-total, kind="stable")[:6])
    kept = agnostic.restrict(labels, chosen, names=30, recover=recover)
    for row in range(4):
        full = np.zeros(30)
        if recover == "spread":
            full[:] = np.exp(float(labels.rest[row])) / 27
        full[index[row]] = np.exp(np.asarray(labels.logp[row], np.float64))
        wanted = full[np.asarray(chosen)]
        # Where no mass is recovered nothing is known of the kept names.
        wanted = wanted / wanted.sum() if wanted.sum() else np.full(6, 1 / 6)
        got = np.exp(np.asarray(kept.logp[row], np.float64))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-12)
        log = np.log(wanted, out=np.zeros(6), where=wanted > 0)
        np.testing.assert_allclose(kept.entropy[row], -(wanted * log).sum() / np.log(6), rtol=1e-4)
    assert np.all(np.isfinite(kept.logp))


def test_a_name_outside_the_kept_ones_makes_a_region_uninformative():
    labels = SoftLabels(
        logp=jnp.log(jnp.array([[0.9, 0.04]])),
        entropy=jnp.array([0.1]),
        index=jnp.array([[7, 2]]),
        rest=jnp.log(jnp.array([0.06])),
    )
    kept = agnostic.restrict(labels, jnp.array([0, 4, 5]), names=8)
    np.testing.assert_allclose(jnp.exp(kept.logp), np.full((1, 3), 1 / 3), rtol=1e-5)
    weight = losses.informativeness(kept, losses.LossConfig(), 3)
    np.testing.assert_allclose(weight, [0.0], atol=1e-6)


def test_truncated_labels_that_leave_nothing_out_are_the_dense_ones():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(3, 8)), jnp.float32)
    dense, chosen = losses.dense_labels(logits), jnp.array([6, 1, 3])
    order = jnp.argsort(-dense.logp, axis=-1)
    stored = SoftLabels(
        logp=jnp.take_along_axis(dense.logp, order, axis=-1),
        entropy=dense.entropy,
        index=order,
        rest=jnp.full(3, -20.0),
    )
    one, other = (agnostic.restrict(labels, chosen, names=8) for labels in (dense, stored))
    np.testing.assert_allclose(one.logp, other.logp, rtol=1e-5)
    np.testing.assert_allclose(one.entropy, other.entropy, rtol=1e-5)


def test_kept_dense_labels_are_normalised_over_themselves():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
    chosen = jnp.array([5, 0, 7])
    kept = agnostic.restrict(losses.dense_labels(logits), chosen, names=8)
    wanted = softmax(np.asarray(logits)[:, [5, 0, 7]])
    np.testing.assert_allclose(np.exp(kept.logp), wanted, rtol=1e-5)
    entropy = -(wanted * np.log(wanted)).sum(-1) / np.log(3)
    np.testing.assert_allclose(kept.entropy, entropy, rtol=1e-5)


def test_a_lookup_over_a_dictionary_is_built_and_learned_from(settings, names, tmp_path):
    from fdbpl_jax import build as builder

    own = settings(
        lookup__dir=str(tmp_path / "lookup"),
        lookup__dense=False,
        lookup__top_k=3,
        data__dictionary=names,
        data__dictionary_top=TOP,
        data__template="a photo of a {}.",
    )
    builder.build_from_config(own, progress=False)
    made = task.build(own)
    inputs = made.evaluate.inputs
    assert inputs.lookup.classes == NAMES
    assert inputs.parts["base"].classes != NAMES
    params = made.init(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, next(iter(made.train_data(0))))
    value, _ = jax.jit(made.loss)(params.trainable, params.frozen, {}, batch, jax.random.key(0))
    assert np.isfinite(value)
    # What the loss sees of the stored labels.
    stored = data.gather(params.frozen["lookup"], batch["row"], batch["region"])
    assert stored["index"].shape == (8, 3)


def test_dictionaries_are_read_from_text_and_csv(tmp_path):
    (tmp_path / "a.txt").write_text("red  ring\n\nstar\nred ring\n")
    assert dictionary.read(tmp_path / "a.txt") == ("red ring", "star")
    (tmp_path / "a.csv").write_text('ClassName,Source\n"ring, red",x\nstar,y\n')
    assert dictionary.read(tmp_path / "a.csv") == ("ring, red", "star")
    (tmp_path / "b.txt").write_text("one\n")
    with pytest.raises(config.ConfigError, match="1 names; expected at least 2"):
        dictionary.read(tmp_path / "b.txt")
    with pytest.raises(config.ConfigError, match="expected a text file with a class name"):
        dictionary.read(tmp_path / "none.txt")


def test_labels_need_class_names(settings, names):
    with pytest.raises(config.ConfigError, match="without class names there are no labels"):
        task.build(settings(method="ce", data__dictionary=names))
    changes = {"prompt__class_specific": True, "data__split": "all"}
    with pytest.raises(config.ConfigError, match="nothing about the real classes"):
        build(settings, names, **changes)


def test_zero_shot_has_its_own_classes(settings, names):
    made = task.build(settings(method="zeroshot", data__dictionary=names))
    assert "heart" not in made.evaluate.inputs.train.classes
