"""Configurations: overrides, their errors, and what an entry point does with them."""

import json
import pathlib
import subprocess
import sys
import textwrap

import ml_collections
import pytest

from launch import config as config_lib
from launch import tasks

SOURCE = """
import ml_collections
from ml_collections import config_dict

def get_config(size="small"):
    config = ml_collections.ConfigDict()
    config.task = "fdbpl"
    config.batch_size = 8 if size == "small" else 32
    config.lr = 0.002
    config.limit = config_dict.placeholder(int)
    config.loss = ml_collections.ConfigDict({"dual": True, "lam_neg": 1.0, "kl": (0.5, 0.5)})
    return config
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "config.py"
    file.write_text(SOURCE)
    return str(file)


def test_overrides_keep_the_declared_types(path):
    config = config_lib.load(
        path, ["lr=1", "batch_size=4", "loss.dual=False", "loss.kl=(1,0)", "limit=3"]
    )
    assert (config.lr, type(config.lr)) == (1.0, float)
    assert (config.batch_size, config.loss.dual, config.limit) == (4, False, 3)
    assert config.loss.kl == (1, 0)


def test_a_file_can_take_an_argument(path):
    assert config_lib.load(path + ":large").batch_size == 32


def test_an_unknown_key_names_the_nearest(path):
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.load(path, ["lam_neg=0.5"])
    assert str(error.value) == (
        "config.lam_neg=0.5: there is no such key; the nearest key is config.loss.lam_neg, "
        "a number such as 1.0"
    )


def test_a_wrong_type_names_what_was_expected(path):
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.load(path, ["batch_size=many"])
    assert str(error.value) == "config.batch_size=many: expected an integer such as 8"


def test_all_problems_come_in_one_message(path):
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.load(path, ["batch_size=1.5", "lr=0.1", "los.dual=True", "loss=3"])
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("config.los.dual=True: there is no such key; the nearest")
    assert "config.loss.dual" in lines[1]
    assert lines[2].startswith("config.loss=3: expected one of its values: config.loss.dual")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(config_lib.ConfigError, match=r"nowhere\.py: there is no such file"):
        config_lib.load(tmp_path / "nowhere.py")


def test_override_replaces_values_without_touching_the_original(path):
    base = config_lib.load(path)
    changed = config_lib.override(base, {"loss.lam_neg": 0.0, "limit": 5})
    assert (changed.loss.lam_neg, changed.limit) == (0.0, 5)
    assert (base.loss.lam_neg, base.limit) == (1.0, None)


def test_override_reports_every_problem(path):
    with pytest.raises(config_lib.ConfigError) as error:
        config_lib.override(config_lib.load(path), {"loss.lam": 0.0, "batch_size": "eight"})
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "config.loss.lam=0.0" in lines[0]
    assert lines[1] == "config.batch_size=eight: expected an integer such as 8"


def test_json_round_trip_restores_tuples(path, tmp_path):
    config = config_lib.load(path)
    values = config_lib.to_json(config)
    assert values["loss"]["kl"] == [0.5, 0.5]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert config_lib.from_workdir(tmp_path).loss.kl == (0.5, 0.5)


def test_a_workdir_without_a_run_says_what_to_do(tmp_path):
    with pytest.raises(config_lib.ConfigError, match="nothing was trained there"):
        config_lib.from_workdir(tmp_path)
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(config_lib.ConfigError, match="not JSON"):
        config_lib.from_workdir(tmp_path)


def test_an_unknown_task_lists_the_known_ones():
    config = ml_collections.ConfigDict({"task": "segment"})
    with pytest.raises(config_lib.ConfigError, match=r"config\.task=segment: .*contrastive, fdbpl"):
        tasks.build(config)


ENTRY = """
import pathlib, sys
from absl import flags
from launch import config

CONFIG = config.define()
flags.DEFINE_string("workdir", None, "")

def main(argv):
    if CONFIG.value.lr < 0:
        raise ValueError("lr is negative")
    pathlib.Path(flags.FLAGS.workdir).mkdir()
    print("lr", CONFIG.value.lr, "dual", CONFIG.value.loss.dual)

if __name__ == "__main__":
    config.run(main)
"""


@pytest.fixture
def entry(tmp_path, path):
    script = tmp_path / "entry.py"
    script.write_text(textwrap.dedent(ENTRY))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        root = str(pathlib.Path(__file__).parents[2])
        return subprocess.run(
            [sys.executable, str(script), f"--workdir={tmp_path / 'run'}", *arguments],
            env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_entry_point_parses_every_flag_form(entry, path):
    done = entry(f"--config={path}", "--config.lr", "0.5", "--noconfig.loss.dual")
    assert (done.returncode, done.stdout) == (0, "lr 0.5 dual False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.learning_rate=1"],
            "launch.entry: config.learning_rate=1: there is no such key",
        ),
        (["--config.lr=fast"], "launch.entry: config.lr=fast: expected a number such as 0.002"),
        (["--workdri=x"], "launch.entry: Unknown command line flag 'workdri'"),
        (["stray"], "launch.entry: stray: not a flag"),
        (["--config.lr=-1"], "launch.entry: lr is negative"),
    ],
)
def test_entry_point_errors_are_short_and_write_nothing(entry, path, tmp_path, arguments, message):
    done = entry(f"--config={path}", *arguments)
    assert done.returncode == config_lib.USAGE_STATUS
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_entry_point_names_a_missing_configuration(entry, tmp_path):
    done = entry(f"--config={tmp_path / 'no.py'}")
    assert done.returncode == config_lib.USAGE_STATUS
    assert done.stderr.endswith("no.py: there is no such file\n")


def test_entry_point_shows_the_trace_when_asked(entry, path):
    assert "Traceback" in entry(f"--config={path}", "--config.lr=-1", "--traceback").stderr


def test_a_command_word_is_asked_for(tmp_path):
    script = tmp_path / "words.py"
    script.write_text(
        "from launch import config\n"
        "if __name__ == '__main__':\n"
        "    config.run(lambda argv: {'build': 0, 'check': 3}[argv[1]], words=('build', 'check'))\n"
    )

    def call(*arguments):
        environment = {
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
            "PATH": "/usr/bin:/bin",
        }
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert call("check").returncode == 3
    for arguments, given in (((), "nothing"), (("bild",), "bild"), (("build", "x"), "build x")):
        done = call(*arguments)
        assert done.returncode == config_lib.USAGE_STATUS
        assert done.stderr == f"launch.words: expected one of the words build, check; got {given}\n"
