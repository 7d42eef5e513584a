"""The protocols: the runs of each, and transfer on the embedded world from the first picture to the report."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import clip
from core_jax.data import images
from fdbpl_jax import datasets, transfer
from launch import compare, config, protocol, report, runs
from launch.protocols import judging, plans, sets

REAL = "configs/fdbpl_caltech101.py"


def read_lines(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def listed(name, *, file=REAL, seeds=(1, 2, 3), workdir="runs/x", **options):
    wishes = protocol.read(config.load(file), workdir, root="DATA", **options)
    *lines, total = protocol.listing(name, wishes, seeds).splitlines()
    assert total == f"{len(lines)} runs"
    return lines


def test_base_to_new_trains_on_the_base_half_of_eleven_data_sets():
    lines = listed("base_to_new")
    assert len(lines) == 11 * 2 * 3
    assert lines[0] == (
        "zeroshot, seed 1: imagenet, base classes, 16 shots -> runs/x/imagenet/zeroshot/seed1 (to train)"
    )
    assert sum("oxford_pets, base classes" in line for line in lines) == 6


def test_cross_dataset_trains_once_on_imagenet_and_judges_ten_others():
    lines = listed("cross_dataset", methods=["fdbpl"])
    assert len(lines) == 3
    for line in lines:
        assert "imagenet, all classes, 16 shots -> runs/x/imagenet/fdbpl/seed" in line
        assert line.endswith(f"(to train; to judge on: {', '.join(sets.OTHERS)})")


def test_domain_generalisation_has_the_runs_of_cross_dataset():
    names = {"methods": ["coop", "fdbpl"]}
    ours, others = listed("domain_generalisation", **names), listed("cross_dataset", **names)
    assert [line.split(" (")[0] for line in ours] == [line.split(" (")[0] for line in others]
    assert "imagenetv2, imagenet_sketch, imagenet_a, imagenet_r)" in ours[0]


def test_the_few_shot_curve_has_five_points_and_one_zero_shot():
    lines = listed("few_shot", datasets=["dtd"], methods=["zeroshot", "coop"])
    assert len(lines) == 3 + 5 * 3
    folders = {line.split(" -> ")[1].split(" ")[0] for line in lines}
    assert "runs/x/dtd/shots16/coop/seed3" in folders
    assert not any("zeroshot" in name and "shots1/" not in name for name in folders)
    assert all("dtd, all classes" in line for line in lines)


def test_class_agnostic_adds_a_twin_to_what_learns_from_a_teacher():
    options = {"methods": ["zeroshot", "coop", "kdpl_online"], "dictionary": "names.txt"}
    lines = listed("class_agnostic", seeds=[1], datasets=["dtd"], targets=["eurosat"], **options)
    labels = [line.split(",")[0] for line in lines]
    assert labels == ["zeroshot", "coop", "kdpl_online", "kdpl_online+class_agnostic"]
    assert all(line.endswith("to judge on: eurosat)") for line in lines)
    wishes = protocol.read(config.load(REAL), "runs/x", **options)
    (stage,) = plans.class_agnostic(wishes)
    own = compare.jobs(stage.config, stage.folder, stage.arms, seeds=[1])[-1].config
    assert (own.data.dictionary, own.data.dictionary_top) == ("names.txt", 1000)
    assert own.data.template == "a photo of a {}."
    assert own.lookup.dir == "runs/x/caltech101/lookup_dictionary"


def test_a_learners_recipe_for_transfer_is_taken_where_its_recipe_is():
    base = config.load(f"{REAL}:l14_b16+maple")
    wishes = protocol.read(base, "runs/x")
    (stage,) = plans.cross_dataset(wishes)
    own = config.override(stage.config, stage.arms[1].changes)
    assert stage.arms[1].label == "maple"
    assert (own.prompt.depth, own.lr, own.epochs) == (3, 2.6e-3, 2)
    changed = config.override(base, {"lr": 0.1})
    (stage,) = plans.cross_dataset(protocol.read(changed, "runs/x"))
    own = config.override(stage.config, stage.arms[1].changes)
    assert (own.prompt.depth, own.lr) == (9, 0.1)


def test_what_cannot_be_is_said_in_words():
    with pytest.raises(config.ConfigError, match="--targets=petz: no such data set") as error:
        listed("cross_dataset", targets=["petz", "dtd", "dtd"])
    assert "--targets=dtd: expected different names" in str(error.value)
    with pytest.raises(config.ConfigError, match="--dictionary is missing"):
        listed("class_agnostic", methods=["kdpl"])
    with pytest.raises(config.ConfigError, match="none of them learns from a teacher"):
        listed("class_agnostic", methods=["coop"], dictionary="x")
    with pytest.raises(config.ConfigError, match="--shots=0,1: expected at least 1 picture"):
        listed("few_shot", shots=["0", "1"])
    with pytest.raises(config.ConfigError, match="the protocols are those of prompt learning"):
        protocol.read(config.load("configs/gba_world.py"), "runs/x")


def test_missing_data_is_found_before_anything_is_trained(base, tmp_path):
    wishes = protocol.read(
        base, tmp_path, methods=["coop"], targets=["eurosat", f"own={tmp_path / 'nowhere'}"]
    )
    with pytest.raises(datasets.DatasetError, match="eurosat") as error:
        protocol.run("cross_dataset", wishes, seeds=[1])
    assert "nowhere does not exist" in str(error.value)
    wishes = protocol.read(base, tmp_path, methods=["coop"], datasets=["dtd", "eurosat"])
    with pytest.raises(datasets.DatasetError, match="dtd") as error:
        protocol.run("base_to_new", wishes, seeds=[1])
    assert "eurosat" in str(error.value)
    options = {"methods": ["kdpl_online"], "dictionary": str(tmp_path / "names.txt")}
    stages = plans.class_agnostic(protocol.read(config.load(REAL), tmp_path, **options))
    with pytest.raises(ValueError, match=r"names\.txt: expected a text file"):
        protocol.check(stages, [1])
    assert not list(tmp_path.rglob("config.json"))


TARGETS = ("world_shapes", "world_blur")


@pytest.fixture(scope="module")
def transferred(base, tmp_path_factory):
    """Cross-dataset transfer, tiny: two methods, two other sets of the embedded world."""
    folder = tmp_path_factory.mktemp("transfer")
    wishes = protocol.read(base, folder, methods=["zeroshot", "coop"], targets=TARGETS)
    protocol.run("cross_dataset", wishes, seeds=[1])
    return wishes


def run_folder(wishes, method):
    return wishes.workdir / "world_objects" / method / "seed1"


def test_every_run_has_a_line_for_each_data_set(transferred):
    for method in ("zeroshot", "coop"):
        lines = read_lines(run_folder(transferred, method) / "results.jsonl")
        assert [line["dataset"] for line in lines] == ["world_objects", *TARGETS]
        for line in lines:
            assert (line["protocol"], line["trained_on"]) == ("cross_dataset", "world_objects")
            assert (line["split"], line["seed"], line["method"]) == ("all", 1, method)
            assert line["accuracy"] == pytest.approx(100 * line["correct"] / line["total"])
        assert len({line["dataset_digest"] for line in lines}) == 3
        assert len({line["config_digest"] for line in lines}) == 1


def test_zero_shot_transfer_equals_a_direct_computation(transferred, base):
    root, model = transferred.root, clip.load(base.student)
    see = jax.jit(lambda pixels: clip.encode_image(model.params, model.config, pixels))
    for name in TARGETS:
        (target,) = sets.targets([name], root)
        dataset = target.read()
        texts = clip.unit(
            clip.zeroshot.text_features(model, [f"a {one}." for one in dataset.classes])
        )
        size = model.config.vision.image_size
        pixels = np.stack(
            [clip.preprocess(images.decode(dataset.root / i.path), size) for i in dataset.test]
        )
        seen = see(clip.normalise(pixels, model.config))
        chosen = np.argmax(np.asarray(seen) @ np.asarray(texts).T, axis=-1)
        correct = int(np.sum(chosen == [item.label for item in dataset.test]))
        folder = run_folder(transferred, "zeroshot")
        (line,) = (one for one in read_lines(folder / "results.jsonl") if one["dataset"] == name)
        assert (line["correct"], line["total"]) == (correct, len(dataset.test))


def test_the_world_has_the_same_scenes_in_other_styles(transferred):
    root = transferred.root
    same = datasets.read("world_objects", root)
    (target,) = sets.targets(["world_blur"], root)
    other = target.read()
    assert [item.path for item in other.test] == [item.path for item in same.test]
    assert other.classes == same.classes
    (target,) = sets.targets(["world_shapes"], root)
    shapes = target.read()
    assert set(shapes.classes) == {name.split()[-1] for name in same.classes}
    assert all(item.path.split("/")[-2].endswith(item.name) for item in shapes.test)


def test_the_report_has_tables_intervals_and_a_picture(transferred):
    folder = transferred.workdir / "report"
    text = (folder / "report.md").read_text()
    assert "Cross-dataset transfer (inductive, trained on world_objects, 4 shots, synthetic" in text
    assert "Published" not in text
    assert "](cross_dataset.png)" in text
    with Image.open(folder / "cross_dataset.png") as image:
        assert np.asarray(image.convert("L")).std() > 1
    assert "average of 2 %" in (folder / "cross_dataset.csv").read_text().splitlines()[0]


def test_another_protocol_goes_on_with_the_same_runs(transferred, base, capsys):
    wishes = protocol.read(base, transferred.workdir, methods=["coop"], targets=["world_poster"])
    before = {p: p.stat().st_mtime_ns for p in transferred.workdir.rglob("config.json")}
    assert "(trained; to judge on: world_poster)" in protocol.listing(
        "domain_generalisation", wishes, [1]
    )
    protocol.run("domain_generalisation", wishes, seeds=[1])
    assert {p: p.stat().st_mtime_ns for p in transferred.workdir.rglob("config.json")} == before
    out = capsys.readouterr().out
    assert "coop, seed 1: done before" in out
    folder = run_folder(transferred, "coop")
    line = read_lines(folder / "results.jsonl")[-1]
    assert (line["dataset"], line["protocol"]) == ("world_poster", "domain_generalisation")
    assert judging.judge(folder, sets.targets(["world_poster"], wishes.root), {}, "x") == []
    text = report.write([folder], transferred.workdir / "both").read_text()
    assert "Cross-dataset transfer" in text
    assert "Domain generalisation" in text


def test_a_context_per_class_is_not_transferred(transferred):
    inputs = runs.restore(run_folder(transferred, "coop")).task.evaluate.inputs
    prompt = dataclasses.replace(inputs.config.prompt, class_specific=True)
    own = dataclasses.replace(inputs, config=dataclasses.replace(inputs.config, prompt=prompt))
    (target,) = sets.targets(["world_blur"], transferred.root)
    with pytest.raises(ValueError, match="says nothing about the classes of world_blur"):
        transfer.open_target(own, target)


def test_a_context_per_class_is_not_trained_to_be_transferred(base, tmp_path):
    own = config.override(base, {"prompt.class_specific": True, "method": "ce"})
    wishes = protocol.read(own, tmp_path, methods=["zeroshot", "coop"], targets=TARGETS)
    with pytest.raises(ValueError, match="the classes of world_shapes, world_blur; train with"):
        protocol.check(plans.cross_dataset(wishes), [1])


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_the_few_shot_curve_end_to_end(base, tmp_path, together):
    wishes = protocol.read(base, tmp_path, methods=["zeroshot", "coop"], shots=["1", "2"])
    path = protocol.run("few_shot", wishes, seeds=[1, 2], together=together)
    text = path.read_text()
    assert "Few-shot curve, world_objects (inductive, synthetic" in text
    assert "± (95 %)" in text
    assert "| method | setting | seeds | 0 shots % | 1 shots % | 2 shots % |" in text
    assert (tmp_path / "report" / "few_shot.png").is_file()


@pytest.mark.slow
def test_base_to_new_end_to_end(base, tmp_path):
    path = protocol.run("base_to_new", protocol.read(base, tmp_path), seeds=[1, 2])
    text = path.read_text()
    assert "HM of averaged accuracies % | mean of HMs %" in text
    assert "fdbpl | inductive | 2" in text
    assert (tmp_path / "report" / "base_to_new_world_objects.png").is_file()


@pytest.mark.slow
def test_class_agnostic_end_to_end(base, tmp_path):
    options = {
        "methods": ["zeroshot", "kdpl_online", "fdbpl"],
        "top": 20,
        "targets": ["world_blur"],
    }
    wishes = protocol.read(base, tmp_path, **options)
    path = protocol.run("class_agnostic", wishes, seeds=[1, 2], together=True)
    rows = read_lines(tmp_path / "world_objects/fdbpl+class_agnostic/seed1/results.jsonl")
    assert [row["split"] for row in rows] == ["base", "new", "all"]
    names = datasets.read("world_objects", base.data.root).classes
    assert rows[0]["train_classes"] > len(names)
    text = path.read_text()
    assert "kdpl_online+class_agnostic" in text
    assert "Class-agnostic training, world_objects" in text
