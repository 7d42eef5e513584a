"""Rendered faces and frames: patch = warped frame, flip = mirrored scene, landmarks, determinism, files."""

import csv
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gaze_jax import geometry, normalization
from gaze_jax.normalization import VirtualCamera
from gaze_jax.render import domains, frames, persons, picture, scene, store

SIZE = 96
PATCH = VirtualCamera("small", SIZE, SIZE, 480.0, 600.0)


@pytest.fixture(scope="module")
def look():
    """Any camera before any scene, SIZE x SIZE: one program for patches and frames."""

    @jax.jit
    def shader(one, camera):
        return picture.whole(one, camera, SIZE, SIZE, (32, 64))

    def run(what: scene.Scene, row: int, camera: np.ndarray) -> np.ndarray:
        one = jax.tree.map(lambda rows: rows[row], what)
        colour = np.moveaxis(np.asarray(shader(one, np.asarray(camera, np.float32))), 0, -1)
        return np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8)

    return run


@pytest.fixture(scope="module")
def faces():
    return domains.scenes("frames", "A", 3, 8, 0)


def raw_camera(what: scene.Scene, row: int) -> np.ndarray:
    """A camera whose SIZE x SIZE frame holds the face: 1.25 px/mm, its centre not on the face."""
    x, y, z = what.reference[row]
    focal = 1.25 * z
    return np.asarray(
        [
            [focal, 0, SIZE / 2 - focal * x / z + 4],
            [0, focal, SIZE / 2 - focal * y / z - 3],
            [0, 0, 1],
        ],
        np.float32,
    )


def patch_rays(what: scene.Scene, row: int) -> np.ndarray:
    one = jax.tree.map(lambda rows: rows[row], what)
    return np.asarray(picture.patch_camera(one, jnp.asarray(PATCH.matrix)))


@pytest.mark.parametrize("row", [0, 2])
def test_a_warped_frame_is_the_rendered_patch(look, faces, row):
    """Frame -> W -> patch = the patch rendered directly, <= 2 grey levels; labels come back to 1e-3 deg."""
    matrix = raw_camera(faces, row)
    seen = look(faces, row, np.linalg.inv(matrix))
    patch, planned = normalization.normalize(
        seen, matrix, faces.rotation[row], faces.reference[row], PATCH
    )
    direct = look(faces, row, patch_rays(faces, row))
    inside = np.asarray(patch).sum(axis=-1) > 0
    assert inside.mean() > 0.3
    assert np.abs(np.asarray(patch).astype(int) - direct)[inside].mean() <= 2.0
    np.testing.assert_allclose(planned.R, faces.norm[row], atol=1e-6)
    assert float(planned.scale) == pytest.approx(faces.scale[row], rel=1e-6)
    back = normalization.denormalize(geometry.pitchyaw_to_vector(faces.gaze[row]), planned.R)
    assert float(geometry.angular_error_deg(back, faces.gaze_camera[row])) < 1e-3
    to_target = faces.target[row] - faces.reference[row]
    assert float(geometry.angular_error_deg(to_target, faces.gaze_camera[row])) < 1e-3


def test_a_mirrored_scene_is_the_flipped_face(look, faces):
    mirrored = scene.mirror(faces)
    here = look(faces, 0, patch_rays(faces, 0)).astype(int)
    there = look(mirrored, 0, patch_rays(mirrored, 0)).astype(int)
    # Centred at W / 2: mirrored pictures agree after a shift by one column.
    assert np.abs(there[:, 1:][:, ::-1] - here[:, 1:]).mean() <= 1.0
    np.testing.assert_allclose(mirrored.gaze, faces.gaze * [1, -1])


def test_eyes_are_the_same_eyes_in_both_pictures(look, faces):
    """What moves the gaze changes pixels at the eyes only."""
    away = faces._replace(visual=np.roll(faces.visual, 1, axis=0))
    camera = patch_rays(faces, 0)
    changed = np.abs(look(faces, 0, camera).astype(int) - look(away, 0, camera)).sum(axis=-1) > 8
    who = persons.take(faces.person, np.asarray([0]))
    spots = []
    for side in (0, 1):
        point = faces.rotation[0] @ persons.eye_middle(who, np.asarray([side]))[0]
        x, y, z = faces.norm[0] @ (point + faces.translation[0])
        spots.append(PATCH.focal_px * np.asarray([x, y]) / (z * faces.scale[0]) + SIZE / 2)
    rows, columns = np.nonzero(changed)
    near = [np.hypot(columns - x, rows - y) < 14 for x, y in spots]
    assert changed.any()
    assert np.logical_or(*near).all()
    assert min(one.sum() for one in near) > 5


def test_landmarks_are_projections(faces):
    found = domains.landmarks(faces)
    named = persons.points(faces.person)
    for row in range(len(found)):
        for index, points in enumerate(named.values()):
            x, y, z = faces.rotation[row] @ points[row] + faces.translation[row]
            k = faces.intrinsics[row]
            expected = (k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2])
            assert found[row, index] == pytest.approx(expected, abs=1e-2)


def test_eyes_meet_on_the_target(faces):
    for side in (0, 1):
        ball = persons.ball_centre(faces.person, np.full(len(faces.side), side))
        ball = np.einsum("nij,nj->ni", faces.rotation, ball) + faces.translation
        off = np.asarray(geometry.angular_error_deg(faces.visual[:, side], faces.target - ball))
        assert off.max() < 1e-2


def fake_frames(kind, domain, what):
    del domain
    assert kind == "frames"
    return np.full((len(what.side), 48, 64, 3), 7, np.uint8)


def test_frames_as_files(tmp_path, monkeypatch):
    monkeypatch.setattr(domains, "shade", fake_frames)
    options: dict[str, Any] = {"persons": 2, "per_person": 3, "seed": 1, "progress": False}
    folder = store.write_frames(tmp_path / "frames", "A", **options)
    with open(folder / frames.LANDMARKS, newline="") as file:
        marks = list(csv.DictReader(file))
    with open(folder / frames.TRUTH, newline="") as file:
        truths = list(csv.DictReader(file))
    assert [row["frame"] for row in marks] == [row["frame"] for row in truths]
    assert len(marks) == 6
    what = domains.scenes("frames", "A", 1, 3, 1)
    camera = json.loads((folder / "person-01" / "camera.json").read_text())
    np.testing.assert_allclose(camera["matrix"], what.intrinsics[2], rtol=1e-6)
    expected = dict(zip(persons.points(what.person), domains.landmarks(what)[2], strict=True))
    row = marks[-1]
    assert row["frame"] == "person-01/0002.png"
    for name, (x, y) in expected.items():
        assert (float(row[f"{name}_x"]), float(row[f"{name}_y"])) == pytest.approx((x, y), abs=1e-3)
        assert float(row["left"]) < x < float(row["right"])
    turned = [[float(truths[-1][f"r{a}{b}"]) for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(turned, what.rotation[2], atol=1e-6)
    assert float(truths[-1]["yaw_rad"]) == pytest.approx(what.gaze[2, 1], abs=1e-6)
    with Image.open(folder / "person-01" / "0002.png") as image:
        assert image.size == (64, 48)

    # A second run renders what is missing only; another seed is refused.
    (folder / "person-00" / "0001.png").unlink()
    rendered = []
    monkeypatch.setattr(
        domains, "shade", lambda *a: rendered.append(len(a[2].side)) or fake_frames(*a)
    )
    store.write_frames(folder, "A", **options)
    assert rendered == [1]
    with pytest.raises(ValueError, match="holds frames of"):
        store.write_frames(folder, "A", **{**options, "seed": 2})
    with pytest.raises(ValueError, match="0 frames"):
        store.write_frames(folder, "A", persons=1, per_person=0)


@pytest.mark.slow
def test_full_frames_warp_to_face_patches():
    what = domains.scenes("frames", "D", 1, 4, 0)
    what = what._replace(
        noise=0 * what.noise, blur_px=0 * what.blur_px, gain=0 * what.gain + 1, jpeg=0 * what.jpeg
    )
    seen = domains.shade("frames", "D", what)
    direct = domains.shade("faces", "D", what).astype(int)
    camera = normalization.CAMERAS["eth_face"]
    for row, frame in enumerate(seen):
        patch, _ = normalization.normalize(
            frame, what.intrinsics[row], what.rotation[row], what.reference[row], camera
        )
        inside = np.asarray(patch).sum(axis=-1) > 0
        assert np.abs(np.asarray(patch).astype(int) - direct[row])[inside].mean() <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "letter"), [("faces", "A"), ("faces", "C"), ("frames", "B")])
def test_same_seed_same_bytes(kind, letter):
    made = domains.make(kind, letter, 2, 3)
    again = domains.make(kind, letter, 2, 2)
    np.testing.assert_array_equal(made.images[:2], again.images[:2])
    np.testing.assert_array_equal(made.images[3:5], again.images[2:])
    assert made.images.shape[1:] == ((480, 640, 3) if kind == "frames" else (224, 224, 3))
    assert made.images.std() > 20
    if kind == "faces" and letter == "C":
        assert made.camera == ""
        np.testing.assert_array_equal(made.norm, np.broadcast_to(np.eye(3), made.norm.shape))


@pytest.mark.slow
def test_faces_are_kept_and_read_lazily(tmp_path):
    options = {"persons": 2, "per_person": 2, "progress": False}
    made = store.open_set("faces_D", tmp_path, **options)
    again = store.open_set("faces_D", tmp_path, **options)
    direct = domains.make("faces", "D", 2, 2)
    np.testing.assert_array_equal(again.images.take(np.asarray([3, 0])), direct.images[[3, 0]])
    assert (again.kind, again.size, again.camera) == ("face", (224, 224, 3), "eth_face")
    assert again.digest == made.digest
