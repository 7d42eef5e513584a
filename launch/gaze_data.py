"""The gaze part of `launch.data`: checks of gaze data sets, and rendered sets in any format.

  python -m launch.data check --dataset=gaze/mpiigaze --root=DIR [--read=subset=all]    check.json and check.png
  python -m launch.data render --dataset=gaze/eyes_A --out=DIR [--format=mpiigaze]      15 persons x 200 unless told otherwise
  python -m launch.data render --dataset=gaze/frames_B --out=DIR --per_person=20        camera frames with landmarks, or
                                                                  --format=mpiigaze_raw: as that set was recorded

Time on two cores: a check looks at some 500 eyes or 100 faces a second; rendering makes about 200 eyes, 10 faces or 5 frames a
second.
"""

import pathlib
from typing import Any

from absl import flags

PREFIX = "gaze/"
_OUT = flags.DEFINE_string(
    "out",
    None,
    "gaze: folder for check.json and check.png (the root unless given), or for what is rendered",
)
_READ = flags.DEFINE_multi_string(
    "read", [], "gaze: option of the reader, such as order=yaw_pitch; may be repeated"
)
_FORMAT = flags.DEFINE_string("format", None, "render: layout to write; records unless given")
_PERSONS = flags.DEFINE_integer("persons", 15, "rendered sets: persons", lower_bound=1)
_PER_PERSON = flags.DEFINE_integer(
    "per_person", 200, "rendered sets: pictures of each person", lower_bound=1
)


def is_gaze(name: str) -> bool:
    """Whether a data set's name on the command line is one of gaze."""
    return name.startswith(PREFIX)


def names() -> list[str]:
    """Every gaze data set by the name it has on the command line."""
    from gaze_jax import readers

    return [PREFIX + name for name in readers.NAMES]


def check(name: str, root: str, seed: int) -> bool:
    """Checks one data set, prints the report and writes `check.json` and `check.png`; returns whether all is well."""
    from gaze_jax import check as checks
    from gaze_jax import readers

    short, options = name.removeprefix(PREFIX), read_options(_READ.value)
    if short in readers.RENDERED:
        options |= _rendered(seed)
    report = checks.check(short, root, out=_OUT.value or root, progress=True, **options)
    print(report.text())
    print(f"  written: {pathlib.Path(_OUT.value or root) / checks.JSON}")
    return not report.problems


def render(datasets: list[str] | None, root: str | None, seed: int) -> int:
    """Renders a data set, as records or in one of the writers' layouts; returns the exit status.

    Args:
      datasets: exactly one name, such as "gaze/eyes_A" or "gaze/frames_B".
      root: where the records behind a layout are kept; beside it unless given.
      seed: of people and scenes.

    Raises:
      ValueError: what is missing or unknown.
    """
    from gaze_jax import readers, writers
    from gaze_jax.render import domains, frames, store

    if not _OUT.value or not datasets or len(datasets) != 1:
        raise ValueError("render needs one --dataset=gaze/eyes_A (or another) and --out=DIR")
    name, out = datasets[0].removeprefix(PREFIX), pathlib.Path(_OUT.value)
    of_frames = tuple(f"frames_{domain}" for domain in "ABCD")
    if name not in (*readers.RENDERED, *of_frames):
        known = ", ".join(PREFIX + known for known in (*readers.RENDERED, *of_frames))
        raise ValueError(
            f"--dataset={datasets[0]}: nothing of this name is rendered. Known are {known}"
        )
    formats = writers.RAW if name in of_frames else writers.FORMATS
    if _FORMAT.value and _FORMAT.value not in formats:
        raise ValueError(f"--format={_FORMAT.value}: {name} can be written as {', '.join(formats)}")
    if name in of_frames:
        domain = name.removeprefix("frames_")
        if _FORMAT.value:
            people, each = _PERSONS.value, _PER_PERSON.value
            made = domains.make("frames", domain, people, each, seed=seed, progress=True)
            writers.RAW[_FORMAT.value](made, out)
            print(f"{out}: {people * each:,} frames of {people} persons, as {_FORMAT.value}")
            return 0
        frames.write_frames(out, domain, **_rendered(seed))
        print(f"{out}: pictures, landmarks.csv, truth.csv")
        return 0
    records = root if root and _FORMAT.value else out
    found = store.open_set(name, records, **_rendered(seed))
    if _FORMAT.value:
        writers.write(found, out, _FORMAT.value)
    layout = f"as {_FORMAT.value}" if _FORMAT.value else "as records"
    print(f"{out}: {len(found):,} pictures of {len(found.persons)} rendered persons, {layout}")
    return 0


def _rendered(seed: int) -> dict[str, Any]:
    return {"persons": _PERSONS.value, "per_person": _PER_PERSON.value, "seed": seed}


def read_options(texts: list[str]) -> dict[str, Any]:
    """Options of a reader from "name=value" texts: whole numbers, true and false, and words.

    Raises:
      ValueError: a text without a value.
    """
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ValueError(f"--read={wrong[0]}: expected NAME=VALUE, such as order=yaw_pitch")
    found: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if value.lower() in ("true", "false"):
            found[name] = value.lower() == "true"
        else:
            found[name] = int(value) if value.isdigit() else value
    return found
