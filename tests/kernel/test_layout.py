"""NumPy's dtypes and enums against what a compiler makes of flow.h and gate.h."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from pyflowx.kernel import gate_layout
from pyflowx.kernel.compiler import source_folder
from pyflowx.kernel.layout import (
    CATCH_ALL_PROBES,
    KEY_LEVELS,
    NEAR_PROBES,
    OWN_EXPORT_DTYPE,
    RECENT,
    STATISTIC_DTYPE,
    TABLE_STATE_DTYPE,
    TABLE_WORDS,
    MapSlot,
    NumberSlot,
    Statistic,
    Tunnel,
    dtypes,
    flow_dtype,
)

STRUCTS = ("flow_key", "flow_value", "flow", "table_state", "statistic", "own_export")
GATE_STRUCTS = {
    "gate_config": gate_layout.CONFIG_DTYPE,
    "gate_destination": gate_layout.DESTINATION_DTYPE,
    "gate_prefix4": gate_layout.PREFIX4_DTYPE,
    "gate_prefix6": gate_layout.PREFIX6_DTYPE,
    "gate_exporter": gate_layout.EXPORTER_DTYPE,
    "gate_refused": gate_layout.REFUSED_DTYPE,
}
LEVELS = {"ether": ["-DKEY_ETHER"], "vlan": []}


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    return request.param


def compiled_types(folder, uses, header="flow.h", flags=()):
    """BTF's types of a header by id."""
    (folder / "uses.c").write_text(f'#include "{header}"\n{uses}\n')
    machine = subprocess.run(["gcc", "-dumpmachine"], check=True, capture_output=True, text=True).stdout.strip()
    flags = ["-g", "-O2", f"-I{source_folder()}", f"-I/usr/include/{machine}", *flags]
    subprocess.run(["clang", "-target", "bpf", *flags, "-c", "uses.c", "-o", "uses.o"], check=True, cwd=folder)
    command = ["bpftool", "-j", "btf", "dump", "file", "uses.o"]
    dump = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    return {entry["id"]: entry for entry in json.loads(dump.stdout)["types"]}


@pytest.fixture(scope="module")
def types(tmp_path_factory, level):
    uses = "".join(f"struct {name} a_{name};" for name in STRUCTS)
    uses += "enum statistic_slot a_slot; enum map_slot a_map; enum number_slot a_number;"
    uses += "enum flow_direction a_direction; enum flow_tunnel a_tunnel; enum key_level a_level;"
    return compiled_types(tmp_path_factory.mktemp("btf"), uses, flags=LEVELS[level])


@pytest.fixture(scope="module")
def gate_types(tmp_path_factory):
    uses = "".join(f"struct {name} a_{name};" for name in GATE_STRUCTS)
    uses += "enum gate_outcome an_outcome; enum gate_map a_map;"
    return compiled_types(tmp_path_factory.mktemp("btf"), uses, "gate.h")


def named(types, kind, name):
    return next(entry for entry in types.values() if entry["kind"] == kind and entry["name"] == name)


def size(types, id):
    entry = types[id]
    if entry["kind"] == "ARRAY":
        return entry["nr_elems"] * size(types, entry["type_id"])
    return entry["size"] if "size" in entry else size(types, entry["type_id"])


def check_members(types, name, dtype):
    struct = named(types, "STRUCT", name)
    members = {m["name"]: (m["bits_offset"] // 8, size(types, m["type_id"])) for m in struct["members"]}
    ours = {field: (dtype.fields[field][1], dtype.fields[field][0].itemsize) for field in dtype.names}
    assert members == ours
    assert struct["size"] == dtype.itemsize
    assert sum(length for _, length in members.values()) == dtype.itemsize  # no hidden padding


@pytest.mark.parametrize("name", STRUCTS)
def test_every_member_is_where_numpy_looks_for_it(types, level, name):
    found = *dtypes(level), flow_dtype(*dtypes(level)), TABLE_STATE_DTYPE, STATISTIC_DTYPE, OWN_EXPORT_DTYPE
    dtype = dict(zip(STRUCTS, found, strict=True))[name]
    check_members(types, name, dtype)


@pytest.mark.parametrize("name", GATE_STRUCTS)
def test_the_gates_members_too(gate_types, name):
    check_members(gate_types, name, GATE_STRUCTS[name])


def test_the_tables_numbers_are_the_same():
    texts = "".join((source_folder() / name).read_text() for name in ("table.h", "recent.h"))
    defined = dict(re.findall(r"^#define (\w+)\s+(\d+)\b", texts, re.MULTILINE))
    ours = {
        "NEAR_PROBES": NEAR_PROBES,
        "CATCH_ALL_PROBES": CATCH_ALL_PROBES,
        "TABLE_WORDS": TABLE_WORDS,
        "RECENT": RECENT,
    }
    assert {name: int(defined[name]) for name in ours} == ours


@pytest.mark.parametrize("key_level", KEY_LEVELS)
def test_a_flow_is_small(key_level):
    key, value = dtypes(key_level)
    assert key.itemsize % 8 == value.itemsize % 8 == 0
    assert flow_dtype(key, value).itemsize == (168 if key_level == "ether" else 160)
    assert set(key.names) & set(value.names) == set()


def values_of(types, name, prefix):
    return {v["name"].removeprefix(prefix): v["val"] for v in named(types, "ENUM", name)["values"]}


def test_the_gates_enums_are_the_same(gate_types):
    outcomes = values_of(gate_types, "gate_outcome", "GATE_")
    assert outcomes.pop("OUTCOMES") == outcomes.pop("STATELESS") == gate_layout.STATELESS
    assert outcomes.pop("SLOTS") == gate_layout.SLOTS
    assert outcomes == {outcome.name: outcome for outcome in gate_layout.Outcome}
    assert values_of(gate_types, "gate_map", "GATE_") == {slot.name: slot for slot in gate_layout.GateMap}


def test_the_enums_are_the_same(types):
    def values(name, prefix):
        return values_of(types, name, prefix)

    statistics = values("statistic_slot", "STATISTIC_")
    assert statistics.pop("SLOTS") == len(Statistic)
    assert statistics == {slot.name: slot for slot in Statistic}
    assert values("map_slot", "MAP_") == {slot.name: slot for slot in MapSlot}
    assert values("number_slot", "NUMBER_") == {slot.name: slot for slot in NumberSlot}
    assert values("flow_tunnel", "TUNNEL_") == {kind.name: kind for kind in Tunnel}
    assert values("key_level", "KEY_LEVEL_") == {name.upper(): number for number, name in enumerate(KEY_LEVELS)}
    assert values("flow_direction", "DIRECTION_") == {"INGRESS": 0, "EGRESS": 1}  # IANA flowDirection
