"""The field's protocols, one command each: train, judge, and report with means, deviations and intervals over seeds.

python -m launch.protocol base_to_new --config=configs/fdbpl_caltech101.py --root=DATA --workdir=runs/bn --seeds=1,2,3
python -m launch.protocol cross_dataset --config=configs/fdbpl_caltech101.py --root=DATA --workdir=runs/xd --seeds=1,2,3
python -m launch.protocol domain_generalisation --config=configs/fdbpl_world.py --workdir=runs/world --seeds=1,2,3
python -m launch.protocol few_shot --config=configs/fdbpl_world.py --workdir=runs/shots --shots=1,2,4 --methods=zeroshot,coop,fdbpl
python -m launch.protocol class_agnostic --config=configs/fdbpl_world.py --workdir=runs/names --methods=zeroshot,kdpl_online

base_to_new            train on the base half of the classes of each of eleven data sets, judge both halves
cross_dataset          train on all classes of ImageNet, judge on the ten others, all of their classes
domain_generalisation  the same runs (give the same --workdir) on ImageNetV2, -Sketch, -A and -R
few_shot               train on all classes with 1, 2, 4, 8 and 16 pictures of each, judge on all classes
class_agnostic         train without class names: a dictionary is the label space, each batch described by the names that
                       the teacher finds likeliest in it; judged on the real names, beside training with them

With a configuration of the embedded world the same protocols run on rendered pictures, and their reports say so. --methods
are those of `launch.compare`; without the flag they are zeroshot and what the configuration describes. --dry_run prints
the runs and does nothing. Finished runs and finished judgements are skipped, interrupted runs resumed: give the command
again. The report of several protocols: python -m launch.report --workdir=runs/xd,runs/bn
"""

import pathlib
import time
from collections.abc import Sequence

from absl import flags

from launch import compare, runs, start
from launch import config as config_lib
from launch.comparisons import base as comparisons
from launch.protocols import judging, plans, sets

Path = pathlib.Path


def main(argv: list[str]) -> None:
    """Do what the flags name."""
    values = flags.FLAGS
    if values.config is None:
        raise config_lib.ConfigError(
            "--config is missing: name a file such as configs/fdbpl_world.py"
        )
    wishes = read(
        values.config,
        values.workdir,
        root=values.root,
        methods=values.methods,
        variants=values.variant,
        datasets=values.datasets,
        targets=values.targets,
        shots=values.shots,
        dictionary=values.dictionary,
        top=values.top,
    )
    seeds = compare.read_numbers(values.seeds)
    if values.dry_run:
        print(listing(argv[1], wishes, seeds))
        return
    start.start()
    run(argv[1], wishes, seeds=seeds, together=values.together)


def read(
    config: plans.ConfigDict,
    workdir: str | Path,
    *,
    root: str | None = None,
    methods: Sequence[str] | None = None,
    variants: Sequence[str] = (),
    datasets: Sequence[str] = (),
    targets: Sequence[str] = (),
    shots: Sequence[str] = (),
    dictionary: str | None = None,
    top: int | None = None,
) -> plans.Wishes:
    """What the flags ask for; arguments are theirs.

    Raises:
      ConfigError: something that does not exist or cannot be.
    """
    if config.get("task") != "fdbpl":
        raise config_lib.ConfigError(
            f"config.task={config.get('task')}: the protocols are those of prompt learning; name a configuration with "
            "task=fdbpl, such as configs/fdbpl_world.py"
        )
    if root:
        config = config_lib.override(config, {"data.root": root})
    known = comparisons.named(config.task)
    if methods:
        named = {**known.VARIANTS, **compare.own_variants(config, variants)}
        arms = compare.arms(methods, named, config.task)
    else:
        arms = [*compare.arms(["zeroshot"], {}, config.task), plans.own_arm(config)]
    numbers = compare.read_numbers(shots, "shots") if shots else list(sets.SHOTS)
    if 0 in numbers:
        raise config_lib.ConfigError(
            f"--shots={','.join(shots)}: expected at least 1 picture of each class; 0 shots are zero-shot, which has a row "
            "of its own"
        )
    synthetic = sets.is_synthetic(config.data.dataset)
    if dictionary is None and synthetic:
        dictionary = str(Path(config.data.root) / "world_dictionary.txt")
    return plans.Wishes(
        config=config,
        workdir=Path(workdir),
        arms=tuple({arm.label: arm for arm in arms}.values()),
        datasets=tuple(datasets),
        targets=tuple(targets),
        shots=tuple(numbers),
        dictionary=dictionary or "",
        top=top or (64 if synthetic else 1000),
    )


def listing(name: str, wishes: plans.Wishes, seeds: Sequence[int]) -> str:
    """The runs of a protocol as text, a line each: what is trained on what, what it is judged on, and whether it is done.

    Args:
      name: of the protocol.
      wishes: what is asked for.
      seeds: of the runs.
    """
    lines = []
    for stage in plans.PROTOCOLS[name](wishes):
        data = stage.config.data
        learned = f"{data.dataset}, {data.split} classes, {data.shots or 'all'} shots"
        for job in compare.jobs(stage.config, stage.folder, stage.arms, seeds=seeds):
            state = "trained" if runs.is_trained(job.folder) else "to train"
            left = [target.name for target in judging.missing(job.folder, stage.targets)]
            judged = f"; to judge on: {', '.join(left)}" if left else ""
            lines.append(f"{job.title}: {learned} -> {job.folder} ({state}{judged})")
    return "\n".join([*lines, f"{len(lines)} runs"])


def run(name: str, wishes: plans.Wishes, *, seeds: Sequence[int], together: bool = False) -> Path:
    """Make everything of a protocol that is missing, then print its tables and write its report.

    Args:
      name: of the protocol.
      wishes: what is asked for.
      seeds: of the few-shot lists, the data order and the initialisation.
      together: train the seeds of each row in one program.

    Returns:
      The path of report.md.

    Raises:
      ValueError: inputs or configurations that cannot be used; finished runs stay.
    """
    from core_jax.train import report as words
    from launch import report

    began, stages = time.perf_counter(), plans.PROTOCOLS[name](wishes)
    prepare(wishes, stages, seeds)
    check(stages, seeds)
    for stage in stages:
        dataset = stage.config.data.dataset
        print(f"{name}: {dataset} -> {stage.folder}", flush=True)
        extra = {"protocol": name, "trained_on": dataset}
        jobs = compare.make(
            stage.config, stage.folder, stage.arms, seeds=seeds, together=together, extra=extra
        )
        for job in jobs:
            variant = {"variant": job.arm.variant} if job.arm.variant else {}
            judging.judge(job.folder, stage.targets, {**variant, **extra}, job.title)
    folders = [stage.folder / arm.label for stage in stages for arm in stage.arms]
    print()
    report.print_tables(folders)
    path = report.write(folders, wishes.workdir / "report")
    print(f"report: {path} ({words.seconds(time.perf_counter() - began)} in all)")
    return path


def check(stages: Sequence[plans.Stage], seeds: Sequence[int]) -> None:
    """Find what cannot be used before anything is trained: configurations and dictionaries, then data sets.

    Raises:
      ConfigError: of a run.
      DatasetError: the problems of all data sets.
    """
    from fdbpl_jax import config as fdbpl_config
    from fdbpl_jax import dictionary, transfer

    dictionaries = set()
    for stage in stages:
        for job in compare.jobs(stage.config, stage.folder, stage.arms, seeds=seeds):
            settings = fdbpl_config.read(job.config)
            transfer.check_prompts(settings, stage.targets)
            dictionaries.add(settings.data.dictionary)
    for path in sorted(dictionaries - {""}):
        dictionary.read(path)
    judged = [target for stage in stages for target in (stage.own, *stage.targets)]
    transfer.check(list(dict.fromkeys(judged)))


def prepare(wishes: plans.Wishes, stages: Sequence[plans.Stage], seeds: Sequence[int]) -> None:
    """Write what the embedded world has to be asked for: its pictures, its other sets, its dictionary."""
    if not wishes.synthetic:
        return
    comparison = comparisons.named(wishes.config.task)
    asked = [arm for stage in stages for arm in stage.arms if "data.dictionary" in arm.changes]
    if asked and not Path(wishes.dictionary).is_file():
        sets.write_dictionary(Path(wishes.dictionary))
    # Zero-shot runs read the pictures and nothing else.
    bare = compare.arms(["zeroshot"], {}, wishes.config.task)
    jobs = [
        job
        for stage in stages
        for job in compare.jobs(stage.config, stage.folder, bare, seeds=seeds[:1])
    ]
    comparison.prepare([job.config for job in jobs])
    sets.write_world([target for stage in stages for target in stage.targets], wishes.root)


if __name__ == "__main__":
    config_lib.define()
    flags.DEFINE_string("workdir", None, "folder of the protocol's runs", required=True)
    flags.DEFINE_string("root", None, "folder that holds the data sets; config.data.root if absent")
    flags.DEFINE_list("methods", None, "rows, see launch.compare; zeroshot and the configuration's")
    flags.DEFINE_list("seeds", ["1", "2", "3"], "seeds, comma-separated")
    flags.DEFINE_list("datasets", [], "data sets to train on, instead of the protocol's")
    flags.DEFINE_list(
        "targets", [], "data sets to judge on, instead of the protocol's; NAME=FOLDER too"
    )
    flags.DEFINE_list("shots", [], "few_shot: pictures of each class; 1,2,4,8,16")
    flags.DEFINE_string(
        "dictionary", None, "class_agnostic: text file with a class name in each line"
    )
    flags.DEFINE_integer(
        "top", None, "class_agnostic: names that describe a batch; 1000", lower_bound=2
    )
    flags.DEFINE_bool("together", False, "train the seeds of each row in one program")
    flags.DEFINE_bool("dry_run", False, "print the runs and do nothing")
    flags.DEFINE_multi_string("variant", [], "a variant of your own: NAME:key=value[,key=value...]")
    config_lib.run(main, runs.failures, words=tuple(plans.PROTOCOLS))
