"""An independent reader of the same octets: tshark must see the fields we see, where we see them.

The messages are those we encode; a folder of real ones may be added by the environment variable PYFLOWX_VECTORS
(``*.dat``: messages one after another; files of a device share what stands before ``_tpl``/``_data`` in their name).
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import struct
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pyflowx.batch import V4_MAPPED, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded
from pyflowx.elements import FieldSpecifier, default_registry, to_nanoseconds
from pyflowx.wire import Decoder, ipfix, netflow9

IP_UDP = 28
REGISTRY = default_registry()
NAMES = [
    *("sourceIPv4Address", "destinationIPv4Address", "sourceIPv6Address", "sourceTransportPort"),
    *("destinationTransportPort", "protocolIdentifier", "octetDeltaCount", "packetDeltaCount", "ingressInterface"),
    *("egressInterface", "ipClassOfService", "tcpControlBits", "bgpSourceAsNumber", "sourceMacAddress", "vlanId"),
    *("flowLabelIPv6", "ipNextHopIPv4Address", "minimumTTL"),
]
UNKNOWN = "cflow.enterprise_private_entry"  # printed as hex
UPTIMES = {"flowStartSysUpTime": "cflow.timestart", "flowEndSysUpTime": "cflow.timeend"}
TIMES = ["Seconds", "Milliseconds", "Microseconds", "Nanoseconds"]


@pytest.fixture(scope="module")
def tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        pytest.skip("probe: tshark is not installed")
    return path


class Node(NamedTuple):
    """A field as tshark prints it; ``at`` is the offset in the datagram."""

    name: str
    at: int
    size: int
    show: str


class Flow(NamedTuple):
    at: int
    nodes: list[Node]


class Seen(NamedTuple):
    """A datagram as tshark decodes it; ``unread``: Sets without a Template, or malformed."""

    flows: list[Flow]
    unread: int


def capture(datagrams: list[tuple[bytes, bytes]]) -> bytes:
    """(IPv4 source, payload) as a capture of raw IP packets to UDP port 2055."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)
    for source, payload in datagrams:
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, source, bytes([127, 0, 0, 1]))
        packet = ip + struct.pack(">HHHH", 1000, 2055, 8 + len(payload), 0) + payload
        out += struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet
    return out


def read_with_tshark(tshark: str, file: Path, datagrams: list[tuple[bytes, bytes]]) -> list[Seen]:
    """Each datagram as tshark decodes it."""
    file.write_bytes(capture(datagrams))
    command = [tshark, "-n", "-r", str(file), "-d", "udp.port==2055,cflow", "-T", "pdml"]
    out = subprocess.run(command, check=True, capture_output=True)
    packets = ET.fromstring(out.stdout).findall("packet")
    assert len(packets) == len(datagrams)
    unread = ".//proto[@name='_ws.malformed']"
    return [Seen(list(flows_of(packet)), len(packet.findall(unread))) for packet in packets]


def flows_of(packet: ET.Element) -> Iterator[Flow]:
    for field in packet.findall(".//proto[@name='cflow']//field"):
        if re.fullmatch(r"Flow \d+", field.get("show", "")):
            inner = [
                Node(
                    each.get("name", ""),
                    int(each.get("pos", 0)) - IP_UDP,
                    int(each.get("size", 0)),
                    each.get("show", ""),
                )
                for each in field.iter("field")
                if each is not field and int(each.get("size", 0))
            ]
            yield Flow(int(field.get("pos", 0)) - IP_UDP, inner)


class Value(NamedTuple):
    """A field as we decoded it; ``at`` is the offset of its octets in the datagram."""

    field: FieldSpecifier
    at: int
    size: int
    value: object


def our_records(decoded: Decoded) -> dict[int, list[list[Value]]]:
    """Our records, by packet and in the order of their octets. What stands behind a list (RFC 6313) in a Set is left
    out of the records, since the decoded list does not say its size."""
    found: defaultdict[int, list[tuple[int, list[Value]]]] = defaultdict(list)
    cursor: dict[tuple[int, int], int | None] = {}
    for batch in decoded.flows:
        columns = [column.tolist() for column in batch.columns]
        for row, (message, set_offset) in enumerate(
            zip(batch.message.tolist(), batch.set_offset.tolist(), strict=True)
        ):
            packet = int(decoded.messages.packet[message])
            at = cursor.get((packet, set_offset), set_offset + 4)
            record = []
            for field, column in zip(batch.fields, columns, strict=True):
                if at is None or (field.is_variable and field.element.data_type.is_list):
                    at = None
                    break
                size = len(column[row]) if field.is_variable else field.length
                if field.is_variable:
                    at += 1 if size < 255 else 3
                record.append(Value(field, at, size, column[row]))
                at += size
            cursor[packet, set_offset] = at
            found[packet].append((set_offset, record))
    return {packet: [record for _, record in sorted(records, key=itemgetter(0))] for packet, records in found.items()}


def compare(records: list[list[Value]], flows: list[Flow]) -> int:
    """Same records at the same places, each field beginning where tshark sees one; returns how many values both
    could say and so were compared."""
    assert len(records) == len(flows)
    compared = 0
    for record, flow in zip(records, flows, strict=True):
        assert not record or flow.at == record[0].at - _prefix(record[0])
        begins = {node.at for node in flow.nodes}
        nodes = {(node.at, node.size): node for node in reversed(flow.nodes)}  # a field stands before its bits
        for value in record:
            uptime = UPTIMES.get(value.field.element.name)
            if uptime is not None:  # tshark prints the value right and its place wrong
                node = next((node for node in flow.nodes if node.name == uptime), None)
            else:
                assert not value.size or value.at in begins, value
                node = nodes.get((value.at, value.size))
            said = theirs(value, node.show) if node and node.name != UNKNOWN else None
            if said is not None:
                assert agree(value, said), (value, node)
                compared += 1
    return compared


def _prefix(value: Value) -> int:
    return (1 if value.size < 255 else 3) if value.field.is_variable else 0


def theirs(value: Value, show: str) -> object:
    """What tshark prints, in our terms; None where it prints words."""
    name = value.field.element.data_type.name
    if name in ("ipv4Address", "ipv6Address") and value.field.has_column:
        address = ipaddress.ip_address(show)
        return int(address) if address.version == 4 else list(address.packed)
    if name == "macAddress" and value.field.has_column:
        return int(show.replace(":", ""), 16)
    if value.field.element.name in UPTIMES:
        return round(float(show) * 1000)
    if name.startswith("dateTime"):
        match = re.fullmatch(r"(\w+ +\d+, \d+ [\d:]+)\.(\d{9}) UTC", show)
        if match is None:
            return None
        seconds = datetime.strptime(match[1], "%b %d, %Y %H:%M:%S").replace(tzinfo=UTC).timestamp()
        return int(seconds) * 10**9 + int(match[2])
    if name.startswith("unsigned") and re.fullmatch(r"\d+|0x[0-9a-f]+", show):
        return int(show, 0)
    if name == "string" and isinstance(value.value, bytes) and value.value.isalnum():
        return show.encode()
    return None


def agree(value: Value, said: object) -> bool:
    name = value.field.element.data_type.name
    if not name.startswith("dateTime"):
        return said == value.value
    time = int(to_nanoseconds(name, np.array([value.value], np.uint64))[0][0])
    # tshark reads the bits of dateTimeMicroseconds that are below a microsecond (RFC 7011 §6.1.9: to be ignored)
    return isinstance(said, int) and abs(said - time) < (1000 if name == "dateTimeMicroseconds" else 1)


def check(tshark: str, folder: Path, datagrams: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Compare all records, and how many Sets had no Template; returns (records, values compared)."""
    seen = read_with_tshark(tshark, folder / "messages.pcap", datagrams)
    packets = PacketBatch.of([payload for _, payload in datagrams], [V4_MAPPED + source for source, _ in datagrams])
    parts, _ = Decoder().decode(packets, 0)
    records: dict[int, list[list[Value]]] = {}
    for part in parts:
        records |= our_records(part)
    unread = Counter(int(part.messages.packet[opaque.message]) for part in parts for opaque in part.opaque)
    assert [each.unread for each in seen] == [unread[row] for row in range(len(seen))]
    compared = sum(compare(records.get(row, []), each.flows) for row, each in enumerate(seen))
    return sum(map(len, records.values())), compared


def made_up(names: list[str], lengths: dict[str, int], rows: int = 7) -> FlowBatch:
    random = np.random.default_rng(7)
    fields = tuple(REGISTRY.field(name, lengths.get(name)) for name in names)
    columns = [
        field.element.data_type.to_column(random.integers(1, 100, (rows, field.length)).astype(np.uint8))
        for field in fields
    ]
    return FlowBatch(fields, list(columns))


@pytest.mark.parametrize("protocol", [ipfix, netflow9])
def test_tshark_reads_what_we_encode(protocol: type, tshark: str, tmp_path: Path) -> None:
    encoder = protocol.Encoder(max_octets=500)  # type: ignore[attr-defined]
    batches = [
        made_up(NAMES, {}),
        made_up(NAMES, {"octetDeltaCount": 3, "packetDeltaCount": 5, "ingressInterface": 2, "bgpSourceAsNumber": 1}),
        made_up(["samplingInterval", "samplingAlgorithm", "sourceTransportPort"], {}),
    ]
    batches[2].scope_count = 1
    batches[2].fields = (REGISTRY.field("ingressInterface"), *batches[2].fields[1:])
    data = [each for batch in batches for each in encoder.encode(batch, 10**18).tolist()]
    datagrams = [(bytes(4), each) for each in encoder.template_messages(10**18).tolist() + data]
    records, compared = check(tshark, tmp_path, datagrams)
    assert records == 21 and compared >= 14 * len(NAMES)


def test_tshark_reads_ipfix_times_and_variable_lengths(tshark: str, tmp_path: Path) -> None:
    encoder = ipfix.Encoder(max_octets=9000)
    ntp = np.arange(3, dtype=np.uint64) + (np.uint64(2_208_988_800 + 1_700_000_000) << np.uint64(32))
    seconds = np.arange(3, dtype=np.uint32) + np.uint32(1_700_000_000)
    times = [seconds, seconds.astype(np.uint64) * np.uint64(1000), ntp, ntp]
    fields = [REGISTRY.field(f"flow{end}{unit}") for end in ("Start", "End") for unit in TIMES]
    names = Octets.of([b"eth0", b"", b"x" * 300])
    strings = [REGISTRY.field("interfaceName"), REGISTRY.field("userName")]
    reverse = FieldSpecifier(REGISTRY.get(29305, 1), 8)
    columns = [*times, *times, names, names.take([2, 1, 0]), np.arange(3, dtype=np.uint64)]
    data = encoder.encode(FlowBatch((*fields, *strings, reverse), columns), 10**18)
    datagrams = [(bytes(4), each) for each in encoder.template_messages(10**18).tolist() + data.tolist()]
    records, compared = check(tshark, tmp_path, datagrams)
    assert records == 3 and compared >= 3 * 8


def split_messages(octets: bytes) -> Iterator[bytes]:
    """A file of messages: IPFIX ones say their length, a v9 packet fills the file. Its count, which is wrong in the
    field, is raised: tshark reads no more FlowSets than it says."""
    if octets[:2] == b"\0\x09":
        yield octets[:2] + b"\xff\xff" + octets[4:]
        return
    while octets:
        length = max(int.from_bytes(octets[2:4], "big"), 16)
        yield octets[:length]
        octets = octets[length:]


def test_a_folder_of_real_messages_decodes_as_tshark_decodes_it(tshark: str, tmp_path: Path) -> None:
    folder = os.environ.get("PYFLOWX_VECTORS")
    if not folder:
        pytest.skip("probe: PYFLOWX_VECTORS names no folder of real messages")
    files = [path for path in Path(folder).glob("*.dat") if path.read_bytes()[:2] in (b"\0\x09", b"\0\x0a")]
    assert files
    devices = {path: re.split(r"_(?:tpls?|opttpl|data|tpldata)", path.stem)[0] for path in files}
    numbers = {device: number for number, device in enumerate(sorted(set(devices.values())), 1)}
    order = sorted(files, key=lambda path: ("tpl" not in path.stem, path.stem))
    datagrams = [
        (bytes([10, 0, 0, numbers[devices[path]]]), each)
        for path in order
        for each in split_messages(path.read_bytes())
    ]
    records, compared = check(tshark, tmp_path, datagrams)
    assert records >= len(files) // 2 and compared >= records
