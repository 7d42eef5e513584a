"""Classes of a user's own pictures: from a run's configuration and learned context to names and probabilities.

Neither the lookup, nor the teacher, nor the training pictures are needed. Shapes: n pictures, C classes, K best classes,
D embedding width.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from core_jax import clip
from fdbpl_jax import average, datasets, evaluate, prompted, templates, text, towers
from fdbpl_jax import config as configs
from fdbpl_jax.inputs import named, namer, text_plans


class PredictError(ValueError):
    """A prediction that cannot be made."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The most probable classes of n pictures, best first.

    Attributes:
      titles: what the pictures are called: file names, or numbers.
      names: K class names per picture.
      classes: their positions in the class list.
      probabilities: softmax at temperature 1 over all classes, cut to the K largest.
      features: unit-norm image features.
      accept: sigmoid(z+ - z-) of the best class, this project's own score of how far the positive prompt beats the
        negative one; None unless asked for.
    """

    titles: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    classes: Int[np.ndarray, "n K"]
    probabilities: Float[np.ndarray, "n K"]
    features: Float[np.ndarray, "n D"]
    accept: Float[np.ndarray, "n"] | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per picture: title, names, probabilities and, where asked for, accept."""
        rows: list[dict[str, Any]] = [
            {"title": title, "names": list(names), "probabilities": [float(p) for p in chances]}
            for title, names, chances in zip(
                self.titles, self.names, self.probabilities, strict=True
            )
        ]
        if self.accept is not None:
            for row, score in zip(rows, self.accept, strict=True):
                row["accept"] = float(score)
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A student with the text features of one class list.

    Attributes:
      names: C class names.
      student: the image tower, with the learned tokens and projector, where there are any.
      positive: text features of the learned (or template) prompts; None where every picture has its own.
      negative: those of the negative prompts, where the run learned any.
      scale: exp of the student's logit scale.
      by_picture: cosines of pictures with the classes, each in its own context; None where `positive` serves all.
    """

    names: tuple[str, ...]
    student: towers.Student
    positive: Float[np.ndarray, "C D"] | None
    negative: Float[np.ndarray, "C D"] | None
    scale: float
    by_picture: Callable[[Float[np.ndarray, "n D"]], Float[np.ndarray, "n C"]] | None = None

    def __call__(
        self,
        pictures: Sequence[str | os.PathLike | UInt8[np.ndarray, "H W 3"]],
        *,
        top_k: int = 5,
        reject: bool = False,
        progress: bool = False,
    ) -> Prediction:
        """Classify pictures.

        Args:
          pictures: files, or RGB arrays of any size.
          top_k: classes per picture; all of them when there are fewer.
          reject: also compute `Prediction.accept`.
          progress: show a bar.

        Raises:
          PredictError: no pictures, or `reject` without a negative prompt.
          label.PictureErrors: listing every file that cannot be read.
        """
        if not len(pictures):
            raise PredictError("there are no pictures to classify")
        if reject and self.negative is None:
            raise PredictError(
                "the reject score compares positive and negative prompts, but this run learned no negative one: "
                "train with method=fdbpl and loss.dual=True"
            )
        features = self._features(pictures, progress)
        if self.positive is None:
            assert self.by_picture is not None
            logits = self.scale * self.by_picture(features)
        else:
            logits = self.scale * features @ self.positive.T
        chance = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chance /= chance.sum(axis=-1, keepdims=True)
        best = np.argsort(-chance, axis=-1, kind="stable")[:, :top_k]
        accept = None
        if reject and self.negative is not None:
            gap = logits - self.scale * features @ self.negative.T
            # tanh form: exp of a large gap would overflow.
            accept = 0.5 * (1.0 + np.tanh(0.5 * np.take_along_axis(gap, best[:, :1], 1)[:, 0]))
        return Prediction(
            titles=tuple(_title(i, picture) for i, picture in enumerate(pictures)),
            names=tuple(tuple(self.names[c] for c in row) for row in best),
            classes=best.astype(np.int32),
            probabilities=np.take_along_axis(chance, best, axis=-1),
            features=features,
            accept=accept,
        )

    def _features(self, pictures: Sequence[Any], progress: bool) -> Float[np.ndarray, "n D"]:
        if all(isinstance(picture, (str, os.PathLike)) for picture in pictures):
            paths = [pathlib.Path(picture) for picture in pictures]
            return evaluate.picture_features(
                self.student, paths, title="pictures", progress=progress
            )
        size, rows = self.student.image_size, []
        for start in range(0, len(pictures), evaluate.BATCH):
            part = [clip.preprocess(p, size) for p in pictures[start : start + evaluate.BATCH]]
            rows.append(evaluate.array_features(self.student, np.stack(part)))
        return np.concatenate(rows)


def _title(position: int, picture: Any) -> str:
    return pathlib.Path(picture).name if isinstance(picture, (str, os.PathLike)) else str(position)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes a run's data set has: all of them, or those trained on where each has a context of its own.

    Raises:
      DatasetError: the data set is not where the configuration says; hand the names over instead.
    """
    settings = configs.read(config)
    data = settings.data
    full = datasets.read(data.dataset, data.root, template=data.template or None)
    return (
        datasets.half(full, data.split).classes if settings.prompt.class_specific else full.classes
    )


def _template(settings: configs.Config) -> str:
    layout = datasets.LAYOUTS.get(settings.data.dataset)
    return settings.data.template or (layout.template if layout else "a photo of a {}.")


def predictor(
    config: Mapping[str, Any],
    trainable: Mapping[str, Any],
    *,
    stats: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Predictor:
    """A predictor from a run's configuration and trained parameters.

    Args:
      config: the run's ConfigDict (or a nested mapping).
      trainable: the run's trained parameters; {} for the zero-shot method. Of an average over epochs that is used.
      stats: the run's statistics; needed where it learned a projector.
      classes: class names to choose from; any, since the context is shared. None takes the data set's.

    Raises:
      PredictError: another number of classes than a class-specific context has; a projector without its statistics.
      PromptError: names too long for the text tower.
    """
    settings = configs.read(config)
    names = tuple(class_names(config) if classes is None else classes)
    model = towers.load(settings.student)
    dtype = towers.compute_dtype(settings.dtype)
    prompts, stats = jax.tree.map(jnp.asarray, average.judged(trainable)), stats or {}
    if "projector" in prompts and "projector" not in stats:
        raise PredictError(
            "this run learned a projector, which normalises by the statistics of its training: hand over the run's stats"
        )
    features, by_picture = {}, None
    if "context" in prompts:
        _check_count(settings, prompts["context"], len(names))
        plan = text_plans(settings, model, {"given": names})["given"]
        tower = jax.device_put(model.params["text"])
        encode = jax.jit(
            lambda tower, prompts, sign: prompted.class_features(
                {"text": tower}, model.config, plan, prompts, signs=(sign,), dtype=jnp.dtype(dtype)
            ),
            static_argnums=2,
        )
        if "meta" in prompts:
            options = {"dtype": dtype, "title": "pictures, each in its own context"}
            by_picture = functools.partial(
                prompted.cosines_by_picture, tower, model.config, plan, prompts, **options
            )
        shared = [sign for sign in prompts["context"] if by_picture is None or sign == "negative"]
        features = {sign: np.asarray(encode(tower, prompts, sign))[0] for sign in shared}
    if "positive" not in features and by_picture is None:
        features["positive"] = _fixed(settings, model, names)
        _check_width(settings, prompts, features["positive"].shape[1])
    return Predictor(
        names=names,
        student=prompted.student(model, settings.student, prompts, stats, dtype=dtype),
        positive=features.get("positive"),
        negative=features.get("negative"),
        scale=float(np.exp(np.float32(model.params["logit_scale"]))),
        by_picture=by_picture,
    )


def _check_count(settings: configs.Config, context: Mapping[str, Any], given: int) -> None:
    """Refuse other classes where each has a context of its own."""
    count = len(next(iter(context.values())))
    if settings.prompt.class_specific and count != given:
        raise PredictError(
            f"this run learned a context for each of {count} classes, and {given} names were given: "
            "give the names it was trained on"
        )


def _check_width(settings: configs.Config, prompts: Mapping[str, Any], width: int) -> None:
    """Refuse a teacher into whose space a projector does not lead."""
    learned = prompts["projector"]["norm"]["scale"].shape[0] if "projector" in prompts else width
    if learned != width:
        raise PredictError(
            f"this run's projector leads to {learned} channels, and features of the teacher {settings.teacher} have {width}: "
            "set config.teacher to the CLIP that it was learned with"
        )


def _fixed(
    settings: configs.Config, model: clip.Clip, names: Sequence[str]
) -> Float[np.ndarray, "C D"]:
    """Text features of classes in sentences that nothing was learned of."""
    template = _template(settings)
    speaker = namer(settings, model, towers.load)
    if speaker is not None:
        return named(settings, speaker, names, template)
    sentences = templates.resolve(settings.data.templates, own=template)
    return text.template_features(model, names, sentences)
