"""GBA on the embedded world: open-vocabulary segmentation with words and styles never seen in training.

python -m launch.data scenes --root=data/world
python -m launch.train --config=configs/gba_world.py --workdir=runs/gba [--config.adapters.use=none|sda|cca|both]
python -m launch.compare --config=configs/gba_world.py --workdir=runs/gba --methods=zeroshot,host,sda,cca,both --seeds=1,2,3

Cost aggregation on the shipped student: 2,000 scenes of 128 x 128 pixels, 64 kinds of objects and "background". 24 of the
kinds never appear in training; they are the unseen words of the splits "novel" and "both".
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gba_jax/config.py, adapters/config.py and hosts/cost_config.py."""
    config = ml_collections.ConfigDict()
    config.task = "gba"
    config.host = "cost"  # maskclip, cost, masks
    config.clip = "world:student"
    config.image_size = 128
    config.dense_mode = "cls"
    config.templates = "single"
    config.text_cache = ""
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them

    config.adapters = adapters = ml_collections.ConfigDict()
    adapters.use = "both"  # none, sda, cca, both
    adapters.shallow = "auto"
    adapters.deep = "auto"
    adapters.preset = "intent"
    adapters.sda_mode = "perturb"
    adapters.sda_flow = "through"
    adapters.sda_width = "auto"
    adapters.style = "bank"
    adapters.refresh_epochs = 1.0
    adapters.fill_bank = False
    adapters.cca_width = "compact"
    adapters.norm = "pcnorm_in"
    adapters.clip_tap = "pre_cca"
    adapters.sample_vocabulary = 0.5

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "world_scenes"
    data.root = "data/world"
    data.split = "train"
    data.classes = ""
    data.unseen = "world"
    data.augment = "crop"
    data.amplitude = "none"
    data.slots = 8
    data.workers = 0
    data.judge = ("val", "novel", "style", "both")
    data.judge_limit = 0
    data.shifts = False

    config.cost = cost = ml_collections.ConfigDict()
    cost.form = "window"
    cost.width = 32
    cost.heads = 4
    cost.expansion = 2
    cost.layers = 1
    cost.window = 8
    cost.guide = 32
    cost.lateral = (32, 16)
    cost.features = (8, 8)
    cost.guides = (4, 4)
    cost.most_classes = 24
    cost.train_classes = 8
    cost.vocabulary = 0

    # The other host: --config.host=masks. Panoptic output; it needs more steps than cost aggregation.
    config.masks = masks = ml_collections.ConfigDict()
    masks.queries = 20
    masks.layers = 3
    masks.heads = 4
    masks.width = 64
    masks.feed_forward = 128
    masks.pixel_decoder = "fpn_attn"
    masks.pixel_layers = 1
    masks.pixel_feed_forward = 128
    masks.groups = 8
    config.mask_loss = ml_collections.ConfigDict()
    config.mask_loss.points = 512
    config.mask_loss.match = ml_collections.ConfigDict({"points": 512})

    config.batch_size = 8
    config.steps = 300
    config.lr = 3e-3  # chosen on another draw of the scenes (world.write_scenes(root, seed=7)), one seed, host alone
    config.host_lr = 1.0
    config.schedule = "cosine"
    config.warmup = 0
    config.weight_decay = 1e-4
    config.clip_norm = 0.01

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 10
    config.fit.save_every = 100
    return config
