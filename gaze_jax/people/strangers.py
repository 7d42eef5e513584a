"""What the persons that a run kept back say of its network: how far it errs on people it has not seen, and how it compares best."""

import dataclasses
import json
import logging
import os
import pathlib

from core_jax import train
from core_jax.data import files
from gaze_jax import config as configs
from gaze_jax import evaluate, inputs, trained
from gaze_jax.calibrate import Spreads
from gaze_jax.people import calibration_file

BLEND = "blend.json"
"""In the work directory: what `blend` has fitted, so that the data set is not needed again."""
_FORMAT = "gaze blend 1"


def spreads(workdir: str | os.PathLike, fold: int = 0) -> Spreads | None:
    """The spreads of a run's errors on the persons of `data.validation`, as `calibrate.fit` takes them.

    Args:
      workdir: of the run. Its data set is needed, unchanged, where the configuration says.
      fold: which network of a run that trained all folds together.

    Returns:
      None, with a warning that says why, for runs that kept back fewer than two persons or whose data set is not there, and
      for networks that say nothing of one picture.
    """
    run, what = trained.load(workdir, fold), "usual spreads of errors are"
    if run.model.predict is None:
        return _unknown(what, f"{run.model.name} says nothing of one picture")
    opened = _kept_back(workdir, run, fold, least=2)
    if isinstance(opened, str):
        return _unknown(what, opened)
    rows, test = opened.validation, run.config.test
    return evaluate.held_out_spreads(run.model, run.params, opened.gaze_set, rows, test)


def blend(workdir: str | os.PathLike, k: int, fold: int = 0) -> float | None:
    """The b of mode "blend" that errs least on the persons of `data.validation`, as judging the run fits it.

    It is fitted when it is first asked for and kept in the work directory (`BLEND`) with the digest of its network.

    Args:
      workdir: of the run. Its data set is needed, unchanged, where the configuration says, unless this k was kept.
      k: references.
      fold: which network of a run that trained all folds together.

    Returns:
      None for networks without both heads; and, with a warning that says why, for runs that kept nobody back, whose data set is
      not there or has persons of too few pictures.
    """
    run = trained.load(workdir, fold)
    if run.model.references is None or run.model.predict is None:
        return None
    path, digest = pathlib.Path(workdir) / BLEND, calibration_file.model_digest(run.params)
    folds = _kept(path)
    mine = folds.get(str(fold), {})
    shares = mine["blend"] if mine.get("model_digest") == digest else {}
    if str(k) not in shares:
        what, test = "the usual blend is", run.config.test
        opened = _kept_back(workdir, run, fold, least=1)
        if isinstance(opened, str):
            return _unknown(what, opened)
        # The numbers of references that are judged share their pictures: theirs are the very values of judging.
        test = test if k in test.k else dataclasses.replace(test, k=(k,))
        try:
            fitted = evaluate.fit_blend(
                run.model, run.params, opened.gaze_set, opened.validation, test
            )
        except ValueError as error:
            return _unknown(what, str(error))
        shares = shares | {str(count): share for count, share in fitted.items()}
        folds[str(fold)] = {"model_digest": digest, "blend": shares}
        files.atomic_write(path, json.dumps({"format": _FORMAT, "folds": folds}, indent=1) + "\n")
    return shares.get(str(k))


def _kept(path: pathlib.Path) -> dict:
    """Fold to what was fitted for it."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != _FORMAT:
        raise ValueError(f"{path}: expected format {_FORMAT!r}; delete it, and it is made again")
    return content["folds"]


def _kept_back(
    workdir: str | os.PathLike, run: trained.Trained, fold: int, least: int
) -> inputs.Inputs | str:
    """A run's data set with the persons that it kept back, or why there are none."""
    settings, together = run.config.data, run.config.data.fold == configs.ALL_FOLDS
    if settings.validation < least:
        return f"{workdir} kept {settings.validation} persons back (data.validation)"
    if not pathlib.Path(settings.root).is_dir():
        return f"the run's data set is not here (data.root={settings.root})"
    if together:
        settings = dataclasses.replace(settings, fold=fold)
    try:
        opened = inputs.open_inputs(dataclasses.replace(run.config, data=settings))
    except (ValueError, OSError) as error:
        return f"the run's data set cannot be read: {error}"
    _, pins = train.learned(workdir)
    # Somebody the network was trained on is no stranger. All folds together have no pin of the rows of each.
    changed = [name for name in ("data", "rows") if pins.get(name) != opened.pins[name]]
    if changed and not (together and changed == ["rows"]):
        return f"{settings.dataset} has changed since the run was trained"
    return opened


def _unknown(what: str, why: str) -> None:
    logging.warning("%s assumed: %s", what, why)
