"""FDBPL's and KDPL's runs at published size without weights or data: student ViT-B/32, teacher ViT-L/14, random numbers.

What `fdbpl_jax.inputs.open_inputs` would give, around random towers, class names of random tokens and a random lookup:
they cost what real ones do.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from core_jax import clip, world
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, inputs, prompts, text, towers

PICTURES, REGIONS, TOP_K, CONTEXT = 64, 100, 10, 4


def student() -> clip.Clip:
    """CLIP ViT-B/32 with random weights."""
    return _clip(clip.ClipConfig(), seed=0)


def teacher() -> clip.Clip:
    """CLIP ViT-L/14 with random weights."""
    vision = clip.VisionConfig(patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096)
    words = clip.TextConfig(width=768, heads=12, mlp_width=3072)
    return _clip(clip.ClipConfig(vision=vision, text=words, projection_dim=768), seed=1)


def write_pictures(folder: pathlib.Path) -> None:
    """Draw the pictures that `opened` names."""
    for index in range(PICTURES):
        picture = world.render(0, "bench", index, size=256).image
        Image.fromarray(picture).save(folder / f"{index}.jpg")


def _clip(config: clip.ClipConfig, *, seed: int) -> clip.Clip:
    params = jax.jit(lambda key: clip.init(config, key=key))(jax.random.key(seed))
    return clip.Clip(config=config, params=params, tokenizer=_RandomWords(config.text))  # pyright: ignore[reportArgumentType]


def opened(
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
