"""The comparison of segmentation runs with a task that trains nothing: what is run, prepared, reported, skipped."""

import csv
import dataclasses
import json

import ml_collections
import numpy as np
import pytest

from core_jax import world
from gba_jax import config as gba_config
from launch import compare, config, report, runs, tasks
from launch.comparisons import examples, gba

SCORES = {"zeroshot": 5.0, "host": 30.0, "sda": 32.0, "cca": 33.0, "both": 36.0}
METHOD = {"none": "host"}


@dataclasses.dataclass(frozen=True)
class Stub:
    """Stands for a task; `evaluate` gives the score that a configuration is to have."""

    config: dict
    total_steps: int = 0

    def score(self, split: str) -> float:
        use, seed = self.config["adapters"]["use"], self.config["seed"]
        method = "zeroshot" if self.config["host"] == "maskclip" else METHOD.get(use, use)
        return SCORES[method] + seed + (10.0 if split == "val" else 0.0)


def lines(stub):
    for split in stub.config["data"]["judge"]:
        yield {
            "task": "gba",
            "dataset": "world_scenes",
            "split": split,
            "host": stub.config["host"],
            "adapters": stub.config["adapters"]["use"],
            "clip": "world:student",
            "vocabulary": 257,
            "images": 6,
            "miou": stub.score(split),
            "absent": 50.0 - stub.score(split),
            "shift": None,
        }


@pytest.fixture
def built(monkeypatch):
    """Training, evaluation and label maps replaced; the list of configurations that were trained."""
    trained = []

    def train(config, workdir, *, resume=False):
        trained.append((str(workdir), resume))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(runs.config_lib.to_json(config)))
        (workdir / "timing.json").write_text('{"seconds": {"step": 2.0}, "steps": 1}')
        return Stub(config.to_dict())

    def restore(workdir, task=None):
        loaded = config.from_workdir(workdir)
        return runs.Restored(config=loaded, task=Stub(loaded.to_dict()), params=None, step=1)

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "restore", restore)
    monkeypatch.setattr(tasks, "result_lines", lambda config, task, params, **_: list(lines(task)))
    monkeypatch.setattr(examples, "label_maps", label_maps)
    return trained


def label_maps(run, positions):
    names = ("background", "red plain ring", "blue plain star")
    better = run.config.adapters.use == "both"
    found = {}
    for entry, chosen in positions.items():
        found[entry] = {}
        for position in chosen:
            truth = np.zeros((8, 8), np.int32)
            truth[2:6, 2:6] = 1
            made = truth.copy()
            if better != (position < 4):
                made[2 : 3 + position % 4, 2:6] = 2
            image = np.zeros((8, 8, 3), np.uint8)
            found[entry][position] = examples.LabelMap(image, truth, made, names)
    return found


@pytest.fixture
def base(tmp_path):
    settings = ml_collections.ConfigDict(dataclasses.asdict(gba_config.Config()))
    settings.task = "gba"
    settings.data.root = str(tmp_path / "data")
    settings.data.judge = ("val", "style")
    (tmp_path / "data" / "world_scenes").mkdir(parents=True)
    return settings.lock()


def test_a_comparison_runs_reports_and_skips(base, built, tmp_path, capsys):
    folder, arms = tmp_path / "runs", compare.arms(gba.METHODS, {}, "gba")
    path = compare.compare(base, folder, arms, seeds=[1, 2])
    assert len(built) == 10
    out = capsys.readouterr().out
    assert "[1/10] zeroshot, seed 1: mIoU val 16.00 %, style 6.00 %" in out
    for name in ("zeroshot", "both"):
        loaded = config.from_workdir(folder / name / "seed2")
        assert (loaded.seed, loaded.text_cache) == (2, str(folder / "text"))
    text = path.read_text()
    assert "### mIoU, world_scenes (CLIP world:student, 257 classes)" in text
    assert "| both | 2 | **47.50 ± 0.71** | **37.50 ± 0.71** |" in text
    pictures = {"miou.png", "time.png", "examples_world_scenes_val.png"}
    assert pictures <= {file.name for file in path.parent.glob("*.png")}
    assert all(f"]({name})" in text for name in pictures)
    with open(path.parent / "gain.csv", newline="") as file:
        gains = [row for row in csv.DictReader(file) if row["method"] == "both"]
    # Paired by seed, so the seeds' own differences cancel.
    assert [float(row["style"]) for row in gains] == pytest.approx([6.0, -6.0])
    assert [float(row["style std"]) for row in gains] == pytest.approx([0.0, 0.0])

    compare.compare(base, folder, compare.arms(["host"], {}, "gba"), seeds=[1, 2])
    assert len(built) == 10
    assert capsys.readouterr().out.count("done before") == 2


def test_an_interrupted_run_is_resumed_and_a_variant_named(base, built, tmp_path):
    arms = compare.arms(["both+norm_none"], gba.VARIANTS, "gba")
    compare.compare(base, tmp_path / "runs", arms, seeds=[1])
    folder = tmp_path / "runs" / "both+norm_none" / "seed1"
    (line, *_) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert (line["variant"], line["adapters"]) == ("both+norm_none", "both")
    assert config.from_workdir(folder).adapters.norm == "none"
    (folder / "timing.json").unlink()
    (folder / "results.jsonl").unlink()
    compare.compare(base, tmp_path / "runs", arms, seeds=[1])
    assert built == [(str(folder), False), (str(folder), True)]


def test_scenes_are_written_once_where_they_are_missing(base, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(world, "write_scenes", written.append)
    elsewhere = str(tmp_path / "elsewhere")
    missing = config.override(base, {"data.root": elsewhere})
    folder = config.override(base, {"data.root": elsewhere, "data.dataset": "folder"})
    gba.prepare([base, missing, missing, folder])
    assert written == [elsewhere]


def test_every_method_and_variant_is_a_valid_configuration(base):
    names = [*gba.METHODS, *(f"both+{name}" for name in gba.VARIANTS), "ablation"]
    arms = compare.arms(names, gba.VARIANTS, "gba")
    assert {arm.label for arm in arms} > set(gba.ABLATION)
    for arm in arms:
        settings = config.override(base, arm.changes).to_dict()
        settings.pop("task")
        found = gba_config.read(settings)
        assert found.trained == (arm.label != "zeroshot")
        assert found.dense_mode == ("cls" if found.trained else "residual")


@pytest.mark.parametrize(("switch", "prefix"), [("norm", "norm_"), ("style", "style_")])
def test_variants_name_every_choice_that_is_not_the_default(switch, prefix):
    from gba_jax.adapters import config as adapters

    default = getattr(adapters.GBAConfig(), switch)
    named = [v for k, v in gba.VARIANTS.items() if k.startswith(prefix)]
    choices = {change[f"adapters.{switch}"] for change in named}
    assert choices == set(adapters.CHOICES[switch]) - {default}


def test_unknown_names_tasks_and_a_lookup_are_refused(base, tmp_path):
    with pytest.raises(config.ConfigError, match="no such method; there are zeroshot, host, sda"):
        compare.arms(["fdbpl"], {}, "gba")
    with pytest.raises(config.ConfigError, match=r"config\.task=contrastive: no comparison"):
        compare.arms(["host"], {}, "contrastive")
    with pytest.raises(config.ConfigError, match="only FDBPL reads a lookup"):
        compare.compare(base, tmp_path, [], seeds=[1], lookup="x")


def test_results_of_two_tasks_share_no_report(tmp_path):
    line = {"dataset": "w", "split": "val", "seed": 1}
    for name, more in (
        ("a", {"method": "coop", "accuracy": 1.0}),
        ("b", {"task": "gba", "host": "cost", "adapters": "none", "miou": 1.0}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text(json.dumps(line | more) + "\n")
    with pytest.raises(ValueError, match="several tasks, fdbpl, gba"):
        report.write([tmp_path], tmp_path / "report")
