"""What namespaces have is added up as it changes: the sums are what is there, and what is wrong is set right."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from support import calls, registries
from support.adapters import base_registration, digest
from support.databases import new_database
from support.people import SEEDS, new_adapter, package, submit, training
from support.registries import World
from support.scored_rows import fresh, report_of, write_file
from support.small import write_base
from support.usage import begin, blob, by_kind, differing, end_time_of, mismeasured
from support.working import Held, line, progress

from registry.artifacts.models import ManifestRow
from registry.catalog.models import Version
from registry.db.types import db_now, utc_now
from registry.jobs.models import Attempt, Checkpoint, Job, JobEvent
from registry.principal import SYSTEM, Role
from registry.quotas.service import recount
from registry.usage.charging import BYTES
from registry.usage.models import Usage
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.catalog import Published
from sdk.schemas.evaluation import MergeReport
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.removal import GcRequest
from sdk.schemas.work import MergeResult


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry that puts away what its admission refuses."""
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        url = stack.enter_context(new_database(request.param, folder, request))
        made = registries.served(folder, database_url=url, gate="quarantine")
        found = stack.enter_context(made)
        found.admin.bases.register(base_registration())
        yield found


@dataclass
class Play:
    """Two namespaces in which things are done at random, and what is there to be done them to."""

    world: World
    admin: Client
    worker: Client
    spaces: tuple[str, str]
    tmp_path: Path
    random: random.Random
    folders: list[Path] = field(default_factory=list)
    refs: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    bases: list[Path] = field(default_factory=list)
    jobs: list[Held] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)

    @property
    def space(self) -> str:
        return self.random.choice(self.spaces)

    def end(self) -> None:
        """Leave no job that the next one would claim."""
        for job in [job.id for job in self.admin.jobs() if not job.state.is_final]:
            self.admin.jobs.cancel(job)

    def publish(self) -> None:
        if not self.folders or self.random.random() < 0.6:
            self.folders.append(new_adapter(self.tmp_path))
        name = f"{self.space}/{self.random.choice('ab')}"
        self.refs.append(self.admin.push(self.random.choice(self.folders), name, base="tiny").ref)

    def annotate(self) -> None:
        said = "é" * self.random.randint(1, 50)
        how = self.random.choice(["note", "description"])
        self.admin.versions.annotate(self.random.choice(self.refs), **{how: said}, tags={"k": said[:9]})

    def claim_base(self) -> None:
        """A base of which there are no bytes, and later more about the same one."""
        shapes = {f"layer.{number}": [number] for number in range(self.random.randint(1, 30))}
        body = base_registration(f"claimed-{self.random.randint(1, 3)}", namespace=self.space, tensors=shapes)
        self.random.choice([self.admin, self.worker]).bases.register(body)

    def put_away(self) -> None:
        """Bytes that admission refuses."""
        folder, name = new_adapter(self.tmp_path), f"{self.space}/{self.random.choice('ab')}"
        body = package(folder, self.tmp_path, name)
        sources = {
            hash_file(path)[0]: path
            for place in (folder, *self.tmp_path.glob("staging-*"))
            for path in place.iterdir()
            if path.is_file()
        }
        sources = {file.sha256: sources[file.sha256] for file in body.manifest.files}
        upload = self.admin.uploader.upload(sources, "sending", name.partition("/")[0])
        lora = body.lora.model_copy(update={"alpha": body.lora.alpha + 1})
        self.admin.call("POST", "/versions", Published, body=body.model_copy(update={"upload": upload, "lora": lora}))

    def release(self) -> None:
        self.admin.versions.release(self.random.choice(self.admin.search("state = quarantined")).ref)

    def move(self) -> None:
        getattr(self.admin.versions, self.random.choice(["archive", "restore"]))(self.random.choice(self.refs))

    def delete(self) -> None:
        self.admin.versions.delete(self.random.choice(self.refs))

    def delete_quarantined(self) -> None:
        self.admin.versions.delete(self.random.choice(self.admin.search("state = quarantined")).ref)

    def add_data(self) -> None:
        if not self.files or self.random.random() < 0.5:
            path = self.tmp_path / f"rows-{next(SEEDS)}.jsonl"
            path.write_text(f'{{"prompt": "{next(SEEDS)}", "completion": "b"}}\n' * self.random.randint(1, 5))
            self.files.append(path)
        self.admin.datasets.add(self.random.choice(self.files), namespace=self.space)

    def remove_data(self) -> None:
        self.admin.datasets.remove(hash_file(self.random.choice(self.files))[0])

    def add_base(self) -> None:
        if not self.bases or self.random.random() < 0.5:
            self.bases.append(write_base(self.tmp_path / f"base-{next(SEEDS)}", value=next(SEEDS) / 1e6))
        upload = self.random.random() < 0.8
        self.admin.bases.add(self.random.choice(self.bases), namespace=self.space, upload=upload)

    def mend_base(self) -> None:
        space = self.space
        named = [base for base in self.admin.bases() if base.namespace == space]
        base = self.random.choice(named).fingerprint
        if self.random.random() < 0.5:
            self.admin.bases.fix(base, forget_files=True, namespace=space)
        else:
            self.admin.bases.remove(base, namespace=space)

    def train(self) -> None:
        space = self.space
        data = self.admin.datasets.add(self.random.choice(self.files), namespace=space).digest
        submit(self.admin, training(f"{space}/a", data))
        self.jobs.append(Held.claim(self.worker, self.tmp_path, name=f"w{next(SEEDS)}"))

    def checkpoint(self) -> None:
        self.random.choice(self.jobs).checkpoint(self.random.randint(1, 3), 3)

    def report(self) -> None:
        said = [line("x" * self.random.randint(1, 4000)) for _ in range(self.random.randint(1, 9))]
        self.random.choice(self.jobs).report(*said, progress("train", self.random.randint(1, 9)))

    def forget_jobs(self) -> None:
        """Cancel one, and let all that ended long ago expire."""
        if self.jobs and self.random.random() < 0.5:
            held = self.jobs.pop()
            self.admin.jobs.cancel(held.job)
            held.release()
        old = utc_now() - timedelta(days=1000)
        with self.world.services.db.write() as session:
            session.execute(update(Job).where(Job.finished_at.is_not(None)).values(finished_at=old))
            session.execute(update(Attempt).where(Attempt.finished_at.is_not(None)).values(finished_at=old))
            session.execute(update(JobEvent).values(at=old))
            session.execute(update(Version).where(Version.state == "failed").values(created_at=old))
        expiry = self.world.services.expiry
        # Not the whole run, which sets the sums right.
        for step in (expiry._events, expiry._attempts, expiry._jobs, expiry._failed):
            step()

    def complete(self) -> None:
        self.jobs.pop(self.random.randrange(len(self.jobs))).complete()

    def expire_checkpoints(self) -> None:
        with self.world.services.db.write() as session:
            over = db_now(session) - timedelta(hours=1)
            session.execute(update(Checkpoint).where(Checkpoint.expires_at.is_not(None)).values(expires_at=over))
        self.world.services.checkpoints.expire()

    def merge(self) -> None:
        self.admin.submit_merge(self.random.choice(self.refs), onto="original", dtype="float16")
        held = Held.claim(self.worker, self.tmp_path, name=f"w{next(SEEDS)}")
        model = self.tmp_path / "model"
        model.write_bytes(str(self.random.randint(1, 2)).encode())
        sha256, size = hash_file(model)
        files = [ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)]
        merged = MergeResult(
            manifest=Manifest(kind="merged", base_fingerprint=digest("tiny: base"), files=files),
            upload=self.worker.uploader.upload({sha256: model}, "sending", held.assignment.namespace),
            report=MergeReport(onto="original", dtype="float16", metrics={"kl": 0.0}),
        )
        calls.complete(self.worker, held.assignment, merge=merged)

    def score(self) -> None:
        self.admin.submit_evaluation(self.random.choice(self.refs), data=self.random.choice(self.files), only=True)
        held = Held.claim(self.worker, self.tmp_path, name=f"w{next(SEEDS)}")
        # What is scored unasked; a worker of any release may have this job.
        rows = [row.model_copy(update={"scores": {}}) for row in fresh()]
        file = write_file(path := self.tmp_path / "scored", rows)
        (target,) = held.assignment.targets
        upload = self.worker.uploader.upload({file.digest: path}, "sending", held.assignment.namespace)
        result = calls.scored(target, report=report_of(rows, file), upload=upload)
        calls.complete(self.worker, held.assignment, evaluations=[result])

    def begin(self) -> None:
        blobs = [BlobSpec(sha256=digest(f"left {number}"), size_bytes=100 + number) for number in range(5)]
        chosen = self.random.sample(blobs, self.random.randint(1, 3))
        self.sessions.append(begin(self.admin, self.space, *chosen).id)

    def expire_sessions(self) -> None:
        end_time_of(self.world, *self.random.sample(self.sessions, min(2, len(self.sessions))))
        if self.random.random() < 0.5:
            self.world.services.expiry._uploads()
        else:
            self.collect()

    def collect(self) -> None:
        request = GcRequest(dry_run=False, grace_hours=0, keep_merged_days=self.random.choice([None, 1]))
        self.world.services.removal.collect(request=request, who=SYSTEM)

    def retain(self) -> None:
        self.admin.retention.set(f"{self.space}/a", keep_last=1)
        self.collect()
        for space in self.spaces:
            self.admin.retention.clear(f"{space}/a")

    def age_merges(self) -> None:
        with self.world.services.db.write() as session:
            old = utc_now() - timedelta(days=5)
            session.execute(update(Job).where(Job.kind == "merge").values(finished_at=old))
            session.execute(update(ManifestRow).where(ManifestRow.kind == "merged").values(created_at=old))
        self.world.services.removal.collect(request=GcRequest(dry_run=False, keep_merged_days=1), who=SYSTEM)


_STEPS = [
    *(["publish"] * 5), "annotate", "claim_base", "report", "report", "forget_jobs", "put_away", "put_away", "release", "move", "delete", "delete", "delete_quarantined",
    *(["add_data"] * 3), "remove_data", "add_base", "add_base", "mend_base", "train", "checkpoint", "checkpoint",
    "complete", "expire_checkpoints", "merge", "age_merges", "score", "score", "begin", "begin", "expire_sessions", "collect", "retain",
]  # fmt: skip


class TestCounted:
    @pytest.mark.parametrize("seed", range(3))
    def test_the_sums_are_what_is_there_after_every_step(
        self, people: World, admin: Client, space: str, tmp_path: Path, seed: int
    ) -> None:
        play = Play(people, admin, people.worker, (space, f"x-{space}"), tmp_path, random.Random(seed))
        done: dict[str, int] = {}
        history: list[str] = []
        try:
            for _ in range(70):
                step = play.random.choice(_STEPS)
                try:
                    getattr(play, step)()
                    done[step] = done.get(step, 0) + 1
                except (AdapterctlError, IndexError, ValueError) as error:
                    # There is nothing to do it to, or it is refused.
                    step = f"{step}: {type(error).__name__} {error}"
                history.append(step)
                assert differing(people) == {}, history
            assert mismeasured(people.services, *play.spaces) == [], history
        finally:
            play.end()
        assert len(done) > len(set(_STEPS)) // 2, history

    def test_every_kind_is_counted_and_given_back(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        """What is played at random, once in an order that brings about all of it."""
        play = Play(people, admin, people.worker, (space, space), tmp_path, random.Random(1))
        gained = {
            "publish": "versions_bytes", "add_data": "datasets_bytes", "merge": "merged_bytes",
            "score": "evaluations_bytes", "train": None,
            "checkpoint": "checkpoints_bytes", "put_away": "versions_bytes", "begin": "reserved_bytes",
        }  # fmt: skip
        try:
            for step, kind in gained.items():
                before = by_kind(admin.quotas.get(space))
                getattr(play, step)() if step != "put_away" else self._put_away(play)
                after = by_kind(admin.quotas.get(space))
                grown = {name for name in after if after[name] > before.get(name, 0)}
                assert grown == ({kind} if kind else set()), step
                assert differing(people) == {}, step
            admin.bases.add(write_base(tmp_path / "whole", value=next(SEEDS) / 1e6), namespace=space, upload=True)
            assert set(by_kind(admin.quotas.get(space))) == set(BYTES)
            play.release()
            play.checkpoint()
            play.checkpoint()
            play.expire_checkpoints()
            play.age_merges()
            # Looked at before the daily run, which sets right what is wrong.
            assert differing(people) == {}
            assert "merged_bytes" not in by_kind(admin.quotas.get(space))
            end_time_of(people, *play.sessions)
            people.services.expiry.run()
            play.remove_data()
            (base,) = [base for base in admin.bases() if base.namespace == space]
            admin.bases.remove(base.fingerprint, namespace=space)
            for version in [*admin.versions(f"{space}/a"), *admin.versions(f"{space}/b")]:
                admin.versions.delete(version.ref)
            assert set(by_kind(admin.quotas.get(space))) == {"checkpoints_bytes"}
            assert differing(people) == {}
        finally:
            play.end()

    def _put_away(self, play: Play) -> None:
        with pytest.raises(AdapterctlError, match="quarantine"):
            play.put_away()

    def test_sums_that_are_wrong_are_set_right_once_a_day_and_the_log_says_so(
        self, people: World, admin: Client, space: str, tmp_path: Path, rows: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        admin.datasets.add(rows, namespace=f"x-{space}")
        begin(admin, space, blob(50))
        right = [admin.quotas.get(where) for where in (space, f"x-{space}")]
        assert recount(people.services.db, within_s=60) == 0
        with people.services.db.write() as session:
            session.execute(update(Usage).where(Usage.namespace == space).values(adapters=7, versions_bytes=-3))
            session.delete(session.get_one(Usage, f"x-{space}"))
            session.add(Usage(namespace=f"y-{space}", bases_bytes=10))
        assert admin.quotas.get(space).adapters == 7
        assert admin.quotas.get(space).versions_bytes == 0
        with caplog.at_level(logging.WARNING):
            assert people.services.expiry.run()["usage"] == 3
        assert [admin.quotas.get(where) for where in (space, f"x-{space}")] == right
        assert admin.quotas.get(f"y-{space}").size_bytes == 0
        said = [record.getMessage() for record in caplog.records if f"'{space}'" in record.getMessage()]
        (told,) = [line for line in said if "corrected" in line]
        assert "adapters 7 instead of 1, versions_bytes -3 instead of" in told
        assert people.services.expiry.run()["usage"] == 0

    def test_a_count_while_others_publish_takes_nothing_from_them(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str, tmp_path: Path
    ) -> None:
        writers = [acting(**{space: Role.WRITER}) for _ in range(2)]
        folders = [[new_adapter(tmp_path) for _ in range(4)] for _ in writers]
        over = threading.Event()

        def push(number: int) -> None:
            for folder in folders[number]:
                writers[number].push(folder, f"{space}/{number}", base="tiny")

        def count() -> None:
            while not over.is_set():
                with people.services.db.write() as session:
                    session.execute(update(Usage).where(Usage.namespace == space).values(versions_bytes=1))
                recount(people.services.db, within_s=60)

        counter = threading.Thread(target=count)
        counter.start()
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(push, range(2)))
        finally:
            over.set()
            counter.join()
        recount(people.services.db, within_s=60)
        assert differing(people) == {}
        assert admin.quotas.get(space).adapters == 2
