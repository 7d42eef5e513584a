"""What a command's log lets through."""

import logging
import pathlib

import pytest

from launch import messages

ROOT = pathlib.Path(messages.__file__).parents[1]


@pytest.mark.parametrize(
    ("path", "level", "wanted"),
    [
        (ROOT / "fdbpl_jax" / "inputs.py", logging.INFO, True),
        ("/site-packages/jax/_src/xla_bridge.py", logging.INFO, False),
        ("/site-packages/jax/_src/xla_bridge.py", logging.WARNING, True),
        ("/site-packages/orbax/checkpoint/checkpoint_manager.py", logging.WARNING, False),
        ("/site-packages/orbax/checkpoint/checkpoint_manager.py", logging.ERROR, True),
    ],
)
def test_own_notes_and_others_warnings(path, level, wanted):
    record = logging.LogRecord("name", level, str(path), 1, "message", (), None)
    assert messages.is_wanted(record) is wanted
