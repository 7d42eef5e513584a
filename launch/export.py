"""Write the CLIP that a contrastive run trained as a HuggingFace folder with a model card.

python -m launch.export --workdir=runs/world_teacher --out=teacher

The towers are stored in float16; the auxiliary heads stay behind. The card's zero-shot accuracy is that of what was
written, after the rounding. Under a minute.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from core_jax import clip
from core_jax.data import files
from launch import config as config_lib

_CARD = """# The {name} of the embedded world's CLIP pair

A CLIP of {parameters:,} parameters for the rendered {size} px pictures of `core_jax.world`, in HuggingFace's layout,
float16. It knows {words} words and nothing outside that world.

- Made by `python -m launch.train --config=configs/world_clip.py:{name} --workdir=RUN`, then
  `python -m launch.export --workdir=RUN --out=DIR`.
- {steps:,} steps of {batch} pictures, {minutes:.0f} minutes on 2 CPU cores shared with other work.
- Towers: vision {vision[width]} x {vision[layers]} layers, patch {vision[patch_size]}; text {text[width]} x
  {text[layers]} layers, {text[context_length]} tokens.
- Trained on `world/pretrain` (90 % clean, 5 % sketch, 5 % grain); {held_out} of {classes} compositions never appeared.

Zero-shot accuracy in percent on {scenes} validation scenes of each style, over all {classes} classes ("{template}"), and
the share of pictures whose attribute is named rightly:

| style | class | shape | colour | texture |
|---|---|---|---|---|
{rows}
"""


def main(argv: Sequence[str]) -> None:
    """Restore, export, measure what was exported, write the card."""
    del argv
    from core_jax import world
    from core_jax.train import contrastive, contrastive_data
    from launch import runs

    run = runs.restore(flags.FLAGS.workdir)
    if run.config.task != "contrastive":
        raise config_lib.ConfigError(
            f"--workdir={flags.FLAGS.workdir} holds a run of task {run.config.task!r}; only contrastive runs are exported"
        )
    settings = contrastive.read_config(run.config)
    model = contrastive.model_config(settings)
    towers = jax.tree.map(np.asarray, run.params.trainable["clip"])
    out = pathlib.Path(flags.FLAGS.out)
    tokenizer = {"tokenizer.json": clip.word_level(contrastive_data.vocabulary())}
    clip.save(out, model, towers, tokenizer_files=tokenizer, dtype="float16")
    written = clip.load(out)
    results = contrastive.evaluate(
        model, settings, written.tokenizer, {"clip": written.params}, {}, {}
    )
    cells = ("zeroshot", *contrastive_data.ATTRIBUTES)
    card = _CARD.format(
        name=run.config.name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(towers)),
        size=model.vision.image_size,
        words=len(contrastive_data.vocabulary()),
        steps=run.step,
        batch=settings.batch_size,
        minutes=runs.training_seconds(flags.FLAGS.workdir) / 60,
        vision=settings.vision,
        text=settings.text,
        held_out=len(world.HELD_OUT),
        classes=len(world.CLASSES),
        scenes=settings.eval_scenes,
        template=contrastive.TEMPLATE,
        rows="\n".join(
            f"| {style} | "
            + " | ".join(f"{results[f'{cell}/{style}/percent']:.1f}" for cell in cells)
            + " |"
            for style in world.TRAIN_STYLES
        ),
    )
    files.atomic_write(out / "README.md", card)
    print(card)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of a contrastive run", required=True)
    flags.DEFINE_string("out", None, "folder to write", required=True)
    config_lib.run(main)
