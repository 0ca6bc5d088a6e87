"""NetFlow v5 of real devices, decoded as tshark decodes it: the folder named by PYFLOWX_VECTORS."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from pyflowx.batch import PacketBatch
from pyflowx.decoded import Protocol, Reason
from pyflowx.wire import Decoder


def decimal(text: str) -> int:
    return int(text, 0)


def address(text: str) -> int:
    return int(IPv4Address(text))


def milliseconds(text: str) -> int:
    return round(float(text) * 1000)


# Our element: tshark's field, and what its text means.
RECORD: dict[str, tuple[str, Callable[[str], int]]] = {
    "sourceIPv4Address": ("srcaddr", address),
    "destinationIPv4Address": ("dstaddr", address),
    "ipNextHopIPv4Address": ("nexthop", address),
    "ingressInterface": ("inputint", decimal),
    "egressInterface": ("outputint", decimal),
    "packetDeltaCount": ("packets", decimal),
    "octetDeltaCount": ("octets", decimal),
    "flowStartSysUpTime": ("timestart", milliseconds),
    "flowEndSysUpTime": ("timeend", milliseconds),
    "sourceTransportPort": ("srcport", decimal),
    "destinationTransportPort": ("dstport", decimal),
    "tcpControlBits": ("tcpflags", decimal),
    "protocolIdentifier": ("protocol", decimal),
    "ipClassOfService": ("tos", decimal),
    "bgpSourceAsNumber": ("srcas", decimal),
    "bgpDestinationAsNumber": ("dstas", decimal),
    "sourceIPv4PrefixLength": ("srcmask", decimal),
    "destinationIPv4PrefixLength": ("dstmask", decimal),
}
HEADER: dict[str, tuple[str, Callable[[str], int]]] = {
    "count": ("count", decimal),
    "sys_uptime": ("sysuptime", milliseconds),
    "unix_secs": ("unix_secs", decimal),
    "unix_nsecs": ("unix_nsecs", decimal),
    "flow_sequence": ("sequence", decimal),
    "engine_type": ("engine_type", decimal),
    "engine_id": ("engine_id", decimal),
    "sampling_mode": ("samplingmode", decimal),
    "sampling_interval": ("samplerate", decimal),
}


def messages(octets: bytes) -> Iterator[bytes]:
    """The messages of a file; one whose count cannot be is the rest of it."""
    while octets:
        length = 24 + 48 * int.from_bytes(octets[2:4], "big")
        yield octets[:length]
        octets = octets[length:]


def tshark_says(path: Path, datagrams: list[bytes]) -> list[dict[str, list[int]]]:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for payload in datagrams:
        packet = struct.pack(">BBHIBBH8x", 0x45, 0, 28 + len(payload), 0, 64, 17, 0)
        packet += struct.pack(">HHHH", 1000, 2055, 8 + len(payload), 0) + payload
        out += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    path.write_bytes(out)
    fields = RECORD | HEADER
    named = [word for name, _ in fields.values() for word in ("-e", f"cflow.{name}")]
    command = ["tshark", "-n", "-r", str(path), "-d", "udp.port==2055,cflow", "-T", "fields", *named]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(datagrams)
    return [
        {
            name: [meaning(text) for text in cell.split(",")]
            for (name, (_, meaning)), cell in zip(fields.items(), line.split("\t"), strict=True)
        }
        for line in lines
    ]


def we_say(datagram: bytes) -> dict[str, list[Any]]:
    decoded, problems = Decoder().decode(PacketBatch.of([datagram]), 0)
    assert {reason for _, _, reason in problems.tolist()} <= {Reason.BAD_COUNT}
    ((protocol, header, (flows,)),) = [(part.protocol, part.messages.header, part.flows) for part in decoded]
    assert protocol == Protocol.NETFLOW_V5
    found = {name: flows.column(name).tolist() for name in RECORD}
    return found | {name: header[name].tolist() for name in HEADER}


def test_v5_of_real_devices_decodes_as_tshark_decodes_it(tmp_path: Path) -> None:
    folder = os.environ.get("PYFLOWX_VECTORS")
    if not folder:
        pytest.skip("probe: PYFLOWX_VECTORS names no folder of real messages")
    files = [path for path in sorted(Path(folder).glob("*.dat")) if path.read_bytes()[:2] == b"\0\5"]
    datagrams = [message for path in files for message in messages(path.read_bytes())]
    assert len(files) > 1 and len(datagrams) > 10
    for datagram, theirs in zip(datagrams, tshark_says(tmp_path / "a.pcap", datagrams), strict=True):
        assert we_say(datagram) == theirs
