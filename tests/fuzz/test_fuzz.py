"""A short run of the fuzz targets: seeded mutations of good inputs, the same ones every time."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fuzz.py is a program and finds its modules the same way
from seeds import seeds
from targets import TARGETS, join, split

RUNS = 300
_ODD = (0, 1, 2, 3, 4, 255, 256, 0x7FFF, 0x8000, 65535, 0x40000000, 0xFFFFFFFF)


def mutations(good: list[bytes], source: random.Random) -> Iterator[bytes]:
    while True:
        octets = bytearray(source.choice(good))
        for _ in range(source.choice((1, 1, 2, 4, 16))):
            at, some = source.randrange(len(octets) + 1), source.randrange(1, 40)
            way = source.randrange(6)
            if way == 0:
                octets[at : at + 1] = bytes([source.randrange(256)])
            elif way == 1:
                size = source.choice((1, 2, 4))
                octets[at : at + size] = (source.choice(_ODD) & (1 << 8 * size) - 1).to_bytes(size, "big")
            elif way == 2:
                del octets[at : at + some]
            elif way == 3:
                octets[at:at] = octets[at : at + some]
            elif way == 4:
                octets[at:at] = source.randbytes(some)
            else:
                other = source.choice(good)
                cut = source.randrange(len(other))
                octets[at : at + some] = other[cut : cut + some]
        yield bytes(octets[:4096])


@pytest.mark.parametrize("target", TARGETS)
def test_any_octets_keep_the_invariant(target: str) -> None:
    good = seeds(target)
    for octets in good:
        TARGETS[target](octets)
    for _, octets in zip(range(RUNS), mutations(good, random.Random(target)), strict=False):
        TARGETS[target](octets)


def test_an_input_is_a_list_of_datagrams() -> None:
    datagrams = [b"one", b"", b"three"]
    assert split(join(datagrams, 2, 7)) == [[(7, b"one"), (7, b"")], [(7, b"three")]]
