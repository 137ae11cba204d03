"""Datasets over both databases: a digest is a digest and nothing else, and what is said of one holds where it was said."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from support.people import claim, submit, training
from support.registries import World
from support.tenants import Tenant

from registry.datasets.models import Dataset, DatasetAccess
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidName, JobFailed, NotFound
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetRegistration, DatasetView
from sdk.schemas.jobs import JobState


@pytest.fixture
def ours(join: Callable[[], Tenant]) -> Tenant:
    return join()


@pytest.fixture
def theirs(join: Callable[[], Tenant]) -> Tenant:
    return join()


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
                upload=ours.client.upload({sha256: path}, "sending"),
            )
            with pytest.raises(InvalidInput, match="looks like a digest") as caught:
                ours.client.call("POST", "/datasets", DatasetView, body=body)
            assert caught.value.param == "name"
            with pytest.raises(InvalidName, match="give another name with --name"):
                ours.client.add_data(path, name=name, namespace=ours.space)
        assert [view.digest for view in ours.client.datasets()] == [victim.digest]

    def test_digits_that_fit_several_are_refused(self, people: World, ours: Tenant) -> None:
        first = ours.add(uuid.uuid4().hex)
        with people.services.db.write() as session:
            row = session.get_one(DatasetAccess, (first.digest, ours.space))
            near = first.digest[:-1] + ("0" if first.digest[-1] != "0" else "1")
            _copy(session, row, near)
        with pytest.raises(InvalidInput, match="more than one dataset; write more digits"):
            ours.client.locate_data(first.digest[:20])
        assert ours.located(first.digest) == first.digest

    def test_a_file_that_is_called_like_a_digest_has_no_name_where_nobody_gave_one(self, ours: Tenant) -> None:
        path = ours.file(uuid.uuid4().hex, name="3f1c2a9b7d203f1c")
        with pytest.raises(NotFound, match="no base 'none'"):
            ours.client.submit_training(f"{ours.space}/a", base="none", data=path)
        view = ours.client.add_data(path, name="reviews", namespace=ours.space)
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
        for ask in (admin.locate_data, lambda text: admin.lineage(f"data:{text}"), admin.remove_data):
            with pytest.raises(InvalidInput, match="names several datasets") as caught:
                ask(name)
            assert mine.digest[:12] in caught.value.message
            assert others[1].digest[:12] in caught.value.message
        assert admin.locate_data(mine.digest).sha256 == mine.digest

    def test_the_newest_of_a_namespace_has_the_name_until_it_is_given_up(self, ours: Tenant) -> None:
        old, new = (ours.add(text) for text in ("old", "new"))
        assert ours.located("rows.jsonl") == new.digest
        ours.client.remove_data("rows.jsonl")
        assert ours.located("rows.jsonl") == old.digest

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
            upload=theirs.client.upload({sha256: path}, "sending"),
        )
        said = theirs.client.call("POST", "/datasets", DatasetView, body=body)
        mine = ours.add(text, "mine.jsonl")
        assert mine.digest == said.digest
        assert (mine.name, mine.format, mine.rows, mine.shape) == ("mine.jsonl", "jsonl", 1, "prompt-completion")
        assert (mine.namespace, mine.created_at > said.created_at) == (ours.space, True)
        assert ours.client.datasets() == [mine]
        with pytest.raises(NotFound):
            ours.client.locate_data(said.name)
        assert theirs.client.datasets() == [said]
        submit(ours.client, training(f"{ours.space}/a", mine.digest))
        worker = people.client(Role.WORKER, namespace=ours.space)
        held = claim(worker)
        worker.close()
        assert held is not None
        assert held.datasets == {mine.digest: "jsonl"}

    def test_one_dataset_of_two_namespaces_is_listed_once(
        self, people: World, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]
    ) -> None:
        text = uuid.uuid4().hex
        first, second = ours.add(text, "first.jsonl"), theirs.add(text, "second.jsonl")
        both = acting(**{ours.space: Role.WRITER, theirs.space: Role.WRITER})
        assert both.datasets() == [first]
        assert both.locate_data("second.jsonl").sha256 == second.digest
        ours.client.remove_data(first.digest)
        assert both.datasets() == [second]
        assert both.locate_data("second.jsonl").sha256 == second.digest
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
            ours.client.remove_data(view.digest)
            with pytest.raises(NotFound):
                ours.client.locate_data(view.digest)
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
        ours.client.remove_data(rows.digest)
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
