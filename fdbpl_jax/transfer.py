"""Judging a trained run on another data set: cross-dataset transfer and domain generalisation.

The protocols of CoOp and CoCoOp (arXiv 2109.01134, 2203.05557): what was learned on one data set is applied, unchanged, to
the test pictures of another one and to all of its own class names. Nothing is trained, so labels of the other data set
are only counted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fdbpl_jax import config as configs
from fdbpl_jax import datasets, evaluate
from fdbpl_jax.inputs import Inputs, text_plans

PART = "all"
"""The only part of the classes there is here: all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A data set to judge on.

    Attributes:
      name: what results call it.
      dataset: the reader, one of `datasets.NAMES`.
      root: what the reader is given.
      template: sentence with one {} that replaces the data set's own, where classes stand in a fixed sentence; "": none.
    """

    name: str
    dataset: str
    root: str
    template: str = ""

    def read(self) -> datasets.Dataset:
        """Its lists and class names.

        Raises:
          DatasetError: listing everything that is wrong with it.
        """
        return datasets.read(self.dataset, self.root, template=self.template or None)


def check(targets: Sequence[Target]) -> None:
    """Read the lists of some data sets, so that what is missing is known before anything is trained.

    Raises:
      DatasetError: the problems of all of them.
    """
    problems = []
    for target in targets:
        try:
            if not target.read().test:
                problems.append(f"data set {target.name!r} below {target.root}: no test pictures")
        except datasets.DatasetError as error:
            problems.append(str(error))
    if problems:
        raise datasets.DatasetError("\n".join(problems))


def check_prompts(config: configs.Config, targets: Sequence[Target]) -> None:
    """Refuse a configuration whose prompts will say nothing about the classes of other data sets.

    Raises:
      ConfigError: it learns a context for each of its own classes.
    """
    if targets and config.prompt.class_specific and config.trained:
        raise configs.ConfigError(
            f"config.prompt.class_specific=True: a context per class of {config.data.dataset} says nothing about the "
            f"classes of {', '.join(target.name for target in targets)}; train with class_specific=False to judge on other "
            "data sets"
        )


def open_target(inputs: Inputs, target: Target) -> Inputs:
    """The inputs of a run with another data set in the place of what it is judged on.

    Args:
      inputs: of the trained run.
      target: the other data set.

    Returns:
      Inputs whose only part is `PART`: all classes of the target. Models, settings and what was trained on stay.

    Raises:
      ConfigError: the run learned a context for each of its own classes.
      DatasetError: the data set cannot be read.
      PromptError: a class name is too long for the prompt.
    """
    config = inputs.config
    check_prompts(config, [target])
    # Pictures that settings are chosen by are the training set's; another data set is judged by its test pictures.
    data = dataclasses.replace(
        config.data,
        dataset=target.dataset,
        root=target.root,
        template=target.template,
        split=PART,
        judge="test",
    )
    config, dataset = dataclasses.replace(config, data=data), target.read()
    learned = config.signs or not config.trained
    plans = text_plans(config, inputs.student, {PART: dataset.classes}) if learned else {}
    return dataclasses.replace(
        inputs, config=config, parts={PART: dataset}, plans={**inputs.plans, **plans}
    )


def result_lines(
    values: Mapping[str, Any],
    inputs: Inputs,
    target: Target,
    metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What results.jsonl says of a run on another data set, as `evaluate.result_lines` does of its own.

    Args:
      values: the run's configuration, as it was trained.
      inputs: from `open_target`.
      target: the data set.
      metrics: of an `evaluate.Judge` of these inputs.

    Returns:
      One line; `dataset` is the target's name, `dataset_digest` the target's, all else as in the run's own lines.
    """
    pins = dict(inputs.pins) | {"dataset": inputs.parts[PART].digest}
    lines = evaluate.result_lines(values, metrics, pins)
    return [{**line, "dataset": target.name, "pictures": "test"} for line in lines]
