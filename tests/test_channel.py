"""Messages between processes are whole, however the pipe cuts them, and whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyflowx.channel import Receiving, Sending, decode, encode, open_channel

VALUES = st.none() | st.integers() | st.binary(max_size=20) | st.lists(st.text(max_size=5), max_size=3)
DATA = st.binary(max_size=50) | st.integers(0, 3 << 20).map(bytes) | st.lists(st.binary(max_size=9), max_size=5)


def taken(receiving: Receiving) -> list[tuple[int, Any, bytes]]:
    return [(message.kind, message.value, bytes(message.data)) for message in receiving.receive()]


def all_of(receiving: Receiving) -> list[tuple[int, Any, bytes]]:
    found: list[tuple[int, Any, bytes]] = []
    while not receiving.ended:
        found += taken(receiving)
    return found


@given(st.lists(st.tuples(st.integers(0, 255), VALUES, DATA), max_size=6))
def test_messages_come_as_they_were_sent(sent: list[tuple[int, Any, Any]]) -> None:
    here, there = open_channel()

    def send() -> None:
        sending = Sending(there)
        for message in sent:
            sending.send(*message)
        os.close(there)

    thread = threading.Thread(target=send)
    receiving = Receiving(here)
    thread.start()
    found = all_of(receiving)
    thread.join()
    receiving.close()
    wanted = [(kind, value, b"".join(data) if isinstance(data, list) else data) for kind, value, data in sent]
    assert found == wanted
    assert decode(encode(wanted)) == wanted


def test_many_buffers_of_any_type_are_one_message() -> None:
    here, there = open_channel()
    parts = [memoryview(b"%04d" % number).cast("H") for number in range(3000)]
    Sending(there).send(1, None, parts)
    os.close(there)
    receiving = Receiving(here)
    (message,) = all_of(receiving)
    receiving.close()
    assert message[2] == b"".join(b"%04d" % number for number in range(3000))


def test_a_message_of_a_killed_process_is_whole_or_not_there() -> None:
    """It is killed while it waits for room in the pipe, in the middle of its second message."""
    here, there = open_channel()
    pid = os.fork()
    if pid == 0:
        sending = Sending(there)
        sending.send(1, "first", b"x" * 100)
        sending.send(2, "second", b"y" * (8 << 20))
        os._exit(0)
    os.close(there)
    receiving = Receiving(here)
    found: list[tuple[int, Any, bytes]] = []
    while not found:
        found += taken(receiving)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found += all_of(receiving)
    receiving.close()
    assert found == [(1, "first", b"x" * 100)]
