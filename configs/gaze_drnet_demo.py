"""DRNet on rendered eyes: gaze of persons never seen in training, from one picture or with a few references.

python -m launch.train --config=configs/gaze_drnet_demo.py --workdir=runs/drnet
python -m launch.compare --config=configs/gaze_drnet_demo.py --workdir=runs/gaze --methods=absolute,diffnn,drnet --seeds=1,2,3

The pictures are rendered into data/gaze on the first run (20 persons x 300 eyes) and read back later.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gaze_jax/config.py, drnet.py, recipe.py and evaluate_pairs.py."""
    config = ml_collections.ConfigDict()
    config.task = "gaze"
    config.model = "drnet"  # or lenet_eye, resnet8_eye, gazenet_eye, mean
    config.preset = "recommended"  # or faithful
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them
    config.ghost_norm = False  # with accumulate: normalise by the statistics of pieces
    config.steps = 0
    config.clip_norm = 0.0
    config.pairwise = 0.0

    config.drnet = drnet = ml_collections.ConfigDict()
    drnet.use = "drnet"  # or absolute, difference (Diff-NN)
    drnet.dropout = 0.5
    # The preset's own, unless a value is given here.
    drnet.weight = placeholder(float)
    drnet.corrupt = placeholder(float)
    drnet.augment = placeholder(bool)

    config.recipe = recipe = ml_collections.ConfigDict()
    recipe.lr = 1e-3
    recipe.epochs = 8
    recipe.batch_size = 128

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "eyes_A"
    data.root = "data/gaze"
    data.persons = 20
    data.per_person = 300
    data.render_seed = 0
    data.protocol = "last"
    data.fold = 0
    data.held_out = 6
    data.validation = 2
    data.self_pair = placeholder(float)  # the preset's own
    data.cross = ()
    data.resident = "auto"
    data.workers = 0

    config.test = test = ml_collections.ConfigDict()
    test.modes = ("single", "calib", "diffnn", "blend")
    test.k = (1, 3, 5, 9)
    test.draws = 20
    test.points = "random"  # to calibrate with; or grid, over the range of a person's labels
    test.adapt_k = ()  # labelled pictures of a set of data.cross; see docs/gaze.md
    test.queries = 0
    # Noise: e.g. --config.test.corruptions='("gaussian_noise","pure_noise")' --config.test.queries=50
    test.corruptions = ()
    test.severities = (1, 2, 3, 4, 5)
    test.who = ("query", "references", "both")
    test.corrupted_k = (1, 9)
    test.corrupted_draws = 5

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 20
    config.fit.save_every = 500
    config.fit.eval_every = 0
    return config
