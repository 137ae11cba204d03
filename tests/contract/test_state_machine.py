"""The registry against a model of it in plain Python: long random sequences of changes, and after each all must agree."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlalchemy.orm import Session
from support import registries
from support.adapters import base_registration
from support.model import Model, ModelAdapter, ModelMove, ModelVersion, Refused
from support.payloads import Payload, make_payload
from support.registries import World
from support.soak import SOAKING, scale
from support.stored import names_of

import sdk
from registry.access.audit.service import AuditQuery
from registry.access.models import AuditEntry
from registry.artifacts.models import Blob, ManifestAccess
from registry.catalog.models import Adapter, Alias, AliasMoveRow, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.errors import NotFound, RegistryError
from registry.principal import LOCAL, Principal, Role
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback
from sdk.schemas.catalog import Annotation, VersionMove, VersionView
from sdk.schemas.codes import ErrorCode
from sdk.schemas.removal import GcRequest

T = TypeVar("T")

#: Each sequence has adapters and bytes of its own, in a database that all share.
SEQUENCES = itertools.count(1)
STEPS = 25
#: Sequences of one seed: after so many, Hypothesis begins to repeat itself with small changes.
OF_A_SEED = 10

#: The first adapter has the most happen to it. Two namespaces have three adapters.
WHICH = (0, 0, 0, 0, 1, 2)
BYTES = range(12)
HOW = ("sent", "sent", "sent", "never arrives", "readable")
NUMBERS = range(16)
VERBS = ("archive", "archive", "restore", "delete")
TARGETS = {"archive": VersionState.ARCHIVED, "restore": VersionState.READY, "delete": VersionState.DELETED}
NAMES = ("live", "live", "live", "next")
ALIASES = range(8)
EXPECTED = ("any", "any", "any", "right", "wrong")
TEXTS = (None, "", "better")
KEYS = ("a", "b")

#: A method of the machine, how often it is to be chosen, and two lists of what it may be given. Two and not five: a
#: sequence of many draws does not shrink; and short ones: from a long list Hypothesis mostly takes what comes first.
CHANGES: dict[str, tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "publish": (4, [*product(WHICH, HOW)], [*product(BYTES)]),
    "set_alias": (4, [*product(WHICH, EXPECTED)], [*product(NAMES, NUMBERS)]),
    "rollback": (3, [*product(WHICH, EXPECTED)], [*product(ALIASES)]),
    "remove_alias": (1, [*product(WHICH, EXPECTED)], [*product(ALIASES)]),
    "move": (4, [*product(WHICH, VERBS)], [*product(NUMBERS)]),
    "annotate": (1, [*product(WHICH, TEXTS)], [*product(NUMBERS, KEYS, KEYS)]),
    "collect": (1, [()], [()]),
}
WHAT = st.sampled_from([what for what, (often, _, _) in CHANGES.items() for _ in range(often)])
CHANGE = WHAT.flatmap(lambda what: st.tuples(st.just(what), *map(st.sampled_from, CHANGES[what][1:])))


def payloads_of(sequence: int) -> list[Payload]:
    """Eight adapters, two more with the weights of one of them and another config, and two that change nothing."""
    first, marked = 16 * sequence, str(sequence)
    return [
        *(make_payload(first + n, marked=marked, dtype="float32" if n % 2 else "float16") for n in range(8)),
        *(make_payload(first + n, marked=marked, alpha=8) for n in (1, 3)),
        *(make_payload(first + n, marked=marked, idle=True) for n in (8, 9)),
    ]


class RegistryMachine(RuleBasedStateMachine):
    """Does the same to a registry and to its model."""

    def __init__(self, world: World) -> None:
        super().__init__()
        sequence = next(SEQUENCES)
        self.world, self.services = world, world.services
        self.storage = self.services.artifacts.storage
        self.payloads = payloads_of(sequence)
        self.files = {sha256: content for payload in self.payloads for sha256, content in payload.files.items()}
        self.prefix = f"s{sequence}-"
        self.model = Model([f"left/{self.prefix}a", f"left/{self.prefix}b", f"right/{self.prefix}a"])
        self.touched = self.model.adapters[0]
        #: Where the trail and the history stood when this sequence began.
        with self.services.db.read() as session:
            self.first_entry = session.scalar(select(AuditEntry.pk).order_by(AuditEntry.pk.desc()).limit(1)) or 0
            self.first_move = session.scalar(select(AliasMoveRow.pk).order_by(AliasMoveRow.pk.desc()).limit(1)) or 0
        self.steps = 0
        self.sound = True

    # What happens.

    @initialize(numbers=st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True))
    def begin(self, numbers: list[int]) -> None:
        """Give the first adapter versions: most of what can be done needs some."""
        for number in numbers:
            self.publish(0, "sent", number)

    @rule(change=CHANGE)
    def change(self, change: tuple[str, tuple[Any, ...], tuple[Any, ...]]) -> None:
        """Do one thing. One rule for all, since each of several would be left out of most sequences."""
        what, first, second = change
        getattr(self, what)(*first, *second)

    def publish(self, which: int, how: str, number: int) -> None:
        """Publish what was sent, what was announced and never arrives, or, without an upload, what may be read."""
        adapter, payload = self.model.adapters[which], self.payloads[number]
        self.touched = adapter
        if how == "readable":
            who = Principal("local", {adapter.namespace: Role.WRITER})
            self._publish(lambda: self.model.publish_again(adapter, payload), adapter, payload, None, who)
        else:
            upload, lacks = self._upload(payload, arrives=how == "sent")
            self._publish(lambda: self.model.publish(adapter, payload, lacks=lacks), adapter, payload, upload, LOCAL)

    def move(self, which: int, verb: str, number: int) -> None:
        """Archive, restore or delete."""
        adapter = self._choose(which)
        target = self._number(adapter, number)
        change = VersionMove(ref=f"{adapter.name}@v{target}", reason="so")
        moved = self._both(
            lambda: self.model.move(adapter, target, verb),
            lambda: self.services.version_states.move(change, TARGETS[verb], who=LOCAL),
        )
        if moved is not None:
            self._check_view(adapter, *moved)

    def annotate(self, which: int, text: str | None, number: int, key: str, untagged: str) -> None:
        """Write to a version."""
        adapter = self._choose(which)
        target = self._number(adapter, number)
        said = {"description": text, "tags": {key: str(number)}, "untag": [untagged], "note": text or None}
        body = Annotation.model_validate({"ref": f"{adapter.name}@v{target}", **said})
        written = self._both(
            lambda: self.model.annotate(adapter, target, **said),
            lambda: self.services.version_states.annotate(annotation=body, who=LOCAL),
        )
        if written is not None:
            self._check_view(adapter, *written)

    def set_alias(self, which: int, expected: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        adapter = self._choose(which)
        target, expect = self._number(adapter, number), self._expect(adapter, alias, expected)
        body = AliasMove(adapter=adapter.name, alias=alias, number=target, expect=expect)
        moved = self._both(
            lambda: self.model.set_alias(adapter, alias, target, expect),
            lambda: self.services.gate.move(move=body, who=LOCAL).number,
        )
        assert moved is None or moved[0] == moved[1]

    def rollback(self, which: int, expected: str, number: int) -> None:
        """Point an alias at what it named before."""
        adapter = self._choose(which)
        alias = self._alias(adapter, number)
        # It can't be left out here.
        expect = self._expect(adapter, alias, "right" if expected == "any" else expected)
        body = AliasRollback(adapter=adapter.name, alias=alias, expect=expect)
        moved = self._both(
            lambda: self.model.rollback(adapter, alias, expect),
            lambda: self.services.gate.rollback(rollback=body, who=LOCAL).number,
        )
        assert moved is None or moved[0] == moved[1]

    def remove_alias(self, which: int, expected: str, number: int) -> None:
        """Take an alias away."""
        adapter = self._choose(which)
        alias = self._alias(adapter, number)
        expect = self._expect(adapter, alias, expected)
        body = AliasRemoval(adapter=adapter.name, alias=alias, expect=expect)
        self._both(
            lambda: self.model.remove_alias(adapter, alias, expect),
            lambda: self.services.gate.remove(removal=body, who=LOCAL),
        )

    def collect(self) -> None:
        """Collect garbage without grace."""
        self._both(
            self.model.collect,
            lambda: self.services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=LOCAL),
        )

    # How both are asked.

    def _choose(self, which: int) -> ModelAdapter:
        """One of those that have versions, as soon as there are any."""
        there = [adapter for adapter in self.model.adapters if adapter.versions] or self.model.adapters
        self.touched = there[which % len(there)]
        return self.touched

    def _number(self, adapter: ModelAdapter, drawn: int) -> int:
        """Mostly a number that finds a version, else one that was given, or the next one."""
        found = adapter.pullable() if drawn < 12 else adapter.versions
        return found[drawn % len(found)].number if found and drawn < 15 else len(adapter.versions) + 1

    def _alias(self, adapter: ModelAdapter, drawn: int) -> str:
        """Mostly an alias that names something, else one that did, or never has."""
        known = sorted(adapter.aliases if drawn < 5 else adapter.stacks)
        return known[drawn % len(known)] if known and drawn < 7 else "next"

    def _expect(self, adapter: ModelAdapter, alias: str, expected: str) -> int | None:
        named = adapter.aliases.get(alias, 0)
        return {"any": None, "right": named, "wrong": named + 1}[expected]

    def _both(self, expected: Callable[[], T], done: Callable[[], T]) -> tuple[T, T] | None:
        """Do it to both; both must refuse it alike, or neither. Return what both say, or None."""
        self.sound = False
        refused: ErrorCode | None = None
        try:
            wanted = expected()
        except Refused as refusal:
            refused = refusal.code
        if refused is None:
            return wanted, done()
        with pytest.raises(RegistryError) as caught:
            done()
        assert caught.value.code == refused, caught.value.message
        return None

    def _upload(self, payload: Payload, *, arrives: bool = True) -> tuple[str, bool]:
        """Send what is asked for, if it is to arrive; return the session, and whether something is lacking."""
        self.sound = False
        session = self.services.uploads.begin(blobs=payload.blobs, who=LOCAL)
        asked = {put.sha256 for put in session.put}
        held = {sha256 for space in ("left", "right") for kept in self.model.held(space) for sha256 in kept.files}
        # What may be read is not asked for; what is not asked for has arrived, if only in a session that came to no end.
        assert not asked & held
        assert all(names_of(self.storage, sha256) for sha256 in payload.files.keys() - asked)
        for put in session.put if arrives else []:
            path = _path(put.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload.files[put.sha256])
        return session.id, bool(asked) and not arrives

    def _publish(
        self,
        expected: Callable[[], tuple[int, bool]],
        adapter: ModelAdapter,
        payload: Payload,
        upload: str | None,
        who: Principal,
    ) -> None:
        body = payload.publication(adapter.name, upload)

        def publish() -> tuple[int, bool]:
            published = self.services.publisher.publish(publication=body, who=who)
            assert published.version.digest == payload.digest
            return published.version.number or 0, published.existing

        numbers = self._both(expected, publish)
        assert numbers is None or numbers[0] == numbers[1]

    # What must hold.

    @invariant()
    def what_is_kept_is_the_models(self) -> None:
        """Tables, trail, history and files, of all adapters of this sequence."""
        with self.services.db.read() as session:
            self._check_tables(session)
            self._check_trail(session)
            self._check_files(session)
        self.steps += 1
        self._check_doors(self.touched, turn=self.steps)
        self.sound = True

    def teardown(self) -> None:
        """Ask once more for everything, unless it is known to be wrong."""
        if not self.sound:
            return
        for adapter in self.model.adapters:
            self._check_doors(adapter)
            self._check_refs(adapter)
            self._check_lists(adapter)
            self._check_bytes(adapter)
        for namespace in ("left", "right"):
            self._check_adapters(namespace)

    def _check_tables(self, session: Session) -> None:
        names = {adapter.name: adapter for adapter in self.model.adapters}
        rows = {row.pk: row for row in session.scalars(select(Adapter).where(Adapter.name.in_(names)))}
        for row in rows.values():
            expected = names[row.name]
            assert (row.last_number, row.latest_number, row.ready_versions, row.size_bytes) == (
                len(expected.versions),
                expected.latest,
                len(expected.ready()),
                expected.size_bytes,
            )
        present = {row.name for row in rows.values()}
        assert present >= {name for name, adapter in names.items() if adapter.versions}
        columns = (Version.adapter_pk, Version.number, Version.digest, Version.state)
        versions = session.execute(select(*columns).where(Version.adapter_pk.in_(rows)).order_by(Version.pk)).all()
        aliases = session.execute(
            select(Alias.adapter_pk, Alias.name, Version.number)
            .join(Version, Version.pk == Alias.version_pk)
            .where(Alias.adapter_pk.in_(rows))
        ).all()
        found: dict[str, list[tuple[int, str, str]]] = {name: [] for name in names}
        for adapter_pk, number, digest, state in versions:
            if number is None:
                assert state == "failed"
            else:
                found[rows[adapter_pk].name].append((number, digest, state))
        assert found == {
            name: [(version.number, version.payload.digest, version.state) for version in adapter.versions]
            for name, adapter in names.items()
        }
        assert {(rows[adapter_pk].name, alias): number for adapter_pk, alias, number in aliases} == {
            (name, alias): number for name, adapter in names.items() for alias, number in adapter.aliases.items()
        }

    def _check_trail(self, session: Session) -> None:
        """One entry for each change that succeeded, and one line of history for each move."""
        entries = session.execute(
            select(AuditEntry.action, AuditEntry.subject)
            .where(AuditEntry.pk > self.first_entry)
            .order_by(AuditEntry.pk)
        ).all()
        moves = session.execute(
            select(
                Adapter.name,
                AliasMoveRow.alias,
                AliasMoveRow.kind,
                AliasMoveRow.from_number,
                AliasMoveRow.to_number,
            )
            .join(Adapter, Adapter.pk == AliasMoveRow.adapter_pk)
            .where(AliasMoveRow.pk > self.first_move)
            .order_by(AliasMoveRow.pk)
        ).all()
        assert [tuple(entry) for entry in entries] == self.model.audit
        for adapter in self.model.adapters:
            assert [ModelMove(*move) for name, *move in moves if name == adapter.name] == adapter.moves

    def _check_files(self, session: Session) -> None:
        """What is stored, and who may fetch it."""
        digests = [payload.digest for payload in self.payloads]
        rows = select(Blob.sha256, Blob.stored_as).where(Blob.sha256.in_(self.files), Blob.collected_at.is_(None))
        stored = {row.sha256: row.stored_as for row in session.execute(rows)}
        access = session.execute(
            select(ManifestAccess.manifest_digest, ManifestAccess.namespace).where(
                ManifestAccess.manifest_digest.in_(digests)
            )
        ).all()
        assert stored.keys() == self.model.stored
        assert all(self.storage.path_of(name).exists() for name in stored.values())
        assert {tuple(row) for row in access} == {
            (payload.digest, namespace) for namespace in ("left", "right") for payload in self.model.held(namespace)
        }

    def _check_doors(self, adapter: ModelAdapter, *, turn: int | None = None) -> None:
        """What the services say of an adapter: its lists, and every number that was ever given, or the one in turn."""
        if not adapter.versions:
            self._check_missing(adapter.name, "there is no")
            return
        listed = self._listed(adapter, archived=True)
        assert list(listed) == [version.number for version in reversed(adapter.pullable())]
        number = None if turn is None else 1 + turn % len(adapter.versions)
        for version in adapter.versions:
            ref = f"{adapter.name}@v{version.number}"
            if version.pullable:
                self._check_view(adapter, version, listed[version.number])
            if number not in (None, version.number):
                continue
            if version.pullable:
                view = self.services.catalog.resolve(ref, who=LOCAL)
                # The stored text of a version says what its rows say.
                assert view == listed[version.number]
            else:
                self._check_missing(ref, "was deleted")
        if adapter.latest is None:
            self._check_missing(adapter.name, "there is no")
        else:
            assert self.services.catalog.resolve(adapter.name, who=LOCAL).number == adapter.latest
        aliases = self.services.aliases.list(adapter=adapter.name, who=LOCAL)
        assert {view.alias: view.number for view in aliases} == adapter.aliases

    def _check_refs(self, adapter: ModelAdapter) -> None:
        """What every ref finds that could, through the whole application."""
        finds = {"": adapter.latest, "@latest": adapter.latest, f"@v{len(adapter.versions) + 1}": None}
        finds |= {f"@{alias}": adapter.aliases.get(alias) for alias in ("live", "next")}
        for version in adapter.versions:
            finds[f"@v{version.number}"] = version.number if version.pullable else None
        # The same bytes may have been deleted, and published again.
        for held in [*adapter.versions, *adapter.pullable()]:
            finds[f"@sha256:{held.payload.digest}"] = held.number if held.pullable else None
        for selector, number in finds.items():
            if number is None:
                with pytest.raises(sdk.NotFound):
                    self.world.writer.get(f"{adapter.name}{selector}")
            else:
                assert self.world.writer.get(f"{adapter.name}{selector}").number == number
        if adapter.versions:
            assert list(self._listed(adapter, archived=False)) == [held.number for held in reversed(adapter.ready())]

    def _listed(self, adapter: ModelAdapter, *, archived: bool) -> dict[int | None, VersionView]:
        page = self.services.catalog.versions(
            adapter=adapter.name, archived=archived, cursor=None, limit=1000, who=LOCAL
        )
        return {view.number: view for view in page.items}

    def _check_missing(self, ref: str, said: str) -> None:
        with pytest.raises(NotFound, match=said):
            self.services.catalog.resolve(ref, who=LOCAL)

    def _check_view(self, adapter: ModelAdapter, version: ModelVersion, view: VersionView) -> None:
        assert (view.ref, view.digest, view.state) == (
            f"{adapter.name}@v{version.number}",
            version.payload.digest,
            version.state,
        )
        assert view.aliases == adapter.named(version.number)
        assert (view.description, view.tags) == (version.description, version.tags)
        assert [note.text for note in view.notes] == version.notes
        assert view.manifest == version.payload.manifest

    def _check_lists(self, adapter: ModelAdapter) -> None:
        """History and trail of an adapter, as its readers get them."""
        entries = self.services.audit.list(AuditQuery(subject=adapter.name, limit=1000), who=LOCAL).items
        about = [entry for entry in self.model.audit if entry[1].partition("@")[0] == adapter.name]
        assert [(entry.action, entry.subject) for entry in entries] == about[::-1]
        if adapter.versions:
            page = self.services.aliases.history(adapter=adapter.name, alias=None, cursor=None, limit=1000, who=LOCAL)
            moves = [ModelMove(move.alias, move.kind, move.from_number, move.to_number) for move in page.items]
            assert moves == adapter.moves[::-1]

    def _check_bytes(self, adapter: ModelAdapter) -> None:
        """The files of all that can be pulled are there, for those who may read there, and of what is gone for nobody."""
        reader = Principal("reader", {adapter.namespace: Role.READER})
        for version in adapter.versions:
            digest = version.payload.digest
            if any(held.digest == digest for held in self.model.held(adapter.namespace)):
                transfers = self.services.artifacts.download(digest, who=reader)
                assert {at.sha256: _path(at.url).read_bytes() for at in transfers} == version.payload.files
            else:
                with pytest.raises(NotFound):
                    self.services.artifacts.download(digest, who=reader)

    def _check_adapters(self, namespace: str) -> None:
        expected = [
            (adapter.name, f"{adapter.name}@v{adapter.latest}", len(adapter.ready()), adapter.size_bytes, "tiny")
            for adapter in self.model.adapters
            if adapter.namespace == namespace and adapter.latest is not None
        ]
        views = self.world.writer.adapters(namespace=namespace, prefix=f"{namespace}/{self.prefix}")
        assert [(view.adapter, view.latest, view.versions, view.size_bytes, view.base) for view in views] == expected


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("postgres_database") if request.param == "postgres" else None
    with registries.embedded(tmp_path / "home", database_url=url) as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_whatever_is_done_the_registry_is_as_its_model(world: World) -> None:
    # A short run does the same each time; a soak looks where nobody has looked.
    first = secrets.randbits(32) if SOAKING else 0
    for n in range(scale(1000, share=100) // OF_A_SEED):
        machine = seed(first + n)(lambda: RegistryMachine(world))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=OF_A_SEED,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
