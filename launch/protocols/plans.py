"""Which runs each protocol consists of: data set, classes and shots to train on, methods, and what they are judged on."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs import fdbpl_learners
from fdbpl_jax import learners
from fdbpl_jax.transfer import Target
from launch import config as config_lib
from launch.compare import Arm
from launch.config import ConfigError
from launch.protocols import sets

# One of ml_collections; its type does not say what its keys hold.
ConfigDict = Any
AGNOSTIC = "class_agnostic"
_TAUGHT = ("kdpl", "fdbpl")
_SENTENCE = "a photo of a {}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a command asks for; what is None or empty is the protocol's own choice.

    Attributes:
      config: the common configuration.
      workdir: of the protocol.
      arms: the rows.
      datasets: to train on.
      targets: further data sets to judge on.
      shots: pictures of each class, for the few-shot curve.
      dictionary: file of the class names that unlabelled pictures are described by.
      top: how many of them a batch is described by.
    """

    config: ConfigDict
    workdir: Path
    arms: tuple[Arm, ...]
    datasets: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    shots: tuple[int, ...] = sets.SHOTS
    dictionary: str = ""
    top: int = 1000

    @property
    def root(self) -> str:
        """Where the data sets lie."""
        return self.config.data.root

    @property
    def synthetic(self) -> bool:
        """Whether the configuration is the embedded world's."""
        return sets.is_synthetic(self.config.data.dataset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a protocol whose runs share data set and shots.

    Attributes:
      folder: of its runs.
      config: what they have in common.
      arms: its rows.
      targets: what each run is judged on beside its own data set.
    """

    folder: Path
    config: ConfigDict
    arms: tuple[Arm, ...]
    targets: tuple[Target, ...] = ()

    @property
    def own(self) -> Target:
        """The data set that is trained on."""
        data = self.config.data
        return Target(
            name=data.dataset, dataset=data.dataset, root=data.root, template=data.template
        )


def base_to_new(wishes: Wishes) -> list[Stage]:
    """Train on the base classes of each data set, judge on both halves (arXiv 2203.05557)."""
    own = (wishes.config.data.dataset,) if wishes.synthetic else sets.ELEVEN
    return [
        Stage(
            folder=wishes.workdir / name,
            config=_on(wishes, name, **{"data.split": "base"}),
            arms=wishes.arms,
        )
        for name in wishes.datasets or own
    ]


def cross_dataset(wishes: Wishes) -> list[Stage]:
    """Train on all classes of one data set, judge on all classes of others (arXiv 2203.05557)."""
    return _transfer(wishes, sets.WORLD_OTHERS if wishes.synthetic else sets.OTHERS)


def domain_generalisation(wishes: Wishes) -> list[Stage]:
    """The model of `cross_dataset` on the same classes in other styles: ImageNet's variants."""
    return _transfer(wishes, sets.WORLD_STYLES if wishes.synthetic else sets.VARIANTS)


def few_shot(wishes: Wishes) -> list[Stage]:
    """Train on all classes with few pictures of each, judge on all classes (arXiv 2109.01134)."""
    own = (wishes.config.data.dataset,) if wishes.synthetic else sets.ELEVEN
    stages = []
    for name in wishes.datasets or own:
        for number, shots in enumerate(wishes.shots):
            # Nothing is learned without training: once is enough.
            arms = tuple(
                arm
                for arm in wishes.arms
                if not number or _configured(wishes.config, arm).method != "zeroshot"
            )
            arms = tuple(_inductive(wishes.config, arm) for arm in arms)
            config = _on(wishes, name, **{"data.split": "all", "data.shots": shots})
            folder = wishes.workdir / name / f"shots{shots}"
            stages.append(Stage(folder=folder, config=config, arms=arms))
    return stages


def class_agnostic(wishes: Wishes) -> list[Stage]:
    """Train without class names (KDPL, arXiv 2407.03056), beside the same methods with them, and judge on the real names.

    Raises:
      ConfigError: there is no dictionary, or nothing that learns from a teacher.
    """
    if not wishes.dictionary:
        raise ConfigError(
            "--dictionary is missing: name a text file with a class name in each line, some thousands of them"
        )
    twins = [arm for arm in wishes.arms if _configured(wishes.config, arm).method in _TAUGHT]
    if not twins:
        listed = ", ".join(arm.label for arm in wishes.arms)
        raise ConfigError(
            f"--methods={listed}: none of them learns from a teacher, and without class names there are no labels; "
            f"name one of method={' or '.join(_TAUGHT)}"
        )
    targets, stages = tuple(sets.targets(wishes.targets, wishes.root)), []
    for name in wishes.datasets or (wishes.config.data.dataset,):
        config, folder = _on(wishes, name), wishes.workdir / name
        changes = {
            "data.dictionary": wishes.dictionary,
            "data.dictionary_top": wishes.top,
            # The data set's own sentence would say what its pictures are of.
            "data.template": config.data.template or _SENTENCE,
            "lookup.dir": str(folder / "lookup_dictionary"),
        }
        nameless = [Arm(f"{arm.label}+{AGNOSTIC}", {**arm.changes, **changes}) for arm in twins]
        arms = (*wishes.arms, *nameless)
        stages.append(Stage(folder=folder, config=config, arms=arms, targets=targets))
    return stages


PROTOCOLS: dict[str, Callable[[Wishes], list[Stage]]] = {
    "base_to_new": base_to_new,
    "cross_dataset": cross_dataset,
    "domain_generalisation": domain_generalisation,
    "few_shot": few_shot,
    AGNOSTIC: class_agnostic,
}


def own_arm(config: ConfigDict) -> Arm:
    """The configuration itself as a row, under the name that its result lines have."""
    # The folder of the lookup is only given later: the configuration is not whole yet.
    online = config.method in _TAUGHT and config.teacher_source == "online"
    return Arm(learners.label(config.method, config.learner, online=online), {})


def _transfer(wishes: Wishes, own: Sequence[str]) -> list[Stage]:
    names = wishes.datasets or (sets.WORLD if wishes.synthetic else sets.IMAGENET,)
    targets = sets.targets(wishes.targets or own, wishes.root)
    return [
        Stage(
            folder=wishes.workdir / name,
            config=_on(wishes, name, **{"data.split": "all"}),
            arms=tuple(
                _inductive(wishes.config, _crossing(wishes.config, arm)) for arm in wishes.arms
            ),
            targets=tuple(target for target in targets if target.name != name),
        )
        for name in names
    ]


def _crossing(config: ConfigDict, arm: Arm) -> Arm:
    """A row with what the authors of its learner change of their recipe for transfer, where it holds to that recipe."""
    own = _configured(config, arm)
    recipe = fdbpl_learners.RECIPES.get(own.learner, {})
    changes = fdbpl_learners.CROSS.get(own.learner, {})
    held = all(_value(own, key) == recipe.get(key) for key in changes)
    return Arm(arm.label, {**arm.changes, **changes}) if held and own.method != "zeroshot" else arm


def _inductive(config: ConfigDict, arm: Arm) -> Arm:
    """A row that is trained on all classes: there are no further ones whose pictures it could see."""
    if not _configured(config, arm).data.transductive:
        return arm
    return Arm(arm.label, {**arm.changes, "data.transductive": False})


def _configured(config: ConfigDict, arm: Arm) -> ConfigDict:
    return config_lib.override(config, arm.changes)


def _value(config: ConfigDict, key: str) -> Any:
    return functools.reduce(operator.getitem, key.split("."), config)


def _on(wishes: Wishes, name: str, **changes: Any) -> ConfigDict:
    """The common configuration on one data set; a template of another data set's does not move along."""
    data = wishes.config.data
    template = data.template if name == data.dataset else ""
    values = {"data.dataset": name, "data.template": template, **changes}
    return config_lib.override(wishes.config, values)
