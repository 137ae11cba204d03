"""Search finds what the filter says and the caller may see, and nothing else: in process over SQLite, over HTTP and
PostgreSQL.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from support import registries
from support.adapters import base_registration, save_adapter
from support.databases import new_database
from support.finding import POOL, TREES, TRICKS, Oracle, furnish
from support.registries import World
from support.shelf import Made, Score, Shelf, digest_of
from support.soak import scale
from support.statements import plan_of, sent

from registry.datasets.models import DatasetNumber
from registry.db.database import Database
from registry.errors import Invalid
from registry.evaluations.models import Evaluation, EvaluationMetric, LatestScore
from registry.principal import LOCAL, Principal, Role
from registry.search.fields import FIELDS, Field, FieldComparison, Node
from registry.search.grammar import parse
from registry.search.service import Search
from sdk.cli import cli
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed


@pytest.fixture(params=["embedded", "http_postgres"])
def world(request: pytest.FixtureRequest) -> World:
    found = registries.asked_for(request)
    furnish(found)
    return found


READER_OF_A = Principal("ann", {"a": Role.READER})
ADMIN_OF_A = Principal("adam", {"a": Role.ADMIN, "b": Role.READER})
EVERYBODY = [LOCAL, READER_OF_A, ADMIN_OF_A, Principal("none", {"-": Role.WRITER})]


def found(
    world: World, wanted: str, who: Principal = LOCAL, sort: str = "-created", scores_of: str | None = None
) -> list[str]:
    search = world.services.search.search
    page = search(wanted=wanted, sort=sort, scores_of=scores_of, cursor=None, limit=1000, who=who)
    assert page.next is None
    return [brief.ref for brief in page.items]


@pytest.mark.soak
@given(tree=TREES, who=st.sampled_from(EVERYBODY), scores_of=st.sampled_from([None, None, "*", "a", "b"]))
@settings(max_examples=scale(2000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_found_is_what_the_filter_says_and_the_caller_may_see(
    world: World, tree: Node, who: Principal, scores_of: str | None
) -> None:
    if scores_of in ("a", "b") and not who.may("read", scores_of):
        scores_of = None
    oracle = Oracle(world, who, scores_of)
    assert oracle.of_mine(found(world, str(tree), who, scores_of=scores_of)) == oracle.answer(tree)


def test_the_oracle_is_asked_about_something(world: World) -> None:
    """Each field has a comparison that some versions are like and some are not."""
    for word in set(FIELDS) - {"kind"}:
        key, metric = {"tag": ("language", ""), "eval": ("shared.jsonl", "loss")}.get(word, ("", ""))
        trees = [FieldComparison(Field(word, key, metric), "=", (value,)) for value in POOL[word]]
        answers = [len(found(world, str(tree))) for tree in trees]
        assert any(0 < count < 15 for count in answers), (word, answers)


def test_only_ready_versions_unless_states_are_asked_for(world: World) -> None:
    assert not [ref for ref in found(world, "name = a/one") if ref == "a/one@v3"]
    assert found(world, "name = a/one and state = archived") == ["a/one@v3"]
    assert found(world, "state = archived or rank = 64") == [
        "a/two@sha256:" + digest_of("a/two None quarantined"),
        "a/one@v3",
    ]
    assert found(world, "state = quarantined", ADMIN_OF_A) == ["a/two@sha256:" + digest_of("a/two None quarantined")]
    assert len(found(world, "state in (quarantined)")) == 2
    # A quarantined version has no number, so each number is another than its own.
    assert len(found(world, "state = quarantined and number != 1")) == 2
    assert found(world, "state = quarantined and number >= 0") == []
    for hidden in ("rank in (65, 66) and state != archived", "rank in (65, 66)"):
        assert found(world, hidden) == []


def test_a_reader_of_one_namespace_sees_nothing_of_another(world: World) -> None:
    secret = digest_of(f"secret.jsonl {('b',)}")
    seen = set(found(world, "not state = archived or state = archived", READER_OF_A))
    assert seen == {"a/one@v1", "a/one@v2", "a/one@v3", "a/two@v1"}
    for wanted in (
        "namespace = b",
        "name ~ b/*",
        "name = b/one or namespace != a",
        "digest = " + digest_of("b/one 1 ready"),
        "dataset = secret.jsonl",
        "dataset ~ sec*",
        f"dataset = {secret}",
        "eval[secret.jsonl].loss > 0",
        f"eval[{secret[:12]}].loss > 0",
        "tag[language] = py",
        "alias = production and rank = 8 and not name = a/one",
    ):
        assert found(world, wanted, READER_OF_A) == [], wanted
        assert found(world, wanted), wanted
    # An evaluation that was made in b, of a version that is in a, on a dataset that a has too.
    theirs = "namespace = a and eval[shared.jsonl].loss <= 0.5"
    assert found(world, theirs) == found(world, theirs, READER_OF_A, scores_of="*") == []
    assert found(world, theirs, scores_of="*") == found(world, theirs, scores_of="b") == ["a/one@v1"]
    everything = world.services.search.search(wanted="", sort="name", cursor=None, limit=100, who=READER_OF_A)
    assert "secret" not in everything.model_dump_json()
    assert "b/one" not in everything.model_dump_json()


def test_a_base_is_found_by_the_names_that_the_caller_may_see(world: World, client: Client, tmp_path: Path) -> None:
    for namespace, called in (("p", "told"), ("q", "kept-quiet")):
        named = base_registration("both").model_copy(update={"id": called, "namespace": namespace})
        world.services.bases.register(base=named, who=Principal("pat", {namespace: Role.WRITER}))
    ref = client.push(save_adapter(tmp_path / "adapter", seed=4713), "p/one", base="told").ref
    reader = Principal("pia", {"p": Role.READER})
    assert found(world, "base = told", reader) == [ref]
    for wanted in ("base = kept-quiet", "base ~ kept*", "base in (kept-quiet, nothing)"):
        assert found(world, wanted) == [ref], wanted
        assert found(world, wanted, reader) == [], wanted


def test_a_dataset_is_found_by_its_number_and_by_each_of_its_names(world: World) -> None:
    digest, hidden = digest_of(f"shared.jsonl {('a', 'b')}"), digest_of(f"secret.jsonl {('b',)}")
    trained = found(world, "dataset = shared.jsonl")
    assert trained
    with world.services.db.write() as session:
        for namespace, name, number, of in (("a", "other", 7, digest), ("b", "theirs", 1, hidden)):
            if session.get(DatasetNumber, (namespace, name, number)) is None:
                session.add(DatasetNumber(namespace=namespace, name=name, number=number, digest=of))
    assert found(world, 'dataset = "shared.jsonl@v1"') == trained == ["a/one@v2"]
    # Names without a namespace have other rows of the name "shared.jsonl", and these by no name but others'.
    for wanted in ("= other", '= "other@v7"', 'in (other, "nothing@v1")', "~ othe*", f"= {digest}"):
        assert found(world, f"dataset {wanted}") == ["plain@v2", *trained], wanted
    assert found(world, 'dataset = "other@v1"') == []
    assert found(world, "dataset = theirs")
    for wanted in ("= theirs", '= "theirs@v1"', "~ their*"):
        assert found(world, f"dataset {wanted}", READER_OF_A) == []


def test_of_many_names_each_means_what_the_versions_namespace_calls_so(world: World) -> None:
    """More than are read first, so that the database compares them itself."""
    shared, theirs = digest_of(f"shared.jsonl {('a', 'b')}"), digest_of(f"shared.jsonl {('-',)}")
    given = [("a", f"many-{number}", shared) for number in range(120)]
    # What has a name of its own there is called so by nobody else for it.
    given += [("-", f"many-{number}", theirs) for number in range(120)]
    with world.services.db.write() as session:
        for namespace, name, of in given:
            if session.get(DatasetNumber, (namespace, name, 1)) is None:
                session.add(DatasetNumber(namespace=namespace, name=name, number=1, digest=of))
    assert found(world, "dataset ~ many-*") == ["a/one@v2"]
    assert found(world, "dataset ~ many-7") == ["a/one@v2"]
    assert found(world, "namespace = - and eval[many-7].loss > 1") == ["plain@v2"]
    assert found(world, "namespace = a and eval[many-7].loss > 1") == ["a/one@v1", "a/one@v2"][::-1]


def test_whoever_is_no_admin_is_told_that_quarantined_versions_are_not_for_them(http_postgres: World) -> None:
    furnish(http_postgres)
    client = http_postgres.client(Role.WRITER, namespace="a")
    assert [brief.ref for brief in client.search("rank = 16")] == ["a/two@v1"]
    with pytest.raises(NotAllowed, match="only admins can see quarantined versions; ask for"):
        client.search("state != quarantined")
    client.close()


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    client = world.client(Role.ADMIN)
    yield client
    client.close()


@pytest.mark.parametrize("trick", TRICKS)
def test_what_looks_like_a_statement_is_plain_text(world: World, client: Client, trick: str) -> None:
    written = '"' + trick.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ref = f"odd@v{TRICKS.index(trick) + 1}"
    assert [brief.ref for brief in client.search(f"author = {written}")] == [ref]
    assert [brief.ref for brief in client.search(f"tag[note] in ({written})")] == [ref]
    if trick != "*":
        assert [brief.ref for brief in client.search(f"author ~ {written}")] == [ref]
        assert [brief.ref for brief in client.search(f"tag[note] ~ {written} and name ~ o*d")] == [ref]
    for wanted in (
        f"tag[{written}] = x",
        f"eval[{written}].{written} = 1",
        f"base = {written} or target = {written} or alias = {written} or dataset = {written} or name = {written}",
    ):
        assert client.search(wanted) == []


def test_a_version_that_was_pushed_is_found_by_all_that_was_said_of_it(
    world: World, client: Client, tmp_path: Path
) -> None:
    base = client.bases.register(base_registration("pushed"))
    pushed = client.push(
        save_adapter(tmp_path / "adapter", seed=4711), "pushed/one", base="pushed", tags={"stage": "first"}
    )
    client.set_alias("pushed/one", "production", 1)
    for wanted in (
        "name = pushed/one and base = pushed and rank = 2 and alpha = 4 and number = 1 and kind = adapter",
        f"namespace = pushed and base.fingerprint = {base.fingerprint} and digest = sha256:{pushed.digest[:20]}",
        "namespace = pushed and method = unknown and target = q_proj and target ~ v_*",
        "tag[stage] = first and alias = production and created >= 2026-01-01 and state != archived",
    ):
        (brief,) = client.search(wanted)
        assert brief.ref == "pushed/one@v1"
    shown = pushed.info
    assert (brief.adapter, brief.number, brief.digest, brief.state) == ("pushed/one", 1, shown.digest, "ready")
    assert (brief.aliases, brief.tags, brief.method) == (["production"], {"stage": "first"}, shown.method)
    assert (brief.created_by, brief.created_at) == (shown.created_by, shown.created_at)
    assert brief.base.model_dump() == {"id": "pushed", "revision": "0" * 40, "fingerprint": base.fingerprint}
    assert brief.lora.model_dump() == {"rank": 2, "alpha": 4.0, "target_modules": ["q_proj", "v_proj"]}
    assert brief.metrics == shown.metrics


def test_the_metrics_are_those_of_the_first_making(world: World, client: Client) -> None:
    (brief,) = client.search("name = plain and number = 2")
    assert brief.metrics == {"loss": 0.5}


@pytest.mark.parametrize("sort", ["-created", "created", "name", "rank", "-rank"])
def test_pages_hold_while_rows_are_added(world: World, sort: str) -> None:
    shelf, space = Shelf(world.services.db), f"pages-{uuid.uuid4().hex[:8]}"
    present = [Made(f"{space}/{'mnop'[n % 4]}", n // 4 + 1, rank=2 + n % 3) for n in range(30)]
    shelf.add(present)
    wanted, cursor, seen, asked = f"namespace = {space} and rank < 100", None, [], 0
    while True:
        page = world.services.search.search(wanted=wanted, sort=sort, cursor=cursor, limit=7, who=LOCAL)
        assert len(page.items) <= 7
        seen += [brief.ref for brief in page.items]
        if page.next is None:
            break
        cursor, asked = page.next, asked + 1
        if asked <= 4:
            # Before, among and after what was there, in each order.
            names = [(f"{space}/{letter}", 100 + asked, rank) for letter in "amz" for rank in (1, 3, 9)]
            shelf.add([Made(name, number * 10 + rank, rank=rank) for name, number, rank in names])
    assert len(seen) == len(set(seen))
    before = {item.ref for item in present}
    kept = [ref for ref in seen if ref in before]
    keys: dict[str, Callable[[int], Any]] = {
        "created": lambda n: n,
        "-created": lambda n: -n,
        "name": lambda n: (present[n].adapter, present[n].number),
        "rank": lambda n: (present[n].rank, n),
        "-rank": lambda n: (-present[n].rank, -n),
    }
    assert kept == [present[n].ref for n in sorted(range(len(present)), key=keys[sort])]


def scored(space: str, number: int, value: float | None, metric: str, rows: str) -> Made:
    made = () if value is None else (Score(rows, space, {metric: value}),)
    return Made(f"{space}/one", number, scores=made)


def keep_scores(db: Database) -> None:
    """Keep what the shelf has written as the newest scores, as recording an evaluation does."""
    with db.write() as session:
        kept = select(LatestScore.evaluation_id)
        query = select(Evaluation, EvaluationMetric).join(EvaluationMetric)
        for row, one in session.execute(query.where(Evaluation.id.not_in(kept))):
            session.add(
                LatestScore(
                    namespace=row.namespace,
                    digest=row.digest,
                    dataset_digest=row.dataset_digest,
                    metric=one.name,
                    is_main=False,
                    value=one.value,
                    evaluation_id=row.id,
                    scored_at=row.created_at,
                )
            )


@pytest.mark.parametrize(("metric", "best_first"), [("loss", (0.5, 1.5, 2.5)), ("rouge_l", (2.5, 1.5, 0.5))])
def test_pages_by_a_score_begin_with_the_best_and_hold_while_rows_are_added(
    world: World, metric: str, best_first: tuple[float, ...]
) -> None:
    shelf, values = Shelf(world.services.db), [(0.5, 1.5, 2.5, None)[n % 4] for n in range(12)]
    for sign, order in (("", best_first), ("-", best_first[::-1])):
        space = f"scored-{uuid.uuid4().hex[:8]}"
        rows = shelf.dataset("scored.jsonl", space)
        shelf.add([scored(space, n + 1, value, metric, rows) for n, value in enumerate(values)])
        keep_scores(world.services.db)
        given = {"wanted": f"namespace = {space}", "sort": f"{sign}eval[scored.jsonl].{metric}"}
        seen: list[tuple[str, float | None]] = []
        cursor = None
        while True:
            page = world.services.search.search(**given, cursor=cursor, limit=5, who=LOCAL)
            seen += [(brief.ref, brief.score) for brief in page.items]
            if (cursor := page.next) is None:
                break
            if len(seen) == 5:
                # Better, worse, equal, and without a score.
                added = [scored(space, 13 + n, (0.1, 9.0, 1.5, None)[n], metric, rows) for n in range(4)]
                shelf.add(added)
                keep_scores(world.services.db)
        assert len(seen) == len({ref for ref, _ in seen})
        # Equal ones begin with the newest, and those without a score are last either way.
        wanted = [(n + 1, value) for value in (*order, None) for n in reversed(range(12)) if values[n] == value]
        present = {f"{space}/one@v{number}" for number in range(1, 13)}
        assert [one for one in seen if one[0] in present] == [(f"{space}/one@v{n}", value) for n, value in wanted]


def test_what_is_no_order_is_refused(world: World) -> None:
    for sort in ("size", "eval[", "eval[x].loss = 1 or rank", "-eval[x]"):
        with pytest.raises(Invalid) as caught:
            world.services.search.search(wanted="", sort=sort, cursor=None, limit=5, who=LOCAL)
        assert caught.value.param == "sort"


def test_a_cursor_of_another_search_is_refused_in_one_sentence(world: World, client: Client) -> None:
    def ask(**params: Any) -> Any:
        return world.http.get("/api/v1/search", params={"limit": 2, **params})

    first = ask(filter="namespace = a")
    cursor = first.json()["next"]
    # It is the filter that counts, not how it is spelled.
    second = ask(filter="( namespace=a )", cursor=cursor)
    assert second.status_code == 200
    assert not {item["ref"] for item in first.json()["items"]} & {item["ref"] for item in second.json()["items"]}
    for params in (
        {"filter": "namespace = b", "cursor": cursor},
        {"cursor": cursor},
        {"filter": "namespace = a", "sort": "created", "cursor": cursor},
        {"filter": "namespace = a", "sort": "rank", "cursor": cursor},
        {"filter": "namespace = a", "cursor": "nonsense"},
    ):
        reply = ask(**params)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (422, "invalid", "cursor")
        assert error["message"].endswith("; start again without one")


def test_what_can_not_be_read_is_refused_with_its_place(world: World, client: Client) -> None:
    with pytest.raises(
        InvalidInput, match=r"^column 1 of the filter: there is no field 'rnk', the nearest is 'rank'"
    ) as caught:
        client.search("rnk = 8")
    assert (caught.value.code, caught.value.param) == ("invalid", "filter")
    with pytest.raises(InvalidInput, match="column 4001 of the filter: it is longer than 4,000 characters"):
        client.search("é" * 4001)
    # What is as long as a filter may be arrives, also where each character takes twelve on the way.
    assert client.search('author = "' + "\U0001f600" * 3980 + '"') == []
    for params, param in (
        ({"sort": "size"}, "sort"),
        ({"limit": 0}, "limit"),
        ({"filter": "state = failed"}, "filter"),
    ):
        reply = world.http.get("/api/v1/search", params=params)
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)


def test_the_sdk_gives_at_most_what_was_asked_for(world: World, client: Client) -> None:
    everything = client.search("namespace = a", sort="created")
    assert [brief.ref for brief in everything] == ["a/one@v1", "a/one@v2", "a/two@v1"]
    assert client.search("namespace = a", sort="created", limit=2) == everything[:2]
    assert client.search("namespace = a", sort="created", limit=3) == everything
    for limit in (0, -1):
        for ask in (client.search, client.jobs, client.audit):
            with pytest.raises(InvalidInput, match=f"limit is {limit}; give 1 or more"):
                ask(limit=limit)


def test_the_document_of_the_interface_has_examples_that_are_filters(world: World) -> None:
    operation = world.app.openapi()["paths"]["/api/v1/search"]["get"]
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    examples = [example["value"] for example in parameters["filter"]["examples"].values()]
    assert len(examples) >= 3
    assert all(str(parse(example)) for example in examples)
    assert all(rule.shown in parameters["filter"]["description"] for rule in FIELDS.values())
    for order in ("-created", "created", "name", "rank", "-rank", "eval["):
        assert order in parameters["sort"]["description"]


# The command line.


def run(world: World, *words: str) -> Any:
    env = {"ADAPTERCTL_URL": world.url, "ADAPTERCTL_CACHE": str(world.folder / "cache"), "HOME": str(world.folder)}
    if world.has_roles:
        env["ADAPTERCTL_TOKEN"] = world.token(Role.READER)
    result = CliRunner().invoke(cli, list(words), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_prints_a_table_within_80_columns_json_or_refs(world: World) -> None:
    Shelf(world.services.db).add(
        [Made("long/" + "x" * 20, 1, base="B" * 60, aliases=[f"alias-{n}" for n in range(9)])]
        if not found(world, "namespace = long")
        else []
    )
    asked = ("search", "namespace in (a, long)", "--sort", "name")
    table = run(world, *asked, "--format", "table").stdout.splitlines()
    assert table[0].split()[0] == "REF"
    assert [line.split()[0] for line in table[1:]] == ["a/one@v1", "a/one@v2", "a/two@v1", "long/" + "x" * 20 + "@v1"]
    assert all(len(line) <= 80 for line in table)
    header, *rows = (line.split("\t") for line in run(world, *asked).stdout.splitlines())
    assert header[:4] == ["ref", "scores_of", "aliases", "eval_loss"]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[-1][header.index("base")] == "B" * 60
    shown = json.loads(run(world, "search", "namespace = a", "--limit", "1", "--format", "json").stdout)
    assert [item["ref"] for item in shown] == ["a/two@v1"]
    assert (shown[0]["base"]["id"], shown[0]["lora"]["rank"]) == ("other", 16)
    assert run(world, "search", "namespace = a", "--format", "quiet", "--sort", "rank").stdout == (
        "a/one@v1\na/one@v2\na/two@v1\n"
    )
    nothing = run(world, "search", "rank = 1234")
    assert (nothing.stdout.splitlines(), nothing.stderr) == (["\t".join(header)], "no version matches\n")
    assert run(world, "search", "rank = 1234", "--format", "json").stdout == "[]\n"


def test_lists_can_be_narrowed(world: World) -> None:
    assert run(world, "list", "--namespace", "a", "--format", "quiet").stdout == "a/one\na/two\n"
    assert run(world, "list", "--prefix", "a/t", "--format", "quiet").stdout == "a/two\n"
    assert run(world, "list", "--namespace", "-", "--prefix", "pl", "--format", "quiet").stdout == "plain\n"


def test_archived_versions_are_listed_where_they_are_asked_for(world: World, client: Client, tmp_path: Path) -> None:
    client.bases.register(base_registration("pushed"))
    for seed in (1, 2):
        client.push(save_adapter(tmp_path / str(seed), seed=seed), "shelved/one", base="pushed")
    client.versions.archive("shelved/one@v1")
    assert run(world, "versions", "shelved/one", "--format", "quiet").stdout == "shelved/one@v2\n"
    both = run(world, "versions", "shelved/one", "--archived", "--format", "quiet").stdout
    assert both == "shelved/one@v2\nshelved/one@v1\n"


# What the database does for it.


def plan_of_search(db: Database, wanted: str, who: Principal, scores_of: str | None = None) -> str:
    """Return how the database reads the first page of a search."""
    with sent(db) as seen:
        Search(db).search(wanted=wanted, sort="-created", cursor=None, limit=50, who=who, scores_of=scores_of)
    (page,) = [one for one in seen if "ORDER BY versions.pk DESC" in one.sql]
    return "\n".join(plan_of(db, page))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with some thousand versions over ten bases, whose statistics were taken."""
    with new_database(request.param, tmp_path_factory.mktemp("crowd"), request) as url, closing(Database(url)) as db:
        db.upgrade()
        Shelf(db).add(
            [
                Made(
                    f"team-{n % 7}/adapter-{n % 400}", n // 400 + 1, base=f"base-{n % 10}", rank=2 ** (n * 7 // 10 % 6)
                )
                for n in range(4000)
            ]
        )
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        yield db


@pytest.mark.parametrize("who", [LOCAL, Principal("ann", {"team-1": Role.READER, "team-2": Role.READER})])
def test_base_and_rank_are_walked_in_an_index(crowded: Database, who: Principal) -> None:
    plan = plan_of_search(crowded, "base = base-3 and rank = 8", who)
    assert "ix_versions_base_pk_rank_pk" in plan, plan
    assert "Seq Scan on versions" not in plan, plan
    assert not re.search(r"SCAN versions\b", plan), plan


# PostgreSQL reads a table whole that is empty.
@pytest.mark.parametrize("crowded", ["sqlite"], indirect=True)
@pytest.mark.parametrize("scores_of", [None, "*", "team-1"])
def test_scores_are_looked_up_by_the_versions_bytes(crowded: Database, scores_of: str | None) -> None:
    plan = plan_of_search(crowded, f"eval[{'0' * 12}].loss < 1", LOCAL, scores_of)
    assert re.search(r"ix_evaluation_metrics_(digest_name|dataset_digest_name_value)", plan), plan


def test_a_page_takes_as_many_statements_whatever_its_size(crowded: Database) -> None:
    def count(limit: int) -> int:
        with sent(crowded) as seen:
            Search(crowded).search(wanted="base = base-3", sort="name", cursor=None, limit=limit, who=LOCAL)
        return len(seen)

    assert count(1) == count(500) <= 6


def test_values_are_bound_and_never_part_of_a_statement(crowded: Database) -> None:
    wanted = (
        'tag[marker_key] = "marker value" and author ~ "marker*" and not alpha = 47.125 and eval[marker].marker < 47.5'
    )
    with sent(crowded) as seen:
        Search(crowded).search(wanted=wanted, sort="name", cursor=None, limit=10, who=LOCAL)
    assert not [one for one in seen if "marker" in one.sql or "47" in one.sql]
    assert any("marker value" in str(one.parameters) for one in seen)
