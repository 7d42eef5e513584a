"""What every test runs under: strict dtypes, strict ranks, parsed flags, a compilation cache, no hub.

Silent promotion and silent broadcasting are the two ways in which array code is wrong without failing, so both raise
here. Compiled programs are kept between runs in the user's own cache folder, which saves most of the suite's time.
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

# Read when jax is imported, and inherited by the processes that tests start.
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "clip-methods-jax" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Tests compile much and run little: without the compiler's expensive optimisations, which change no result beyond
# rounding. Measured on mask classification: a third of the compile time for `init`, 60 % for a training step. It has to
# hold in processes that tests start as well: a resumed run equals another bit for bit only when both compile alike.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older way of writing fused loops compiles faster: a quarter to a third less in all. XLA ends the process at a flag
# that it does not know, so only the version that is known to have this one gets it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" not in _FLAGS:
        os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_use_fusion_emitters=false".strip()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# grain reads its flags in worker processes and refuses to do so before somebody has parsed them.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True)
def _optimised(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slow tests run models of full size, and `optimised` ones much and compile little: there compiling well pays."""
    if not any(map(request.node.get_closest_marker, ("slow", "optimised"))):
        yield
        return
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of accelerators that this machine does not have."""
    for platform in ("gpu", "tpu"):
        marked = [item for item in items if item.get_closest_marker(platform)]
        # Asking JAX for its devices starts the backend: only when a test wants to know.
        if marked and jax.default_backend() != platform:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs a {platform.upper()}"))
