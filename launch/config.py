"""Configurations on the command line: `--config=FILE [--config.group.key=value ...]`, and errors one can act on.

A configuration is a Python file with `get_config() -> ml_collections.ConfigDict`. Every value can be overridden on the
command line; a key that does not exist or a value of the wrong type ends the program with one line that names the key,
its value, what was expected and the nearest key, exit status 2, before anything is written.

Entry points end in `config.run(main)`.
"""

import copy
import difflib
import json
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from launch import messages

USAGE_STATUS = 2
"""Exit status of a command that was asked for something impossible."""

_TRACEBACK = flags.DEFINE_bool("traceback", False, "show where an error was raised")
_MEANING = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one line per problem."""


def define(default: str | None = None) -> flags.FlagHolder:
    """Define the flag `--config`. Called once, at the top of an entry point."""
    return config_flags.DEFINE_config_file("config", default, "configuration file")


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Read a configuration file and override some of its values.

    Args:
      path: a Python file with `get_config()`.
      overrides: "group.key=value" strings, as on the command line without the leading `--config.`.

    Returns:
      The locked ConfigDict.

    Raises:
      ConfigError: the file is missing or some overrides do not fit; all problems in one message.
    """
    path = str(path)
    _require_file(path)
    try:
        base = _parse(["config", f"--config={path}"], config_flags.DEFINE_config_file, None)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--config={path}: {error}") from error
    return _with_texts(base, overrides)


def parse_values(base: ml_collections.ConfigDict, texts: Mapping[str, str]) -> dict[str, Any]:
    """Values given as text, as the types that a configuration has: {"lr": "1"} -> {"lr": 1.0}.

    Raises:
      ConfigError: keys that do not exist or values of another type, all in one message.
    """
    parsed = _with_texts(base, [f"{key}={value}" for key, value in texts.items()])
    return {key: _value(parsed, key) for key in texts}


def override(
    base: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of a configuration with some values replaced: {"loss.lam_neg": 0.0}.

    Raises:
      ConfigError: keys that do not exist or values of another type, all in one message.
    """
    config = copy.deepcopy(base)
    problems = []
    for key, value in changes.items():
        try:
            config_type(base, key)
            config.update_from_flattened_dict({key: value})
        except KeyError:
            problems.append(_unknown_key(base, key, value))
        except TypeError:
            problems.append(_wrong_type(base, key, value))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def keys(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted names of all values of a configuration."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def config_type(config: ml_collections.ConfigDict, key: str) -> type:
    """The declared type of a dotted key.

    Raises:
      KeyError: there is no such key.
    """
    group, _, name = key.rpartition(".")
    holder = _value(config, group) if group else config
    if not isinstance(holder, ml_collections.ConfigDict) or name not in holder:
        raise KeyError(key)
    return holder.get_type(name)


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, ml_collections.ConfigDict) or part not in found:
            raise KeyError(key)
        found = found[part]
    return found


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values, as they come back from a file: tuples have become lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_workdir(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration that a work directory was trained with (its config.json).

    Raises:
      ConfigError: the folder holds no readable config.json.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"--workdir={workdir}: no config.json in it, so nothing was trained there; "
            "train with python -m launch.train --config=... --workdir=..."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); it was damaged after training") from error
    return ml_collections.ConfigDict(_tuples(values)).lock()


def run(
    main: Callable[[list[str]], Any],
    failures: Callable[[], tuple[type[Exception], ...]] = tuple,
    *,
    words: Sequence[str] = (),
) -> None:
    """Parse the flags, run `main(argv)` and exit with what it returns.

    Problems of the user's making (ValueError, OSError) end in their message and status 2.

    Args:
      main: called with what is left of the command line after the flags.
      failures: gives further exceptions that speak for themselves: their message and status 1, no trace. Asked only
        when something was raised, so that a bad flag costs no imports.
      words: the command takes exactly one of these words beside its flags; empty: it takes flags only.
    """
    # The name of the module as typed after python -m; sys.argv[0] is a path there.
    name = f"launch.{pathlib.Path(sys.argv[0]).stem}"
    app.run(
        lambda argv: _guarded(main, list(argv), name, failures, words),
        flags_parser=lambda argv: _flags(argv, name),
    )


def _guarded(
    main: Callable[[list[str]], Any],
    argv: list[str],
    name: str,
    failures: Callable[[], tuple[type[Exception], ...]],
    words: Sequence[str],
) -> Any:
    if words and (len(argv) != 2 or argv[1] not in words):
        given = " ".join(argv[1:]) or "nothing"
        _stop(name, [f"expected one of the words {', '.join(words)}; got {given}"])
    if not words and len(argv) > 1:
        _stop(name, [f"{text}: not a flag; flags start with --" for text in argv[1:]])
    messages.quiet()
    try:
        return _in_words(main, argv, name, failures)
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            from launch import rollcall

            rollcall.leave(error)
        raise


def _in_words(
    main: Callable[[list[str]], Any],
    argv: list[str],
    name: str,
    failures: Callable[[], tuple[type[Exception], ...]],
) -> Any:
    try:
        return main(argv)
    except Exception as error:
        # What the packages raise at their boundary about inputs and files; bugs are other types and keep their trace.
        failed = isinstance(error, failures())
        if not failed and not isinstance(error, (ValueError, OSError)):
            raise
        if _TRACEBACK.value:
            traceback.print_exc()
        hint = [] if _TRACEBACK.value else ["(--traceback shows where this was raised)"]
        _stop(name, [str(error), *hint], 1 if failed else USAGE_STATUS)


def _flags(argv: Sequence[str], name: str) -> list[str]:
    path, overrides = _split(argv)
    try:
        if path is not None:
            # config_flags keeps a missing file to itself until the configuration is first read.
            _require_file(path)
        return flags.FLAGS(list(argv))
    except ConfigError as problem:
        _stop(name, [str(problem)])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        try:
            if path is not None:
                load(path, overrides)
        except ConfigError as problem:
            _stop(name, str(problem).splitlines())
        _stop(name, [str(error)])


def _require_file(path: str) -> None:
    # FILE:ARGUMENT hands the argument to get_config.
    if not pathlib.Path(path.split(":", 1)[0]).is_file():
        raise ConfigError(f"--config={path}: there is no such file")


def _stop(name: str, lines: Sequence[str], status: int = USAGE_STATUS) -> NoReturn:
    for line in lines:
        print(f"{name}: {line}" if not line.startswith("(") else line, file=sys.stderr)
    sys.stderr.flush()
    sys.exit(status)


def _with_texts(base: ml_collections.ConfigDict, texts: Sequence[str]) -> ml_collections.ConfigDict:
    """A copy with "key=value" texts applied, as the command line applies them."""

    def apply(some: Sequence[str]) -> ml_collections.ConfigDict:
        argv = ["config", *(f"--config.{text}" for text in some)]
        return _parse(argv, config_flags.DEFINE_config_dict, copy.deepcopy(base))

    try:
        return apply(texts)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # The parser stops at the first problem and words it for programmers: try each text alone instead.
        problems = []
        for text in texts:
            key, _, value = text.partition("=")
            try:
                config_type(base, key)
                apply([text])
            except KeyError:
                problems.append(_unknown_key(base, key, value))
            except (flags.Error, AttributeError, TypeError, ValueError):
                problems.append(_wrong_type(base, key, value))
        raise ConfigError("\n".join(problems) or str(error)) from error


def _parse(argv: Sequence[str], define_flag: Callable[..., Any], default: Any) -> Any:
    values = flags.FlagValues()
    define_flag("config", default, flag_values=values, sys_argv=list(argv))
    values(list(argv))
    return values["config"].value


def _split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration file and the overrides among command line arguments, `--x=v` and `--x v` alike."""
    path, overrides, position = None, [], 1
    while position < len(argv):
        word, equals, value = argv[position].partition("=")
        name = word.lstrip("-") if word.startswith("-") else ""
        position += 1
        if name.startswith("noconfig."):
            overrides.append(f"{name.removeprefix('noconfig.')}=False")
        elif name == "config" or name.startswith("config."):
            if not equals and position < len(argv) and not argv[position].startswith("-"):
                value, position = argv[position], position + 1
            elif not equals:
                value = "True"
            if name == "config":
                path = value
            else:
                overrides.append(f"{name.removeprefix('config.')}={value}")
    return path, overrides


def _unknown_key(base: ml_collections.ConfigDict, key: str, value: Any) -> str:
    known = list(keys(base))
    # Somebody who writes `lr` for `optim.lr` has the last part right: compare with it as well as with the whole.
    tails = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [
        tails[tail] for tail in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1)
    ]
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    hint = (
        f"the nearest key is config.{near[0]}, {_expected(base, near[0])}"
        if near
        else "the configuration is empty"
    )
    return f"config.{key}={value}: there is no such key; {hint}"


def _wrong_type(base: ml_collections.ConfigDict, key: str, value: Any) -> str:
    return f"config.{key}={value}: expected {_expected(base, key)}"


def _expected(base: ml_collections.ConfigDict, key: str) -> str:
    kind = config_type(base, key)
    if issubclass(kind, ml_collections.ConfigDict):
        return f"one of its values: {', '.join(f'config.{name}' for name in keys(base) if name.startswith(key + '.'))}"
    value, meaning = _value(base, key), _MEANING.get(kind, f"a {kind.__name__}")
    return meaning if value is None else f"{meaning} such as {value!r}"


def _tuples(value: Any) -> Any:
    """JSON has no tuples, configurations have no lists."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
