"""Who is there: a roll call before the processes of a job join, and named barriers afterwards; both bounded.

JAX ends a process that waits in vain for the others with an abort that names nobody. So process 0 first counts the others
itself, over the port that JAX uses next: each of them sends one line of JSON with its number, how many it expects and its
host, and receives one line with the problems, an empty list if all came.
"""

import json
import os
import pathlib
import socket
import sys
import time
import traceback
from typing import Any

from launch.clusters import Layout

_LONGEST_LINE = 1 << 16
_PREFIX = "launch"
_ALIKE_S = 20.0


class JoinError(RuntimeError):
    """The processes of a job did not come together; the message names those that are late."""


def roll_call(layout: Layout, timeout_s: float) -> None:
    """Return when all processes have reported to process 0.

    Raises:
      JoinError: on every process that reported; names the late ones, numbers used twice, and other counts.
      OSError: process 0 cannot listen at its port.
    """
    host, _, port = str(layout.coordinator).rpartition(":")
    if layout.process == 0:
        problems = _call(host, int(port), layout.processes, timeout_s)
    else:
        problems = _report(host.strip("[]"), int(port), layout, timeout_s)
    if problems:
        raise JoinError("\n".join(problems))


def _call(host: str, port: int, processes: int, timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    hosts, problems = {0: socket.gethostname()}, []
    waiting: list[socket.socket] = []
    with _listen(host, port) as server:
        try:
            while len(hosts) < processes and not problems:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection = server.accept()[0]
                except TimeoutError:
                    break
                waiting.append(connection)
                problems += _enter(_read_line(connection, 2.0), hosts, processes)
            late = [number for number in range(processes) if number not in hosts]
            if late and not problems:
                problems.append(
                    f"{_numbered(late)} of {processes} did not report to process 0 within {timeout_s:g} s; "
                    f"there {'is' if len(hosts) == 1 else 'are'} "
                    + ", ".join(f"{number} ({name})" for number, name in sorted(hosts.items()))
                    + f". Look at the output of {_numbered(late)}, or wait longer with --start_timeout"
                )
            for connection in waiting:
                _send_line(connection, problems)
            for connection in waiting:
                # The other side closes first, so that this port is at once free for JAX.
                _read_line(connection, 2.0)
        finally:
            for connection in waiting:
                connection.close()
    return problems


def _enter(line: Any, hosts: dict[int, str], processes: int) -> list[str]:
    """Add who reported to `hosts`; lines that no process of ours sends are left alone."""
    if not isinstance(line, dict) or not isinstance(line.get("process"), int):
        return []
    number, host = line["process"], str(line.get("host"))
    if line.get("processes") != processes or not 0 <= number < processes:
        return [
            f"process {number} on {host} belongs to {line.get('processes')} processes, process 0 to {processes}: "
            "give all the same --num_processes, and each job a port of its own"
        ]
    if number in hosts:
        return [
            f"two processes call themselves {number}, on {hosts[number]} and {host}: --process_id has to differ"
        ]
    hosts[number] = host
    return []


def _report(host: str, port: int, layout: Layout, timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    entry = {
        "process": layout.process,
        "processes": layout.processes,
        "host": socket.gethostname(),
    }
    last = "nothing listens there"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5.0)) as connection:
                _send_line(connection, entry)
                # Process 0 may have started later and so waits longer.
                answer = _read_line(connection, left + timeout_s)
        except OSError as error:
            last = str(error)
        else:
            if isinstance(answer, list):
                return [str(problem) for problem in answer]
            last = "what listens there holds no roll call: another job, or one that began without this process"
        time.sleep(0.1)
    return [
        f"process 0 did not answer process {layout.process} at {layout.coordinator} within {timeout_s:g} s ({last}). "
        "Look at the output of process 0, at the address and at firewalls, or wait longer with --start_timeout"
    ]


def _listen(host: str, port: int) -> socket.socket:
    try:
        if host == "127.0.0.1":
            return socket.create_server((host, port))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise OSError(
            error.errno,
            f"process 0 cannot listen at {host}:{port} ({error.strerror}): choose another port",
        ) from error


def _send_line(connection: socket.socket, value: Any) -> None:
    try:
        connection.sendall(json.dumps(value).encode() + b"\n")
    except OSError:
        # Whoever has gone meanwhile is missed in the join itself.
        return


def _read_line(connection: socket.socket, timeout_s: float) -> Any:
    """The value of one line; None for silence, a closed connection or anything that is no JSON."""
    connection.settimeout(timeout_s)
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < _LONGEST_LINE:
            piece = connection.recv(4096)
            if not piece:
                break
            data += piece
        return json.loads(data)
    except (OSError, ValueError):
        return None


def _numbered(numbers: list[int]) -> str:
    word = "process" if len(numbers) == 1 else "processes"
    return f"{word} {', '.join(map(str, numbers))}"


def barrier(name: str, timeout_s: float) -> None:
    """Return when every process of the job has come here; at once for a process that is alone.

    Args:
      name: of this meeting; each is used once in a job.
      timeout_s: how long to wait.

    Raises:
      JoinError: names the processes that did not come.
    """
    import jax
    from jax._src import distributed

    # JAX has no public door to its key-value store; Orbax goes through this one as well.
    client, count = distributed.global_state.client, distributed.global_state.num_processes
    if client is None:
        return
    folder = str(pathlib.PurePosixPath(_PREFIX) / name)
    client.key_value_set(
        f"{folder}/{distributed.global_state.process_id}",
        socket.gethostname(),
        allow_overwrite=True,
    )
    try:
        client.wait_at_barrier(folder, int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        there = {int(key.rsplit("/", 1)[1]): host for key, host in client.key_value_dir_get(folder)}
        late = [number for number in range(count) if number not in there]
        if not late:
            # They came after the time had run out, or one of them failed elsewhere.
            raise JoinError(f"the processes did not meet at {name!r}: {error}") from error
        raise JoinError(
            f"{_numbered(late)} of {count} did not come to {name!r} within {timeout_s:g} s. "
            f"Look at the output of {_numbered(late)}"
        ) from error


def leave(error: BaseException) -> None:
    """Return if this process may end as Python does, with an exception; end it here if the others would wait for it.

    JAX's own end of a process waits minutes for the other processes of its job. They would wait too, for one that has
    failed alone. Where all fail alike, all come here, and each ends with its message.
    """
    distributed = sys.modules.get("jax._src.distributed")
    if distributed is None or distributed.global_state.client is None:
        return
    import jax

    try:
        barrier("failed", _ALIKE_S)
    except (JoinError, jax.errors.JaxRuntimeError):
        # Some go on, or process 0 is gone and cannot be asked.
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else 1
        else:
            traceback.print_exception(error)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
