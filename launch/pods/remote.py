"""What a pod's workers are told to do: texts for the shell there, in the home folder of the user who logs in.

Each text is one `shlex.join` of an argument list, so that whatever a user typed arrives as it was typed. The scripts are
constants; what varies comes to them as "$1", "$2", ...
"""

import shlex
from collections.abc import Sequence

from launch.config import ConfigError
from launch.pods import is_told_to_resume

TREE = "clip-methods-jax"
"""Folder of the source tree on a worker."""

ARCHIVE = f"{TREE}.tar.gz"
"""File in which a copied tree arrives."""

PYTHON = "3.12"
"""Its version on the workers: TPU images bring one that is too old for JAX."""

_UNPACK = """set -eu
mkdir -p "$1"
tar -xzf "$2" -C "$1"
"""

_CLONE = """set -eu
test -d "$1/.git" || git clone --no-checkout "$2" "$1"
git -C "$1" remote set-url origin "$2"
git -C "$1" fetch --force origin "$3"
git -C "$1" checkout --force --detach FETCH_HEAD
"""

_INSTALL = """set -eu
cd "$1"
python3 -m pip install --user --quiet --upgrade uv
python3 -m uv venv --allow-existing --quiet --python "$2" .venv
python3 -m uv pip install --quiet --python .venv/bin/python --editable ".[$3]"
.venv/bin/python -c "import jax; print(jax.__version__)"
"""

_MOUNT = """set -eu
if ! command -v gcsfuse > /dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  sudo apt-get -qq update
  sudo apt-get -qq install gcsfuse
fi
mkdir -p "$1/runs"
mountpoint -q "$1/runs" || gcsfuse --implicit-dirs "$2" "$1/runs"
"""


def pack(folder: str, archive: str) -> list[str]:
    """Put a source tree into an archive, here: without its environment, its history and what runs wrote.

    Args:
      folder: root of the tree.
      archive: file to write.
    """
    at_the_top = (".git", ".venv", "runs", "data", "lookups", "report", "build", "dist")
    anywhere = ("__pycache__", "*.egg-info", ".*_cache")
    leave_out = [*(f"./{name}" for name in at_the_top), *anywhere]
    excludes = [f"--exclude={pattern}" for pattern in leave_out]
    return ["tar", "-czf", archive, *excludes, "-C", folder, "."]


def unpack() -> str:
    """Text that unpacks the copied archive; files of an older copy that are no longer in the tree stay."""
    return _script(_UNPACK, TREE, ARCHIVE)


def clone(repo: str, ref: str) -> str:
    """Text that brings the tree to a commit.

    Args:
      repo: URL that `git clone` understands.
      ref: branch, tag or full commit id.
    """
    return _script(_CLONE, TREE, repo, ref)


def install(extras: str) -> str:
    """Text that makes the environment; again, it brings it up to date.

    Args:
      extras: of setup.py, comma-separated.
    """
    return _script(_INSTALL, TREE, PYTHON, extras)


def mount(bucket: str) -> str:
    """Text that mounts a bucket as runs/ of the tree: the one place that all workers see.

    Args:
      bucket: name of a Cloud Storage bucket.
    """
    return _script(_MOUNT, TREE, bucket)


def worker(*words: str) -> str:
    """Text that calls `launch.pods.worker` from the root of the tree."""
    program = [".venv/bin/python", "-m", "launch.pods.worker"]
    return shlex.join(["env", f"--chdir={TREE}", *program, *words])


def job(command: Sequence[str], *, resume: bool = False) -> list[str]:
    """The command that every worker runs, from what a user would type on one machine.

    Args:
      command: python -m MODULE and its arguments.
      resume: add --resume, where the module has it.

    Returns:
      The same with the worker's Python, unbuffered, and --coordinator=auto.

    Raises:
      ConfigError: it does not begin with python -m MODULE.
    """
    if len(command) < 3 or list(command[:2]) not in (["python", "-m"], ["python3", "-m"]):
        given = shlex.join(command) or "nothing"
        raise ConfigError(
            f"expected a command after --, such as -- python -m launch.train --config=... --workdir=...; got {given}"
        )
    resume = resume and is_told_to_resume(command[2])
    return [".venv/bin/python", "-u", *with_flags(command[1:], resume=resume)]


def with_flags(command: Sequence[str], *, resume: bool) -> list[str]:
    """A command with --coordinator=auto and, if asked, --resume, unless it says something about them itself."""
    extra = []
    if not any(word.split("=")[0] == "--coordinator" for word in command):
        extra.append("--coordinator=auto")
    if resume and "--resume" not in command:
        extra.append("--resume")
    return [*command, *extra]


def _script(text: str, *arguments: str) -> str:
    return shlex.join(["bash", "-c", text, "setup", *arguments])
