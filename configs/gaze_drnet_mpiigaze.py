"""DRNet on MPIIGaze's evaluation subset, leave one person out: all 15 folds side by side in one program.

python -m launch.train --config=configs/gaze_drnet_mpiigaze.py --workdir=runs/mpiigaze --config.data.root=MPIIGaze
python -m launch.evaluate --workdir=runs/mpiigaze

On CPUs one fold after the other is quicker, in one command too:

python -m launch.compare --config=configs/gaze_drnet_mpiigaze.py --workdir=runs/mpiigaze --methods=drnet --folds=all
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """All settings; what each of them means stands in gaze_jax/config.py, drnet.py, recipe.py and evaluate_pairs.py."""
    config = ml_collections.ConfigDict()
    config.task = "gaze"
    config.model = "drnet"
    config.preset = "faithful"
    config.seed = 1
    config.dtype = "auto"  # float32, bfloat16, parity
    config.accumulate = 1  # pieces that a batch is run in, one after the other
    config.remat = False  # compute values again in the backward pass instead of keeping them
    config.ghost_norm = False  # with accumulate: normalise by the statistics of pieces

    config.drnet = ml_collections.ConfigDict()
    config.drnet.use = "drnet"
    config.drnet.weight = 0.75

    config.recipe = recipe = ml_collections.ConfigDict()
    recipe.lr = 1e-3
    recipe.epochs = 20
    recipe.batch_size = 128

    config.data = data = ml_collections.ConfigDict()
    data.dataset = "mpiigaze"  # or mpiigaze_raw, gazehub_mpiigaze, plain
    data.root = "data/MPIIGaze"
    # Options of the data set's reader; those without a value here are the reader's own choice.
    data.options = options = ml_collections.ConfigDict()
    options.subset = placeholder(str)  # mpiigaze, mpiigaze_raw: evaluation, all
    options.size = placeholder(int)  # plain: side of the pictures
    options.grey = placeholder(bool)  # plain: one channel
    data.protocol = "lopo"
    data.fold = -1
    data.validation = 0
    data.self_pair = 0.0
    data.resident = "auto"
    data.workers = 0

    config.test = test = ml_collections.ConfigDict()
    test.k = (1, 3, 5, 9, 50)
    test.draws = 20

    config.fit = ml_collections.ConfigDict()
    config.fit.mesh = "data:-1,model:1"  # or --mesh=data:-1,model:2
    config.fit.log_every = 50
    config.fit.save_every = 1000
    config.fit.eval_every = 0
    return config
