"""launch.export: what it writes is the trained CLIP and nothing else, and an unfinished run is refused."""

import jax
import numpy as np
import pytest

from core_jax import clip
from launch import config as config_lib
from launch import export, runs


@pytest.fixture(scope="module")
def config():
    """`configs/world_clip.py`, shrunk until it trains in seconds."""
    tiny = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 32}
    changes = {
        f"{tower}.{name}": size for tower in ("vision", "text") for name, size in tiny.items()
    }
    changes |= {"projection_dim": 8, "batch_size": 6, "steps": 2, "warmup_steps": 1}
    changes |= {"eval_scenes": 6, "vision.patch_size": 16, "patches_kept": 8}
    changes |= {"fit.log_every": 1, "fit.save_every": 1, "fit.eval_every": 0}
    return config_lib.override(config_lib.load("configs/world_clip.py"), changes)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrastive") / "run"
    runs.train(config, folder, progress=False)
    return folder


def test_the_folder_holds_the_towers_in_float16_and_a_card(finished, tmp_path):
    card = export.export(finished, tmp_path / "clip")
    assert card == (tmp_path / "clip" / "README.md").read_text()
    assert "2 steps of 6 pictures" in card
    written = clip.load(tmp_path / "clip")
    trained = runs.restore(finished).params.trainable["clip"]
    assert jax.tree.structure(written.params) == jax.tree.structure(trained)
    for ours, theirs in zip(jax.tree.leaves(written.params), jax.tree.leaves(trained), strict=True):
        rounded = np.asarray(theirs).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(ours), rounded)
    assert len(written.tokenizer.encode("a red striped ring.")) == 5


def test_an_unfinished_run_is_refused(finished, tmp_path):
    timing = finished / "timing.json"
    kept = timing.read_text()
    timing.unlink()
    try:
        with pytest.raises(config_lib.ConfigError, match=r"unfinished run \(step 2\).*--resume"):
            export.export(finished, tmp_path / "clip")
    finally:
        timing.write_text(kept)
    assert not (tmp_path / "clip").exists()


def test_a_run_of_another_task_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "fdbpl"}')
    with pytest.raises(config_lib.ConfigError, match="task 'fdbpl'; only contrastive"):
        export.export(tmp_path, tmp_path / "clip")
