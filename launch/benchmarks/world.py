"""The embedded world's renderer: scenes drawn in a batch against the same scenes drawn one at a time.

numpy draws on one core.
"""

from typing import Any

from core_jax import world
from launch.benchmarks import timing

SCENES = 512


def run() -> list[dict[str, Any]]:
    """Measure and print the rows."""
    rows = timing.Rows("embedded world, 64 px")
    batch = timing.seconds(lambda: _numpy(world.render_batch(0, "bench", 0, SCENES)))
    single = timing.seconds(
        lambda: [world.render(0, "bench", i).image.sum() for i in range(SCENES)]
    )
    rows.add(f"{SCENES} scenes: in one batch against one at a time", batch, single)
    rows.note(
        f"{SCENES / batch:,.0f} scenes a second in a batch, {SCENES / single:,.0f} one at a time"
    )
    return rows.rows


def _numpy(scenes: dict[str, Any]) -> list[Any]:
    return list(scenes.values())
