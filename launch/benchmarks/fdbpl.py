"""One training step of FDBPL from the lookup against KDPL with its teacher online: same student, data, batch.

At published size: student ViT-B/32, teacher ViT-L/14, random weights, B = 32 regions, M = 4 context tokens, 100 and
1,000 classes, top-10 labels, student features stored. KDPL decodes and crops pictures, runs teacher and image tower on
them; once with this project's shared-prefix text tower and once as published, with 77 tokens per class. Then the embedded
pair on the embedded world, everything read from real files. A row of FDBPL's own cost with the lookup's build: the number
of runs after which building it has paid off.

About 15 minutes on 2 cores; --sizes=embedded takes one.
"""

import dataclasses
import functools
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from core_jax import clip, world
from core_jax.train import Task, sharding
from core_jax.train import step as step_lib
from fdbpl_jax import build, datasets, inputs, prompts, task, text, towers
from fdbpl_jax import config as configs
from launch import config as config_lib
from launch.benchmarks import timing

_SIZES = flags.DEFINE_list("sizes", ["100", "1000", "embedded"], "fdbpl: class counts, embedded")

PICTURES, REGIONS, TOP_K, CONTEXT = 64, 100, 10, 4
EPOCHS = 50
# Steps longer than this are timed once: their spread is far below what the rows tell apart.
_LONG = 10.0


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows("one training step, B = 32")
    counts = [int(size) for size in _SIZES.value if size != "embedded"]
    with tempfile.TemporaryDirectory() as folder:
        if counts:
            _published(rows, counts, pathlib.Path(folder))
        if "embedded" in _SIZES.value:
            _embedded(rows, pathlib.Path(folder))
    return rows.rows


def _published(rows: timing.Rows, counts: list[int], folder: pathlib.Path) -> None:
    student = _random_clip(clip.ClipConfig(), seed=0)
    vision = clip.VisionConfig(patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096)
    words = clip.TextConfig(width=768, heads=12, mlp_width=3072)
    teacher = _random_clip(clip.ClipConfig(vision=vision, text=words, projection_dim=768), seed=1)
    for index in range(PICTURES):
        Image.fromarray(world.render(0, "bench", index, size=256).image).save(
            folder / f"{index}.jpg"
        )
    teacher_batch = None
    for count in counts:
        work = f"B/32, L/14, {count} classes"
        parts = {}
        ours = _inputs("fdbpl", "auto", student, None, count, folder)
        seconds = _step(ours, parts)
        online = _inputs("kdpl", "auto", student, teacher, count, folder)
        same_text = _step(online, parts)
        rows.add(f"{work}: FDBPL against KDPL, same text tower", seconds, same_text)
        full = _inputs("kdpl", "full", student, teacher, count, folder)
        rows.add(f"{work}: FDBPL against KDPL, 77 tokens", seconds, _step(full, parts))
        if teacher_batch is None:
            teacher_batch = _tower_seconds(teacher, 32)
        rows.add(f"{work}, of KDPL's step: the teacher", teacher_batch)
        rows.add(f"{work}, of KDPL's step: the image tower", _tower_seconds(student, 32))
        rows.add(f"{work}, of KDPL's step: decoding and cropping", parts["kdpl input"])
        rows.add(f"{work}, of KDPL's step: the text tower", _text_seconds(online, 1))
        rows.add(f"{work}, of FDBPL's step: the text tower", _text_seconds(ours, 2))
        rows.add(f"{work}, of FDBPL's step: input", parts["fdbpl input"])
        _break_even(rows, work, teacher_batch / 32, same_text, seconds)


def _embedded(rows: timing.Rows, folder: pathlib.Path) -> None:
    """The shipped pair, real pictures, a real lookup with stored features."""
    world.write_objects(
        folder, train_per_class=2, val_per_class=1, test_per_class=1, progress=False
    )
    base = config_lib.load("configs/fdbpl_world.py")
    changes = {
        "data.root": str(folder),
        "data.shots": 2,
        "lookup.dir": str(folder / "lookup"),
        "lookup.regions": 8,
    }
    config = config_lib.override(base, changes | {"method": "fdbpl"})
    start = time.perf_counter()
    build.build_from_config(config.to_dict(), progress=False)
    built = time.perf_counter() - start
    ours_inputs = inputs.open_inputs(configs.read(config))
    online = config_lib.override(config, {"method": "kdpl", "teacher_source": "online"})
    online_inputs = inputs.open_inputs(configs.read(online))
    full = config_lib.override(online, {"prompt.text_mode": "full"})
    parts: dict[str, float] = {}
    work = f"embedded pair, {len(ours_inputs.train.classes)} classes"
    seconds = _step(ours_inputs, parts)
    same_text = _step(online_inputs, parts)
    rows.add(f"{work}: FDBPL against KDPL, same text tower", seconds, same_text)
    whole = inputs.open_inputs(configs.read(full))
    rows.add(f"{work}: FDBPL against KDPL, full context", seconds, _step(whole, parts))
    assert online_inputs.teacher is not None  # the teacher of an online run is always loaded
    rows.add(f"{work}, of KDPL's step: the teacher", _tower_seconds(online_inputs.teacher, 32))
    rows.add(f"{work}, of KDPL's step: the image tower", _tower_seconds(online_inputs.student, 32))
    rows.add(f"{work}, of KDPL's step: decoding and cropping", parts["kdpl input"])
    rows.add(f"{work}, of KDPL's step: the text tower", _text_seconds(online_inputs, 1))
    rows.add(f"{work}, of FDBPL's step: the text tower", _text_seconds(ours_inputs, 2))
    rows.add(f"{work}, of FDBPL's step: input", parts["fdbpl input"])
    _break_even(rows, work, built / (len(ours_inputs.train.train) * 8), same_text, seconds)


def _step(opened: inputs.Inputs, parts: dict[str, float]) -> float:
    """Seconds of one whole step, its input included, and of the input alone (into `parts`)."""
    mesh = sharding.make_mesh(None)
    job = _task(opened)
    state, frozen, shardings = step_lib.init(job, mesh, seed=0)
    step, key = step_lib.make_step(job, shardings), jax.random.key(0)
    batches = iter(job.train_data(0))
    next(batches)
    start = time.perf_counter()
    for _ in range(10):
        batch = next(batches)
    parts[f"{opened.config.method} input"] = (time.perf_counter() - start) / 10
    placed = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    compiled = step.lower(state, frozen, jax.device_put(batch, placed), key).compile()
    best, repeats = float("inf"), 1
    while repeats <= 20:
        start = time.perf_counter()
        state, metrics = compiled(state, frozen, jax.device_put(next(batches), placed), key)
        jax.block_until_ready(metrics)
        best, repeats = min(best, time.perf_counter() - start), repeats + 1
        if best > _LONG:
            break
    return best


def _task(opened: inputs.Inputs) -> Task:
    """The task's own parts, without reading anything from a config file."""
    return Task(
        init=functools.partial(task.init, opened),
        loss=functools.partial(task.loss, opened),
        train_data=functools.partial(task.train_data, opened),
        evaluate=lambda *_: {},
        optimizer=functools.partial(task.optimizer, opened.config, 1),
        sharding_rules=(("trainable/.*", jax.sharding.PartitionSpec()),),
        total_steps=1,
    )


def _tower_seconds(model: clip.Clip, batch: int) -> float:
    size = model.config.vision.image_size
    tower = towers.student(model, "")
    pixels, flip = np.zeros((batch, size, size, 3), np.uint8), np.zeros(batch, bool)
    return timing.seconds(lambda: tower.features(pixels, flip), repeats=1)


def _text_seconds(opened: inputs.Inputs, sets: int) -> float:
    """Class features and their gradient with respect to the context."""
    student, plan = opened.student, opened.plans["train"]
    context = jnp.zeros((sets, CONTEXT, student.config.text.width))

    @jax.jit
    def gradient(context, params):
        def total(context):
            return jnp.sum(text.class_features(params, student.config, plan, context)[..., 0])

        return jax.grad(total)(context)

    params = {"text": student.params["text"]}
    return timing.seconds(lambda: gradient(context, params), repeats=1)


def _break_even(rows: timing.Rows, work: str, region: float, online: float, offline: float) -> None:
    """R n teacher passes against n E / B steps that are each cheaper: n cancels."""
    runs = REGIONS * region * 32 / (EPOCHS * (online - offline))
    rows.add(f"{work}, building the lookup, per region", region)
    print(
        f"  R = {REGIONS}, E = {EPOCHS}: 1,600 pictures take {1600 * REGIONS * region / 60:,.0f} min to label; "
        f"paid off after {runs:.1f} runs",
        flush=True,
    )


def _random_clip(config: clip.ClipConfig, *, seed: int) -> clip.Clip:
    params = jax.jit(lambda key: clip.init(config, key=key))(jax.random.key(seed))
    return clip.Clip(config=config, params=params, tokenizer=_RandomWords(config.text))  # pyright: ignore[reportArgumentType]


def _inputs(
    method: str,
    mode: str,
    student: clip.Clip,
    teacher: clip.Clip | None,
    count: int,
    folder: pathlib.Path,
) -> inputs.Inputs:
    """What `fdbpl_jax.inputs.open_inputs` would give, around random towers."""
    online = teacher is not None
    config = configs.Config(
        method=method,
        teacher_source="online" if online else "lookup",
        epochs=1,
        prompt=prompts.PromptConfig(context=CONTEXT, context_init="", negative_init=""),
        data=configs.DataConfig(fresh="True" if online else "False"),
    )
    items = tuple(
        datasets.Item(path=f"{i}.jpg", label=i % count, name=f"class {i % count}")
        for i in range(PICTURES)
    )
    names = tuple(f"class {i}" for i in range(count))
    dataset = datasets.Dataset(
        name="bench", root=folder, train=items, val=(), test=(), classes=names, template="a {}."
    )
    plan = text.plan(_sentences(count, student.config.text), mode=mode)
    return inputs.Inputs(
        config=config,
        student=student,
        train=dataset,
        parts={},
        plans={"train": plan},
        source="fresh" if online else "resident",
        lookup=None if online else _RandomLookup(count, student.config),  # pyright: ignore[reportArgumentType]
        teacher=teacher,
        dtype=towers.compute_dtype(),
        pins={},
    )


def _sentences(count: int, config: clip.TextConfig) -> prompts.Layout:
    """Random class names of one to four tokens, a full stop and the end token behind start and context."""
    rng = np.random.default_rng(0)
    front = 1 + CONTEXT
    lengths = rng.choice([1, 2, 3, 4], size=count, p=[0.3, 0.4, 0.2, 0.1])
    end = (front + lengths + 1).astype(np.int32)
    total = int(end.max()) + 1
    ids = rng.integers(300, 40_000, (count, total)).astype(np.int32)
    ids[:, :front] = config.bos_token_id
    ids[np.arange(total)[None, :] >= end[:, None]] = config.eos_token_id
    slots = np.full((count, total), -1, np.int32)
    slots[:, 1:front] = np.arange(CONTEXT)
    return prompts.Layout(ids=ids, slots=slots, end=end, front=front)


class _RandomWords:
    """Stands for a tokenizer: every text is four random tokens, which costs the tower what real ones do."""

    def __init__(self, config: clip.TextConfig):
        self._config = config

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Ids of the form a `clip.Tokenizer` gives, int32 [n, 77]."""
        ids = np.full((len(texts), 77), self._config.eos_token_id, np.int32)
        ids[:, 0] = self._config.bos_token_id
        ids[:, 1:5] = np.random.default_rng(0).integers(300, 40_000, (len(texts), 4))
        return ids


class _RandomLookup:
    """Arrays of the form a resident top-k lookup with stored features has."""

    def __init__(self, count: int, config: clip.ClipConfig):
        rng = np.random.default_rng(0)
        shape = (PICTURES, REGIONS)
        logp = -np.sort(rng.exponential(2.0, (*shape, TOP_K)), axis=-1)
        feature = rng.normal(size=(*shape, config.projection_dim))
        self._arrays = {
            "index": rng.integers(0, count, (*shape, TOP_K)).astype(np.uint16),
            "logp": logp.astype(np.float16),
            "rest": np.full(shape, -2.0, np.float16),
            "entropy": rng.uniform(size=shape).astype(np.float16),
            "feature": feature.astype(np.float16),
        }
        self.regions, self.student = REGIONS, "random"
        self.images = tuple(_Row(str(i)) for i in range(PICTURES))

    def arrays(self) -> dict[str, np.ndarray]:
        """As `fdbpl_jax.lookup.Lookup.arrays`."""
        return self._arrays

    def rows_of(self, items: Any) -> np.ndarray:
        """As `fdbpl_jax.lookup.Lookup.rows_of`."""
        return np.arange(len(items))


@dataclasses.dataclass(frozen=True)
class _Row:
    sha256: str
