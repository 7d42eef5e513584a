"""How far a trained network errs on people it has not seen, from the persons that its run kept back."""

import dataclasses
import logging
import os
import pathlib

from core_jax import train
from gaze_jax import config as configs
from gaze_jax import evaluate, inputs, trained
from gaze_jax.calibrate import Spreads


def spreads(workdir: str | os.PathLike, fold: int = 0) -> Spreads | None:
    """The spreads of a run's errors on the persons of `data.validation`, as `calibrate.fit` takes them.

    Args:
      workdir: of the run. Its data set is needed, unchanged, where the configuration says.
      fold: which network of a run that trained all folds together.

    Returns:
      None, with a warning that says why, for runs that kept back fewer than two persons or whose data set is not there, and
      for networks that say nothing of one picture.
    """
    run = trained.load(workdir, fold)
    settings, together = run.config.data, run.config.data.fold == configs.ALL_FOLDS
    if run.model.predict is None:
        return _unknown(f"{run.model.name} says nothing of one picture")
    if settings.validation < 2:
        return _unknown(f"{workdir} kept {settings.validation} persons back (data.validation)")
    if not pathlib.Path(settings.root).is_dir():
        return _unknown(f"the run's data set is not here (data.root={settings.root})")
    if together:
        settings = dataclasses.replace(settings, fold=fold)
    try:
        opened = inputs.open_inputs(dataclasses.replace(run.config, data=settings))
    except (ValueError, OSError) as error:
        return _unknown(f"the run's data set cannot be read: {error}")
    _, pins = train.learned(workdir)
    # Somebody the network was trained on is no stranger. All folds together have no pin of the rows of each.
    changed = [name for name in ("data", "rows") if pins.get(name) != opened.pins[name]]
    if changed and not (together and changed == ["rows"]):
        return _unknown(f"{settings.dataset} has changed since the run was trained")
    rows = opened.validation
    return evaluate.held_out_spreads(run.model, run.params, opened.gaze_set, rows, run.config.test)


def _unknown(why: str) -> None:
    logging.warning("usual spreads of errors are assumed: %s", why)
