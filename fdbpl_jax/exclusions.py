"""Settings that exclude each other, each in a line that says what to do about it; `config.read` lists them all."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fdbpl_jax import templates

if TYPE_CHECKING:
    from fdbpl_jax.config import Config


def numbers(config: "Config") -> Iterator[str]:
    """Numbers and sentences that make no sense together, whatever is learned."""
    loss, data, lookup = config.loss, config.data, config.lookup
    low, high = loss.weight_range
    if not 0 <= low < high <= 1:
        yield f"config.loss.weight_range={loss.weight_range}: expected 0 <= low < high <= 1"
    if min(loss.kl) < 0 or sum(loss.kl) <= 0:
        yield f"config.loss.kl={loss.kl}: expected two weights >= 0 that are not both 0"
    if loss.recover == "renormalise" and loss.kl[1] != 0:
        yield (
            f"config.loss.kl={loss.kl} with recover=renormalise: the reverse KL takes the log of 0 there; "
            "set config.loss.kl=(1.0, 0.0) or recover=spread"
        )
    if not 0 < lookup.scale[0] <= lookup.scale[1] <= 1:
        yield f"config.lookup.scale={lookup.scale}: expected 0 < low <= high <= 1"
    if config.batch_size % config.regions_per_visit:
        yield (
            f"config.batch_size={config.batch_size}: not a multiple of regions_per_visit={config.regions_per_visit}"
        )
    if lookup.regions % config.regions_per_visit:
        yield (
            f"config.lookup.regions={lookup.regions}: not a multiple of regions_per_visit={config.regions_per_visit}"
        )
    if config.prompt.class_specific and data.split != "all":
        yield (
            f"config.prompt.class_specific=True with config.data.split={data.split}: a context per class says nothing "
            "about unseen classes; set config.data.split=all"
        )
    if data.template and data.template.count("{}") != 1:
        yield f"config.data.template={data.template!r}: expected a sentence with one {{}}"
    for problem in templates.problems(data.templates):
        yield f"config.data.templates: {problem}"
    if config.average.std <= 0:
        yield f"config.average.std={config.average.std}: expected more than 0 epochs"


def sources(config: "Config") -> Iterator[str]:
    """Method, learner, teacher and data source."""
    data = config.data
    if not config.trained:
        return
    if config.stored_labels and config.fresh:
        yield "config.data.fresh=True: the lookup has labels for its own regions only; set teacher_source=online"
    if data.source == "features" and (config.online or config.fresh):
        yield (
            "config.data.source=features: features are stored for the lookup's regions and for the student only; "
            "fresh regions and an online teacher need data.source=images"
        )
    if config.grows and not config.stored_labels:
        yield (
            f"config.data.source=grow: method={config.method} with teacher_source={config.teacher_source} reads no labels "
            "of a lookup; set data.source=auto"
        )
    if data.resident == "True" and (
        config.online or data.source in ("images", "grow") or config.fresh
    ):
        yield "config.data.resident=True: only the lookup's labels and features can lie on the device; set it to auto"
    if not config.frozen_pictures:
        for key in ("source=features", "source=grow", "resident=True"):
            name, value = key.split("=")
            if getattr(data, name) == value:
                yield (
                    f"config.data.{key}: features were cached for a frozen image tower, but this student learns visual "
                    f"prompts (learner={config.learner}): set data.source=images; the lookup's labels stay usable"
                )
    if config.needs_lookup and not config.lookup.dir:
        yield "config.lookup.dir is empty: name the folder of the lookup (python -m launch.lookup build makes it)"
    if data.transductive and data.split != "base":
        yield (
            f"config.data.transductive=True with config.data.split={data.split}: no classes are held out whose pictures "
            "could be added; set config.data.split=base, or transductive=False"
        )
    if data.transductive and not config.distilled:
        yield (
            f"config.data.transductive=True with config.method={config.method}: hard labels of the new classes would be "
            "trained on; set config.method=kdpl or fdbpl"
        )


def learners(config: "Config") -> Iterator[str]:
    """What a learner has no meaning for."""
    learns, prompt = config.learns, config.prompt
    if not config.trained:
        return
    if not config.signs:
        fixed = [f"class_specific={prompt.class_specific}"] if prompt.class_specific else []
        if prompt.class_token_position != "end":
            fixed.append(f"class_token_position={prompt.class_token_position}")
        if fixed:
            yield (
                f"config.prompt.{' and config.prompt.'.join(fixed)} with learner={config.learner}, "
                f"method={config.method}: no text is learned; leave class_specific=False and class_token_position=end"
            )
    if learns.conditional:
        if prompt.class_specific:
            yield (
                f"config.prompt.class_specific=True with learner={config.learner}: its context already differs by "
                "picture; set class_specific=False"
            )
        if prompt.depth > 1:
            yield (
                f"config.prompt.depth={prompt.depth} with learner={config.learner}: the picture moves the context alone; "
                "set config.prompt.depth=1"
            )
        if config.effective_loss.dual and config.loss.pcd != "off" and config.loss.pcd_unit:
            yield (
                f"config.loss.pcd_unit=True with learner={config.learner}: two classes have no one difference vector, "
                "every picture has its own; set pcd_unit=False"
            )
    if learns.coupled and prompt.class_specific:
        yield (
            f"config.prompt.class_specific=True with learner={config.learner}: pictures have no class yet when visual "
            "prompts are made from its context; set class_specific=False"
        )
    if learns.projector:
        if not config.distilled:
            yield (
                f"config.method={config.method} with learner={config.learner}: it learns the teacher's space from the "
                "teacher's labels; set config.method=kdpl"
            )
        if config.effective_loss.dual:
            yield (
                f"config.method={config.method} with learner={config.learner}: the negative prompt is a text of the student, "
                "and classes are the teacher's; set config.loss.dual=False, or method=kdpl"
            )
        if config.batch_size < 2:
            yield (
                f"config.batch_size={config.batch_size} with learner={config.learner}: the projector normalises over the "
                "batch; set 2 or more"
            )
