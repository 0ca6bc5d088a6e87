"""Templates that exporters have sent, and what follows from them (RFC 7011 §8, RFC 3954 §9).

The key of a Template is 24 octets: exporter address (not port: an exporter may change it), version,
Observation Domain, Template ID. Its first 22 are the Observation Domain's prefix.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyflowx.batch import V4_MAPPED
from pyflowx.decoded import TemplateRecord
from pyflowx.elements import DATA_TYPES, FieldSpecifier, InformationElement, Registry, default_registry
from pyflowx.errors import ConfigError
from pyflowx.wire.held import HeldData
from pyflowx.wire.records import Layout
from pyflowx.wire.sets import MAX_RECORD

PREFIX = 22
EXPORTER = 16
_KEY = struct.Struct(">16sHIH")


def template_key(exporter: bytes, version: int, observation_domain_id: int, template_id: int) -> bytes:
    return _KEY.pack(exporter, version, observation_domain_id, template_id)


def exporter_octets(text: str) -> bytes:
    """The 16 octets of an exporter's address."""
    import ipaddress  # only where a state file is asked for

    packed = ipaddress.ip_address(text).packed
    return packed if len(packed) == EXPORTER else V4_MAPPED + packed


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What peers may make us remember. Times in ns; ``timeout_ns`` 0: Templates never expire.

    ``fields`` counts those of distinct layouts (equal Templates share one), the others count each. Where a limit is
    reached, Templates that were not refreshed for ``stale_ns`` make room, and elements of exporters without others:
    else whoever filled it once, with forged addresses perhaps, would shut out all who come later.
    """

    templates_per_exporter: int = 4096
    templates: int = 262_144
    fields_per_template: int = 1024
    fields_per_exporter: int = 65_536
    fields: int = 1_048_576
    learned_per_exporter: int = 2048
    learned: int = 65_536
    held_octets_per_exporter: int = 1 << 20
    held_octets: int = 1 << 26
    held_age_ns: int = 300 * 10**9
    timeout_ns: int = 0
    stale_ns: int = 3600 * 10**9


@dataclass(slots=True)
class TemplateUse:
    """When a Template was first defined as it is now, when it was last sent, and how often it was sent again."""

    defined_ns: int
    refreshed_ns: int
    refreshes: int = 0


class Redefinition(NamedTuple):
    """A Template whose fields became others; ``key`` is its key."""

    key: bytes
    time_ns: int
    before: Layout
    after: Layout


_LOOKED_AT = 8  # exporters that may have to make room for a learned element
_REDEFINITIONS = 32  # that are remembered, for viewers


class _Exporter:
    __slots__ = ("fields", "keys")

    def __init__(self) -> None:
        self.fields = 0
        self.keys: dict[bytes, None] = {}


class TemplateStore:
    """Templates by key, bounded; plus held data (:attr:`held`) and learned elements (RFC 5610).

    :attr:`layouts` maps key to layout and is for reading only. Counters since the start: ``defined`` (new),
    ``redefined`` (other fields than before), ``withdrawn``, ``expired``, ``refused`` (a limit).
    """

    def __init__(self, registry: Registry | None = None, limits: TemplateLimits | None = None) -> None:
        self.registry = registry if registry is not None else default_registry()
        self.limits = limits or TemplateLimits()
        self.layouts: dict[bytes, Layout] = {}
        self.held = HeldData(self.limits.held_octets_per_exporter, self.limits.held_octets, self.limits.held_age_ns)
        self.defined = self.redefined = self.withdrawn = self.expired = self.refused = 0
        self.type_information = 0  # Templates of RFC 5610 records there are
        self.redefinitions: deque[Redefinition] = deque(maxlen=_REDEFINITIONS)
        self._refreshed: OrderedDict[bytes, TemplateUse] = OrderedDict()  # the one not refreshed for longest first
        self._interned: dict[tuple[tuple[FieldSpecifier, ...], int], Layout] = {}
        self._fields = 0
        self._exporters: dict[bytes, _Exporter] = {}
        self._domains: dict[tuple[bytes, bool], dict[bytes, None]] = {}  # (prefix, options?) -> keys
        self._learned: dict[bytes, dict[tuple[int, int], InformationElement]] = {}
        self._learned_count = self._learned_ever = 0

    def __len__(self) -> int:
        return len(self.layouts)

    @property
    def changes(self) -> int:
        """Grows with every change of what :meth:`dump` gives, but for the times at which Templates were refreshed."""
        gone = self.withdrawn + self.expired + self.refused  # a redefinition that was refused: the old one is gone too
        return self.defined + self.redefined + self._learned_ever + gone

    @property
    def learned(self) -> int:
        """How many elements exporters have described."""
        return self._learned_count

    def element(self, exporter: bytes, pen: int, id: int) -> InformationElement:
        """An element as this exporter means it: the registry's, else what it told us, else an octetArray."""
        learned = self._learned.get(exporter)
        if learned is not None:
            found = learned.get((pen, id))
            if found is not None:
                return found
        return self.registry.get(pen, id)

    def define(self, key: bytes, record: TemplateRecord, now_ns: int) -> bool:
        """Add, refresh or redefine; False where a limit forbids it (an older one with this key is then gone)."""
        old = self.layouts.get(key)
        if old is not None and old.fields == record.fields and old.scope_count == record.scope_count:
            use = self._refreshed[key]
            use.refreshed_ns, use.refreshes = now_ns, use.refreshes + 1
            self._refreshed.move_to_end(key)
            keys = self._exporters[key[:EXPORTER]].keys
            keys[key] = keys.pop(key)
            return True
        if old is not None:
            self._remove(key)
        if not self._make_room(key[:EXPORTER], record, now_ns):
            self.refused += 1
            return False
        self._add(key, record, now_ns)
        if old is None:
            self.defined += 1
        else:
            self.redefined += 1
            self.redefinitions.append(Redefinition(key, now_ns, old, self.layouts[key]))
        return True

    def use(self, key: bytes) -> TemplateUse | None:
        """For viewers, of any thread; None: there is no such Template (any more)."""
        return self._refreshed.get(key)

    def count_of(self, exporter: bytes) -> int:
        """How many Templates there are of an exporter."""
        mine = self._exporters.get(exporter)
        return 0 if mine is None else len(mine.keys)

    def withdraw(self, key: bytes, is_options: bool) -> bool:
        """Remove one Template; False where there is none of this kind."""
        layout = self.layouts.get(key)
        if layout is None or (layout.scope_count > 0) != is_options:
            return False
        self._remove(key)
        self.withdrawn += 1
        return True

    def domain(self, prefix: bytes, is_options: bool) -> list[bytes]:
        """The keys of the (Options) Templates of an Observation Domain."""
        return list(self._domains.get((prefix, is_options), ()))

    def expire(self, now_ns: int) -> None:
        """Drop Templates not refreshed within the timeout, and held data that is too old."""
        self.held.expire(now_ns)
        if not self.limits.timeout_ns:
            return
        while self._refreshed:
            key, use = next(iter(self._refreshed.items()))
            if now_ns - use.refreshed_ns <= self.limits.timeout_ns:
                return
            self._remove(key)
            self.expired += 1

    def learn(
        self, exporter: bytes, elements: Iterable[InformationElement], now_ns: int = 0
    ) -> list[tuple[bytes, Layout]]:
        """Take in elements that this exporter described (RFC 5610) and nobody else knows.

        Its Templates are read anew in their light: returns the keys of those that changed, with the layout
        before. A name that is taken, or is no name, does not count: the element keeps ``pen/id`` and gets the type.
        """
        mine = self._learned.get(exporter, {})
        new: dict[tuple[int, int], InformationElement] = {}
        for element in elements:
            identity = element.pen, element.id
            if self.registry.known(*identity) is not None or identity in mine or identity in new:
                continue
            full = len(mine) + len(new) >= self.limits.learned_per_exporter
            if full or not self._make_learned_room(exporter, len(new), now_ns):
                self.refused += 1
                break
            new[identity] = element
        if not new:
            return []
        self._learned[exporter] = {**mine, **self._with_safe_names(mine, new)}
        self._learned_count += len(new)
        self._learned_ever += len(new)
        return self._relearn(exporter, new.keys())

    def _make_learned_room(self, exporter: bytes, new: int, now_ns: int) -> bool:
        """Whether there is room for one more, made of what exporters taught whose Templates are stale, if need be."""
        for _ in range(_LOOKED_AT):
            if self._learned_count + new < self.limits.learned:
                return True
            oldest = next(iter(self._learned), None)
            if oldest is None:
                break
            learned = self._learned.pop(oldest)
            if oldest == exporter or not self._is_stale(oldest, now_ns):
                self._learned[oldest] = learned  # behind all others
                continue
            self._learned_count -= len(learned)
        return self._learned_count + new < self.limits.learned

    def _is_stale(self, exporter: bytes, now_ns: int) -> bool:
        """Whether none of its Templates was refreshed for so long."""
        mine = self._exporters.get(exporter)
        if mine is None:
            return True
        latest = self._refreshed[next(reversed(mine.keys))]
        return now_ns - latest.refreshed_ns > self.limits.stale_ns

    def _with_safe_names(
        self, mine: dict[tuple[int, int], InformationElement], new: dict[tuple[int, int], InformationElement]
    ) -> dict[tuple[int, int], InformationElement]:
        taken = {element.name for element in mine.values()}
        safe = {}
        for identity, element in new.items():
            name = element.name
            good = name.isascii() and name.isidentifier() and len(name) <= 64 and name not in taken
            if not good or self.registry.by_name(name) is not None:
                name = f"{element.pen}/{element.id}"
            taken.add(name)
            safe[identity] = element._replace(name=name)
        return safe

    def _relearn(self, exporter: bytes, learned: Iterable[tuple[int, int]]) -> list[tuple[bytes, Layout]]:
        learned = frozenset(learned)
        changed = []
        mine = self._exporters.get(exporter) or _Exporter()
        for key in list(mine.keys):
            layout = self.layouts[key]
            if learned.isdisjoint((field.element.pen, field.element.id) for field in layout.fields):
                continue
            fields = tuple(
                FieldSpecifier(self.element(exporter, field.element.pen, field.element.id), field.length)
                for field in layout.fields
            )
            use = self._refreshed[key]
            self._remove(key)
            self._add(key, TemplateRecord(0, fields, layout.scope_count), use.refreshed_ns)
            self._refreshed[key] = use
            changed.append((key, layout))
        return changed

    def _make_room(self, exporter: bytes, record: TemplateRecord, now_ns: int) -> bool:
        """Whether there is room, made of stale Templates if need be: the exporter's own, then anybody's."""
        limits, fields = self.limits, len(record.fields)
        if fields > limits.fields_per_template or fields > limits.fields_per_exporter:
            return False
        while (mine := self._exporters.get(exporter)) is not None and (
            len(mine.keys) >= limits.templates_per_exporter or mine.fields + fields > limits.fields_per_exporter
        ):
            if not self._drop_stale(mine.keys, now_ns):
                return False
        while len(self.layouts) >= limits.templates or (
            (record.fields, record.scope_count) not in self._interned and self._fields + fields > limits.fields
        ):
            if not self._drop_stale(self._refreshed, now_ns):
                return False
        return True

    def _drop_stale(self, keys: Iterable[bytes], now_ns: int) -> bool:
        """Drop the first of these, the oldest, if it is stale."""
        oldest = next(iter(keys), None)
        if oldest is None or now_ns - self._refreshed[oldest].refreshed_ns <= self.limits.stale_ns:
            return False
        self._remove(oldest)
        self.expired += 1
        return True

    def _add(self, key: bytes, record: TemplateRecord, now_ns: int) -> None:
        identity = record.fields, record.scope_count
        layout = self._interned.get(identity)
        if layout is None:
            layout = self._interned[identity] = Layout(*identity)
            self._fields += len(layout.fields)
        layout.users += 1
        exporter = self._exporters.setdefault(key[:EXPORTER], _Exporter())
        exporter.keys[key] = None
        exporter.fields += len(layout.fields)
        self.layouts[key] = layout
        self._refreshed[key] = TemplateUse(now_ns, now_ns)
        self._domains.setdefault((key[:PREFIX], layout.scope_count > 0), {})[key] = None
        self.type_information += layout.is_type_information

    def _remove(self, key: bytes) -> None:
        layout = self.layouts.pop(key)
        del self._refreshed[key]
        domain = key[:PREFIX], layout.scope_count > 0
        del self._domains[domain][key]
        if not self._domains[domain]:
            del self._domains[domain]
        exporter = self._exporters[key[:EXPORTER]]
        del exporter.keys[key]
        exporter.fields -= len(layout.fields)
        if not exporter.keys:
            del self._exporters[key[:EXPORTER]]
        self.type_information -= layout.is_type_information
        layout.users -= 1
        if not layout.users:
            del self._interned[layout.fields, layout.scope_count]
            self._fields -= len(layout.fields)

    def dump(self) -> bytes:
        """All Templates and learned elements as JSON, for :meth:`load` after a restart."""
        import ipaddress  # only where a state file is asked for

        def text(exporter: bytes) -> str:
            four = exporter[12:] if exporter.startswith(V4_MAPPED) else exporter
            return str(ipaddress.ip_address(four))

        templates = []
        for key, use in self._refreshed.items():
            exporter, version, domain, template_id = _KEY.unpack(key)
            layout = self.layouts[key]
            templates.append(
                {
                    "exporter": text(exporter),
                    "version": version,
                    "observation_domain_id": domain,
                    "template_id": template_id,
                    "scope_count": layout.scope_count,
                    "refreshed_ns": use.refreshed_ns,
                    "fields": [[field.element.pen, field.element.id, field.length] for field in layout.fields],
                }
            )
        elements = [
            {"exporter": text(exporter), **{k: getattr(e, k) for k in _LEARNED}, "data_type": e.data_type.name}
            for exporter, learned in self._learned.items()
            for e in learned.values()
        ]
        return json.dumps({"format": 1, "templates": templates, "elements": elements}).encode()

    def load(self, state: bytes) -> int:
        """Take in what :meth:`dump` gave; returns the number of Templates that fit the limits. ConfigError
        where the octets are not such a state."""
        try:
            return self._load(json.loads(state))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise ConfigError(f"not a template file of ours ({error!r}); delete it to start without") from error

    def _load(self, state: dict[str, Any]) -> int:
        octets = exporter_octets
        if state["format"] != 1:
            raise ValueError(f"format {state['format']}")
        for row in state["elements"]:
            data_type = DATA_TYPES[row["data_type"]]
            element = InformationElement(
                row["pen"], row["id"], row["name"], data_type, row["semantics"], row["units"], source=row["source"]
            )
            self.learn(octets(row["exporter"]), [element])
        count = 0
        for row in state["templates"]:
            exporter, domain = octets(row["exporter"]), row["observation_domain_id"]
            key = template_key(exporter, row["version"], domain, row["template_id"])
            numbers = [number for field in row["fields"] for number in field]
            if not all(type(number) is int and number >= 0 for number in [row["scope_count"], *numbers]):
                raise ValueError(f"Template {row['template_id']} has fields that are no numbers")
            fields = tuple(FieldSpecifier(self.element(exporter, pen, id), n) for pen, id, n in row["fields"])
            least = sum(1 if field.is_variable else field.length for field in fields)
            if not 0 < least <= MAX_RECORD or row["scope_count"] > len(fields):
                raise ValueError(f"Template {row['template_id']} has no octets")
            count += self.define(
                key, TemplateRecord(row["template_id"], fields, row["scope_count"]), row["refreshed_ns"]
            )
        return count


_LEARNED = ("pen", "id", "name", "semantics", "units", "source")
