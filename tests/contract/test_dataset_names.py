"""Names of datasets over both databases: numbered in a namespace, taken wherever rows are, and pulled back byte for byte."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.people import submit, training
from support.registries import World
from support.tenants import Tenant

from registry.principal import Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidData, InvalidInput, InvalidName, NotFound, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetView

SPEC: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Client]:
    client = Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache")
    yield client
    client.close()


def named(tenant: Tenant, text: str, name: str) -> DatasetView:
    return tenant.client.datasets.add(tenant.file(text), name=name, namespace=tenant.space)


class TestNumbers:
    def test_new_rows_are_the_next_number_and_the_same_rows_keep_theirs(self, ours: Tenant) -> None:
        texts = [uuid.uuid4().hex for _ in range(3)]
        views = [named(ours, text, "reviews") for text in (texts[0], texts[1], texts[0], texts[2], texts[1])]
        assert [view.exact_name for view in views] == [f"reviews@v{number}" for number in (1, 2, 1, 3, 2)]
        assert [ours.located(f"reviews@v{number}") for number in (1, 2, 3)] == [views[at].digest for at in (0, 1, 3)]
        assert ours.located("reviews") == views[3].digest
        assert ours.client.datasets.get("reviews").exact_name == "reviews@v3"
        with pytest.raises(NotFound, match="no dataset 'reviews@v4'"):
            ours.client.datasets.get("reviews@v4")

    def test_a_number_means_its_rows_also_when_they_were_removed_meanwhile(self, ours: Tenant) -> None:
        first, second = uuid.uuid4().hex, uuid.uuid4().hex
        named(ours, first, "reviews")
        gone = named(ours, second, "reviews")
        ours.client.datasets.remove("reviews@v2")
        assert ours.client.datasets.get("reviews").number == 1
        with pytest.raises(NotFound):
            ours.client.datasets.get("reviews@v2")
        assert named(ours, uuid.uuid4().hex, "reviews").number == 3
        again = named(ours, second, "reviews")
        assert (again.number, again.digest) == (2, gone.digest)
        assert ours.client.datasets.get("reviews").number == 3

    def test_rows_may_have_several_names(self, ours: Tenant) -> None:
        text = uuid.uuid4().hex
        for name in ("rows.jsonl", "reviews", "rows.jsonl"):
            view = named(ours, text, name)
            assert view.exact_name == f"{name}@v1"
        assert view.names == ["reviews@v1", "rows.jsonl@v1"]
        assert ours.located("reviews") == ours.located("rows.jsonl") == view.digest
        assert [(one.name, one.names) for one in ours.client.datasets()] == [("reviews", view.names)]

    def test_one_name_of_several_goes_and_the_rows_stay_for_the_others(self, ours: Tenant) -> None:
        text = uuid.uuid4().hex
        view = [named(ours, text, name) for name in ("rows.jsonl", "reviews")][-1]
        ours.client.datasets.remove("rows.jsonl@v1", only_name=True)
        assert ours.client.datasets.get("reviews").names == ["reviews@v1"]
        with pytest.raises(NotFound):
            ours.client.datasets.remove("rows.jsonl@v1", only_name=True)
        # Its number never means other rows.
        assert named(ours, uuid.uuid4().hex, "rows.jsonl").number == 2
        assert named(ours, text, "rows.jsonl").number == 3
        ours.client.datasets.remove("rows.jsonl@v3", only_name=True)
        assert ours.located(view.digest) == view.digest
        # The last name, and a digest, are the rows.
        with pytest.raises(Conflict, match="'reviews' is the only name of these rows"):
            ours.client.datasets.remove("reviews", only_name=True)
        with pytest.raises(InvalidInput, match="a digest means the rows by all their names"):
            ours.client.datasets.remove(view.digest, only_name=True)
        assert ours.located(view.digest) == view.digest

    def test_name_that_is_the_only_one_elsewhere_goes_only_where_the_rows_have_another(
        self, join: Callable[..., Tenant], people: World
    ) -> None:
        ours, theirs = join(), join()
        text, name = uuid.uuid4().hex, f"rows-{uuid.uuid4().hex}"
        for tenant, each in ((ours, "reviews"), (ours, name), (theirs, name)):
            view = named(tenant, text, each)
        people.admin.datasets.remove(name, only_name=True)
        assert people.admin.datasets.get(view.digest, namespace=ours.space).names == ["reviews@v1"]
        # Nobody was asked about the rows there.
        assert theirs.client.datasets.get(name).digest == view.digest

    @pytest.mark.parametrize("name", ["отзывы.jsonl", "é", "日本 語", "a%2Fb", "a?b#c", "x" * 200])
    def test_a_name_may_be_of_any_alphabet(self, ours: Tenant, embedded: Client, tmp_path: Path, name: str) -> None:
        for client, space in ((ours.client, ours.space), (embedded, "-")):
            view = client.datasets.add(ours.file(uuid.uuid4().hex), name=name, namespace=space)
            assert client.datasets.get(f"{name}@v1", namespace=space).digest == view.digest
            client.datasets.pull(name, tmp_path / space, overwrite=True)
            assert hash_file(tmp_path / space)[0] == view.digest

    def test_numbers_are_one_namespace_s(self, ours: Tenant, theirs: Tenant) -> None:
        text = uuid.uuid4().hex
        for other in range(3):
            named(theirs, f"{text}{other}", "reviews")
        mine = named(ours, text, "reviews")
        assert mine.number == 1
        assert ours.client.datasets.get("reviews").digest == mine.digest
        assert theirs.client.datasets.get("reviews").number == 3
        with pytest.raises(NotFound):
            ours.client.datasets.get("reviews@v2")

    def test_a_namespace_s_own_name_is_meant_before_others(
        self, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]
    ) -> None:
        mine, other = (named(tenant, uuid.uuid4().hex, "reviews") for tenant in (ours, theirs))
        both = acting(**{ours.space: Role.WRITER, theirs.space: Role.WRITER})
        assert both.datasets.get("reviews", namespace=ours.space).digest == mine.digest
        assert both.datasets.get("reviews@v1", namespace=theirs.space).digest == other.digest
        with pytest.raises(InvalidInput, match="names several datasets"):
            both.datasets.get("reviews")

    def test_many_at_once_get_numbers_without_a_gap(self, ours: Tenant) -> None:
        found: list[int | None] = []
        many = [
            threading.Thread(target=lambda: found.append(named(ours, uuid.uuid4().hex, "reviews").number))
            for _ in range(6)
        ]
        for each in many:
            each.start()
        for each in many:
            each.join()
        assert sorted(number or 0 for number in found) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize(
        "name",
        ["", " ", "reviews@v2", "a/b", "./a", "~a", "https:b/c", ".", "..", "3f1c2a9b", "a\u200bb", "r\u0435views"],
    )
    def test_a_name_that_reads_as_something_else_is_refused(self, ours: Tenant, name: str) -> None:
        with pytest.raises(InvalidName, match="give another name with name="):
            named(ours, "a", name)
        path = ours.file(uuid.uuid4().hex, "rows@v2")
        assert ours.client.datasets.add(path, namespace=ours.space, name="fine").names == ["fine@v1"]


class TestOneNamespace:
    """What several namespaces call the same is said with the namespace, where a digest would do as well."""

    @pytest.fixture
    def both(self, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]) -> Client:
        return acting(**{ours.space: Role.WRITER, theirs.space: Role.WRITER})

    def test_rows_are_located_and_pulled_by_it(
        self, ours: Tenant, theirs: Tenant, both: Client, tmp_path: Path
    ) -> None:
        mine, other = (named(tenant, uuid.uuid4().hex, "reviews") for tenant in (ours, theirs))
        with pytest.raises(InvalidInput, match="names several datasets"):
            both.datasets.pull("reviews", tmp_path / "rows")
        for space, view in ((ours.space, mine), (theirs.space, other)):
            assert both.datasets.locate("reviews", namespace=space).sha256 == view.digest
            assert both.datasets.pull("reviews", tmp_path / space, namespace=space).digest == view.digest
        ours.client.datasets.remove("reviews")
        for ask in (
            lambda: both.datasets.locate("reviews", namespace=ours.space),
            lambda: both.datasets.locate(other.digest, namespace=ours.space),
            lambda: both.datasets.pull("reviews", tmp_path / "rows", namespace=ours.space),
        ):
            with pytest.raises(NotFound, match=f"in the namespace '{ours.space}'"):
                ask()
        with pytest.raises(NotFound, match="no namespace 'secret' that this token may see"):
            both.datasets.locate("reviews", namespace="secret")

    def test_rows_are_removed_from_it_alone(self, ours: Tenant, theirs: Tenant, both: Client) -> None:
        text = uuid.uuid4().hex
        mine, other = (named(tenant, text, "reviews") for tenant in (ours, theirs))
        assert mine.digest == other.digest
        different = named(theirs, uuid.uuid4().hex, "reviews")
        with pytest.raises(InvalidInput, match="names several datasets"):
            both.datasets.remove("reviews")
        both.datasets.remove("reviews", namespace=ours.space)
        assert [view.digest for view in ours.client.datasets()] == []
        assert theirs.client.datasets.get("reviews@v1").digest == other.digest
        both.datasets.remove(other.digest, namespace=theirs.space)
        assert [view.digest for view in theirs.client.datasets()] == [different.digest]


class TestSearchAndLineage:
    def test_a_dataset_is_found_by_each_of_its_names(self, ours: Tenant) -> None:
        view = named(ours, uuid.uuid4().hex, "first")
        named(ours, uuid.uuid4().hex, "second")
        ours.client.datasets.add(next(iter(ours.folder.glob(f"{ours.space}-*/rows.jsonl"))), namespace=ours.space)
        for text in view.names:
            assert ours.client.lineage(f"data:{text}").root == f"data:{view.digest}"


class TestGiven:
    """What `data=` takes."""

    def test_a_name_or_digest_of_a_dataset_is_what_is_trained_on(
        self, ours: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        old, new = (named(ours, uuid.uuid4().hex, "reviews") for _ in range(2))

        def trained(data: str, eval_data: str | None = None) -> dict[str, Any]:
            job = ours.client.submit_training(f"{ours.space}/a", base="tiny", data=data, eval_data=eval_data, **SPEC)
            keys = ("data", "data_name", "eval_data", "eval_data_name")
            return {key: job.view.request.get(key) for key in keys}

        assert trained("reviews", "reviews@v1") == {
            "data": new.digest,
            "data_name": "reviews@v2",
            "eval_data": old.digest,
            "eval_data_name": "reviews@v1",
        }
        for digest in (old.digest, old.digest[:12], f"sha256:{old.digest}"):
            assert trained(digest)["data"] == old.digest
        # A file that is there comes before a name, and is then that name's next number.
        (tmp_path / "reviews").write_text(f'{{"text": "{uuid.uuid4().hex}"}}\n')
        assert trained("reviews")["data_name"] == "reviews@v3"
        assert trained("reviews@v2")["data"] == new.digest

    def test_an_evaluation_and_a_preview_take_them_too(self, ours: Tenant) -> None:
        view = named(ours, uuid.uuid4().hex, "reviews")
        score = ours.client.submit_evaluation("base:tiny", data="reviews")
        assert (score.view.request["data"], score.view.request["data_name"]) == (view.digest, "reviews@v1")
        shown = ours.client.datasets.submit_preview(view.digest[:12], base="tiny")
        assert (shown.view.request["data"], shown.view.request["data_name"]) == (view.digest, "reviews@v1")

    def test_what_is_none_is_said_in_one_sentence(
        self, ours: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        (tmp_path / "deadbeefcafe").write_text('{"text": "a"}')
        for given, fault, said in (
            ("nothing.jsonl", NotFound, "no file and no dataset 'nothing.jsonl'"),
            ("folder", InvalidData, "folder is a folder; give a JSONL"),
            ("./nothing.jsonl", NotFound, "there is no file nothing.jsonl"),
            ("3f1c2a9b7d20", NotFound, "no dataset '3f1c2a9b7d20'"),
            ("deadbeefcafe", NotFound, "no dataset 'deadbeefcafe'.*; for the file of that name, write ./deadbeefcafe"),
            ("x" * 201, NotFound, "there is no file and no dataset 'xxx"),
            ("я" * 190, NotFound, "there is no file"),
            ("x" * 300, NotFound, "there is no file xxx"),
            ("x" * 1000, NotFound, "there is no file xxx"),
            ("3F1C2A9B7D20", InvalidInput, "is not a digest: give 12 to 64 lower-case"),
            ("https://example.org/rows.jsonl", InvalidData, "curl -L -o rows.jsonl URL"),
            ("hf://datasets/org/name", InvalidData, "is a URL, and only files are read"),
        ):
            with pytest.raises(fault, match=said) as caught:
                ours.client.submit_training(f"{ours.space}/a", base="tiny", data=given)
            assert caught.value.param == "data"
        assert ours.client.jobs() == []

    def test_a_job_does_not_keep_what_another_namespace_calls_its_rows(
        self, ours: Tenant, theirs: Tenant, acting: Callable[..., Client]
    ) -> None:
        view = named(theirs, uuid.uuid4().hex, "a secret of theirs")
        both = acting(**{ours.space: Role.WRITER, theirs.space: Role.READER})
        job = both.submit_training(f"{ours.space}/a", base="tiny", data="a secret of theirs", **SPEC)
        assert job.view.request["data"] == view.digest
        assert "data_name" not in job.view.request

    def test_a_name_that_a_client_makes_up_is_not_kept(self, ours: Tenant) -> None:
        one, other = (named(ours, uuid.uuid4().hex, "reviews") for _ in range(2))
        body = training(f"{ours.space}/a", one.digest)
        for name in (other.exact_name, "reviews", "nobody's@v1"):
            request = body.request.model_copy(update={"data_name": name})
            assert "data_name" not in submit(ours.client, body.model_copy(update={"request": request})).request


class TestPulled:
    def test_rows_come_back_byte_for_byte(self, ours: Tenant, tmp_path: Path) -> None:
        path = ours.file(uuid.uuid4().hex)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'\r\n\n{"prompt": "b", "completion": "c"}')
        view = ours.client.datasets.add(path, name="reviews", namespace=ours.space)
        for number, name in enumerate(("reviews", "reviews@v1", view.digest, view.digest[:12])):
            target = tmp_path / f"{number}.jsonl"
            assert ours.client.datasets.pull(name, target).digest == view.digest
            assert target.read_bytes() == path.read_bytes()
        assert sorted(file.name for file in tmp_path.glob("*.partial*")) == []

    def test_nothing_is_overwritten_unasked(self, ours: Tenant, tmp_path: Path) -> None:
        view = named(ours, uuid.uuid4().hex, "reviews")
        target = tmp_path / "rows.jsonl"
        target.write_text("mine")
        with pytest.raises(Conflict, match=r"already exists; name another file with -o, or give overwrite="):
            ours.client.datasets.pull("reviews", target)
        assert target.read_text() == "mine"
        ours.client.datasets.pull("reviews", target, overwrite=True)
        assert hash_file(target)[0] == view.digest
        with pytest.raises(InvalidInput, match="is a folder; name a file"):
            ours.client.datasets.pull("reviews", tmp_path)

    def test_what_may_not_be_read_is_not_there(self, ours: Tenant, theirs: Tenant, tmp_path: Path) -> None:
        view = named(ours, uuid.uuid4().hex, "reviews")
        for name in ("reviews", "reviews@v1", view.digest, view.digest[:12]):
            with pytest.raises(NotFound):
                theirs.client.datasets.pull(name, tmp_path / "rows.jsonl")
            with pytest.raises(NotFound):
                theirs.client.datasets.get(name, namespace=ours.space)
        ours.client.datasets.remove("reviews")
        with pytest.raises(NotFound):
            ours.client.datasets.pull(view.digest, tmp_path / "rows.jsonl")
        assert list(tmp_path.glob("rows.jsonl*")) == []

    def test_damaged_rows_are_not_kept(self, people: World, ours: Tenant, tmp_path: Path) -> None:
        view = named(ours, uuid.uuid4().hex, "reviews")
        (stored,) = (path for path in (people.folder / "artifacts").rglob(f"*{view.digest}*") if path.is_file())
        stored.chmod(0o600)
        stored.write_bytes(stored.read_bytes().replace(b"completion", b"c0mpletion"))
        with pytest.raises(VerificationFailed, match="nothing was kept"):
            ours.client.datasets.pull("reviews", tmp_path / "rows.jsonl")
        assert list(tmp_path.glob("rows.jsonl*")) == []
