"""Options of readers in a run's configuration: every one can be set, and no other."""

import dataclasses
import pathlib

import pytest

from gaze_jax import config, inputs, readers, writers
from launch import config as launch_config
from tests.gaze_jax.gaze_sets import smooth_set

MINE = {field.name for field in dataclasses.fields(config.ReaderOptions)}


def data(**values):
    return config.read({"data": values}).data


def test_every_option_of_every_reader_has_a_key():
    taken = {name: set(readers.options(name)) for name in readers.FORMATS}
    assert set().union(*taken.values()) == MINE | {"order", "sign"}
    assert taken["mpiigaze_raw"] == {"subset"}
    assert taken["gaze360"] == {"size", "crop"}


def test_options_reach_the_reader(tmp_path):
    writers.write(smooth_set("eye", persons=2, per_person=6), tmp_path, "mpiigaze")
    lists = tmp_path / "Evaluation Subset/sample list for eye image"
    for path in lists.glob("p*.txt"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    values = {"dataset": "mpiigaze", "root": str(tmp_path)}
    assert len(inputs.open_set(data(**values))) == 4
    assert len(inputs.open_set(data(**values, options={"subset": "evaluation"}))) == 4
    assert len(inputs.open_set(data(**values, options={"subset": "all"}))) == 12
    with pytest.raises(readers.ReaderError, match="subset='al': expected one of evaluation, all"):
        inputs.open_set(data(**values, options={"subset": "al"}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dataset": "eth_xgaze", "options": {"subset": "all", "size": 3}},
            r"options.subset='all': the reader of eth_xgaze has no such option; it has config.data.order\n"
            r".*options.size=3",
        ),
        (
            {"dataset": "gaze360", "options": {"grey": True}},
            "it has config.data.options.size, config.data.options.crop",
        ),
        ({"dataset": "eyes_A", "options": {"subset": "all"}}, "eyes_A has .* it has none"),
        ({"dataset": "mpiigaze", "options": {"subsett": "all"}}, "nearest is .*options.subset"),
        ({"dataset": "plain", "options": {"size": "big"}}, "expected an integer"),
        ({"dataset": "plane", "options": {"size": 3}}, "data.dataset='plane': expected one of"),
    ],
)
def test_options_that_do_not_exist_are_named(values, message):
    with pytest.raises(config.ConfigError, match=f"(?s){message}"):
        data(**values)


@pytest.mark.parametrize(
    "path", sorted(pathlib.Path("configs").glob("gaze_*.py")), ids=lambda path: path.stem
)
def test_a_configuration_names_what_its_reader_takes(path):
    given = launch_config.load(path)
    named = given.to_dict()["data"]
    dataset = named["dataset"]
    if dataset in readers.RENDERED:
        return
    for name in readers.options(dataset):
        assert name in (named["options"] if name in MINE else named)
    # Without values of their own they are the reader's choice.
    assert config.read(given).data.reader_options() == {}


def test_options_can_be_given_as_flags():
    overrides = ["data.options.subset=all", "data.options.size=48", "data.options.grey=true"]
    for texts, dataset, expected in (
        (overrides[:1], "mpiigaze_raw", {"subset": "all"}),
        (overrides[1:], "plain", {"size": 48, "grey": True}),
    ):
        given = launch_config.load(
            "configs/gaze_drnet_mpiigaze.py", [*texts, f"data.dataset={dataset}"]
        )
        assert config.read(given).data.reader_options() == expected
