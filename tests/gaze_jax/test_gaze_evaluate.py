"""Judging against loops over single pictures and single comparisons, with a linear network."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.train import Params
from gaze_jax import calibrate, corrupt, evaluate, modes, splits
from gaze_jax.gaze_set import GazeSet, InMemory
from gaze_jax.judging import statistics
from gaze_jax.model import Model, References

SIZE, PIXELS = (6, 8, 1), 48


def gaze_set(counts=(12, 14, 9), seed=0, **changes):
    """Persons with pictures of both sides."""
    rng = np.random.default_rng(seed)
    person = np.concatenate([np.full(2 * n, i) for i, n in enumerate(counts)])
    count = len(person)
    order = rng.permutation(count)
    side = np.concatenate([np.repeat([0, 1], n) for n in counts])
    fields = {
        "name": "toy",
        "kind": "eye",
        "images": InMemory(rng.integers(0, 256, (count, *SIZE), np.uint8)),
        "size": SIZE,
        "gaze": rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32),
        "head": rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32),
        "has_head": np.ones(count, bool),
        "person": person[order],
        "persons": tuple(f"p{i:02d}" for i in range(len(counts))),
        "side": side[order],
        "norm": np.broadcast_to(np.eye(3, dtype=np.float32), (count, 3, 3)),
        "scale": np.ones(count, np.float32),
        "source": ("",) * count,
        "camera": "mpiigaze_eye",
        "digest": "d",
    }
    return GazeSet(**fields | changes)


def encode(params, images, head):
    flat = images.astype(jnp.float32).reshape(len(images), -1) / 255.0
    return {"f": flat @ params.trainable["trunk"] + head @ params.trainable["head"]}


def compare(params, query, reference):
    w = params.trainable
    absolute = query["f"] @ w["query"] + reference["f"] @ w["reference"]
    return absolute, (query["f"] - reference["f"]) @ w["difference"]


MODEL = Model(
    name="toy",
    kind="eye",
    size=SIZE,
    uses_head=True,
    init=lambda key: Params(trainable={}),
    loss=lambda *_: (jnp.zeros(()), None),
    predict=lambda params, images, head: compare(params, *2 * [encode(params, images, head)])[0],
    features=lambda params, images, head: encode(params, images, head)["f"],
    references=References(encode=encode, compare=compare),
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    heads = dict.fromkeys(("query", "reference", "difference"), (5, 2))
    shapes = {"trunk": (PIXELS, 5), "head": (2, 5), **heads}
    return Params(
        trainable={k: jnp.asarray(0.2 * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    )


def angle_deg(a, b):
    """Between two (pitch, yaw), by the arc cosine of unit vectors."""
    u, v = (
        np.array([-math.cos(t) * math.sin(p), -math.sin(t), -math.cos(t) * math.cos(p)])
        for t, p in np.asarray([a, b], np.float64)
    )
    return math.degrees(math.acos(min(1.0, float(u @ v))))


def one(params, query, reference, data, image=None, ref_image=None):
    """A single comparison, in float64 from the definition."""
    w = {k: np.asarray(v, np.float64) for k, v in params.trainable.items()}

    def code(row, image):
        image = data.images.array[row] if image is None else image
        return image.reshape(-1) / 255.0 @ w["trunk"] + data.head[row] @ w["head"]

    q, r = code(query, image), code(reference, ref_image)
    return q @ w["query"] + r @ w["reference"], (q - r) @ w["difference"]


def answer(mode, found, known, b):
    absolute, difference = (np.array(x) for x in zip(*found))
    weight = np.exp(-np.sum(difference**2, -1) / (2 * math.radians(5) ** 2))
    diffnn = (weight / weight.sum()) @ (known + difference)
    calib = absolute.mean(0)
    return {"calib": calib, "diffnn": diffnn, "blend": (1 - b) * calib + b * diffnn}[mode]


def brute_force(params, data, rows, settings, *, k, mode, draw, spoil=None):
    """Errors of one mode, k and draw, a person after the other, a picture after the other."""
    picks = splits.references(data, rows, max(settings.k), settings.draws, settings.seed)[draw]
    errors = {}
    for row, references in zip(picks.scored, picks.references[:, :k]):
        image = spoil("query", row, 0) if spoil else None
        found = [
            one(params, row, r, data, image, spoil("references", r, j) if spoil else None)
            for j, r in enumerate(references)
        ]
        made = answer(mode, found, data.gaze[references], modes.default_blend(k))
        name = data.persons[data.person[row]]
        errors.setdefault(name, []).append(angle_deg(made, data.gaze[row]))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def of_persons(entries, **which):
    chosen = [e for e in entries if all(getattr(e, k) == v for k, v in which.items())]
    assert len({entry.person for entry in chosen}) == len(chosen)
    return {entry.person: entry.angular_error_deg for entry in chosen}


# A batch size that divides nothing: the last batches are filled up.
SETTINGS = evaluate.JudgeConfig(k=(1, 3, 5), draws=2, batch_size=23)


@pytest.fixture(scope="module")
def data():
    return gaze_set()


@pytest.fixture(scope="module")
def clean(params, data):
    return evaluate.judge_pairs(MODEL, params, data, np.arange(len(data)), SETTINGS)


def test_judge_is_a_loop_over_persons(params, data):
    split = splits.make(data, "clusters", clusters=2)
    found = evaluate.judge(MODEL, params, data, split, SETTINGS)
    errors = {}
    for row in split.test:
        predicted = one(params, row, row, data)[0]
        name = data.persons[data.person[row]]
        errors.setdefault(name, []).append(angle_deg(predicted, data.gaze[row]))
    everyone = np.concatenate(list(errors.values()))
    expected = {name: np.mean(values) for name, values in errors.items()}
    assert of_persons(found["entries"]) == pytest.approx(expected, rel=1e-4)
    # Persons have different numbers of pictures, so that the two means differ.
    assert found["angular_error_deg"] == pytest.approx(np.mean(list(expected.values())), rel=1e-4)
    assert found["images_deg"] == pytest.approx(everyone.mean(), rel=1e-4)
    assert found["median_deg"] == pytest.approx(np.median(everyone), rel=1e-3)
    assert found["p90_deg"] == pytest.approx(np.quantile(everyone, 0.9), rel=1e-3)
    assert found["low_deg"] <= found["angular_error_deg"] <= found["high_deg"]
    assert (found["persons"], found["n"]) == (2, len(split.test))


@pytest.mark.parametrize("mode", ["calib", "diffnn", "blend"])
@pytest.mark.parametrize("k", SETTINGS.k)
def test_every_mode_and_k_is_the_brute_force_loop(params, data, clean, mode, k):
    for draw in range(SETTINGS.draws):
        rows = np.arange(len(data))
        expected = brute_force(params, data, rows, SETTINGS, k=k, mode=mode, draw=draw)
        found = of_persons(clean, mode=mode, k=k, draw=draw)
        assert found == pytest.approx(expected, rel=1e-4)


def test_single_is_judge(params, data, clean):
    alone = evaluate.judge(MODEL, params, data, np.arange(len(data)), SETTINGS)["entries"]
    single = of_persons(clean, mode="single", k=None, draw=None)
    assert single == pytest.approx(of_persons(alone), rel=1e-5)
    assert {e.n for e in clean if e.mode == "single"} == {18, 24, 28}
    # Of each side the references of the largest k are not scored, whatever k is.
    assert {e.n for e in clean if e.mode != "single"} == {8, 14, 18}


def test_parts_are_those_of_the_angles(params, data):
    predicted = evaluate.predict_rows(MODEL, params, data, np.arange(4))
    found = statistics.errors(predicted, data.gaze[:4])
    apart = np.degrees(np.abs(predicted - data.gaze[:4]))
    np.testing.assert_allclose(np.stack(found[1:], 1), apart, rtol=1e-5)


@pytest.mark.parametrize("who", evaluate.WHO)
def test_corruption_hits_whom_it_is_said_to_hit(params, data, who):
    kind, severity = "occluder", 4
    settings = dataclasses.replace(
        SETTINGS,
        modes=("single", "diffnn"),
        corruptions=(kind,),
        severities=(severity,),
        who=(who,),
        corrupted_k=(3,),
        corrupted_draws=1,
    )
    rows = np.flatnonzero(data.person == 0)
    entries = evaluate.judge_pairs(MODEL, params, data, rows, settings)
    key = jax.random.fold_in(jax.random.key(settings.seed), severity)

    apply = jax.jit(lambda image, key: corrupt.apply(kind, image, severity, key=key))

    def spoil(role, row, place):
        del place
        if who not in (role, "both"):
            return None
        image = jnp.asarray(data.images.array[row])[None]
        return np.asarray(apply(image, jax.random.fold_in(key, row)))[0]

    found = of_persons(entries, corrupted=who, corruption=kind, severity=4.0, mode="diffnn", k=3)
    expected = brute_force(params, data, rows, settings, k=3, mode="diffnn", draw=0, spoil=spoil)
    assert found == pytest.approx(expected, rel=1e-3)
    # One image knows no references: it is judged under corrupted queries only.
    single = of_persons(entries, corrupted=who, mode="single")
    assert bool(single) == (who == "query")


def test_a_network_without_references_is_judged_on_corrupted_pictures_too(params, data):
    settings = dataclasses.replace(
        SETTINGS, corruptions=("occluder", "pure_noise"), severities=(2, 5)
    )
    rows = np.flatnonzero(data.person == 0)
    alone = evaluate.judge(MODEL, params, data, rows, settings)
    pairs = evaluate.judge_pairs(MODEL, params, data, rows, settings)
    spoilt = [e for e in alone["entries"] if e.corruption]
    assert [(e.corrupted, e.corruption, e.severity) for e in spoilt] == [
        ("query", "occluder", 2.0),
        ("query", "occluder", 5.0),
    ]
    for entry in spoilt:
        found = of_persons(pairs, mode="single", severity=entry.severity)
        assert found["p00"] == pytest.approx(entry.angular_error_deg, rel=1e-5)
    clean = of_persons(alone["entries"], corruption=None)
    assert clean["p00"] == pytest.approx(alone["angular_error_deg"])


def test_noise_replaces_references_one_by_one(params, data):
    settings = dataclasses.replace(
        SETTINGS, modes=("calib",), corruptions=("pure_noise",), corrupted_k=(1, 5)
    )
    rows = np.flatnonzero(data.person == 1)
    entries = evaluate.judge_pairs(MODEL, params, data, rows, settings)
    noisy = [e for e in entries if e.corruption == "pure_noise"]
    assert [(e.k, e.severity) for e in noisy] == [
        *((1, m) for m in (0.0, 1.0)),
        *((5, m / 5) for m in range(6)),
    ]
    for k in (1, 5):
        of_draws = [e.angular_error_deg for e in entries if e.k == k and e.corruption is None]
        (none,) = [e for e in noisy if (e.k, e.severity) == (k, 0.0)]
        assert none.draws == 2
        assert none.angular_error_deg == pytest.approx(np.mean(of_draws), rel=1e-5)
    # The answer of this network is linear in the references' codes, so it moves with every one that is replaced.
    errors = [e.angular_error_deg for e in noisy if e.k == 5]
    assert len(set(np.round(errors, 4))) == 6


def test_noise_keeps_the_head_pose_of_what_it_replaces(params, data):
    """A network that reads nothing but head poses does not notice that pictures are noise."""
    trunk = jnp.zeros_like(params.trainable["trunk"])
    blind = Params(trainable={**params.trainable, "trunk": trunk})
    settings = dataclasses.replace(SETTINGS, modes=("calib",), corruptions=("pure_noise",))
    entries = evaluate.judge_pairs(MODEL, blind, data, np.flatnonzero(data.person == 0), settings)
    noisy = [e.angular_error_deg for e in entries if e.corruption and e.k == 1]
    assert noisy == pytest.approx(noisy[:1] * 2, rel=1e-6)


def test_the_fitted_blend_is_the_best_of_those_tried(params, data):
    rows = np.arange(len(data))
    fitted = evaluate.fit_blend(MODEL, params, data, rows, SETTINGS, steps=4)
    settings = dataclasses.replace(SETTINGS, modes=("blend",))

    def error(b: float):
        blend: dict[int, float] = dict.fromkeys(SETTINGS.k, b)
        found = evaluate.judge_pairs(MODEL, params, data, rows, settings, blend=blend)
        return {
            k: statistics.headline(e for e in found if e.k == k)["angular_error_deg"]
            for k in SETTINGS.k
        }

    tried = {b: error(b) for b in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert fitted == {k: min(tried, key=lambda b, k=k: tried[b][k]) for k in SETTINGS.k}


def test_results_do_not_depend_on_the_batch_size_or_on_other_persons(params, data, clean):
    rows = np.flatnonzero(data.person == 2)
    settings = dataclasses.replace(SETTINGS, batch_size=64)
    alone = evaluate.judge_pairs(MODEL, params, data, rows, settings)
    for mine, theirs in zip(alone, [e for e in clean if e.person == "p02"], strict=True):
        assert mine.angular_error_deg == pytest.approx(theirs.angular_error_deg, rel=1e-4)
        assert dataclasses.replace(mine, **ERRORS) == dataclasses.replace(theirs, **ERRORS)


ERRORS = dict.fromkeys(("angular_error_deg", "pitch_error_deg", "yaw_error_deg"), 0.0)


def test_modes_without_a_head_are_passed_over(params, data):
    only = References(encode=encode, compare=lambda p, q, r: (None, compare(p, q, r)[1]))
    model = dataclasses.replace(MODEL, references=only, predict=None)
    settings = dataclasses.replace(SETTINGS, k=(1,), draws=1)
    rows = np.flatnonzero(data.person == 0)
    entries = evaluate.judge_pairs(model, params, data, rows, settings)
    assert {e.mode for e in entries} == {"diffnn"}
    assert evaluate.fit_blend(model, params, data, rows, settings) == {}
    with pytest.raises(ValueError, match="toy has no head for any of the modes single, calib"):
        evaluate.judge_pairs(
            model, params, data, rows, dataclasses.replace(settings, modes=("single", "calib"))
        )
    with pytest.raises(ValueError, match="says nothing of one picture alone"):
        evaluate.judge(model, params, data, rows)


def test_persons_with_too_few_pictures_are_counted_out_loud(params, capsys):
    data = gaze_set((12, 4))
    settings = dataclasses.replace(SETTINGS, draws=1)
    entries = evaluate.judge_pairs(MODEL, params, data, np.arange(len(data)), settings)
    assert {e.person for e in entries} == {"p00"}
    assert "8 of 32 pictures are not judged" in capsys.readouterr().out
    pooled = dataclasses.replace(settings, pool_sides=True)
    both = evaluate.judge_pairs(MODEL, params, data, np.arange(len(data)), pooled)
    assert {e.person for e in both} == {"p00", "p01"}
    with pytest.raises(ValueError, match="nobody has more than k=5 pictures"):
        evaluate.judge_pairs(MODEL, params, data, np.flatnonzero(data.person == 1), settings)


def test_only_some_pictures_are_scored_where_that_is_asked(params, data):
    settings = dataclasses.replace(SETTINGS, queries=6)
    entries = evaluate.judge_pairs(MODEL, params, data, np.arange(len(data)), settings)
    assert {e.n for e in entries if e.mode != "single"} == {6}


def test_pictures_of_another_kind_are_refused(params):
    data = gaze_set(kind="face", has_head=np.arange(70) % 2 == 0)
    with pytest.raises(ValueError, match=r"toy takes eye pictures, toy has face; .* 35 of 70"):
        evaluate.judge(MODEL, params, data, np.arange(len(data)))
    with pytest.raises(ValueError, match="no test pictures"):
        evaluate.judge(MODEL, params, data, np.arange(0))


def test_wrong_settings_are_named_together():
    with pytest.raises(ValueError, match=r"modes holds 'mean'.*who holds 'nobody'.*draws=0"):
        evaluate.JudgeConfig(modes=("mean",), who=("nobody",), draws=0)


def test_result_lines_have_the_fields_that_reports_read(data, clean):
    common = {"method": "drnet", "fold": 0, "selection": "last"}
    line = evaluate.result_lines(clean[:1], data, common)[0]
    assert line["task"] == "gaze"
    assert line | common == line
    assert (line["dataset"], line["synthetic"], line["data_digest"]) == ("toy", False, "d")
    assert (line["person"], line["mode"], line["k"], line["draw"]) == ("p00", "single", None, None)


@pytest.mark.parametrize("kind", ["mean_offset", "offset", "affine"])
def test_calibration_is_a_loop_over_persons_and_sides(params, data, kind):
    settings = dataclasses.replace(SETTINGS, k=(1, 7), calibrations=(kind,))
    rows, strangers = np.flatnonzero(data.person != 2), gaze_set(seed=5)
    held_out = (strangers, np.arange(len(strangers)))
    found = evaluate.calibrated(MODEL, params, data, rows, held_out, settings)
    assert {e.k for e in found} == ({7} if kind == "affine" else {1, 7})
    off = strangers.gaze - evaluate.predict_rows(MODEL, params, strangers, held_out[1])
    between, within = calibrate.spreads(off, strangers.person * 3 + strangers.side)
    predicted = evaluate.predict_rows(MODEL, params, data, np.arange(len(data)))
    for draw, picks in enumerate(splits.references(data, rows, 7, settings.draws)):
        for k in sorted({e.k or 0 for e in found}):
            errors = {}
            for row, references in zip(picks.scored, picks.references[:, :k]):
                residual = data.gaze[references] - predicted[references]
                if kind == "affine":
                    fitted = calibrate.fit(
                        kind,
                        predicted[references],
                        data.gaze[references],
                        between_sd=between,
                        within_sd=within,
                    )
                    made = calibrate.apply(fitted, predicted[row][None])[0]
                else:
                    shrunk = k * between**2 / (k * between**2 + within**2)
                    share = 1.0 if kind == "mean_offset" else shrunk
                    made = predicted[row] + share * residual.mean(0)
                name = data.persons[data.person[row]]
                errors.setdefault(name, []).append(angle_deg(made, data.gaze[row]))
            expected = {name: float(np.mean(values)) for name, values in errors.items()}
            assert of_persons(found, mode=kind, k=k, draw=draw) == pytest.approx(expected, rel=1e-4)


def test_nobody_is_calibrated_without_strangers(params, data):
    rows = np.arange(len(data))
    one = (data, np.flatnonzero(data.person == 0))
    assert evaluate.calibrated(MODEL, params, data, rows, one, SETTINGS) == []
    blind = dataclasses.replace(MODEL, predict=None)
    assert evaluate.calibrated(blind, params, data, rows, (data, rows), SETTINGS) == []
