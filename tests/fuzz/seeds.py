"""Good inputs that fuzzing starts from: for each target a few lists of datagrams (or captures) with all that its codec
knows, in the form of :func:`targets.join`."""

from __future__ import annotations

import gzip
import random
import struct

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from targets import REPAIR, join

from pyflowx.batch import Column, FlowBatch, Octets
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.wire import ipfix, netflow5, netflow9
from pyflowx.wire.sflow_structures import Structure, structures

EXPORT_NS = 1_700_000_000_000_000_000
_FLOW = (
    *("sourceIPv4Address", "destinationIPv4Address", "sourceTransportPort", "destinationTransportPort:1"),
    *("protocolIdentifier", "octetDeltaCount:5", "packetDeltaCount:3", "tcpControlBits:1", "ingressInterface:2"),
    *("flowStartSysUpTime", "flowEndSysUpTime", "sourceMacAddress", "vlanId", "mplsTopLabelStackSection:3"),
)
_SIX = ("sourceIPv6Address", "destinationIPv6Address", "sourceIPv4Address", "ipVersion", "icmpTypeCodeIPv6")
_TIMES = (
    *(
        "flowStartMilliseconds",
        "flowEndMicroseconds",
        "flowStartNanoseconds",
        "flowEndSeconds",
        "observationTimeSeconds",
    ),
    *("systemInitTimeMilliseconds", "flowStartSysUpTime", "octetDeltaCount", "packetDeltaCount"),
)
_TEXTS = (
    "applicationName",
    "interfaceName:9",
    "1/2",
    "sourceIPv4Address:0",
    "ipHeaderPacketSection",
    "paddingOctets:0",
)
_FRAME = ("dataLinkFrameSection", "ipHeaderPacketSection", "sectionExportedOctets", "absoluteError:8")
_TYPES = (
    *("informationElementId", "privateEnterpriseNumber", "informationElementDataType"),
    *("informationElementSemantics", "informationElementUnits:2", "informationElementName"),
)
_BIFLOW = (
    *("sourceIPv4Address", "destinationIPv4Address", "flowStartMilliseconds", "reverseFlowDeltaMilliseconds"),
    *("octetDeltaCount:4", "reverseOctetDeltaCount:3", "reversePacketDeltaCount", "biflowDirection", "reverseVlanId"),
)
_INIT = ("meteringProcessId", "systemInitTimeMilliseconds", "samplingPacketInterval", "samplingPacketSpace")
_SAMPLERS = ("samplerId:1", "samplerRandomInterval:4", "samplerMode")


def _field(name: str, fixed: bool) -> FieldSpecifier:
    name, _, length = name.partition(":")
    registry = default_registry()
    element = registry.by_name(name)
    assert element is not None, name
    natural = element.data_type.width or (7 if fixed else 65535)
    return FieldSpecifier(element, int(length) if length else natural)


def _flows(names: tuple[str, ...], scope_count: int = 0, rows: int = 3, fixed: bool = False) -> FlowBatch:
    fields = tuple(_field(name, fixed) for name in names)
    source = random.Random(",".join(names))
    columns: list[Column] = []
    for field in fields:
        if field.has_column:
            cells = np.frombuffer(source.randbytes(rows * field.length), np.uint8).reshape(rows, field.length)
            columns.append(field.element.data_type.to_column(cells))
        else:
            sizes = [source.choice((0, 3, 60, 300)) if field.is_variable else field.length for _ in range(rows)]
            columns.append(Octets.of([_packet(source)[:size].ljust(size, b"x") for size in sizes]))
    return FlowBatch(fields, columns, scope_count=scope_count)


def _frames() -> list[bytes]:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    tcp, udp = TCP(dport=443, flags="SA") / Raw(b"data"), UDP(dport=4789)
    inner = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / IP(src="10.1.0.1") / tcp
    packets = [
        ether / IP(options=IPOption_RR(length=7, routers=["0.0.0.0"])) / tcp,
        ether / Dot1AD(vlan=5) / Dot1Q(vlan=7) / IPv6(fl=77) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment() / tcp,
        ether / IP() / ICMP(type=3, code=4),
        ether / IPv6() / ICMPv6EchoRequest(),
        ether / IP() / udp / VXLAN(vni=5) / inner,
        ether / IP() / GRE() / IPv6() / tcp,
    ]
    return [bytes(packet) for packet in packets]


def _packet(source: random.Random) -> bytes:
    return source.choice(_FRAMES)[source.choice((0, 14)) :]


_FRAMES = _frames()


def _exported(encoder: ipfix.Encoder | netflow9.Encoder, flows: list[FlowBatch]) -> list[bytes]:
    data = [datagram for each in flows for datagram in encoder.encode(each, EXPORT_NS).tolist()]
    return encoder.template_messages(EXPORT_NS).tolist() + data


def _template_seeds(encoder: type[ipfix.Encoder] | type[netflow9.Encoder], fixed: bool) -> list[bytes]:
    shapes = [(_FLOW, 0), (_SIX, 0), (_TIMES, 0), (_TEXTS, 0), (_FRAME, 0), (_TYPES, 2), (_SAMPLERS, 1), (_INIT, 1)]
    if fixed:  # NetFlow v9 has no enterprise numbers
        shapes = [(tuple(name for name in names if "/" not in name), scope_count) for names, scope_count in shapes]
    else:
        shapes.append((_BIFLOW, 0))
    seeds = []
    for names, scope_count in shapes:
        datagrams = _exported(encoder(), [_flows(names, scope_count, fixed=fixed)])
        seeds += [join(datagrams, 1), join(datagrams[::-1], 4, REPAIR)]
    together = _exported(encoder(), [_flows(names, scope_count, fixed=fixed) for names, scope_count in shapes])
    return [*seeds, join(together, 20), join(together[::-1], 3)]


def _set(set_id: int, content: bytes) -> bytes:
    return struct.pack(">HH", set_id, 4 + len(content)) + content


def _message(*sets: bytes) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, 0, 1) + body


def _structured_seeds() -> list[bytes]:
    plain = struct.pack(">HHHHHH", 256, 2, 7, 2, 82, 65535)
    lists = [struct.pack(">HHHH", id, 1, element, 65535) for id, element in ((301, 291), (302, 292), (303, 293))]
    all_lists = struct.pack(">HH6H", 304, 3, 291, 65535, 292, 65535, 293, 65535)
    record = b"\0\x50\x04eth0"
    basic = struct.pack(">BHH", 3, 7, 2) + b"\0\1\0\2"
    names = struct.pack(">BHH", 0, 82, 65535) + b"\3lo0\4eth0"
    vendor = struct.pack(">BHHI", 255, 0x8000 | 184, 1, 6871) + b"\1"
    sub = struct.pack(">BH", 4, 256) + record * 2
    multi = bytes([1]) + _set(256, record) + _set(301, bytes([len(basic)]) + basic)
    deep = basic
    for _ in range(10):  # lists of lists, deeper than is read
        deep = struct.pack(">BHH", 3, 291, 65535) + bytes([len(deep)]) + deep

    def short(octets: bytes) -> bytes:
        return bytes([len(octets)]) + octets

    templates = _set(2, plain + b"".join(lists) + all_lists)
    sets = [
        _set(301, b"".join(map(short, (basic, names, vendor, deep)))),
        _set(302, short(sub) + short(b"")),
        _set(303, short(multi)),
        _set(304, short(basic) + short(sub) + b"\xff" + struct.pack(">H", len(multi)) + multi),
    ]
    seeds = [join([_message(templates, each)]) for each in sets]
    return [*seeds, join([_message(templates, *sets)]), join([_message(*sets), _message(templates)], 2, REPAIR)]


def _netflow5_seeds(version: int) -> list[bytes]:
    form = netflow5.FORMATS[version]
    records = random.Random(version).randbytes(2 * form.record_length)
    head = struct.pack(">HHIII", version, 2, 3_600_000, 1_700_000_000, 500).ljust(form.header.itemsize, b"\x41")
    return [join([head + records, head + records[:-1]], 1), join([head + records] * 5, 5, REPAIR)]


def _words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def _xdr(octets: bytes) -> bytes:
    return _words(len(octets)) + octets + bytes(-len(octets) % 4)


_KINDS = {
    "address": _words(1, 0x0A000001),
    "string": _xdr(b"text!"),
    "opaque": _xdr(b"\1\2\3"),
    "words": _words(2, 5, 6),
    "path": _words(2, 2, 2, 65001, 65002, 1, 1, 65003),
    "communities": _words(1, 65001 << 16 | 7),
}


def _structure(structure: Structure) -> bytes:
    body = b"".join(bytes(range(field.octets)) or _KINDS[field.kind] for field in structure.fields)
    return _words(structure.format) + _xdr(body)


def _sflow_datagram(*samples: bytes) -> bytes:
    return _words(5, 1, 0x0A000001, 4, 99, 3_600_000, len(samples)) + b"".join(samples)


def _sflow_seeds() -> list[bytes]:
    headers = [_words(1) + _xdr(_words(1, 1500, 4) + _xdr(frame[:128])) for frame in _FRAMES]
    headers += [_words(1) + _xdr(_words(11, 1500, 0) + _xdr(frame[14:])) for frame in _FRAMES[:3]]
    seeds = []
    for data in ("flow", "counter"):
        records = [_structure(structure) for versions in structures(data).values() for structure in versions]
        if data == "flow":
            records = [record for pair in zip(headers * 10, records, strict=False) for record in pair]
        else:
            adapters = _words(2, 7, 1) + b"\2\0\0\0\0\1\0\0" + _words(8, 0)
            records.append(_words(2001) + _xdr(adapters))
        for first in range(0, len(records), 8):
            some = records[first : first + 8]
            body = b"".join(some)
            if data == "flow":
                heads = [_words(9, 3, 1000, 50000, 2, 7, 8, len(some)), _words(*range(10), len(some))]
                samples = [_words(1) + _xdr(heads[0] + body), _words(3) + _xdr(heads[1] + body)]
                samples.append(_words(5) + _xdr(_words(9, 0, 3, 2, 7, 8, 265, len(some)) + body))
            else:
                samples = [
                    _words(2) + _xdr(_words(9, 3, len(some)) + body),
                    _words(4) + _xdr(_words(9, 0, 3, len(some)) + body),
                ]
            seeds.append(join([_sflow_datagram(*samples), _sflow_datagram(samples[0])], 2))
    return [*seeds, join([_sflow_datagram(_words(77) + _xdr(b"unknown"))], 1, REPAIR)]


def _captures() -> list[bytes]:
    payload = _exported(ipfix.Encoder(), [_flows(_FLOW)])
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    frames = [bytes(ether / IP() / UDP(dport=2055) / Raw(datagram)) for datagram in payload]
    frames += [bytes(ether / Dot1Q() / IPv6() / IPv6ExtHdrDestOpt() / UDP(dport=2055) / Raw(payload[0]))]
    whole = IP(id=5) / UDP(dport=2055) / Raw(payload[-1])
    octets = bytes(whole)[20:]
    for offset in range(0, len(octets), 64):
        more = offset + 64 < len(octets)
        part = IP(id=5, proto=17, flags="MF" if more else 0, frag=offset // 8) / Raw(octets[offset : offset + 64])
        frames.append(bytes(ether / part))
    seeds = []
    for order in "<>":
        head = struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        records = [struct.pack(order + "IIII", 1, 2, len(frame), len(frame)) + frame for frame in frames]
        seeds.append(head + b"".join(records))

        def block(kind: int, body: bytes, order: str = order) -> bytes:
            body += bytes(-len(body) % 4)
            length = struct.pack(order + "I", 12 + len(body))
            return struct.pack(order + "I", kind) + length + body + length

        blocks = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
        blocks += [block(1, struct.pack(order + "HHI", link, 0, 0)) for link in (1, 113, 101)]
        for number, frame in enumerate(frames):
            size = len(frame)
            head = struct.pack(order + "IIIII", 0, number, 5, size, size)
            blocks.append(block(6, head + frame) if number % 2 else block(3, struct.pack(order + "I", size) + frame))
        seeds.append(b"".join(blocks))
    return [*seeds, gzip.compress(seeds[0], mtime=0)]


def seeds(target: str) -> list[bytes]:
    """The good inputs of a target."""
    made = {
        "ipfix": lambda: _template_seeds(ipfix.Encoder, fixed=False),
        "structured": _structured_seeds,
        "netflow9": lambda: _template_seeds(netflow9.Encoder, fixed=True),
        "netflow5": lambda: _netflow5_seeds(5),
        "netflow1": lambda: _netflow5_seeds(1),
        "netflow7": lambda: _netflow5_seeds(7),
        "sflow": _sflow_seeds,
        "capture": _captures,
    }
    return made[target]()
