"""Train several methods on the same pictures and compare them: data, lookup, training, evaluation, report.

python -m launch.compare --config=configs/fdbpl_world.py --workdir=runs/demo --methods=zeroshot,coop,kdpl_online,fdbpl --seeds=1
python -m launch.compare --config=configs/gba_world.py --workdir=runs/gba --methods=zeroshot,host,sda,cca,both --seeds=1,2,3

Methods are those of the configuration's task (`launch/comparisons`: METHODS), and "METHOD+VARIANT" for a named change of
one (VARIANTS there, or your own: --variant=low_lr:lr=0.0005,epochs=20). `--methods=ablation` is the task's own list:
fdbpl and it with each of its terms off; the host with each adapter, and both with each of their choices.

`--folds=all` makes every fold of a cross-validating protocol (gaze: lopo, clusters, within), or `--folds=0,3` these: one run
a fold, in WORKDIR/METHOD/seedN/foldM. Tables are over the persons of all folds. On accelerators `all` trains the folds side
by side in one program, in WORKDIR/METHOD/seedN; on CPUs one after the other is quicker.

`--together` trains the seeds of each method in one program (task fdbpl), which lies in WORKDIR/METHOD; the runs are the same.

A run lies in WORKDIR/METHOD/seedN. Finished runs are skipped and interrupted ones resumed, so the same command can be
given again after a kill. Everything runs in one process: JAX starts once. The embedded world writes its own pictures;
one lookup, over the union of the seeds' few-shot lists, serves all of FDBPL's runs: WORKDIR/lookup, or --lookup=DIR.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from launch import config as config_lib
from launch import runs, several, start
from launch.comparisons import base as comparisons
from launch.comparisons.fdbpl import ABLATION, VARIANTS

__all__ = [
    "ABLATION",
    "VARIANTS",
    "Arm",
    "Job",
    "arms",
    "compare",
    "jobs",
    "make",
    "own_variants",
    "read_numbers",
    "run",
]

Path = pathlib.Path


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the comparison: its label, and how its configuration differs from the common one."""

    label: str
    changes: Mapping[str, Any]

    @property
    def variant(self) -> str | None:
        """The label where the results' own method does not say it."""
        return self.label if "+" in self.label else None


class Job(NamedTuple):
    """One run of a comparison: its row, seed, name, configuration and work directory."""

    arm: Arm
    seed: int
    title: str
    config: ml_collections.ConfigDict
    folder: Path


def main(argv: list[str]) -> None:
    """Compare what the flags name."""
    del argv
    values = flags.FLAGS
    if values.config is None:
        raise config_lib.ConfigError(
            "--config is missing: name a file such as configs/fdbpl_world.py"
        )
    task = values.config.get("task")
    known = comparisons.named(task)
    variants = {**known.VARIANTS, **own_variants(values.config, values.variant)}
    chosen = arms(values.methods or known.DEFAULT, variants, task)
    start.start()
    seeds, folds = read_numbers(values.seeds), tuple(values.folds)
    options = {"folds": folds, "lookup": values.lookup, "together": values.together}
    compare(values.config, values.workdir, chosen, seeds=seeds, **options)


def read_numbers(texts: Sequence[str], flag: str = "seeds") -> list[int]:
    """The numbers of `--seeds`, or of another flag.

    Raises:
      ConfigError: one is no number, or stands there twice.
    """
    if not all(text.isdecimal() for text in texts) or len(set(texts)) != len(texts) or not texts:
        raise config_lib.ConfigError(
            f"--{flag}={','.join(texts)}: expected different whole numbers, such as 1,2,3"
        )
    return [int(text) for text in texts]


def fold_changes(
    config: ml_collections.ConfigDict, folds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What the runs of one method and seed change, by their folder below that of the seed ("" for itself).

    Args:
      config: of the method and seed.
      folds: texts of `--folds`: none leaves the configuration's own fold, "all" stands for every one.

    Raises:
      ConfigError: no such folds.
    """
    if not folds:
        return {"": {}}
    count = comparisons.named(config.task).folds(config)
    if count < 2:
        raise config_lib.ConfigError(
            f"--folds={','.join(folds)}: this configuration has one fold only; leave the flag out"
        )
    if list(folds) != ["all"]:
        numbers = read_numbers(folds, "folds")
        if max(numbers) >= count:
            raise config_lib.ConfigError(
                f"--folds={','.join(folds)}: there are {count} folds, 0 to {count - 1}"
            )
        return {f"fold{number}": {"data.fold": number} for number in numbers}

    import jax

    if jax.default_backend() != "cpu":
        return {"": {"data.fold": -1}}
    return {f"fold{number}": {"data.fold": number} for number in range(count)}


def arms(
    names: Sequence[str], variants: Mapping[str, Mapping[str, Any]], task: str = "fdbpl"
) -> list[Arm]:
    """The rows that names stand for.

    Args:
      names: methods, "METHOD+VARIANT", or "ablation".
      variants: what each variant changes.
      task: whose methods they are.

    Raises:
      ConfigError: unknown methods or variants, all in one message.
    """
    known = comparisons.named(task)
    methods, ablation = known.METHODS, known.ABLATION
    expanded = [part for name in names for part in (ablation if name == "ablation" else [name])]
    problems, found = [], {}
    for name in expanded:
        method, plus, variant = name.partition("+")
        if method not in methods:
            problems.append(
                f"--methods={name}: no such method; there are {', '.join(methods)}, ablation"
            )
        elif plus and variant not in variants:
            problems.append(f"--methods={name}: no such variant; there are {', '.join(variants)}")
        else:
            found[name] = Arm(name, {**methods[method], **(variants[variant] if plus else {})})
    if problems:
        raise config_lib.ConfigError("\n".join(problems))
    return list(found.values())


def own_variants(
    base: ml_collections.ConfigDict, texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Variants from "name:key=value,key=value" texts; values are read as the types of the configuration.

    Raises:
      ConfigError: a text of another form, an unknown key or a wrong type.
    """
    found = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        pairs = [part.partition("=") for part in _split_outside_brackets(rest)]
        if not (colon and name and pairs and all(equals for _, equals, _ in pairs)):
            raise config_lib.ConfigError(
                f"--variant={text}: expected NAME:key=value[,key=value...]"
            )
        found[name] = config_lib.parse_values(base, {key: value for key, _, value in pairs})
    return found


def compare(
    base: ml_collections.ConfigDict,
    workdir: str | Path,
    chosen: Sequence[Arm],
    *,
    seeds: Sequence[int],
    folds: Sequence[str] = (),
    lookup: str | Path | None = None,
    together: bool = False,
) -> Path:
    """Make everything that is missing, then print the tables and write the report.

    Args:
      base: the common configuration.
      workdir: receives the runs, the lookup if it is to be built here, and report/.
      chosen: the rows.
      seeds: of the few-shot lists, the data order and the initialisation.
      folds: see `fold_changes`.
      lookup: folder of FDBPL's lookup, built if it is not there; WORKDIR/lookup by default.
      together: train the seeds of a row in one program.

    Returns:
      The path of report.md.

    Raises:
      ValueError: inputs or configurations that cannot be used; finished runs stay.
    """
    from launch import report

    began, workdir = time.perf_counter(), Path(workdir)
    make(base, workdir, chosen, seeds=seeds, folds=folds, lookup=lookup, together=together)
    labels = [arm.label for arm in chosen]
    folders = [workdir / arm.label for arm in chosen]
    print()
    report.print_tables(folders, labels)
    path = report.write(folders, workdir / "report", labels)
    from core_jax.train import report as tables

    print(f"report: {path} ({tables.seconds(time.perf_counter() - began)} in all)")
    return path


def jobs(
    base: ml_collections.ConfigDict,
    workdir: str | Path,
    chosen: Sequence[Arm],
    *,
    seeds: Sequence[int],
    folds: Sequence[str] = (),
    lookup: str | Path | None = None,
) -> list[Job]:
    """The runs of a comparison, in the order in which they are made; nothing is read or written.

    Args: as of `compare`.

    Raises:
      ConfigError: configurations that cannot be used.
    """
    workdir, comparison = Path(workdir), comparisons.named(base.task)
    places = {"seeds": seeds, "workdir": workdir, "lookup": lookup}
    common = {seed: comparison.changes(base, seed=seed, **places) for seed in seeds}
    found = []
    for arm in chosen:
        for seed in seeds:
            changes = comparison.fitted(base, {**common[seed], **arm.changes})
            config = config_lib.override(base, changes)
            for place, change in fold_changes(config, folds).items():
                own = config_lib.override(config, change)
                folder = workdir / arm.label / f"seed{seed}" / place
                fold = place.replace("fold", ", fold ")
                found.append(Job(arm, seed, f"{arm.label}, seed {seed}{fold}", own, folder))
    return found


def make(
    base: ml_collections.ConfigDict,
    workdir: str | Path,
    chosen: Sequence[Arm],
    *,
    seeds: Sequence[int],
    folds: Sequence[str] = (),
    lookup: str | Path | None = None,
    together: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Train and evaluate the runs of a comparison, those that are not there yet.

    Args: as of `compare`, and
      extra: fields to add to every result line.

    Returns:
      The runs.

    Raises:
      ValueError: inputs or configurations that cannot be used; finished runs stay.
    """
    workdir, comparison = Path(workdir), comparisons.named(base.task)
    todo = jobs(base, workdir, chosen, seeds=seeds, folds=folds, lookup=lookup)
    comparison.prepare([job.config for job in todo])
    if together:
        places = {"seeds": seeds, "workdir": workdir, "lookup": lookup}
        common = comparison.changes(base, seed=seeds[0], **places) | {"seeds": tuple(seeds)}
        for arm in chosen:
            changes = comparison.fitted(base, {**common, **arm.changes})
            train_together(config_lib.override(base, changes), workdir / arm.label)
    for number, job in enumerate(todo, 1):
        fields = {**({"variant": job.arm.variant} if job.arm.variant else {}), **(extra or {})}
        run(job.config, job.folder, fields, f"[{number}/{len(todo)}] {job.title}")
    return todo


def train_together(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Train the seeds of a configuration in one program, unless each is trained; go on if that was interrupted."""
    names = list(several.members(config))
    if all(runs.is_trained(folder / name) for name in names):
        return
    print(f"{folder.name}, {', '.join(names)}: training in one program", flush=True)
    several.train(config, folder, resume=(folder / "config.json").is_file())


def run(
    config: ml_collections.ConfigDict, folder: Path, extra: Mapping[str, Any], title: str
) -> None:
    """Train and evaluate one run, unless that is done; go on with it if it was interrupted.

    Args:
      config: of the run.
      folder: its work directory.
      extra: fields to add to its result lines.
      title: what is printed of it.
    """
    from core_jax.train import report

    task = None
    if runs.is_trained(folder):
        runs.require_same(config, folder)
        if (folder / runs.RESULTS).is_file():
            print(f"{title}: done before", flush=True)
            return
    else:
        print(f"{title}: training", flush=True)
        task = runs.train(config, folder, resume=(folder / "config.json").is_file())
    lines = runs.evaluate(folder, task=task, extra=extra)
    scores = comparisons.named(config.task).score(lines)
    took = report.seconds(runs.training_seconds(folder) or 0.0)
    print(f"{title}: {scores}, trained in {took}", flush=True)


def _split_outside_brackets(text: str) -> list[str]:
    """Split at commas that are not inside parentheses: "loss.kl=(1,0),lr=0.1"."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


if __name__ == "__main__":
    config_lib.define()
    flags.DEFINE_string("workdir", None, "folder of the comparison", required=True)
    flags.DEFINE_string("lookup", None, "folder of FDBPL's lookup; WORKDIR/lookup unless given")
    flags.DEFINE_list("methods", None, "rows, see above; the task's main ones unless given")
    flags.DEFINE_list("seeds", ["1"], "seeds, comma-separated")
    flags.DEFINE_bool("together", False, "train the seeds of each row in one program")
    flags.DEFINE_list("folds", [], "folds of a cross-validation: all, or 0,1,2; the configured one")
    flags.DEFINE_multi_string("variant", [], "a variant of your own: NAME:key=value[,key=value...]")
    config_lib.run(main, runs.failures)
