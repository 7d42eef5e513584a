"""Everything a run reads before its first step: student, pictures, class lists, text plans, lookup or online teacher.

`open_inputs` opens and checks all of it and pins it by digest; the task, the evaluation and the prediction are functions
of what it returns.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float

from core_jax import clip
from core_jax.data import files
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, dictionary, grow, prompts, target, templates, text, towers
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
      plans: how text features are computed, for each of `parts` and for "train"; empty where no text is learned.
      source: where regions come from, one of `data.SOURCES`; None when nothing is trained.
      lookup: opened, where it is read; of one that grows, its head.
      growing: the lookup, where it is labelled as it is read.
      teacher: the model, where it runs online.
      namer: the model whose text features are the classes, where the learned context does not say them: the student
        (VPT), or the teacher (PromptKD).
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
    namer: clip.Clip | None = None

    def dataset(self, part: str) -> datasets.Dataset:
        """The data set of a part, or of "train"."""
        return self.train if part == "train" else self.parts[part]

    def templates(self, part: str) -> tuple[str, ...]:
        """The sentences in which the frozen student is told a part's classes."""
        return templates.resolve(self.config.data.templates, own=self.dataset(part).template)


def open_inputs(config: configs.Config) -> Inputs:
    """Open and check everything a run depends on.

    Raises:
      ValueError: data set, prompts, lookup or model cannot be used; each kind lists all of its problems.
    """
    data = config.data
    full = datasets.read(data.dataset, data.root, template=data.template or None)
    chosen = datasets.few_shot(full, data.shots, data.seed)
    if config.trained:
        target.check_pictures(full, data.root)
    train = dictionary.label_space(config, datasets.half(chosen, data.train_split))
    names = ("base", "new") if data.split == "base" else (data.split,)
    parts = {name: datasets.half(chosen, name) for name in names}
    load = functools.cache(towers.load)
    student = load(config.student)
    student_digest = clip.weights_digest(student.params)
    classes = {"train": train.classes} | _classes(parts)
    plans = text_plans(config, student, classes) if config.signs or not config.trained else {}
    pins = {
        "student": student_digest,
        "dataset": full.digest,
        "fewshot": datasets.list_digest(train.train),
        "classes": files.digest(list(train.classes)),
        "train_classes": str(len(train.classes)),
    }
    teacher = lookup = growing = source = None
    if config.trained:
        source = "fresh"
        teacher = _teacher(config, load) if config.distilled and not config.grows else None
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
        way = _describe(plans["train"], config, student) if plans else "classes are fixed features"
        logging.info("regions come from %s; %s", source, way)
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
        namer=namer(config, student, load),
    )


def namer(
    config: configs.Config, student: clip.Clip, load: Callable[[str], clip.Clip]
) -> clip.Clip | None:
    """`Inputs.namer`; `load` opens the teacher by its name."""
    if not config.trained or config.learns.text:
        return None
    return load(config.teacher) if config.learns.projector else student


def named(
    config: configs.Config, model: clip.Clip, names: Sequence[str], template: str
) -> Float[np.ndarray, "C D"]:
    """The classes as the namer says them: the teacher in the data set's sentence, the student in VPT's or the chosen ones."""
    if config.learns.projector:
        sentences: tuple[str, ...] = (template,)
    elif config.data.templates:
        sentences = templates.resolve(config.data.templates, own=template)
    else:
        sentences = (clip.zeroshot.TEMPLATE,)
    return text.template_features(model, names, sentences)


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
            words=prompt.words,
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


def _teacher(config: configs.Config, load: Callable[[str], clip.Clip]) -> clip.Clip | None:
    """The teacher, to run or to compare its digest with the lookup's; None where only its name can be compared."""
    local = config.teacher.startswith("world:") or pathlib.Path(config.teacher).is_dir()
    if config.online or config.learns.projector or local:
        return load(config.teacher)
    # Reading a lookup needs no teacher, and none is downloaded to compute a digest.
    return None


def _expected(
    config: configs.Config,
    train: datasets.Dataset,
    student_digest: str,
    teacher: clip.Clip | None,
    teacher_digest: str | None,
) -> lookups.Expected:
    labels = config.stored_labels
    images = config.online or not config.frozen_pictures
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
        source="images" if images else config.data.source,
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
    tower, sets = student.config.text, len(config.signs)
    tokens = min(sets * plan.tokens, plan.max_tokens)
    memory = tokens * tower.layers * tower.width * _BYTES_PER_UNIT / 2**20
    sizes = ", ".join(f"{len(b.rows)} x {b.ids.shape[1]}" for b in plan.buckets)
    return (
        f"text tower {plan.mode}, classes x tokens {sizes}, {sets} prompt set(s): about {memory:.0f} MB of float32 "
        "activations per device (estimate)"
    )
