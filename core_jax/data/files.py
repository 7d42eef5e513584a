"""Files that are either complete or absent, and the digests that pin them.

Everything the project writes goes through `atomic_path`: a unique temporary file beside the target, synced, renamed.
A process killed at any moment leaves the old file, the new one, or a temporary file that `remove_leftovers` deletes.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import socket
from collections.abc import Iterator
from typing import Any

Path = pathlib.Path

_TEMPORARY = re.compile(r"^\..*\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}$")


class DiskFullError(OSError):
    """No space is left where a file was to be written; what stood there before is untouched."""


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _explain_full(path: Path, error: BaseException) -> DiskFullError:
    return DiskFullError(
        errno.ENOSPC,
        f"no space left on the device while writing {path} ({error}); nothing was put there. "
        "Free some space and run the same command again: what is complete is kept",
    )


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an exception.

    Args:
      path: where the file (not a folder) shall stand; missing parent folders are made.

    Yields:
      The temporary path. The block creates the file there; on success it is synced to disk and renamed, otherwise
      deleted.

    Raises:
      DiskFullError: the device is full. Libraries that report that as another exception, with the system's words in
        it, are understood too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / (f".{path.name}.tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(error):
            raise _explain_full(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder: without this a power cut can undo it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; they order renames themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a whole file atomically; text as UTF-8.

    Raises:
      DiskFullError: the device is full.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Deletes temporary files in `folder` whose writer, a process of this host, is gone."""
    for path in Path(folder).glob(".*.tmp-*"):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == _host() and not _alive(int(match["pid"])):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_text(text: str) -> str:
    """SHA-256, in hexadecimal, of a text as `atomic_write` writes it."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """One JSON text per value: sorted keys, no spaces, no NaN.

    Raises:
      ValueError: a number is not finite.
      TypeError: something in it has no JSON form.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of `value`; tuples count as lists."""
    return digest_text(canonical_json(value))
