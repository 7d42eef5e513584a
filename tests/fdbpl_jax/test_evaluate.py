"""Evaluation: features of pictures, counts, harmonic means, result lines; and prediction from a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import clip
from core_jax.data import images
from fdbpl_jax import evaluate, label, predict, task, towers
from fdbpl_jax.predict import PredictError


@pytest.fixture(scope="module")
def zeroshot(settings):
    return task.build(settings(method="zeroshot", lookup__dir=""))


def test_harmonic_mean_of_the_published_averages():
    assert round(evaluate.harmonic_mean(69.34, 74.22), 2) == 71.70
    assert evaluate.harmonic_mean(0.0, 0.0) == 0.0


def test_zero_shot_counts_equal_a_plain_count(zeroshot, student):
    inputs = zeroshot.evaluate.inputs
    results = zeroshot.evaluate({}, {}, {})
    for name, part in inputs.parts.items():
        ids = student.tokenizer([part.template.format(c) for c in part.classes])
        encode = jax.jit(functools.partial(clip.encode_text, student.params, student.config))
        words = clip.unit(encode(jnp.asarray(ids)))
        pixels = [clip.preprocess(images.decode(part.root / item.path), 32) for item in part.test]
        pixels = clip.normalise(jnp.asarray(np.stack(pixels)), student.config)
        encode = jax.jit(functools.partial(clip.encode_image, student.params, student.config))
        features = encode(pixels)
        chosen = np.argmax(np.asarray(features @ words.T), axis=-1)
        correct = sum(int(c == item.label) for c, item in zip(chosen, part.test, strict=True))
        assert results[f"{name}/correct"] == correct
        assert results[f"{name}/accuracy_percent"] == 100 * correct / len(part.test)
    base, new = results["base/accuracy_percent"], results["new/accuracy_percent"]
    assert results["harmonic_mean_percent"] == evaluate.harmonic_mean(base, new)


def test_validation_pictures_are_judged_on_request(settings):
    judged = task.build(settings(method="zeroshot", lookup__dir="", data__judge="val"))
    results = judged.evaluate({}, {}, {})
    assert (results["base/total"], results["new/total"]) == (8, 6)


def test_features_are_kept_until_a_picture_changes(student, settings, tmp_path, monkeypatch):
    tower = towers.student(student, "tiny", dtype="float32")
    rng = np.random.default_rng(0)
    for i in range(3):
        clip_image = rng.integers(0, 256, (40, 50, 3), np.uint8)
        _write(tmp_path / f"{i}.png", clip_image)
    paths, cache = ["0.png", "1.png", "2.png"], tmp_path / "cache"
    arguments = {"cache": cache, "title": ""}
    first = evaluate.cached_features(tower, tmp_path, paths, **arguments)
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1.0, atol=1e-5)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "picture_features", lambda *_, **__: pytest.fail("computed again"))
        again = evaluate.cached_features(tower, tmp_path, paths, **arguments)
    np.testing.assert_array_equal(again, first)
    _write(tmp_path / "1.png", rng.integers(0, 256, (41, 50, 3), np.uint8))
    changed = evaluate.cached_features(tower, tmp_path, paths, **arguments)
    assert (np.abs(changed - first).max(axis=-1) > 1e-4).tolist() == [False, True, False]


def _write(path, array):
    from PIL import Image

    Image.fromarray(array).save(path)


def test_unreadable_pictures_are_all_named(student, tmp_path):
    _write(tmp_path / "good.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    tower = towers.student(student, "tiny", dtype="float32")
    paths = [tmp_path / name for name in ("good.png", "bad.png", "gone.png")]
    with pytest.raises(label.PictureErrors) as error:
        evaluate.picture_features(tower, paths, progress=False)
    assert "2 of 3" in str(error.value)
    assert "bad.png" in str(error.value)
    assert "gone.png" in str(error.value)


def test_result_lines_carry_the_methods_fields(built):
    config = built()
    run = task.build(config)
    metrics = {"base/accuracy_percent": 50.0, "base/correct": 6.0, "base/total": 12.0}
    metrics |= {"new/accuracy_percent": 0.0, "new/correct": 0.0, "new/total": 9.0}
    base, new = evaluate.result_lines(config, metrics, run.pins)
    assert (base["split"], base["accuracy"], base["correct"], base["total"]) == (
        "base",
        50.0,
        6,
        12,
    )
    assert (new["split"], new["total"]) == ("new", 9)
    assert base["train_classes"] == 4
    assert base["lookup_digest"] == run.evaluate.inputs.lookup.digest
    assert base["text_mode"] == "prefix"
    assert base["switches"]["lam_neg"] == 1.0
    assert base["seconds_build"] > 0
    zero = built(method="zeroshot")
    line = evaluate.result_lines(zero, metrics, task.build(zero).pins)[0]
    assert (line["teacher"], line["lookup_digest"], line["switches"]) == (None, None, {})
    sentences = ("a photo of a {}.", "a {} in the picture.")
    for learner, method, named in (
        *(("coop", "zeroshot", True), ("vpt", "ce", True), ("kgcoop", "ce", True)),
        ("coop", "ce", False),
    ):
        changes = {"learner": learner, "method": method, "data__templates": sentences}
        pins = {**run.pins, "train_classes": "4"}
        line = evaluate.result_lines(built(**changes), metrics, pins)[0]
        assert line["switches"].get("templates") == (list(sentences) if named else None)
    online = built(method="kdpl", teacher_source="online")
    line = evaluate.result_lines(online, metrics, task.build(online).pins)[0]
    assert line["method"] == "kdpl_online"
    assert line["teacher_digest"] == base["teacher_digest"]


@pytest.fixture(scope="module")
def trained(built):
    """(config, task, trainable) of a run whose contexts have moved."""
    config = built()
    run = task.build(config)
    start = run.init(jax.random.key(0)).trainable
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(5), x.shape), start)
    return config, run, moved


def test_predictions_equal_the_evaluation(trained):
    config, run, trainable = trained
    part = run.evaluate.inputs.parts["base"]
    files = [part.root / item.path for item in part.test]
    predictor = predict.predictor(config, trainable, classes=part.classes)
    prediction = predictor(files, top_k=2, reject=True)
    labels = np.array([item.label for item in part.test])
    correct = int((prediction.classes[:, 0] == labels).sum())
    frozen = run.init(jax.random.key(0)).frozen
    assert correct == run.evaluate(trainable, frozen, {})["base/correct"]
    assert prediction.names[0][0] == part.classes[prediction.classes[0, 0]]
    assert (np.diff(prediction.probabilities, axis=-1) <= 0).all()
    # sigmoid(z+ - z-) of the best class, from the features of both prompts.
    z = (
        predictor.scale
        * prediction.features
        @ np.stack([predictor.positive, predictor.negative]).swapaxes(1, 2)
    )
    best = prediction.classes[:, 0]
    gap = z[0][np.arange(len(best)), best] - z[1][np.arange(len(best)), best]
    np.testing.assert_allclose(prediction.accept, 1 / (1 + np.exp(-gap)), rtol=1e-4)
    full = np.exp(z[0]) / np.exp(z[0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(prediction.probabilities[:, 0], full.max(-1), rtol=1e-4)


def test_arrays_and_files_give_the_same_and_rows_are_plain(trained, tmp_path):
    config, _, trainable = trained
    arrays = [np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8) for i in range(2)]
    for i, array in enumerate(arrays):
        _write(tmp_path / f"p{i}.png", array)
    predictor = predict.predictor(config, trainable)
    assert len(predictor.names) == 7
    from_arrays = predictor(arrays, top_k=50)
    from_files = predictor([tmp_path / "p0.png", tmp_path / "p1.png"], top_k=50)
    np.testing.assert_array_equal(from_arrays.features, from_files.features)
    assert from_arrays.probabilities.shape == (2, 7)
    np.testing.assert_allclose(from_arrays.probabilities.sum(-1), 1.0, rtol=1e-5)
    assert from_files.titles == ("p0.png", "p1.png")
    row = from_files.rows()[0]
    assert set(row) == {"title", "names", "probabilities"}
    assert isinstance(row["probabilities"][0], float)


def test_given_names_need_no_data_set(trained, settings):
    _, _, trainable = trained
    config = settings(data__root="/nowhere", lookup__dir="/nowhere/else")
    predictor = predict.predictor(config, trainable, classes=["red ring", "blue star"])
    prediction = predictor([np.zeros((32, 32, 3), np.uint8)])
    assert set(prediction.names[0]) == {"red ring", "blue star"}
    with pytest.raises(ValueError, match="/nowhere"):
        predict.predictor(config, trainable)


def test_reject_needs_a_negative_prompt(trained):
    config, _, trainable = trained
    only = {"context": {"positive": trainable["context"]["positive"]}}
    predictor = predict.predictor(config, only, classes=["ring", "star"])
    with pytest.raises(PredictError, match="no negative one"):
        predictor([np.zeros((32, 32, 3), np.uint8)], reject=True)
    with pytest.raises(PredictError, match="no pictures"):
        predictor([])
