"""GBA on FC-CLIP (arXiv 2308.02487): mask classification on OpenCLIP ConvNeXt-L, COCO panoptic, at the published scale.

python -m launch.data check --root=data --dataset=coco_panoptic
python -m launch.train --config=configs/gba_fcclip_convnext_l.py --workdir=runs/fcclip [--config.adapters.use=none|sda|cca|both]

Comparisons on a ConvNeXt have no training-free row: --methods=host,sda,cca,both. Data: docs/gba_data.md. 1,024-pixel large-scale jitter, batch 16, 368,750 steps: a pod's work. On a host that is trained already,
only the adapters need a full rate: --config.init_from=runs/fcclip --config.host_lr=0.1 --config.steps=30000
--config.schedule=cosine --config.warmup=500.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gba_jax/config.py, adapters/config.py, losses.py and hosts/masks.py."""
    config = ml_collections.ConfigDict()
    config.task = "gba"
    config.host = "masks"
    config.clip = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
    config.image_size = 1024
    config.templates = "vild14"
    config.text_cache = "data/text_cache/convnext_l"
    config.remat = True
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.alpha = 0.4
    config.beta = 0.8

    config.adapters = adapters = ml_collections.ConfigDict()
    adapters.use = "both"  # none, sda, cca, both
    adapters.shallow = "auto"
    adapters.deep = "auto"
    adapters.preset = "intent"  # released
    adapters.sda_mode = "perturb"
    adapters.sda_flow = "through"  # stop is cheaper
    adapters.sda_width = "auto"
    adapters.style = "bank"
    adapters.refresh_epochs = 3.0
    adapters.fill_bank = False
    adapters.cca_width = "compact"
    adapters.norm = "pcnorm_in"
    adapters.clip_tap = "pre_cca"
    adapters.sample_vocabulary = 0.5

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "coco_panoptic"
    data.root = "data"
    data.split = "train"
    data.classes = ""
    data.unseen = ""
    data.augment = "lsj"
    data.amplitude = "none"
    data.slots = 64
    data.workers = 16
    data.judge = ("val", "ade20k_150:val", "cityscapes:val")
    data.judge_limit = 0
    data.shifts = False

    config.masks = masks = ml_collections.ConfigDict()
    masks.queries = 250
    masks.layers = 9
    masks.heads = 8
    masks.width = 256
    masks.feed_forward = 2048
    masks.pixel_decoder = "deform"  # fpn_attn
    masks.pixel_layers = 6
    masks.pixel_feed_forward = 1024
    masks.points = 4
    masks.groups = 32

    config.mask_loss = loss = ml_collections.ConfigDict()
    loss.class_weight = 2.0
    loss.bce_weight = 5.0
    loss.dice_weight = 5.0
    loss.no_object = 0.1
    loss.points = 12_544
    loss.oversample = 3.0
    loss.importance = 0.75
    loss.match = match = ml_collections.ConfigDict()
    match.class_weight = 2.0
    match.bce_weight = 5.0
    match.dice_weight = 5.0
    match.points = 12_544
    match.matcher = "jax"

    config.test = test = ml_collections.ConfigDict()
    test.plan = "padded"
    test.short = 800
    test.long = 1333
    test.batch_size = 1

    config.batch_size = 16
    config.steps = 368_750
    config.lr = 1e-4
    config.host_lr = 1.0
    config.schedule = "steps"
    config.warmup = 10
    config.weight_decay = 0.05
    config.clip_norm = 0.01
    config.init_from = ""

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 50
    config.fit.save_every = 5_000
    return config
