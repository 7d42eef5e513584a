"""Everything a run reads before its first step: student, pictures, class lists, text plans, lookup or online teacher.

`open_inputs` opens and checks all of it and pins it by digest; the task, the evaluation and the prediction are functions
of what it returns.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping

from absl import logging

from core_jax import clip
from core_jax.data import files
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, grow, prompts, target, text, towers
from fdbpl_jax import lookup as lookups

# A lookup up to this size lies on every device unless the config decides.
RESIDENT_BYTES = 2 * 2**30
# Measured at ViT-B text size: 0.34 MB of activations for each token of 12 layers of width 512, in float32.
_BYTES_PER_UNIT = 0.34e6 / (12 * 512)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What a run depends on.

    Attributes:
      config: the settings.
      student: its model.
      train: the training pictures and classes.
      parts: what is judged: {"base", "new"} after training on base, else the one part trained on.
      plans: how text features are computed, for each of `parts` and for "train".
      source: where regions come from, one of `data.SOURCES`; None when nothing is trained.
      lookup: opened, where it is read; of one that grows, its head.
      growing: the lookup, where it is labelled as it is read.
      teacher: the model, where it runs online.
      dtype: what the towers compute in.
      pins: digests of all of it.
    """

    config: configs.Config
    student: clip.Clip
    train: datasets.Dataset
    parts: Mapping[str, datasets.Dataset]
    plans: Mapping[str, text.Plan]
    source: str | None
    lookup: lookups.Lookup | None
    teacher: clip.Clip | None
    dtype: str
    pins: Mapping[str, str]
    growing: grow.Growing | None = None


def open_inputs(config: configs.Config) -> Inputs:
    """Open and check everything a run depends on.

    Raises:
      ValueError: data set, prompts, lookup or model cannot be used; each kind lists all of its problems.
    """
    data = config.data
    full = datasets.read(data.dataset, data.root, template=data.template or None)
    chosen = datasets.few_shot(full, data.shots, data.seed)
    train = datasets.half(chosen, data.split)
    names = ("base", "new") if data.split == "base" else (data.split,)
    parts = {name: datasets.half(chosen, name) for name in names}
    load = functools.cache(towers.load)
    student = load(config.student)
    student_digest = clip.weights_digest(student.params)
    plans = text_plans(config, student, {"train": train.classes} | _classes(parts))
    pins = {
        "student": student_digest,
        "dataset": full.digest,
        "fewshot": datasets.list_digest(train.train),
        "classes": files.digest(list(train.classes)),
        "train_classes": str(len(train.classes)),
    }
    teacher = lookup = growing = source = None
    if config.method != "zeroshot":
        source = "fresh"
        teacher = _teacher(config) if config.distilled and not config.grows else None
        if teacher is not None:
            pins["teacher"] = clip.weights_digest(teacher.params)
        if not config.fresh:
            expected = _expected(config, train, student_digest, teacher, pins.get("teacher"))
            if config.grows:
                growing = grow.open(target.growing(config, load), expected)
                lookup, source = growing.lookup, "grow"
            else:
                lookup = lookups.open(config.lookup.dir, expected)
                source = _source(config, lookup)
            pins["lookup"] = lookup.digest
            pins.setdefault("teacher", lookup.manifest["teacher"]["digest"])
        logging.info("regions come from %s; %s", source, _describe(plans["train"], config, student))
    return Inputs(
        config=config,
        student=student,
        train=train,
        parts=parts,
        plans=plans,
        source=source,
        lookup=lookup,
        teacher=teacher if config.teacher_source == "online" else None,
        dtype=towers.compute_dtype(config.dtype),
        pins=pins,
        growing=growing,
    )


def _classes(parts: Mapping[str, datasets.Dataset]) -> dict[str, tuple[str, ...]]:
    return {name: part.classes for name, part in parts.items()}


def text_plans(
    config: configs.Config, student: clip.Clip, classes: Mapping[str, tuple[str, ...]]
) -> dict[str, text.Plan]:
    """How the text features of several class lists are computed.

    Raises:
      PromptError: names whose prompt is too long, over all lists.
    """
    prompt, length = config.prompt, student.config.text.context_length

    def layout(names: tuple[str, ...]) -> prompts.Layout:
        return prompts.layout(
            names,
            student.tokenizer,
            context=prompt.context,
            position=prompt.class_token_position,
            context_length=length,
        )

    layout(tuple(dict.fromkeys(name for names in classes.values() for name in names)))
    return {
        part: text.plan(
            layout(names),
            mode=prompt.text_mode,
            class_specific=prompt.class_specific,
            context_length=length,
        )
        for part, names in classes.items()
    }


def _teacher(config: configs.Config) -> clip.Clip | None:
    """The teacher, to run or to compare its digest with the lookup's; None where only its name can be compared."""
    local = config.teacher.startswith("world:") or pathlib.Path(config.teacher).is_dir()
    if config.teacher_source == "online" or local:
        return towers.load(config.teacher)
    # Reading a lookup needs no teacher, and none is downloaded to compute a digest.
    return None


def _expected(
    config: configs.Config,
    train: datasets.Dataset,
    student_digest: str,
    teacher: clip.Clip | None,
    teacher_digest: str | None,
) -> lookups.Expected:
    online = config.distilled and config.teacher_source == "online"
    labels = config.stored_labels
    return lookups.Expected(
        items=train.train,
        root=train.root,
        classes=train.classes,
        template=train.template,
        teacher=config.teacher if labels else None,
        teacher_digest=teacher_digest if labels else None,
        logit_scale=math.exp(teacher.params["logit_scale"]) if labels and teacher else None,
        scale=config.lookup.scale,
        regions_per_visit=config.regions_per_visit,
        source="images" if online else config.data.source,
        student_digest=student_digest,
    )


def _source(config: configs.Config, lookup: lookups.Lookup) -> str:
    """Where the regions of a lookup are read from."""
    resident = config.data.resident
    if lookup.student is None:
        if resident == "True":
            raise configs.ConfigError(
                f"config.data.resident=True: {lookup.folder} stores no features of this student, and pictures do not "
                "lie on the device; run `python -m launch.lookup build` with --features, or set data.resident=auto"
            )
        return "images"
    if resident == "auto":
        return "resident" if lookup.nbytes <= RESIDENT_BYTES else "features"
    return "resident" if resident == "True" else "features"


def _describe(plan: text.Plan, config: configs.Config, student: clip.Clip) -> str:
    """The text tower's way, and about how much memory a step takes there."""
    tower, sets = student.config.text, 1 + config.effective_loss.dual
    tokens = min(sets * plan.tokens, plan.max_tokens)
    memory = tokens * tower.layers * tower.width * _BYTES_PER_UNIT / 2**20
    sizes = ", ".join(f"{len(b.rows)} x {b.ids.shape[1]}" for b in plan.buckets)
    return (
        f"text tower {plan.mode}, classes x tokens {sizes}, {sets} prompt set(s): about {memory:.0f} MB of float32 "
        "activations per device (estimate)"
    )
