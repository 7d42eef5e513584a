"""Checks data sets on disk, and writes the embedded world's.

  python -m launch.data check --root=DIR [--dataset=caltech101]     every problem at once, exit status 1 if there is one
  python -m launch.data world --root=DIR [--seed=0] [--test_per_class=20]    the embedded world's classification pictures

Time: a check decodes every picture (about 1,000 of 64 px a second and core); the world takes under a minute.
"""

from absl import flags

from launch import config as config_lib

WORDS = ("check", "world")
_ROOT = flags.DEFINE_string("root", None, "folder that holds the data sets' folders")
_DATASET = flags.DEFINE_multi_string(
    "dataset",
    None,
    "data set to check, may be repeated; all known ones whose folder exists unless given",
)
_SEED = flags.DEFINE_integer("seed", 0, "world: another seed draws other pictures", lower_bound=0)
_TEST = flags.DEFINE_integer("test_per_class", 20, "world: test pictures a class", lower_bound=1)


def main(argv: list[str]) -> int:
    """Runs one of `WORDS`; returns the exit status."""
    if not _ROOT.value:
        raise ValueError("--root=DIR is needed: the folder that holds the data sets' folders")
    return {"check": _check, "world": _world}[argv[1]](_ROOT.value)


def _check(root: str) -> int:
    import pathlib

    from fdbpl_jax import check, datasets

    names = _DATASET.value or [
        name
        for name, layout in datasets.LAYOUTS.items()
        if (pathlib.Path(root) / layout.folder).is_dir()
    ]
    if not names:
        folders = ", ".join(layout.folder for layout in datasets.LAYOUTS.values())
        raise ValueError(
            f"--root={root}: none of the known data sets' folders is there ({folders})"
        )
    found = [check.check(name, root) for name in names]
    for one in found:
        print(check.report(one, root))
    return int(any(one.problems for one in found))


def _world(root: str) -> int:
    from core_jax import world

    print(world.write_objects(root, seed=_SEED.value, test_per_class=_TEST.value))
    return 0


if __name__ == "__main__":
    config_lib.run(main, words=WORDS)
