"""Small gaze sets of random pictures for tests: any side, person and label, nothing rendered."""

import dataclasses

import numpy as np

from gaze_jax.gaze_set import FACE, LEFT, RIGHT, GazeSet, InMemory


def turn(pitch, yaw):
    """Some rotation matrix near the identity: about x, then about y."""
    c, s = np.cos(pitch), np.sin(pitch)
    x = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ x


def random_set(kind="eye", persons=3, per_person=8, seed=0, size=None, widest_rad=0.5, **changes):
    """Persons p00, p01, ..; eyes alternate between left and right."""
    draw = np.random.default_rng(seed)
    count = persons * per_person
    size = size or {"eye": (36, 60, 1), "face": (224, 224, 3)}[kind]
    sides = np.tile([LEFT, RIGHT], count)[:count] if kind == "eye" else np.full(count, FACE)
    fields = {
        "name": "random",
        "kind": kind,
        "images": InMemory(draw.integers(0, 256, (count, *size), dtype=np.uint8)),
        "size": size,
        "gaze": draw.uniform(-widest_rad, widest_rad, (count, 2)).astype(np.float32),
        "head": draw.uniform(-0.4, 0.4, (count, 2)).astype(np.float32),
        "has_head": np.ones(count, bool),
        "person": np.repeat(np.arange(persons), per_person).astype(np.int32),
        "persons": tuple(f"p{i:02d}" for i in range(persons)),
        "side": sides.astype(np.int32),
        "norm": np.stack([turn(*draw.uniform(-0.2, 0.2, 2)) for _ in range(count)]).astype("f4"),
        "scale": draw.uniform(0.8, 1.3, count).astype(np.float32),
        "source": tuple(f"picture {i}" for i in range(count)),
        "camera": {"eye": "mpiigaze_eye", "face": "eth_face"}[kind],
        "digest": "0" * 64,
    }
    return GazeSet(**(fields | changes))


def smooth(count, size, seed=0):
    """Pictures that JPEG keeps to a grey level or two, and that differ from their mirror images."""
    draw = np.random.default_rng(seed)
    coarse = draw.uniform(0, 255, (count, 3, 4, size[2]))
    rows = np.linspace(0, 2, size[0])
    columns = np.linspace(0, 3, size[1])
    up = np.stack([np.interp(rows, range(3), np.arange(3) == i) for i in range(3)], 1)
    across = np.stack([np.interp(columns, range(4), np.arange(4) == i) for i in range(4)], 1)
    return np.einsum("hi,nijc,wj->nhwc", up, coarse, across).astype(np.uint8)


def smooth_set(kind="eye", persons=2, per_person=6, size=None, **changes):
    """As `random_set`, with smooth pictures."""
    size = size or {"eye": (36, 60, 1), "face": (224, 224, 3)}[kind]
    images = InMemory(smooth(persons * per_person, size))
    return random_set(
        kind, persons=persons, per_person=per_person, size=size, images=images, **changes
    )


def seeing_set(kind="eye", persons=2, per_person=40, seed=0, **changes):
    """Pictures with dark pupils where the labels say, on noisy light ground: frontal heads, eyes or faces."""
    from gaze_jax import self_test

    size = {"eye": (36, 60, 1), "face": (224, 224, 3)}[kind]
    count = persons * per_person
    base = random_set(
        kind, persons=persons, per_person=per_person, seed=seed, size=(2, 2, 1), widest_rad=0.35
    )
    draw = np.random.default_rng(seed + 1)
    images = draw.integers(150, 255, (count, *size), dtype=np.uint8)
    fields = {
        "size": size,
        "images": InMemory(images),
        "head": np.zeros((count, 2), np.float32),
    }
    base = dataclasses.replace(base, **fields)
    y, x = np.mgrid[: size[0], : size[1]]
    for row in range(count):
        pitch, yaw = base.gaze[row]
        centres = [(30, 18)] if kind == "eye" else self_test.Eyes(base).centres(row)
        for cx, cy in centres:
            # Half a millimetre for every degree at 1.6 pixels a millimetre, less for the pitch.
            near = np.hypot(x - cx + 16 * yaw, y - cy + 12 * pitch) < 4
            images[row][near] = draw.integers(0, 60, (near.sum(), 1))
    return dataclasses.replace(base, **changes)


def smooth_frames(people=2, each=3):
    """Scenes of a domain with pictures that JPEG keeps, in place of slowly shaded ones."""
    import jax

    from gaze_jax.render import domains, persons

    scenes = [domains.scenes("frames", "A", person, each, 0) for person in range(people)]
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *scenes)
    return domains.Rendered(
        kind="frames",
        domain="A",
        camera="eth_face",
        images=smooth(people * each, (480, 640, 3)),
        persons=persons.names(people),
        person=np.repeat(np.arange(people), each),
        scenes=joined,
        landmarks=domains.landmarks(joined),
    )
