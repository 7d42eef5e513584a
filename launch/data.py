"""Checks data sets on disk before anything starts, takes pictures from TFDS, and writes the embedded world's.

  python -m launch.data check --root=DIR [--dataset=caltech101] [--dataset=ade20k_150 --split=val --classes=FILE]
                                      every problem at once and what to fetch, exit status 1 if there is one; without
                                      --dataset a table of all sets as well. --decode=False only looks for the pictures
  python -m launch.data tfds --dataset=food101 --tfds_dir=DIR --root=DIR [--own_split]
                                      the pictures of TensorFlow Datasets as files where CoOp's layout has them
  python -m launch.data world --root=DIR [--seed=0] [--test_per_class=20]     the world's classification pictures
  python -m launch.data scenes --root=DIR [--seed=0] [--size=128]             the world's segmentation scenes
  python -m launch.data check --dataset=gaze/NAME --root=DIR                  a gaze data set (see launch.gaze_data)
  python -m launch.data render --dataset=gaze/eyes_A --out=DIR [--format=mpiigaze]      rendered gaze data

One command knows the classification data sets of FDBPL (docs/data.md) and the segmentation data sets of GBA
(docs/gba_data.md). Only "folder" is a name of both: what lies in the folder decides, or --kind does.

Time: a check decodes every file (about 1,000 pictures of 64 px, or 350 scenes of 128 px, a second and core); the world
and its scenes take under a minute each.
"""

import pathlib
from typing import Any

from absl import flags

from launch import config as config_lib
from launch import gaze_data

WORDS = ("check", "tfds", "world", "scenes", "render")
KINDS = ("classification", "segmentation")
_ROOT = flags.DEFINE_string("root", None, "folder that holds the data sets' folders")
_DATASET = flags.DEFINE_multi_string(
    "dataset",
    None,
    "check: data set, may be repeated; all known ones that lie below the root unless given",
)
_KIND = flags.DEFINE_enum("kind", None, KINDS, "check: what a --dataset=folder is, if in doubt")
_SPLIT = flags.DEFINE_string(
    "split", None, "check: the only split of segmentation data to look at; all unless given"
)
_CLASSES = flags.DEFINE_string(
    "classes", None, "check: a classes.txt that replaces the names of a segmentation data set"
)
_DECODE = flags.DEFINE_bool(
    "decode",
    True,
    "check: decode the pictures of classification data; otherwise only look for them",
)
_TFDS = flags.DEFINE_string(
    "tfds_dir", None, "tfds: TFDS's own folder, with data sets prepared as ArrayRecord"
)
_OWN = flags.DEFINE_bool(
    "own_split",
    False,
    "tfds: write a folder per class, to be split by this project, where CoOp's lists cannot be had",
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "world, scenes, rendered gaze: another seed draws other pictures", lower_bound=0
)
_TEST = flags.DEFINE_integer("test_per_class", 20, "world: test pictures a class", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 128, "scenes: side of the pictures in pixels", lower_bound=1)


def main(argv: list[str]) -> int:
    """Runs one of `WORDS`; returns the exit status."""
    if argv[1] == "render":
        return gaze_data.render(_DATASET.value, _ROOT.value, _SEED.value)
    if not _ROOT.value:
        raise ValueError("--root=DIR is needed: the folder that holds the data sets' folders")
    return {"check": _check, "tfds": _tfds, "world": _world, "scenes": _scenes}[argv[1]](
        _ROOT.value
    )


def kind_of(name: str, root: str, kind: str | None = None) -> str:
    """Which of `KINDS` a data set is.

    Args:
      name: of the data set.
      root: where it lies; looked at where both kinds have a data set of this name.
      kind: decides such a case without a look.

    Raises:
      ValueError: no data set of the kind has this name.
    """
    from fdbpl_jax import datasets as classification
    from gba_jax import datasets as segmentation

    known = dict(zip(KINDS, (classification.NAMES, segmentation.NAMES), strict=True))
    found = [one for one in KINDS if name in known[one] and kind in (None, one)]
    if not found:
        lists = "; ".join(f"{one}: {', '.join(names)}" for one, names in known.items())
        which = f"{kind} data set" if kind else "data set"
        raise ValueError(f"--dataset={name}: no known {which} has this name. Known are {lists}")
    if len(found) == 1:
        return found[0]
    return "segmentation" if _has_masks(pathlib.Path(root)) else "classification"


def _has_masks(root: pathlib.Path) -> bool:
    """Whether a folder of the user's is one of images/ with masks/ or classes.txt, itself or in a folder a split."""
    if not root.is_dir():
        return False
    places = [root, *(path for path in root.iterdir() if path.is_dir())]
    return any(
        (place / "images").is_dir()
        and any(
            path.exists() for path in (place / "masks", place / "classes.txt", root / "classes.txt")
        )
        for place in places
    )


def _present(root: str) -> list[str]:
    """The data sets that lie below the root, at least in part; a folder of the user's has to be named."""
    from fdbpl_jax import datasets as classification
    from gba_jax import datasets as segmentation

    base = pathlib.Path(root)
    found = [
        name for name, layout in classification.LAYOUTS.items() if (base / layout.folder).is_dir()
    ]
    found += [
        name
        for name, layout in segmentation.LAYOUTS.items()
        if name != "folder" and layout.present(base)
    ]
    if not found:
        folders = [layout.folder for layout in classification.LAYOUTS.values()]
        others = [name for name in segmentation.NAMES if name != "folder"]
        above = base.resolve()
        hint = f"; {above.name} is one itself: --root={above.parent}" * (above.name in folders)
        raise ValueError(
            f"--root={root}: none of the known data sets' folders is there{hint}. Looked for {', '.join(folders)} "
            f"(docs/data.md), and for the segmentation data sets {', '.join(others)} (docs/gba_data.md). A folder of your "
            "own is checked with --dataset=folder"
        )
    return found


def _check(root: str) -> int:
    if not pathlib.Path(root).is_dir():
        raise ValueError(f"--root={root}: there is no such folder")
    from fdbpl_jax import check as classification
    from gba_jax import datasets as segmentation

    names = _DATASET.value or _present(root)
    kinds = {
        name: kind_of(name, root, _KIND.value) for name in names if not gaze_data.is_gaze(name)
    }
    _check_flags(kinds)
    failed, seen = False, {}
    for name in filter(gaze_data.is_gaze, names):
        failed |= not gaze_data.check(name, root, _SEED.value)
    for name, kind in kinds.items():
        if name == "folder" and _KIND.value is None:
            print(f"folder: read as {kind} data, by what lies in it; --kind says otherwise")
        if kind == "segmentation":
            found = segmentation.check(
                name, root, split=_SPLIT.value, classes=_CLASSES.value, progress=True
            )
            text = segmentation.report(found, root)
        else:
            found = classification.check(name, root, decode=_DECODE.value, progress=True)
            text = classification.report(found, root)
            seen[name] = found
        print(text)
        failed |= bool(found.problems)
    if not _DATASET.value:
        print(_table(seen))
    return int(failed)


def _table(seen: dict[str, Any]) -> str:
    """A line for each classification data set there is, those that are absent too."""
    from fdbpl_jax import check as classification
    from fdbpl_jax import datasets

    absent = [name for name in datasets.LAYOUTS if name not in seen]
    rows = [
        seen.get(name, classification.Found(name=name, state=classification.ABSENT))
        for name in datasets.LAYOUTS
    ]
    text = "\n" + classification.table(rows)
    if absent:
        text += f"\nwhat to fetch for one that is absent: --dataset={absent[0]}, for example"
    return text


def _check_flags(kinds: dict[str, str]) -> None:
    problems = []
    if _KIND.value and not _DATASET.value:
        problems.append(f"--kind={_KIND.value} is about a data set that --dataset names")
    for flag, value in (("split", _SPLIT.value), ("classes", _CLASSES.value)):
        others = [name for name, kind in kinds.items() if kind != "segmentation"]
        if value and others:
            problems.append(
                f"--{flag}={value} is for segmentation data, and {', '.join(others)} holds classification data"
            )
    if _CLASSES.value and len(kinds) > 1:
        problems.append(
            f"--classes={_CLASSES.value} belongs to one data set, not to {', '.join(kinds)}"
        )
    if problems:
        raise ValueError("; ".join(problems) + ". Name the data set with --dataset")


def _tfds(root: str) -> int:
    from fdbpl_jax import tfds_sets

    if not _DATASET.value or not _TFDS.value:
        raise ValueError(
            "tfds needs --dataset=NAME and --tfds_dir=DIR, TFDS's own folder. Data sets whose pictures TFDS has: "
            + ", ".join(tfds_sets.SOURCES)
        )
    export = tfds_sets.export_folders if _OWN.value else tfds_sets.export
    for name in _DATASET.value:
        written = export(name, root, _TFDS.value, progress=True)
        print(
            f"{written.folder}: {written.count:,} pictures, {written.kept:,} of them there before"
            + (
                f"; {written.unused:,} of TFDS are on none of CoOp's lists"
                if written.unused
                else ""
            )
        )
        if written.note:
            print(f"  note: {written.note}")
        if _OWN.value:
            print(f"  read it with data.dataset=folder, data.root={written.folder}")
    return 0


def _world(root: str) -> int:
    from core_jax import world

    print(world.write_objects(root, seed=_SEED.value, test_per_class=_TEST.value))
    return 0


def _scenes(root: str) -> int:
    from core_jax import world

    print(world.write_scenes(root, seed=_SEED.value, size=_SIZE.value))
    return 0


if __name__ == "__main__":
    config_lib.run(main, words=WORDS)
