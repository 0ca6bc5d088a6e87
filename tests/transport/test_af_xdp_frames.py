"""Frames out of memory that is shared with the kernel, whatever is in them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from pyflowx.transport import af_xdp
from pyflowx.transport.xsk import BAD_CHECKSUM, HEADROOM, RECEIVED, UNREADABLE, XskSocket

CHUNK = 2048
ETH = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
UDP_HEADER = UDP(sport=2055, dport=9995)
FRAMES = [
    bytes(ETH / IP(src="192.0.2.1", dst="192.0.2.2") / UDP_HEADER / bytes(range(200))),
    bytes(ETH / Dot1Q(vlan=5) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP_HEADER / b"x"),
    bytes(ETH / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP_HEADER / b"odd"),
    bytes(ETH / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP_HEADER),
]
SFLOW = bytes(ETH / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=2055, dport=6343) / b"sFlow")


class Memory(XskSocket):
    """The memory of a socket without the socket: what waits is put there by us."""

    def __init__(self, frames: list[tuple[int, bytes]]) -> None:
        """``frames``: where each begins in its row, and its octets; behind them is what was there before."""
        self.chunk = CHUNK
        self.frames = np.full((64, CHUNK), 0xA5, np.uint8)
        self._room, self._used = np.empty(0, np.uint8), 0
        self._counts = np.zeros(3, np.uint64)
        for row, (begin, octets) in enumerate(frames):
            self.frames[row, begin : begin + len(octets)] = np.frombuffer(octets, np.uint8)
        self._waiting = frames

    def peek(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        begins = np.array([begin for begin, _ in self._waiting], np.int64)
        return np.arange(len(begins)), begins, np.array([len(octets) for _, octets in self._waiting], np.int32)

    def release(self, rows: np.ndarray) -> None:
        assert len(rows) == len(self._waiting)


def take(frames: list[tuple[int, bytes]]) -> tuple[list[bytes], list[int]]:
    memory = Memory(frames)
    inputs = np.zeros(1 << 16, np.uint16)
    inputs[6343] = 1
    batch = af_xdp._take(memory, [(0, 1), (len(frames), 2)], inputs)
    counted = [int(memory._counts[what]) for what in (RECEIVED, BAD_CHECKSUM, UNREADABLE)]
    if batch is not None:  # the input is known by the port, which no frame here has but SFLOW
        assert batch.input.tolist() == [int(row == b"sFlow") for row in batch.tolist()]
    return ([] if batch is None else batch.tolist()), counted


def test_what_is_whole_is_taken() -> None:
    payloads = [bytes(range(200)), b"x", b"odd", b""]
    assert take([(HEADROOM, frame) for frame in FRAMES]) == (payloads, [4, 0, 0])


def test_the_port_tells_the_input() -> None:
    assert take([(HEADROOM, FRAMES[1]), (HEADROOM, SFLOW), (HEADROOM, FRAMES[0])])[1] == [3, 0, 0]
    assert take([(HEADROOM, SFLOW)])[0] == [b"sFlow"]


def test_frames_may_begin_anywhere_in_their_rows() -> None:
    places = [HEADROOM, HEADROOM + 32, CHUNK - len(FRAMES[2]), CHUNK - len(FRAMES[3])]
    payloads = [bytes(range(200)), b"x", b"odd", b""]
    assert take(list(zip(places, FRAMES, strict=True))) == (payloads, [4, 0, 0])


@pytest.mark.parametrize("index", range(len(FRAMES)))
def test_a_frame_that_is_cut_off_is_unreadable(index: int) -> None:
    frame = FRAMES[index]
    for end in range(1, len(frame)):
        assert take([(HEADROOM, frame[:end])]) == ([], [0, 0, 1]), end


def test_no_octets_are_an_error() -> None:
    chance = random.Random(3)
    for _ in range(400):
        frames = []
        for _ in range(chance.randrange(1, 20)):
            octets = bytearray(chance.choice(FRAMES))
            for _ in range(chance.choice((0, 1, 3, 30))):
                octets[chance.randrange(len(octets))] = chance.randrange(256)
            frames.append((chance.choice((HEADROOM, HEADROOM, 0, 300)), bytes(octets[: chance.randrange(1, 400)])))
        payloads, counted = take(frames)
        assert len(payloads) == counted[0] and sum(counted) == len(frames)


def test_no_frames() -> None:
    assert take([]) == ([], [0, 0, 0])
