"""What is refused when a policy is set, and what is filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.keys import make_key
from support.migrated import migrated_file

from registry.access.tokens import Tokens
from registry.artifacts.models import Blob
from registry.datasets.models import Dataset, DatasetAccess
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import Conflict, RegistryError, Unauthenticated, Unreadable
from registry.jobs.models import Worker
from registry.principal import LOCAL, Principal, Role
from registry.promotion.known_tries import known_tries
from registry.promotion.models import Policy, TriedRows
from registry.promotion.policies.finding import standing
from registry.promotion.policies.service import Policies
from sdk.schemas.policies import PolicyDocument, PolicyRemoval, PolicySetting, PolicyView

#: Datasets of 100 rows by their shapes.
DIGESTS = {shape: f"{number}" * 64 for number, shape in enumerate(("prompt", "text-label", "choices", "preference"))}
PARQUET = "e" * 64
#: What a worker declares of its scorers.
SCORERS = [
    {"name": "polite", "distribution": "house", "version": "1", "better": {"polite": "more", "polite.rude": "less"}},
    {"name": "long", "distribution": "house", "version": "1"},
]

Set = Callable[..., PolicyView]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    found = Database(migrated_file(tmp_path_factory.mktemp("policies") / "registry.sqlite3"))
    with found.write() as session:
        for shape, digest in {**DIGESTS, "messages": PARQUET}.items():
            session.add(Blob(sha256=digest, size_bytes=1))
            session.add(Dataset(digest=digest, size_bytes=1))
            form = "parquet" if digest == PARQUET else "jsonl"
            session.add(DatasetAccess(digest=digest, namespace="team", rows=100, shape=shape, format=form))
            session.flush()
        session.add(
            Worker(
                owner=LOCAL.owner, name="one", device="cpu", memory_bytes=0, free_memory_bytes=0, cached_bases=[],
                shared_paths=[], queues=["gpu"], version="1", knows=SCORERS, seen_at=utc_now(),
            )
        )  # fmt: skip
    yield found
    found.close()


@pytest.fixture
def set_policy(db: Database, request: pytest.FixtureRequest) -> Set:
    service = Policies(db)

    def set_policy(scope: str = "team/*", **policy: Any) -> PolicyView:
        document = PolicyDocument.model_validate({"alias": f"a{abs(hash(request.node.name))}", **policy})
        return service.set(setting=PolicySetting(scope=scope, policy=document), who=LOCAL)

    return set_policy


def rule(shape: str = "prompt", **given: Any) -> dict[str, Any]:
    """A rule that is set, apart from what is given."""
    return {"data": DIGESTS[shape], "metrics": {"loss": {"at_most": 2.5}}, **given}


def of(metric: str, **asked: Any) -> dict[str, Any]:
    return {"metrics": {metric: asked}}


def refused(call: Set, match: str, **given: Any) -> str | None:
    with pytest.raises(RegistryError, match=match) as caught:
        call(**given)
    return caught.value.param


@pytest.mark.parametrize(
    ("given", "match", "where"),
    [
        (of("rogue_l", at_least=0.3), r"did you mean rouge_l\?", "metrics.rogue_l"),
        (of("rows", at_least=3), "there is no metric 'rows'", "metrics.rows"),
        (of("loss", at_least=0.3), "less of loss is better, and this lets the worse ones through", "metrics.loss"),
        (of("rouge_l", at_most=0.3), "more of rouge_l is better", "metrics.rouge_l"),
        (of("loss", at_most=1, better="more"), "less of loss is better, whatever a policy says", "metrics.loss"),
        (of("rouge_l", at_least=1.5), "no rouge_l is at least 1.5: it is 0 to 1", "metrics.rouge_l"),
        (of("rouge_l", at_least=1), "no interval of a rouge_l is at least 1, which only a perfect", "metrics.rouge_l"),
        (of("loss", at_most=-1), "no loss is at most -1: it is at least 0", "metrics.loss"),
        (of("perplexity", at_most=3), "add point: true, or ask the same of loss", "metrics.perplexity"),
        (of("perplexity", not_worse_than=3), "nothing is compared by it; ask the same of loss", "metrics.perplexity"),
        (of("bleu", at_least=3), "add point: true, or give not_worse_than", "metrics.bleu"),
        (of("cider_d", not_worse_than=1), "no row has a cider_d of its own", "metrics.cider_d"),
        (of("macro_f1", at_least=0.3), r"macro_f1 is a score of rows \{text, label\}", "metrics.macro_f1"),
        (of("acc", at_least=0.3), r"acc is a score of rows \{prompt, choices, answer\}", "metrics.acc"),
        (of("general_kl", at_most=1), "write kl_at_most under forgetting", "metrics.general_kl"),
        (of("scorer.Long", at_least=1), "not a score of a scorer; write scorer.NAME", "metrics.scorer.Long"),
        (of("scorer.none", at_least=1), "no worker has the scorer none", "metrics"),
        (of("scorer.long", not_worse_than=1), "write better: less, or better: more", "metrics.scorer.long"),
        (of("scorer.polite", at_most=1), "more of scorer.polite is better", "metrics.scorer.polite"),
        (of("scorer.polite.rude", at_most=1, better="more"), "the scorer declares that less", "metrics.scorer.polite.rude.better"),
        (of("regex", at_least=0.3), "regex needs an expression", "evaluation"),
        ({"min_rows": 101}, "has 100 rows, fewer than the 101 of min_rows", "min_rows"),
        ({**of("rouge_l", at_least=0.3), "evaluation": {"generate_rows": 64}}, "of which 64 are generated", "evaluation.generate_rows"),
        ({"evaluation": {"metrics": ["bleu"]}}, "bleu is asked for and judged by nothing", "evaluation.metrics"),
        (of("loss", not_worse_than=1, against=["v1"]), "v1 is a version of one adapter", "metrics.loss.against"),
        ({"data": PARQUET, "by": "kind"}, "the registry reads no column 'kind'", "by"),
        ({"data": PARQUET, "cluster": "kind"}, "the registry reads no column 'kind'", "cluster"),
        ({"data": "nothing"}, "there is no dataset 'nothing'", "data"),
    ],
)  # fmt: skip
def test_a_rule_that_nothing_can_pass_is_refused(
    set_policy: Set, given: dict[str, Any], match: str, where: str
) -> None:
    assert refused(set_policy, match, require=[rule(), rule(**given)]) == f"policy.require.1.{where}"


@pytest.mark.parametrize(
    ("shape", "metric"),
    [("text-label", "rouge_l"), ("choices", "scorer.long"), ("prompt", "accuracy"), ("text-label", "acc"), ("choices", "auc")],
)  # fmt: skip
def test_a_score_that_rows_of_this_shape_never_have_is_refused(set_policy: Set, shape: str, metric: str) -> None:
    assert refused(
        set_policy, "choose another metric, or other rows", require=[rule(shape, **of(metric, at_least=0.1))]
    )
    # With other columns they may be of another shape.
    spec = {"columns": "prompt=q,completion=a"}
    rest = {"point": True} if metric == "auc" else {}
    set_policy(require=[rule(shape, **of(metric, at_least=0.1, **rest), evaluation=spec)])


@pytest.mark.parametrize(
    ("shape", "metric", "asked"),
    [
        ("prompt", "loss", {"at_most": 2.5, "not_worse_than": 0.01}),
        ("prompt", "bits_per_byte", {"not_worse_than": 0}),
        ("prompt", "perplexity", {"at_most": 9, "point": True}),
        ("prompt", "exact_match", {"at_least": 1, "point": True}),
        ("prompt", "bleu", {"not_worse_than": 2, "against": ["best"]}),
        ("text-label", "accuracy", {"at_least": 0.9}),
        ("text-label", "expected_calibration_error", {"at_most": 0.1, "point": True}),
        ("choices", "acc_norm", {"at_least": 0.5, "not_worse_than": 0.01}),
        ("preference", "preference_margin", {"at_least": -1, "point": True}),
    ],
)
def test_what_can_be_asked_is_set(set_policy: Set, shape: str, metric: str, asked: dict[str, Any]) -> None:
    assert set_policy(require=[rule(shape, **of(metric, **asked))]).version == 1


class TestFilledIn:
    def test_as_many_answers_as_rows_are_needed(self, set_policy: Set) -> None:
        made = set_policy(require=[rule(**of("rouge_l", at_least=0.3)), rule()], approvals=1).policy
        assert made is not None
        assert [one.evaluation.generate_rows for one in made.require] == [100, 32]

    def test_the_direction_that_a_scorer_declares(self, set_policy: Set) -> None:
        metrics = {
            "scorer.polite": {"not_worse_than": 0.1},
            "scorer.polite.rude": {"not_worse_than": 0.1},
            "scorer.long": {"not_worse_than": 0.1, "better": "less"},
            "rouge_l": {"not_worse_than": 0.1, "better": "more"},
        }
        made = set_policy(require=[rule(metrics=metrics)]).policy
        assert made is not None
        assert [made.require[0].metrics[name].better for name in metrics] == ["more", "less", "less", None]


class TestKeys:
    @pytest.mark.parametrize("kind", ["secp256k1", "ed25519", "rsa"])
    def test_one_that_signs_nothing_is_refused(self, set_policy: Set, tmp_path: Path, kind: str) -> None:
        pem = make_key(tmp_path, kind=kind).public.read_text()
        assert refused(set_policy, "signatures need EC keys", signed_by=[pem]) == "policy.signed_by.0"

    def test_another_text_than_a_public_key_is_refused(self, set_policy: Set, tmp_path: Path) -> None:
        pair = make_key(tmp_path)
        pem = pair.public.read_text()
        for text, match in (
            (pair.private.read_text(), "this text is a private key"),
            (pem + make_key(tmp_path, "b").public.read_text(), "one text has several keys"),
            (pem[:60], "this text is not a public key in PEM"),
            ("KEY", "this text is not a public key in PEM"),
        ):
            assert refused(set_policy, match, signed_by=[pem, text]) == "policy.signed_by.1"


def test_many_expressions_are_refused(set_policy: Set) -> None:
    rules = [
        rule(**of("regex", at_least=0.1), evaluation={"regex": f"{number}" * 600, "generate_rows": 100})
        for number in range(2)
    ]
    assert refused(set_policy, "at most 1000 characters together", require=rules) == "policy.require"
    assert set_policy(require=[rules[0], rules[0]]).version == 1


def test_many_given_versions_are_refused(set_policy: Set) -> None:
    metrics = {
        name: {"not_worse_than": 0.1, "against": [f"v{first + number}" for number in range(10)]}
        for first, name in ((1, "loss"), (11, "rouge_l"), (21, "exact_match"))
    }
    with pytest.raises(
        RegistryError, match=r"at most 20 given versions, and this one names 30; write incumbent"
    ) as caught:
        set_policy(require=[{"data": DIGESTS["prompt"], "metrics": metrics}])
    assert caught.value.param == "policy.require"


def test_a_namespace_has_a_bounded_number_of_policies(db: Database) -> None:
    service = Policies(db, most=2)

    def set_one(name: str) -> None:
        setting = PolicySetting(scope=f"small/{name}", policy=PolicyDocument(alias="production", approvals=1))
        service.set(setting=setting, who=LOCAL)

    set_one("a")
    set_one("b")
    set_one("b")
    with pytest.raises(Conflict, match="there are 2 policies in 'small' already"):
        set_one("c")
    assert len(service.list(scope="small/c", who=LOCAL).items) == 0


def test_a_margin_of_the_wrong_sign_says_what_one_is() -> None:
    with pytest.raises(ValueError, match="a margin is by how much it may be worse"):
        PolicyDocument.model_validate({"alias": "production", "require": [rule(**of("loss", not_worse_than=-0.1))]})


def test_a_policy_of_a_later_release_is_not_read_in_part(db: Database, set_policy: Set) -> None:
    made = set_policy(approvals=1)
    with db.write() as session:
        row = session.query(Policy).filter(Policy.alias == made.alias).one()
        row.document, row.digest = {**(row.document or {}), "tomorrow": True}, "f" * 64
    with db.read() as session, pytest.raises(Unreadable, match="has rules that this release doesn't know"):
        standing(session, "team/a", "team", made.alias)
    with db.write() as session:
        session.query(Policy).filter(Policy.alias == made.alias).delete()


def test_of_an_adapter_it_is_shown_when_its_rows_have_been_used_up(db: Database) -> None:
    service = Policies(db, tries_of=known_tries)
    document = PolicyDocument.model_validate({"alias": "used-up", "require": [rule()]})
    service.set(setting=PolicySetting(scope="team/*", policy=document), who=LOCAL)
    with db.write() as session:
        for number in range(199):
            session.add(
                TriedRows(
                    adapter="team/a",
                    namespace="team",
                    dataset_digest=DIGESTS["prompt"],
                    digest=f"{number:064d}",
                    how="scored",
                )
            )

    def notes(scope: str, who: Principal = LOCAL) -> list[str]:
        return [note for one in service.list(scope=scope, alias="used-up", who=who).items for note in one.notes]

    note = "000000000000 has 100 rows, by which 199 versions of this adapter were judged: the next one needs "
    assert [one.startswith(note) for one in notes("team/a")] == [True]
    assert notes("team/b") == notes("team/*") == notes("*") == []
    assert notes("team/a", Principal("stranger", {"other": Role.READER})) == []
    own = service.set(setting=PolicySetting(scope="team/a", policy=document), who=LOCAL)
    assert [one.startswith(note) for one in own.notes] == [True]


def test_a_token_that_was_revoked_meanwhile_changes_nothing(db: Database) -> None:
    service, tokens = Policies(db), Tokens(db)
    made = tokens.create(name="ana", grants={"late": Role.ADMIN}, who=LOCAL)
    ana = tokens.check(made.secret)
    setting = PolicySetting(scope="late/*", policy=PolicyDocument(alias="production", approvals=2))
    service.set(setting=setting, who=ana)
    tokens.revoke(made.id, who=LOCAL)
    weaker = setting.model_copy(update={"policy": PolicyDocument(alias="production", approvals=1)})
    with pytest.raises(Unauthenticated):
        service.set(setting=weaker, who=ana)
    with pytest.raises(Unauthenticated):
        service.remove(removal=PolicyRemoval(scope="late/*", alias="production"), who=ana)
    assert [one.version for one in service.history(scope="late/*", alias="production", who=LOCAL).items] == [1]
