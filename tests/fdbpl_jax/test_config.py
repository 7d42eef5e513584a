"""Settings: the shipped configurations, and every kind of mistake with its message."""

import dataclasses

import pytest

from configs import fdbpl_caltech101, fdbpl_folder, fdbpl_learners, fdbpl_world
from fdbpl_jax import config, templates, towers
from fdbpl_jax.config import Config, ConfigError
from fdbpl_jax.learners import LEARNERS

LOOKUP = {"lookup": {"dir": "x"}}


def _keys(kind, prefix=""):
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(getattr(kind(), field.name)):
            yield from _keys(type(getattr(kind(), field.name)), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _flat(tree, prefix=""):
    for name, value in tree.items():
        if hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(
    "module", [fdbpl_world, fdbpl_caltech101, fdbpl_folder], ids=lambda m: m.__name__
)
def test_shipped_configurations_are_valid_and_name_every_key(module):
    """A key that a file leaves out could not be set on the command line."""
    found = module.get_config()
    config.read(found)
    own = {key for key in _flat(found) if not key.startswith("fit.")} - {"task"}
    assert own == set(_keys(Config))


def test_defaults_are_the_published_recipe():
    read = config.read(LOOKUP)
    assert (read.batch_size, read.epochs, read.lr, read.warmup_lr) == (32, 50, 2e-3, 1e-5)
    assert (read.momentum, read.weight_decay, read.regions_per_visit) == (0.9, 5e-4, 2)
    assert (read.lookup.regions, read.lookup.top_k, read.lookup.dense) == (100, 10, None)
    loss = read.loss
    assert (loss.lam_neg, loss.lam_dis, loss.lam_pcd, loss.margin) == (1.0, 1e-3, 0.1, 0.2)


def test_every_problem_is_in_one_message():
    bad = {
        **LOOKUP,
        "metho": "coop",
        "batch_size": 32.5,
        "loss": {"dual": 1, "kl": (1.0,), "lam_ngg": 0.0},
        "prompt": 3,
    }
    with pytest.raises(ConfigError) as error:
        config.read(bad)
    message = str(error.value)
    for part in (
        "config.metho='coop': there is no such key; the nearest is config.method",
        "config.batch_size=32.5: expected an integer",
        "config.loss.dual=1: expected True or False",
        "config.loss.kl=(1.0,): expected 2 numbers",
        "config.loss.lam_ngg=0.0: there is no such key; the nearest is config.loss.lam_neg",
        "config.prompt=3: expected a group",
    ):
        assert part in message


def test_impossible_values_are_listed_together():
    bad = {
        "method": "maple",
        "epochs": 0,
        "batch_size": 31,
        "loss": {"weight_range": (0.5, 0.5), "recover": "renormalise"},
        "prompt": {"class_specific": True},
        "data": {"template": "a photo"},
    }
    with pytest.raises(ConfigError) as error:
        config.read(bad)
    message = str(error.value)
    for part in (
        "config.method='maple'",
        "config.epochs=0",
        "config.batch_size=31: not a multiple",
        "weight_range",
        "the reverse KL takes the log of 0",
        "class_specific=True with config.data.split=base",
        "config.data.template",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"fresh": "True"}}, "labels for its own regions"),
        (
            {"teacher_source": "online", "data": {"source": "features"}},
            "need data.source=images",
        ),
        ({"data": {"resident": True, "source": "images"}}, "config.data.resident=True"),
        ({"lookup": {}}, "config.lookup.dir is empty"),
    ],
)
def test_sources_that_exclude_each_other(changes, words):
    with pytest.raises(ConfigError, match=words):
        config.read({**LOOKUP, **changes})


def test_what_each_method_reads():
    def read(**changes):
        return config.read({**LOOKUP, **changes})

    assert read().stored_labels
    assert not read(method="zeroshot").needs_lookup
    assert read(method="ce").fresh
    assert not read(method="ce", data={"source": "features"}).fresh
    online = read(method="kdpl", teacher_source="online")
    assert online.fresh
    assert not online.needs_lookup
    kdpl = read(method="kdpl")
    assert kdpl.needs_lookup
    assert (kdpl.effective_loss.dual, kdpl.effective_loss.weight) == (False, "none")


def test_integers_pass_for_numbers_and_lists_for_tuples():
    read = config.read({**LOOKUP, "lr": 1, "loss": {"kl": [1, 0]}})
    assert (read.lr, read.loss.kl) == (1.0, (1.0, 0.0))
    assert isinstance(read.loss.kl[0], float)
    read = config.read({"lookup": {"dir": "x", "seeds": [1, 2, 3], "dense": None}})
    assert read.lookup.seeds == (1, 2, 3)


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_has_a_recipe_that_can_be_used(learner):
    published = config.read(fdbpl_caltech101.get_config(f"l14_b16+{learner}"))
    assert (published.learner, published.label) == (learner, learner)
    assert published.student == "openai/clip-vit-base-patch16"
    assert (published.warmup_lr, published.regions_per_visit) == (1e-5, 1)
    assert published.fresh == (learner != "promptkd")
    small = config.read(fdbpl_world.get_config(learner))
    assert (small.label, small.lr, small.batch_size) == (learner, 2e-2, 32)
    # The embedded world's student has 2 blocks in its text tower and 4 in the other.
    assert small.prompt.depth <= 2
    assert small.visual.depth <= 4
    own = config.read(fdbpl_folder.get_config(learner))
    assert (own.data.dataset, own.data.split, own.learner) == ("folder", "all", learner)
    if learner in fdbpl_learners.CROSS:
        fdbpl_caltech101.get_config(learner).update_from_flattened_dict(
            fdbpl_learners.CROSS[learner]
        )


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_embedded_student_has_the_blocks_and_knows_the_words_of_every_learner(learner):
    settings = config.read(fdbpl_world.get_config(learner).to_dict())
    student = towers.load(settings.student)
    sentences = templates.resolve(settings.data.templates, own="a photo of a {}.")
    starts = [settings.prompt.context_init, settings.prompt.negative_init, settings.prompt.words]
    for text in (*starts, *(sentence.format("red striped circle") for sentence in sentences)):
        assert student.tokenizer.encode(text) or not text
    assert settings.prompt.depth <= student.config.text.layers
    assert settings.visual.depth <= student.config.vision.layers


def test_recipes_that_do_not_exist():
    for module in (fdbpl_caltech101, fdbpl_world):
        with pytest.raises(ValueError, match=r"mapel.*maple"):
            module.get_config("mapel")
    with pytest.raises(ValueError, match="or one of each"):
        fdbpl_caltech101.get_config("maple+vpt")


def test_methods_that_were_learners_say_what_they_are_now():
    with pytest.raises(
        ConfigError, match=r"config.learner=kgcoop and config.method=ce, or another"
    ):
        config.read({**LOOKUP, "method": "kgcoop"})
    with pytest.raises(ConfigError, match=r"config.method='cop': expected one of zeroshot, ce"):
        config.read({**LOOKUP, "method": "cop", "learner": "mapel"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner": "maple", "data": {"source": "features"}}, "learns visual prompts"),
        ({"learner": "vpt", "data": {"source": "grow"}}, "set data.source=images"),
        ({"learner": "ivlp", "data": {"resident": "True"}}, "labels stay usable"),
        ({"learner": "promptkd"}, "set config.loss.dual=False, or method=kdpl"),
        ({"learner": "promptkd", "method": "ce"}, "set config.method=kdpl"),
        ({"learner": "promptkd", "method": "kdpl", "batch_size": 1}, "normalises over the batch"),
        ({"learner": "cocoop", "prompt": {"depth": 2}}, "set config.prompt.depth=1"),
        ({"learner": "cocoop", "loss": {"pcd_unit": True}}, "set pcd_unit=False"),
        (
            {
                "learner": "maple",
                "prompt": {"class_specific": True},
                "data": {"split": "all"},
            },
            "set class_specific=False",
        ),
        (
            {
                "learner": "vpt",
                "method": "ce",
                "prompt": {"class_specific": True, "class_token_position": "front"},
                "data": {"split": "all"},
            },
            r"class_specific=True and config.prompt.class_token_position=front .* no text is learned",
        ),
        ({"data": {"transductive": True}, "method": "ce"}, "hard labels of the new classes"),
        ({"data": {"transductive": True, "split": "all"}}, "no classes are held out"),
        ({"data": {"templates": ("a photo", "imagenet_8")}}, "did you mean imagenet_80"),
        ({"average": {"std": 0.0}}, "expected more than 0 epochs"),
        ({"visual": {"tokens": 0}}, "config.visual.tokens=0: expected at least 1"),
    ],
)
def test_what_a_learner_has_no_meaning_for(changes, words):
    with pytest.raises(ConfigError, match=words):
        config.read({**LOOKUP, "regions_per_visit": 1, **changes})
    # Nothing is learned, so nothing is in the way.
    if not {"templates", "std", "tokens", "class_specific"} & {
        name for group in changes.values() if isinstance(group, dict) for name in group
    }:
        config.read({**LOOKUP, "regions_per_visit": 1, **changes, "method": "zeroshot"})
