"""What namespaces keep in the database: it is counted, there is a limit, and no answer loads what has no bound."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from support.adapters import base_registration, digest
from support.loaded import loaded
from support.people import SEEDS, new_adapter, package, submit, training
from support.registries import World
from support.small import write_base
from support.usage import begin, differing, end_time_of, mismeasured
from support.working import Held, line, progress

from registry.artifacts.models import Upload
from registry.catalog.models import Adapter, BaseModelRow, Origin, Version
from registry.catalog.versions.origins import MOST_ORIGINS, MOST_RECORD_BYTES
from registry.db.statements import append
from registry.db.types import utc_now
from registry.jobs.events import STEP_BYTES
from registry.jobs.models import Attempt, Job, JobEvent
from registry.principal import EVERYWHERE, SYSTEM, Role
from registry.usage.models import Quota
from sdk.client import Client
from sdk.errors import QuotaExceeded
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.training_report import DatasetUse

MIB = 2**20


def records(client: Client, space: str) -> int:
    return client.quotas.get(space).records_bytes or 0


def require_right(people: World, space: str) -> None:
    """The sums of a namespace are what its rows say, and these say what they hold."""
    assert differing(people).get(space) is None
    assert mismeasured(people.services, space) == []


def stored(admin: Client, space: str, tmp_path: Path, **said: Any) -> Publication:
    """What would be published of bytes that are in storage, so that nothing has to be sent."""
    folder = new_adapter(tmp_path)
    admin.push(folder, f"x-{space}/stored", base="tiny")
    return package(folder, tmp_path, f"{space}/a").model_copy(update={"upload": None, **said})


def version_of(people: World, digest: str, adapter: str) -> Version:
    with people.services.db.read() as session:
        query = select(Version).join(Adapter).where(Version.digest == digest, Adapter.name == adapter)
        return session.scalars(query).one()


class TestOrigins:
    def test_what_is_made_again_is_not_loaded_with_a_version(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        first = stored(admin, space, tmp_path, training={"lr": 0.1}, metrics={"loss": 1.0})
        again = first.model_copy(update={"training": {"text": "x" * 10_000}, "metrics": {"loss": 2.0}})
        for body in (first, *[again] * 20):
            people.services.publisher.publish(publication=body, who=SYSTEM)
        catalog, search = people.services.catalog, people.services.search
        with loaded(Origin) as seen:
            published = people.services.publisher.publish(publication=again, who=SYSTEM)
            (listed,) = catalog.versions(adapter=f"{space}/a", archived=False, cursor=None, limit=9, who=SYSTEM).items
            wanted = f"name = {space}/a"
            (found,) = search.search(wanted=wanted, sort="-created", cursor=None, limit=9, who=SYSTEM).items
            admin.lineage(f"{space}/a@v1")
        assert published.existing
        assert len(seen) == 2
        assert (listed.training, listed.metrics, found.metrics) == ({"lr": 0.1}, {"loss": 1.0}, {"loss": 1.0})

    def test_a_list_is_the_same_to_the_byte_however_often_its_versions_were_made(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        """Recorded while each has one origin, of which the list can only show that."""
        # What the database does with it, fewer show as well.
        count = 50 if people.services.db.engine.dialect.name == "sqlite" else 5
        bodies = [
            stored(admin, space, tmp_path, training={"n": n}, metrics={"loss": n / 7}, libraries={"peft": str(n)})
            for n in range(count)
        ]
        said = [
            body.model_copy(update={"dataset": DatasetUse(digest=digest(f"{space} {n}"), rows=n, supervised_tokens=n)})
            for n, body in enumerate(bodies)
        ]

        def answers() -> list[bytes]:
            """The lists of versions, two pages and one, as they are sent, and a search."""
            api = people.http.get
            pages = [{"limit": 30}, {"limit": 100}, {"limit": 100, "archived": True}]
            found = [api("/api/v1/versions", params={"adapter": f"{space}/a", **page}) for page in pages]
            found.append(api("/api/v1/search", params={"q": f"name = {space}/a", "limit": 100}))
            assert {answer.status_code for answer in found} == {200}
            return [answer.content for answer in found]

        for body in said:
            people.services.publisher.publish(publication=body, who=SYSTEM)
        recorded = answers()
        for body in bodies:
            other = body.model_copy(update={"training": {"n": -1}, "metrics": {}, "libraries": {}})
            assert people.services.publisher.publish(publication=other, who=SYSTEM).existing
        assert answers() == recorded

    @pytest.mark.parametrize("full", ["of rows", "of bytes"])
    def test_beyond_a_bound_a_publication_succeeds_and_keeps_no_details(
        self, people: World, admin: Client, space: str, tmp_path: Path, full: str
    ) -> None:
        use = DatasetUse(digest=digest(f"rows of {space}"), rows=1, supervised_tokens=1)
        body = stored(admin, space, tmp_path, training={"lr": 0.1}, metrics={"loss": 1.0}, dataset=use)
        people.services.publisher.publish(publication=body, who=SYSTEM)
        pk = version_of(people, body.manifest.digest, f"{space}/a").pk
        with people.services.db.write() as session:
            if full == "of rows":
                row = {"version_pk": pk, "metrics": {}, "libraries": {}, "created_by": "ana"}
                append(session, Origin, *[row] * (MOST_ORIGINS - 2))
            else:
                session.execute(update(Version).where(Version.pk == pk).values(record_bytes=MOST_RECORD_BYTES - 2000))
        for text in "xyz":
            again = body.model_copy(update={"training": {"text": text * 1000}})
            for _ in range(2):
                assert people.services.publisher.publish(publication=again, who=SYSTEM).existing
        with people.services.db.read() as session:
            rows = session.scalars(select(Origin).where(Origin.version_pk == pk).order_by(Origin.pk.desc())).all()
        second, first, _ = rows[:3]
        assert (first.training, first.metrics) == ({"text": "x" * 1000}, {"loss": 1.0})
        assert (second.training, second.metrics, second.libraries, second.reported) == (None, {}, {}, None)
        assert (second.dataset_digest, second.dataset) == (use.digest, use.model_dump())
        assert admin.get(f"{space}/a@v1").info.training == {"lr": 0.1}

    def test_a_page_ends_where_it_would_be_long(self, people: World, admin: Client, space: str, tmp_path: Path) -> None:
        for _ in range(4):
            body = stored(admin, space, tmp_path, training={"text": "x" * (3 * MIB)})
            people.services.publisher.publish(publication=body, who=SYSTEM)
        sizes = {"versions": [], "search": []}
        for kind, pages in sizes.items():
            cursor = None
            while cursor is not None or not pages:
                given = {"cursor": cursor, "limit": 100, "who": SYSTEM}
                if kind == "versions":
                    page: Any = people.services.catalog.versions(adapter=f"{space}/a", archived=False, **given)
                else:
                    page = people.services.search.search(wanted=f"name = {space}/a", sort="-created", **given)
                pages.append(len(page.items))
                cursor = page.next
        assert sizes == {"versions": [2, 2], "search": [2, 2]}
        assert [version.number for version in admin.versions(f"{space}/a")] == [4, 3, 2, 1]


class TestCounted:
    def test_a_claimed_base_is_paid_for_until_it_is_removed(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer = acting(**{space: Role.WRITER})
        shapes = {f"layer.{number}": [1, 2] for number in range(2000)}
        before = records(admin, space)
        bodies = [base_registration(f"{space}-{n}", namespace=space, tensors=shapes) for n in range(3)]
        for body in bodies[:2]:
            writer.bases.register(body)
        each = (records(admin, space) - before) // 2
        assert each > 2000 * len('"layer.1": [1, 2], ')
        admin.quotas.set(space, max_record_bytes=3 * each - 1)
        with pytest.raises(QuotaExceeded) as caught:
            writer.bases.register(bodies[2])
        said = caught.value.message
        assert f"{space!r} has {2 * each} of {3 * each - 1} bytes of records in the database" in said
        assert said.endswith(f"adapterctl quota set {space}")
        admin.bases.remove(bodies[0].fingerprint, namespace=space)
        writer.bases.register(bodies[2])
        assert records(admin, space) == before + 2 * each
        # Nor does it stay where what was derived of the base would be.
        with people.services.db.read() as session:
            rows = select(BaseModelRow.tensors, BaseModelRow.config)
            left = session.execute(rows.where(BaseModelRow.fingerprint == bodies[0].fingerprint)).one()
        assert tuple(left) == ({}, {})
        require_right(people, space)

    def test_what_was_derived_of_a_base_goes_with_it_and_comes_again(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        folder = write_base(tmp_path / "base", value=next(SEEDS) / 1e6)
        for _ in range(2):
            before = records(admin, space)
            base = admin.bases.add(folder, namespace=space, upload=True)
            assert (base.facts, records(admin, space) > before) == ("derived", True)
            with people.services.db.read() as session:
                row = session.scalars(select(BaseModelRow).where(BaseModelRow.fingerprint == base.fingerprint)).one()
                assert row.tensors
            require_right(people, space)
            admin.bases.remove(base.fingerprint, namespace=space)
            with people.services.db.read() as session:
                row = session.scalars(select(BaseModelRow).where(BaseModelRow.fingerprint == base.fingerprint)).one()
                assert (row.tensors, row.derived_at) == ({}, None)

    def test_a_session_is_paid_for_by_its_list_also_of_empty_blobs(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer = acting(**{space: Role.WRITER})
        empty = [BlobSpec(sha256=f"{number:064x}", size_bytes=0) for number in range(200)]
        admin.quotas.set(space, max_record_bytes=200_000)
        opened = [begin(writer, space, *empty).id for _ in range(2)]
        taken = records(admin, space)
        assert 2 * 200 * 400 <= taken < 200_000
        with pytest.raises(QuotaExceeded, match=rf"{taken} of 200000 bytes of records in the database"):
            begin(writer, space, *empty)
        # What is over makes room at once.
        end_time_of(people, opened[0])
        opened.append(begin(writer, space, *empty).id)
        assert records(admin, space) == taken
        end_time_of(people, *opened)
        people.services.expiry._uploads()
        assert records(admin, space) == 0
        require_right(people, space)

    def test_a_finished_session_is_paid_for_until_it_is_over(
        self, people: World, admin: Client, space: str, rows: Path
    ) -> None:
        admin.datasets.add(rows, namespace=space)
        taken = records(admin, space)
        assert taken > 400
        with people.services.db.read() as session:
            (upload,) = session.scalars(select(Upload.id).where(Upload.namespace == space)).all()
        end_time_of(people, upload)
        people.services.expiry._uploads()
        assert records(admin, space) == 0
        require_right(people, space)

    def test_each_record_of_a_version_is_paid_for_and_long_ones_are_given_back(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        body = stored(admin, space, tmp_path, training={"text": "x" * 100_000, "holdout": 0.1, "holdout_seed": 7})
        publish = people.services.publisher.publish
        publish(publication=body, who=SYSTEM)
        once = records(admin, space)
        assert 100_000 < once < 110_000
        training = {"holdout": 0.1, "holdout_seed": 7}
        again, more = (body.model_copy(update={"training": {**training, "text": each * 100_000}}) for each in "yz")
        for _ in range(2):
            # What is sent again is not recorded again.
            publish(publication=again, who=SYSTEM)
        twice = records(admin, space)
        assert 100_000 < twice - once < 101_000
        admin.quotas.set(space, max_record_bytes=twice + 50_000)
        with pytest.raises(QuotaExceeded, match="bytes of records in the database"):
            admin.call("POST", "/versions", Published, body=more)
        admin.versions.annotate(f"{space}/a@v1", note="é" * 1000)
        assert 2000 <= records(admin, space) - twice < 2300
        admin.versions.delete(f"{space}/a@v1")
        assert records(admin, space) < 10_000
        require_right(people, space)
        # Which rows it was trained on stays known, for versions that were made from it.
        pk = version_of(people, body.manifest.digest, f"{space}/a").pk
        with people.services.db.read() as session:
            rows = session.scalars(select(Origin.training).where(Origin.version_pk == pk)).all()
        assert rows == [{"holdout": 0.1, "holdout_seed": 7}] * 2

    def test_what_is_published_for_all_has_no_limit(self, people: World, admin: Client) -> None:
        admin.quotas.set(EVERYWHERE, max_record_bytes=1)
        try:
            admin.bases.register(base_registration(f"for-all-{next(SEEDS)}", namespace=EVERYWHERE))
        finally:
            with people.services.db.write() as session:
                session.execute(delete(Quota))


class TestJobs:
    @pytest.fixture
    def asked(self, admin: Client, space: str, rows: Path) -> JobSubmission:
        """A training that could be submitted."""
        return training(f"{space}/a", admin.datasets.add(rows, namespace=space).digest)

    def test_one_that_was_cancelled_is_paid_for_until_it_expires(
        self, people: World, admin: Client, space: str, asked: JobSubmission
    ) -> None:
        before = records(admin, space)
        job = submit(admin, asked).id
        admin.jobs.cancel(job)
        taken = records(admin, space) - before
        assert taken > len(asked.request.model_dump_json())
        admin.quotas.set(space, max_record_bytes=before + 2 * taken - 1)
        with pytest.raises(QuotaExceeded, match="bytes of records in the database"):
            submit(admin, asked)
        people.services.expiry._jobs()
        assert records(admin, space) == before + taken
        age(people, job)
        people.services.expiry._jobs()
        assert records(admin, space) == before
        require_right(people, space)
        assert job not in {one.id for one in admin.jobs()}

    def test_one_that_is_tried_again_stays_as_long_as_that_one_runs(
        self, people: World, admin: Client, space: str, asked: JobSubmission
    ) -> None:
        job = submit(admin, asked).id
        admin.jobs.cancel(job)
        again = admin.call("POST", f"/jobs/{job}/retry", JobView)
        age(people, job)
        people.services.expiry._jobs()
        assert admin.job(job).id == job
        admin.jobs.cancel(again.id)
        people.services.expiry._jobs()
        assert job not in {one.id for one in admin.jobs()}
        assert admin.job(again.id).state == "cancelled"

    def test_what_its_worker_says_is_counted_in_steps_and_left_out_without_room(
        self, people: World, admin: Client, space: str, rows: Path, tmp_path: Path
    ) -> None:
        data = admin.datasets.add(rows, namespace=space).digest
        job = submit(admin, training(f"{space}/a", data)).id
        held = Held.claim(people.worker, tmp_path, name=f"w{next(SEEDS)}")
        assert held.job == job
        before = records(admin, space)
        held.report(line("hello"))
        assert records(admin, space) == before
        held.report(*[line("x" * 4000)] * 20)
        assert records(admin, space) == before + 5 * STEP_BYTES
        admin.quotas.set(space, max_record_bytes=before + 6 * STEP_BYTES)
        # The lease is renewed all the same, and the newest progress is known.
        held.report(*[line("y" * 4000)] * 20, progress("train" * 1000, 3, message="z" * 10_000))
        assert records(admin, space) == before + 5 * STEP_BYTES
        shown = admin.call("GET", f"/jobs/{job}", JobView).progress
        assert (shown.step, len(shown.phase), len(shown.message or "")) == (3, 40, 1000)
        assert len([one for one in admin.job(job).events(follow=False) if (one.message or "").startswith("y")]) == 0
        require_right(people, space)
        admin.quotas.set(space)
        held.complete()
        age(people, job)
        before = records(admin, space)
        people.services.expiry._events()
        assert records(admin, space) == before - 5 * STEP_BYTES
        require_right(people, space)

    def test_a_checkpoint_s_report_is_counted_as_often_as_it_is_kept(
        self, people: World, admin: Client, space: str, rows: Path, tmp_path: Path
    ) -> None:
        data = admin.datasets.add(rows, namespace=space).digest
        submit(admin, training(f"{space}/a", data))
        held = Held.claim(people.worker, tmp_path, name=f"w{next(SEEDS)}")
        held.checkpoint(1, 3)
        for _ in range(2):
            held.checkpoint(2, 3)
        require_right(people, space)
        assert [(one.step, one.metrics) for one in admin.jobs.checkpoints(held.job)] == [
            (2, {"loss": 0.5}),
            (1, {"loss": 1.0}),
        ]
        held.complete()


def age(people: World, job: str) -> None:
    """Let a job be of long ago, with all that happened to it."""
    old = utc_now() - timedelta(days=1000)
    with people.services.db.write() as session:
        session.execute(update(Job).where(Job.id == job).values(finished_at=old))
        session.execute(update(Attempt).where(Attempt.job_id == job).values(finished_at=old))
        session.execute(update(JobEvent).where(JobEvent.job_id == job).values(at=old))
