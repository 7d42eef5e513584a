"""Personal calibration: fitted from labelled pictures, kept in a file, used, and refused by other networks."""

import dataclasses
import json

import numpy as np
import pytest

from core_jax.train import Params
from gaze_jax import calibrate, face_model
from gaze_jax.gaze_set import FACE, LEFT, RIGHT
from gaze_jax.normalization import CAMERAS
from gaze_jax.people import calibration_file, personal_fit
from gaze_jax.people.calibration_file import Labelled, Personal
from gaze_jax.people.personal_fit import Look
from gaze_jax.predict import Frame, GazeEstimator
from tests.gaze_jax.gaze_toys import INTRINSICS, PARAMS, eye_toy, posed, toy, turn

IMAGE = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
DIGEST = calibration_file.model_digest(PARAMS)
BIAS = np.array([0.03, 0.05])
SAID = np.array([0.1, -0.2])


def poses(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        pitch, yaw = rng.uniform(-12, 12, 2)
        yield posed(turn(pitch, yaw), np.array([*rng.uniform(-60, 60, 2), 600.0]))[0]


def face_estimator(personal=None, face_points_mm=face_model.POINTS, **options):
    return GazeEstimator(
        toy(**options),
        PARAMS,
        CAMERAS["eth_face"],
        intrinsics=INTRINSICS,
        personal=personal,
        face_points_mm=face_points_mm,
    )


def eye_estimator(personal=None):
    camera = CAMERAS["mpiigaze_eye"]
    return GazeEstimator(eye_toy(), PARAMS, camera, intrinsics=INTRINSICS, personal=personal)


def biased(estimator, faces):
    """Looks whose truth lies `BIAS` beside what the network says, in normalised space."""
    looks = []
    for number, face in enumerate(faces):
        frame = Frame(image=IMAGE, faces=[face], name=f"{number}.png")
        (found,) = estimator.batch([frame])[0]
        from gaze_jax import geometry

        moved = np.asarray(geometry.pitchyaw_to_vector(found.normalised_rad + BIAS))
        looks.append(
            Look(
                frame=frame, gaze_rad=np.asarray(geometry.vector_to_pitchyaw(found.norm.T @ moved))
            )
        )
    return looks


def test_an_offset_is_found_kept_and_applied(tmp_path):
    looks = biased(face_estimator(), poses(8))
    personal = personal_fit.fit(face_estimator(), looks, person="ann")
    shrunk = 8 / 9 * BIAS
    np.testing.assert_allclose(personal.corrections["face"].offset_rad, shrunk, atol=1e-4)
    assert len(personal.residual_deg["face"]) == 8
    assert max(personal.residual_deg["face"]) == pytest.approx(
        np.rad2deg(np.hypot(*BIAS / 9)), rel=0.05
    )
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST)
    assert again.points == tuple(f"{i}.png" for i in range(8))
    (found,) = face_estimator(again).step(IMAGE, faces=looks[0].frame.faces)
    np.testing.assert_allclose(found.normalised_rad, SAID + shrunk, atol=1e-4)
    assert found.calibrated


@pytest.mark.parametrize("kind", ["offset", "affine", "ridge"])
def test_every_kind_survives_the_file(kind, tmp_path):
    rng = np.random.default_rng(2)
    predicted, features = rng.normal(0, 0.2, (12, 2)), rng.normal(0, 1, (12, 3))
    sd = {"between_sd": 0.06, "within_sd": 0.06}
    fitted = calibrate.fit(kind, predicted, predicted * 1.1 + 0.05, features, **sd)
    personal = Personal(person="x", method=kind, corrections={"face": fitted})
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST)
    assert again.needs_features == (kind == "ridge")
    sides = np.full(12, FACE)
    np.testing.assert_array_equal(
        again.correct(predicted, sides, features), calibrate.apply(fitted, predicted, features)
    )


def test_eyes_are_corrected_each_in_left_eye_form():
    looks = []
    for face in poses(4):
        frame = Frame(image=IMAGE, faces=[face])
        looks.append(Look(frame=frame, target_mm=np.array([150.0, 80.0, 0.0])))
    estimate = eye_estimator()
    spreads = (np.full(2, 10.0), np.full(2, 0.01))
    personal = personal_fit.fit(estimate, looks, person="ann", spreads=spreads)
    assert personal.spread_rad == ((10.0, 10.0), (0.01, 0.01))
    assert set(personal.corrections) == {"left", "right"}
    # An offset with hardly any prior leaves the mean of the labels, which point at the target.
    for side, number in (("left", LEFT), ("right", RIGHT)):
        labels = [gaze for view, gaze in personal_fit._seen(estimate, looks) if view.side == number]
        mean = np.mean(labels, axis=0)
        corrected = personal.correct(np.array([[0.1, -0.2]]), np.array([number]), None)
        np.testing.assert_allclose(corrected[0], mean, atol=1e-3)
        assert personal.corrections[side].count == 4
    found = eye_estimator(personal).step(IMAGE, faces=looks[0].frame.faces)[0]
    towards = np.array([150.0, 80.0, 0.0]) - found.eyes_mm
    cosine = found.camera_vector @ towards / np.linalg.norm(towards)
    assert np.rad2deg(np.arccos(cosine)) < 12


def test_references_are_compared_with(tmp_path):
    model = {"references": True, "predict": "none"}
    looks = biased(face_estimator(references=True), list(poses(3)))
    both = personal_fit.fit(
        face_estimator(references=True), looks, person="ann", method="references"
    )
    assert both.mode == "blend"
    # A network that only compares can be given references, though it says nothing before.
    bare = face_estimator(**model)
    with pytest.raises(ValueError, match="compares pictures with references of the same person"):
        bare.step(IMAGE, faces=looks[0].frame.faces)
    personal = personal_fit.fit(bare, looks, person="ann", method="references")
    assert personal.mode == "diffnn"
    labelled = personal.references["face"]
    assert labelled.images.shape == (3, 224, 224, 3)
    np.testing.assert_allclose(labelled.gaze, np.tile(SAID + BIAS, (3, 1)), atol=1e-4)
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST, "ann")
    np.testing.assert_array_equal(again.references["face"].images, labelled.images)
    # Differences of brightness of a picture of noise are small: the answer is that of the references.
    faces = [*poses(3)]
    found = face_estimator(again, **model).step(IMAGE, faces=faces)
    for face in found:
        np.testing.assert_allclose(face.normalised_rad, SAID + BIAS, atol=0.03)
    query = np.mean(labelled.images[0] / 255.0)
    known = np.mean(labelled.images / 255.0, axis=(1, 2, 3))
    change = query - known
    share = np.exp(-(2 * change**2) / (2 * np.deg2rad(5) ** 2))
    expected = SAID + BIAS + np.sum(share / share.sum() * change)
    (first,) = bare.calibrated(again).step(IMAGE, faces=looks[0].frame.faces)
    np.testing.assert_allclose(first.normalised_rad, expected, atol=1e-4)


def test_references_are_mixed_as_the_run_was_fitted(tmp_path):
    estimate = face_estimator(references=True)
    looks = biased(estimate, list(poses(1)))
    take = {"person": "ann", "method": "references"}
    assert personal_fit.fit(estimate, looks, **take).mode == "calib"
    personal = personal_fit.fit(estimate, looks, blend=0.75, **take)
    assert (personal.mode, personal.blend) == ("blend", 0.75)
    assert personal_fit.fit(estimate, looks, blend=0.0, **take).mode == "calib"
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST)
    # Compared with itself there is no difference, and this network's own answer is 0.
    (found,) = estimate.calibrated(again).step(IMAGE, faces=looks[0].frame.faces)
    np.testing.assert_allclose(found.normalised_rad, 0.75 * (SAID + BIAS), atol=1e-4)


def test_a_look_moves_the_offset_and_nothing_else():
    estimate = face_estimator()
    looks = biased(estimate, poses(8))
    personal = personal_fit.fit(estimate, looks, person="ann", method="affine")
    seated = estimate.calibrated(personal)
    # Who sits otherwise now: again `BIAS` beside what is said, and one look of equal spreads goes half of the way.
    (look,) = biased(seated, poses(1))
    moved = personal_fit.recentre(seated, [look])
    before, after = personal.corrections["face"], moved.corrections["face"]
    np.testing.assert_allclose(after.offset_rad - before.offset_rad, BIAS / 2, atol=1e-4)
    np.testing.assert_array_equal(after.weight, before.weight)
    same = {"corrections": personal.corrections}
    assert dataclasses.replace(moved, **same) == personal
    with pytest.raises(ValueError, match="no calibration: there is no offset to move"):
        personal_fit.recentre(estimate, [look])


def test_eyes_are_centred_again_each_in_left_eye_form():
    estimate = eye_estimator()
    look = Look(
        frame=Frame(image=IMAGE, faces=list(poses(1))), target_mm=np.array([150.0, 80.0, 0.0])
    )
    spreads = (np.full(2, 10.0), np.full(2, 0.01))
    before = personal_fit.fit(
        estimate,
        [dataclasses.replace(look, target_mm=np.zeros(3))],
        person="ann",
        spreads=spreads,
    )
    moved = personal_fit.recentre(estimate.calibrated(before), [look])
    expected = personal_fit.fit(estimate, [look], person="ann", spreads=spreads)
    for side in ("left", "right"):
        np.testing.assert_allclose(
            moved.corrections[side].offset_rad, expected.corrections[side].offset_rad, atol=1e-4
        )


def test_grey_crops_survive_the_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 36, 60, 1)).astype(np.uint8)
    labelled = Labelled(
        images=images, gaze=np.zeros((2, 2), np.float32), head=np.ones((2, 2), np.float32)
    )
    personal = Personal(person="x", method="references", references={"left": labelled})
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST).references["left"]
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_array_equal(again.head, labelled.head)


def test_one_file_holds_several_persons_of_one_network(tmp_path):
    path = tmp_path / "c.json"
    fitted = calibrate.fit(
        "offset", np.zeros((1, 2)), np.ones((1, 2)) * 0.1, between_sd=1, within_sd=1
    )
    for name in ("ann", "bob"):
        personal = Personal(person=name, method="offset", corrections={"face": fitted})
        calibration_file.save(path, personal, DIGEST)
    assert calibration_file.load(path, DIGEST, "bob").person == "bob"
    with pytest.raises(ValueError, match=r"--person=\(none\); the file has ann, bob"):
        calibration_file.load(path, DIGEST)
    other = calibration_file.model_digest(Params(trainable={"gaze": np.zeros(2, np.float32)}))
    assert other != DIGEST
    for ask in (
        lambda: calibration_file.load(path, other, "bob"),
        lambda: calibration_file.save(path, personal, other),
    ):
        with pytest.raises(ValueError, match="made with another network"):
            ask()
    with pytest.raises(ValueError, match="nothing for left and right, which toy looks at"):
        eye_estimator(calibration_file.load(path, DIGEST, "bob"))


def test_damaged_files(tmp_path):
    path = tmp_path / "c.json"
    with pytest.raises(FileNotFoundError, match="no such calibration file"):
        calibration_file.load(path, DIGEST)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        calibration_file.load(path, DIGEST)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no calibration file"):
        calibration_file.load(path, DIGEST)
    path.write_text(json.dumps({"format": calibration_file.FORMAT}))
    with pytest.raises(ValueError, match="without model_digest and persons: it is damaged"):
        calibration_file.load(path, DIGEST)
    content = {"format": calibration_file.FORMAT, "model_digest": DIGEST, "persons": {"ann": {}}}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the calibration of ann is damaged"):
        calibration_file.load(path, DIGEST)


def test_another_face_model_than_that_of_the_calibration_is_warned_of(tmp_path, caplog):
    looks = biased(face_estimator(), poses(1))
    personal = personal_fit.fit(face_estimator(), looks, person="ann")
    calibration_file.save(tmp_path / "c.json", personal, DIGEST)
    again = calibration_file.load(tmp_path / "c.json", DIGEST)
    face_estimator().calibrated(again)
    assert not caplog.records
    other = dict(face_model.POINTS) | {"nose_tip": (0.0, 40.0, -31.0)}
    face_estimator(again, face_points_mm=other)
    assert "calibration of ann was made with another face model" in caplog.text
    assert face_model.digest(other)[:12] in caplog.text


def test_looks_that_cannot_be_used():
    empty = Look(frame=Frame(image=IMAGE, faces=[], name="a.png"), gaze_rad=np.zeros(2))
    with pytest.raises(
        ValueError, match=r"2 of 2 pictures.*\n  a\.png: no face\n  a\.png: no face"
    ):
        personal_fit.fit(face_estimator(), [empty, empty], person="x")
    with pytest.raises(ValueError, match="no labelled pictures"):
        personal_fit.fit(face_estimator(), [], person="x")
    with pytest.raises(ValueError, match="expected one of offset, affine, ridge, references"):
        personal_fit.fit(face_estimator(), [empty], person="x", method="magic")
    with pytest.raises(ValueError, match="compares no pictures"):
        personal_fit.fit(face_estimator(), [empty], person="x", method="references")
