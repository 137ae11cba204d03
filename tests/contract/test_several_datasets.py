"""Trainings on several datasets: given by names, digests and files with weights, pinned, recorded, and found by each of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.people import submit, training
from support.tenants import Tenant

from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.job_requests import DataSource
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo
from sdk.version import VERSION

SPEC: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}


@pytest.fixture
def ours(join: Callable[[], Tenant]) -> Tenant:
    return join()


@pytest.fixture
def theirs(join: Callable[[], Tenant]) -> Tenant:
    return join()


def named(tenant: Tenant, name: str) -> DatasetView:
    return tenant.client.add_data(tenant.file(uuid.uuid4().hex), name=name, namespace=tenant.space)


def submitted(tenant: Tenant, data: Any, **options: Any) -> JobView:
    return tenant.client.submit_training(f"{tenant.space}/a", base="tiny", data=data, **SPEC, **options).view


def claim(client: Client, version: str = VERSION) -> Assignment | None:
    info = WorkerInfo(name="w1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33, version=version)
    return client.call("POST", "/jobs/claim", Assignment | None, body=ClaimRequest(worker=info))  # type: ignore[arg-type]


class TestGiven:
    def test_names_digests_and_files_with_weights_are_pinned(self, ours: Tenant) -> None:
        one, two = named(ours, "reviews"), named(ours, "faq")
        file = ours.file(uuid.uuid4().hex)
        request = submitted(ours, {"reviews": 3, two.digest[:12]: 1, file: 0.5}).request
        assert (request["data"], request["data_name"]) == (one.digest, "reviews@v1")
        third = ours.client.dataset("rows.jsonl")
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
        ours.client.add_data(labels, name="labels", namespace=ours.space)
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
                ours.client.dataset(f"{name}.jsonl")

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
        held = claim(worker)
        assert held is not None
        assert held.datasets == {view.digest: "jsonl" for view in views}
        gone = submitted(ours, {"reviews": 1, "faq": 2})
        ours.client.remove_data("faq")
        assert claim(worker) is None
        failed = ours.client.job(gone.id).view
        assert f"the dataset {views[1].digest[:12]} was removed" in (failed.message or "")
        # Nor is it tried again.
        with pytest.raises(NotFound):
            ours.client.retry_job(gone.id)
