"""Packets of every kind, and how others read our records: tshark and nfdump each field, nfacctd the totals."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
from collections import Counter
from datetime import UTC, datetime

import demo
import exports
import packets
import pytest
from exports import COLLECTOR, HERE, PORT, THERE
from scapy.layers.inet import UDP
from scapy.utils import rdpcap

from pyflowx.batch import PacketBatch
from pyflowx.exporting.fields import FIELDS
from pyflowx.kernel import Statistic
from pyflowx.wire import Decoder

pytestmark = pytest.mark.kernel

SAMPLED = PORT + 1  # where the exporter sends whose records tshark reads
NFCAPD, NFACCTD, OURS = COLLECTOR, "198.51.100.3", "198.51.100.4"
TSHARK = {  # what it calls our elements; empty: tshark 4.0 shows its octets only, it is younger
    "sourceIPv4Address": "srcaddr",
    "destinationIPv4Address": "dstaddr",
    "sourceIPv6Address": "srcaddrv6",
    "destinationIPv6Address": "dstaddrv6",
    "sourceTransportPort": "srcport",
    "destinationTransportPort": "dstport",
    "protocolIdentifier": "protocol",
    "ipClassOfService": "tos",
    "tcpControlBits": "tcpflags",
    "tcpWindowSize": "tcp_windows_size",
    "tcpMaximumSegmentSize": "",
    "tcpWindowScale": "tcp_window_scale",
    "icmpTypeCodeIPv4": "icmp_type_code_ipv4",
    "icmpTypeCodeIPv6": "",
    "icmpTypeIPv4": "icmp_ipv4_type",
    "icmpCodeIPv4": "icmp_ipv4_code",
    "icmpTypeIPv6": "icmp_ipv6_type",
    "icmpCodeIPv6": "icmp_ipv6_code",
    "igmpType": "igmp_type",
    "flowLabelIPv6": "ipv6flowlabel",
    "ipv6ExtensionHeadersFull": "",
    "fragmentFlags": "ip_fragment_flags",
    "fragmentIdentification": "frag_ident",
    "sourceMacAddress": "srcmac",
    "destinationMacAddress": "dstmac",
    "ethernetType": "ethernet_type",
    "vlanId": "vlanid",
    "dot1qVlanId": "dot1q_vlan_id",
    "dot1qCustomerVlanId": "dot1q_customer_vlan_id",
    "mplsLabelStackDepth": "mpls_label_depth",
    "mplsTopLabelStackSection": "mpls_label",
    "mplsLabelStackSection2": "mpls_label",
    "mplsLabelStackSection3": "mpls_label",
    "layer2SegmentId": "layer2_segment_id",
    "greKey": "gre_key",
    "IPSecSPI": "ipsec_spi",
    "ingressInterface": "inputint",
    "egressInterface": "outputint",
    "flowDirection": "direction",
    "packetDeltaCount": "packets",
    "octetDeltaCount": "octets",
    "layer2OctetDeltaCount": "layer2_octet_delta_count",
    "flowStartMilliseconds": "abstimestart",
    "flowEndMilliseconds": "abstimeend",
    "minimumTTL": "ttl_min",
    "maximumTTL": "ttl_max",
    "minimumIpTotalLength": "length_min",
    "maximumIpTotalLength": "length_max",
    "flowEndReason": "flow_end_reason",
    "selectorId": "selector_id",
}
NFDUMP = {  # its names in JSON: those of our elements; it has no room for the others
    "src4_addr": ["sourceIPv4Address"],
    "dst4_addr": ["destinationIPv4Address"],
    "src6_addr": ["sourceIPv6Address"],
    "dst6_addr": ["destinationIPv6Address"],
    "src_port": ["sourceTransportPort"],
    "dst_port": ["destinationTransportPort"],
    "proto": ["protocolIdentifier"],
    "src_tos": ["ipClassOfService"],
    "icmp_type": ["icmpTypeIPv4", "icmpTypeIPv6"],
    "icmp_code": ["icmpCodeIPv4", "icmpCodeIPv6"],
    "in_src_mac": ["sourceMacAddress"],
    "in_dst_mac": ["destinationMacAddress"],
    "src_vlan": ["dot1qVlanId"],
    "input_snmp": ["ingressInterface"],
    "output_snmp": ["egressInterface"],
    "direction": ["flowDirection"],
    "in_packets": ["packetDeltaCount"],
    "in_bytes": ["octetDeltaCount"],
    "first": ["flowStartMilliseconds"],
    "last": ["flowEndMilliseconds"],
    "mpls_1": ["mplsTopLabelStackSection"],
    "mpls_2": ["mplsLabelStackSection2"],
    "mpls_3": ["mplsLabelStackSection3"],
}


def flows_of_their_own(frames):
    """Each frame with a source address of its own, twice."""
    for number, frame in enumerate(frames):
        yield from [frame[:10] + number.to_bytes(2, "big") + frame[12:]] * 2


def plain(field, value):
    """A value of ours in the words of :func:`read`."""
    kind = field.element.data_type.name
    if kind == "ipv4Address" or kind == "ipv6Address":
        return str(ipaddress.ip_address(value if isinstance(value, int) else bytes(value)))
    if kind == "macAddress":
        return value.to_bytes(6, "big").hex(":")
    if "mpls" in field.element.name and kind == "octetArray":
        return int.from_bytes(value, "big") >> 4
    return value if kind.startswith("dateTime") or not isinstance(value, bytes) else value.hex()


def read(name, text):
    """A value that tshark prints."""
    if "Address" in name:
        return text if "Mac" in name else str(ipaddress.ip_address(text))
    if "Milliseconds" in name:
        moment = datetime.strptime(text.partition(" UTC")[0][:-3], "%b %d, %Y %H:%M:%S.%f").replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return int(text, 0)


def values(batches):
    """Element -> how often which values."""
    found = {}
    for batch in batches:
        for field, column in zip(batch.fields, batch.columns, strict=True):
            cells = (plain(field, value) for value in column.tolist())
            found.setdefault(field.element.name, Counter()).update(cells)
    return found


def tshark_values(capture):
    """What tshark calls a field -> the texts of its values."""
    names = sorted({name for name in TSHARK.values() if name} | {"enterprise_private_entry"})
    words = [word for name in names for word in ("-e", f"cflow.{name}")]
    decode_as = ("-d", f"udp.port=={SAMPLED},cflow", "-T", "fields", "-E", "aggregator=;", "-E", "separator=|")
    lines = demo.run("env", "TZ=UTC", "tshark", "-r", str(capture), *decode_as, *words).splitlines()
    columns = zip(*(line.split("|") for line in lines), strict=True)
    return {
        name: [cell for row in rows for cell in row.split(";") if cell]
        for name, rows in zip(names, columns, strict=True)
    }


def assert_tshark_reads(capture):
    payloads = [bytes(packet[UDP].payload) for packet in rdpcap(str(capture))]
    results, problems = Decoder().decode(PacketBatch.of(payloads), 0)
    assert problems.tolist() == []
    ours, theirs = values([batch for result in results for batch in result.flows]), tshark_values(capture)
    assert {row.element for row in FIELDS} == set(TSHARK)
    assert set(TSHARK) <= set(ours), set(TSHARK) - set(ours)  # the packets show all of them
    for number, part in enumerate(("icmpTypeIPv6", "icmpCodeIPv6")):  # tshark shows icmpTypeCodeIPv6 as these two
        for value, count in ours["icmpTypeCodeIPv6"].items():
            ours[part][value.to_bytes(2, "big")[number]] += count
    del ours["icmpTypeCodeIPv6"]
    unknown = Counter(theirs["enterprise_private_entry"])
    together = {}
    for name, seen in ours.items():
        if TSHARK.get(name) == "":
            width = {"tcpMaximumSegmentSize": 2, "ipv6ExtensionHeadersFull": 4}[name]
            octets = {v if isinstance(v, str) else v.to_bytes(width, "big").hex() for v in seen}
            assert octets <= set(unknown), name
        elif name in TSHARK:
            together.setdefault(TSHARK[name], [name, Counter()])[1].update(seen)
    for name, (element, seen) in together.items():
        assert Counter(read(element, text) for text in theirs[name]) == seen, element


def assert_nfdump_reads(rows, ours):
    for name, elements in NFDUMP.items():
        seen = Counter(row[name] for row in rows if name in row)
        wanted = sum((ours[element] for element in elements), Counter())
        if name in ("first", "last"):
            wanted = Counter({of_nfdump(ms): count for ms, count in wanted.items()})
        if name.startswith("mpls"):
            seen = Counter({int(text.split("-")[0]): count for text, count in seen.items()})
            assert seen, name
            wanted &= seen  # a stack of one label it does not always show
        if name.endswith("6_addr"):
            seen = Counter({str(ipaddress.ip_address(text)): count for text, count in seen.items()})
        for nothing in (0, "0", "", "00:00:00:00:00:00"):
            seen.pop(nothing, None), wanted.pop(nothing, None)
        assert seen == wanted, name


def of_nfdump(ms):
    return datetime.fromtimestamp(ms / 1000).isoformat(timespec="milliseconds")


def nfacctd(stack, folder):
    """Ends it and returns (packets, octets) of all that it was told."""
    lines = [f"nfacctd_ip: {NFACCTD}", f"nfacctd_port: {PORT}", "plugins: print", "aggregate: proto, src_mac"]
    lines += [
        "daemonize: false",
        f"print_output_file: {folder}/accounts",
        "print_output: json",
        "print_refresh_time: 1",
    ]
    (folder / "nfacctd.conf").write_text("\n".join([*lines, "print_output_file_append: true"]) + "\n")
    command = ["nsenter", f"--net=/run/netns/{THERE}", "nfacctd", "-f", str(folder / "nfacctd.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)

    def end():
        process.send_signal(signal.SIGINT)
        process.wait()
        lines = [json.loads(line) for line in (folder / "accounts").read_text().splitlines()]
        return [sum(line[name] for line in lines) for name in ("packets", "bytes")]

    return end


def queues():
    """Octets that wait in each socket of the collectors' port."""
    lines = demo.run("nsenter", f"--net=/run/netns/{THERE}", "ss", "-lunH").splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[3].endswith(f":{PORT}")]


def test_others_read_every_field_and_agree_on_the_totals(stack, sender, tmp_path):
    for host in (NFACCTD, OURS):
        demo.run("ip", "-n", THERE, "address", "add", f"{host}/24", "dev", "mgmt")
    capture, folder = tmp_path / "export.pcap", tmp_path / "nfcapd"
    folder.mkdir()
    tcpdump = f"tcpdump --immediate-mode -i mgmt -U -w {capture} udp and dst port {SAMPLED}"
    ends = [exports.start(stack, *tcpdump.split())]
    ends.append(exports.start(stack, *f"nfcapd -w {folder} -p {PORT} -b {NFCAPD} -t 3600".split()))
    end_nfacctd = nfacctd(stack, tmp_path)
    ours = exports.Collector(stack, OURS)
    exports.listen(stack, THERE, COLLECTOR, [SAMPLED])
    exports.wait_until(lambda: len(queues()) == 3)
    exports.wait_until(capture.exists)
    all_kinds = ("--key", "ether", "--tunnels")
    plain_one = exports.export(stack, "-H", NFACCTD, "-H", OURS, *all_kinds)
    sampled = exports.export(stack, "-p", str(SAMPLED), "--sampling-packet-interval", "2", "--no-metrics", *all_kinds)
    demo.link_up()
    frames = [*packets.FRAMES.values(), *packets.TUNNEL_FRAMES.values()]
    frames = [frame for frame in frames if packets.oracle(frame) != Statistic.NOT_IP]  # nfdump leaves them out
    with demo.inside(THERE):
        sender(list(flows_of_their_own(frames)), "wire").send()
    exports.talk(stack, HERE, "192.0.2.2", [9]).send(exports.payloads(10, 10))
    for program in (plain_one, sampled):
        program.end()
    ours.end()
    metered = exports.summary(plain_one)["metered"][:2]
    exports.wait_until(lambda: not any(queues()))
    for end in ends:
        end()
    found = values(ours.batches)
    assert [
        sum(n * count for n, count in found[name].items()) for name in ("packetDeltaCount", "octetDeltaCount")
    ] == metered
    assert list(exports.nfdump_totals(folder)) == metered
    assert end_nfacctd() == metered
    rows = json.loads(demo.run("nfdump", "-R", str(folder), "-o", "json"))
    assert_nfdump_reads([row for row in rows if row["type"] == "FLOW"], found)
    assert_tshark_reads(capture)
