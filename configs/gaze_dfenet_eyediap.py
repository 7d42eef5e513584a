"""CLIP-DFENet on EyeDiap as GazeHub normalises it, four clusters of persons, at the published settings.

python -m launch.compare --config=configs/gaze_dfenet_eyediap.py --workdir=runs/eyediap --methods=all --folds=0,1,2,3 \
    --config.data.root=EyeDiap --config.dfenet.clip=CLIP_RN50

Clusters are those of ClusterLabel/; where there are none, persons are dealt out in turn. The tables are over
all persons.
--methods=ablation trains the extractor alone, with each module, and with all.

CLIP's RN50 is a folder with model.safetensors under OpenAI's names and tokenizer files. The extractor starts from random
numbers; published results start from GazeTR's weights of ETH-XGaze: --config.cfe.trunk_init=gazetr
--config.cfe.weights=FILE.safetensors.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gaze_jax/config.py, dfenet_config.py, cfe.py and recipe.py."""
    config = ml_collections.ConfigDict()
    config.task = "gaze"
    config.model = "dfenet"  # or gazetr_hybrid, resnet18_face, resnet50_face, l2cs, mean
    config.preset = "faithful"  # or recommended
    config.seed = 1
    config.dtype = "auto"
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
    data.dataset = "gazehub_eyediap"
    data.root = "data/EyeDiap"
    data.protocol = "clusters"
    data.fold = 0
    data.clusters = 4
    data.cross = ()
    data.workers = 0

    config.test = ml_collections.ConfigDict()
    config.test.batch_size = 128
    config.test.adapt_k = ()  # labelled pictures of a set of data.cross; see docs/gaze.md

    config.fit = ml_collections.ConfigDict()
    config.fit.log_every = 100
    config.fit.save_every = 1000
    config.fit.eval_every = 0  # steps; the best evaluated step on the test fold is then judged too
    return config
