"""The comparison of gaze runs with a task that trains nothing: runs, tables, figures, and what cannot be compared."""

import csv
import dataclasses
import json

import ml_collections
import numpy as np
import pytest

from core_jax.train.report import Table, markdown
from gaze_jax.gaze_set import GazeSet, InMemory
from launch import compare, config, gather, report, results, runs, tasks
from launch.comparisons import (
    gaze,
    gaze_pictures,
    gaze_published,
    gaze_samples,
    gaze_scores,
    gaze_tables,
)

HARD = (0.8, 1.0, 1.2)
K9 = {"calib": 6.0, "diffnn": 5.0}


@dataclasses.dataclass(frozen=True)
class Stub:
    """Stands for a task."""

    config: dict
    total_steps: int = 0


def line(method="drnet", person=0, error=6.0, **more):
    return {
        "task": "gaze",
        "method": method,
        "preset": "recommended",
        "dataset": "eyes_A",
        "trained_on": "eyes_A",
        "synthetic": True,
        "protocol": "lopo",
        "fold": person,
        "person": f"p{person:02d}",
        "n": 10 * (person + 1),
        "mode": "",
        "k": None,
        "draw": None,
        "draws": 1,
        "corrupted": None,
        "corruption": None,
        "severity": None,
        "epoch": 3,
        "selection": "last",
        "angular_error_deg": error * HARD[person],
        "pitch_error_deg": 1.0,
        "yaw_error_deg": 2.0,
        "data_digest": "feed" * 16,
    } | more


def lines(method, seed):
    """One image: 6 + seed; references: calib 6, diffnn 5 + draw, worse by severity."""
    for person in range(3):
        if method != "diffnn":
            mode = "" if method == "absolute" else "single"
            yield line(method, person, 6.0 + seed, mode=mode)
            about = {"corrupted": "query", "corruption": "defocus"}
            for severity in (1.0, 2.0):
                yield line(method, person, 6.0 + severity, mode=mode, severity=severity, **about)
        if method == "absolute":
            continue
        for mode, error in K9.items():
            if method == "diffnn" and mode != "diffnn":
                continue
            for draw in (0, 1):
                yield line(method, person, error + draw, mode=mode, k=9, draw=draw)
            for corruption, levels in (("defocus", (1.0, 2.0)), ("pure_noise", (0.0, 1 / 9, 1.0))):
                about = {"mode": mode, "k": 9, "draws": 2, "corrupted": "references"}
                for severity in levels:
                    more = about | {"corruption": corruption, "severity": severity}
                    yield line(method, person, error + 3 * severity, **more)
        if method == "drnet":
            cross = {"dataset": "eyes_B", "protocol": "cross", "fold": 0}
            yield line(method, person, 12.0, mode="single", **cross)


@pytest.fixture
def built(monkeypatch):
    """Training and evaluation replaced; the folders that were trained."""
    trained = []

    def train(config, workdir, *, resume=False):
        trained.append(str(workdir))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(runs.config_lib.to_json(config)))
        (workdir / "timing.json").write_text('{"seconds": {"step": 2.0}, "steps": 1}')
        return Stub(config.to_dict())

    def restore(workdir, task=None):
        loaded = config.from_workdir(workdir)
        return runs.Restored(config=loaded, task=Stub(loaded.to_dict()), params=None, step=1)

    def result_lines(config, task, params, **_):
        use = {"difference": "diffnn"}.get(config.drnet.use, config.drnet.use)
        return list(lines(use, config.seed))

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "restore", restore)
    monkeypatch.setattr(tasks, "result_lines", result_lines)
    monkeypatch.setattr(gaze_samples, "of_run", lambda run, most: samples(run.seed))
    return trained


def samples(seed=0, count=40):
    rng = np.random.default_rng(seed)
    images = InMemory(rng.integers(0, 256, (count, 9, 15, 1)).astype(np.uint8))
    whose = rng.integers(0, 3, count)
    truth = rng.uniform(-0.3, 0.3, (count, 2)).astype(np.float32)
    data = GazeSet(
        name="eyes_A",
        kind="eye",
        images=images,
        size=(9, 15, 1),
        gaze=truth,
        head=truth,
        has_head=np.ones(count, bool),
        person=whose,
        persons=("p00", "p01", "p02"),
        side=np.zeros(count, np.int64),
        norm=np.broadcast_to(np.eye(3, dtype=np.float32), (count, 3, 3)),
        scale=np.ones(count, np.float32),
        source=("",) * count,
        camera="",
        digest="d",
    )
    error = np.arange(count, dtype=np.float64)
    return gaze_samples.Samples(data, np.arange(count), truth + 0.1, error)


@pytest.fixture
def base():
    from configs import gaze_drnet_demo

    return gaze_drnet_demo.get_config().lock()


def test_a_comparison_runs_reports_and_skips(base, built, tmp_path, monkeypatch, capsys):
    folder, arms = tmp_path / "runs", compare.arms(gaze.DEFAULT, {}, "gaze")
    path = compare.compare(base, folder, arms, seeds=[1, 2])
    assert len(built) == 6
    out = capsys.readouterr().out
    assert "[1/6] absolute, seed 1: angular error eyes_A 7.00° (1 image)" in out
    assert (
        "drnet, seed 2: angular error eyes_A 8.00° (1 image) 5.50° (diffnn, k = 9), eyes_B" in out
    )
    text = path.read_text()
    assert "### Angular error, eyes_A (protocol lopo, rendered, last epoch)" in text
    # The lowest error is marked; 60 pictures of 3 persons, each its own fold.
    assert "| diffnn | diffnn | 9 | 2 | 3 | 60 | **5.50 ± 0.00** |" in text
    assert "| absolute | 1 image | – | 2 | 3 | 60 | 7.50 ± 0.71 |" in text
    pictures = {
        *("errors.png", "references.png", "persons.png", "corruption_k9.png", "pure_noise.png"),
        *("domains.png", "directions.png", "samples.png", "time.png"),
    }
    assert pictures <= {file.name for file in path.parent.glob("*.png")}
    assert all(f"]({name})" in text for name in pictures)
    with open(path.parent / "difference.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if "eyes_A" in row["table"]}
    assert float(rows["diffnn"]["difference deg"]) == pytest.approx(-2.0)
    with open(path.parent / "domains.csv", newline="") as file:
        (row,) = [r for r in csv.DictReader(file) if r["method"] == "drnet, 1 image"]
    assert (float(row["eyes_A"]), float(row["eyes_B"])) == (7.5, 12.0)

    monkeypatch.setattr(report, "write", lambda *given: path)
    compare.compare(base, folder, compare.arms(["drnet"], {}, "gaze"), seeds=[1, 2])
    assert len(built) == 6
    assert capsys.readouterr().out.count("done before") == 2


def test_all_folds_come_from_one_command(base, built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gaze, "folds", lambda config: 3)
    one_person = lambda config, task, params, **_: [line(person=config.data.fold, error=6.0)]
    monkeypatch.setattr(tasks, "result_lines", one_person)
    monkeypatch.setattr(report, "write", lambda folders, *_: folders[0])
    arms = compare.arms(["drnet"], {}, "gaze")
    folder = compare.compare(base, tmp_path, arms, seeds=[1], folds=["all"])
    assert built == [str(tmp_path / f"drnet/seed1/fold{fold}") for fold in range(3)]
    assert "[3/3] drnet, seed 1, fold 2: angular error eyes_A 7.20°" in capsys.readouterr().out
    # Three persons, each of a fold of its own, in one row.
    (table,) = gaze.tables(results.read([folder]))["results"]
    assert "| drnet | 1 image | – | 1 | 3 | 60 | 6.00 |" in markdown(table)
    runs_of_folds = gather.find([tmp_path])
    assert [run.seed for run in runs_of_folds] == [1, 1, 1]
    together = gaze_samples.of_runs(runs_of_folds)
    assert together is not None
    assert len(together.rows) == len(together.error_deg) == 120
    compare.compare(base, tmp_path, arms, seeds=[1], folds=["2", "0"])
    assert len(built) == 3


def test_folds_are_those_of_the_protocol(base, monkeypatch):
    import jax

    from gaze_jax import inputs

    monkeypatch.setattr(inputs, "open_set", lambda settings: samples().gaze_set)
    of_persons = config.override(base, {"data.protocol": "lopo"})
    assert compare.fold_changes(of_persons, []) == {"": {}}
    each = {f"fold{fold}": {"data.fold": fold} for fold in range(3)}
    assert compare.fold_changes(of_persons, ["all"]) == each
    assert compare.fold_changes(of_persons, ["1"]) == {"fold1": each["fold1"]}
    with pytest.raises(config.ConfigError, match="there are 3 folds, 0 to 2"):
        compare.fold_changes(of_persons, ["0", "3"])
    with pytest.raises(config.ConfigError, match="one fold only"):
        compare.fold_changes(base, ["all"])
    # Accelerators train them side by side.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compare.fold_changes(of_persons, ["all"]) == {"": {"data.fold": -1}}


def summary(*rows):
    (found,) = gaze_scores.summarise({"run": "x/seed1", "seed": 1, **row} for row in rows)
    return found


def test_draws_are_averaged_within_persons_and_their_spread_is_that_of_the_mean():
    rows = [
        line(person=person, error=error, mode="calib", k=1, draw=draw)
        for draw, error in enumerate((4.0, 6.0, 8.0))
        for person in (0, 1)
    ]
    found, one = summary(*rows), gaze_scores.Condition("calib", 1)
    assert found.of_persons(one) == pytest.approx({"p00": 6.0 * 0.8, "p01": 6.0})
    assert found.of_seeds(one) == pytest.approx({1: 5.4})
    assert found.draw_deviation(one) == pytest.approx(2.0 * 0.9)
    assert found.pictures(one) == 30


def test_folds_are_one_row_and_seeds_are_a_spread():
    rows = [
        line(person=person, error=5.0 + seed, seed=seed, run=f"x/seed{seed}")
        for seed in (1, 2, 3)
        for person in range(3)
    ]
    found = summary(*rows)
    assert (found.seeds, found.folds) == ((1, 2, 3), 3)
    spread = found.spread(gaze_scores.Condition("single"))
    assert spread == pytest.approx((7.0, 1.0, 3))


def test_a_run_is_summed_up_by_its_last_epoch():
    rows = [line(selection=name, seed=1, error=e) for name, e in (("last", 5.0), ("best", 4.0))]
    assert gaze.score(rows) == "angular error eyes_A 4.00° (1 image)"


def test_selections_never_share_a_table():
    rows = [line(selection=name, seed=1, run="r/seed1") for name in ("last", "best")]
    groups = gaze_scores.grouped(gaze_scores.summarise(rows), ())
    assert len(groups) == 2
    text = markdown(gaze.tables(rows)["results"][1])
    assert "selected on test" in text


def test_the_last_of_two_evaluations_counts(tmp_path):
    rows = [line(error=error, seed=1) for error in (9.0, 5.0)] + [line(person=1, seed=1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "results.jsonl").write_text(text)
    found = results.read([tmp_path])
    assert [row["angular_error_deg"] for row in found] == [4.0, 6.0]
    (tmp_path / "results.jsonl").write_text(json.dumps({"task": "gaze", "method": "x"}) + "\n")
    with pytest.raises(ValueError, match="lacks angular_error_deg, dataset"):
        results.read([tmp_path])


def test_runs_of_other_folds_are_the_same_recipe(base):
    digests = {
        runs.recipe_digest(config.override(base, {"data.fold": fold, "seed": fold}))
        for fold in (0, 1, 2)
    }
    assert len(digests) == 1
    assert runs.recipe_digest(config.override(base, {"drnet.weight": 0.25})) not in digests
    assert runs.recipe_digest(config.override(base, {"accumulate": 2})) in digests
    ghosts = {
        runs.recipe_digest(config.override(base, {"accumulate": pieces, "ghost_norm": True}))
        for pieces in (2, 4)
    }
    assert len(ghosts | digests) == 3


def test_results_name_every_method_as_the_comparison_does():
    from gaze_jax import config as gaze_config
    from gaze_jax.networks import registry as networks

    every = ml_collections.ConfigDict(dataclasses.asdict(gaze_config.Config()))
    names = [*gaze.METHODS, *(f"{m}+{v}" for m in ("drnet", "cfe") for v in gaze.VARIANTS)]
    for arm in compare.arms([*names, "ablation"], gaze.VARIANTS, "gaze"):
        if "pairwise" in arm.label and "drnet" in arm.label:
            # DRNet has a loss of differences already.
            continue
        found = gaze_config.read(config.override(every, arm.changes))
        if "dfenet.vfm" not in gaze.VARIANTS.get(arm.label.partition("+")[2], {}):
            assert networks.method(found) == arm.label.partition("+")[0]


def test_published_numbers_stand_beside_real_data_only():
    assert gaze_published.tables({"eyes_A"}, {"eyes_A"}) == {}
    within = gaze_published.tables({"mpiigaze"}, {"mpiigaze"})
    assert list(within) == ["published"]
    rows = {row[0]: row[1:] for row in within["published"][0].rows}
    assert rows["DRNet (eye)"] == (4.57, 6.14, None, None)
    across = gaze_published.tables({"gazehub_mpiifacegaze"}, {"eth_xgaze"})
    assert list(across) == ["published", "published_cross"]
    assert all("Source" in table.note for kind in across.values() for table in kind)


def test_domains_trained_on_several_sets_are_matrices(monkeypatch):
    rows = [
        line(
            dataset=judged, trained_on=trained, seed=1, run="r", error=5.0 + 3 * (judged != trained)
        )
        for trained in ("eyes_A", "eyes_B")
        for judged in ("eyes_A", "eyes_B")
    ]
    # The best epoch of one of them stands in tables of its own.
    rows.append(line(trained_on="eyes_B", seed=1, run="r", error=1.0, selection="best"))
    # So does a set that was adapted to: it was not unseen.
    adapted = line(dataset="eyes_B", seed=1, run="r", protocol="adapted", mode="adapt_offset", k=9)
    rows.append(adapted)
    (item,) = gaze_scores.summarise([adapted])
    assert gaze_tables.heading("x", item).startswith("x, eyes_B (trained on eyes_A, adapted to it,")
    groups = gaze_scores.grouped(gaze_scores.summarise(rows), ())
    drawn = []
    monkeypatch.setattr(
        gaze_pictures.gaze_maps, "domain_matrices", lambda *given: drawn.append(given)
    )
    gaze_pictures.of_domains(groups)
    ((matrices, own, _),) = drawn
    (heading,) = matrices
    values = {
        (row, judged): spread.mean
        for row, cells in matrices[heading].items()
        for judged, spread in cells.items()
    }
    assert values == pytest.approx(
        {
            ("trained on eyes_A", "eyes_A"): 4.0,
            ("trained on eyes_A", "eyes_B"): 6.4,
            ("trained on eyes_B", "eyes_A"): 6.4,
            ("trained on eyes_B", "eyes_B"): 4.0,
        }
    )
    assert {key for key in values if own(heading, *key)} == {
        ("trained on eyes_A", "eyes_A"),
        ("trained on eyes_B", "eyes_B"),
    }


def test_extremes_are_those_of_the_error():
    found = gaze_samples.extremes(samples())
    assert [round(one["error"]) for one in found["best"]] == list(range(8))
    assert [round(one["error"]) for one in found["worst"]] == list(range(39, 31, -1))
    assert 20 in [round(one["error"]) for one in found["median"]]
    first = found["best"][0]
    np.testing.assert_allclose(first["answer"] - first["gaze"], np.degrees(0.1), rtol=1e-3)


def test_a_lookup_is_refused_and_a_smallest_number_marked(base, tmp_path):
    with pytest.raises(config.ConfigError, match="only FDBPL reads a lookup"):
        compare.compare(base, tmp_path, [], seeds=[1], lookup="x")
    table = Table(title="", columns=("a",), rows=((2.0,), (1.0,), (1.001,)), lowest=("a",))
    assert markdown(table).count("**1.00**") == 2


def test_a_run_whose_data_is_gone_has_no_samples(tmp_path, monkeypatch, capsys):
    def read(run, most):
        if run.label == "drnet":
            raise FileNotFoundError("data/gaze is not there")

    monkeypatch.setattr(gaze_samples, "of_run", read)
    names = ("diffnn", "drnet")
    assert gaze_pictures.of_samples({n: [gather.Run(tmp_path, n, 1)] for n in names}) == []
    out = capsys.readouterr().out
    assert out == "the report leaves out the picture of drnet's answers: data/gaze is not there\n"
