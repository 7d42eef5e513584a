"""One training step of every prompt learner against the same step in torch: same towers, pictures, labels, start and losses.

"Ours" is the task's own step as a run has it; it normalises and mirrors uint8 pictures itself. "Other" is what the learners'
public code does (launch/benchmarks/torch_prompts.py), in float32 on transformers' CLIP: every sentence has the tower's whole
length, 77 tokens at published size and 32 for the embedded pair, and CoCoOp goes through the text tower once for every
picture. A second row cuts torch's sentences to the longest, so that what is left is not padding. Torch computes once what
stays the same from step to step, keeps no graph of what is frozen and uses as many threads as there are cores. What is compared
is a step on a batch that is there: no decoding on either side.

Both sides take their first step from the same numbers, and unless their losses are equal nothing is timed. Then they take turns,
some rounds, each turn of 0.2 s or one step: times are medians of the rounds, and behind the ratio of the medians stand the least
and the most ratio of a round.

Numbers of vectors and layers, and pictures a step, are the published ones (configs/fdbpl_learners.py), layers up to those of the
tower, pictures up to 16 at published size. "promptkd" and "..._online" run the teacher on every batch, on both sides;
"fdbpl" and "maple_fdbpl" read stored labels and, for text prompts, stored features, on both sides. VPT and PromptKD learn no
text, and their classes are computed once: they have one row, and no padding to save. The embedded pair has 128 classes; at
published size (student ViT-B/32, teacher ViT-B/16, random weights) there are 25, as a step of torch's text tower takes seconds
on a CPU. The more classes, the more of a step is text.

--towers=tiny,b32 chooses the sizes, --learners=coop,maple_fdbpl the rows. On two cores "tiny" takes about two minutes, "b32"
about ten.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import fdbpl_learners
from core_jax import clip, world
from core_jax.clip import config as clip_config
from core_jax.clip import weights
from core_jax.train import Task, sharding
from core_jax.train import step as step_lib
from fdbpl_jax import average, datasets, inputs, task, towers
from fdbpl_jax import config as configs
from launch import config as config_lib
from launch.benchmarks import machine, timing

# Row by row: name in results, learner, supervision (None: the learner's own).
WORKS: dict[str, tuple[str, str | None]] = {
    **{name: (name, None) for name in fdbpl_learners.RECIPES},
    "kdpl_online": ("coop", "kdpl"),
    "maple_kdpl_online": ("maple", "kdpl"),
    "fdbpl": ("coop", "fdbpl"),
    "maple_fdbpl": ("maple", "fdbpl"),
}
_TOWERS = flags.DEFINE_list("towers", ["tiny"], "prompts: sizes, of tiny, b32")
_LEARNERS = flags.DEFINE_list("learners", list(WORKS), "prompts: which rows")

TEMPLATE = "a photo of a {}."
# A turn of one side lasts at least this long.
SHORTEST_S = 0.2
LOSS_RTOL = 1e-3
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A student, a teacher, and the classes they are trained on.

    Attributes:
      name: for the rows.
      student, teacher: the models.
      classes: C names.
      pictures: most of a step.
      repeats: timed rounds.
    """

    name: str
    student: clip.Clip
    teacher: clip.Clip
    classes: tuple[str, ...]
    pictures: int
    repeats: int


def tiny() -> Size:
    """The embedded pair."""
    return Size(
        name="tiny",
        student=clip.load(world.pair("student")),
        teacher=clip.load(world.pair("teacher")),
        classes=world.CLASSES_BY_SHAPE[:128],
        pictures=128,
        repeats=7,
    )


def b32() -> Size:
    """ViT-B/32 and ViT-B/16 with random weights and the embedded pair's words."""
    return Size(
        name="B/32",
        student=random_clip(clip.VisionConfig(patch_size=32), clip.TextConfig(), seed=0),
        teacher=random_clip(clip.VisionConfig(patch_size=16), clip.TextConfig(), seed=1),
        classes=world.CLASSES_BY_SHAPE[:25],
        pictures=16,
        repeats=3,
    )


SIZES: dict[str, Callable[[], Size]] = {"tiny": tiny, "b32": b32}


def random_clip(
    vision: clip.VisionConfig, text: clip.TextConfig, *, seed: int, projection: int = 512
) -> clip.Clip:
    """Towers with random weights, the published temperature, and the embedded pair's words."""
    embedded = clip.load(world.pair("student"))
    ids = {
        f"{name}_token_id": getattr(embedded.config.text, f"{name}_token_id")
        for name in ("bos", "eos", "pad")
    }
    text = dataclasses.replace(text, **ids)
    config = clip.ClipConfig(vision=vision, text=text, projection_dim=projection)
    params = _random_params(config, seed) | {"logit_scale": jnp.log(jnp.float32(100))}
    tokenizer = clip.Tokenizer(embedded.tokenizer.folder, text)
    return clip.Clip(config=config, params=params, tokenizer=tokenizer)


def _random_params(config: clip.ClipConfig, seed: int) -> dict[str, Any]:
    """As `clip.init` makes them in form, without compiling its draws, which takes a minute at published size."""
    shapes = jax.eval_shape(lambda: clip.init(config, key=jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        constant = {"scale": 1.0, "bias": 0.0}.get(path[-1].key)
        if constant is not None:
            return jnp.full(leaf.shape, constant, leaf.dtype)
        return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def run() -> list[dict[str, Any]]:
    """Measure and print the chosen rows."""
    rows = timing.Rows("one training step: JAX, torch")
    unknown = sorted({*_TOWERS.value} - SIZES.keys() | {*_LEARNERS.value} - WORKS.keys())
    if unknown:
        raise config_lib.ConfigError(
            f"unknown: {', '.join(unknown)}; --towers are of {', '.join(SIZES)}, --learners of {', '.join(WORKS)}"
        )
    with_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not with_torch:
        print("  torch is not installed: its side of the rows is left out", flush=True)
    for name in _TOWERS.value:
        size = SIZES[name]()
        pair = torch_pair(size) if with_torch else None
        for work in _LEARNERS.value:
            learner_rows(rows, size, work, pair)
    return rows.rows


def learner_rows(rows: timing.Rows, size: Size, work: str, pair: tuple | None) -> None:
    """Rows of one learner; `pair` from `torch_pair`, None without torch."""
    opened = open_work(size, work)
    batch = make_batch(opened, size)
    ours, values = ours_call(opened, batch)
    theirs = torch_calls(opened, values, batch, pair) if pair else {}
    # The first step of each side compiles and warms up, and shows that both do the same.
    check_losses(work, ours()[0], {name: call() for name, call in theirs.items()})
    calls = [ours, *theirs.values()]
    seconds, *others = timing.rounds(calls, repeats=size.repeats, shortest_s=SHORTEST_S)
    label = f"{size.name}, {work}, batch {opened.config.batch_size}"
    if not theirs:
        rows.add_rounds(label, seconds)
    for name, other in zip(theirs, others, strict=True):
        rows.add_rounds(f"{label}: against {name}", seconds, other)


def check_losses(work: str, ours: Any, theirs: Mapping[str, Any]) -> None:
    """See that the losses of a step are the same.

    Args:
      work: whose they are.
      ours: of the JAX side.
      theirs: by name of the other sides.

    Raises:
      RuntimeError: they are not, and times would compare different work.
    """
    values = {"JAX": float(ours), **{name: float(value) for name, value in theirs.items()}}
    if not np.allclose(list(values.values()), values["JAX"], rtol=LOSS_RTOL, atol=0):
        told = ", ".join(f"{value:.7g} ({name})" for name, value in values.items())
        raise RuntimeError(
            f"{work}: the first step's losses are {told}, expected equal to {LOSS_RTOL:g} of their size: the two sides "
            "do not do the same work, and their times say nothing"
        )


def open_work(size: Size, work: str) -> inputs.Inputs:
    """What `fdbpl_jax.inputs.open_inputs` would give of a recipe, around a size's towers and classes."""
    learner, method = WORKS[work]
    changes = dict(fdbpl_learners.RECIPES[learner])
    tower = size.student.config
    deepest = {"prompt.depth": tower.text.layers, "visual.depth": tower.vit.layers}
    changes |= {key: min(changes[key], most) for key, most in deepest.items() if key in changes}
    changes["batch_size"] = min(changes["batch_size"], size.pictures)
    changes |= {"method": method or changes["method"], "data.templates": (TEMPLATE,)}
    # In one split, so that all classes are those of the size; pictures and labels come as a batch.
    changes |= {"data.split": "all", "data.transductive": False, "data.shots": 1}
    online = changes["method"] == "kdpl"
    changes |= {"teacher_source": "online" if online else "lookup", "lookup.dir": "none"}
    config = configs.read(flax.traverse_util.unflatten_dict(changes, sep="."))
    items = tuple(
        datasets.Item(path=f"{i}.jpg", label=i, name=name) for i, name in enumerate(size.classes)
    )
    train = datasets.Dataset(
        name="bench",
        root=pathlib.Path(),
        train=items,
        val=(),
        test=(),
        classes=size.classes,
        template=TEMPLATE,
    )
    plans = inputs.text_plans(config, size.student, {"train": size.classes})
    return inputs.Inputs(
        config=config,
        student=size.student,
        train=train,
        parts={},
        plans=plans if config.signs else {},
        source="features" if _stored_features(config) else "images",
        lookup=None,
        teacher=size.teacher if online else None,
        namer=inputs.namer(config, size.student, lambda _: size.teacher),
        dtype=towers.compute_dtype("float32"),
        pins={},
    )


def _stored_features(config: configs.Config) -> bool:
    return config.method == "fdbpl" and config.frozen_pictures


def make_batch(opened: inputs.Inputs, size: Size) -> dict[str, np.ndarray]:
    """Random pictures or features, hard labels, and dense soft ones."""
    rng, count = np.random.default_rng(0), opened.config.batch_size
    classes = len(size.classes)
    batch = {
        "label": rng.integers(0, classes, count).astype(np.int32),
        "mask": np.ones(count, np.float32),
        "flip": np.zeros(count, bool),
    }
    if opened.source == "features":
        batch["feature"] = _unit_rows(rng, count, size.student.config.projection_dim)
    else:
        batch["image"] = _pictures(rng, count, size.student)
    if opened.teacher is not None:
        batch["teacher_image"] = _pictures(rng, count, opened.teacher)
    elif opened.config.distilled:
        logits = rng.normal(0, 3, (count, classes))
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        batch["logp"] = logp.astype(np.float32)
        entropy = -(np.exp(logp) * logp).sum(1) / np.log(classes)
        batch["entropy"] = entropy.astype(np.float32)
    return batch


def _pictures(rng: np.random.Generator, count: int, model: clip.Clip) -> np.ndarray:
    side = model.config.vision.image_size
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def _unit_rows(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ours_call(opened: inputs.Inputs, batch: Mapping[str, np.ndarray]) -> tuple[Call, dict]:
    """(a step whose state goes on from call to call and that returns its metrics, the loss first; the values before it)."""
    job: Task = task.of_inputs(opened)
    mesh = sharding.make_mesh(None)
    first, frozen, shardings = step_lib.init(job, mesh, seed=0)
    values = jax.tree.map(np.asarray, first["trainable"])
    step, key = step_lib.make_step(job, shardings), jax.random.key(0)
    placed = jax.device_put(
        dict(batch), jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    )
    state = [first]

    def call():
        state[0], metrics = step(state[0], frozen, placed, key)
        return metrics.values

    return call, values


def sentences(opened: inputs.Inputs) -> np.ndarray:
    """Token ids (C, L) at full length, with any token wherever a vector is learned."""
    prompt = opened.config.prompt
    words = f"{'a ' * prompt.context}{prompt.words}" if opened.config.signs else "a photo of a"
    return opened.student.tokenizer([f"{words} {name}." for name in opened.train.classes])


def torch_pair(size: Size) -> tuple[Any, Any]:
    """Student and teacher in transformers, with our weights."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.set_num_threads(machine.cores())
    pair = []
    for model in (size.student, size.teacher):
        network = CLIPModel(CLIPConfig(**clip_config.to_huggingface(model.config)))
        tensors = weights.to_huggingface(model.params, model.config)
        network.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
        pair.append(network.eval().requires_grad_(False))
    return pair[0], pair[1]


def torch_calls(
    opened: inputs.Inputs, values: Mapping[str, Any], batch: Mapping[str, np.ndarray], pair: tuple
) -> dict[str, Call]:
    """The same step in torch, from the same values on: at full length, and trimmed where a text is learned.

    Args:
      opened: what ours runs on.
      values: of the prompts.
      batch: ours.
      pair: from `torch_pair`.
    """
    import torch

    from launch.benchmarks import torch_prompts

    config, ids = opened.config, sentences(opened)
    template = opened.student.tokenizer([TEMPLATE.format(name) for name in opened.train.classes])
    full, longest = ids.shape[1], int((ids == opened.student.tokenizer.eos).argmax(1).max()) + 1
    theirs = {name: torch.from_numpy(np.array(x)) for name, x in batch.items() if x.ndim < 4}
    for ours, name, model in (
        ("image", "pixels", opened.student),
        ("teacher_image", "teacher_pixels", opened.teacher),
    ):
        if model is not None and ours in batch:
            pixels = np.array(clip.normalise(jnp.asarray(batch[ours]), model.config))
            theirs[name] = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    theirs["label"] = theirs["label"].long()
    learned = {name: tree for name, tree in values.items() if name != average.NAME}
    calls = {}
    for length in (full, longest) if config.signs else (full,):
        work = torch_prompts.Work(
            learner=config.learner,
            method=config.method,
            student=pair[0],
            teacher=pair[1] if opened.teacher else None,
            ids=torch.from_numpy(ids[:, :length]).long(),
            template=torch.from_numpy(template).long(),
            teacher_ids=torch.from_numpy(template).long(),
            batch=theirs,
        )
        name = f"torch, {length} tokens" if config.signs else "torch"
        calls[name] = torch_prompts.training(work, learned)
    return calls
