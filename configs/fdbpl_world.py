"""FDBPL and its baselines on the embedded world: real files, no download, minutes on two cores.

python -m launch.train --config=configs/fdbpl_world.py --workdir=runs/world
python -m launch.compare --config=configs/fdbpl_world.py --workdir=runs/demo --methods=zeroshot,coop,kdpl_online,fdbpl

128 base classes of 256, 4 pictures each, 64 x 64 pixels. Supervision and teacher change on the command line:
--config.method=ce, --config.method=kdpl --config.teacher_source=online. `configs/fdbpl_world.py:maple` learns MaPLe's
prompts with hard labels, as its authors do, and so on for each learner of `configs/fdbpl_learners.py`; with
--config.method=fdbpl FDBPL supervises them.
"""

import ml_collections
from ml_collections import config_dict

from configs import fdbpl_learners


def get_config(learner: str = "") -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in fdbpl_jax/config.py, losses.py, prompts.py and visual.py.

    Args:
      learner: of `fdbpl_learners.RECIPES`, for its structure and supervision; steps and rates stay. None: CoOp's context
        under FDBPL.
    """
    config = ml_collections.ConfigDict()
    config.task = "fdbpl"
    config.method = "fdbpl"  # the supervision: zeroshot, ce, kdpl, fdbpl
    config.learner = "coop"  # what is learned: fdbpl_jax/learners.py
    config.student = "world:student"
    config.teacher = "world:teacher"
    config.teacher_source = "lookup"  # or online
    config.seed = 1
    config.seeds = ()  # 1,2,3: three runs in one program, each with its own few-shot list
    config.lrs = ()  # likewise learning rates
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "world_objects"
    data.root = "data/world"
    data.template = ""
    data.templates = ()  # averaged for zero-shot, VPT, regularisers: imagenet_80, promptsrc_60, sentences
    data.shots = 4
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

    # An epoch is as many regions as there are pictures: 20 epochs see all 20 regions of each picture once.
    config.lookup = lookup = ml_collections.ConfigDict()
    lookup.dir = "data/lookup/world"
    lookup.regions = 20
    lookup.top_k = 10
    lookup.dense = config_dict.placeholder(bool)
    lookup.seed = 0
    lookup.seeds = ()
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
    visual.depth = 4

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
    loss.kl = (1.0, 0.0)  # forward alone: chosen like lr below
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
    config.epochs = 20
    config.lr = 2e-2  # chosen on another draw of the pictures (world.write_objects(root, seed=7))
    config.warmup_lr = 1e-5
    config.momentum = 0.9
    config.weight_decay = 5e-4

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 20
    config.fit.save_every = 320
    if learner:
        fdbpl_learners.apply(config, learner, recipe=False)
    return config
