"""Policies: who sets and sees them, what is refused, what is pinned, and what protects an alias."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import ON_BOTH
from support import registries
from support.keys import make_key
from support.people import new_adapter
from support.registries import World

from registry.access.models import Token
from registry.catalog.models import Alias
from registry.db.types import db_now
from registry.principal import LOCAL, Role
from registry.promotion.generations import read, scopes_of
from registry.promotion.models import Policy
from registry.promotion.policies.finding import policies_digest, standing
from registry.promotion.policies.loosening import recent_loosenings
from registry.quotas.service import count_anew
from registry.usage.models import Usage
from sdk.client import Client
from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotAllowed, NotFound
from sdk.schemas.policies import PolicyDocument, PolicyRemoval, PolicySetting, PolicyView
from sdk.schemas.wire import Page

#: A rule that rows of `held_out` may have.
SCORED = {"rouge_l": {"at_least": 0.3}}


@dataclass
class Desk:
    """A namespace's admin, and what others say about policies."""

    world: World
    client: Client
    space: str
    tmp_path: Path

    def set(
        self, scope: str | None = None, *, client: Client | None = None, expect: int | None = None, **policy: Any
    ) -> PolicyView:
        document = PolicyDocument.model_validate({"alias": "production", **policy})
        body = PolicySetting(scope=scope or f"{self.space}/*", policy=document, expect=expect)
        return (client or self.client).call("PUT", "/policies", PolicyView, body=body)

    def show(self, scope: str | None = None, *, client: Client | None = None, **query: Any) -> list[PolicyView]:
        asked = {"scope": scope or f"{self.space}/a", **query}
        return (client or self.client).call("GET", "/policies", Page[PolicyView], params=asked).items

    def history(self, *, client: Client | None = None) -> list[PolicyView]:
        asked = {"scope": f"{self.space}/*", "alias": "production"}
        return (client or self.client).call("GET", "/policies/history", Page[PolicyView], params=asked).items

    def remove(self, scope: str | None = None, *, client: Client | None = None) -> None:
        body = PolicyRemoval(scope=scope or f"{self.space}/*", alias="production")
        (client or self.client).call("POST", "/policies/remove", None, body=body)

    def data(
        self,
        count: int = 100,
        *,
        space: str | None = None,
        name: str = "",
        row: str | None = None,
        columns: str | None = None,
    ) -> str:
        """Add rows that no other dataset has; return their digest."""
        path = self.tmp_path / f"{name or 'rows'}-{count}-{space}.jsonl"
        line = row or f'{{"prompt": "{self.space} {name} %d", "completion": "b"}}'
        path.write_text("".join(f"{line.replace('%d', str(number))}\n" for number in range(count)))
        return self.world.admin.datasets.add(
            path, namespace=space or self.space, name=name or None, columns=columns
        ).digest

    def refused(self, error: type[AdapterctlError], match: str, **policy: Any) -> str | None:
        with pytest.raises(error, match=match) as caught:
            self.set(**policy)
        return caught.value.param


@pytest.fixture
def desk(people: World, acting: Callable[..., Client], space: str, tmp_path: Path) -> Desk:
    return Desk(people, acting(**{space: Role.ADMIN}), space, tmp_path)


class TestSetting:
    @ON_BOTH
    def test_a_policy_is_set_shown_and_ended_and_its_history_stays(self, desk: Desk) -> None:
        made = desk.set(approvals=1)
        assert (made.scope, made.alias, made.version, made.hidden) == (f"{desk.space}/*", "production", 1, 0)
        again = desk.set(approvals=2)
        own = desk.set(f"{desk.space}/a", rollback="checked", approvals=1)
        assert [(one.scope, one.version) for one in desk.show()] == [(again.scope, 2), (own.scope, 1)]
        assert desk.show(f"{desk.space}/b") == desk.show(f"{desk.space}/*") == desk.show()[:1]
        desk.remove()
        assert [one.scope for one in desk.show()] == [own.scope]
        assert [(one.version, one.policy is None) for one in desk.history()] == [(3, True), (2, False), (1, False)]
        assert desk.set(approvals=1).version == 4

    def test_the_document_that_stands_makes_no_version(self, desk: Desk) -> None:
        made = desk.set(approvals=1, expect=0)
        assert desk.set(approvals=1, expect=0).created_at == made.created_at
        assert len(desk.history()) == 1

    def test_another_version_than_expected_is_refused(self, desk: Desk) -> None:
        with pytest.raises(Conflict, match="has version none, not 1; look at it with: adapterctl policy show"):
            desk.set(approvals=1, expect=1)
        desk.set(approvals=1, expect=0)
        with pytest.raises(Conflict, match="has version 1, not 0"):
            desk.set(approvals=2, expect=0)
        desk.remove()
        # After its end there is none, whatever was before.
        assert desk.set(approvals=2, expect=0).version == 3

    def test_a_refusal_of_the_registry_names_the_line_and_what_was_set_before(self, desk: Desk) -> None:
        file = desk.tmp_path / "policies.yaml"
        desk.data(name="held-out")
        rules = "require:\n  - data: held-out\n    metrics:\n      loss: {at_least: 3}\n"
        file.write_text(f"alias: production\napprovals: 1\n---\nalias: staging\n{rules}")
        wrong = f"{file}, line 8: require[0].metrics.loss: less of loss is better"
        with pytest.raises(InvalidInput) as refused:
            desk.client.policies.set_all(f"{desk.space}/*", file)
        assert refused.value.message.startswith(wrong)
        assert refused.value.message.endswith(" (set before it: production)")
        assert [one.alias for one in desk.show()] == ["production"]
        rule = {"data": "nothing", "metrics": SCORED}
        with pytest.raises(NotFound, match=r"^the policy: require\[0\]\.data: there is no dataset 'nothing'"):
            desk.client.policies.set(desk.space + "/a", {"alias": "staging", "require": [rule]})

    @ON_BOTH
    def test_of_many_who_set_it_at_once_each_gets_a_version_of_its_own(self, desk: Desk) -> None:
        found: list[int] = []

        def change(count: int) -> None:
            found.append(desk.set(approvals=count).version)

        threads = [threading.Thread(target=change, args=(count,)) for count in range(1, 4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(found) == [1, 2, 3]

    def test_names_are_pinned_to_what_they_mean_now(self, desk: Desk) -> None:
        first = desk.data(name="held-out")
        made = desk.set(require=[{"data": "held-out", "metrics": SCORED}])
        assert made.policy is not None
        rule = made.policy.require[0]
        assert (rule.data, rule.data_name, rule.evaluation.generate_rows) == (first, "held-out@v1", 100)
        # What was shown is the same policy if it is set again.
        assert desk.set(**made.policy.model_dump()).version == 1
        second = desk.data(120, name="held-out")
        later = desk.set(require=[{"data": "held-out", "metrics": SCORED}])
        assert later.policy is not None
        assert (later.version, later.policy.require[0].data, later.policy.require[0].data_name) == (2, second, "held-out@v2")  # fmt: skip

    def test_keys_are_stored_in_one_way_each_once(self, desk: Desk) -> None:
        pem = make_key(desk.tmp_path).public.read_text()
        made = desk.set(signed_by=[f"my key\n{pem}", pem.replace("\n", "\r\n")])
        assert made.policy is not None
        assert made.policy.signed_by == [pem]

    def test_it_counts_as_records_of_its_namespace(self, desk: Desk) -> None:
        desk.set(approvals=1)
        desk.remove()
        with desk.world.services.db.read() as session:
            counted = count_anew(session)[desk.space]["records_bytes"]
            assert counted == session.get_one(Usage, desk.space).records_bytes > 400


class TestRefusals:
    def test_a_refusal_names_the_place_and_nothing_is_set(self, desk: Desk) -> None:
        rules = [{"data": desk.data(), "metrics": SCORED}, {"data": "nothing", "metrics": SCORED}]
        assert desk.refused(NotFound, "there is no dataset 'nothing'", require=rules) == "policy.require.1.data"
        assert desk.show() == []

    def test_rows_that_only_others_may_read_are_not_there(self, desk: Desk) -> None:
        digest = desk.data(space=f"{desk.space}-next")
        desk.refused(NotFound, "there is no dataset", require=[{"data": digest, "metrics": SCORED}])

    @pytest.mark.parametrize("key", ["by", "cluster"])
    def test_a_column_that_rows_do_not_have_is_refused_with_those_that_they_have(self, desk: Desk, key: str) -> None:
        row = '{"prompt": "%d", "completion": "b", "Sprache": 1, "язык": "ру", "言語": null}'
        data = desk.data(name=f"named-{key}", row=row, columns="prompt=prompt,completion=completion")
        said = "line 1 has no column 'nocolumn', but the keys `prompt`, `completion`, `Sprache`, `язык`, `言語`"
        rules = [{"data": data, "metrics": SCORED, key: "nocolumn"}]
        assert desk.refused(InvalidInput, said, require=rules) == f"policy.require.0.{key}"
        assert desk.show() == []
        for number, column in enumerate(("язык", "言語", "Sprache"), start=1):
            made = desk.set(require=[{"data": data, "metrics": SCORED, key: column}])
            assert (made.version, made.policy.require[0].model_dump()[key]) == (number, column)

    def test_a_first_row_that_is_long_is_looked_at_when_a_version_is_judged(self, desk: Desk) -> None:
        data = desk.data(name="long", row=f'{{"prompt": "%d {"x" * 120_000}", "completion": "b"}}', count=20)
        assert desk.set(require=[{"data": data, "metrics": SCORED, "min_rows": 20, "by": "kind"}]).version == 1

    def test_a_version_that_there_is_not_is_no_reference(self, desk: Desk) -> None:
        data = desk.data()
        desk.world.admin.push(new_adapter(desk.tmp_path), f"{desk.space}/a", base="tiny")
        rule = {"data": data, "metrics": {"loss": {"not_worse_than": 0.1, "against": ["v2"]}}}
        desk.refused(NotFound, "there is no .*/a@v2", scope=f"{desk.space}/a", require=[rule])
        rule["metrics"]["loss"]["against"] = ["v1"]
        assert desk.set(f"{desk.space}/a", require=[rule]).version == 1


class TestRights:
    @pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
    def test_others_than_admins_of_the_scope_set_and_end_none(
        self, desk: Desk, acting: Callable[..., Client], role: Role
    ) -> None:
        desk.set(approvals=1)
        other = acting(**{desk.space: role})
        for scope in (f"{desk.space}/*", f"{desk.space}/a"):
            with pytest.raises(NotAllowed):
                desk.set(scope, client=other, approvals=2)
            with pytest.raises(NotAllowed):
                desk.remove(scope, client=other)
        assert [one.version for one in desk.history(client=other)] == [1]

    def test_an_admin_of_one_namespace_sets_none_for_another_or_for_all(
        self, desk: Desk, acting: Callable[..., Client]
    ) -> None:
        for scope, error in (("*", NotAllowed), (f"{desk.space}-next/*", NotFound), ("plain", NotFound)):
            with pytest.raises(error):
                desk.set(scope, approvals=1)

    def test_strangers_see_nothing_of_a_policy(self, desk: Desk, acting: Callable[..., Client]) -> None:
        desk.set(approvals=1)
        stranger = acting(**{f"{desk.space}-next": Role.ADMIN})
        assert [one for one in desk.show(client=stranger) if one.scope != "*"] == []
        everything = stranger.call("GET", "/policies", Page[PolicyView]).items
        assert {one.scope for one in everything} <= {"*"}
        with pytest.raises(NotFound, match="there is no policy of"):
            desk.history(client=stranger)
        with pytest.raises(NotFound, match="there is nothing under"):
            desk.remove(client=stranger)

    @ON_BOTH
    def test_rows_that_a_reader_may_not_read_are_hidden(self, desk: Desk, acting: Callable[..., Client]) -> None:
        secret, known = desk.data(space=f"{desk.space}-next", name="secret"), desk.data()
        both = acting(**{desk.space: Role.ADMIN, f"{desk.space}-next": Role.READER})
        hidden = {"data": "secret", "metrics": {"rouge_l": {"not_worse_than": 0}}}
        seen = {"data": known, "metrics": {"loss": {"at_most": 2.5}}}
        desk.set(client=both, require=[hidden, seen], contamination={})
        desk.set(client=both, require=[seen], contamination={})
        desk.set(client=both, require=[hidden], contamination={}, evaluate="on_ready")
        reader = acting(**{desk.space: Role.READER})
        told = [*desk.history(client=reader), *desk.show(client=reader)]
        assert [one.hidden for one in told] == [2, 0, 1, 2]
        assert told[0].policy is not None
        assert told[0].policy.require == []
        assert told[1].loosened == ["a rule that you may not see asks for less"]
        assert len(told[0].loosened) == 1
        assert "loss on" in told[0].loosened[0]
        for one in told:
            text = one.model_dump_json()
            assert secret not in text
            assert "secret" not in text
        whole = desk.show(client=both)[0]
        assert (whole.hidden, len(whole.policy.require) if whole.policy else 0) == (0, 1)
        assert any("secret@v1" in note for note in whole.notes)


class TestProtecting:
    @ON_BOTH
    def test_a_policy_protects_its_alias_whatever_it_asks(self, desk: Desk, acting: Callable[..., Client]) -> None:
        name = f"{desk.space}/a"
        desk.world.admin.push(new_adapter(desk.tmp_path), name, base="tiny")
        writer, promoter = acting(**{desk.space: Role.WRITER}), acting(**{desk.space: Role.PROMOTER})
        writer.set_alias(name, "production", 1)
        made = desk.set(f"{desk.space}/*")
        assert any(note.startswith("it asks for nothing but a promoter") for note in made.notes)
        with pytest.raises(NotAllowed, match="protected"):
            writer.set_alias(name, "production", 1)
        with pytest.raises(NotAllowed, match="protected"):
            writer.aliases.remove(name, "production")
        assert [one.protected for one in writer.aliases(name)] == [True]
        writer.set_alias(name, "staging", 1)
        promoter.set_alias(name, "production", 1)
        desk.remove()
        writer.set_alias(name, "production", 1)
        with desk.world.services.db.read() as session:
            assert session.query(Alias).filter(Alias.name == "production").count() >= 1

    @ON_BOTH
    def test_what_stands_is_of_all_scopes_the_widest_first(self, desk: Desk) -> None:
        scopes = ["*", f"{desk.space}/*", f"{desk.space}/a"]
        alias = f"only-{desk.space}"
        for scope in reversed(scopes):
            desk.set(scope, client=desk.world.admin, alias=alias, approvals=1)
        db = desk.world.services.db
        with db.read() as session:
            found = standing(session, f"{desk.space}/a", desk.space, alias)
            assert [one.scope for one in found] == scopes
            assert [one.scope for one in standing(session, "a", "-", alias)] == ["*"]
            before = policies_digest(found)
        body = PolicyRemoval(scope="*", alias=alias)
        desk.world.admin.call("POST", "/policies/remove", None, body=body)
        with db.read() as session:
            found = standing(session, f"{desk.space}/a", desk.space, alias)
            assert [one.scope for one in found] == scopes[1:]
            assert policies_digest(found) != before


@ON_BOTH
class TestLoosening:
    def test_what_asks_for_less_is_written_down_and_named_by_decisions(self, desk: Desk) -> None:
        data = desk.data(name="held-out")
        rule = {"data": data, "metrics": {"rouge_l": {"at_least": 0.3}}}
        assert desk.set(require=[rule], approvals=2).loosened == []
        assert desk.set(require=[rule], approvals=3).loosened == []
        weaker = {**rule, "metrics": {"rouge_l": {"at_least": 0.25}}}
        named = data[:12]
        assert desk.set(require=[weaker], approvals=1).loosened == [
            "it asks for 1 approval, before for 3",
            f"rouge_l on {named}, at least 0.3: now 0.25",
        ]
        desk.remove()
        db, name = desk.world.services.db, f"{desk.space}/a"
        with db.read() as session:
            told = recent_loosenings(session, name, desk.space, "production", db_now(session))
        assert [one.split(" on ")[0] for one in told] == [
            f"the policy of {desk.space}/* was removed",
            f"the policy of {desk.space}/* was loosened",
        ]
        assert "0.25" not in "".join(told)
        with db.read() as session:
            later = max(session.query(Policy.created_at).filter(Policy.namespace == desk.space))[0]
            told = recent_loosenings(session, name, desk.space, "production", later.replace(year=later.year + 1))
        assert told == []


@ON_BOTH
class TestGenerations:
    def test_whatever_decisions_are_made_by_raises_them(self, desk: Desk) -> None:
        db, scopes = desk.world.services.db, scopes_of(f"{desk.space}/a", desk.space)

        def raised(change: Callable[[], object]) -> list[int]:
            with db.read() as session:
                before = read(session, scopes)
            change()
            with db.read() as session:
                after = read(session, scopes)
            # Other tests change what is for all.
            return [now - was for was, now in zip(before, after, strict=True)][1:]

        assert raised(lambda: desk.set(approvals=1)) == [1, 0]
        assert raised(lambda: desk.set(approvals=1)) == [0, 0]
        assert raised(lambda: desk.set(f"{desk.space}/a", approvals=1)) == [0, 1]
        assert raised(lambda: desk.remove()) == [1, 0]
        tokens = desk.world.services.tokens

        def made(name: str = "ana", **grants: Role) -> str:
            return registries.named_anew(tokens, name, grants, who=LOCAL).id

        ana = made(**{desk.space: Role.PROMOTER})
        assert raised(lambda: tokens.revoke(ana, who=LOCAL)) == [1, 0]
        assert raised(lambda: tokens.revoke(ana, who=LOCAL)) == [0, 0]
        wide = made(**{desk.space: Role.PROMOTER, f"{desk.space}-next": Role.READER})
        assert raised(lambda: tokens.revoke_namespace(desk.space, who=LOCAL))[0] >= 1
        assert raised(lambda: tokens.revoke(wide, who=LOCAL)) == [0, 0]
        replaced = made("ben", **{desk.space: Role.PROMOTER})
        with db.read() as session:
            name = session.get_one(Token, replaced).name
        grants = {desk.space: Role.PROMOTER}
        assert raised(lambda: tokens.create(name=name, grants=grants, replace=True, who=LOCAL)) == [1, 0]

    def test_a_token_of_all_namespaces_raises_that_of_all(self, desk: Desk) -> None:
        tokens, db = desk.world.services.tokens, desk.world.services.db
        ident = registries.named_anew(tokens, "zoe", {"*": Role.PROMOTER}, who=LOCAL).id
        with db.read() as session:
            before = read(session, ["*"])
        tokens.revoke(ident, who=LOCAL)
        with db.read() as session:
            assert read(session, ["*"]) > before
