"""launch.prompts and the classifier's folder: a public checkpoint becomes a run, is judged as torch judges it, and goes back."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from core_jax import clip, train
from core_jax.data import images
from fdbpl_jax import datasets
from launch import classifier, prompts, runs
from launch import config as config_lib
from launch import predict as predict_lib
from tests.fdbpl_jax.torch_repositories import CustomCLIP


@pytest.fixture(scope="module")
def config(base):
    return config_lib.override(base, {"data.split": "all", "dtype": "float32"})


@pytest.fixture(scope="module")
def student(config):
    return clip.load(config.student)


@pytest.fixture(scope="module")
def dataset(config):
    return datasets.read(config.data.dataset, config.data.root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, student, dataset):
    """Checkpoints of two repositories, coop.safetensors and promptsrc.safetensors, and the torch models they are of."""
    root = tmp_path_factory.mktemp("prompts")
    models = {kind: CustomCLIP(kind, student, dataset.classes) for kind in ("coop", "promptsrc")}
    start = student.tokenizer.encode("a photo of a")
    embedded = np.array(student.params["text"]["token_embedding"])[start]
    models["coop"].prompt_learner.ctx.data = torch.from_numpy(embedded)
    for kind, model in models.items():
        safetensors.numpy.save_file(model.saved(), root / f"{kind}.safetensors")
    return root, models


@pytest.fixture(scope="module")
def imported(config, folder):
    """The work directories of both."""
    root, models = folder
    for kind in models:
        prompts.bring_in(config, root / f"{kind}.safetensors", root / kind)
    return root


def torch_features(model, student, dataset):
    """The features that a torch model has of the test pictures."""
    size = student.config.vision.image_size
    pixels = np.stack(
        [clip.preprocess(images.decode(dataset.root / item.path), size) for item in dataset.test]
    )
    normal = clip.normalise(jax.numpy.asarray(pixels), student.config, jax.numpy.float32)
    return model.image_features(torch.from_numpy(np.array(normal).transpose(0, 3, 1, 2)))


def exported(folder):
    """Metadata and class embeddings of a classifier's folder."""
    with safetensors.safe_open(folder / "classifier.safetensors", "numpy") as file:
        return file.metadata(), file.get_tensor("class_embeddings")


@pytest.mark.parametrize("kind", [pytest.param("coop", marks=pytest.mark.slow), "promptsrc"])
def test_an_imported_run_is_judged_and_exported_as_torch_judges_it(
    kind, student, dataset, folder, imported, tmp_path
):
    (line,) = runs.evaluate(imported / kind)
    model = folder[1][kind]
    features = torch_features(model, student, dataset)
    expected = (model.logit_scale.exp() * features @ model.text_features().T).numpy()
    labels = [item.label for item in dataset.test]
    assert line["correct"] == (expected.argmax(-1) == labels).sum()
    assert (line["method"], line["variant"]) == (kind, f"{kind}, imported")
    origin = json.loads((imported / kind / "imported.json").read_text())
    assert line["imported"] == origin["sha256"]
    assert (line["steps"], line["seconds_train"]) == (0, None)
    card = classifier.export(imported / kind, tmp_path)
    facts, weights = exported(tmp_path)
    assert json.loads(facts["class_names"]) == list(dataset.classes)
    logits = float(facts["scale"]) * features.numpy() @ weights.T
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert f"| {line['dataset']} | all | {line['accuracy']:.2f} | {line['correct']} / " in card


def test_what_went_in_comes_out(folder, imported, tmp_path):
    root, models = folder
    names = prompts.send_out(root / "promptsrc", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    saved = models["promptsrc"].saved()
    assert sorted(back) == names
    assert {"prompt_learner.ctx", "image_encoder.VPT"} < set(names)
    for name in names:
        np.testing.assert_array_equal(back[name], saved[name])


@pytest.mark.slow
def test_prediction_needs_no_data_set(config, dataset, folder, imported, tmp_path):
    root, _ = folder
    elsewhere = config_lib.override(config, {"data.root": str(tmp_path / "absent")})
    file = root / "promptsrc.safetensors"
    prompts.bring_in(elsewhere, file, tmp_path / "run", without_data=True)
    paths = [dataset.root / item.path for item in dataset.test[:3]]
    both = [
        predict_lib.predict(run, paths, tmp_path / "out", names=dataset.classes, top_k=3)
        for run in (tmp_path / "run", root / "promptsrc")
    ]
    assert both[0] == both[1]


@pytest.mark.slow
def test_training_goes_on_from_imported_prompts(config, folder, tmp_path):
    root, models = folder
    still = config_lib.override(config, {"lr": 0.0, "warmup_lr": 0.0, "weight_decay": 0.0})
    made = prompts.bring_in(still, root / "coop.safetensors", tmp_path / "run")
    runs.train(made, tmp_path / "run", resume=True, progress=False)
    assert runs.timing(tmp_path / "run")
    learned, _ = runs.learned(tmp_path / "run")
    expected = models["coop"].saved()["ctx"]
    np.testing.assert_array_equal(learned["context"]["positive"], expected)
    assert json.loads((tmp_path / "run" / "timing.json").read_text())["restarts"] == 0


def test_words_of_a_context_that_is_words(imported, student):
    _, trainable, _, _ = prompts.learned(imported / "coop")
    (table,) = prompts.words(trainable, student, count=2).values()
    assert [row[1] for row in table.rows] == [
        f"{word} 0.0000" for word in ("a", "photo", "of", "a")
    ]
    deep = prompts.words(prompts.learned(imported / "promptsrc")[1], student, count=1)
    assert "first layer's vectors only" in deep["positive"].note


@pytest.mark.slow
def test_the_folder_of_a_classifier_says_how_to_use_it(
    dataset, imported, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "classifier"
    card = classifier.export(imported / "coop", out)
    facts, weights = exported(out)
    assert json.loads(facts["class_names"]) == list(dataset.classes)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1.0, atol=1e-6)
    assert "ctx" in safetensors.numpy.load_file(out / "prompts.safetensors")
    front = card.split("---\n")[1]
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(fields["tags"]) == ["clip", "prompt-learning", "coop", "ce"]
    assert "imported from coop.safetensors" in card
    assert "| trained on | what coop.safetensors was trained on |" in card
    # The lines that the card gives, as they stand there, on a picture.
    path = dataset.root / dataset.test[0].path
    Image.open(path).convert("RGB").save(out / "picture.jpg", quality=100, subsampling=0)
    monkeypatch.chdir(out)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    names: dict = {}
    capsys.readouterr()
    with torch.no_grad():
        exec(compile(code, "card", "exec"), names)
    (row,) = predict_lib.predict(imported / "coop", [out / "picture.jpg"], tmp_path, top_k=7)
    ours = dict(zip(row["names"], row["probabilities"], strict=True))
    theirs = dict(zip(names["classes"], names["chances"].tolist(), strict=True))
    assert ours == pytest.approx(theirs, abs=0.02)


def test_the_card_of_a_clip_that_transformers_does_not_open(config, tmp_path):
    """OpenAI's layout has no description, OpenCLIP's may have timm's beside its own."""
    elsewhere = config_lib.override(config, {"student": str(tmp_path)})
    prompts_of_words = {"context": {"positive": np.ones((4, 32))}}
    for description in (None, {"architecture": "resnet50_clip"}):
        if description is not None:
            (tmp_path / "config.json").write_text(json.dumps(description))
        use = classifier._use(elsewhere, prompts_of_words)
        assert "CLIPModel does not open" in use
        assert "launch.prompts import --prompts=prompts.safetensors" in use
        assert f"    --config.student={tmp_path}\n" in use
    assert "CLIPModel.from_pretrained" in classifier._use(config, prompts_of_words)
    # Without a context of its own a classifier has the sentences of its data set.
    tokens = {"visual": np.ones((1, 2, 32)), "projector": {}}
    changes = classifier._changes(config_lib.override(config, {"teacher": "a/b"}), tokens)
    template = datasets.LAYOUTS[config.data.dataset].template
    assert f"--config.teacher=a/b --config.data.template='{template}'" in changes


def test_a_card_has_the_newest_line_of_every_data_set(tmp_path):
    lines = [
        {"dataset": dataset, "split": "all", "accuracy": accuracy}
        for dataset, accuracy in (("imagenet", 60.0), ("eurosat", 40.0), ("imagenet", 61.0))
    ]
    runs.append(tmp_path / "results.jsonl", lines)
    assert classifier._last_results(tmp_path) == [lines[2], lines[1]]


@pytest.mark.slow
def test_learned_tokens_lead_back_to_prediction(imported, tmp_path):
    card = classifier.export(imported / "promptsrc", tmp_path, names=["red circle", "blue ring"])
    assert "transformers" not in card
    assert "--prompts=prompts.safetensors" in card


def test_refusals(config, folder, imported, student, tmp_path):
    root, _ = folder
    with pytest.raises(train.WorkdirError, match="already holds a run with this"):
        prompts.bring_in(config, root / "coop.safetensors", root / "coop")
    # Contexts of seven classes, for a data set of seven; then of six.
    width = student.config.text.width
    for count in (7, 6):
        file = tmp_path / f"{count}.safetensors"
        safetensors.numpy.save_file({"ctx": np.ones((count, 4, width), np.float32)}, file)
    prompts.bring_in(config, tmp_path / "7.safetensors", tmp_path / "seven")
    with pytest.raises(train.AdoptError, match=r"positive: float32\[6, 4, 32\], expected .*\[7, 4"):
        prompts.bring_in(config, tmp_path / "6.safetensors", tmp_path / "six")
    assert not (tmp_path / "six").exists()
    trainable = runs.learned(tmp_path / "seven")[0]
    assert len(prompts.words(trainable, student, count=1)) == 5
    contrastive = config_lib.load("configs/world_clip.py")
    with pytest.raises(config_lib.ConfigError, match="task fdbpl, not contrastive"):
        prompts.bring_in(contrastive, root / "coop.safetensors", tmp_path / "other")
    with pytest.raises(config_lib.ConfigError, match="no text context was learned"):
        prompts.words({"visual": jax.numpy.ones((1, 2, 3))}, student, count=1)
