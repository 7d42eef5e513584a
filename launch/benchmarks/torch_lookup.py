"""A picture's labels as one torch.save file: in FKD's form (arXiv 2112.01528), and with the numbers that our records hold."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

Saved = list[Any]


def fkd(labels: Mapping[str, np.ndarray], height: int, width: int) -> Saved:
    """[coordinates f32 (R, 4), flips bool (R,), labels f32 (R, 2, k)]: indices, then probabilities.

    Args:
      labels: of one picture, as `fdbpl_jax.lookup.Lookup.arrays` has them: box (R, 4), flip (R,), index, logp (R, k).
      height: of the picture in pixels; coordinates are shares of it,
      width: and of the width.
    """
    sides = np.array([height, width, height, width], np.float32)
    index, probability = (
        labels["index"].astype(np.float32),
        np.exp(labels["logp"].astype(np.float32)),
    )
    return [
        torch.from_numpy(labels["box"].astype(np.float32) / sides),
        torch.from_numpy(labels["flip"].copy()),
        torch.from_numpy(np.stack([index, probability], axis=1)),
    ]


def same_numbers(labels: Mapping[str, np.ndarray], height: int, width: int) -> Saved:
    """[box i16 (R, 4), flip bool (R,), index i16 (R, k), logp f16 (R, k), rest, entropy f16 (R,)]; arguments as in `fkd`."""
    del height, width  # boxes are in pixels
    return [
        torch.from_numpy(labels["box"].astype(np.int16)),
        torch.from_numpy(labels["flip"].copy()),
        torch.from_numpy(labels["index"].astype(np.int16)),
        *(torch.from_numpy(labels[name].copy()) for name in ("logp", "rest", "entropy")),
    ]


FORMS: dict[str, Callable[[Mapping[str, np.ndarray], int, int], Saved]] = {
    "FKD's form": fkd,
    "our numbers": same_numbers,
}


def save(picture: Saved, path: pathlib.Path) -> None:
    """Write one picture's file."""
    torch.save(picture, path)


def load(path: pathlib.Path) -> Saved:
    """Read one picture's file."""
    return torch.load(path, weights_only=True)


def take(picture: Saved, chosen: np.ndarray) -> Saved:
    """The chosen regions of a picture."""
    return [value[chosen] for value in picture]


def stack(paths: Sequence[pathlib.Path]) -> Saved:
    """All pictures' arrays, each stacked."""
    return [torch.stack(values) for values in zip(*map(load, paths), strict=True)]
