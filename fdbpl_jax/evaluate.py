"""The field's protocol: accuracy on base and on new classes, their harmonic mean, and the lines of results.jsonl.

Accuracy is correct / total in percent, over pictures, not a mean over classes. Each half of the classes is judged
against its own names (CoCoOp's base-to-new protocol, arXiv 2203.05557). Shapes: n pictures, C classes, D embedding width.
"""

import collections
import dataclasses
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
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, label, lookup, text, towers
from fdbpl_jax.inputs import Inputs

Path = pathlib.Path
# Pictures per forward pass.
BATCH = 128


def harmonic_mean(base: float, new: float) -> float:
    """2 b n / (b + n); 0 where both are 0."""
    return 2.0 * base * new / (base + new) if base + new > 0 else 0.0


class Judge:
    """The evaluation of a run: (trainable, frozen, stats) -> named results.

    The student's features of the pictures are computed once, at the first call; the prompts change, the towers do not.

    Args:
      inputs: what the run depends on.
      pictures: what `pictures` has returned so far, by part; runs that are judged on the same pictures hand over one dict.
    """

    def __init__(
        self, inputs: Inputs, pictures: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
    ):
        self.inputs = inputs
        self._pictures = {} if pictures is None else pictures

    def __call__(self, trainable: dict, frozen: dict, stats: dict) -> dict[str, float]:
        """Per part ("base", "new" or "all"): accuracy_percent, correct, total; and harmonic_mean_percent."""
        del stats
        results: dict[str, float] = {}
        for part in self.inputs.parts:
            features, labels = self.pictures(part)
            classes = self.classes(part, trainable, frozen)
            correct = int(np.sum(predict(features, classes) == labels))
            results[f"{part}/accuracy_percent"] = 100.0 * correct / max(1, len(labels))
            results[f"{part}/correct"] = float(correct)
            results[f"{part}/total"] = float(len(labels))
        if {"base", "new"} <= set(self.inputs.parts):
            results["harmonic_mean_percent"] = harmonic_mean(
                results["base/accuracy_percent"], results["new/accuracy_percent"]
            )
        return results

    def pictures(self, part: str) -> tuple[Float[np.ndarray, "n D"], Int[np.ndarray, "n"]]:
        """The student's unit-norm features of a part's pictures, and their labels."""
        if part not in self._pictures:
            inputs, dataset = self.inputs, self.inputs.parts[part]
            config = inputs.config
            items = dataset.test if config.data.judge == "test" else dataset.val
            if not items:
                raise datasets.DatasetError(
                    f"data set {dataset.name!r} has no {config.data.judge} pictures of the {part} classes"
                )
            student = towers.student(inputs.student, config.student, dtype=inputs.dtype)
            features = cached_features(
                student,
                dataset.root,
                [item.path for item in items],
                cache=Path(config.data.cache) if config.data.cache else None,
                title=f"features of the {part} {config.data.judge} pictures",
            )
            self._pictures[part] = features, np.array([item.label for item in items], np.int32)
        return self._pictures[part]

    def classes(self, part: str, trainable: dict, frozen: dict) -> Float[np.ndarray, "C D"]:
        """Unit-norm text features of a part's classes: of the positive prompt, or of the template without training."""
        dataset = self.inputs.parts[part]
        if "context" not in trainable:
            return text.template_features(self.inputs.student, dataset.classes, [dataset.template])
        return class_features(self.inputs, part, trainable["context"]["positive"], frozen)


def class_features(
    inputs: Inputs, part: str, context: Float[Array, "M d"] | Float[Array, "C M d"], frozen: dict
) -> Float[np.ndarray, "C D"]:
    """Unit-norm text features of a part's classes under one context."""
    run = _jitted_class_features(inputs.student.config, inputs.plans[part], inputs.dtype)
    # Whole, since every process asks it by itself.
    tower = sharding.whole(frozen["student"]["text"])
    return np.asarray(run(tower, context[None]))[0]


@functools.lru_cache(maxsize=16)
def _jitted_class_features(config: clip.ClipConfig, plan: text.Plan, dtype: str) -> Any:
    def run(tower: dict, context: Array) -> Array:
        return text.class_features({"text": tower}, config, plan, context, jnp.dtype(dtype))

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


def result_lines(
    config: Mapping[str, Any], metrics: Mapping[str, float], pins: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What results.jsonl says of one evaluation: a dict for each part that was judged.

    Args:
      config: the run's configuration.
      metrics: from the task's `evaluate`.
      pins: the task's.

    Returns:
      Lines with method, dataset, split, pictures, fewshot_seed, shots, setting, accuracy, correct, total, train_classes,
      student, teacher, their digests, lookup_digest, fewshot_digest, dataset_digest, text_mode, switches and
      seconds_build. What the run adds (seed, steps, seconds_train, device, versions, git) is `launch`'s.
    """
    settings = configs.read(config)
    prompt, trained = settings.prompt, settings.method != "zeroshot"
    online = settings.distilled and settings.teacher_source == "online"
    uses_lookup = settings.needs_lookup and "lookup" in pins
    shared = {
        "method": f"{settings.method}_online" if online else settings.method,
        "dataset": settings.data.dataset,
        "pictures": settings.data.judge,
        "shots": settings.data.shots,
        "fewshot_seed": settings.data.seed,
        "setting": "inductive",
        "train_classes": int(pins["train_classes"]) if trained else 0,
        "student": settings.student,
        "teacher": settings.teacher if settings.distilled else None,
        "student_digest": pins["student"],
        "teacher_digest": pins.get("teacher") if settings.distilled else None,
        "lookup_digest": pins["lookup"] if uses_lookup else None,
        "fewshot_digest": pins["fewshot"] if trained else None,
        "dataset_digest": pins["dataset"],
        "text_mode": text.choose_mode(
            prompt.text_mode, prompt.class_token_position == "end" and not prompt.class_specific
        )
        if trained
        else "template",
        "switches": _switches(settings) if trained else {},
        # An online teacher takes the lookup's boxes at most, which cost nothing to draw.
        "seconds_build": lookup.seconds_build(settings.lookup.dir)
        if uses_lookup and not online
        else None,
    }
    parts = [name.removesuffix("/total") for name in metrics if name.endswith("/total")]
    return [
        shared
        | {
            "split": part,
            "accuracy": metrics[f"{part}/accuracy_percent"],
            "correct": int(metrics[f"{part}/correct"]),
            "total": int(metrics[f"{part}/total"]),
        }
        for part in parts
    ]


def _switches(settings: configs.Config) -> dict[str, Any]:
    """Everything that distinguishes one trained method from another, as plain values."""
    chosen = dataclasses.asdict(settings.prompt)
    if settings.distilled:
        chosen |= dataclasses.asdict(settings.effective_loss)
    elif settings.method == "kgcoop":
        chosen["kgcoop_weight"] = settings.loss.kgcoop_weight
    chosen |= {"fresh": settings.fresh, "regions_per_visit": settings.regions_per_visit}
    return chosen
