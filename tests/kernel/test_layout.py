"""NumPy's dtypes and enums against what a compiler makes of flow.h."""

from __future__ import annotations

import json
import subprocess

import pytest

from pyflowx.kernel.compiler import source_folder
from pyflowx.kernel.layout import (
    KEY_LEVELS,
    OWN_EXPORT_DTYPE,
    STATISTIC_DTYPE,
    MapSlot,
    Statistic,
    Tunnel,
    dtypes,
)

STRUCTS = ("flow_key", "flow_value", "statistic", "own_export")
LEVELS = {"ether": ["-DKEY_ETHER"], "vlan": []}


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(scope="module")
def types(tmp_path_factory, level):
    """BTF's types of flow.h by id."""
    folder = tmp_path_factory.mktemp("btf")
    uses = "".join(f"struct {name} a_{name};" for name in STRUCTS)
    uses += "enum statistic_slot a_slot; enum map_slot a_map; enum flow_direction a_direction;"
    uses += "enum flow_tunnel a_tunnel; enum key_level a_level;"
    (folder / "flow.c").write_text(f'#include "flow.h"\n{uses}\n')
    machine = subprocess.run(["gcc", "-dumpmachine"], check=True, capture_output=True, text=True).stdout.strip()
    flags = ["-g", "-O2", f"-I{source_folder()}", f"-I/usr/include/{machine}", *LEVELS[level]]
    subprocess.run(["clang", "-target", "bpf", *flags, "-c", "flow.c", "-o", "flow.o"], check=True, cwd=folder)
    command = ["bpftool", "-j", "btf", "dump", "file", "flow.o"]
    dump = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    return {entry["id"]: entry for entry in json.loads(dump.stdout)["types"]}


def named(types, kind, name):
    return next(entry for entry in types.values() if entry["kind"] == kind and entry["name"] == name)


def size(types, id):
    entry = types[id]
    if entry["kind"] == "ARRAY":
        return entry["nr_elems"] * size(types, entry["type_id"])
    return entry["size"] if "size" in entry else size(types, entry["type_id"])


@pytest.mark.parametrize("name", STRUCTS)
def test_every_member_is_where_numpy_looks_for_it(types, level, name):
    dtype = dict(zip(STRUCTS, (*dtypes(level), STATISTIC_DTYPE, OWN_EXPORT_DTYPE), strict=True))[name]
    struct = named(types, "STRUCT", name)
    members = {m["name"]: (m["bits_offset"] // 8, size(types, m["type_id"])) for m in struct["members"]}
    ours = {field: (dtype.fields[field][1], dtype.fields[field][0].itemsize) for field in dtype.names}
    assert members == ours
    assert struct["size"] == dtype.itemsize
    assert sum(length for _, length in members.values()) == dtype.itemsize  # no hidden padding


@pytest.mark.parametrize("key_level", KEY_LEVELS)
def test_a_flow_is_small(key_level):
    key, value = dtypes(key_level)
    assert key.itemsize % 8 == value.itemsize % 8 == 0
    assert key.itemsize + value.itemsize == 160
    assert set(key.names) & set(value.names) == set()


def test_the_enums_are_the_same(types):
    def values(name, prefix):
        return {v["name"].removeprefix(prefix): v["val"] for v in named(types, "ENUM", name)["values"]}

    statistics = values("statistic_slot", "STATISTIC_")
    assert statistics.pop("SLOTS") == len(Statistic)
    assert statistics == {slot.name: slot for slot in Statistic}
    assert values("map_slot", "MAP_") == {slot.name: slot for slot in MapSlot}
    assert values("flow_tunnel", "TUNNEL_") == {kind.name: kind for kind in Tunnel}
    assert values("key_level", "KEY_LEVEL_") == {name.upper(): number for number, name in enumerate(KEY_LEVELS)}
    assert values("flow_direction", "DIRECTION_") == {"INGRESS": 0, "EGRESS": 1}  # IANA flowDirection
