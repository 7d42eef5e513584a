"""Notice to leave: SIGTERM, into which this turns what Google's machines are told before they are taken away.

A training that gets SIGTERM saves and leaves (core_jax.train). `leave_when_told` is for the time before and after it.
SLURM, Kubernetes and people send SIGTERM themselves. A machine of Google's (Compute Engine, a TPU VM) learns of its end
from its metadata server, tens of seconds ahead: a spot machine that is preempted, a host that is shut for maintenance.
Where many processes train together one notice is enough: all save after the same step.
"""

import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping

from launch import pods

# Keys under instance/, and what they say when the end is near.
_NOTICES = {"preempted": "TRUE", "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}
_EVERY_S = 5.0
_PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")


def leave_when_told() -> None:
    """Leave with the status of a preemption at SIGTERM, wherever nothing else listens for it.

    Nothing has to be saved then: the same command with --resume does the rest. Processes that train together are told by
    JAX instead, from when they have joined: they leave after a step.
    """

    def leave(number: int, frame: object) -> None:
        del number, frame
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"told to leave while not training: start again with --resume\n")
        sys.exit(pods.PREEMPTED_STATUS)

    signal.signal(signal.SIGTERM, leave)


def watch(
    server: str | None = None,
    *,
    every_s: float = _EVERY_S,
    tell: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
) -> threading.Thread | None:
    """Wait in the background for notice, then send this process SIGTERM.

    Args:
      server: of metadata; None asks this machine's own (`metadata_server`).
      every_s: seconds between two questions.
      tell: called once, when there is notice.

    Returns:
      The thread, which ends with the notice or the process; None where there is no server to ask.
    """
    server = server or metadata_server(os.environ)
    if server is None:
        return None

    def wait() -> None:
        while (found := notice(server)) is None:
            time.sleep(every_s)
        print(f"notice that this machine will be taken away ({found})", file=sys.stderr, flush=True)
        tell()

    thread = threading.Thread(target=wait, name="notice", daemon=True)
    thread.start()
    return thread


def metadata_server(environment: Mapping[str, str], product: pathlib.Path = _PRODUCT) -> str | None:
    """The metadata server of this machine, if it is one of Google's: host or host:port.

    Args:
      environment: GCE_METADATA_HOST names another server, as Google's own libraries have it.
      product: the file in which Linux says what machine this is.
    """
    if given := environment.get("GCE_METADATA_HOST"):
        return given
    google = product.is_file() and product.read_text(errors="replace").startswith("Google")
    return "metadata.google.internal" if google else None


def notice(server: str) -> str | None:
    """The notice that a metadata server gives now, as "key=value"; None without one, or without an answer."""
    # The server is on this machine's own network: never behind a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for key, value in _NOTICES.items():
        request = urllib.request.Request(
            f"http://{server}/computeMetadata/v1/instance/{key}",
            headers={"Metadata-Flavor": "Google"},
        )
        try:
            with opener.open(request, timeout=5) as answer:
                said = answer.read().decode(errors="replace").strip()
        except OSError:
            # It may be busy, and not every machine has every key: asked again.
            continue
        if said == value:
            return f"{key}={said}"
    return None
