"""The step, compiled before the first one is made, and the memory that it will take."""

from typing import Any

import jax

# What `jax.stages.Compiled.memory_analysis` calls them; bytes on one device.
_PARTS = {
    "arguments": "argument_size_in_bytes",
    "outputs": "output_size_in_bytes",
    "in_place": "alias_size_in_bytes",
    "temporary": "temp_size_in_bytes",
    "program": "generated_code_size_in_bytes",
}


def compile_step(step: Any, *arguments: Any) -> jax.stages.Compiled:
    """The program of a jitted function for the shapes, dtypes and shardings of its arguments; nothing is computed.

    Unlike the function it takes no others: a batch of another form is an error, not another program. The persistent
    compilation cache is asked first.

    Args:
      step: jitted.
      arguments: with which it will be called, or their `jax.ShapeDtypeStruct`s.
    """
    return step.lower(*arguments).compile()


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """What a program needs on each device.

    Returns:
      Bytes of "arguments", "outputs", "in_place" (outputs that take the place of donated arguments), "temporary" (what lives
      while it runs), "program" and "peak", what all of these take together; empty where the backend does not tell.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return {}
    # The backend's own peak leaves temporaries out on CPU.
    parts = {part: int(getattr(stats, name)) for part, name in _PARTS.items()}
    return parts | {"peak": sum(parts.values()) - 2 * parts["in_place"]}


def describe(parts: dict[str, int], seconds: float) -> str:
    """The line that a run begins with.

    Args:
      parts: from `memory`.
      seconds: that compiling took.
    """
    named = ", ".join(
        f"{part.replace('_', ' ')} {size / 2**20:,.1f}" for part, size in parts.items()
    )
    where = f"; MiB of each device: {named}" if named else ""
    return f"step compiled in {seconds:.1f} s{where}"
