"""Programs on PATH that write down how they were called, for the tests of what calls them."""

import json
import os
import pathlib
import sys

TRAIN = ["python", "-m", "launch.train", "--config=configs/gaze_drnet_demo.py", "--workdir=runs/x"]
"""A command as one types it."""

NASTY = ["a b", 'say "hi"', "it's", "$HOME", "`id`", "line\nbreak", "*", "", "\\", "~", "a;b&c|d"]
"""Arguments that a shell would change."""

SOURCE = """#!{python} -SE
import json, os, pathlib, sys
here = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
answers = here / (name + ".answers")
lines = json.loads(answers.read_text()) if answers.exists() else []
out, err, status = lines.pop(0) if lines else ("", "", 0)
answers.write_text(json.dumps(lines))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""

RUNNING = """#!/bin/bash
# srun: the tasks are one process here
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""


class Stubs:
    """A folder of programs for PATH.

    Attributes:
      folder: of the programs and of calls.jsonl.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, *names: str, folder: pathlib.Path | None = None) -> None:
        """Add programs that note their arguments, answer what `answer` said and do nothing."""
        for name in names:
            target = folder or self.folder
            target.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(
                SOURCE.format(python=sys.executable, folder=str(self.folder))
            )
            (target / name).chmod(0o755)

    def answer(self, name: str, *answers: tuple[str, str, int]) -> None:
        """What the next calls of a program write to stdout and stderr, and their exit status."""
        (self.folder / f"{name}.answers").write_text(json.dumps(answers))

    def calls(self) -> list[list[str]]:
        """All calls so far, name first."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        """The environment in which these programs come first."""
        return os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"} | more
