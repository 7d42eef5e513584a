"""A small labelled folder of noise pictures, and linear towers in CLIP's place: what the lookup's tests build from."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fdbpl_jax import build, datasets, plan, target, towers

CLASSES = 7
SIZE = 12


def write_pictures(root: pathlib.Path, count: int) -> datasets.Dataset:
    """`count` PNG files of several sizes, unless they are there; labels go round."""
    root.mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(count):
        random = np.random.default_rng(i)
        shape = (int(random.integers(20, 60)), int(random.integers(20, 60)), 3)
        # Smooth pictures, so that regions of one picture differ less than pictures do.
        low = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
        if not (root / f"{i:03d}.png").exists():
            low.resize(shape[1::-1], Image.Resampling.BICUBIC).save(root / f"{i:03d}.png")
        items.append(datasets.Item(f"{i:03d}.png", i % CLASSES, f"class_{i % CLASSES}"))
    return datasets.Dataset(
        name="stub",
        root=root,
        train=tuple(items),
        val=(),
        test=tuple(items[:3]),
        classes=tuple(f"class_{c}" for c in range(CLASSES)),
        template="a {}.",
    )


def _linear(seed: int, width: int):
    weights = jax.random.normal(jax.random.key(seed), (SIZE * SIZE * 3, width)) * 0.1

    def run(pixels, flip):
        seen = jnp.where(jnp.asarray(flip)[:, None, None, None], pixels[:, :, ::-1], pixels)
        return seen.astype(jnp.float32).reshape(len(seen), -1) / 255.0 @ weights

    return run


def teacher(
    seed: int = 0, classes: int = CLASSES, digest: str = "teacher-digest"
) -> towers.Teacher:
    return towers.Teacher(
        name="stub:teacher",
        digest=digest,
        dtype="float32",
        logit_scale=100.0,
        image_size=SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        features=jax.jit(_linear(seed, classes)),
        label=lambda features: features,
    )


def student(seed: int = 5, width: int = 8, digest: str = "student-digest") -> towers.Student:
    tower = _linear(seed, width)

    def unit(pixels, flip):
        features = tower(pixels, flip)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    return towers.Student(
        name="stub:student",
        digest=digest,
        dtype="float32",
        image_size=SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        width=width,
        features=jax.jit(unit),
    )


def settings(**changes) -> plan.Settings:
    """Eight regions of each picture, three classes stored, four pictures a shard."""
    values = {"regions": 8, "top_k": 3, "shard_size": 4, "batch_size": 16, "threads": 2} | changes
    return plan.Settings(**values)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a lookup but the log of times."""
    return {
        path.name: path.read_bytes()
        for path in sorted(pathlib.Path(folder).iterdir())
        if path.name != "timing.jsonl"
    }


def two_targets(folder: pathlib.Path, dataset: datasets.Dataset) -> list[target.Target]:
    """A lookup with features in `folder`/one, and in `folder`/two another label space: five of the classes, dense."""
    one = target.Target(
        folder=folder / "one",
        dataset=dataset,
        teacher=teacher(),
        settings=settings(),
        student=student(),
        origin={},
    )
    mix = jax.random.normal(jax.random.key(9), (CLASSES, 5)) * 0.3
    space = dataclasses.replace(
        datasets.relabel(dataset, dataset.classes[:1:-1]), template="the {}."
    )
    return [
        one,
        target.Target(
            folder=folder / "two",
            dataset=space,
            teacher=dataclasses.replace(one.teacher, label=lambda features: features @ mix),
            settings=settings(top_k=None),
            origin={"label_space": "some"},
        ),
    ]


def start(function, *args) -> multiprocessing.process.BaseProcess:
    """Runs a function of a module in a process of its own, forked from one that has imported JAX but not started it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.conftest"])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def kill_at(last: int) -> None:
    """Makes this process kill itself at the last-th moment at which the disk changes; 0: never."""
    calls = 0

    def counted(real):
        def call(*args):
            nonlocal calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    # Every file is synced, renamed, and its folder synced.
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def build_until_killed(
    dataset: datasets.Dataset, folder: pathlib.Path, last: int, share: tuple[int, int]
) -> None:
    """Builds `two_targets` in a process that kills itself: `kill_at`."""
    kill_at(last)
    build.build_all(two_targets(folder, dataset), shards=share)
