"""The field's protocol: accuracy on base and on new classes, their harmonic mean, and the lines of results.jsonl.

Accuracy is correct / total in percent, over pictures, not a mean over classes. Each half of the classes is judged
against its own names (CoCoOp's base-to-new protocol, arXiv 2203.05557). Shapes: n pictures, C classes, D embedding width.
"""

import collections
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core_jax import clip
from core_jax.data import files, images
from core_jax.train import sharding
from fdbpl_jax import average, datasets, label, prompted, text, towers
from fdbpl_jax.inputs import Inputs, named
from fdbpl_jax.lines import result_lines

__all__ = [
    "Judge",
    "array_features",
    "cached_features",
    "class_features",
    "harmonic_mean",
    "picture_features",
    "predict",
    "result_lines",
]

Path = pathlib.Path
# Pictures per forward pass.
BATCH = 128


def harmonic_mean(base: float, new: float) -> float:
    """2 b n / (b + n); 0 where both are 0."""
    return 2.0 * base * new / (base + new) if base + new > 0 else 0.0


class Judge:
    """The evaluation of a run: (trainable, frozen, stats) -> named results.

    The student's features of the pictures are computed once, at the first call, where the image tower stays what it is;
    under visual prompts or a projector they are computed at every call. Where the learner averages over epochs, the average
    is judged.

    Args:
      inputs: what the run depends on.
      pictures: what `pictures` has returned so far, by part; runs that are judged on the same pictures hand over one dict.
    """

    def __init__(
        self, inputs: Inputs, pictures: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
    ):
        self.inputs = inputs
        self._pictures = {} if pictures is None else pictures
        self._fixed: dict[str, np.ndarray] = {}

    def __call__(self, trainable: dict, frozen: dict, stats: dict) -> dict[str, float]:
        """Per part ("base", "new" or "all"): accuracy_percent, correct, total; and harmonic_mean_percent."""
        results: dict[str, float] = {}
        for part in self.inputs.parts:
            chosen, labels = self.choices(part, trainable, frozen, stats)
            correct = int(np.sum(chosen == labels))
            results[f"{part}/accuracy_percent"] = 100.0 * correct / max(1, len(labels))
            results[f"{part}/correct"] = float(correct)
            results[f"{part}/total"] = float(len(labels))
        if {"base", "new"} <= set(self.inputs.parts):
            results["harmonic_mean_percent"] = harmonic_mean(
                results["base/accuracy_percent"], results["new/accuracy_percent"]
            )
        return results

    def choices(
        self, part: str, trainable: dict, frozen: dict, stats: dict
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """The most similar class of each of a part's pictures, and the right one."""
        inputs, prompts = self.inputs, average.judged(trainable)
        if inputs.config.frozen_pictures:
            features, labels = self.pictures(part)
        else:
            features, labels = self._see(part, prompts, stats)
        if "meta" not in prompts:
            return predict(features, self.classes(part, trainable, frozen)), labels
        cosines = prompted.cosines_by_picture(
            # Whole, since every process asks it by itself.
            sharding.whole(frozen["student"]["text"]),
            inputs.student.config,
            inputs.plans[part],
            prompts,
            features,
            dtype=inputs.dtype,
            title=f"{part} pictures, each in its own context",
        )
        return np.argmax(cosines, axis=-1), labels

    def pictures(self, part: str) -> tuple[Float[np.ndarray, "n D"], Int[np.ndarray, "n"]]:
        """The frozen student's unit-norm features of a part's pictures, and their labels."""
        if part not in self._pictures:
            self._pictures[part] = self._see(part, {}, {}, cached=True)
        return self._pictures[part]

    def _see(
        self, part: str, prompts: Mapping[str, Any], stats: dict, cached: bool = False
    ) -> tuple[Float[np.ndarray, "n D"], Int[np.ndarray, "n"]]:
        inputs, dataset = self.inputs, self.inputs.parts[part]
        config = inputs.config
        items = dataset.test if config.data.judge == "test" else dataset.val
        if not items:
            raise datasets.DatasetError(
                f"data set {dataset.name!r} has no {config.data.judge} pictures of the {part} classes"
            )
        student = prompted.student(
            inputs.student, config.student, prompts, stats, dtype=inputs.dtype
        )
        features = cached_features(
            student,
            dataset.root,
            [item.path for item in items],
            cache=Path(config.data.cache) if cached and config.data.cache else None,
            title=f"features of the {part} {config.data.judge} pictures",
        )
        return features, np.array([item.label for item in items], np.int32)

    def classes(self, part: str, trainable: dict, frozen: dict) -> Float[np.ndarray, "C D"]:
        """Unit-norm text features of a part's classes: of the positive prompt, or of fixed sentences where none is learned.

        Raises:
          ValueError: the learned context differs by picture, and so do the classes.
        """
        inputs, prompts = self.inputs, average.judged(trainable)
        if "positive" in prompts.get("context", {}):
            return class_features(inputs, part, prompts, "positive", frozen)
        if part not in self._fixed:
            names, model = inputs.dataset(part).classes, inputs.namer
            if model is None:
                sentences = inputs.templates(part)
                found = text.template_features(inputs.student, names, sentences)
            else:
                found = named(inputs.config, model, names, inputs.dataset(part).template)
            self._fixed[part] = found
        return self._fixed[part]


def class_features(
    inputs: Inputs, part: str, prompts: Mapping[str, Any], sign: str, frozen: dict
) -> Float[np.ndarray, "C D"]:
    """Unit-norm text features of a part's classes under one of the learned contexts, "positive" or "negative".

    Raises:
      ValueError: the context differs by picture, so that a class has no one feature.
    """
    if sign == "positive" and "meta" in prompts:
        raise ValueError(
            f"learner={inputs.config.learner}: its context differs by picture, and so do the classes; there is no one "
            "feature of a class"
        )
    run = _jitted_class_features(inputs.student.config, inputs.plans[part], sign, inputs.dtype)
    # Whole, since every process asks it by itself.
    tower = sharding.whole(frozen["student"]["text"])
    return np.asarray(run(tower, {k: prompts[k] for k in ("context", "deep") if k in prompts}))[0]


@functools.lru_cache(maxsize=16)
def _jitted_class_features(config: clip.ClipConfig, plan: text.Plan, sign: str, dtype: str) -> Any:
    def run(tower: dict, prompts: dict) -> Array:
        return prompted.class_features(
            {"text": tower}, config, plan, prompts, signs=(sign,), dtype=jnp.dtype(dtype)
        )

    return jax.jit(run)


def predict(
    features: Float[np.ndarray, "n D"], classes: Float[np.ndarray, "C D"], *, chunk: int = 8192
) -> Int[np.ndarray, "n"]:
    """The most similar class of each picture; ties go to the lower index."""
    parts = [
        np.argmax(features[i : i + chunk] @ classes.T, axis=-1)
        for i in range(0, len(features), chunk)
    ]
    return np.concatenate(parts)


def cached_features(
    student: towers.Student,
    root: Path,
    paths: Sequence[str],
    *,
    cache: Path | None,
    title: str,
) -> Float[np.ndarray, "n D"]:
    """`picture_features`, kept in a folder under a digest of the student and of every file's name, size and time."""
    if cache is None:
        return picture_features(student, [root / path for path in paths], title=title)
    found = [(root / path).stat() for path in paths]
    key = files.digest(
        [student.digest, student.dtype, student.image_size, str(root.absolute())]
        + [[path, s.st_size, s.st_mtime_ns] for path, s in zip(paths, found, strict=True)]
    )
    path = cache / f"features-{key[:32]}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    features = picture_features(student, [root / one for one in paths], title=title)
    if jax.process_index() == 0:
        cache.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features, allow_pickle=False)
    return features


def picture_features(
    student: towers.Student, paths: Sequence[Path], *, title: str = "", progress: bool = True
) -> Float[np.ndarray, "n D"]:
    """Unit-norm features of whole pictures: shorter side resized, centre square.

    Args:
      student: its image tower.
      paths: picture files.
      title: what the progress bar says.
      progress: show it, on process 0.

    Raises:
      label.PictureErrors: listing every picture that cannot be read.
    """
    import tqdm

    problems: list[str] = []
    rows = []
    # None: shown on a terminal only.
    quiet = None if progress and jax.process_index() == 0 else True
    with tqdm.tqdm(total=len(paths), desc=title, unit="picture", disable=quiet, leave=False) as bar:
        for pixels in _batches(paths, student.image_size, problems):
            if not problems:
                rows.append(np.asarray(array_features(student, pixels)))
            bar.update(len(pixels))
    if problems:
        raise label.PictureErrors(
            f"{len(problems)} of {len(paths)} pictures cannot be read:\n  - "
            + "\n  - ".join(problems)
        )
    return np.concatenate(rows)


def array_features(student: towers.Student, pixels: np.ndarray) -> Float[np.ndarray, "n D"]:
    """Unit-norm features of at most 128 preprocessed pictures, padded so that everything compiles once."""
    padded = np.zeros((BATCH, *pixels.shape[1:]), np.uint8)
    padded[: len(pixels)] = pixels
    return np.asarray(student.features(padded, np.zeros(BATCH, bool)))[: len(pixels)]


def _batches(paths: Sequence[Path], size: int, problems: list[str]) -> Iterator[np.ndarray]:
    """Preprocessed pictures in batches, decoded in threads a batch ahead; unreadable ones become problems and zeros."""

    def read(path: Path) -> np.ndarray:
        try:
            return clip.preprocess(images.decode(path), size)
        except images.ImageError as error:
            problems.append(str(error))
            return np.zeros((size, size, 3), np.uint8)

    with futures.ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        ahead: collections.deque = collections.deque()
        for start in range(0, len(paths), BATCH):
            ahead.append([pool.submit(read, path) for path in paths[start : start + BATCH]])
            if len(ahead) > 1:
                yield np.stack([future.result() for future in ahead.popleft()])
        while ahead:
            yield np.stack([future.result() for future in ahead.popleft()])
