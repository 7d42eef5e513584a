"""The README's examples run as they stand there, one after the other, and its links lead somewhere."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_examples_run_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    first = capsys.readouterr().out.splitlines()[0]
    assert first in names["world"].CLASSES
    assert names["features"].shape[1] == len(names["world"].CLASSES)
    assert names["crops"].shape == (10, 32, 32, 3)


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).is_file()] == []
