"""Whether a lookup still is what was built: digests of every file, and a sample of pictures labelled again."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from core_jax.data import records, rng
from fdbpl_jax import config as configs
from fdbpl_jax import datasets, label, lookup, regions, towers

Path = pathlib.Path
LIMITS = {"probability": 1e-2, "index": 1e-2, "informativeness": 1e-2, "cosine": 1e-3}
# Two classes whose stored log-probabilities float16 can hardly tell apart may come in either order.
_TIE = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
      problems: in words; empty means that the lookup is sound.
      notes: deviations beyond the limits on another kind of device than the lookup's, which are to be expected.
      images: pictures labelled again.
      measured: name -> largest deviation; see `LIMITS` ("cosine" is 1 - the smallest).
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    images: int = 0
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)


def digests(folder: str | Path) -> list[str]:
    """Compares every file of a complete lookup with the SHA-256 its manifest gives.

    Raises:
      lookup.UnusableLookup: it has no readable manifest, or its shards are missing or truncated.
    """
    opened = lookup.open(folder)
    parts = [opened.manifest["shards"]]
    parts += [student["shards"] for student in opened.manifest["students"].values()]
    return [
        problem
        for entries in parts
        for shard in lookup.shards(entries)
        for problem in records.problems(opened.folder, shard, digest=True)
    ]


def recompute(
    opened: lookup.Lookup,
    root: Path,
    teacher: towers.Teacher,
    student: towers.Student | None = None,
    *,
    samples: int = 64,
    batch_size: int = 256,
) -> Report:
    """Labels some pictures again and compares.

    Args:
      opened: the lookup; its `student` must be set where `student` is given.
      root: the picture folder.
      teacher: the one the lookup was built with.
      student: likewise.
      samples: how many pictures; which ones depends on the lookup's digest.
      batch_size: regions per forward pass.
    """
    chosen = rng.permutation(f"verify:{opened.digest}", opened.num_images)[:samples]
    rows = [int(row) for row in np.sort(chosen)]
    crop = opened.manifest["crop"]
    labeller = label.Labeller(
        root=root,
        images=opened.images,
        regions=opened.regions,
        seed=opened.manifest["seed"],
        rule=regions.CropRule(scale=tuple(crop["scale"]), ratio=tuple(crop["ratio"])),
        batch_size=batch_size,
    )
    outputs = [label.labels(teacher, None)]
    if student is not None:
        outputs.append(label.features(student))
    fresh, *features = labeller(rows, outputs)
    stored = np.stack([opened.record(row) for row in rows])
    problems = [
        f"the {name} of {opened.images[row].path} are not the ones its seed gives"
        for name in ("box", "flip")
        for i, row in enumerate(rows)
        if not np.array_equal(stored[name][i], fresh[name][i])
    ]
    measured = _deviations(stored, fresh)
    if features:
        kept = np.stack([opened.features(row) for row in rows]).astype(np.float32)
        new = features[0]["feature"].astype(np.float32)
        norms = np.linalg.norm(kept, axis=-1) * np.linalg.norm(new, axis=-1)
        # A zeroed feature has no direction: it counts as orthogonal.
        cosine = np.sum(kept * new, axis=-1) / np.maximum(norms, 1e-12)
        measured["cosine"] = float(1 - np.min(cosine))
    # `not <=` rather than `>`: a stored NaN must not pass.
    beyond = [
        f"{name}: {value:.3g} exceeds {LIMITS[name]:g}"
        for name, value in measured.items()
        if not value <= LIMITS[name]
    ]
    same = opened.manifest["versions"]["platform"] == jax.default_backend()
    return Report(
        problems=tuple(problems + (beyond if same else [])),
        notes=() if same else tuple(beyond),
        images=len(rows),
        measured=measured,
    )


def _deviations(stored: np.ndarray, fresh: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest differences of probabilities and informativeness, and the share of wrong indices."""
    full, logp = fresh["logp"].astype(np.float32), stored["logp"].astype(np.float32)
    names = stored.dtype.names or ()
    wrong = 0.0
    if "index" in names:
        index = np.minimum(stored["index"].astype(np.int64), full.shape[-1] - 1)
        ranked = -np.sort(-full, axis=-1)[..., : index.shape[-1]]
        found = np.take_along_axis(full, index, axis=-1)
        ordered = np.sort(stored["index"], axis=-1)
        doubled = np.any(ordered[..., 1:] == ordered[..., :-1], axis=-1)
        mismatch = (np.abs(found - ranked) > _TIE) | (stored["index"] >= full.shape[-1])
        wrong = float(np.mean(mismatch | doubled[..., None]))
        kept = np.exp(ranked).sum(-1)
        rest = np.exp(stored["rest"].astype(np.float32))
        residue = np.max(np.abs(rest - np.maximum(1 - kept, 0)))
        difference = max(float(np.max(np.abs(np.exp(logp) - np.exp(ranked)))), float(residue))
    else:
        difference = float(np.max(np.abs(np.exp(logp) - np.exp(full))))
    entropy = stored["entropy"].astype(np.float32) - fresh["entropy"].astype(np.float32)
    return {
        "probability": difference,
        "index": wrong,
        "informativeness": float(np.max(np.abs(entropy))),
    }


def verify_from_config(
    folder: str | Path, config: Mapping[str, Any], *, samples: int = 64
) -> Report:
    """Digests first; if they hold, a sample of pictures is labelled again by the models of a configuration.

    Args:
      folder: of the lookup.
      config: names the data set, the teacher, and the student (compared if the lookup has its features).
      samples: pictures to label again.
    """
    broken = digests(folder)
    if broken:
        return Report(problems=tuple(broken))
    settings = configs.read(config)
    opened = lookup.open(folder)
    data, manifest = settings.data, opened.manifest
    dtype = manifest["teacher"]["dtype"]
    teacher = towers.teacher(
        towers.load(settings.teacher),
        settings.teacher,
        opened.classes,
        manifest["template"],
        dtype=dtype,
    )
    if teacher.digest != manifest["teacher"]["digest"]:
        return Report(
            problems=(
                f"the lookup was built with teacher {manifest['teacher']['name']} of digest "
                f"{manifest['teacher']['digest'][:12]}..., and {settings.teacher} has {teacher.digest[:12]}...",
            )
        )
    student = None
    if manifest["students"]:
        student = towers.student(towers.load(settings.student), settings.student, dtype=dtype)
        matches = [k for k, s in manifest["students"].items() if s["digest"] == student.digest]
        opened = dataclasses.replace(opened, student=matches[0] if matches else None)
        student = student if matches else None
    root = datasets.read(data.dataset, data.root, template=data.template or None).root
    return recompute(
        opened, root, teacher, student, samples=samples, batch_size=settings.lookup.batch_size
    )


def text(report: Report) -> str:
    """The report for a terminal."""
    lines = [f"{report.images} pictures labelled again"] if report.images else []
    lines += [
        f"  {name}: {value:.3g} (limit {LIMITS[name]:g})" for name, value in report.measured.items()
    ]
    lines += [f"note, another kind of device: {note}" for note in report.notes]
    lines += [f"PROBLEM {problem}" for problem in report.problems]
    return "\n".join(
        [*lines, "the lookup is sound" if not report.problems else "the lookup is NOT sound"]
    )
