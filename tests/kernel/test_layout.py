"""NumPy's dtypes and enums against what a compiler makes of flow.h."""

from __future__ import annotations

import json
import subprocess

import pytest

from pyflowx.kernel.compiler import source_folder
from pyflowx.kernel.layout import KEY_DTYPE, OWN_EXPORT_DTYPE, STATISTIC_DTYPE, VALUE_DTYPE, MapSlot, Statistic

STRUCTS = {
    "flow_key": KEY_DTYPE,
    "flow_value": VALUE_DTYPE,
    "statistic": STATISTIC_DTYPE,
    "own_export": OWN_EXPORT_DTYPE,
}
PROGRAMS_OWN = {"jiffy"}  # members that user space leaves alone


@pytest.fixture(scope="module")
def types(tmp_path_factory):
    """BTF's types of flow.h by id."""
    folder = tmp_path_factory.mktemp("btf")
    uses = "".join(f"struct {name} a_{name};" for name in STRUCTS)
    uses += "enum statistic_slot a_slot; enum map_slot a_map; enum flow_direction a_direction;"
    (folder / "flow.c").write_text(f'#include "flow.h"\n{uses}\n')
    machine = subprocess.run(["gcc", "-dumpmachine"], check=True, capture_output=True, text=True).stdout.strip()
    includes = [f"-I{source_folder()}", f"-I/usr/include/{machine}"]
    subprocess.run(
        ["clang", "-target", "bpf", "-g", "-O2", *includes, "-c", "flow.c", "-o", "flow.o"], check=True, cwd=folder
    )
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
def test_every_member_is_where_numpy_looks_for_it(types, name):
    dtype, struct = STRUCTS[name], named(types, "STRUCT", name)
    members = {m["name"]: (m["bits_offset"] // 8, size(types, m["type_id"])) for m in struct["members"]}
    ours = {field: (dtype.fields[field][1], dtype.fields[field][0].itemsize) for field in dtype.names}
    assert {member: place for member, place in members.items() if member not in PROGRAMS_OWN} == ours
    assert struct["size"] == dtype.itemsize
    assert sum(length for _, length in members.values()) == dtype.itemsize  # no hidden padding


def test_a_flow_is_small():
    assert KEY_DTYPE.itemsize % 8 == VALUE_DTYPE.itemsize % 8 == 0
    assert KEY_DTYPE.itemsize + VALUE_DTYPE.itemsize <= 160


def test_the_enums_are_the_same(types):
    def values(name, prefix):
        return {v["name"].removeprefix(prefix): v["val"] for v in named(types, "ENUM", name)["values"]}

    statistics = values("statistic_slot", "STATISTIC_")
    assert statistics.pop("SLOTS") == len(Statistic)
    assert statistics == {slot.name: slot for slot in Statistic}
    assert values("map_slot", "MAP_") == {slot.name: slot for slot in MapSlot}
    assert values("flow_direction", "DIRECTION_") == {"INGRESS": 0, "EGRESS": 1}  # IANA flowDirection
