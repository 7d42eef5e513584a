"""A tiny random CLIP pair on disk, as every test of the method uses it."""

import functools
from typing import Any

import jax
import ml_collections
import pytest

from configs import fdbpl_learners
from core_jax import clip, world
from fdbpl_jax import build

_WORDS = (
    "a an the photo picture image of no not one there is this . , red green blue yellow purple orange cyan white plain "
    "striped dotted checkered circle square triangle star cross ring diamond heart object in with scene type kind"
)
WORDS = _WORDS.split()


def tiny_config(*, width: int = 32, image_size: int = 32) -> clip.ClipConfig:
    return clip.ClipConfig(
        vision=clip.VisionConfig(
            image_size=image_size,
            patch_size=8,
            width=width,
            layers=1,
            heads=2,
            mlp_width=2 * width,
        ),
        text=clip.TextConfig(
            vocab_size=4 + len(WORDS),
            context_length=20,
            width=width,
            layers=2,  # a shared prefix is wrong from the second layer on, if anywhere
            heads=2,
            mlp_width=2 * width,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
        ),
        projection_dim=24,
    )


def save_tiny(folder, *, seed: int, width: int = 32) -> None:
    config = tiny_config(width=width)
    params = jax.jit(functools.partial(clip.init, config))(key=jax.random.key(seed))
    # Random towers give nearly equal features for all texts; larger embeddings tell the classes apart.
    params["text"]["token_embedding"] = params["text"]["token_embedding"] * 20.0
    clip.save(folder, config, params, tokenizer_files={"tokenizer.json": clip.word_level(WORDS)})


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Folders {"student", "teacher"} of two different random models."""
    root = tmp_path_factory.mktemp("pair")
    save_tiny(root / "student", seed=1)
    save_tiny(root / "teacher", seed=2, width=48)
    return {"student": root / "student", "teacher": root / "teacher"}


@pytest.fixture(scope="session")
def student(pair):
    return clip.load(pair["student"])


CLASSES = (
    "red plain circle",
    "blue striped ring",
    "green dotted star",
    "yellow plain cross",
    "white checkered heart",
    "orange plain square",
    "cyan striped diamond",
)


@pytest.fixture(scope="session")
def settings(pair, tmp_path_factory):
    """A function (changes by dotted key) -> configuration of a tiny run: 7 classes, 4 of them base, 4 shots."""
    root = tmp_path_factory.mktemp("world")
    world.write_objects(
        root,
        size=40,
        train_per_class=5,
        val_per_class=2,
        test_per_class=3,
        classes=CLASSES,
        progress=False,
    )

    def make(**changes):
        config = {
            "task": "fdbpl",
            "method": "fdbpl",
            "teacher": str(pair["teacher"]),
            "student": str(pair["student"]),
            "data": {"dataset": "world_objects", "root": str(root), "shots": 4},
            "lookup": {"dir": str(root / "lookup"), "regions": 8, "batch_size": 64},
            "batch_size": 8,
            "epochs": 3,
            "lr": 0.05,
            "warmup_lr": 0.02,
        }
        for key, value in changes.items():
            *groups, name = key.split("__")
            place = config
            for group in groups:
                place = place.setdefault(group, {})
            place[name] = value
        return ml_collections.ConfigDict(config)

    return make


@pytest.fixture(scope="session")
def built(settings):
    """`settings` whose lookup has been built: dense, with the student's features."""
    build.build_from_config(settings(), progress=False)
    return settings


@pytest.fixture(scope="session")
def small(built, tmp_path_factory):
    """A function (learner, method, changes) -> configuration of a student with two blocks in both towers."""
    folder = tmp_path_factory.mktemp("learners") / "student"
    tower: Any = {"layers": 2, "heads": 2, "mlp_width": 32}
    config = clip.ClipConfig(
        vision=clip.VisionConfig(image_size=16, patch_size=8, width=24, **tower),
        text=clip.TextConfig(
            vocab_size=4 + len(WORDS),
            context_length=20,
            width=16,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
            **tower,
        ),
        projection_dim=64,
    )
    params = jax.jit(functools.partial(clip.init, config))(key=jax.random.key(4))
    params["text"]["token_embedding"] = params["text"]["token_embedding"] * 20.0
    clip.save(folder, config, params, tokenizer_files={"tokenizer.json": clip.word_level(WORDS)})

    def make(learner, method=None, **changes):
        structure = fdbpl_learners.structure(learner)
        numbers: dict[str, Any] = {
            "prompt.context": 2 if learner == "maple" else 4,
            "visual.tokens": 3,
        }
        numbers |= {key: min(2, structure.get(key, 1)) for key in ("prompt.depth", "visual.depth")}
        numbers |= {"data.source": "images", "prompt.text_mode": "trimmed", "student": str(folder)}
        if learner == "promptsrc":
            numbers["data.templates"] = ("a photo of a {}.", "a {} in the picture.")
        if learner == "promptkd":
            # The lookup holds labels of the base classes.
            numbers["data.transductive"] = False
        merged = {**structure, **numbers, **changes}
        if method is not None:
            merged["method"] = method
        return built(**{key.replace(".", "__"): value for key, value in merged.items()})

    return make
