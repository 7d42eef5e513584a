"""GBA on CAT-Seg (arXiv 2303.11797): cost aggregation on CLIP ViT-B/16 at 384 pixels, COCO-Stuff, at the published scale.

python -m launch.data check --root=data --dataset=coco_stuff
python -m launch.train --config=configs/gba_catseg_vitb16.py --workdir=runs/catseg [--config.adapters.use=none|sda|cca|both]

Data: docs/gba_data.md. Batch 4, 80,000 steps. CAT-Seg itself also trains the image tower's query and value projections
(--config.clip_finetune=qv) and its text tower, which stays frozen here so that text rows are made once.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gba_jax/config.py, adapters/config.py and hosts/cost_config.py."""
    config = ml_collections.ConfigDict()
    config.task = "gba"
    config.host = "cost"
    config.clip = "openai/clip-vit-base-patch16"
    config.image_size = 384
    config.dense_mode = "cls"
    config.templates = "scene"
    config.text_cache = "data/text_cache/vit_b16"
    config.clip_finetune = "none"  # qv, full
    config.clip_lr = 0.01
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
    data.dataset = "coco_stuff"
    data.root = "data"
    data.split = "train"
    data.classes = ""
    data.unseen = ""
    data.augment = "crop"
    data.amplitude = "none"
    data.workers = 8
    data.judge = ("val", "ade20k_150:val", "pc59:val", "voc20:val")
    data.judge_limit = 0
    data.shifts = False

    config.cost = cost = ml_collections.ConfigDict()
    cost.form = "window"
    cost.width = 128
    cost.heads = 4
    cost.expansion = 4
    cost.layers = 2
    cost.window = 12
    cost.guide = 128
    cost.lateral = (256, 128)
    cost.features = (64, 32)
    cost.guides = (32, 16)
    cost.most_classes = 256
    cost.train_classes = 256
    cost.vocabulary = 256

    config.test = test = ml_collections.ConfigDict()
    test.plan = "sliding"  # whole
    test.resize = 640
    test.stride = 256
    test.batch_size = 1

    config.batch_size = 4
    config.steps = 80_000
    config.lr = 2e-4
    config.host_lr = 1.0
    config.schedule = "cosine"
    config.warmup = 0
    config.weight_decay = 1e-4
    config.clip_norm = 0.01
    config.init_from = ""

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 50
    config.fit.save_every = 2_000
    return config
