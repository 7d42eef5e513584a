"""From a ConfigDict to frozen dataclasses: every unknown key, wrong type and impossible value in one message.

A method's config.py declares its settings as (nested) frozen keyword-only dataclasses; `read` fills them. Keys are named
as a user types them, "config.group.key", in every error.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import ml_collections

Settings = TypeVar("Settings")
Choices = Mapping[str, tuple[str, ...]]

# Entries of the same ConfigDict that other parts read: the loop's options, and which task this is.
_FOREIGN = ("task", "fit")

DTYPES = ("auto", "float32", "bfloat16", "parity")
"""What `config.dtype` may be."""


class ConfigError(ValueError):
    """Settings that cannot be used; one line per problem."""


def read(
    kind: type[Settings],
    config: ml_collections.ConfigDict | Mapping[str, Any],
    *,
    choices: Choices,
    at_least: Mapping[str, float],
    impossible: Callable[[Settings], Iterable[str]],
) -> Settings:
    """Settings from a ConfigDict or any nested mapping; keys that are absent keep their defaults.

    Args:
      kind: the dataclass; fields that are dataclasses are groups of keys.
      config: the values. "task" and "fit" are not looked at.
      choices: "group.key" to the values it may have.
      at_least: "group.key" to the smallest number it may be.
      impossible: what is of the right type and still makes no sense, one line each; called when all else is right.

    Raises:
      ConfigError: unknown keys (with the nearest known one), wrong types and impossible values, all in one message.
    """
    problems: list[str] = []
    values = {name: config[name] for name in config if name not in _FOREIGN}
    settings = _read(kind, values, "", choices, problems)
    if not problems:
        problems += _out_of_range(settings, choices, at_least)
        problems += impossible(settings)
    if problems:
        raise ConfigError("the configuration cannot be used:\n  " + "\n  ".join(problems))
    return settings


def compute_dtype(setting: str = "auto") -> str:
    """What networks compute in, a dtype's name, by one of `DTYPES`.

    "auto" is bfloat16 on accelerators and float32 on CPUs. "parity" is float32, and from here on the whole process computes
    matrix products and convolutions in all of it: TPUs multiply float32 as bfloat16 otherwise, recent GPUs as TF32. Then
    an accelerator gives the CPU's numbers up to the order of sums.
    """
    if setting == "parity":
        jax.config.update("jax_default_matmul_precision", "highest")
        return "float32"
    if setting != "auto":
        return setting
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _out_of_range(settings: Any, choices: Choices, at_least: Mapping[str, float]) -> list[str]:
    def get(key: str) -> Any:
        value = settings
        for part in key.split("."):
            value = getattr(value, part)
        return value

    return [
        f"config.{key}={get(key)!r}: expected one of {', '.join(allowed)}"
        for key, allowed in choices.items()
        if get(key) not in allowed
    ] + [
        f"config.{key}={get(key)!r}: expected at least {low}"
        for key, low in at_least.items()
        if not get(key) >= low
    ]


def _read(
    kind: type, values: Mapping[str, Any], prefix: str, choices: Choices, problems: list[str]
) -> Any:
    hints = typing.get_type_hints(kind)
    known = {}
    for name in values:
        value, full = values[name], f"config.{prefix}{name}"
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.0)
            problems.append(
                f"{full}={value!r}: there is no such key; the nearest is config.{prefix}{near[0]}"
            )
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(value, Mapping) or hasattr(value, "to_dict"):
                known[name] = _read(hints[name], value, f"{prefix}{name}.", choices, problems)
            else:
                problems.append(f"{full}={value!r}: expected a group of values")
        else:
            known[name] = _typed(hints[name], value, full, choices, problems)
    if problems:  # The dataclass's own checks expect the right types.
        return None
    try:
        return kind(**known)
    except ValueError as error:
        problems.append(f"config.{prefix.removesuffix('.')}: {error}")
        return None


def _typed(hint: Any, value: Any, full: str, choices: Choices, problems: list[str]) -> Any:
    """The value as its declared type; integers pass for numbers, lists for tuples, True for "True"."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    hint = options[0]
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            problems.append(f"{full}={value!r}: expected one of {', '.join(map(str, allowed))}")
        return value
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if items[-1] is Ellipsis and isinstance(value, (tuple, list)):
            items = items[:1] * len(value)
        if isinstance(value, (tuple, list)) and len(value) == len(items):
            return tuple(
                _typed(item, part, f"{full}[{i}]", choices, problems)
                for i, (item, part) in enumerate(zip(items, value, strict=True))
            )
        count = "a tuple of" if items[-1] is Ellipsis else f"{len(items)}"
        problems.append(f"{full}={value!r}: expected {count} numbers")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, bool) and "True" in choices.get(full[7:], ()):
        return str(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        meaning = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
        problems.append(f"{full}={value!r}: expected {meaning[hint]}")
    return value
