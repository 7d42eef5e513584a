"""The lines of results.jsonl: what a run was, beside what came out of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fdbpl_jax import config as configs
from fdbpl_jax import learners, lookup, text

# Whose weights the first word of a key of the loss says; the others are the distillation's.
_WEIGHED = {*learners.REGULARISERS, "kd"}


def result_lines(
    config: Mapping[str, Any], metrics: Mapping[str, float], pins: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What results.jsonl says of one evaluation: a dict for each part that was judged.

    Args:
      config: the run's configuration.
      metrics: from the task's `evaluate`.
      pins: the task's.

    Returns:
      Lines with method, dataset, split, pictures, fewshot_seed, shots, setting, accuracy, correct, total, train_classes,
      student, teacher, their digests, lookup_digest, fewshot_digest, dataset_digest, text_mode, switches and
      seconds_build. What the run adds (seed, steps, seconds_train, device, versions, git) is `launch`'s.
    """
    settings = configs.read(config)
    prompt, trained = settings.prompt, settings.trained
    uses_lookup = settings.needs_lookup and "lookup" in pins
    shared = {
        "method": settings.label,
        "dataset": settings.data.dataset,
        "pictures": settings.data.judge,
        "shots": settings.data.shots,
        "fewshot_seed": settings.data.seed,
        "setting": "transductive" if trained and settings.data.transductive else "inductive",
        "train_classes": int(pins["train_classes"]) if trained else 0,
        "student": settings.student,
        "teacher": settings.teacher if settings.distilled else None,
        "student_digest": pins["student"],
        "teacher_digest": pins.get("teacher") if settings.distilled else None,
        "lookup_digest": pins["lookup"] if uses_lookup else None,
        "fewshot_digest": pins["fewshot"] if trained else None,
        "dataset_digest": pins["dataset"],
        "text_mode": text.choose_mode(
            prompt.text_mode, prompt.class_token_position == "end" and not prompt.class_specific
        )
        if trained and settings.signs
        else "template",
        "switches": _templates(settings) | (_switches(settings) if trained else {}),
        # An online teacher takes the lookup's boxes at most, which cost nothing to draw.
        "seconds_build": lookup.seconds_build(settings.lookup.dir)
        if uses_lookup and not settings.online
        else None,
    }
    parts = [name.removesuffix("/total") for name in metrics if name.endswith("/total")]
    return [
        shared
        | {
            "split": part,
            "accuracy": metrics[f"{part}/accuracy_percent"],
            "correct": int(metrics[f"{part}/correct"]),
            "total": int(metrics[f"{part}/total"]),
        }
        for part in parts
    ]


def _templates(settings: configs.Config) -> dict[str, Any]:
    """The sentences that are averaged, where the frozen student is asked in more than its data set's own."""
    learns, given = settings.learns, settings.data.templates
    fixed = not learns.text and not learns.projector
    asked = not settings.trained or fixed or learns.regularisers
    return {"templates": list(given)} if given and asked else {}


def _switches(settings: configs.Config) -> dict[str, Any]:
    """Everything that distinguishes one trained run from another, as plain values."""
    learns = settings.learns
    chosen = {"learner": settings.learner, **dataclasses.asdict(settings.prompt)}
    if learns.visual and not learns.coupled:
        chosen |= {f"visual_{name}": n for name, n in dataclasses.asdict(settings.visual).items()}
    if learns.average:
        chosen |= {f"average_{name}": n for name, n in dataclasses.asdict(settings.average).items()}
    own = {*learns.regularisers, *(("kd",) if learns.projector else ())}
    for name, value in dataclasses.asdict(settings.effective_loss).items():
        whose = name.split("_")[0]
        if whose in own if whose in _WEIGHED else settings.distilled:
            chosen[name] = value
    chosen |= {"fresh": settings.fresh, "regions_per_visit": settings.regions_per_visit}
    if settings.data.dictionary:
        chosen["dictionary_top"] = settings.data.dictionary_top
    return chosen
