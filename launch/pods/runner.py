"""The one place where commands are run; with `dry_run` they are printed instead, ready to be pasted into a shell."""

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence


class CommandFailed(RuntimeError):
    """A program ended with an error, and has told about it on the terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs argument lists, never through a shell.

    Attributes:
      dry_run: print the commands and run nothing.
      poll_s: seconds between two questions about something that is waited for.
    """

    dry_run: bool
    poll_s: float = 30.0

    def call(self, argv: Sequence[str]) -> None:
        """Run a program on this terminal.

        Raises:
          CommandFailed: it ended with an error.
          FileNotFoundError: there is no such program.
        """
        self._run(argv, capture=False)

    def ask(self, argv: Sequence[str], *, assumed: str) -> str:
        """What a program prints.

        Args:
          argv: the program; its errors go to the terminal.
          assumed: the answer of a dry run.

        Raises:
          CommandFailed: it ended with an error.
          FileNotFoundError: there is no such program.
        """
        answer = self._run(argv, capture=True)
        return assumed if answer is None else answer.strip()

    def tell(self, text: str) -> None:
        """Say what is going on; a dry run has only commands to say."""
        if not self.dry_run:
            print(text, file=sys.stderr, flush=True)

    def pause(self) -> None:
        """Wait before the next question."""
        time.sleep(self.poll_s)

    def _run(self, argv: Sequence[str], *, capture: bool) -> str | None:
        if self.dry_run:
            print(shlex.join(argv))
            return None
        try:
            done = subprocess.run(
                argv, stdout=subprocess.PIPE if capture else None, text=True, check=False
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{argv[0]}: there is no such program on PATH. Install it ({_SOURCES[argv[0]]}), or look at the "
                "commands with --dry_run"
            ) from error
        if done.returncode:
            raise CommandFailed(f"exit status {done.returncode} of: {shlex.join(argv)}")
        return done.stdout


_SOURCES = {
    "gcloud": "the Google Cloud CLI, https://cloud.google.com/sdk/docs/install",
    "xpk": "https://github.com/AI-Hypercomputer/xpk",
    "tar": "it packs the tree for --copy; --repo does without",
    "mkdir": "it belongs to every system",
}
