"""Tables of ``--enrich``: ``python tests/bench/enrich.py [prefixes]``.

For each kind of table, in a process of its own: seconds to load it (wall and CPU, from the file), peak memory of that
process, look-ups a second of random addresses on one core (the index alone, and with two fields taken), in batches of
20,000 rows as a loaded collector has them. Bars with 1 M prefixes: 15 M IPv4 and 3 M IPv6 look-ups/s; loaded in 1 s
and 300 MB. What a collector takes more with tables is in collect.py.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "enrich"))
import mmdb_writer

from pyflowx.enrich.options import parse_enrich
from pyflowx.enrich.table import Enrichment, load_table
from pyflowx.fill import CommonColumn
from pyflowx.reload import FLOW_COLUMNS

BATCH, ROUNDS = 20_000, 200
MMDB_SHARE = 5  # the writer of MMDB files is slow: a fifth of the prefixes
LENGTHS4 = [8, 12, 16, 18, 19, 20, 21, 22, 23, 24, 24, 24, 24, 24, 24, 24, 28, 32]
LENGTHS6 = [32, 36, 40, 44, 48, 48, 48, 48, 56, 64]


def prefixes4(n: int, rng: np.random.Generator) -> Iterator[str]:
    lengths = rng.choice(LENGTHS4, n)
    values = rng.integers(1 << 24, 224 << 24, n) >> (32 - lengths) << (32 - lengths)
    for value, length in zip(values.tolist(), lengths.tolist(), strict=True):
        yield f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}/{length}"


def prefixes6(n: int, rng: np.random.Generator) -> Iterator[str]:
    lengths = rng.choice(LENGTHS6, n)
    upper = rng.choice([0x2001, 0x2400, 0x2600, 0x2A00, 0x2A02], n) << 48 | rng.integers(0, 1 << 48, n)
    for value, length in zip((upper >> (64 - lengths) << (64 - lengths)).tolist(), lengths.tolist(), strict=True):
        yield f"{ipaddress.IPv6Address(value << 64)}/{length}"


def write_tables(folder: Path, n: int) -> None:
    rng = np.random.default_rng(1)
    four, six = list(prefixes4(n, rng)), list(prefixes6(n, rng))
    asns = (rng.zipf(1.3, n) % 70_000).tolist()
    for name, rows in (("ipv4", four), ("ipv6", six)):
        lines = (f'{row},{asn},"Organisation, number {asn}"\n' for row, asn in zip(rows, asns, strict=True))
        (folder / f"{name}.csv").write_text("prefix,asn,org\n" + "".join(lines))
    lines = (f"{i // 1000},{i % 1000},{i % 977},name {i}\n" for i in range(n))
    (folder / "exact.csv").write_text("in_if,out_if,asn,org\n" + "".join(lines))
    write_mmdb(folder / "geo.mmdb", n // MMDB_SHARE)


def write_mmdb(path: Path, n: int) -> None:
    """So many prefixes, a fifth of them of IPv6."""
    rng = np.random.default_rng(3)
    prefixes = [*prefixes4(n * 4 // 5, rng), *prefixes6(n // 5, rng)]
    records = (
        {"asn": asn, "org": f"Organisation, number {asn}", "unused": {"a": [1, 2, 3]}}
        for asn in (rng.zipf(1.3, n) % 70_000).tolist()
    )
    path.write_bytes(mmdb_writer.write(zip(prefixes, records, strict=False), 6, 28, True))


def batches(make: Callable[[np.random.Generator], CommonColumn]) -> list[CommonColumn]:
    rng = np.random.default_rng(2)
    return [make(rng) for _ in range(20)]


def ipv4(rng: np.random.Generator) -> CommonColumn:
    return CommonColumn("address", rng.integers(1 << 24, 224 << 24, BATCH, dtype=np.uint32))


def ipv6(rng: np.random.Generator) -> CommonColumn:
    upper = rng.choice([0x2001, 0x2400, 0x2600, 0x2A00, 0x2A02], BATCH) << 48 | rng.integers(0, 1 << 48, BATCH)
    pairs = np.stack([upper, rng.integers(0, 1 << 62, BATCH)], axis=1)
    return CommonColumn("address", pairs.astype(">u8").view(np.uint8).reshape(BATCH, 16))


def interface(rng: np.random.Generator) -> CommonColumn:
    return CommonColumn("u32", rng.integers(0, 1000, BATCH).astype(np.uint32))


CASES = {
    "ipv4.csv": ("key=dst_addr", [("IPv4", {"dst_addr": ipv4})]),
    "ipv6.csv": ("key=dst_addr", [("IPv6", {"dst_addr": ipv6})]),
    "geo.mmdb": ("key=dst_addr", [("IPv4", {"dst_addr": ipv4}), ("IPv6", {"dst_addr": ipv6})]),
    "exact.csv": ("type=exact,key=in_if;out_if", [("pairs of integers", {"in_if": interface, "out_if": interface})]),
}


def rate(step: Callable[[int], object]) -> float:
    """Millions of rows a second."""
    for i in range(20):
        step(i)
    begin = time.process_time()
    for i in range(ROUNDS):
        step(i % 20)
    return ROUNDS * BATCH / (time.process_time() - begin) / 1e6


def memory(name: str) -> int:
    """MiB of this process, from /proc (what getrusage says was inherited from the parent)."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10


def case(path: Path) -> None:
    option, asked = CASES[path.name]
    spec = parse_enrich(f"source={path},{option},fields=asn:x_asn;org:x_org", FLOW_COLUMNS)
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    table = load_table(spec, path.read_bytes(), FLOW_COLUMNS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{path.name:<10} {table.rows:>9,} rows loaded in {wall:.2f} s (CPU {cpu:.2f} s), "
        f"peak {memory('VmHWM')} MiB, kept {memory('VmRSS')} MiB ({before} MiB before)"
    )
    enrichment = Enrichment(spec, table)
    for name, makers in asked:
        columns = [dict(zip(makers, row, strict=True)) for row in zip(*map(batches, makers.values()), strict=True)]
        keys = [list(row.values()) for row in columns]
        find, take = rate(lambda i, k=keys: table.find(k[i])), rate(lambda i, c=columns: enrichment.apply(c[i]))
        print(f"           {name}: {find:.1f} M look-ups/s, {take:.1f} M/s with two fields")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].isdigit():
        case(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            write_tables(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
            for path in CASES:
                subprocess.run([sys.executable, __file__, str(Path(name, path))], check=True)
