"""What entry points for a user's own pictures share: which files are meant, and which class names."""

import glob
import os
import pathlib
from collections.abc import Iterator, Sequence


def read_classes(value: str) -> list[str]:
    """Class names from a comma-separated list or from a file with one name a line.

    Raises:
      ValueError: there are none, one stands there twice, or a file was meant that does not exist.
    """
    path = pathlib.Path(value)
    # A list of many names is longer than any file name may be, and asking for such a file is an error.
    if len(value) < 4096 and os.path.isfile(path):
        names = path.read_text(encoding="utf-8-sig").splitlines()
    elif "," not in value and path.suffix in (".txt", ".csv", ".lst"):
        raise ValueError(f"--classes={value}: there is no such file")
    else:
        names = value.split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"--classes={value}: there is no class name in it")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"--classes: expected each name once; {', '.join(twice)} stands there twice"
        )
    return names


def find_pictures(patterns: Sequence[str], flag: str = "--images") -> list[pathlib.Path]:
    """Files by name, folders searched through, globs ("**" crosses folders); each file once, in this order.

    Args:
      patterns: as given on the command line.
      flag: what error messages call them.

    Raises:
      FileNotFoundError: patterns that lead to no picture; all are listed.
    """
    found: dict[pathlib.Path, None] = {}
    empty = []
    for pattern in patterns:
        paths = list(_expand(os.path.expanduser(pattern.strip())))
        found |= dict.fromkeys(paths)
        if not paths:
            empty.append(pattern)
    if empty:
        raise FileNotFoundError(
            f"{flag}: no pictures at {', '.join(map(repr, empty))} (seen from {os.getcwd()}); give files, folders or "
            "globs, and put globs in quotes"
        )
    return list(found)


def _expand(pattern: str) -> Iterator[pathlib.Path]:
    from core_jax.data import images

    if os.path.isdir(pattern):
        yield from sorted(
            pathlib.Path(folder) / name
            for folder, _, names in os.walk(pattern)
            for name in names
            if images.is_image_name(name)
        )
    elif os.path.isfile(pattern):
        yield pathlib.Path(pattern)
    else:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if os.path.isfile(path) and images.is_image_name(os.path.basename(path)):
                yield pathlib.Path(path)
