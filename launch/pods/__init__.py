"""What `launch.pod` is made of: the exact commands, the one runner of them, and the program that keeps a worker's job."""

PREEMPTED_STATUS = 75
"""Exit status of a training that was told to leave and has saved; `core_jax.train` has it too, at the price of JAX."""


def is_told_to_resume(module: str) -> bool:
    """Whether a module goes on by --resume; of launch only the training, the others find by themselves what is done."""
    return module == "launch.train" or not module.startswith("launch.")
