"""Train several methods on the same pictures and compare them: data, lookup, training, evaluation, report.

python -m launch.compare --config=configs/fdbpl_world.py --workdir=runs/demo --methods=zeroshot,coop,kdpl_online,fdbpl --seeds=1

Methods are those of `METHODS`, and "METHOD+VARIANT" for a named change of one (`VARIANTS`, or your own:
--variant=low_lr:lr=0.0005,epochs=20). `--methods=ablation` is fdbpl and it with each of its terms off.

A run lies in WORKDIR/METHOD/seedN. Finished runs are skipped and interrupted ones resumed, so the same command can be
given again after a kill. Everything runs in one process: JAX starts once. The embedded world writes its own pictures;
one lookup, over the union of the seeds' few-shot lists, serves all runs: WORKDIR/lookup, or --lookup=DIR.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from launch import config as config_lib
from launch import runs, start

Path = pathlib.Path

METHODS: dict[str, dict[str, Any]] = {
    "zeroshot": {"method": "zeroshot"},
    "coop": {"method": "coop"},
    "kgcoop": {"method": "kgcoop"},
    "kdpl_online": {"method": "kdpl", "teacher_source": "online"},
    "kdpl": {"method": "kdpl", "teacher_source": "lookup"},
    "fdbpl": {"method": "fdbpl", "teacher_source": "lookup"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_negative_prompt": {"loss.dual": False},
    "no_weight": {"loss.weight": "none"},
    "no_negative_loss": {"loss.lam_neg": 0.0},
    "no_dissimilarity": {"loss.lam_dis": 0.0},
    "no_cascade": {"loss.pcd": "off"},
    "unit_cascade": {"loss.pcd_unit": True},
    "maxprob_weight": {"loss.weight": "maxprob"},
    "forward_kl": {"loss.kl": (1.0, 0.0)},
    "one_region": {"regions_per_visit": 1},
}
ABLATION = (
    "fdbpl",
    "fdbpl+no_negative_prompt",
    "fdbpl+no_weight",
    "fdbpl+no_negative_loss",
    "fdbpl+no_dissimilarity",
    "fdbpl+no_cascade",
    "kdpl",
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the comparison: its label, and how its configuration differs from the common one."""

    label: str
    changes: Mapping[str, Any]

    @property
    def variant(self) -> str | None:
        """The label where the results' own method does not say it."""
        return self.label if "+" in self.label else None


def main(argv: list[str]) -> None:
    """Compare what the flags name."""
    del argv
    values = flags.FLAGS
    if values.config is None:
        raise config_lib.ConfigError(
            "--config is missing: name a file such as configs/fdbpl_world.py"
        )
    variants = own_variants(values.config, values.variant)
    chosen = arms(values.methods, {**VARIANTS, **variants})
    start.start()
    compare(
        values.config, values.workdir, chosen, seeds=read_seeds(values.seeds), lookup=values.lookup
    )


def read_seeds(texts: Sequence[str]) -> list[int]:
    """The numbers of `--seeds`.

    Raises:
      ConfigError: one is no number, or stands there twice.
    """
    if not all(text.isdecimal() for text in texts) or len(set(texts)) != len(texts) or not texts:
        raise config_lib.ConfigError(
            f"--seeds={','.join(texts)}: expected different whole numbers, such as 1,2,3"
        )
    return [int(text) for text in texts]


def arms(names: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> list[Arm]:
    """The rows that names stand for.

    Raises:
      ConfigError: unknown methods or variants, all in one message.
    """
    expanded = [part for name in names for part in (ABLATION if name == "ablation" else [name])]
    problems, found = [], {}
    for name in expanded:
        method, plus, variant = name.partition("+")
        if method not in METHODS:
            problems.append(
                f"--methods={name}: no such method; there are {', '.join(METHODS)}, ablation"
            )
        elif plus and variant not in variants:
            problems.append(f"--methods={name}: no such variant; there are {', '.join(variants)}")
        else:
            found[name] = Arm(name, {**METHODS[method], **(variants[variant] if plus else {})})
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
    lookup: str | Path | None = None,
) -> Path:
    """Make everything that is missing, then print the tables and write the report.

    Args:
      base: the common configuration.
      workdir: receives the runs, the lookup if it is to be built here, and report/.
      chosen: the rows.
      seeds: of the few-shot lists, the data order and the initialisation.
      lookup: folder of the lookup, built if it is not there; WORKDIR/lookup by default.

    Returns:
      The path of report.md.

    Raises:
      ValueError: inputs or configurations that cannot be used; finished runs stay.
    """
    from launch import report

    began, workdir = time.perf_counter(), Path(workdir)
    todo = [
        (arm, seed, _config(base, arm, seed, seeds, workdir, Path(lookup or workdir / "lookup")))
        for arm in chosen
        for seed in seeds
    ]
    prepare([config for _, _, config in todo])
    for number, (arm, seed, config) in enumerate(todo, 1):
        title = f"[{number}/{len(todo)}] {arm.label}, seed {seed}"
        run(config, workdir / arm.label / f"seed{seed}", arm.variant, title)
    labels = [arm.label for arm in chosen]
    folders = [workdir / arm.label for arm in chosen]
    print()
    report.print_tables(folders, labels)
    path = report.write(folders, workdir / "report", labels)
    from core_jax.train import report as tables

    print(f"report: {path} ({tables.seconds(time.perf_counter() - began)} in all)")
    return path


def prepare(configs: Sequence[ml_collections.ConfigDict]) -> None:
    """Write the embedded world's pictures and build the lookups that configurations need and that are not there."""
    from core_jax import world
    from core_jax.world import datasets
    from fdbpl_jax import build
    from fdbpl_jax import config as fdbpl_config

    settings = [fdbpl_config.read(config) for config in configs]
    data = [one.data for one in settings]
    for root in dict.fromkeys(one.root for one in data if one.dataset == "world_objects"):
        if not (Path(root) / datasets.OBJECTS / datasets.OBJECTS_SPLIT).is_file():
            print(f"pictures of the embedded world -> {root}", flush=True)
            world.write_objects(root)
    missing = {
        one.lookup.dir: config
        for one, config in zip(settings, configs)
        if one.needs_lookup and not (Path(one.lookup.dir) / "manifest.json").is_file()
    }
    for folder, config in missing.items():
        print(f"lookup -> {folder}", flush=True)
        build.build_from_config(config.to_dict())


def run(config: ml_collections.ConfigDict, folder: Path, variant: str | None, title: str) -> None:
    """Train and evaluate one run, unless that is done; go on with it if it was interrupted."""
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
    lines = runs.evaluate(folder, task=task, extra={"variant": variant} if variant else {})
    scores = ", ".join(f"{line['split']} {line['accuracy']:.2f} %" for line in lines)
    took = report.seconds(runs.training_seconds(folder) or 0.0)
    print(f"{title}: {scores}, trained in {took}", flush=True)


def _config(
    base: ml_collections.ConfigDict,
    arm: Arm,
    seed: int,
    seeds: Sequence[int],
    workdir: Path,
    lookup: Path,
) -> ml_collections.ConfigDict:
    changes = {
        "seed": seed,
        "data.seed": seed,
        "lookup.seeds": tuple(seeds),
        "lookup.dir": str(lookup),
        "data.cache": base.to_dict()["data"]["cache"] or str(workdir / "features"),
        **arm.changes,
    }
    return config_lib.override(base, changes)


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
    flags.DEFINE_string("lookup", None, "folder of the lookup; WORKDIR/lookup unless given")
    flags.DEFINE_list("methods", ["zeroshot", "coop", "kdpl_online", "fdbpl"], "rows, see above")
    flags.DEFINE_list("seeds", ["1"], "seeds, comma-separated")
    flags.DEFINE_multi_string("variant", [], "a variant of your own: NAME:key=value[,key=value...]")
    config_lib.run(main, runs.failures)
