"""Datasets over both databases: a digest is a digest and nothing else, and what is said of one holds where it was said."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import calls
from support.calls import claim
from support.people import submit, training
from support.registries import World
from support.tenants import Tenant

from registry.datasets.models import Dataset, DatasetAccess
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidName, JobFailed, NotFound
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetRegistration, DatasetView
from sdk.schemas.job_requests import DataSource
from sdk.schemas.jobs import JobState, JobView
from sdk.schemas.work import Assignment
from sdk.version import VERSION


class TestDigests:
    @pytest.mark.parametrize("shape", ["{}", "{:.12}", "sha256:{}", "sha256", "SHA256-{:.12}", "{}0", " {} "])
    def test_a_name_that_looks_like_a_digest_is_refused(self, ours: Tenant, shape: str) -> None:
        victim = ours.add(uuid.uuid4().hex)
        for name in (shape.format(victim.digest), shape.format(victim.digest).upper()):
            path = ours.file(uuid.uuid4().hex)
            sha256, size = hash_file(path)
            body = DatasetRegistration.model_construct(
                digest=sha256,
                size_bytes=size,
                format="jsonl",
                rows=1,
                shape=None,
                name=name,
                namespace=ours.space,
                upload=ours.client.uploader.upload({sha256: path}, "sending"),
            )
            with pytest.raises(InvalidInput, match="looks like a digest") as caught:
                ours.client.call("POST", "/datasets", DatasetView, body=body)
            assert caught.value.param == "name"
            with pytest.raises(InvalidName, match="give another name with name="):
                ours.client.datasets.add(path, name=name, namespace=ours.space)
        assert [view.digest for view in ours.client.datasets()] == [victim.digest]

    def test_digits_that_fit_several_are_refused(self, people: World, ours: Tenant) -> None:
        first = ours.add(uuid.uuid4().hex)
        with people.services.db.write() as session:
            row = session.get_one(DatasetAccess, (first.digest, ours.space))
            near = first.digest[:-1] + ("0" if first.digest[-1] != "0" else "1")
            _copy(session, row, near)
        with pytest.raises(InvalidInput, match="more than one dataset; write more digits"):
            ours.client.datasets.locate(first.digest[:20])
        assert ours.located(first.digest) == first.digest

    def test_a_file_that_is_called_like_a_digest_has_no_name_where_nobody_gave_one(self, ours: Tenant) -> None:
        path = ours.file(uuid.uuid4().hex, name="3f1c2a9b7d203f1c")
        with pytest.raises(NotFound, match="no base 'none'"):
            ours.client.submit_training(f"{ours.space}/a", base="none", data=path)
        view = ours.client.datasets.add(path, name="reviews", namespace=ours.space)
        assert (view.name, ours.located("reviews")) == ("reviews", view.digest)


class TestNames:
    def test_a_name_is_one_namespace_s(self, ours: Tenant, theirs: Tenant, admin: Client) -> None:
        name = f"{uuid.uuid4().hex}.jsonl"
        mine = ours.add("mine", name)
        # Newer, and more of them.
        others = [theirs.add(f"theirs {n}", name) for n in range(2)]
        assert ours.located(name) == mine.digest
        assert theirs.located(name) == others[1].digest
        assert ours.client.lineage(f"data:{name}").root == f"data:{mine.digest}"
        for ask in (admin.datasets.locate, lambda text: admin.lineage(f"data:{text}"), admin.datasets.remove):
            with pytest.raises(InvalidInput, match="names several datasets") as caught:
                ask(name)
            assert mine.digest[:12] in caught.value.message
            assert others[1].digest[:12] in caught.value.message
        assert admin.datasets.locate(mine.digest).sha256 == mine.digest

    def test_what_a_stranger_says_of_the_same_bytes_is_said_to_himself(
        self, people: World, ours: Tenant, theirs: Tenant
    ) -> None:
        text = uuid.uuid4().hex
        path = theirs.file(text)
        sha256, size = hash_file(path)
        # First, and wrong in all that the registry doesn't derive.
        body = DatasetRegistration(
            digest=sha256,
            size_bytes=size,
            format="parquet",
            rows=2**20,
            shape="text",
            name="a secret of theirs",
            namespace=theirs.space,
            upload=theirs.client.uploader.upload({sha256: path}, "sending"),
        )
        said = theirs.client.call("POST", "/datasets", DatasetView, body=body)
        mine = ours.add(text, "mine.jsonl")
        assert mine.digest == said.digest
        assert (mine.name, mine.format, mine.rows, mine.shape) == ("mine.jsonl", "jsonl", 1, "prompt-completion")
        assert (mine.namespace, mine.created_at > said.created_at) == (ours.space, True)
        assert ours.client.datasets() == [mine]
        with pytest.raises(NotFound):
            ours.client.datasets.locate(said.name)
        assert theirs.client.datasets() == [said]
        submit(ours.client, training(f"{ours.space}/a", mine.digest))
        worker = people.client(Role.WORKER, namespace=ours.space)
        held = claim(worker)
        worker.close()
        assert held.datasets == {mine.digest: "jsonl"}

    def test_one_dataset_of_two_namespaces_is_listed_once(
        self, people: World, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]
    ) -> None:
        text = uuid.uuid4().hex
        first, second = ours.add(text, "first.jsonl"), theirs.add(text, "second.jsonl")
        both = acting(**{ours.space: Role.WRITER, theirs.space: Role.WRITER})
        assert both.datasets() == [first]
        assert both.datasets.locate("second.jsonl").sha256 == second.digest
        ours.client.datasets.remove(first.digest)
        assert both.datasets() == [second]
        assert both.datasets.locate("second.jsonl").sha256 == second.digest
        again = ours.add(text, "again.jsonl")
        assert (again.name, again.created_at > second.created_at) == ("again.jsonl", True)


class TestRemoval:
    def test_what_strangers_keep_changes_no_answer(self, ours: Tenant, theirs: Tenant) -> None:
        texts = [uuid.uuid4().hex for _ in range(2)]
        alone, shared = (
            ours.add(text, name) for text, name in zip(texts, ("alone.jsonl", "shared.jsonl"), strict=True)
        )
        theirs.add(texts[1])
        for view in (alone, shared):
            ours.client.datasets.remove(view.digest)
            with pytest.raises(NotFound):
                ours.client.datasets.locate(view.digest)
            (node,) = ours.client.lineage(f"data:{view.name}").nodes
            assert node.model_dump(exclude={"key", "digest"}) == {
                "kind": "dataset",
                "name": view.name,
                "rows": 1,
                "removed": True,
            }
        assert theirs.located("rows.jsonl") == shared.digest

    def test_a_job_is_not_given_rows_that_only_a_stranger_kept(
        self, people: World, ours: Tenant, theirs: Tenant
    ) -> None:
        text = uuid.uuid4().hex
        rows = ours.add(text)
        job = ours.client.job(submit(ours.client, training(f"{ours.space}/a", rows.digest)).id)
        theirs.add(text)
        ours.client.datasets.remove(rows.digest)
        worker = people.client(Role.WORKER, namespace=ours.space)
        assert claim(worker) is None
        worker.close()
        assert job.state is JobState.FAILED
        with pytest.raises(JobFailed, match="was removed after the job was submitted"):
            job.wait(5)


def _copy(session, row: DatasetAccess, digest: str) -> None:  # type: ignore[no-untyped-def]
    """Another dataset as a row has it."""
    from registry.artifacts.models import Blob

    session.add(Blob(sha256=digest, size_bytes=1))
    session.flush()
    session.add(Dataset(digest=digest, size_bytes=1, format="jsonl", created_by="x"))
    session.flush()
    session.add(DatasetAccess(digest=digest, namespace=row.namespace, name="near", format="jsonl"))


SPEC: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}


def named(tenant: Tenant, name: str) -> DatasetView:
    return tenant.client.datasets.add(tenant.file(uuid.uuid4().hex), name=name, namespace=tenant.space)


def submitted(tenant: Tenant, data: Any, **options: Any) -> JobView:
    return tenant.client.submit_training(f"{tenant.space}/a", base="tiny", data=data, **SPEC, **options).view


def claim_as(client: Client, version: str = VERSION) -> Assignment | None:
    return calls.claim(client, version=version)


class TestGiven:
    def test_names_digests_and_files_with_weights_are_pinned(self, ours: Tenant) -> None:
        one, two = named(ours, "reviews"), named(ours, "faq")
        file = ours.file(uuid.uuid4().hex)
        request = submitted(ours, {"reviews": 3, two.digest[:12]: 1, file: 0.5}).request
        assert (request["data"], request["data_name"]) == (one.digest, "reviews@v1")
        third = ours.client.datasets.get("rows.jsonl")
        assert request["sources"] == [
            {"data": one.digest, "data_name": "reviews@v1", "weight": 3.0},
            {"data": two.digest, "data_name": "faq@v1", "weight": 1.0},
            {"data": third.digest, "data_name": "rows.jsonl@v1", "weight": 0.5},
        ]
        without = submitted(ours, ["faq", "reviews@v1"]).request
        assert [(each["data"], each["weight"]) for each in without["sources"]] == [
            (two.digest, None),
            (one.digest, None),
        ]
        # One alone is what it always was.
        assert "sources" not in submitted(ours, ["faq"]).request

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"reviews": 0, "faq": 1}, "the weight of reviews is '0'; give a number above 0"),
            ({"reviews": float("nan"), "faq": 1}, "the weight of reviews is 'nan'"),
            ({"reviews": "much", "faq": 1}, "the weight of reviews is 'much'"),
            ({"reviews": True, "faq": 1}, "the weight of reviews is 'True'"),
            ({"reviews": 2}, "a weight is relative to those of other datasets, and there is only one dataset; leave it out"),
            ([], "a training has 1 to 32 datasets, not 0"),
            (["reviews"] * 33, "a training has 1 to 32 datasets, not 33"),
            (["reviews", 7], "'7' is not a dataset; give a file, a name or a digest"),
            (7, "'7' is not a dataset"),
            (["reviews", "reviews@v1"], "reviews and reviews@v1 are the same rows; give them once, with a weight"),
            (["reviews", "labels"], "the dataset labels@v1 has text-label rows, and the dataset reviews@v1 prompt-completion rows"),
        ],
    )  # fmt: skip
    def test_what_can_t_be_is_refused_before_a_job_is(
        self, ours: Tenant, given: Any, said: str, tmp_path: Path
    ) -> None:
        for name in ("reviews", "faq"):
            named(ours, name)
        labels = tmp_path / "labels.jsonl"
        labels.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
        ours.client.datasets.add(labels, name="labels", namespace=ours.space)
        with pytest.raises(InvalidInput) as caught:
            submitted(ours, given)
        assert said in caught.value.message
        assert caught.value.param == "data"
        assert ours.client.jobs() == []

    def test_files_of_the_same_bytes_are_refused_before_anything_is_registered(
        self, ours: Tenant, tmp_path: Path
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / f"{name}.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
        with pytest.raises(InvalidInput, match="are the same rows; give them once"):
            submitted(ours, [tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
        for name in ("one", "two"):
            with pytest.raises(NotFound):
                ours.client.datasets.get(f"{name}.jsonl")

    def test_each_must_be_the_caller_s_to_use(self, ours: Tenant, theirs: Tenant) -> None:
        mine, other = named(ours, "reviews"), named(theirs, "secret")
        with pytest.raises(NotFound, match="no file and no dataset 'secret'"):
            submitted(ours, ["reviews", "secret"])
        body = training(f"{ours.space}/a", mine.digest)
        sources = [DataSource(data=mine.digest), DataSource(data=other.digest)]
        request = body.request.model_copy(update={"sources": sources})
        with pytest.raises(NotFound, match="no dataset"):
            submit(ours.client, body.model_copy(update={"request": request}))

    def test_another_s_name_of_one_is_not_kept(
        self, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]
    ) -> None:
        named(ours, "reviews")
        named(theirs, "a secret of theirs")
        both = acting(**{ours.space: Role.WRITER, theirs.space: Role.READER})
        job = both.submit_training(f"{ours.space}/a", base="tiny", data=["reviews", "a secret of theirs"], **SPEC)
        assert [source.get("data_name") for source in job.view.request["sources"]] == ["reviews@v1", None]


class TestClaimed:
    def test_a_worker_is_given_all_of_them_and_a_removed_one_ends_the_job(
        self, ours: Tenant, acting: Callable[..., Client]
    ) -> None:
        worker = acting(**{ours.space: Role.WORKER})
        views = [named(ours, name) for name in ("reviews", "faq")]
        submitted(ours, ["reviews", "faq"])
        held = claim_as(worker)
        assert held.datasets == {view.digest: "jsonl" for view in views}
        gone = submitted(ours, {"reviews": 1, "faq": 2})
        ours.client.datasets.remove("faq")
        assert claim_as(worker) is None
        failed = ours.client.job(gone.id).view
        assert f"the dataset {views[1].digest[:12]} was removed" in (failed.message or "")
        # Nor is it tried again.
        with pytest.raises(NotFound):
            ours.client.jobs.retry(gone.id)
