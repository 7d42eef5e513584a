"""The task: every method on the tiny world, equal losses by different ways, what trains and what does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import clip, train
from core_jax.train import sharding, step
from fdbpl_jax import build, config, datasets, prompts, task, text, towers
from tests.fdbpl_jax import coop_layout

OPTIONS = train.FitOptions(seed=1, log_every=1, save_every=2, progress=False)


def _batch(built_task, seed=1):
    return next(iter(built_task.train_data(seed)))


def _loss(built_task, batch, params=None):
    params = params or built_task.init(jax.random.key(0))
    run = jax.value_and_grad(built_task.loss, has_aux=True)
    (value, aux), grads = jax.jit(run)(
        params.trainable, params.frozen, params.stats, batch, jax.random.key(1)
    )
    return value, aux, grads


@pytest.fixture(scope="module")
def fdbpl(built):
    return task.build(built())


def test_only_the_contexts_are_trained_and_have_gradients(fdbpl, student):
    params = fdbpl.init(jax.random.key(0))
    assert set(sharding.named_leaves(params)) >= {
        "trainable/context/positive",
        "trainable/context/negative",
    }
    batch = _batch(fdbpl)
    assert set(batch) == {"row", "region", "label", "mask"}
    _, aux, grads = _loss(fdbpl, batch, params)
    assert jax.tree.structure(grads) == jax.tree.structure(params.trainable)
    assert len(jax.tree.leaves(grads)) == 2
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    # The image tower is not even on the device: stored features replace it.
    assert "vision" not in params.frozen["student"]
    assert set(aux.metrics) == {
        *("loss_pos", "loss_neg", "loss_dis", "loss_pcd", "weight", "agreement", "accuracy"),
        *("similarity_positive", "similarity_negative"),
    }


def test_loss_equals_one_put_together_by_hand(fdbpl, built, student):
    """Regions through the image tower and whole sentences through the text tower, loss in NumPy."""
    inputs, images = fdbpl.evaluate.inputs, task.build(built(data__source="images"))
    batch = _batch(images)
    value, aux, _ = _loss(images, batch)
    pixels = np.where(
        batch["flip"][:, None, None, None], batch["image"][:, :, ::-1], batch["image"]
    )
    encode = lambda x: np.asarray(clip.unit(x), np.float64)
    u = encode(
        clip.encode_image(
            student.params, student.config, clip.normalise(jnp.asarray(pixels), student.config)
        )
    )
    t = []
    for words in ("a photo of a", "a photo of no"):
        ids = student.tokenizer([f"{words} {name}." for name in inputs.train.classes])
        t.append(encode(clip.encode_text(student.params, student.config, jnp.asarray(ids))))
    z = np.exp(float(student.params["logit_scale"])) * np.einsum("bd,scd->sbc", u, np.stack(t))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    q = np.exp(batch["logp"].astype(np.float64))
    q /= q.sum(-1, keepdims=True)
    w = 1 - batch["entropy"].astype(np.float64)
    kl = lambda a, b: (a * (np.log(a) - np.log(b))).sum(-1)
    want = {
        "loss_pos": (w * 0.5 * (kl(q, p[0]) + kl(p[0], q))).mean(),
        "loss_neg": ((1 - w) * (np.log(4) + (p[1] * np.log(p[1])).sum(-1))).mean(),
    }
    cosine = (z[0] * z[1]).sum(-1) / np.linalg.norm(z[0], axis=-1) / np.linalg.norm(z[1], axis=-1)
    want["loss_dis"] = (w * cosine).mean()
    for name, number in want.items():
        total, count = aux.metrics[name]
        np.testing.assert_allclose(total / count, number, rtol=2e-4, atol=1e-5)
    total, count = aux.metrics["loss_pcd"]
    pcd = total / max(count, 1e-6)
    whole = want["loss_pos"] + want["loss_neg"] + 1e-3 * want["loss_dis"] + 0.1 * pcd
    np.testing.assert_allclose(value, whole, rtol=2e-4)


def test_resident_streamed_and_decoded_regions_give_the_same_loss(fdbpl, built):
    others = [task.build(built(data__resident="False")), task.build(built(data__source="images"))]
    assert [t.evaluate.inputs.source for t in (fdbpl, *others)] == [
        "resident",
        "features",
        "images",
    ]
    batch = _batch(fdbpl)
    value, _, grads = _loss(fdbpl, batch)
    for other in others:
        theirs = _batch(other)
        for name in ("row", "region", "label", "mask"):
            np.testing.assert_array_equal(theirs[name], batch[name])
        same, _, same_grads = _loss(other, theirs)
        np.testing.assert_allclose(same, value, rtol=1e-3)
        for a, b in zip(jax.tree.leaves(same_grads), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def test_kdpl_from_the_lookup_equals_kdpl_online_on_the_same_boxes(built, pair):
    online = task.build(built(method="kdpl", teacher_source="online", data__fresh="False"))
    stored = task.build(built(data__source="images", loss__dual=False, loss__weight="none"))
    batch = _batch(online)
    value, aux, grads = _loss(online, batch)
    assert set(aux.metrics) == {
        *("loss_pos", "weight", "agreement", "accuracy", "similarity_positive")
    }
    teacher = towers.teacher(
        clip.load(pair["teacher"]),
        "t",
        online.evaluate.inputs.train.classes,
        online.evaluate.inputs.train.template,
    )
    exact = np.asarray(jax.nn.log_softmax(teacher.logits(batch["image"], batch["flip"])))
    for logp, tolerance in ((batch["logp"], 1e-3), (exact, 1e-5)):
        same, _, same_grads = _loss(stored, {**batch, "logp": logp})
        np.testing.assert_allclose(same, value, rtol=tolerance)
        for a, b in zip(jax.tree.leaves(same_grads), jax.tree.leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_padded_regions_change_nothing(fdbpl):
    batch = _batch(fdbpl)
    value, _, _ = _loss(fdbpl, batch)
    padded = {name: np.concatenate([array, array[:3]]) for name, array in batch.items()}
    padded["mask"][-3:] = 0.0
    np.testing.assert_allclose(_loss(fdbpl, padded)[0], value, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ce"},
        {"method": "ce", "learner": "kgcoop", "data__source": "features"},
        # Its loss is that of the test above, its data are FDBPL's.
        pytest.param({"method": "kdpl"}, marks=pytest.mark.slow),
        {"method": "kdpl", "teacher_source": "online"},
        {"method": "fdbpl", "loss__pcd_unit": True, "prompt__class_token_position": "middle"},
        {
            "method": "fdbpl",
            "prompt__class_specific": True,
            "data__split": "all",
            "data__source": "images",
            "teacher_source": "online",
        },
    ],
    ids=str,
)
def test_every_method_trains_from_start_to_end(built, tmp_path, changes):
    built_task = task.build(built(**changes))
    # Copies: fit donates its state, and arrays of the same start may share memory.
    before = jax.tree.map(np.array, built_task.init(step.init_key(1)).trainable)
    state = train.fit(built_task, OPTIONS, workdir=tmp_path / "run")
    steps = 3 * (len(built_task.evaluate.inputs.train.train) // 8)
    assert int(state["step"]) == built_task.total_steps == steps
    after = state["trainable"]
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() > 0
    results = built_task.evaluate(after, built_task.init(jax.random.key(0)).frozen, {})
    parts = {"all"} if changes.get("data__split") == "all" else {"base", "new"}
    assert {name.split("/")[0] for name in results if "/" in name} == parts


def test_zero_shot_needs_no_training(settings):
    zeroshot = task.build(settings(method="zeroshot", lookup__dir=""))
    params = zeroshot.init(jax.random.key(0))
    assert (zeroshot.total_steps, params.trainable) == (0, {})
    assert all(pattern.startswith("frozen/") for pattern, _ in zeroshot.sharding_rules)
    results = zeroshot.evaluate(params.trainable, params.frozen, params.stats)
    assert (results["base/total"], results["new/total"]) == (12, 9)


class _Killed(RuntimeError):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(fdbpl, tmp_path):
    whole = train.fit(fdbpl, OPTIONS, workdir=tmp_path / "whole")

    class Dying:
        """The data set up to batch 3, then nothing any more."""

        def __init__(self, seed):
            self.inner = iter(fdbpl.train_data(seed))
            self.left = 3

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise _Killed
            self.left -= 1
            return next(self.inner)

        def get_state(self):
            return self.inner.get_state()

        def set_state(self, state):
            self.inner.set_state(state)

    with pytest.raises(_Killed):
        train.fit(
            dataclasses.replace(fdbpl, train_data=Dying), OPTIONS, workdir=tmp_path / "killed"
        )
    again = train.fit(fdbpl, OPTIONS, workdir=tmp_path / "killed", resume=True)
    assert jax.tree.structure(again) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_rate_by_epoch():
    schedule = task.learning_rate(config.Config(lookup=config.LookupConfig(dir="x")), 7)
    want = {
        0: 1e-5,
        1: 2e-3,
        2: 1e-3 * (1 + np.cos(np.pi / 50)),
        49: 1e-3 * (1 + np.cos(np.pi * 48 / 50)),
    }
    for epoch, rate in want.items():
        for count in (7 * epoch, 7 * epoch + 6):
            np.testing.assert_allclose(schedule(jnp.int32(count)), rate, rtol=1e-6)


def test_one_step_of_sgd_by_hand():
    settings = config.Config(lookup=config.LookupConfig(dir="x"), warmup_lr=0.1, lr=0.3, epochs=4)
    optimizer = task.optimizer(settings, 1)
    x, g = {"v": jnp.asarray([1.0, -2.0])}, {"v": jnp.asarray([0.3, 0.5])}
    state = optimizer.init(x)
    trace, value = np.zeros(2), np.array([1.0, -2.0])
    for epoch in range(3):
        rate = 0.1 if epoch == 0 else 0.15 * (1 + np.cos(np.pi * (epoch - 1) / 4))
        trace = 0.9 * trace + (np.array([0.3, 0.5]) + 5e-4 * value)
        value = value - rate * trace
        updates, state = optimizer.update(g, state, x)
        x = optax.apply_updates(x, updates)
        np.testing.assert_allclose(x["v"], value, atol=1e-7, rtol=2e-7)


def test_names_that_do_not_fit_are_reported_before_anything_is_trained(built):
    with pytest.raises(prompts.PromptError, match=r"more than 20 tokens.*cyan striped diamond"):
        task.build(built(prompt__context=15, prompt__context_init="", prompt__negative_init=""))


def test_a_data_set_without_training_pictures_is_named(settings, tmp_path):
    coop_layout.write("imagenet_sketch", tmp_path)
    values = settings(method="ce", data__dataset="imagenet_sketch", data__root=str(tmp_path))
    words = r"data set 'imagenet_sketch' below .* has no training pictures"
    with pytest.raises(datasets.DatasetError, match=words):
        task.build(values)
    with pytest.raises(datasets.DatasetError, match=words):
        build.build_from_config(values, progress=False)


def test_a_lookup_made_by_another_teacher_is_refused(built, pair):
    with pytest.raises(ValueError, match="teacher digest"):
        task.build(built(teacher=str(pair["student"])))
    with pytest.raises(ValueError, match="no features of this run's student"):
        task.build(built(student=str(pair["teacher"]), data__source="features"))


def test_pins_name_everything_the_run_depends_on(fdbpl, student):
    pins = dict(fdbpl.pins)
    assert set(pins) == {
        *("student", "teacher", "dataset", "fewshot", "classes", "train_classes", "lookup")
    }
    assert pins["student"] == clip.weights_digest(student.params)
    assert all(isinstance(value, str) for value in pins.values())


def test_text_mode_is_chosen_and_can_be_forced(built):
    for mode, want in (("auto", "prefix"), ("full", "full"), ("trimmed", "trimmed")):
        plan = task.build(built(prompt__text_mode=mode)).evaluate.inputs.plans["train"]
        assert plan.mode == want
        assert want in text.MODES
