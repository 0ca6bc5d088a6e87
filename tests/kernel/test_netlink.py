"""Our part of rtnetlink against pyroute2, which knows all of it: each reads what the other has done."""

from __future__ import annotations

import ipaddress
import struct

import pyroute2
import pytest

from pyflowx.kernel import Meter, MeterConfig, syscall
from pyflowx.kernel.links import Links, describe
from pyflowx.kernel.syscall import Program

pytestmark = pytest.mark.kernel
PASS = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 2; exit
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3


@pytest.fixture
def route(wire):
    """pyroute2 in the metered namespace."""
    with pyroute2.IPRoute(netns=wire.near.name) as route:
        yield route


def filters(route, index, parent):
    return [each for each in route.get_filters(index=index, parent=parent) if each.get_attr("TCA_OPTIONS")]


def test_it_finds_what_we_attach(wire, route, no_tcx):
    index = route.link_lookup(ifname="v")[0]
    with wire.near, Meter(MeterConfig(["v"], hook="xdp", max_flows=64)) as meter:
        meter.attach()
        xdp = route.get_links(index)[0].get_attr("IFLA_XDP")
        assert xdp.get_attr("IFLA_XDP_DRV_PROG_ID") == meter.run_statistics()["xdp"].id
        assert filters(route, index, INGRESS) == []
        (egress,) = filters(route, index, EGRESS)
        options = egress.get_attr("TCA_OPTIONS")
        assert options.get_attr("TCA_BPF_NAME") == f"pyflowx/{meter.run_statistics()['egress'].id}"
        assert options.get_attr("TCA_BPF_FLAGS") == 1  # direct action
    xdp = route.get_links(index)[0].get_attr("IFLA_XDP")
    assert not xdp.get_attr("IFLA_XDP_ATTACHED") and filters(route, index, EGRESS) == []


def test_we_find_what_it_attaches(wire, route):
    index = route.link_lookup(ifname="v")[0]
    with Program.load(syscall.PROG_TYPE_XDP, "stranger", PASS, {}) as program, wire.near, Links() as links:
        assert links.xdp(index) is None
        route.link("set", index=index, xdp_fd=program.fd)
        attached = links.xdp(index)
        assert attached is not None and attached[1] == program.info().id
        assert describe(attached[1]).endswith("(stranger)")
        route.link("set", index=index, xdp_fd=-1)
        assert links.xdp(index) is None


def test_both_see_the_same_interfaces_and_addresses(wire, route):
    route.link("add", ifname="other", kind="bridge")
    with wire.near, Links() as links:
        assert links.names() == {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        texts = [each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS") for each in route.get_addr()]
        assert sorted(links.addresses()) == sorted(map(octets, texts))


def octets(text):
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
