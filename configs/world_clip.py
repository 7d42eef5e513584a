"""Pre-trains the small CLIP pair of the embedded world.

python -m launch.train --config=configs/world_clip.py:teacher --workdir=runs/world_teacher
python -m launch.train --config=configs/world_clip.py:student --workdir=runs/world_student
python -m launch.export --workdir=runs/world_teacher --out=teacher
"""

import ml_collections

# name: (vision width, vision layers, steps)
MODELS = {"student": (128, 4, 600), "teacher": (192, 6, 900)}


def get_config(name: str = "student") -> ml_collections.ConfigDict:
    """The configuration of "student" or "teacher"."""
    if name not in MODELS:
        raise ValueError(f"world_clip.py:{name}: expected one of {', '.join(MODELS)}")
    width, layers, steps = MODELS[name]
    config = ml_collections.ConfigDict()
    config.task = "contrastive"
    config.name = name
    config.seed = 0
    config.dtype = "float32"  # bfloat16, parity, auto
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them

    config.vision = {
        "image_size": 64,
        "patch_size": 8,
        "width": width,
        "layers": layers,
        "heads": width // 32,
        "mlp_width": 4 * width,
        "activation": "quick_gelu",
    }
    config.text = {
        "context_length": 32,
        "width": 128,
        "layers": 2,
        "heads": 4,
        "mlp_width": 512,
        "activation": "quick_gelu",
    }
    config.projection_dim = 128

    config.batch_size = 96
    config.steps = steps
    config.warmup_steps = 50
    config.lr = 2e-3  # AdamW: embeddings, norms, biases, projections
    config.matrix_lr = 2e-2  # Muon: the blocks' matrices
    config.weight_decay = 0.01
    config.attribute_weight = 0.5
    config.outline_weight = 4.0
    config.dense_weight = 0.5
    config.patches_kept = 32  # of 64, at most steps
    config.full_share = 0.15  # of steps that see every patch
    config.crop_share = 0.2
    config.crop_scale = (0.5, 1.0)
    config.eval_scenes = 480

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 20
    config.fit.save_every = 100
    config.fit.eval_every = 200
    return config
