"""Roll call: all are there before JAX joins them, and who is late is named."""

import socket
import threading

import pytest

from launch import clusters, rollcall
from launch.local_multiprocess import free_port


def member(port: int, process: int, processes: int) -> clusters.Layout:
    return clusters.Layout(
        found="test", coordinator=f"127.0.0.1:{port}", processes=processes, process=process
    )


def gather(members: list[clusters.Layout], timeout_s: float = 3.0) -> dict[int, str]:
    """What each member of a roll call is told, "" where all is well; members are threads here."""
    told: dict[int, str] = {}

    def run(place: int) -> None:
        try:
            rollcall.roll_call(members[place], timeout_s)
            told[place] = ""
        except rollcall.JoinError as error:
            told[place] = str(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_a_roll_call_ends_when_all_are_there():
    port = free_port()
    assert gather([member(port, i, 3) for i in range(3)]) == {0: "", 1: "", 2: ""}


def test_late_processes_are_named_to_all():
    port = free_port()
    told = gather([member(port, i, 4) for i in (0, 2)], timeout_s=0.5)
    for text in told.values():
        assert text.startswith("processes 1, 3 of 4 did not report to process 0 within 0.5 s")


def test_process_0_is_named_when_it_is_late():
    told = gather([member(free_port(), 1, 2)], timeout_s=0.3)
    assert told[0].startswith("process 0 did not answer process 1 at 127.0.0.1:")


def test_numbers_used_twice_and_other_counts_are_named():
    port = free_port()
    told = gather([member(port, 0, 3), member(port, 1, 3), member(port, 1, 3)], timeout_s=1)
    assert "two processes call themselves 1" in told[0]
    port = free_port()
    told = gather([member(port, 0, 2), member(port, 1, 3)])
    assert "process 1 on" in told[0]
    assert "belongs to 3 processes, process 0 to 2" in told[1]


def test_strangers_do_not_disturb_a_roll_call():
    port, stop = free_port(), threading.Event()

    def knock() -> None:
        while not stop.wait(0.02):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            except OSError:
                continue

    stranger = threading.Thread(target=knock)
    stranger.start()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    told = gather([member(port, 0, 2), member(port, 1, 2)], timeout_s=10)
    stop.set()
    stranger.join()
    assert told == {0: "", 1: ""}


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{port}.*another port"):
            rollcall.roll_call(member(port, 0, 2), 1)
