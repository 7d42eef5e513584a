"""Named tensors in safetensors files, read from disk one at a time, and what can be wrong with them."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import safetensors

FLOATS = ("float32", "float16", "bfloat16")


class WeightsError(ValueError):
    """Weights that do not fit the model; the message lists every problem."""


class Tensors(Mapping[str, np.ndarray]):
    """Named tensors of open safetensors files."""

    def __init__(self, handles: dict[str, safetensors.safe_open]):
        """Takes for each name the open file that holds it."""
        self._handles = handles

    def __getitem__(self, name: str) -> np.ndarray:
        return self._handles[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)


@contextlib.contextmanager
def open_tensors(paths: Sequence[pathlib.Path]) -> Iterator[Tensors]:
    """The tensors of all files together, readable until the context ends.

    Raises:
      WeightsError: files are unreadable, or hold tensors of the same name; all are listed.
    """
    with contextlib.ExitStack() as stack:
        handles, problems = {}, []
        for path in paths:
            try:
                handle = stack.enter_context(safetensors.safe_open(path, "numpy"))
            except (safetensors.SafetensorError, OSError) as error:
                problems.append(f"{path} is unreadable: {error}")
                continue
            for key in handle.keys():  # noqa: SIM118 (not a dict)
                if key in handles:
                    problems.append(f"{path}: {key} is also in another file")
                handles[key] = handle
        if problems:
            listed = "\n  ".join(problems)
            raise WeightsError(f"weights that cannot be read (copy them again):\n  {listed}")
        yield Tensors(handles)


def not_finite(name: str, value: np.ndarray) -> list[str]:
    """The problem of a tensor with nan or infinite values, if it has any."""
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
    return [f"not finite: {bad} of {np.size(value)} values of {name}"] if bad else []


def raise_all(problems: Sequence[str], summary: str) -> None:
    """Raise one WeightsError that lists all problems, if there are any."""
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{summary} ({len(problems)} problems):\n  {listed}")
