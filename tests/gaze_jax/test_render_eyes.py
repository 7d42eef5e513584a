"""Rendered eyes: labels and geometry against NumPy, mirror symmetry, kappa, determinism, the store."""

import json

import numpy as np
import pytest

from gaze_jax import geometry
from gaze_jax.gaze_set import LEFT, RIGHT
from gaze_jax.normalization import CAMERAS
from gaze_jax.render import domains, persons, scene, store
from gaze_jax.render.draws import Draws

COUNT = 64


@pytest.fixture(scope="module")
def eyes():
    return domains.make("eyes", "A", 2, COUNT)


def clean(what: scene.Scene, **changes: object) -> scene.Scene:
    one = np.ones_like(what.gain)
    nothing = {"noise": 0 * one, "gain": one, "specular": 0 * one}
    return what._replace(**{**nothing, **changes})


def bare(who: persons.Person) -> persons.Person:
    """People with wide open lids, white skin and flat dark irises."""
    one = np.ones_like(who.radius)
    return who._replace(
        upper=9 * one,
        lower=9 * one,
        lash=0 * one,
        iris_tone=0.03 * one,
        crease=20 * one,
        skin_tone=one,
    )


def flat(what: scene.Scene) -> scene.Scene:
    """Scenes in even light, without noise."""
    one = np.ones_like(what.gain)
    return clean(what, strength=0 * one, ambient=one, gradient=0 * what.gaze)


def rotation(what: scene.Scene, row: int) -> np.ndarray:
    return what.rotation[row].astype(np.float64)


def test_draws_depend_on_names_and_rows_only():
    few, many = Draws("a", 5), Draws("a", 50)
    np.testing.assert_array_equal(few.normal("x", 1, 2), many.normal("x", 1, 2)[:5])
    assert not np.array_equal(many.uniform("x", 0, 1), many.uniform("y", 0, 1))
    wide = Draws("b", 20_000).normal("z", 3.0, 2.0)
    assert (wide.mean(), wide.std()) == (pytest.approx(3.0, abs=0.05), pytest.approx(2.0, abs=0.05))
    whole = Draws("b", 500).integer("k", 5, 7)
    assert set(whole.tolist()) == {5, 6, 7}


def test_more_people_begin_with_the_same_ones():
    few, many = persons.make(3, seed=1), persons.make(9, seed=1)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])
    assert not np.array_equal(few.radius, persons.make(3, seed=2).radius)
    with pytest.raises(ValueError, match="persons is 0"):
        persons.make(0, seed=1)


def test_points_of_a_person_are_near_the_face_model_and_symmetric():
    from gaze_jax import face_model

    people = persons.make(50, seed=0)
    found = persons.points(people)
    assert list(found) == list(face_model.POINTS)
    for name, point in face_model.POINTS.items():
        assert np.linalg.norm(found[name].mean(axis=0) - point) < 3.0
        other = name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        np.testing.assert_allclose(found[name] * [-1, 1, 1], found[other], atol=1e-5)
    corners = found["left_eye_inner"], found["left_eye_outer"]
    np.testing.assert_allclose(
        (corners[0] + corners[1]) / 2, persons.eye_middle(people, np.zeros(50)), atol=1e-5
    )


def test_shapes_sides_and_ranges(eyes):
    assert eyes.images.shape == (2 * COUNT, 36, 60, 1)
    assert eyes.images.dtype == np.uint8
    assert eyes.persons == ("person-00", "person-01")
    assert eyes.camera == "mpiigaze_eye"
    np.testing.assert_array_equal(eyes.side[:4], [LEFT, RIGHT, LEFT, RIGHT])
    pitch, yaw = np.rad2deg(eyes.gaze).T
    assert -22 <= pitch.min() < -18
    assert 1 < pitch.max() <= 5
    assert -20 <= yaw.min() < -15
    assert 15 < yaw.max() <= 20


def test_labels_and_geometry_agree(eyes):
    """Label = R g in left-eye form; roll 0 after normalisation; scale; the patch looks at the eye within the jitter."""
    what = eyes.scenes
    for row in range(0, 2 * COUNT, 7):
        side, norm = what.side[row], what.norm[row].astype(np.float64)
        sign = np.asarray([1.0, -1.0]) if side == RIGHT else np.ones(2)
        seen = norm @ what.visual[row, side].astype(np.float64)
        # Independent formulas: pitch = asin(-y), yaw = atan2(-x, -z).
        angles = np.asarray([np.arcsin(-seen[1]), np.arctan2(-seen[0], -seen[2])])
        np.testing.assert_allclose(angles * sign, what.gaze[row], atol=np.deg2rad(1e-3))
        head = norm @ rotation(what, row)
        assert abs(head[1, 0]) < 1e-6
        angles = np.asarray([np.arcsin(head[1, 2]), np.arctan2(head[0, 2], head[2, 2])])
        np.testing.assert_allclose(angles * sign, what.head[row], atol=np.deg2rad(1e-3))
        reference = norm @ what.reference[row]
        assert reference == pytest.approx([0, 0, 600 / what.scale[row]], abs=1e-2)
        who = persons.take(what.person, np.asarray([row]))
        middle = rotation(what, row) @ persons.eye_middle(who, np.asarray([side]))[0]
        off = norm @ (middle + what.translation[row]) - reference
        assert np.abs(off[:2]).max() < 4.0
        assert abs(off[2]) < 1e-2


def darkest(images: np.ndarray) -> np.ndarray:
    """Centroids (x, y) of the darkest 5 % in the middle two thirds."""
    found = []
    for picture in images[:, 6:30, 10:50, 0].astype(float):
        y, x = np.nonzero(picture <= np.quantile(picture, 0.05))
        found.append((x.mean(), y.mean()))
    return np.asarray(found)


def test_darkest_pixels_follow_the_gaze(eyes):
    centre = darkest(eyes.images)
    tables = []
    for person in range(2):
        mine = eyes.person == person
        both = np.corrcoef(np.concatenate([centre[mine], eyes.gaze[mine]], axis=1).T)
        tables.append(both[:2, 2:])
    (x_pitch, x_yaw), (y_pitch, y_yaw) = np.mean(tables, axis=0)
    assert x_yaw < -0.55
    assert y_pitch < -0.4
    assert abs(x_pitch) < 0.3
    assert abs(y_yaw) < 0.3


def iris_centre_px(what: scene.Scene, row: int) -> np.ndarray:
    """Where the middle of the iris is in the stored patch, by plain projection."""
    side = int(what.side[row])
    who = persons.take(what.person, np.asarray([row]))
    turn = rotation(what, row)
    visual = turn.T @ what.visual[row, side].astype(np.float64)
    outwards = -1.0 if side == RIGHT else 1.0
    pitch = np.arcsin(-visual[1]) - np.deg2rad(who.kappa[0, 1])
    yaw = np.arctan2(-visual[0], -visual[2]) - outwards * np.deg2rad(who.kappa[0, 0])
    axis = -np.asarray([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    ball = persons.ball_centre(who, np.asarray([side]))[0]
    # The plane through the rim of the iris.
    inside = who.radius[0] * np.cos(who.iris_radius[0] / who.radius[0])
    point = turn @ (ball + inside * axis) + what.translation[row]
    x, y, z = what.norm[row].astype(np.float64) @ point
    pixel = 960 * np.asarray([x, y]) / (z * what.scale[row]) + [30, 18]
    return pixel * [outwards, 1] + [59.0 if side == RIGHT else 0.0, 0.0]


def test_iris_is_where_the_optical_axis_points(eyes):
    """Without lids, light or noise, the dark disc's centroid is the projected iris to under a degree (.285 px)."""
    what = flat(eyes.scenes._replace(person=bare(eyes.scenes.person)))
    rows = np.arange(2 * COUNT)[np.abs(eyes.gaze).max(axis=1) < np.deg2rad(14)][:32]
    images = domains.shade("eyes", "A", scene.take(what, rows))[..., 0].astype(float)
    y, x = np.mgrid[:36, :60]
    errors = []
    for row, picture in zip(rows, images, strict=True):
        expected = iris_centre_px(what, row)
        near = np.hypot(x - expected[0], y - expected[1]) < 12
        dark = np.clip(110 - picture, 0, 60) * near
        errors.append(np.asarray([(dark * x).sum(), (dark * y).sum()]) / dark.sum() - expected)
    errors = np.asarray(errors)
    assert np.abs(errors[:, 0]).mean() < 0.285
    assert np.abs(errors.mean(axis=0)).max() < 0.285


def test_offsets_follow_kappa():
    """Gaze fitted to the middle of the dark iris over all people misses each person by that person's kappa."""
    people, each = 10, 32
    who = bare(persons.make(people, seed="kappa"))
    one = np.ones(people, np.float32)
    # Eyes of one shape: only kappa tells people apart.
    who = who._replace(radius=12 * one, depth=9 * one, ball_x=0 * one, ball_y=0 * one)
    y, x = np.mgrid[:36, :60]
    centres, gazes = [], []
    for person in range(people):
        alone = persons.take(who, np.asarray([person]))
        what = scene.sample(
            alone, domains.find("A"), "eyes", count=each, text="k", distance_mm=600.0
        )
        what = flat(what)
        images = domains.shade("eyes", "A", what)[..., 0].astype(float)
        dark = np.clip(110 - images, 0, 60)
        total = dark.sum(axis=(1, 2))
        centres.append(
            np.stack([(dark * x).sum((1, 2)), (dark * y).sum((1, 2))], axis=1) / total[:, None]
        )
        gazes.append(what.gaze)
    features = np.concatenate([np.concatenate(centres), np.ones((people * each, 1))], axis=1)
    truth = np.concatenate(gazes)
    fitted = features @ np.linalg.lstsq(features, truth, rcond=None)[0]
    offsets = np.rad2deg(truth - fitted).reshape(people, each, 2).mean(axis=1)
    assert np.corrcoef(offsets[:, 1], who.kappa[:, 0])[0, 1] > 0.9
    assert np.corrcoef(offsets[:, 0], who.kappa[:, 1])[0, 1] > 0.9


def test_a_mirrored_scene_is_the_flipped_picture(eyes):
    """Left-eye form: the mirrored scene shows the other eye and the same patch, shifted by the column W/2 - (W-1)/2."""
    what = clean(scene.take(eyes.scenes, np.arange(32)))
    here = domains.shade("eyes", "A", what).astype(int)
    there = domains.shade("eyes", "A", scene.mirror(what)).astype(int)
    turned = np.where((what.side == LEFT)[:, None, None, None], there[:, :, :-1], there[:, :, 1:])
    straight = np.where((what.side == LEFT)[:, None, None, None], here[:, :, 1:], here[:, :, :-1])
    assert np.abs(turned - straight).mean() < 1.0
    twice = scene.mirror(scene.mirror(what))
    np.testing.assert_allclose(twice.visual, what.visual)


def test_bytes_depend_on_the_seed_and_not_on_the_number(eyes):
    again = domains.make("eyes", "A", 1, 40)
    np.testing.assert_array_equal(again.images, eyes.images[:40])
    np.testing.assert_array_equal(again.gaze, eyes.gaze[:40])
    other = domains.make("eyes", "A", 1, 4, seed=1)
    assert not np.array_equal(other.images, eyes.images[:4])


def test_closed_lids_hide_the_eye(eyes):
    what = clean(scene.take(eyes.scenes, np.arange(8)))
    shut = domains.shade("eyes", "A", what._replace(opening=np.full(8, -1.5, np.float32)))
    moved = what._replace(visual=np.ascontiguousarray(scene.mirror(what).visual))
    moved = domains.shade("eyes", "A", moved._replace(opening=np.full(8, -1.5, np.float32)))
    # The lid's own height follows the gaze; what is behind it does not show.
    assert np.abs(shut.astype(int) - moved.astype(int)).mean() < 2.0


@pytest.mark.parametrize("letter", "ABCD")
def test_scenes_of_all_domains_are_possible(letter):
    for kind in scene.KINDS:
        what = domains.scenes(kind, letter, 0, 200, 0)
        for field, value in zip(what._fields[1:], what[1:], strict=True):
            assert np.isfinite(value).all(), field
        identity = np.einsum("nij,nkj->nik", what.rotation, what.rotation)
        np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
        assert (what.translation[:, 2] > 250).all()
        face = -what.rotation[:, :, 2]
        away = np.asarray(geometry.angular_error_deg(face, what.gaze_camera))
        assert away.max() < 50


def test_store_renders_once_and_reads_back(tmp_path, monkeypatch, eyes):
    options = {"persons": 2, "per_person": COUNT, "progress": False}
    made = store.open_set("eyes_A", tmp_path, **options)
    assert (made.kind, made.size, made.camera, made.synthetic) == (
        "eye",
        (36, 60, 1),
        "mpiigaze_eye",
        True,
    )
    np.testing.assert_array_equal(made.images.take(np.arange(2 * COUNT)), eyes.images)
    np.testing.assert_array_equal(made.gaze, eyes.gaze)
    np.testing.assert_array_equal(made.norm, eyes.norm)
    np.testing.assert_array_equal(made.side, eyes.side)

    folder = tmp_path / f"eyes_A-2x{COUNT}-seed0"
    # Interrupted: one shard and the manifest are gone; the other is kept.
    (folder / "manifest.json").unlink()
    lost = sorted(folder.glob("*.arrayrecord"))[1]
    lost.unlink()
    rendered = []
    real = domains.shade
    monkeypatch.setattr(domains, "shade", lambda *a: rendered.append(1) or real(*a))
    again = store.open_set("eyes_A", tmp_path, **options)
    assert len(rendered) == 1
    assert again.digest == made.digest
    store.open_set("eyes_A", tmp_path, **options)
    assert len(rendered) == 1

    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"look": 0}))
    with pytest.raises(store.StoreError, match="look 0, not"):
        store.open_set("eyes_A", tmp_path, **options)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lost.unlink()
    with pytest.raises(store.StoreError, match="missing"):
        store.open_set("eyes_A", tmp_path, **options)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="eyes_E"):
        store.open_set("eyes_E", tmp_path)
    with pytest.raises(ValueError, match="0 pictures"):
        store.open_set("eyes_A", tmp_path, per_person=0)
    with pytest.raises(ValueError, match="domain is 'Z'"):
        domains.make("eyes", "Z", 1, 1)
    with pytest.raises(ValueError, match="kind is 'mouths'"):
        domains.make("mouths", "A", 1, 1)
    assert CAMERAS[domains.CAMERA["faces"]].width == 224
