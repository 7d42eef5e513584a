"""A dictionary as label space: unlabelled pictures described by names that were not chosen for them.

KDPL's class-agnostic setting (arXiv 2407.03056): the names of the training classes are unknown; the teacher describes
each picture by some thousands of names instead, and learned prompts are judged on the real names afterwards.
"""

import csv
from pathlib import Path

from fdbpl_jax import config as configs
from fdbpl_jax import datasets


def read(path: str | Path) -> tuple[str, ...]:
    """The names of a dictionary, in order, each once.

    Args:
      path: a text file with a name in each line, or a CSV file (*.csv) with a header, whose first column they are.

    Raises:
      ConfigError: there is no such file, or it holds fewer than two names.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise configs.ConfigError(
            f"config.data.dictionary={path}: expected a text file with a class name in each line ({error})"
        ) from error
    lines = text.splitlines()
    if path.suffix == ".csv":
        lines = [row[0] for row in csv.reader(lines[1:]) if row]
    names = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(names) < 2:
        raise configs.ConfigError(
            f"config.data.dictionary={path}: {len(names)} names; expected at least 2, one in each line"
        )
    return names


def label_space(config: configs.Config, train: datasets.Dataset) -> datasets.Dataset:
    """Training pictures in the label space that they are learned in: the dictionary's, where there is one.

    Args:
      config: of the run.
      train: its training pictures, with their own classes.

    Returns:
      The same pictures; with a dictionary its names are the classes, and a picture has the label of its own class's name
      or, where the dictionary does not have that name, -1. Labels are for reports: nothing is learned from them.

    Raises:
      ConfigError: the dictionary cannot be read, or the method needs class names.
    """
    if not config.data.dictionary or not config.trained:
        return train
    problems = []
    if not config.distilled:
        problems.append(
            f"config.data.dictionary with config.method={config.method}: without class names there are no labels to learn "
            "from; set config.method=kdpl or fdbpl"
        )
    if config.prompt.class_specific:
        problems.append(
            "config.data.dictionary with config.prompt.class_specific=True: a context per name of a dictionary says "
            "nothing about the real classes; set class_specific=False"
        )
    if problems:
        raise configs.ConfigError("\n".join(problems))
    return datasets.relabel(train, read(config.data.dictionary))
