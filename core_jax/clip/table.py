"""A weight table: foreign tensor names and our paths, read in both directions with total accounting.

Every row pairs the name of a foreign tensor with our path; `{}` in both stands for the same numbers in the same order.
Each foreign tensor is used, each leaf of ours is written exactly once, and everything that is wrong is reported together.
Nothing is ever filled in.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from core_jax.clip.tensors import FLOATS, WeightsError, not_finite, raise_all

# Permutations that turn torch's kernels into Flax's: (out, in) to (in, out), (out, in, h, w) to (h, w, in, out).
LINEAR = (1, 0)
CONV = (2, 3, 1, 0)

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: a foreign name, our path, and the `transpose` argument that turns their tensor into ours.

    Several paths share a foreign tensor in equal parts of its first axis (a fused query, key and value).
    """

    foreign: str
    ours: str | tuple[str, ...]
    axes: tuple[int, ...] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Our paths, whether one or several."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def affine(foreign: str, ours: str) -> tuple[Row, ...]:
    """The rows of a norm's scale and bias."""
    return (Row(f"{foreign}.weight", f"{ours}/scale"), Row(f"{foreign}.bias", f"{ours}/bias"))


def dense(foreign: str, ours: str, axes: tuple[int, ...] = LINEAR) -> tuple[Row, ...]:
    """The rows of a linear layer's, or with `CONV` of a convolution's, kernel and bias."""
    return (
        Row(f"{foreign}.weight", f"{ours}/kernel", axes),
        Row(f"{foreign}.bias", f"{ours}/bias"),
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One foreign tensor of a model of known sizes."""

    paths: tuple[str, ...]
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]


def read(
    tensors: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    shapes: Shapes,
    *,
    ignored: re.Pattern[str] | None = None,
) -> dict:
    """Our nested float32 parameters from named tensors.

    Args:
      tensors: every tensor of the checkpoint; float32, float16 or bfloat16. Read one at a time.
      rows: the table.
      shapes: our path ("text/block_0/fc1/kernel") to shape, of every leaf of the model.
      ignored: names of tensors that may be there and mean nothing.

    Raises:
      WeightsError: tensors are missing, unknown, of another shape or type, or not finite; all are listed.
    """
    wanted = _entries(rows, shapes)
    flat: dict[str, np.ndarray] = {}
    problems = []
    for name in sorted(tensors):
        if ignored is not None and ignored.fullmatch(name):
            continue
        if name not in wanted:
            problems.append(f"extra: {name} is not a weight of this model")
            continue
        value, entry = tensors[name], wanted[name]
        if value.dtype.name not in FLOATS:
            problems.append(
                f"type: {name} is {value.dtype.name}, expected one of {', '.join(FLOATS)}"
            )
        elif value.shape != entry.shape:
            problems.append(f"shape: {name} is {value.shape}, expected {entry.shape}")
        else:
            problems += not_finite(name, value)
            value = value.astype(np.float32)
            parts = np.split(value, len(entry.paths)) if len(entry.paths) > 1 else [value]
            for path, part in zip(entry.paths, parts, strict=True):
                flat[path] = part if entry.axes is None else part.transpose(entry.axes)
    for name in sorted(wanted.keys() - set(tensors)):
        problems.append(f"missing: {name} of shape {wanted[name].shape}")
    raise_all(problems, "the checkpoint does not fit its configuration")
    return flax.traverse_util.unflatten_dict({p: jnp.asarray(v) for p, v in flat.items()}, sep="/")


def write(
    params: Mapping, rows: Sequence[Row], shapes: Shapes, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Named tensors (numpy, contiguous, of type `dtype`) from our parameters.

    Args:
      params: nested.
      rows: the table.
      shapes: as for `read`.
      dtype: float32, float16 or bfloat16.

    Raises:
      WeightsError: another type, or leaves are missing, unknown, of another shape, or not finite in `dtype`; all are
        listed.
    """
    if dtype not in FLOATS:
        raise WeightsError(f"dtype {dtype!r} is not one of {', '.join(FLOATS)}")
    flat = {p: np.asarray(v) for p, v in flax.traverse_util.flatten_dict(params, sep="/").items()}
    problems = [f"missing: {p} of shape {shapes[p]}" for p in sorted(shapes.keys() - flat.keys())]
    for path in sorted(flat):
        if path not in shapes:
            problems.append(f"extra: {path} is not a weight of this model")
        elif flat[path].shape != shapes[path]:
            problems.append(f"shape: {path} is {flat[path].shape}, expected {shapes[path]}")
        else:
            with np.errstate(over="ignore"):
                flat[path] = flat[path].astype(jnp.dtype(dtype))
            problems += not_finite(f"{path} as {dtype}", flat[path])
    raise_all(problems, "the parameters do not fit their configuration")
    tensors = {}
    for name, entry in _entries(rows, shapes).items():
        parts = [flat[path] for path in entry.paths]
        if entry.axes is not None:
            parts = [part.transpose(np.argsort(entry.axes)) for part in parts]
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        tensors[name] = np.ascontiguousarray(whole).reshape(entry.shape)
    return tensors


def _entries(rows: Sequence[Row], shapes: Shapes) -> dict[str, _Entry]:
    """The foreign tensors that make up all of `shapes`, by name."""
    entries, covered = {}, set()
    for row in rows:
        pattern = re.escape(row.paths[0]).replace(r"\{\}", r"(\d+)")
        for path, shape in shapes.items():
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            paths = tuple(p.format(*match.groups()) for p in row.paths)
            foreign = shape if row.axes is None else tuple(shape[i] for i in np.argsort(row.axes))
            if len(paths) > 1:
                foreign = (len(paths) * foreign[0], *foreign[1:])
            entries[row.foreign.format(*match.groups())] = _Entry(paths, row.axes, foreign)
            covered.update(paths)
    if covered != shapes.keys():
        raise WeightsError(
            f"no row of the weight table leads to {sorted(shapes.keys() - covered)}, or rows lead to what is not there: "
            f"{sorted(covered - shapes.keys())}"
        )
    return entries
