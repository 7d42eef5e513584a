"""Published recipes of prompt learners at CLIP ViT-B/16, as changes of a configuration; used by the other fdbpl_*.py.

python -m launch.train --config=configs/fdbpl_world.py:maple --workdir=runs/maple
python -m launch.train --config=configs/fdbpl_caltech101.py:l14_b16+promptsrc --workdir=runs/promptsrc --config.method=fdbpl

Numbers are those of the authors' configuration files and scripts for base to new classes: how many vectors stand where,
learning rate, pictures a step, epochs, weights. All use SGD with a cosine schedule, a first epoch at 1e-5, and one crop a
picture and visit of 8 to 100 % of its area. Other protocols' numbers (one run on ImageNet for other data sets) are in CROSS.

Where that leaves a choice:
- coop: its own paper's few-shot runs, 16 vectors from noise. The base-to-new numbers that others print for it are CoCoOp's
  runs of it, with --config.prompt.context=4 --config.prompt.context_init="a photo of a".
- prograd: 16 vectors that end with the words; its authors take 4 shots and an RN50, and each data set's own words.
- ivlp: as in PromptSRC's repository; MaPLe's has 2 + 2 vectors in 12 blocks, lr 3.5e-3, 5 epochs.
- promptkd: its teacher is learned first, by PromptSRC; here it is the teacher that the configuration names.
"""

import ml_collections

_WORDS = {"prompt.context": 4, "prompt.context_init": "a photo of a", "prompt.depth": 1}
_NOISE = {"prompt.context": 16, "prompt.context_init": "", "prompt.negative_init": ""}
# Zeros, and the words behind them.
_ENDING = {
    "prompt.context": 16,
    "prompt.context_init": "... a photo of a",
    "prompt.negative_init": "... a photo of no",
}
# Independent text and visual prompts, 4 each in the first 9 blocks.
_BOTH = {**_WORDS, "prompt.depth": 9, "visual.tokens": 4, "visual.depth": 9}

# learner -> (method, numbers of its structure and of its loss, numbers of its training)
_PUBLISHED: dict[str, tuple[str, dict, dict]] = {
    "coop": ("ce", _NOISE, {"lr": 2e-3, "batch_size": 32, "epochs": 200}),
    "cocoop": ("ce", _WORDS, {"lr": 2e-3, "batch_size": 1, "epochs": 10}),
    "kgcoop": (
        "ce",
        {**_WORDS, "loss.kgcoop_weight": 8.0},
        {"lr": 2e-3, "batch_size": 128, "epochs": 100},
    ),
    "prograd": (
        "ce",
        # 0.8 for Flowers102, DTD and EuroSAT at 8 and 16 shots.
        {**_ENDING, "loss.prograd_lambda": 1.0},
        {"lr": 2e-3, "batch_size": 32, "epochs": 100},
    ),
    "vpt": (
        "ce",
        {"visual.tokens": 8, "visual.depth": 12, "prompt.depth": 1},
        {"lr": 2.5e-3, "batch_size": 4, "epochs": 5},
    ),
    "ivlp": ("ce", _BOTH, {"lr": 2.5e-3, "batch_size": 4, "epochs": 20}),
    "maple": (
        "ce",
        {
            "prompt.context": 2,
            "prompt.context_init": "a photo",
            # FDBPL's, in the same sentence: "no photo of a".
            "prompt.negative_init": "no photo",
            "prompt.words": "of a",
            "prompt.depth": 9,
        },
        {"lr": 3.5e-3, "batch_size": 4, "epochs": 5},
    ),
    "promptsrc": (
        "ce",
        {
            **_BOTH,
            "data.templates": ("promptsrc_60",),
            "loss.promptsrc_text": 25.0,
            "loss.promptsrc_image": 10.0,
            "loss.promptsrc_logits": 1.0,
            "average.mean": 15.0,
            "average.std": 1.0,
        },
        {"lr": 2.5e-3, "batch_size": 4, "epochs": 20},
    ),
    "promptkd": (
        "kdpl",
        {
            "visual.tokens": 4,
            "visual.depth": 9,
            "prompt.depth": 1,
            # 200 for FGVC-Aircraft, Oxford Flowers and DTD.
            "loss.kd_weight": 1000.0,
            "loss.kl": (1.0, 0.0),
        },
        {
            "lr": 5e-3,
            "batch_size": 8,
            "epochs": 20,
            # Pictures of all classes, all there are, without their labels.
            "data.transductive": True,
            "data.shots": 0,
        },
    ),
}

RECIPES: dict[str, dict] = {
    name: {
        "learner": name,
        "method": method,
        **structure,
        **training,
        "regions_per_visit": 1,
        "warmup_lr": 1e-5,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    for name, (method, structure, training) in _PUBLISHED.items()
}
"""Learner to what its recipe changes, by dotted key."""

CROSS: dict[str, dict] = {
    "coop": {
        "prompt.context": 4,
        "prompt.context_init": "a photo of a",
        "prompt.negative_init": "a photo of no",
        "epochs": 50,
    },
    "prograd": {"epochs": 50},
    "maple": {"prompt.depth": 3, "lr": 2.6e-3, "epochs": 2},
    "promptsrc": {
        "prompt.depth": 3,
        "visual.depth": 3,
        "average.mean": 6.0,
        "average.std": 10.0,
    },
    "promptkd": {"visual.depth": 3},
}
"""What the authors change of it for cross-dataset transfer and domain generalisation: trained on ImageNet, all classes.
PromptKD's authors train on each target's own pictures instead, without labels: data.split=all there."""

# Blocks of students that are not as deep as the published ones: (text, image).
_BLOCKS = {"world:student": (2, 4), "world:teacher": (2, 6)}
# And their sentences: they know the 55 words of these captions and class names.
_SENTENCES = (
    "a photo of a {}.",
    "a {}.",
    "a picture of a {}.",
    "an image of one {}.",
    "there is a {} in the picture.",
    "a scene with a {}.",
    "this is a {}.",
)


def structure(name: str, student: str = "") -> dict:
    """What a learner is made of and supervised with, by dotted key, without the numbers of its training.

    Args:
      name: a learner of RECIPES.
      student: if given, made to fit it; see `within`.

    Raises:
      ValueError: there is no such learner.
    """
    method, own, training = _PUBLISHED[_known(name)]
    pictures = {key: training[key] for key in ("data.transductive",) if key in training}
    return within({"learner": name, "method": method, **own, **pictures}, student)


def within(changes: dict, student: str) -> dict:
    """The same changes, made to fit the embedded world's small towers: no more blocks than they have, sentences in their words."""
    if student not in _BLOCKS:
        return dict(changes)
    text, image = _BLOCKS[student]
    limits = {"prompt.depth": min(text, image), "visual.depth": image}
    found = {
        key: min(value, limits[key]) if key in limits else value for key, value in changes.items()
    }
    if "data.templates" in found:
        found["data.templates"] = _SENTENCES
    return found


def apply(config: ml_collections.ConfigDict, name: str, *, recipe: bool = True) -> None:
    """Make a configuration that of a learner, in place.

    Args:
      config: a complete one.
      name: a learner of RECIPES.
      recipe: also take the published numbers of its training; else those of the configuration stay.

    Raises:
      ValueError: there is no such learner.
    """
    changes = structure(name) if not recipe else RECIPES[_known(name)]
    config.update_from_flattened_dict(within(changes, str(config.student)))


def _known(name: str) -> str:
    if name not in _PUBLISHED:
        raise ValueError(f"{name!r} is no learner; there are {', '.join(_PUBLISHED)}")
    return name
