"""Calling a function in a fresh process: its peak memory is its own, and nothing is compiled yet."""

import multiprocessing
from collections.abc import Callable
from concurrent import futures
from typing import Any

from absl import flags

from launch.benchmarks import machine


def apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call a function in a process of its own.

    Args:
      function: found by its name in a module.
      arguments: can be pickled, as its result.

    Returns:
      (what it returns, peak memory of the process in MB of 2^20 bytes).
    """
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    # The parent has parsed them; here they have their defaults, and grain only wants to be sure.
    flags.FLAGS.mark_as_parsed()
    return function(*arguments), machine.peak_mb()
