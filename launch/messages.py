"""Which log messages of a command reach the terminal: the project's own, and other libraries' warnings."""

import logging
import pathlib

from absl import logging as absl_logging

_OURS = tuple(
    str(pathlib.Path(__file__).parents[1] / name)
    for name in ("core_jax", "fdbpl_jax", "gba_jax", "gaze_jax", "launch")
)


def quiet() -> None:
    """Filter what `absl.app.run` prints; it would show every library's progress notes."""
    absl_logging.get_absl_handler().addFilter(is_wanted)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a message says something to the user of a command."""
    if record.pathname.startswith(_OURS):
        return True
    # Orbax announces its own defaults as warnings, several lines a checkpoint.
    return record.levelno >= (logging.ERROR if "orbax" in record.pathname else logging.WARNING)
