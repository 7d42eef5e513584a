"""CLIP-DFENet on EyeDiap as GazeHub normalises it, four clusters of persons, at the published settings.

python -m launch.compare --config=configs/gaze_dfenet_eyediap.py --workdir=runs/eyediap --methods=all --folds=0,1,2,3 \
    --config.data.root=EyeDiap --config.dfenet.clip=CLIP_RN50

Clusters are those of ClusterLabel/; where there are none, persons are dealt out in turn. The tables are over
all persons.

CLIP's weights, the start of the extractor and --methods=ablation: see configs/gaze_dfenet_mpiifacegaze.py.
"""

import ml_collections

from configs import gaze_dfenet_mpiifacegaze


def get_config() -> ml_collections.ConfigDict:
    """The settings of `gaze_dfenet_mpiifacegaze`, for EyeDiap."""
    config = gaze_dfenet_mpiifacegaze.get_config()
    config.update(
        {
            "data": {
                "dataset": "gazehub_eyediap",
                "root": "data/EyeDiap",
                "protocol": "clusters",
                "clusters": 4,
            },
            "fit": {"save_every": 1000},
        }
    )
    return config
