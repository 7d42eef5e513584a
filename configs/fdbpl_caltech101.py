"""FDBPL at published scale on Caltech101, base to new classes.

python -m launch.data check --root=data --dataset=caltech101
python -m launch.lookup build --config=configs/fdbpl_caltech101.py
python -m launch.train --config=configs/fdbpl_caltech101.py --workdir=runs/caltech101

Student ViT-B/32, teacher ViT-H/14 trained on DFN5B; `configs/fdbpl_caltech101.py:l14_b16` is OpenAI's ViT-L/14 and
ViT-B/16, `:h14_rn50` has OpenAI's RN50 as student, for text prompts. Hub ids are downloaded when they are first used; a
folder does as well (docs/models.md). Other seeds: --config.seed=2 --config.data.seed=2 (the lookup covers the few-shot
lists of seeds 1, 2 and 3).

`configs/fdbpl_caltech101.py:l14_b16+maple` is MaPLe as published, with hard labels; so for each learner of
`configs/fdbpl_learners.py`. With --config.method=kdpl or fdbpl a teacher supervises it.
"""

import ml_collections
from ml_collections import config_dict

from configs import fdbpl_learners

# name: (student, teacher)
PAIRS = {
    "h14_b32": ("openai/clip-vit-base-patch32", "apple/DFN5B-CLIP-ViT-H-14"),
    "h14_rn50": ("timm/resnet50_clip.openai", "apple/DFN5B-CLIP-ViT-H-14"),
    "l14_b16": ("openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14"),
}


def get_config(chosen: str = "h14_b32") -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in fdbpl_jax/config.py, losses.py, prompts.py and visual.py.

    Args:
      chosen: a pair of PAIRS, a learner of `fdbpl_learners.RECIPES`, or both: "l14_b16+maple".
    """
    pair, learner = parse(chosen)
    config = ml_collections.ConfigDict()
    config.task = "fdbpl"
    config.method = "fdbpl"  # the supervision: zeroshot, ce, kdpl, fdbpl
    config.learner = "coop"  # what is learned: fdbpl_jax/learners.py
    config.student, config.teacher = PAIRS[pair]
    config.teacher_source = "lookup"  # or online
    config.seed = 1
    config.seeds = ()  # 1,2,3: three runs in one program, each with its own few-shot list
    config.lrs = ()  # likewise learning rates
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "caltech101"
    data.root = "data"
    data.template = ""
    data.templates = ()  # averaged for zero-shot, VPT, regularisers: imagenet_80, promptsrc_60, sentences
    data.shots = 16
    data.seed = 1
    data.split = "base"
    data.transductive = False  # pictures of the new classes, too, without their labels
    data.dictionary = ""  # a file of names to learn from instead of the class names: launch.protocol class_agnostic
    data.dictionary_top = 1000
    data.source = "auto"
    data.fresh = "auto"
    data.resident = "auto"
    data.workers = 0
    data.judge = "test"
    data.cache = "data/cache"

    config.lookup = lookup = ml_collections.ConfigDict()
    lookup.dir = f"data/lookup/caltech101_{pair}"
    lookup.regions = 100
    lookup.top_k = 10
    lookup.dense = config_dict.placeholder(bool)
    lookup.seed = 0
    lookup.seeds = (1, 2, 3)
    lookup.scale = (0.08, 0.936)
    lookup.shard_size = 256
    lookup.batch_size = 256

    config.prompt = prompt = ml_collections.ConfigDict()
    prompt.context = 4
    prompt.context_init = "a photo of a"
    prompt.negative_init = "a photo of no"
    prompt.words = ""
    prompt.depth = 1
    prompt.class_token_position = "end"
    prompt.class_specific = False
    prompt.text_mode = "auto"

    config.visual = visual = ml_collections.ConfigDict()  # of learners with visual tokens
    visual.tokens = 4
    visual.depth = 9

    config.average = average = ml_collections.ConfigDict()  # of learners that average over epochs
    average.mean = 15.0
    average.std = 1.0

    config.loss = loss = ml_collections.ConfigDict()
    loss.dual = True
    loss.weight = "entropy"
    loss.weight_range = (0.0, 1.0)
    loss.pcd = "hinge"
    loss.pcd_unit = False
    loss.margin = 0.2
    loss.kl = (0.5, 0.5)
    loss.lam_neg = 1.0
    loss.lam_dis = 1e-3
    loss.lam_pcd = 0.1
    loss.recover = "spread"
    loss.kgcoop_weight = 8.0
    loss.prograd_lambda = 1.0
    loss.promptsrc_text = 25.0
    loss.promptsrc_image = 10.0
    loss.promptsrc_logits = 1.0
    loss.kd_weight = 1000.0

    config.batch_size = 32
    config.regions_per_visit = 2
    config.epochs = 50
    config.lr = 2e-3
    config.warmup_lr = 1e-5
    config.momentum = 0.9
    config.weight_decay = 5e-4

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 50
    config.fit.save_every = 500
    if learner:
        fdbpl_learners.apply(config, learner)
    return config


def parse(chosen: str) -> tuple[str, str]:
    """The pair and the learner, or "", in what `get_config` is given."""
    parts = chosen.split("+")
    pairs = [part for part in parts if part in PAIRS]
    learners = [part for part in parts if part in fdbpl_learners.RECIPES]
    if len(pairs) > 1 or len(learners) > 1 or len(pairs) + len(learners) < len(parts):
        raise ValueError(
            f"{chosen!r} after the configuration's name: expected one of {', '.join(PAIRS)}, or of the learners "
            f"{', '.join(fdbpl_learners.RECIPES)}, or one of each with + between them"
        )
    return pairs[0] if pairs else "h14_b32", learners[0] if learners else ""
