"""Previews as jobs: what is asked for is pinned, and what a worker shows is of those rows, rendered so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support import calls
from support.adapters import ASKED, SPEC, digest, use_of
from support.people import new_adapter, submit
from support.registries import World
from support.trainings import save_jsonl

from registry.db.types import utc_now
from registry.jobs.models import Job as JobRow
from registry.principal import Role
from sdk.client import Client
from sdk.errors import (
    AdapterctlError,
    InvalidBase,
    InvalidData,
    InvalidInput,
    JobFailed,
    NotAllowed,
    NotFound,
    VerificationFailed,
)
from sdk.objects import Job
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.preview import MOST_JOB_BYTES, Preview, PreviewText
from sdk.schemas.recorded import Rendering
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import Wire
from sdk.schemas.work import Assignment
from sdk.version import VERSION
from workers.kinds.known import require_pinned
from workers.kinds.preview import within

TRAINED = {**ASKED, "loss_on": "completion", "max_length": 256}


def text(row: int, said: str = "a b", **changed: Any) -> PreviewText:
    """What is shown of a row: all after its first word is learnt."""
    start = said.index(" ")
    told = {"row": row, "where": f"line {row}", "text": said, "tokens": 2, "supervised_tokens": 1, "stop": None}
    told |= {"supervised": [[start, len(said)]], "supervised_text": said[start:], "cut_tokens": 0, "cut_text": ""}
    return PreviewText(**{**told, "method": None, **changed})


def shown(*texts: PreviewText, **changed: Any) -> Preview:
    told = {"shape": "prompt", "loss_on": "completion", "max_length": 1024, "file_rows": 2, "totals": None}
    return Preview(**{**told, "rendering": Rendering(), "rows": list(texts), **changed})


class Unchecked(Wire):
    """A submission that only the registry looks at."""

    request: Any
    priority: int = 0
    timeout_s: float | None = None
    needs: Any = None


@dataclass
class Desk:
    """A namespace with a writer and a worker, who has one job at a time."""

    world: World
    writer: Client
    worker: Client
    space: str
    rows: Path
    tmp_path: Path

    def claim(self, **about: Any) -> Assignment | None:
        return calls.claim(self.worker, **{"name": f"w-{self.space}", "queues": ["cpu"], **about})

    def hold(self) -> Assignment:
        return self.claim()

    def complete(self, held: Assignment, **result: Any) -> JobView:
        return calls.complete(self.worker, held, **result)

    def version(self, writer: Client | None = None, space: str | None = None, **options: Any) -> str:
        """Train a version on rows of a namespace, as a worker says it did; return its ref."""
        spec = TrainingSpec.model_validate({**TrainingSpec.model_validate(SPEC).model_dump(), **options})
        writer = writer or self.writer
        sent = writer.datasets.add(self.rows, namespace=space or self.space).digest
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        name = f"{self.space}/a"
        submit(
            writer,
            JobSubmission(
                request=TrainingRequest(adapter=name, base=base, data=sent, spec=spec, template_date="2026-03-04")
            ),
        )
        held = self.claim(queues=["gpu"], version=VERSION)
        use = use_of(sent).model_copy(update={"rendering": Rendering(template_date="2026-03-04")})
        said = {"dataset": use, "training": {**TRAINED, **options}, "metrics": {"loss": 1.0}}
        publication = calls.publication(self.worker, new_adapter(self.tmp_path), name, **said)
        return (self.complete(held, version=publication).result or {})["ref"]


@pytest.fixture
def desk(people: World, acting: Callable[..., Client], space: str, tmp_path: Path) -> Desk:
    rows = save_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{n} {space}", "completion": "b"} for n in "12"])
    writer = acting(**{space: Role.WRITER})
    return Desk(people, writer, acting(**{space: Role.WORKER}), space, rows, tmp_path)


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.usefixtures("without_extra")
class TestWithoutTheExtra:
    def test_a_worker_shows_the_rows_of_a_file(self, desk: Desk) -> None:
        wanted = shown(text(1), text(2))

        def work(job: Job[Preview]) -> None:
            held = desk.hold()
            require_pinned(held)
            request = held.request
            assert (held.job, held.namespace, request.kind) == (job.id, desk.space, "preview")
            assert (held.base and held.base.fingerprint) == digest("tiny: base")
            assert (request.base and request.base.fingerprint) == digest("tiny: base")
            assert request.data in held.datasets
            assert request.template_date == job.view.created_at.date().isoformat()
            assert (request.rows, request.row, request.loss_on, request.max_length) == (3, None, None, 1024)
            assert desk.complete(held, preview=wanted).state == "succeeded"

        assert desk.writer.preview(desk.rows, base="tiny", on_job=work) == wanted
        # Lists of jobs would be long, and whoever has a job from one asks again.
        job = next(job for job in desk.writer.jobs() if job.view.kind == "preview")
        assert job.view.result is None
        assert job.result() == wanted

    def test_what_a_version_held_out_is_asked_for_as_its_record_says(self, desk: Desk) -> None:
        held_out = {"holdout": 0.5, "holdout_by": "prompt", "holdout_seed": 3}
        job = desk.writer.datasets.submit_preview(of=desk.version(**held_out))
        held = desk.claim(version=VERSION)
        request = held.request
        assert {name: getattr(request, name) for name in held_out} == held_out
        assert job.view.request["holdout"] == 0.5
        of_file = desk.writer.datasets.submit_preview(desk.rows, base="tiny", **held_out)
        assert {name: of_file.view.request[name] for name in held_out} == held_out
        with pytest.raises(InvalidInput, match="give holdout, such as"):
            desk.writer.datasets.submit_preview(desk.rows, base="tiny", holdout_by="prompt")

    def test_a_job_that_fails_says_why(self, desk: Desk) -> None:
        def work(job: Job[Preview]) -> None:
            held = desk.hold()
            calls.fail(desk.worker, held, "data", "line 2 holds `name`")

        with pytest.raises(JobFailed, match="line 2 holds `name`"):
            desk.writer.preview(desk.rows, base="tiny", on_job=work)

    @pytest.mark.parametrize(
        ("asked", "error", "said"),
        [
            ({"rows": 101}, InvalidInput, "at most 100 rows"),
            ({"rows": 0}, InvalidInput, "rows"),
            ({"row": 0}, InvalidInput, "row"),
            ({"max_length": 2}, InvalidInput, "max_length"),
            ({"file": "none.jsonl"}, NotFound, "check the path of the dataset"),
            ({"file": "bad.jsonl"}, InvalidData, "line 1"),
            ({"base": "none"}, NotFound, "none"),
            ({"base": "./none"}, AdapterctlError, "none"),
            ({"of": "a@v1"}, InvalidInput, "give either a file of rows"),
        ],
    )
    def test_what_is_wrong_is_said_before_a_job_is_made(
        self, desk: Desk, asked: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        (desk.tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b", "id": 1}\n')
        given = {"file": desk.rows, "base": "tiny", **asked}
        if "file" in asked:
            given["file"] = desk.tmp_path / asked["file"]
        with pytest.raises(error, match=said):
            desk.writer.preview(given.pop("file"), **given)
        assert desk.writer.jobs() == []
        assert desk.writer.datasets() == []


class TestVersions:
    """Here, the libraries may be installed, but the files of the base are not."""

    def test_of_a_version_its_record_says_all(self, desk: Desk) -> None:
        ref = desk.version()
        version = desk.writer.get(ref).info

        def work(job: Job[Preview]) -> None:
            held = desk.hold()
            request = held.request
            assert (request.of, request.data) == (ref, (version.dataset and version.dataset.digest))
            assert (request.loss_on, request.max_length, request.row) == ("completion", 256, 2)
            assert request.template_date == "2026-03-04"
            assert job.view.subject == ref
            desk.complete(held, preview=shown(text(2), max_length=256))

        assert desk.writer.preview(of=ref, row=2, on_job=work).rows == [text(2)]


class TestWhoMay:
    def test_readers_may_not(self, desk: Desk, acting: Callable[..., Client]) -> None:
        ref = desk.version()
        reader = acting(**{desk.space: Role.READER})
        with pytest.raises(NotAllowed):
            reader.datasets.submit_preview(of=ref)
        with pytest.raises(NotAllowed):
            reader.datasets.submit_preview(desk.rows, base="tiny")

    def test_others_rows_and_rows_that_were_given_up_are_told_apart(
        self, desk: Desk, acting: Callable[..., Client]
    ) -> None:
        both = acting(**{desk.space: Role.WRITER, f"{desk.space}-b": Role.WRITER})
        ref = desk.version(both, f"{desk.space}-b")
        others = r"of .*/a@v1 is in no namespace that this token may read; ask an admin for .* adapterctl token create"
        with pytest.raises(NotFound, match=others) as caught:
            desk.writer.preview(of=ref)
        assert caught.value.param == "of"
        both.datasets.remove(desk.rows.name)
        with pytest.raises(NotFound, match=r"/a@v1 was removed; add its file again with: adapterctl data add FILE"):
            both.preview(of=ref)

    def test_rows_of_another_namespace_are_shown_to_nobody_by_a_job(
        self, desk: Desk, acting: Callable[..., Client]
    ) -> None:
        both = acting(**{desk.space: Role.WRITER, f"{desk.space}-b": Role.WRITER})
        ref = desk.version(both, f"{desk.space}-b")
        with pytest.raises(InvalidInput, match=f"belong to another namespace than {desk.space}") as caught:
            both.datasets.submit_preview(of=ref)
        assert caught.value.param == "data"

    @pytest.mark.parametrize("how", ["given up", "old"])
    def test_what_was_shown_goes_with_the_rows_and_with_time(self, desk: Desk, how: str) -> None:
        job = desk.writer.datasets.submit_preview(desk.rows, base="tiny")
        desk.complete(desk.hold(), preview=shown(text(1), text(2)))
        services = desk.world.services
        services.expiry.run()
        assert job.result() == shown(text(1), text(2))
        if how == "given up":
            desk.writer.datasets.remove(desk.rows.name)
        else:
            with services.db.write() as session:
                session.execute(
                    update(JobRow).where(JobRow.id == job.id).values(finished_at=utc_now() - timedelta(days=8))
                )
        assert services.expiry.run()["previews"] >= 1
        with pytest.raises(NotFound, match="preview the rows again"):
            desk.writer.job(job.id).result()

    @pytest.mark.parametrize("wrong", ["data", "base", "none", "hub"])
    def test_a_request_that_contradicts_a_version_is_refused(self, desk: Desk, wrong: str) -> None:
        ref = desk.version()
        version = desk.writer.get(ref).info
        other = desk.tmp_path / "other.jsonl"
        other.write_text(json.dumps({"text": desk.space}) + "\n")
        data = desk.writer.datasets.add(other).digest if wrong == "data" else version.dataset.digest
        base = {"base": {"id": "-", "fingerprint": "ab" * 32}, "hub": {"id": "org/x", "revision": "0" * 40}}.get(wrong)
        of = {} if wrong in ("none", "hub") else {"of": ref}
        request = {"kind": "preview", "data": data, **of, **({} if base is None else {"base": base})}
        with pytest.raises((InvalidInput, InvalidBase)) as caught:
            desk.writer.call("POST", "/jobs", JobView, body=Unchecked(request=request))
        said = {
            "data": "these rows",
            "base": "this base",
            "none": "needs a base or a version",
            "hub": "a registered base",
        }
        assert said[wrong] in caught.value.message


class TestResults:
    @pytest.mark.parametrize(
        ("asked", "param", "preview"),
        [
            ({}, "rows", shown(text(1))),
            ({}, "rows", shown(text(2), text(1))),
            ({}, "rows", shown(text(1), text(2), text(3))),
            ({}, "rows", shown(text(2), left_out=1)),
            ({}, "rows", shown(text(1), text(2), left_out=-1)),
            ({}, "rows", shown()),
            ({"row": 1}, "rows", shown(text(2))),
            ({"row": 1}, "rows", shown(text(1), text(2))),
            ({"loss_on": "completion"}, "loss_on", shown(text(1), text(2), loss_on="all")),
            ({"max_length": 64}, "max_length", shown(text(1), text(2))),
            ({}, "template_date", shown(text(1), text(2), rendering=Rendering(template_date="2001-01-01"))),
            ({}, "supervised_text of row 2", shown(text(1), text(2, supervised_text="of others"))),
            ({}, "supervised_text of row 1", shown(text(1, supervised=[[2, 1]], supervised_text=""), text(2))),
            ({}, "supervised_text of row 1", shown(text(1, supervised=[[1, 9]], supervised_text=" b"), text(2))),
        ],
    )
    def test_one_of_other_rows_or_otherwise_rendered_is_refused(
        self, desk: Desk, asked: dict[str, Any], param: str, preview: Preview
    ) -> None:
        job = desk.writer.datasets.submit_preview(desk.rows, base="tiny", **asked)
        held = desk.hold()
        with pytest.raises(VerificationFailed, match="not what the job asked for") as caught:
            desk.complete(held, preview=preview)
        assert caught.value.param == param
        assert job.state == "running"

    def test_one_without_a_preview_or_too_long_is_refused(self, desk: Desk) -> None:
        desk.writer.datasets.submit_preview(desk.rows, base="tiny", rows=1)
        held = desk.hold()
        with pytest.raises(InvalidInput, match="must have what it shows"):
            desk.complete(held)
        long = shown(text(1, "a " + "b" * MOST_JOB_BYTES))
        with pytest.raises(InvalidInput, match="at most 1048576 bytes"):
            desk.complete(held, preview=long)
        assert desk.complete(held, preview=within(long)).result == {
            "preview": shown(left_out=1).model_dump(mode="json")
        }

    def test_a_row_that_became_several_texts_is_one_row(self, desk: Desk) -> None:
        job = desk.writer.datasets.submit_preview(desk.rows, base="tiny")
        assert desk.complete(desk.hold(), preview=shown(text(1), text(1), text(2))).state == "succeeded"
        assert [each.row for each in job.result().rows] == [1, 1, 2]

    def test_what_waits_for_a_worker_says_so(self, desk: Desk) -> None:
        job = desk.writer.datasets.submit_preview(desk.rows, base="tiny")
        assert desk.claim(kinds=["merge"]) is None
        assert desk.writer.jobs.view(job.id).queue == "cpu"
        assert desk.writer.jobs.view(job.id).waits
