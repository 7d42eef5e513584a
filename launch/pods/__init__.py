"""What `launch.pod` is made of: the exact commands, the one runner of them, and the program that keeps a worker's job."""

from collections.abc import Sequence

PREEMPTED_STATUS = 75
"""Exit status of a training that was told to leave and has saved; `core_jax.train` has it too, at the price of JAX."""


def is_told_to_resume(module: str) -> bool:
    """Whether a module goes on by --resume; of launch only the training, the others find by themselves what is done."""
    return module == "launch.train" or not module.startswith("launch.")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A launcher's own words, and those of the command that stand after the first --."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]
