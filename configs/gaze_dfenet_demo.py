"""CLIP-DFENet on rendered faces: gaze of persons never seen in training, with the small CLIP of this package.

python -m launch.train --config=configs/gaze_dfenet_demo.py --workdir=runs/dfenet
python -m launch.compare --config=configs/gaze_dfenet_demo.py --workdir=runs/faces --methods=ablation --seeds=1,2,3

The pictures are rendered into data/gaze on the first run (40 persons x 60 faces) and read back later. The ablation is CFE
alone, with each module, and with all; `--config.data.cross='("faces_B","faces_C")'` judges other domains too. The small CLIP
does not know the words of the sentences: the anchors are the stand-in "ordinal".
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gaze_jax/config.py, dfenet_config.py, cfe.py and recipe.py."""
    config = ml_collections.ConfigDict()
    config.task = "gaze"
    config.model = "dfenet"  # or gazetr_hybrid, resnet18_face, resnet50_face, l2cs, mean
    config.preset = "recommended"  # or faithful
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them
    config.ghost_norm = False  # with accumulate: normalise by the statistics of pieces
    config.steps = 0
    config.clip_norm = 0.0
    config.pairwise = 0.0

    config.dfenet = dfenet = ml_collections.ConfigDict()
    dfenet.ldm = True
    dfenet.vfm = "affinity"  # or film, cross_attention, none
    dfenet.dgr = True
    dfenet.clip = "world"
    dfenet.source = "vit_patches"
    dfenet.anchors = "ordinal"  # or random
    dfenet.cuts = "fixed"  # or quantile
    dfenet.mask = placeholder(str)  # the preset's own, unless zero or exclude is given here

    config.cfe = cfe = ml_collections.ConfigDict()
    cfe.image_size = 96
    cfe.dropout = 0.0
    cfe.trunk = ml_collections.ConfigDict()
    cfe.trunk.width = 16

    config.face = ml_collections.ConfigDict()
    config.face.image_size = 96
    config.face.bins = "narrow"

    config.recipe = recipe = ml_collections.ConfigDict()
    recipe.lr = 1e-3
    recipe.epochs = 16
    recipe.batch_size = 32
    recipe.warmup_epochs = 1.0
    recipe.milestones = (12, 14)
    recipe.factor = 0.3

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "faces_A"
    data.root = "data/gaze"
    data.persons = 40
    data.per_person = 60
    data.render_seed = 0
    data.protocol = "last"
    data.fold = 0
    data.held_out = 8
    data.validation = 0
    data.cross = ()
    data.resident = "auto"
    data.workers = 0

    config.test = ml_collections.ConfigDict()
    config.test.draws = 20
    config.test.batch_size = 64
    config.test.adapt_k = ()  # labelled pictures of a set of data.cross; see docs/gaze.md

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 20
    config.fit.save_every = 500
    config.fit.eval_every = 0
    return config
