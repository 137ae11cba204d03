"""What callers may add to without end has a bound, or an answer loads and shows the newest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select
from support.adapters import digest
from support.loaded import loaded
from support.people import SEEDS, new_adapter, submit, training
from support.registries import World
from support.working import Held

from registry import errors
from registry.access.models import Grant, Token
from registry.access.tokens import MOST_TOKENS
from registry.catalog.aliases.moving import MOST_ALIASES
from registry.catalog.aliases.service import MOST_PROTECTIONS
from registry.catalog.models import Alias, AliasProtection, Version, VersionNote
from registry.datasets.finding import MOST_NAMES
from registry.datasets.models import DatasetNumber
from registry.db.statements import append
from registry.db.types import utc_now
from registry.jobs.models import Attempt, Checkpoint
from registry.principal import SYSTEM, Principal, Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput


class TestBounds:
    def test_notes_of_a_version(self, people: World, admin: Client, space: str, tmp_path: Path) -> None:
        ref = admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny").ref
        with people.services.db.write() as session:
            pk = session.scalar(select(func.max(Version.pk)))
            append(session, VersionNote, *[{"version_pk": pk, "text": "n", "written_by": "ana"}] * 199)
        admin.versions.annotate(ref, note="the last one")
        with pytest.raises(InvalidInput, match=r"has 200 notes, and can't have more; change its description"):
            admin.versions.annotate(ref, note="one more")
        admin.versions.annotate(ref, description="still said")

    def test_aliases_of_an_adapter(self, people: World, admin: Client, space: str, tmp_path: Path) -> None:
        admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        with people.services.db.write() as session:
            version = session.scalars(select(Version).order_by(Version.pk.desc()).limit(1)).one()
            row = {"adapter_pk": version.adapter_pk, "version_pk": version.pk, "moved_by": "ana"}
            append(session, Alias, *[{**row, "name": f"alias-{number}"} for number in range(MOST_ALIASES - 1)])
        admin.set_alias(f"{space}/a", "last", 1)
        with pytest.raises(Conflict, match=rf"has {MOST_ALIASES} aliases, and can't have more; remove one"):
            admin.set_alias(f"{space}/a", "one-more", 1)
        # Those that exist are moved and removed as ever.
        admin.set_alias(f"{space}/a", "last", 1)
        admin.aliases.remove(f"{space}/a", "last")
        admin.set_alias(f"{space}/a", "one-more", 1)

    def test_protections_of_a_namespace_and_who_loads_which(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        with people.services.db.write() as session:
            rows = [
                {"scope": f"{space}/a-{number}", "alias": "x", "created_by": "ana"}
                for number in range(MOST_PROTECTIONS)
            ]
            append(session, AliasProtection, *rows[1:])
        admin.aliases.protect(f"{space}/a-0", "x")
        with pytest.raises(Conflict, match="protect one for all adapters of the namespace"):
            admin.aliases.protect(f"{space}/a-0", "y")
        admin.aliases.protect(f"x-{space}/a", "x")
        with loaded(AliasProtection) as seen:
            reader = people.services.aliases.protections(who=Principal("eve", {f"x-{space}": Role.READER}))
        assert [one.scope for one in reader if one.scope != "*"] == [f"x-{space}/a"]
        assert len(seen) == len(reader)
        without = people.services.aliases.protections(who=Principal("eve", {"-": Role.READER}))
        assert {one.scope for one in without if "/" in one.scope} == set()

    def test_tokens_of_a_namespace_and_who_loads_which(self, people: World, space: str) -> None:
        tokens = people.services.tokens
        made = [f"{space}-{number}" for number in range(MOST_TOKENS - 1)]
        with people.services.db.write() as session:
            append(session, Token, *[{"id": one, "name": one, "secret_sha256": digest(one)} for one in made])
            append(session, Grant, *[{"token_id": one, "namespace": space, "role": "reader"} for one in made])
        tokens.create(name=f"last-{space}", grants={space: Role.READER}, who=SYSTEM)
        with pytest.raises(
            errors.Conflict, match=rf"has {MOST_TOKENS} tokens in use, and can't have more; revoke some"
        ):
            tokens.create(name=f"more-{space}", grants={f"x-{space}": Role.READER, space: Role.READER}, who=SYSTEM)
        tokens.create(name=f"other-{space}", grants={f"x-{space}": Role.READER}, who=SYSTEM)
        tokens.create(name=f"both-{space}", grants={f"x-{space}": Role.READER, f"y-{space}": Role.READER}, who=SYSTEM)
        with loaded(Token) as seen:
            (shown,) = tokens.list(who=Principal("eve", {f"x-{space}": Role.ADMIN}))
        assert (shown.name, len(seen)) == (f"other-{space}", 1)
        tokens.revoke(made[0], who=SYSTEM)
        tokens.create(name=f"more-{space}", grants={space: Role.READER}, who=SYSTEM)
        tokens.revoke_namespace(space, who=SYSTEM)

    def test_names_of_a_dataset(self, people: World, admin: Client, space: str, rows: Path) -> None:
        data = admin.datasets.add(rows, namespace=space)
        row = {"digest": data.digest, "namespace": space, "number": 1, "created_at": utc_now() - timedelta(hours=1)}
        with people.services.db.write() as session:
            append(session, DatasetNumber, *[{**row, "name": f"name-{number}"} for number in range(2 * MOST_NAMES)])
        with loaded(DatasetNumber) as seen:
            found = people.services.datasets.get(data.digest, namespace=space, who=SYSTEM)
        assert (len(found.names), len(seen)) == (MOST_NAMES, MOST_NAMES)
        # The newest come first, and every one is still found.
        assert found.names[0] == f"{rows.name}@v1"
        assert admin.datasets.get(f"name-{2 * MOST_NAMES - 1}@v1", namespace=space).digest == data.digest

    def test_attempts_and_checkpoints_of_a_job(
        self, people: World, admin: Client, space: str, rows: Path, tmp_path: Path
    ) -> None:
        data = admin.datasets.add(rows, namespace=space).digest
        job = submit(admin, training(f"{space}/a", data)).id
        held = Held.claim(people.worker, tmp_path, name=f"w{next(SEEDS)}")
        held.checkpoint(1, 3000)
        with people.services.db.write() as session:
            made = session.execute(select(Checkpoint.__table__).where(Checkpoint.job_id == job)).mappings().one()
            append(session, Checkpoint, *[{**made, "step": step, "seq": step} for step in range(2, 1502)])
            tried = {"job_id": job, "worker": "w", "state": "released"}
            append(session, Attempt, *[{**tried, "attempt": number} for number in range(2, 1502)])
        with loaded(Checkpoint) as seen:
            steps = [one.step for one in people.services.checkpoints.list(job, who=SYSTEM)]
            (shown,) = people.services.jobs.list(state="running", cursor=None, limit=1, who=SYSTEM).items
        assert (len(seen), steps[0], steps[-1]) == (1000, 1501, 502)
        assert (shown.id, shown.checkpoint_step) == (job, 1501)
        with loaded(Attempt) as tries:
            numbers = [one.attempt for one in people.services.jobs.attempts(job, who=SYSTEM)]
        assert (numbers[0], numbers[-1], len(tries)) == (502, 1501, 1000)
        with people.services.db.write() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.job_id == job, Checkpoint.step > 1))
            session.execute(delete(Attempt).where(Attempt.job_id == job, Attempt.attempt > 1))
        held.complete()
