"""The commands of README and docs: modules, words, flags, configurations and their keys are there, and fit what they are for."""

import pathlib
import re
import shlex

import pytest

from gaze_jax import config as gaze_config
from launch import config, doctor_checks, runs

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEFINED = re.compile(r'DEFINE_\w+\(\s*"(\w+)"')
IMPORTED = re.compile(r"from (launch[\w.]*) import (\([^)]*\)|.*)")
# absl's own.
ALWAYS = {"config", "help", "verbosity"}


def commands(page: pathlib.Path) -> list[list[str]]:
    """Every `python -m launch....` of a page as words, without the brackets around what may be left out.

    A command behind the -- of a launcher is one of its own. Blocks of text are what a command prints.
    """
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"```text\n.*?```", "", text, flags=re.S)
    found = []
    # In a table or a sentence a command ends with its code; in a block with its line, or with what says what it is for.
    for line in re.findall(r"python -m (launch\.[^`\n#]+)", text):
        words = shlex.split(re.sub(r"[\[\]]", " ", line))
        while "--" in words:
            found.append(words[: words.index("--")])
            words = words[words.index("--") + 1 :]
            words = words[2:] if words[:2] == ["python", "-m"] else words
        found.append(words)
    return found


def flags(module: str) -> set[str]:
    """Names of the flags that a module of launch, and the others that it imports, define in their source."""
    names, left, seen = set(ALWAYS), [module, "launch.config"], set()
    while left:
        path = ROOT / (left.pop().replace(".", "/") + ".py")
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        source = path.read_text(encoding="utf-8")
        names.update(DEFINED.findall(source))
        for package, imported in IMPORTED.findall(source):
            left += [package, *(f"{package}.{name}" for name in re.findall(r"\w+", imported))]
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_and_keys_exist(page):
    wrong = []
    for module, *words in commands(page):
        if not (ROOT / (module.replace(".", "/") + ".py")).is_file():
            wrong.append(f"{module}: no such module")
            continue
        known, given = flags(module), [word for word in words if word.startswith("--")]
        names = {word[2:].partition("=")[0].partition(".")[0] for word in given}
        wrong += [
            f"{module} --{name}"
            for name in sorted(names - known)
            if name.removeprefix("no") not in known
        ]
        files = [word.removeprefix("--config=") for word in given if word.startswith("--config=")]
        if files and files[0].startswith("configs/"):
            keys = [word[9:] for word in given if word.startswith("--config.")]
            # Raises where a key is unknown or a value has another type.
            config.load(ROOT / files[0], keys)
    assert wrong == []


@pytest.mark.parametrize(("page", "processes"), [("slurm", 16), ("pods", 4)])
def test_the_big_runs_fit_their_machines(page, processes):
    """2 x 8 GPUs with a process each, and a v5e-16, whose four hosts have four chips each."""
    (words,) = [
        words for words in commands(ROOT / "docs" / f"{page}.md") if "--workdir=runs/eth" in words
    ]
    file, *keys = [word.removeprefix("--config") for word in words if word.startswith("--config")]
    values = config.load(ROOT / file[1:], [key[1:] for key in keys])
    runs.fit_options(values)
    settings = gaze_config.read(values)
    assert (settings.data.dataset, settings.dfenet.clip.rsplit("/", 1)[1]) == (
        "eth_xgaze",
        "CLIP_RN50",
    )
    problems = doctor_checks.configuration(
        values.to_dict(), devices=16, processes=processes, environment={}, cached=lambda name: False
    )
    # The weights are there, and not here.
    assert [problem for problem in problems if "CLIP_RN50" not in problem] == []
