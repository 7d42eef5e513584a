"""The README's examples run as they stand there, one after the other, and its links lead somewhere."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"


def examples(page: pathlib.Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def run(page: pathlib.Path) -> dict:
    """The names that a page's examples leave behind."""
    names: dict = {}
    for block in examples(page):
        exec(compile(block, str(page), "exec"), names)
    return names


def test_examples_run_in_order(capsys):
    assert len(examples(README)) >= 5
    names = run(README)
    first = capsys.readouterr().out.splitlines()[0]
    assert first in names["world"].CLASSES
    assert names["features"].shape[1] == len(names["world"].CLASSES)
    assert names["crops"].shape == (10, 32, 32, 3)

    assert {row["name"] for row in names["found"].classes} <= set(names["words"])


def test_examples_of_the_segmentation_page():
    names = run(DOCS / "gba.md")
    assert names["found"].label_map.shape == (128, 128)
    assert names["shallow"].shape == (2, 16, 16, 8)


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert links or page != README
    assert [link for link in links if not (page.parent / link).is_file()] == []
