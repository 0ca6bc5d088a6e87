"""The flow table against a plain dict that follows the same rules one flow at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyflowx import flowtable
from pyflowx.flowtable import KEEP, Ending, EndReason, FlowRecords, FlowTable

KEY = np.dtype([("src", "u1", (16,)), ("port", "u2"), ("pad", "u1", (6,))])
VALUE = np.dtype(
    [
        ("packets", "u8"),
        ("octets", "u8"),
        ("first_ns", "u8"),
        ("last_ns", "u8"),
        ("flags", "u2"),
        ("ttl_min", "u1"),
        ("ttl_max", "u1"),
        ("kind", "u1"),
        ("pad", "u1", (3,)),
    ]
)
MERGES = {
    "packets": np.add,
    "octets": np.add,
    "first_ns": np.minimum,
    "last_ns": np.maximum,
    "flags": np.bitwise_or,
    "ttl_min": np.minimum,
    "ttl_max": np.maximum,
    "kind": KEEP,
}
FIELDS = tuple(MERGES)
ACTIVE, IDLE = 60, 15


def table(max_flows=1000, seed=7):
    return FlowTable(KEY, VALUE, MERGES, active_ns=ACTIVE, idle_ns=IDLE, max_flows=max_flows, seed=seed)


def deltas(rows):
    """(key number, packets, octets, first, last, flags, ttl, kind) -> keys, values."""
    keys, values = np.zeros(len(rows), KEY), np.zeros(len(rows), VALUE)
    for key, value, (number, packets, octets, first, last, flags, ttl, kind) in zip(keys, values, rows, strict=True):
        key["src"][15], key["port"] = number, number
        for name, x in zip(FIELDS, (packets, octets, first, last, flags, ttl, ttl, kind), strict=True):
            value[name] = x
    return keys, values


def listed(records: FlowRecords):
    """As (key number, values..., reason), in a fixed order."""
    rows = zip(records.keys, records.values, records.reason, strict=True)
    return sorted((int(k["port"]), *(int(v[name]) for name in FIELDS), int(r)) for k, v, r in rows)


def side_by_side(keys, values):
    """The same keys and values, as a drain has them: with something before each in memory."""
    flows = np.zeros(len(keys), [("before", "u8"), ("key", KEY), ("value", VALUE)])
    flows["before"], flows["key"], flows["value"] = 7, keys, values
    return flows["key"], flows["value"]


@pytest.fixture(params=[1, 3, flowtable.SLICE], scope="module")
def slices(request):
    """However many deltas are merged at once: those of a key meet where one slice ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flowtable, "SLICE", request.param)
        yield


class Model:
    """One dict entry a flow: the rules of MERGES by hand."""

    def __init__(self):
        self.flows = {}

    def update(self, rows):
        for number, packets, octets, first, last, flags, ttl, kind in sorted(rows, key=lambda row: row[3]):
            old = self.flows.get(number)
            if old is None:
                self.flows[number] = (packets, octets, first, last, flags, ttl, ttl, kind)
            else:
                p, o, f, e, g, low, high, k = old
                merged = (p + packets, o + octets, min(f, first), max(e, last))
                self.flows[number] = (*merged, g | flags, min(low, ttl), max(high, ttl), k)

    def expire(self, now):
        ended = []
        for number, value in list(self.flows.items()):
            first, last = value[2], value[3]
            if now - last >= IDLE:
                ended.append((number, *value, 1))
            elif now - first >= ACTIVE:
                ended.append((number, *value, 2))
            else:
                continue
            del self.flows[number]
        return sorted(ended)


delta = st.tuples(
    st.integers(0, 12),
    st.integers(0, 2**40),
    st.integers(0, 2**50),
    st.integers(0, 120),
    st.integers(0, 120),
    st.integers(0, 0xFFF),
    st.integers(0, 255),
    st.integers(0, 255),
)
ticks = st.lists(st.tuples(st.lists(delta, max_size=20), st.integers(0, 200)), max_size=8)


@given(ticks, st.booleans())
@example([([(1, 1, 1, 0, 0, 0, 1, 1)], 15), ([(1, 1, 1, 16, 74, 0, 1, 1)], 76)], False)
def test_every_tick_is_what_one_flow_at_a_time_gives(slices, steps, collide):
    ours, model = table(), Model()
    if collide:  # every key at one of few places of the index: full keys must tell them apart
        hashed, few = ours._hash, np.uint64(1 << 63)
        ours._hash = lambda words: hashed(words) & few
    for number, (rows, now) in enumerate(steps):
        keys, values = deltas(rows)
        assert len(ours.update(*(side_by_side(keys, values) if number % 2 else (keys, values)))) == 0
        model.update(rows)
        assert len(ours) == len(model.flows)
        assert listed(ours.expire(now)) == model.expire(now)
    assert listed(ours.flush()) == sorted((n, *v, 4) for n, v in model.flows.items())
    assert len(ours) == 0
    assert len(ours.flush()) == 0


@given(ticks, st.integers(1, 6))
def test_a_full_table_ends_the_longest_idle_and_loses_nothing(slices, steps, max_flows):
    ours = table(max_flows)
    sent, got = Counter(), Counter()
    for rows, now in steps:
        for number, packets, octets, *_ in rows:
            sent[number, "packets"] += packets
            sent[number, "octets"] += octets
        for records in (ours.update(*deltas(rows)), ours.expire(now)):
            count(got, records)
        assert len(ours) <= max_flows
    count(got, ours.flush())
    assert +got == +sent


def count(totals, records):
    for key, value in zip(records.keys, records.values, strict=True):
        totals[int(key["port"]), "packets"] += int(value["packets"])
        totals[int(key["port"]), "octets"] += int(value["octets"])


@given(st.permutations(range(9)), st.integers(1, 8))
def test_what_leaves_a_full_table_is_older_than_what_stays(last, max_flows):
    ours = table(max_flows)
    for number, seen in enumerate(last[:max_flows]):
        ours.update(*deltas([(number, 1, 1, 0, seen, 0, 1, 0)]))
    ended = ours.update(*deltas([(max_flows, 1, 1, 0, last[max_flows], 0, 1, 0)]))
    assert ended.reason.tolist() == [EndReason.LACK_OF_RESOURCES]
    assert ended.values["last_ns"].tolist() == [min(last[: max_flows + 1])]


@pytest.mark.parametrize(
    ("first", "last", "now", "reason"),
    [
        (0, 5, 19, None),
        (0, 5, 20, EndReason.IDLE_TIMEOUT),
        (0, 50, 59, None),
        (0, 50, 60, EndReason.ACTIVE_TIMEOUT),
        (0, 45, 60, EndReason.IDLE_TIMEOUT),  # both have passed
        (100, 100, 0, None),  # a packet that came after the tick's time was taken
    ],
)
def test_timeouts_at_their_exact_nanosecond(first, last, now, reason):
    ours = table()
    ours.update(*deltas([(1, 1, 1, first, last, 0, 1, 0)]))
    assert ours.expire(now).reason.tolist() == ([] if reason is None else [reason])


def test_a_long_flow_is_cut_and_goes_on():
    ours, total = table(), 0
    for second in range(200):
        ours.update(*deltas([(1, 10, 1000, second, second, 0, 64, 0)]))
        cut = ours.expire(second)
        if len(cut):
            assert (cut.reason.tolist(), cut.values["first_ns"][0] % 61) == ([EndReason.ACTIVE_TIMEOUT], 0)
        total += int(cut.values["packets"].sum())
    last = ours.flush()
    assert last.values["first_ns"].tolist() == [183]
    assert total + int(last.values["packets"].sum()) == 2000


def test_rows_are_used_again():
    ours = table(max_flows=50)
    for tick in range(500):
        ours.update(*deltas([(number, 1, 1, tick, tick, 0, 1, 0) for number in range(tick % 7, tick % 7 + 40)]))
        assert len(ours.flush()) == 40
    assert ours._free_count == len(ours._free) == 100
    assert sorted(ours._free.tolist()) == list(range(100))


def test_many_flows_bit_exact():
    """200,000 flows in ten ticks; the result of every flow by itself, from one sum over all deltas."""
    rng = np.random.default_rng(3)
    n, ours = 200_000, table(max_flows=1 << 18, seed=None)
    packets, octets, flags = np.zeros(n, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.uint16)
    for tick in range(10):
        some = rng.choice(n, 60_000, replace=False)
        keys, values = np.zeros(len(some), KEY), np.zeros(len(some), VALUE)
        keys["src"] = some.astype("<u8")[:, None].view(np.uint8).repeat(2, axis=1)
        values["packets"] = rng.integers(1, 1 << 50, len(some))
        values["octets"] = rng.integers(0, 1 << 60, len(some), np.uint64)
        values["flags"] = rng.integers(0, 1 << 12, len(some))
        values["first_ns"] = values["last_ns"] = tick
        keys, values = side_by_side(keys, values)
        packets[some] += values["packets"]
        octets[some] += values["octets"]
        flags[some] |= values["flags"]
        ours.update(keys, values)
    out = ours.flush()
    number = np.ascontiguousarray(out.keys["src"][:, ::2]).view("<u8")[:, 0]
    assert len(np.unique(number)) == len(number) == np.count_nonzero(packets)
    assert np.array_equal(out.values["packets"], packets[number])
    assert np.array_equal(out.values["octets"], octets[number])
    assert np.array_equal(out.values["flags"], flags[number])


def test_a_seed_changes_the_hash_not_the_result():
    keys, values = deltas([(number, number, 1, 0, 0, 0, 1, 0) for number in range(100)])
    one, two = table(seed=1), table(seed=2)
    one.update(keys, values)
    two.update(keys, values)
    assert not np.array_equal(one._index, two._index)
    assert listed(one.flush()) == listed(two.flush())


@pytest.mark.parametrize("max_flows", [0, 1 << 26])
def test_sizes_that_cannot_be(max_flows):
    with pytest.raises(ValueError, match="max_flows"):
        table(max_flows)
    with pytest.raises(ValueError, match="8 octets"):
        FlowTable([("a", "u4")], VALUE, MERGES, active_ns=1, idle_ns=1, max_flows=1)


QUIET = 3
SAYS_ENDED, MAY_HAVE = 4, 5  # of flags: the first means that it has, either that it is worth a look


def ended(keys, values, now_ns):
    assert (values["flags"] & MAY_HAVE != 0).all()  # nobody else is looked at
    return (values["flags"] & SAYS_ENDED != 0) & (values["last_ns"].astype(np.int64) <= now_ns - QUIET)


@given(ticks)
def test_flows_that_say_so_end_when_they_are_quiet(steps):
    ending = Ending("flags", MAY_HAVE, ended)
    ours = FlowTable(KEY, VALUE, MERGES, active_ns=ACTIVE, idle_ns=IDLE, max_flows=1000, ending=ending)
    model = Model()
    for rows, now in steps:
        ours.update(*deltas(rows))
        model.update(rows)
        wanted = []
        for number, value in list(model.flows.items()):
            if value[4] & SAYS_ENDED and now - value[3] >= QUIET:
                wanted.append((number, *model.flows.pop(number), 3))
        assert listed(ours.expire(now)) == sorted(wanted + model.expire(now))
    assert len(ours) == len(model.flows)


@given(st.lists(st.lists(delta, max_size=20), max_size=6))
def test_the_first_value_with_a_count_stays(slices, steps):
    """As in biflows, where each way has its fields, and may have been silent so far."""
    ours = FlowTable(KEY, VALUE, MERGES | {"kind": "packets"}, active_ns=ACTIVE, idle_ns=IDLE, max_flows=1000)
    kinds = {}
    for rows in steps:
        rows = [(number, packets % 2, *rest) for number, packets, *rest in rows]
        for number, packets, *_, kind in sorted(rows, key=lambda row: row[3]):
            if packets:
                kinds.setdefault(number, kind)
        ours.update(*deltas(rows))
    found = {row[0]: row[-2] for row in listed(ours.flush()) if row[1]}
    assert found == kinds


def test_rows_are_taken_by_index_mask_and_slice():
    ours = table()
    ours.update(*deltas([(number, 1, 1, 0, 0, 0, 1, 1) for number in range(4)]))
    records = ours.flush()
    assert not records.keys.flags.c_contiguous  # as they are in the table, between other columns
    whole = listed(records)
    assert listed(records.take(np.array([0, 1, 2, 3]))) == whole
    assert listed(records.take(np.ones(4, bool))) == whole
    assert listed(records.take(slice(0, 2))) == listed(records.take(np.array([0, 1])))
    assert len(records.take(slice(0, 0))) == 0
