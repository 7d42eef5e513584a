"""Segmentation with CLIP's weights alone, after MaskCLIP (arXiv 2112.01071): no training, any words.

python -m launch.predict --config=configs/gba_maskclip.py --config.clip=openai/clip-vit-base-patch16 \
    --config.image_size=224 --config.templates=vild14 --input=DIR --out=DIR --classes=cat,grass

As it stands it takes the embedded world's student, which knows that world's words only. For large pictures:
--config.test.plan=sliding --config.test.resize=448 --config.test.stride=112.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """All settings of the host; what each of them means stands in gba_jax/config.py."""
    config = ml_collections.ConfigDict()
    config.task = "gba"
    config.host = "maskclip"
    config.clip = "world:student"
    config.image_size = 128
    config.dense_mode = "residual"  # cls, residual, value_only
    config.templates = "single"  # vild14, scene, single, file:NAME
    config.text_cache = ""
    config.denoise = placeholder(float)  # 0.5 in the paper
    config.key_smoothing = placeholder(float)  # 1.0 in the paper
    config.dtype = "auto"

    config.test = test = ml_collections.ConfigDict()
    test.plan = "whole"  # whole, sliding
    test.resize = 640
    test.stride = 256
    return config.lock()
