"""A CLIP with a ResNet image tower as student and as teacher: text prompts through the same code as with a ViT."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from core_jax import clip
from core_jax.clip import openclip
from core_jax.data import images
from fdbpl_jax import build, datasets, lookup, prompted, prompts, task, towers
from fdbpl_jax import config as configs
from tests.fdbpl_jax.conftest import WORDS

STEPS = {"epochs": 1, "batch_size": 4}


def vocabulary() -> bytes:
    """A word-level tokenizer as OpenAI's models need it: the token that ends a sentence has the largest id."""
    content = json.loads(clip.word_level(WORDS))
    last = 4 + len(WORDS)
    content["model"]["vocab"]["<end>"] = last
    content["post_processor"]["special_tokens"]["<end>"]["ids"] = [last]
    return json.dumps(content).encode()


def save(folder, *, seed: int) -> str:
    """A random model in OpenAI's layout."""
    config = clip.ClipConfig(
        vision=clip.ResNetVisionConfig(depths=(1, 1, 1, 1), width=4, image_size=32),
        text=clip.TextConfig(
            vocab_size=5 + len(WORDS),
            context_length=20,
            width=64,
            layers=2,
            heads=1,
            mlp_width=256,
            eos_token_id=2,
            pad_token_id=0,
        ),
        projection_dim=24,
    )
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        """Norms and variances near 1; drawn by numpy, which compiles nothing."""
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        std = 1.0 if path[-1].key == "token_embedding" else max(leaf.shape[:-1], default=4) ** -0.5
        return np.asarray(rng.normal(0.0, std, leaf.shape), np.float32)

    shapes = jax.eval_shape(functools.partial(clip.init, config), key=jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(fill, shapes)
    params["logit_scale"] = np.float32(2.6592)
    folder.mkdir()
    state = openclip.to_openclip(params, config)
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(vocabulary())
    return str(folder)


@pytest.fixture(scope="module")
def resnets(tmp_path_factory):
    root = tmp_path_factory.mktemp("resnets")
    return {
        "student": save(root / "student", seed=3),
        "teacher": save(root / "teacher", seed=4),
    }


def test_both_towers_see_what_the_model_sees(resnets):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    flip = np.array([False, True])
    encode = jax.jit(clip.encode_image, static_argnums=1)
    for name, tower in (("student", towers.student), ("teacher", _as_teacher)):
        model = clip.load(resnets[name])
        found = tower(model, name, dtype="float32")
        assert (found.image_size, found.digest) == (32, clip.weights_digest(model.params))
        seen = np.stack([pixels[0], pixels[1, :, ::-1]])
        normal = clip.normalise(jnp.asarray(seen), model.config, jnp.dtype("float32"))
        expected = clip.unit(encode(model.params, model.config, normal))
        np.testing.assert_allclose(found.features(pixels, flip), expected, atol=1e-5)


def _as_teacher(model, name, *, dtype):
    return towers.teacher(model, name, ("red circle", "blue ring"), "a photo of a {}.", dtype=dtype)


@pytest.mark.slow
def test_online_distillation_trains_the_context_alone(resnets, settings):
    online = task.build(
        settings(method="kdpl", teacher_source="online", lookup__dir="", **resnets, **STEPS)
    )
    params = online.init(jax.random.key(0))
    batch = next(iter(online.train_data(1)))
    run = jax.jit(jax.value_and_grad(online.loss, has_aux=True))
    (value, aux), grads = run(
        params.trainable, params.frozen, params.stats, batch, jax.random.key(1)
    )
    # Against the towers one by one.
    inputs = online.evaluate.inputs
    teacher = towers.teacher(
        inputs.teacher, "t", inputs.train.classes, inputs.train.template, dtype="float32"
    )
    student = towers.student(inputs.student, "s", dtype="float32")
    assert (student.image_size, student.width) == (32, 24)
    image = student.features(batch["image"], batch["flip"])
    text = towers.text_features(
        inputs.student, [f"a photo of a {name}." for name in inputs.train.classes]
    )
    scale = jnp.exp(inputs.student.params["logit_scale"])
    t = jax.nn.log_softmax(teacher.logits(batch["image"], batch["flip"]))
    s = jax.nn.log_softmax(scale * image @ text.T)
    expected = 0.5 * jnp.mean(jnp.sum((jnp.exp(t) - jnp.exp(s)) * (t - s), axis=-1))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert aux.stats == {}
    assert {name for name, tree in grads.items() if jax.tree.leaves(tree)} == {"context"}
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_a_lookup_of_its_labels_and_features(resnets, settings, tmp_path):
    config = settings(**resnets, lookup__dir=str(tmp_path / "lookup"), **STEPS)
    folder = build.build_from_config(config, progress=False)
    manifest = lookup.open(folder).manifest
    model = clip.load(resnets["student"])
    teacher = clip.load(resnets["teacher"])
    assert manifest["teacher"]["digest"] == clip.weights_digest(teacher.params)
    built = task.build(config)
    params = built.init(jax.random.key(0))
    assert built.evaluate.inputs.source == "resident"
    assert built.evaluate.inputs.pins["student"] == clip.weights_digest(model.params)
    results = built.evaluate(params.trainable, params.frozen, params.stats)
    assert (results["base/total"], results["new/total"]) == (12, 9)
    # As it starts the positive context is "a photo of a": zero-shot classification.
    base = datasets.half(datasets.read("world_objects", config.data.root), "base")
    weights = clip.zeroshot.classifier(model, base.classes, ("a photo of a {}.",))
    pixels = np.stack(
        [clip.preprocess(images.decode(base.root / item.path), 32) for item in base.test]
    )
    weights = jnp.asarray(weights)
    ranked, _ = clip.zeroshot.rank(model.params, model.config, jnp.asarray(pixels), weights)
    hits = sum(int(row[0]) == item.label for row, item in zip(ranked, base.test, strict=True))
    assert results["base/correct"] == hits


def test_learners_with_visual_prompts_are_refused(resnets):
    student, sizes = clip.load(resnets["student"]), {"classes": 2, "named_width": 24}
    for learner in ("vpt", "ivlp", "maple", "promptsrc", "promptkd"):
        values = {"learner": learner, "method": "kdpl", "teacher_source": "online"}
        with pytest.raises(prompts.PromptError, match="are tokens of a ViT"):
            prompted.init(configs.read(values), student, **sizes, key=jax.random.key(0))
