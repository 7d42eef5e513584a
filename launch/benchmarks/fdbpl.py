"""One training step of FDBPL from the lookup against KDPL with its teacher online: same student, data, batch.

At published size: student ViT-B/32, teacher ViT-L/14, random weights, B = 32 regions, M = 4 context tokens, top-10 labels,
student features stored. KDPL decodes and crops pictures, runs teacher and image tower on them; once with this project's
shared-prefix text tower and once as published, with 77 tokens per class. Then the embedded pair on the embedded world,
everything read from real files; its full context is 32 tokens. Times of a step include fetching its batch, which is read
ahead by a thread.

Building a lookup runs the teacher R n times for n pictures and R regions each. A first run cannot beat online distillation in
teacher work unless R is below the number of epochs E: the number of runs after which the build has paid off is
build / (online run - offline run), close to R / E. The gain is reuse: by ablations, sweeps, prompt methods, students, and
seeds whose few-shot lists overlap.

--sizes=100,1000,embedded chooses the numbers of classes at published size, and the embedded pair.
"""

import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from core_jax import clip
from fdbpl_jax import build, inputs, text, towers
from fdbpl_jax import config as configs
from launch import config as config_lib
from launch.benchmarks import embedded, published, steps, timing

_SIZES = flags.DEFINE_list("sizes", ["100", "embedded"], "fdbpl: class counts, embedded")

EPOCHS = 50


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
    student, teacher = published.student(), published.teacher()
    published.write_pictures(folder)
    teacher_batch = None
    for count in counts:
        work = f"B/32, L/14, {count} classes"
        ours = published.opened("fdbpl", "auto", student, None, count, folder)
        seconds, our_input = steps.seconds(ours)
        online = published.opened("kdpl", "auto", student, teacher, count, folder)
        same_text, _ = steps.seconds(online)
        rows.add(f"{work}: FDBPL against KDPL, same text tower", seconds, same_text)
        full = published.opened("kdpl", "full", student, teacher, count, folder)
        full_text, online_input = steps.seconds(full)
        rows.add(f"{work}: FDBPL against KDPL, 77 tokens", seconds, full_text)
        if teacher_batch is None:
            teacher_batch = _tower_seconds(teacher, 32)
        rows.add(f"{work}, of KDPL's step: the teacher", teacher_batch)
        rows.add(f"{work}, of KDPL's step: the image tower", _tower_seconds(student, 32))
        rows.add(f"{work}, of KDPL's step: decoding and cropping", online_input)
        rows.add(f"{work}, of KDPL's step: the text tower", _text_seconds(online, 1))
        rows.add(f"{work}, of FDBPL's step: the text tower", _text_seconds(ours, 2))
        rows.add(f"{work}, of FDBPL's step: input", our_input)
        _break_even(rows, work, teacher_batch / 32, same_text, seconds)


def _embedded(rows: timing.Rows, folder: pathlib.Path) -> None:
    """The shipped pair, real pictures, a real lookup with stored features."""
    config = embedded.fdbpl(folder, shots=2, regions=8)
    start = time.perf_counter()
    build.build_from_config(config.to_dict(), progress=False)
    built = time.perf_counter() - start
    ours = inputs.open_inputs(configs.read(config))
    online_config = config_lib.override(config, embedded.ONLINE)
    online = inputs.open_inputs(configs.read(online_config))
    full_config = config_lib.override(online_config, {"prompt.text_mode": "full"})
    work = f"embedded pair, {len(ours.train.classes)} classes"
    seconds, our_input = steps.seconds(ours)
    same_text, _ = steps.seconds(online)
    rows.add(f"{work}: FDBPL against KDPL, same text tower", seconds, same_text)
    full_text, online_input = steps.seconds(inputs.open_inputs(configs.read(full_config)))
    rows.add(f"{work}: FDBPL against KDPL, full context", seconds, full_text)
    assert online.teacher is not None  # the teacher of an online run is always loaded
    rows.add(f"{work}, of KDPL's step: the teacher", _tower_seconds(online.teacher, 32))
    rows.add(f"{work}, of KDPL's step: the image tower", _tower_seconds(online.student, 32))
    rows.add(f"{work}, of KDPL's step: decoding and cropping", online_input)
    rows.add(f"{work}, of KDPL's step: the text tower", _text_seconds(online, 1))
    rows.add(f"{work}, of FDBPL's step: the text tower", _text_seconds(ours, 2))
    rows.add(f"{work}, of FDBPL's step: input", our_input)
    _break_even(rows, work, built / (len(ours.train.train) * 8), same_text, seconds)


def _tower_seconds(model: clip.Clip, batch: int) -> float:
    size = model.config.vision.image_size
    tower = towers.student(model, "")
    pixels, flip = np.zeros((batch, size, size, 3), np.uint8), np.zeros(batch, bool)
    return timing.seconds(lambda: tower.features(pixels, flip), repeats=1)


def _text_seconds(opened: inputs.Inputs, sets: int) -> float:
    """Class features and their gradient with respect to the context."""
    student, plan = opened.student, opened.plans["train"]
    context = jnp.zeros((sets, published.CONTEXT, student.config.text.width))

    @jax.jit
    def gradient(context, params):
        def total(context):
            return jnp.sum(text.class_features(params, student.config, plan, context)[..., 0])

        return jax.grad(total)(context)

    params = {"text": student.params["text"]}
    return timing.seconds(lambda: gradient(context, params), repeats=1)


def _break_even(rows: timing.Rows, work: str, region: float, online: float, offline: float) -> None:
    """R n teacher passes against n E / B steps that are each cheaper: n cancels."""
    count = published.REGIONS
    runs = count * region * 32 / (EPOCHS * (online - offline))
    rows.add(f"{work}, building the lookup, per region", region)
    rows.note(
        f"R = {count}, E = {EPOCHS}: 1,600 pictures take {1600 * count * region / 60:,.0f} min to label; "
        f"paid off after {runs:.1f} runs"
    )
