"""What a build shall write: a lookup's folder, pictures, label space and towers, and a second one beside it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax import clip
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, dictionary, label, layout, regions, towers
from fdbpl_jax import plan as plans

Path = pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A lookup to write.

    Attributes:
      folder: made if absent.
      dataset: `train` are the pictures, `classes` and `template` the teacher's label space.
      teacher: gives the logits.
      settings: R, k, boxes, sizes.
      student: also store this model's features; they can be added to a finished lookup.
      origin: further facts for the plan, such as few-shot digests; part of what must not change.
    """

    folder: Path
    dataset: datasets.Dataset
    teacher: towers.Teacher
    settings: plans.Settings
    student: towers.Student | None = None
    origin: Mapping[str, Any]

    def rows(self, rows: Iterable[layout.ImageRow]) -> Iterator[layout.ImageRow]:
        """Rows of the same pictures with this data set's labels."""
        for row, item in zip(rows, self.dataset.train, strict=True):
            yield dataclasses.replace(row, label=item.label)

    def plans(self, images_sha256: str) -> dict[str, dict[str, Any]]:
        """The plans by file name, given the digest of images.jsonl."""
        plan = plans.make_plan(
            self.dataset, self.teacher, self.settings, images_sha256, self.origin
        )
        wanted = {layout.PLAN: plan}
        if self.student is not None:
            name = layout.features_plan(layout.slug(self.student.name))
            wanted[name] = plans.student_plan(self.student)
        return wanted

    def parts(self) -> Iterator["Part"]:
        """Its kinds of shards."""
        top_k, count = self.settings.top_k, self.settings.regions
        yield Part(
            folder=self.folder,
            kind="labels",
            output=label.labels(self.teacher, top_k),
            encode=layout.encode_labels,
            options="group_size:1",
            record=layout.label_dtype(
                regions=count, classes=len(self.dataset.classes), top_k=top_k
            ),
            magic=layout.DENSE if top_k is None else layout.TOP_K,
        )
        if self.student is not None:
            yield Part(
                folder=self.folder,
                kind=layout.features_kind(layout.slug(self.student.name)),
                output=label.features(self.student),
                encode=layout.encode_features,
                # Random bytes to a compressor, and dense reading of them is the point of storing them.
                options="group_size:1,uncompressed",
                record=layout.feature_dtype(regions=count, width=self.student.width),
                magic=layout.FEATURES,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Shards of one kind in one folder, what goes into them, ArrayRecord's options, a picture's record and its magic."""

    folder: Path
    kind: str
    output: label.Output
    encode: Callable[..., Iterator[bytes]]
    options: str
    record: np.dtype
    magic: bytes


def check_pictures(dataset: datasets.Dataset, root: str) -> None:
    """Refuses a data set that there is nothing of to learn from or to label.

    Raises:
      DatasetError: it has test pictures alone.
    """
    if not dataset.train:
        raise datasets.DatasetError(
            f"data set {dataset.name!r} below {root} has no training pictures, it is there to be judged on: name another "
            "with config.data.dataset, and judge on this one with launch.protocol, or with config.method=zeroshot"
        )


def check_alike(targets: Sequence[Target]) -> None:
    """Refuses targets that one pass cannot serve.

    Raises:
      ValueError: they share a folder, or differ in more than their label space and k.
    """
    if len({target.folder.resolve() for target in targets}) < len(targets):
        raise ValueError(
            f"{targets[0].folder} was named for two lookups: each needs a folder of its own"
        )
    alike = {
        (target.dataset.root, dataclasses.replace(target.settings, top_k=None))
        for target in targets
    }
    if len(alike) > 1 or not all(
        datasets.same_paths(targets[0].dataset.train, target.dataset.train)
        for target in targets[1:]
    ):
        raise ValueError(
            "lookups of one pass need the same pictures and, but for top_k, the same settings: build them one by one"
        )


def from_config(
    settings: configs.Config,
    *,
    features: bool | str | None,
    also: str | Path | None,
    also_split: str | None,
    also_template: str | None,
    load: Callable[[str], clip.Clip] = towers.load,
) -> list[Target]:
    """The lookup of a configuration, and the second one if there is to be any; arguments as in `build_from_config`.

    `load` opens a model by its name: one that remembers saves opening it twice.

    Raises:
      ValueError: see there.
    """
    data, chosen = settings.data, settings.lookup
    if not chosen.dir:
        raise configs.ConfigError("config.lookup.dir is empty: name the folder to build into")
    if also is None and (also_split or also_template):
        raise ValueError(
            "also_split and also_template describe a second lookup: name its folder, also=DIR"
        )
    orders: list[tuple[str | Path, str, str]] = [(chosen.dir, data.train_split, data.template)]
    if also is not None:
        orders.append((also, also_split or data.train_split, also_template or data.template))
    labelled = [_labelled(settings, split, template) for _, split, template in orders]
    spaces = [(dataset.classes, dataset.template) for dataset, _ in labelled]
    if spaces[1:] == spaces[:1]:
        raise ValueError(
            f"also={also}: the same {len(spaces[0][0])} classes in the same {spaces[0][1]!r} would be labelled twice; "
            "give another also_split or also_template"
        )
    sizes = [
        plans.Settings(
            regions=chosen.regions,
            top_k=plans.choose_top_k(len(classes), chosen.top_k, chosen.dense),
            seed=chosen.seed,
            rule=regions.CropRule(scale=chosen.scale),
            shard_size=chosen.shard_size,
            batch_size=chosen.batch_size,
        )
        for classes, _ in spaces
    ]
    name = settings.teacher
    model = load(name)
    teacher = towers.teacher(model, name, *spaces[0], dtype=settings.dtype)
    teachers = [teacher] + [
        dataclasses.replace(teacher, label=towers.label_space(model, *space))
        for space in spaces[1:]
    ]
    if features is None:
        features = data.source != "images"
    name = settings.student if features is True else features
    student = towers.student(load(name), name, dtype=settings.dtype) if name else None
    targets = [
        Target(folder=Path(folder), dataset=dataset, teacher=teacher, settings=size, origin=origin)
        for (folder, _, _), (dataset, origin), teacher, size in zip(
            orders, labelled, teachers, sizes
        )
    ]
    return [dataclasses.replace(targets[0], student=student), *targets[1:]]


def growing(settings: configs.Config, load: Callable[[str], clip.Clip]) -> Target:
    """The lookup that a run grows: the one that a build of the same configuration makes.

    Raises:
      ValueError: see `from_config`.
    """
    (target,) = from_config(
        settings, features=True, also=None, also_split=None, also_template=None, load=load
    )
    return target


def _labelled(
    settings: configs.Config, split: str, template: str
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The pictures of a configuration in the label space of a split and a template, and what the plan says of them."""
    data = settings.data
    seeds = settings.lookup.seeds or settings.seeds or (data.seed,)
    full = datasets.read(data.dataset, data.root, template=template or None)
    check_pictures(full, data.root)
    trained = data.train_split
    picked = datasets.half(datasets.union(full, data.shots, seeds), trained)
    origin = {
        "split": trained,
        "shots": data.shots,
        "seeds": list(seeds),
        "dataset_digest": full.digest,
        "few_shot_digests": {
            str(seed): datasets.list_digest(
                datasets.half(datasets.few_shot(full, data.shots, seed), trained).train
            )
            for seed in seeds
        },
    }
    if split == trained and settings.data.dictionary:
        picked = dictionary.label_space(settings, picked)
        return picked, origin | {"label_space": "dictionary"}
    if split == trained:
        return picked, origin
    classes = datasets.half(full, split).classes
    return datasets.relabel(picked, classes), origin | {"label_space": split}
