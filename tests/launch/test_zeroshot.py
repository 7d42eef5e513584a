"""python -m launch.zeroshot: what it takes, what it writes, what it refuses."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest

from core_jax import clip
from core_jax.data import images
from launch import zeroshot
from launch.local_multiprocess import free_port

ROOT = pathlib.Path(__file__).parents[2]
WORDS = ["a", "photo", "of", "red", "blue", "ring", "star", "."]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("zeroshot") / "model"
    tower = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 32}
    config = clip.ClipConfig(
        vision=clip.VisionConfig(image_size=32, patch_size=16, **tower),
        text=clip.TextConfig(
            vocab_size=12,
            context_length=12,
            bos_token_id=1,
            eos_token_id=3,
            pad_token_id=0,
            **tower,
        ),
        projection_dim=8,
    )
    config = dataclasses.replace(config, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    params = jax.jit(clip.init, static_argnums=0)(config, key=jax.random.key(0))
    clip.save(folder, config, params, tokenizer_files={"tokenizer.json": clip.word_level(WORDS)})
    return folder


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i, name in enumerate(["a.png", "b.jpg", "deep/c.png", "deep/d.webp", "e.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (30 + i, 50, 3), np.uint8)).save(path)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.zeroshot", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_files_folders_and_globs(pictures):
    names = lambda *patterns: [
        str(path.relative_to(pictures)) for path in zeroshot.find_pictures(patterns)
    ]
    assert names(str(pictures)) == ["a.png", "b.jpg", "deep/c.png", "deep/d.webp", "e.png"]
    assert names(f"{pictures}/*.png", f"{pictures}/a.png") == ["a.png", "e.png"]
    assert names(f"{pictures}/**/*.png") == ["a.png", "deep/c.png", "e.png"]
    # A file that is named is taken at its word, whatever it is called.
    assert names(f"{pictures}/notes.txt") == ["notes.txt"]
    with pytest.raises(FileNotFoundError, match=r"'/nowhere', '.*\*\.gif'"):
        zeroshot.find_pictures([str(pictures), "/nowhere", f"{pictures}/*.gif"])


def test_classes_from_the_line_or_a_file(tmp_path):
    assert zeroshot.read_classes("red ring, star ,") == ["red ring", "star"]
    path = tmp_path / "classes.txt"
    path.write_text("red ring\n\n star, blue\n")
    assert zeroshot.read_classes(str(path)) == ["red ring", "star, blue"]
    assert len(zeroshot.read_classes(",".join(f"class {i}" for i in range(2000)))) == 2000
    with pytest.raises(ValueError, match="no such file"):
        zeroshot.read_classes(str(tmp_path / "clases.txt"))
    with pytest.raises(ValueError, match="no class name"):
        zeroshot.read_classes(" , ")


def test_ranking_does_not_depend_on_batches(model, pictures):
    paths = zeroshot.find_pictures([str(pictures)])
    classes, templates = ["red ring", "star", "blue ring"], ["a photo of a {}.", "{}"]
    rows = zeroshot.rank_files(str(model), paths, classes, templates, top=9, batch=32)
    small = zeroshot.rank_files(str(model), paths, classes, templates, top=9, batch=2)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    loaded = clip.load(model)
    weights = clip.zeroshot.classifier(loaded, classes, templates)
    for row, other in zip(rows, small, strict=True):
        pixels = clip.preprocess(images.decode(row["path"]), 32)[None]
        chances = jax.nn.softmax(
            clip.zeroshot.logits(loaded.params, loaded.config, pixels, weights)
        )[0]
        expected = sorted(zip(classes, chances.tolist()), key=lambda pair: -pair[1])
        for ranking in (row["ranking"], other["ranking"]):
            assert [entry["class"] for entry in ranking] == [name for name, _ in expected]
            np.testing.assert_allclose(
                [entry["probability"] for entry in ranking],
                [p for _, p in expected],
                rtol=0,
                atol=1e-5,
            )


def test_all_unreadable_pictures_are_named(model, pictures):
    (pictures / "bad.png").write_bytes(b"not a picture")
    whole = (pictures / "e.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = zeroshot.find_pictures([str(pictures)])
    with pytest.raises(images.ImageError) as error:
        zeroshot.rank_files(str(model), paths, ["star"], ["{}"], top=1, batch=1)
    assert "2 of 7 pictures" in str(error.value)
    assert "bad.png" in str(error.value)
    assert "cut.png" in str(error.value)


def test_the_command(model, pictures, tmp_path):
    out = tmp_path / "out"
    done = run(
        f"--model={model}", f"--images={pictures}", "--classes=red ring,star", f"--out={out}"
    )
    assert done.returncode == 0, done.stderr
    assert "a.png" in done.stdout
    assert "star" in done.stdout
    content = json.loads((out / "ranking.json").read_text())
    assert content["classes"] == ["red ring", "star"]
    assert len(content["pictures"]) == 5
    assert {entry["class"] for entry in content["pictures"][0]["ranking"]} == {"red ring", "star"}
    with PIL.Image.open(out / "ranking.png") as grid:
        assert min(grid.size) > 100


def test_the_command_refuses_in_one_line_and_writes_nothing(model, pictures, tmp_path):
    out = tmp_path / "out"
    (pictures / "bad.png").write_bytes(b"not a picture")
    done = run(
        f"--model={model}", f"--images={pictures}", "--classes=red ring,star", f"--out={out}"
    )
    assert done.returncode == 2
    assert "bad.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_processes_that_do_not_come_are_named_without_a_trace(model, pictures):
    done = run(
        *(f"--model={model}", f"--images={pictures}", "--classes=red ring,star"),
        *(f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", "--process_id=0"),
        "--start_timeout=0.3",
    )
    assert done.returncode == 1
    assert "launch.zeroshot: process 1 of 2 did not report to process 0 within 0.3 s" in done.stderr
    assert "Traceback" not in done.stderr
