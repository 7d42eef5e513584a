"""Learned prompts under public names: torch modules with those names say what is right; files that are not are refused."""

import dataclasses
import fractions
import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from core_jax import clip
from fdbpl_jax import average, config, exchange, foreign, predict, projector, prompted, visual
from fdbpl_jax.inputs import text_plans
from tests.fdbpl_jax import torch_repositories as repositories
from tests.fdbpl_jax.conftest import CLASSES, WORDS, tiny_config
from tests.fdbpl_jax.torch_repositories import CustomCLIP

NAMES = CLASSES[:3]
# Learner and numbers as the configuration has them, of what `torch_repositories` builds.
TEXT = {"prompt.context": 4, "prompt.words": "", "prompt.depth": 1}
IMAGE = {"visual.tokens": 3, "visual.depth": 2}
SETTINGS = {
    "coop": TEXT,
    "kgcoop": TEXT,
    "cocoop": TEXT,
    "maple": {"prompt.context": 2, "prompt.words": "of a", "prompt.depth": 3},
    "ivlp": TEXT | IMAGE | {"prompt.depth": 3},
    "promptsrc": TEXT | IMAGE | {"prompt.depth": 3},
    "vpt": IMAGE,
    "promptkd": IMAGE,
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random model of three blocks a tower, with biases and scales that matter."""
    base = tiny_config()
    sizes = dataclasses.replace(
        base,
        vision=dataclasses.replace(base.vision, layers=3, width=40, image_size=16),
        text=dataclasses.replace(base.text, layers=3),
    )
    params = jax.jit(functools.partial(clip.init, sizes))(key=jax.random.key(5))
    leaves, form = jax.tree.flatten(params)
    rng = np.random.default_rng(5)
    leaves = [leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    folder = tmp_path_factory.mktemp("exchange")
    tokenizer = {"tokenizer.json": clip.word_level(WORDS)}
    clip.save(folder, sizes, jax.tree.unflatten(form, leaves), tokenizer_files=tokenizer)
    return clip.load(folder)


@pytest.fixture(scope="module")
def models(student):
    return {kind: CustomCLIP(kind, student, NAMES) for kind in repositories.KINDS}


def learned_names(model):
    """What a repository trains, under the names that it saves."""
    names = model.saved()
    marks = r"(.*\.)?ctx|meta_net\.linear|.*compound_prompt|prompt_learner\.proj|.*VPT"
    if model.kind == "kgcoop":
        marks = "ctx"
    return {
        name
        for name in names
        if re.match(marks, name) and "ZS_" not in name and "num_batches" not in name
    }


def features(student, found, pixels):
    """Unit-norm features of pictures and of classes under imported prompts, in each picture's context under a meta-net."""
    group = {
        key.removeprefix("prompt."): value
        for key, value in found.settings.items()
        if key.startswith("prompt.")
    }
    method = "kdpl" if found.learner == "promptkd" else "ce"
    values = {"method": method, "teacher_source": "online", "learner": found.learner}
    plan = text_plans(config.read(values | {"prompt": group}), student, {"all": NAMES})["all"]

    @jax.jit
    def run(params, trainable, stats):
        learned = average.judged(trainable)
        tokens = prompted.visual_tokens(learned)
        if tokens is None:
            pictures = clip.encode_image(params, student.config, pixels)
        else:
            pictures = visual.encode(params, student.config, pixels, tokens)
        if "projector" in learned:
            state = stats["projector"]
            pictures, _ = projector.apply(learned["projector"], state, pictures, train=False)
        pictures = clip.unit(pictures)
        parts = (params, student.config, plan, learned)
        if "meta" in learned:
            return pictures, prompted.features_by_picture(*parts, pictures, dtype=jnp.float32)
        if "context" in learned:
            return pictures, prompted.class_features(*parts, dtype=jnp.float32)[0]
        return pictures, None

    return run(student.params, found.trainable, found.stats)


# KgCoOp's and IVLP's arrays are those of CoOp and PromptSRC.
@pytest.mark.parametrize(
    "kind",
    [
        # PromptSRC's context is CoOp's and more.
        pytest.param("coop", marks=pytest.mark.slow),
        *sorted({*repositories.KINDS} - {"coop", "kgcoop", "ivlp"}),
    ],
)
def test_features_of_imported_prompts_are_those_of_the_torch_module(kind, student, models):
    model = models[kind]
    found = exchange.read(model.saved(), student)
    assert found.learner == kind
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    theirs = model.image_features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    pictures, classes = features(student, found, pixels)
    np.testing.assert_allclose(pictures, theirs.numpy(), atol=1e-5)
    if kind in ("vpt", "promptkd"):
        assert classes is None
        return
    if kind == "cocoop":
        expected = torch.stack([model.text_features(picture) for picture in theirs])
    else:
        expected = model.text_features()
    np.testing.assert_allclose(classes, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", repositories.KINDS)
def test_there_and_back_is_the_same_bit_for_bit(kind, student, models):
    model = models[kind]
    saved = model.saved()
    found = exchange.read(saved, student)
    written = exchange.write(found.trainable, found.stats, student)
    assert written.keys() == learned_names(model)
    for name, value in written.items():
        np.testing.assert_array_equal(value, saved[name])
    # A fresh model takes them as its repository would, and lacks nothing but what it ignores.
    fresh = CustomCLIP(kind, student, NAMES, seed=1)
    module = fresh.prompt_learner if kind in repositories.LEARNER_ALONE else fresh
    tensors = {name: torch.from_numpy(value) for name, value in written.items()}
    absent, unknown = module.load_state_dict(tensors, strict=False)
    ignored = foreign.ignored(foreign.FAMILIES[found.family])
    assert unknown == []
    assert all(ignored.fullmatch(name) for name in absent)
    again = exchange.read(written, student, learner=kind)
    assert jax.tree.structure(again.trainable) == jax.tree.structure(found.trainable)
    assert again.settings == found.settings


@pytest.mark.parametrize("kind", repositories.KINDS)
def test_the_configuration_is_read_off_the_file(kind, student, models):
    found = exchange.read(models[kind].saved(), student)
    expected = {"learner": kind, **SETTINGS[kind]}
    assert {key: found.settings[key] for key in expected} == expected
    read = config.read(
        {
            "method": "kdpl" if found.learner == "promptkd" else "ce",
            "teacher_source": "online",
            "learner": found.learner,
            **{
                group: {
                    key.split(".")[1]: value
                    for key, value in found.settings.items()
                    if key.startswith(f"{group}.")
                }
                for group in ("prompt", "visual")
            },
        }
    )
    # What the task would train has exactly these arrays.
    made, stats = prompted.init(read, student, classes=3, named_width=20, key=jax.random.key(0))
    for ours, theirs in ((made, found.trainable), (stats, found.stats)):
        assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


def test_a_file_in_half_precision_and_its_metadata(student, models, tmp_path):
    found = exchange.read(models["maple"].saved(), student)
    path = tmp_path / "maple.safetensors"
    exchange.write_file(
        path, found.trainable, {}, student, dtype="bfloat16", about={"student": "tiny"}
    )
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt", "student": "tiny"}
        assert file.get_tensor("prompt_learner.ctx").dtype == ml_dtypes.bfloat16
    again = exchange.read_file(path, student)
    rounded = jax.tree.map(lambda x: np.float32(np.asarray(x, ml_dtypes.bfloat16)), found.trainable)
    jax.tree.map(np.testing.assert_array_equal, again.trainable, rounded)
    # No sentences in it: the published start is taken, and said so.
    assert again.settings["prompt.words"] == "of a"
    assert any("'of a' stands behind the 2 learned vectors" in note for note in again.notes)


def test_sentences_in_the_file_say_whether_words_follow_the_context(student, models):
    saved = models["maple"].saved()
    # A context of two from noise: names follow at once.
    saved["prompt_learner.token_suffix"] = saved["prompt_learner.token_suffix"][:, 2:]
    found = exchange.read(saved, student)
    assert found.settings["prompt.words"] == ""
    assert found.notes == ()
    # Another word behind the context than the published one: the configuration has to know it.
    saved["prompt_learner.token_suffix"] = np.ones_like(saved["prompt_learner.token_suffix"])
    found = exchange.read(saved, student)
    assert "prompt.words" not in found.settings
    assert re.search(r"not 'of a': .* prompt\.words has to be", " ".join(found.notes))


def test_a_file_written_here_leaves_nothing_to_guess(student, models, tmp_path):
    """Context of two that no words follow, of ProGrad, the name in front: no tensor says any of it."""
    width, path = student.config.text.width, tmp_path / "own.safetensors"
    about = {
        "learner": "prograd",
        "words": "",
        "class_token_position": "front",
        "student": "tiny",
        "student_digest": clip.weights_digest(student.params),
    }
    trainable = {"context": {"positive": jnp.ones((2, width))}}
    exchange.write_file(path, trainable, {}, student, about=about)
    found = exchange.read_file(path, student)
    assert (found.learner, found.notes) == ("prograd", ())
    assert found.settings["prompt.class_token_position"] == "front"
    found = exchange.read(models["maple"].saved(), student, said=about | {"learner": "maple"})
    assert (found.settings["prompt.words"], found.notes) == ("", ())
    # Another model of the same widths, which no tensor of the file would show.
    exchange.write_file(path, trainable, {}, student, about=about | {"student_digest": "0" * 64})
    with pytest.raises(exchange.ExchangeError, match="learned with tiny, weights 000000000000; "):
        exchange.read_file(path, student)


def test_a_context_for_each_class_and_deep_text_alone(student, models):
    width = student.config.text.width
    found = exchange.read({"ctx": np.ones((3, 4, width), np.float32)}, student, learner="prograd")
    assert found.trainable["context"]["positive"].shape == (3, 4, width)
    assert found.settings["prompt.class_specific"] is True
    assert found.learner == "prograd"
    # IVLP without visual tokens is CoOp's context with a depth.
    text = {name: v for name, v in models["ivlp"].saved().items() if "image_encoder" not in name}
    found = exchange.read(text, student)
    assert found.learner == "coop"
    assert set(found.trainable) == {"context", "deep"}
    back = exchange.write(found.trainable, found.stats, student)
    assert sorted(back) == [
        "prompt_learner.ctx",
        "text_encoder.transformer.resblocks.1.VPT_shallow",
        "text_encoder.transformer.resblocks.2.VPT_shallow",
    ]
    # Deep prompts are shared where each class has a context.
    found.trainable["context"]["positive"] = jnp.ones((3, 4, width))
    again = exchange.read(exchange.write(found.trainable, {}, student), student)
    assert again.settings["prompt.class_specific"] is True
    jax.tree.map(np.testing.assert_array_equal, again.trainable, found.trainable)


def test_a_student_with_a_resnet_takes_text_prompts_alone(student, models):
    config = dataclasses.replace(student.config, vision=clip.ResNetVisionConfig(image_size=32))
    resnet = clip.Clip(config, {"text": student.params["text"], "vision": {}}, student.tokenizer)
    for kind in ("coop", "cocoop"):
        saved = models[kind].saved()
        found = exchange.read(saved, resnet)
        np.testing.assert_array_equal(found.trainable["context"]["positive"], saved["ctx"])
        assert exchange.write(found.trainable, {}, resnet).keys() == learned_names(models[kind])
    for kind in ("maple", "ivlp", "promptsrc", "vpt", "promptkd"):
        with pytest.raises(exchange.ExchangeError, match="are tokens of a ViT, and the student's"):
            exchange.read(models[kind].saved(), resnet)


def test_the_average_is_written_and_negative_prompts_stay_behind(student, models):
    found = exchange.read(models["ivlp"].saved(), student, learner="promptsrc")
    moved = jax.tree.map(lambda x: x + 1, found.trainable) | {"average": found.trainable["average"]}
    moved["context"]["negative"] = moved["context"]["positive"]
    written = exchange.write(moved, {}, student)
    np.testing.assert_array_equal(
        written["image_encoder.VPT"], models["ivlp"].saved()["image_encoder.VPT"]
    )
    only = {"context": {"negative": jnp.ones((4, 32))}}
    with pytest.raises(exchange.ExchangeError, match="they know no negative prompts"):
        exchange.write(only, {}, student)


def test_a_projector_into_the_space_of_another_teacher_is_refused(student, models):
    found = exchange.read(models["promptkd"].saved(), student)
    folder = str(student.tokenizer.folder)
    values = {"method": "kdpl", "teacher_source": "online", "learner": "promptkd"}
    values |= {"student": folder, "teacher": folder, "visual": {"tokens": 3, "depth": 2}}
    with pytest.raises(predict.PredictError, match=r"leads to 20 channels, .* have 24: set config"):
        predict.predictor(values, found.trainable, stats=found.stats, classes=NAMES)


def test_everything_that_is_wrong_is_listed(student, models):
    saved = models["maple"].saved()
    del saved["prompt_learner.proj.bias"]
    saved["prompt_learner.compound_prompts_text.1"] = np.ones((2, 48), np.float32)
    saved["prompt_learner.adapter.weight"] = np.ones(2, np.float32)
    saved["image_encoder.transformer.resblocks.0.attn.gate"] = np.ones(2, np.float32)
    saved["prompt_learner.ctx"] = saved["prompt_learner.ctx"] * np.nan
    with pytest.raises(
        exchange.ExchangeError, match=r"MaPLe \(2 context.*\(5 problems\)"
    ) as caught:
        exchange.read(saved, student)
    for part in (
        "missing: prompt_learner.proj.bias of shape (40,)",
        "shape: prompt_learner.compound_prompts_text.1 is (2, 48), expected (2, 32)",
        "extra: prompt_learner.adapter.weight",
        "extra: image_encoder.transformer.resblocks.0.attn.gate",
        "not finite: 64 of 64 values of prompt_learner.ctx",
    ):
        assert part in str(caught.value)


def test_a_block_that_is_left_out_or_does_not_exist(student, models):
    saved = models["ivlp"].saved()
    name = "text_encoder.transformer.resblocks.{}.VPT_shallow"
    saved[name.format(3)] = saved.pop(name.format(1))
    with pytest.raises(exchange.ExchangeError) as caught:
        exchange.read(saved, student)
    assert "prompts for 4 blocks, and the text tower has 3" in str(caught.value)
    assert f"missing: {name.format(1)}" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("coop", "token_prefix"),
        ("ivlp", "text_encoder.ln_final.weight"),
        ("vpt", "image_encoder.class_embedding"),
        ("promptkd", "image_encoder.conv1.weight"),
    ],
)
def test_prompts_of_another_clip_of_the_same_widths_are_refused(kind, name, student, models):
    saved = models[kind].saved()
    # What half precision does to them is no reason.
    half = {n: v.astype(np.float16) if v.dtype == np.float32 else v for n, v in saved.items()}
    exchange.read(half, student)
    saved[name] = 1.5 * saved[name]
    with pytest.raises(exchange.ExchangeError, match=f"another model: {re.escape(name)}"):
        exchange.read(saved, student)


def test_files_of_other_things(student, models, tmp_path):
    with pytest.raises(exchange.ExchangeError, match=r"the first names are logit_scale, x\."):
        exchange.read({"x": np.ones(2), "logit_scale": np.ones(())}, student)
    with pytest.raises(
        exchange.ExchangeError, match="those of CoOp, so expected coop or kgcoop or"
    ):
        exchange.read(models["coop"].saved(), student, learner="maple")
    with pytest.raises(exchange.ExchangeError, match="there is no such file"):
        exchange.read_file(tmp_path / "none.safetensors", student)
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(exchange.ExchangeError, match="unreadable"):
        exchange.read_file(tmp_path / "torn.safetensors", student)


def test_a_pickled_checkpoint_is_refused_and_the_conversion_works(student, models, tmp_path):
    model, path = models["cocoop"], tmp_path / "model.pth.tar-10"
    state = {f"module.{name}": value for name, value in model.prompt_learner.state_dict().items()}
    # Dassl's warm-up scheduler saves the one behind it as an object; any object stands for it.
    later = fractions.Fraction(1, 10)
    torch.save({"state_dict": state, "epoch": 10, "scheduler": {"successor": later}}, path)
    with pytest.raises(
        exchange.ExchangeError, match=r"pickled checkpoint.*If you trust it"
    ) as caught:
        exchange.read_file(path, student)
    code = re.search(r'python -c "(.*)"$', str(caught.value), re.S)
    assert code is not None
    exec(compile(code[1], "conversion", "exec"), {})
    found = exchange.read_file(f"{path}.safetensors", student)
    np.testing.assert_array_equal(found.trainable["context"]["positive"], model.saved()["ctx"])
