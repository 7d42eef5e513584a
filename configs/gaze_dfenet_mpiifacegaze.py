"""CLIP-DFENet on MPIIFaceGaze as GazeHub normalises it, leave one person out, at the published settings.

python -m launch.compare --config=configs/gaze_dfenet_mpiifacegaze.py --workdir=runs/mpiifacegaze \
    --methods=all --folds=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 \
    --config.data.root=MPIIFaceGaze --config.dfenet.clip=CLIP_RN50

One fold after the other: a network of this size fills a device. The tables are over all persons.
--methods=ablation trains the extractor alone, with each module, and with all.

CLIP's RN50 is a folder with model.safetensors under OpenAI's names and tokenizer files. The extractor starts from random
numbers; published results start from GazeTR's weights of ETH-XGaze: --config.cfe.trunk_init=gazetr
--config.cfe.weights=FILE.safetensors.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gaze_jax/config.py, dfenet_config.py, cfe.py and recipe.py."""
    config = ml_collections.ConfigDict()
    config.task = "gaze"
    config.model = "dfenet"  # or gazetr_hybrid, resnet18_face, resnet50_face, l2cs, mean
    config.preset = "faithful"  # or recommended
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them
    config.ghost_norm = False  # with accumulate: normalise by the statistics of pieces
    config.pairwise = 0.0

    config.dfenet = dfenet = ml_collections.ConfigDict()
    dfenet.ldm = True
    dfenet.vfm = "affinity"  # or film, cross_attention, none
    dfenet.dgr = True
    dfenet.clip = ""  # folder of CLIP's RN50
    dfenet.source = "rn50_map"  # or vit_patches
    dfenet.anchors = "clip"  # or the stand-ins ordinal, random
    dfenet.anchors_file = ""
    dfenet.cuts = "fixed"
    dfenet.mask = "zero"  # or exclude

    config.cfe = cfe = ml_collections.ConfigDict()
    cfe.trunk_init = "scratch"  # gazetr, torchvision: from `weights`
    cfe.weights = ""

    config.recipe = recipe = ml_collections.ConfigDict()
    recipe.lr = 1e-4
    recipe.epochs = 80
    recipe.batch_size = 16
    recipe.warmup_epochs = 5.0
    recipe.milestones = (60,)
    recipe.factor = 0.5

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "gazehub_mpiifacegaze"  # or mpiifacegaze, mpiifacegaze_raw
    data.root = "data/MPIIFaceGaze"
    data.sign = ""  # mpiifacegaze: negated, where `launch.data check` says so
    # Options of the data set's reader; those without a value here are the reader's own choice.
    data.options = options = ml_collections.ConfigDict()
    options.size = placeholder(int)  # mpiifacegaze: 224, 448
    data.protocol = "lopo"
    data.fold = 0
    data.cross = ()
    data.resident = "auto"
    data.workers = 0

    config.test = ml_collections.ConfigDict()
    config.test.batch_size = 128
    config.test.adapt_k = ()  # labelled pictures of a set of data.cross; see docs/gaze.md

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 100
    config.fit.save_every = 2625
    # Steps (2625 is an epoch); with any, the best one on the test part is judged too.
    config.fit.eval_every = 0
    return config
