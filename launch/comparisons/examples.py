"""Pictures on which the adapters gain and lose most, with what every method made of them.

Pictures are found by the entries of `data.judge`, written out: "DATASET:SPLIT".
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from launch import gather, runs, segmentation_figures

# Pictures of each split that are looked at, and successes and failures that are shown.
_LOOKED_AT = 32
_SHOWN = 2
_TITLES = {"sda": "+SDA", "cca": "+CCA", "both": "+both"}


class LabelMap(NamedTuple):
    """What a run made of one picture.

    Attributes:
      image: uint8 [H W 3].
      truth: class of every pixel, -1 where ignored, [H W].
      prediction: class of every pixel, [H W].
      names: of the classes.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    names: Sequence[str]


Positions = Mapping[str, Sequence[int]]
LabelMaps = Callable[[gather.Run, Positions], Mapping[str, Mapping[int, LabelMap]]]
"""(run, entry -> positions of pictures) -> entry -> position -> label map."""


def label_maps(run: gather.Run, positions: Positions) -> dict[str, dict[int, LabelMap]]:
    """What a trained run makes of some pictures: `LabelMaps`, from the run's work directory alone."""
    import jax.numpy as jnp

    from gba_jax import inputs, model, windows

    restored = runs.restore(run.folder)
    # The evaluation is a function of what the task has opened.
    opened = restored.task.evaluate.args[0]
    plan = inputs.plan(opened.config, opened.clip.backbone)
    ask = functools.partial(model.run_scores, opened.segmenter)
    found: dict[str, dict[int, LabelMap]] = {}
    for entry, chosen in positions.items():
        own = f"{opened.config.data.dataset}:"
        dataset = inputs.read_dataset(opened.config, entry.removeprefix(own))
        text = opened.rows(dataset.vocabulary)
        seen = jnp.asarray(opened.seen(dataset.vocabulary, len(text.class_mask)))
        score = lambda images, text=text, seen=seen: ask(restored.params, images, text, seen)
        names, maps = dataset.vocabulary.classes, {}
        for position in chosen:
            sample = dataset[position]
            scores = windows.scores(score, sample.image[None], plan)
            labels, _ = windows.labels(scores, sample.labels.shape)
            maps[position] = LabelMap(sample.image, sample.labels, np.asarray(labels)[0], names)
        found[entry] = maps
    return found


def choose(
    compared: Mapping[str, gather.Run],
    images: Mapping[str, int],
    label_maps: LabelMaps,
) -> dict[str, list[dict[str, Any]]]:
    """The rows of a grid for each entry: successes first, then failures, by pixel accuracy against the host.

    Args:
      compared: method -> the run that stands for it, in the order of the columns.
      images: entry -> number of its pictures; some of them, evenly spaced, are looked at.
      label_maps: what a run makes of pictures.

    Returns:
      Entry -> rows as `segmentation_figures.label_map_grid` takes them; empty without a host and a run with adapters.
    """
    adapted = next((method for method in ("both", "cca", "sda") if method in compared), None)
    if "host" not in compared or adapted is None:
        return {}
    looked_at = {
        entry: np.unique(np.linspace(0, n - 1, min(n, _LOOKED_AT)).astype(int)).tolist()
        for entry, n in images.items()
    }
    maps = {method: label_maps(compared[method], looked_at) for method in ("host", adapted)}
    gains = {entry: _gains(maps["host"][entry], maps[adapted][entry]) for entry in images}
    # Of the other methods only what is shown has to be predicted.
    shown = {entry: _extremes(gain) for entry, gain in gains.items()}
    others = [method for method in compared if method not in maps]
    maps |= {method: label_maps(compared[method], shown) for method in others}
    return {
        entry: [
            {
                "title": f"{_TITLES[adapted]} against host\n{_points(gains[entry][position])}",
                "image": maps["host"][entry][position].image,
                "truth": maps["host"][entry][position].truth,
                "names": maps["host"][entry][position].names,
                "predictions": {
                    _TITLES.get(method, method): maps[method][entry][position].prediction
                    for method in compared
                },
            }
            for position in positions
        ]
        for entry, positions in shown.items()
    }


def _gains(before: Mapping[int, LabelMap], after: Mapping[int, LabelMap]) -> dict[int, float]:
    """Pixel accuracy gained, by position."""
    right = lambda found: segmentation_figures.pixel_accuracy(found.prediction, found.truth)
    return {position: right(after[position]) - right(before[position]) for position in before}


def _extremes(gains: Mapping[int, float]) -> list[int]:
    """The positions of the largest gains, then of the largest losses."""
    order = sorted(gains, key=lambda position: -gains[position])
    return list(dict.fromkeys([*order[:_SHOWN], *order[-_SHOWN:]]))


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f} points".replace("-", "−")
