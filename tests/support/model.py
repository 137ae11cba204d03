"""The registry in plain Python: what versions, aliases, the audit trail and stored bytes must be after each change.

It knows the rules, but not how the registry implements them: no table, no transaction, no SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdk.schemas.access import AuditView
from sdk.schemas.codes import ErrorCode
from support.payloads import Payload


class Refused(Exception):  # noqa: N818 - it reads as a word
    """What the registry must refuse, and with which code."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class ModelVersion:
    """A version that was given its number."""

    number: int
    payload: Payload
    state: str = "ready"
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def pullable(self) -> bool:
        """Whether its number finds it."""
        return self.state != "deleted"


@dataclass(frozen=True)
class ModelMove:
    """One line of an alias's history."""

    alias: str
    kind: str
    from_number: int | None
    to_number: int | None


@dataclass
class ModelAdapter:
    """An adapter, and everything that ever happened to it."""

    name: str
    namespace: str
    #: In the order of their numbers.
    versions: list[ModelVersion] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    moves: list[ModelMove] = field(default_factory=list)
    #: What each alias named, as a stack: a rollback takes from it what a move has put there. None: nothing.
    stacks: dict[str, list[int | None]] = field(default_factory=dict)

    def ready(self) -> list[ModelVersion]:
        """What lists show."""
        return [version for version in self.versions if version.state == "ready"]

    def pullable(self) -> list[ModelVersion]:
        """What numbers and digests find."""
        return [version for version in self.versions if version.pullable]

    @property
    def latest(self) -> int | None:
        """What `latest` names."""
        return max((version.number for version in self.ready()), default=None)

    @property
    def size_bytes(self) -> int:
        """The size of everything that is not deleted."""
        return sum(version.payload.size_bytes for version in self.pullable())

    def named(self, number: int) -> list[str]:
        """The aliases that name a version."""
        return sorted(alias for alias, target in self.aliases.items() if target == number)

    def find(self, number: int) -> ModelVersion:
        """The version that a number finds."""
        if not 1 <= number <= len(self.versions) or not self.versions[number - 1].pullable:
            raise Refused(ErrorCode.NOT_FOUND)
        return self.versions[number - 1]


class Model:
    """All adapters of a registry, what it stores, and its audit trail: action and subject of each change."""

    def __init__(self, names: Iterable[str]) -> None:
        self.adapters = [ModelAdapter(name, name.rpartition("/")[0] or "-") for name in names]
        self.audit: list[tuple[str, str]] = []
        #: SHA-256 of the blobs that the registry has verified and not given up.
        self.stored: set[str] = set()
        #: Digests that were published once, and whose files were not given up since.
        self.kept: set[str] = set()
        #: Blobs that an upload session whose publication failed still announces.
        self.announced: set[str] = set()

    # Publishing.

    def publish(self, adapter: ModelAdapter, payload: Payload, *, lacks: bool = False) -> tuple[int, bool]:
        """Send everything except what is `lacking`, and publish; return the number, and whether these bytes had it
        already.
        """
        if lacks:
            self.announced.update(payload.files)
            raise Refused(ErrorCode.VERIFICATION)
        self.stored.update(payload.files)
        if payload.idle:
            self.announced.update(payload.files)
            raise Refused(ErrorCode.VERIFICATION)
        return self._number(adapter, payload)

    def publish_again(self, adapter: ModelAdapter, payload: Payload) -> tuple[int, bool]:
        """Publish without sending, as a user who may only read the adapter's namespace."""
        there = {sha256 for held in self.held(adapter.namespace) for sha256 in held.files}
        if not there.issuperset(payload.files):
            raise Refused(ErrorCode.INVALID)
        return self._number(adapter, payload)

    def _number(self, adapter: ModelAdapter, payload: Payload) -> tuple[int, bool]:
        self.kept.add(payload.digest)
        for version in adapter.pullable():
            if version.payload.digest == payload.digest:
                return version.number, True
        number = len(adapter.versions) + 1
        adapter.versions.append(ModelVersion(number, payload))
        self.audit.append(("version.publish", f"{adapter.name}@v{number}"))
        return number, False

    def held(self, namespace: str | None = None) -> list[Payload]:
        """The bytes that versions of a namespace, or of any, have."""
        return [
            version.payload
            for adapter in self.adapters
            if namespace in (None, adapter.namespace)
            for version in adapter.pullable()
        ]

    # What happens to versions.

    def move(self, adapter: ModelAdapter, number: int, verb: str) -> ModelVersion:
        """Archive, restore or delete."""
        version = adapter.find(number)
        target = {"archive": "archived", "restore": "ready", "delete": "deleted"}[verb]
        if version.state == target:
            return version
        if target != "ready" and adapter.named(number):
            raise Refused(ErrorCode.CONFLICT)
        version.state = target
        self.audit.append((f"version.{verb}", f"{adapter.name}@v{number}"))
        return version

    def annotate(
        self,
        adapter: ModelAdapter,
        number: int,
        *,
        description: Any,
        tags: Any,
        untag: Any,
        note: Any,
    ) -> ModelVersion:
        """Write to a version."""
        version = adapter.find(number)
        if description is not None:
            version.description = description
        version.tags = {key: value for key, value in version.tags.items() if key not in untag} | tags
        version.notes += [] if note is None else [note]
        self.audit.append(("version.annotate", f"{adapter.name}@v{number}"))
        return version

    # Aliases.

    def set_alias(self, adapter: ModelAdapter, alias: str, number: int, expect: int | None) -> int:
        """Point an alias at a version. One that names it already stays, and nothing is written."""
        adapter.find(number)
        self._compare(adapter, alias, expect)
        stack = adapter.stacks.setdefault(alias, [])
        if stack and stack[-1] == number:
            return number
        stack.append(number)
        return self._point(adapter, alias, "set", number)

    def rollback(self, adapter: ModelAdapter, alias: str, expect: int | None) -> int:
        """Point an alias at what it named before."""
        stack = adapter.stacks.get(alias)
        if not adapter.versions or stack is None:
            raise Refused(ErrorCode.NOT_FOUND)
        before = stack[:-1]
        while before and before[-1] is None:
            before.pop()
        if not before or before[-1] is None or not adapter.versions[before[-1] - 1].pullable:
            raise Refused(ErrorCode.CONFLICT)
        self._compare(adapter, alias, expect)
        adapter.stacks[alias] = before
        return self._point(adapter, alias, "rollback", before[-1])

    def remove_alias(self, adapter: ModelAdapter, alias: str, expect: int | None) -> None:
        """Remove an alias."""
        if alias not in adapter.aliases:
            raise Refused(ErrorCode.NOT_FOUND)
        self._compare(adapter, alias, expect)
        adapter.stacks[alias].append(None)
        self._remember(adapter, ModelMove(alias, "remove", adapter.aliases.pop(alias), None))

    def _compare(self, adapter: ModelAdapter, alias: str, expect: int | None) -> None:
        if expect is not None and adapter.aliases.get(alias, 0) != expect:
            raise Refused(ErrorCode.CONFLICT)

    def _point(self, adapter: ModelAdapter, alias: str, kind: str, number: int) -> int:
        self._remember(adapter, ModelMove(alias, kind, adapter.aliases.get(alias), number))
        adapter.aliases[alias] = number
        return number

    def _remember(self, adapter: ModelAdapter, move: ModelMove) -> None:
        adapter.moves.append(move)
        self.audit.append((f"alias.{move.kind}", f"{adapter.name}@{move.alias}"))

    # What was done by a registry's audit trail.

    def follow(self, entries: Iterable[AuditView], payloads: Mapping[str, Payload]) -> None:
        """Do what the entries of an audit trail say, oldest first; each must be allowed at its place.

        Raises Refused for one that is not, AssertionError for one that differs from the model.
        """
        adapters = {adapter.name: adapter for adapter in self.adapters}
        for entry in entries:
            name, _, selector = entry.subject.partition("@")
            if name in adapters:
                self._follow(adapters[name], selector, entry, payloads)

    def _follow(self, adapter: ModelAdapter, selector: str, entry: AuditView, payloads: Mapping[str, Payload]) -> None:
        said, before = entry.after or {}, entry.before or {}
        subject, verb = entry.action.split(".")
        if subject == "alias":
            named = before["number"] or 0
            if verb == "remove":
                self.remove_alias(adapter, selector, named)
            elif verb == "rollback":
                assert self.rollback(adapter, selector, named) == said["number"]
            else:
                self.set_alias(adapter, selector, said["number"], named)
            return
        number = int(selector.removeprefix("v"))
        if verb == "publish":
            assert self._number(adapter, payloads[said["digest"]]) == (number, False)
        elif verb == "annotate":
            note = said["note"]
            self.annotate(adapter, number, description=said["description"], tags={}, untag=[], note=note)
            adapter.find(number).tags = said["tags"]
        else:
            assert adapter.find(number).state == before["state"]
            self.move(adapter, number, verb)

    # Removal.

    def collect(self) -> None:
        """Give up what no version has and no open upload session announces."""
        self.audit.append(("gc.run", "registry"))
        held = self.held()
        self.kept &= {payload.digest for payload in held}
        self.stored &= self.announced | {sha256 for payload in held for sha256 in payload.files}
