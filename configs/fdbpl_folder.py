"""FDBPL on pictures of your own: root/class_name/*.jpg, or root/train/... and root/test/..., OpenAI's ViT pair.

python -m launch.train --config=configs/fdbpl_folder.py --workdir=runs/mine --config.data.root=DIR

The template is "a photo of a {}."; --config.data.template="a satellite photo of {}." changes it. All classes are learned
and judged (--config.data.split=base for base to new). Build the lookup first, as in configs/fdbpl_caltech101.py.
"""

import ml_collections

from configs import fdbpl_caltech101


def get_config(chosen: str = "l14_b16") -> ml_collections.ConfigDict:
    """The settings of `fdbpl_caltech101`, for a folder of pictures; `chosen` as there."""
    config = fdbpl_caltech101.get_config(chosen)
    pair, _ = fdbpl_caltech101.parse(chosen)
    config.update_from_flattened_dict(
        {
            "data.dataset": "folder",
            "data.root": "data/pictures",
            "data.split": "all",
            "data.transductive": False,
            "lookup.dir": f"data/lookup/pictures_{pair}",
            "lookup.seeds": (),
        }
    )
    return config
