"""Readers by name, and the two ways to open a data set: `read` raises, `load` lists problems."""

import dataclasses
import functools
import inspect
import os
import pathlib
from collections.abc import Callable
from typing import Any

from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers import (
    eth_xgaze,
    faze,
    gaze360,
    gazehub,
    mpiifacegaze,
    mpiifacegaze_raw,
    mpiigaze,
    mpiigaze_raw,
    plain,
)
from gaze_jax.readers.common import Problems, ReaderError, some

Path = pathlib.Path
Loader = Callable[..., tuple[GazeSet | None, Problems]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A reader.

    Attributes:
      load: (root, options as keywords) to (the set or None, problems). What is read of a set with problems are its good
        samples.
      fetch: what to put where.
    """

    load: Loader
    fetch: str


FORMATS = {
    "mpiigaze": Format(load=mpiigaze.load, fetch=mpiigaze.FETCH),
    "mpiigaze_raw": Format(load=mpiigaze_raw.load, fetch=mpiigaze_raw.FETCH),
    "mpiifacegaze": Format(load=mpiifacegaze.load, fetch=mpiifacegaze.FETCH),
    "mpiifacegaze_raw": Format(load=mpiifacegaze_raw.load, fetch=mpiifacegaze_raw.FETCH),
    **{
        f"gazehub_{name}": Format(
            load=functools.partial(gazehub.load, name),
            fetch=f"Image/ and Label/ of {name.removesuffix(gazehub.EYES)} as GazeHub's scripts write them",
        )
        for name in gazehub.names()
    },
    "gaze360": Format(load=gaze360.load, fetch=gaze360.FETCH),
    "eth_xgaze": Format(load=eth_xgaze.load, fetch=eth_xgaze.FETCH),
    "faze": Format(load=faze.load, fetch=faze.FETCH),
    "plain": Format(load=plain.load, fetch=plain.FETCH),
}
RENDERED = tuple(f"{kind}_{domain}" for kind in ("eyes", "faces") for domain in "ABCD")
NAMES = (*FORMATS, *RENDERED)


def load(name: str, root: str | os.PathLike, **options: Any) -> tuple[GazeSet | None, Problems]:
    """A data set and what is wrong with it; of the set only the good samples, None if there is none.

    Args:
      name: one of `NAMES`; "gaze/" in front of it is dropped.
      root: its folder. Rendered sets are made there once and read back later.
      options: of the reader, such as `order`; for rendered sets persons, per_person, seed and progress.

    Raises:
      ReaderError: no such data set or option.
    """
    name = name.removeprefix("gaze/")
    if name in RENDERED:
        from gaze_jax.render import store

        _require_known(name, options)
        return store.open_set(name, root, **options), []
    if name not in FORMATS:
        raise ReaderError(f"dataset={name!r}: expected one of {', '.join(NAMES)}")
    _require_known(name, options)
    if not Path(root).is_dir():
        return None, [f"{root} is not a folder. What to fetch: {FORMATS[name].fetch}"]
    return FORMATS[name].load(Path(root), **options)


def options(name: str) -> tuple[str, ...]:
    """The options that the reader of a data set takes.

    Args:
      name: one of `NAMES`.
    """
    if name in RENDERED:
        from gaze_jax.render import store

        load = store.open_set
    else:
        load = FORMATS[name].load
    parameters = inspect.signature(load).parameters.items()
    return tuple(key for key, one in parameters if one.kind is one.KEYWORD_ONLY)


def _require_known(name: str, given: dict[str, Any]) -> None:
    known = options(name)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ReaderError(
            f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}"
        )


def read(name: str, root: str | os.PathLike, **options: Any) -> GazeSet:
    """A data set in canonical form.

    Args:
      name: one of `NAMES`.
      root: its folder.
      options: see `load`.

    Raises:
      ReaderError: everything that is wrong with it.
    """
    found, problems = load(name, root, **options)
    if problems or found is None:
        listed = some(problems or ["it holds no samples"])
        raise ReaderError(f"data set {name!r} in {root} cannot be read:\n  {listed}")
    return found
