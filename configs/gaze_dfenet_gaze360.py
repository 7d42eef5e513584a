"""CLIP-DFENet on Gaze360 as GazeHub crops it, with the official lists, at the published settings.

python -m launch.compare --config=configs/gaze_dfenet_gaze360.py --workdir=runs/gaze360 --methods=all \
    --config.data.root=Gaze360 --config.dfenet.clip=CLIP_RN50

--config.data.protocol=front judges the faces that look to within 90 degrees of the camera.

CLIP's weights, the start of the extractor and --methods=ablation: see configs/gaze_dfenet_mpiifacegaze.py.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from configs import gaze_dfenet_mpiifacegaze


def get_config() -> ml_collections.ConfigDict:
    """The settings of `gaze_dfenet_mpiifacegaze`, for Gaze360."""
    config = gaze_dfenet_mpiifacegaze.get_config()
    config.update(
        {
            # The published cuts are "fixed"; on so wide a range nine pairs in ten would have the last grade.
            "dfenet": {"cuts": "quantile"},
            "data": {
                "dataset": "gazehub_gaze360",  # or gaze360
                "root": "data/Gaze360",
                # gaze360: head, face; size: side of its pictures.
                "options": {"crop": placeholder(str)},
                "protocol": "official",  # or front
            },
            "fit": {"save_every": 1000},
        }
    )
    return config
