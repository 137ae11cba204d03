"""Rules about forgetting, contamination, probes and signatures; what none of them knows does not pass."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.scene import SPEC, Scene
from sqlalchemy import select, update
from support import calls
from support.adapters import use_of
from support.keys import Pair, make_key
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, report_of
from support.usage import differing

from registry.artifacts.manifests import read_manifest
from registry.catalog.models import Adapter, Version
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid, NotFound, PromotionRefused
from registry.evaluations.models import Evaluation
from registry.principal import LOCAL, Role
from registry.promotion import generations
from registry.promotion.rules.forgetting import GENERAL_TEXTS
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.decisions import Decision, PromotionCheck, RuleOutcome
from sdk.schemas.evaluation import RowScore
from sdk.schemas.manifest import Manifest
from sdk.schemas.policies import PolicyRemoval
from sdk.schemas.probe import ProbeReport, ProbeText
from sdk.schemas.probe_records import ProbeRecord, ProbeRecordView
from sdk.schemas.work import Completion
from sdk.signing import sign

GENERAL = {"general_loss": 3.3, "general_loss_base": 3.2, "general_kl": 0.02}
PROBE = ProbeReport(texts_digest="0" * 64, texts=[ProbeText(tokens=3, logit_gap=0.5, kl=0.25)], largest_logit=2.0)


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("theirs"))


def check(scene: Scene, number: int, by: str = "ann") -> Decision:
    asked = PromotionCheck(adapter=scene.adapter(), alias="live", number=number)
    return scene.services.gate.check(check=asked, who=scene.who(by))


def rules(scene: Scene, number: int, kind: str) -> list[RuleOutcome]:
    return [rule for rule in check(scene, number).rules if rule.kind == kind]


def only(scene: Scene, number: int, kind: str) -> tuple[str, str]:
    """The outcome and the sentence of the one rule of a kind."""
    (rule,) = rules(scene, number, kind)
    return rule.outcome, rule.message


def score(
    scene: Scene,
    number: int,
    data: str,
    *,
    texts: str | None = GENERAL_TEXTS,
    precision: str = "as-trained",
    **said: float,
) -> str:
    """Score a version, and say this of the general texts; return the id of the record."""
    spec = SPEC.model_copy(update={"precision": precision})
    scene.ask_for_scores(number, data, spec=spec)
    held = scene.claim()
    assert held is not None
    conditions = CONDITIONS.model_copy(update={"generated_rows": 0, "max_new_tokens": 0, "general_texts": texts})
    report = report_of([RowScore(row=0, loss_sum=1.0, tokens=2)], None, conditions=conditions, **said)
    results = [calls.scored(target, report=report) for target in held.targets]
    completion = Completion(attempt=held.attempt, evaluations=results)
    scene.services.claims.complete(job_id=held.job, completion=completion, who=scene.who("bot"))
    with scene.services.db.read() as session:
        return session.scalars(
            select(Evaluation.id).where(Evaluation.job_id == held.job, Evaluation.digest.is_not(None))
        ).one()


def digest_of(scene: Scene, number: int) -> str:
    with scene.services.db.read() as session:
        of = (Adapter.name == scene.adapter(), Version.number == number)
        return session.scalars(select(Version.digest).join(Adapter).where(*of)).one()


class TestForgetting:
    def test_both_bounds_are_held_by_the_first_scores(self, scene: Scene) -> None:
        number, data = scene.publish(), scene.rows()
        scene.policy(forgetting={"loss_rise_at_most": 0.11, "kl_at_most": 0.01})
        assert {rule.outcome for rule in rules(scene, number, "forgetting")} == {"unknown"}
        assert "score it with: adapterctl eval" in rules(scene, number, "forgetting")[0].message
        first = score(scene, number, data, **GENERAL)
        rise, kl = rules(scene, number, "forgetting")
        assert (rise.outcome, rise.message, kl.outcome) == ("passed", f"0.1 by {first}", "failed")
        assert rise.numbers == {
            "score": pytest.approx(0.1),
            "bound": 0.11,
            "general_loss": 3.3,
            "general_loss_base": 3.2,
        }
        with pytest.raises(PromotionRefused, match="KL on general texts at most"):
            scene.move(number)
        scene.policy(forgetting={"loss_rise_at_most": 0.11, "kl_at_most": 0.02})
        assert scene.move(number).number == number

    def test_later_scores_are_not_taken_and_must_agree(self, scene: Scene) -> None:
        number, data = scene.publish(), scene.rows()
        scene.policy(forgetting={"kl_at_most": 0.02})
        first = score(scene, number, data, **GENERAL | {"general_kl": 0.0205})
        # By rounding, and on the better side.
        score(scene, number, data, **GENERAL | {"general_kl": 0.0199})
        assert only(scene, number, "forgetting")[0] == "failed"
        later = score(scene, number, data, **GENERAL | {"general_kl": 0.01})
        outcome, message = only(scene, number, "forgetting")
        assert outcome == "unknown"
        assert f"its first scores ({first}) say 0.0205 and later ones ({later}) 0.01" in message

    @ON_BOTH
    def test_other_texts_precisions_and_half_a_measurement_are_none(self, scene: Scene) -> None:
        number, data = scene.publish(), scene.rows()
        scene.policy(forgetting={"kl_at_most": 0.1})
        score(scene, number, data, texts="1" * 64, **GENERAL)
        score(scene, number, data, texts=None, **GENERAL)
        score(scene, number, data, general_kl=0.01)
        score(scene, number, data, precision="native", **GENERAL)
        assert only(scene, number, "forgetting")[0] == "unknown"
        score(scene, number, data, **GENERAL)
        assert only(scene, number, "forgetting")[0] == "passed"

    def test_scores_of_another_namespace_do_not_count(self, scene: Scene, people: World, tmp_path: Path) -> None:
        elsewhere, seed = Scene(people, tmp_path / "elsewhere"), next(SEEDS)
        number, there = scene.publish(seed=seed), elsewhere.publish(seed=seed)
        scene.policy(forgetting={"kl_at_most": 0.1})
        score(elsewhere, there, elsewhere.rows(), **GENERAL)
        assert only(scene, number, "forgetting")[0] == "unknown"

    def test_scores_count_for_it_that_count_for_the_rows_of_the_policy(self, scene: Scene) -> None:
        # An admin may work, too.
        scene.hire("bot", Role.ADMIN)
        number, data = scene.publish(by="bot"), scene.rows()
        score(scene, number, data, **GENERAL)
        forgetting = {"kl_at_most": 0.1}
        for said, outcome in (
            ({}, "passed"),
            ({"scored_by": "other_worker"}, "unknown"),
            ({"max_age": "1d"}, "passed"),
        ):
            scene.policy(require=[judged_by(data) | said], forgetting=forgetting)
            assert only(scene, number, "forgetting")[0] == outcome, said
        with scene.services.db.write() as session:
            old = utc_now() - timedelta(days=2)
            session.execute(update(Evaluation).where(Evaluation.dataset_digest == data).values(created_at=old))
        assert only(scene, number, "forgetting")[0] == "unknown"

    def test_the_texts_are_those_of_the_workers(self) -> None:
        from workers.pipelines.data.fixed_texts import GENERAL_DIGEST

        assert GENERAL_TEXTS == GENERAL_DIGEST


def judged_by(data: str, **said: Any) -> dict[str, Any]:
    """A policy's rows, whose loss may be anything."""
    metrics = {"loss": {"at_most": 1000.0, "point": True}}
    return {"data": data, "min_rows": 20, "evaluation": {**SPEC.model_dump(mode="json"), **said}, "metrics": metrics}


#: What the registry has found by each of the scores of a version, and what comes of it where 5 % are allowed.
FOUND: list[tuple[list[dict[str, Any]], str]] = [
    ([{"rows": 100, "near": 5, "of": ["a"]}], "passed"),
    ([{"rows": 100, "exact": 3, "normalised": 2, "near": 1, "of": ["a"]}], "failed"),
    ([{"rows": 100, "of": ["a"], "not_checked": ["the rows b were removed"]}], "unknown"),
    # What is known of one part is enough to fail.
    ([{"rows": 100, "near": 6, "of": ["a"], "not_checked": ["the rows b were removed"]}], "failed"),
    ([{"not_checked": ["the check failed"]}, {"rows": 100, "of": ["a"]}], "passed"),
    ([{"rows": 100, "of": ["a"]}, {"rows": 100, "exact": 50, "of": ["a", "b"]}], "failed"),
    ([{"rows": "many", "of": ["a"]}], "unknown"),
]


class TestContamination:
    def test_what_the_registry_found_among_the_training_rows_counts(self, scene: Scene) -> None:
        trained, clean = scene.rows(), scene.rows()
        number = scene.publish(dataset=use_of(trained))
        scene.policy(require=[judged_by(trained), judged_by(clean)], contamination={"at_most": 0.5})
        seen, unseen = rules(scene, number, "contamination")
        assert (seen.outcome, unseen.outcome) == ("unknown", "unknown")
        assert f"it has no scores on {trained[:12]}; make some with: adapterctl eval" in seen.message
        for data in (trained, clean):
            score(scene, number, data)
        seen, unseen = rules(scene, number, "contamination")
        assert (seen.outcome, seen.numbers) == ("failed", {"score": 1.0, "bound": 0.5, "rows": 24, "found": 24})
        assert "24 of 24 rows are contaminated by those of rows-" in seen.message
        assert (unseen.outcome, unseen.numbers["found"], unseen.data) == ("passed", 0, [clean])

    @ON_BOTH
    def test_what_was_not_checked_is_unknown(self, scene: Scene) -> None:
        number, data = scene.publish(), scene.rows()
        scene.policy(require=[judged_by(data)], contamination={})
        ident = score(scene, number, data)
        outcome, message = only(scene, number, "contamination")
        assert (outcome, "not checked: what" in message, "is not known" in message) == ("unknown", True, True)
        say(scene, ident, None)
        assert only(scene, number, "contamination") == (
            "unknown",
            "not checked yet; try again in a minute",
        )
        # Moves that are judged at the time when it is found out are judged again.
        scopes = generations.scopes_of(scene.adapter(), scene.space)
        with scene.services.db.read() as session:
            before = generations.read(session, scopes)
        assert scene.services.contamination.check_all() > 0
        with scene.services.db.read() as session:
            assert generations.read(session, scopes)[2] == before[2] + 1

    def test_all_that_was_found_is_looked_at(self, scene: Scene) -> None:
        data = scene.rows()
        scene.policy(require=[judged_by(data)], contamination={"at_most": 0.05})
        number = scene.publish()
        # Where both scores say the same, the second adds nothing.
        first, second = (score(scene, number, data) for _ in range(2))
        for found, outcome in FOUND:
            say(scene, first, dict(found[0]))
            say(scene, second, dict(found[-1]))
            assert only(scene, number, "contamination")[0] == outcome, found

    @ON_BOTH
    def test_rows_that_are_read_otherwise_are_other_rows(self, scene: Scene) -> None:
        number, data = scene.publish(), scene.rows()
        columns = "prompt=completion,completion=prompt"
        scene.policy(require=[judged_by(data), judged_by(data, columns=columns), judged_by(data)], contamination={})
        say(scene, score(scene, number, data), {"rows": 24, "of": ["a"]})
        assert [rule.outcome for rule in rules(scene, number, "contamination")] == ["passed", "unknown"]

    def test_a_reader_learns_nothing_of_rows_that_they_may_not_read(
        self, scene: Scene, people: World, tmp_path: Path
    ) -> None:
        house = Scene(people, tmp_path / "house")
        data = house.rows()
        number = scene.publish()
        scene.policy(scope="*", alias=f"live-{scene.space}", by="root", require=[judged_by(data)], contamination={})
        asked = PromotionCheck(adapter=scene.adapter(), alias=f"live-{scene.space}", number=number)
        shown = scene.services.gate.check(check=asked, who=scene.who("ann"))
        assert data[:12] not in shown.model_dump_json()
        assert "rows-" not in shown.model_dump_json()
        assert all(rule.hidden for rule in shown.rules)
        whole = scene.services.gate.check(check=asked, who=LOCAL)
        assert any(data[:12] in rule.message for rule in whole.rules if rule.kind == "contamination")
        removal = PolicyRemoval(scope="*", alias=f"live-{scene.space}")
        scene.services.policies.remove(removal=removal, who=LOCAL)


def say(scene: Scene, ident: str, found: dict[str, Any] | None) -> None:
    """Let the registry have found this among the training rows."""
    with scene.services.db.write() as session:
        session.execute(update(Evaluation).where(Evaluation.id == ident).values(contamination=found))


def replay(scene: Scene, number: int, by: str, *, agrees: bool = True, **said: Any) -> ProbeRecordView:
    numbers = {"difference": 1e-4 if agrees else 0.3, "tolerance": 1e-3, **said}
    record = ProbeRecord.model_validate(
        {
            "adapter": scene.adapter(),
            "number": number,
            "digest": digest_of(scene, number),
            "agrees": agrees,
            **numbers,
        }
    )
    return scene.services.probes.record(replay=record, who=scene.who(by))


def probed(scene: Scene) -> int:
    """A version whose training has recorded a probe."""
    return scene.publish(metrics=PROBE.metrics(), training={"probe_texts": PROBE.texts_digest})


class TestProbes:
    def test_a_replay_by_somebody_else_is_needed(self, scene: Scene) -> None:
        number = probed(scene)
        scene.policy(probe={})
        ref = f"{scene.adapter()}@v{number}"
        assert only(scene, number, "probe") == (
            "unknown",
            f"nobody has replayed it; run, on another worker, with a token of its own: adapterctl verify {ref} --probe --record",
        )
        replay(scene, number, "will")
        outcome, message = only(scene, number, "probe")
        assert (outcome, message.startswith(f"only who trained or pushed it has replayed it ({scene.space} will)")) == (
            "unknown",
            True,
        )
        scene.policy(probe={"replayed_by": "any"})
        assert only(scene, number, "probe")[0] == "passed"
        scene.policy(probe={"replayed_by": "other_worker"})
        replay(scene, number, "bot")
        (rule,) = rules(scene, number, "probe")
        assert (rule.outcome, rule.numbers) == ("passed", {"difference": 1e-4, "tolerance": 1e-3})
        assert scene.move(number).number == number

    def test_a_replay_that_differs_fails_until_its_token_ends_or_measures_again(self, scene: Scene) -> None:
        number = probed(scene)
        scene.policy(probe={})
        replay(scene, number, "bot")
        replay(scene, number, "ben", agrees=False, message="text 1: logit_gap is 0.8 here")
        (rule,) = rules(scene, number, "probe")
        assert (rule.outcome, rule.numbers) == ("failed", {"difference": 0.3, "tolerance": 1e-3})
        assert "ben measured something other than its record: text 1: logit_gap is 0.8 here; see" in rule.message
        with pytest.raises(PromotionRefused, match="probe replayed"):
            scene.move(number)
        replay(scene, number, "ben")
        assert only(scene, number, "probe")[0] == "passed"
        replay(scene, number, "ben", agrees=False)
        scene.fire("ben")
        assert only(scene, number, "probe")[0] == "passed"
        scene.fire("bot")
        assert only(scene, number, "probe")[0] == "unknown"

    def test_what_makes_no_sense_is_not_recorded(self, scene: Scene, people: World) -> None:
        number, bare = probed(scene), scene.publish()
        for wrong in ({"difference": 2e-3}, {"difference": None}, {"tolerance": None}):
            with pytest.raises(Invalid, match=r"verify REF --probe --record"):
                replay(scene, number, "bot", **wrong)
        with pytest.raises(Invalid, match="has the digest"):
            replay(scene, number, "bot", digest="1" * 64)
        with pytest.raises(Conflict, match="has no probe that a replay could agree with"):
            replay(scene, bare, "bot")
        scene.hire("reader", Role.READER)
        with pytest.raises(Forbidden):
            replay(scene, number, "reader")
        with pytest.raises(NotFound):
            scene.services.probes.list(adapter=scene.adapter(), number=77, who=LOCAL)

    @ON_BOTH
    def test_a_second_replay_takes_the_place_of_the_first(self, scene: Scene, people: World) -> None:
        number = probed(scene)
        scopes = generations.scopes_of(scene.adapter(), scene.space)
        with scene.services.db.read() as session:
            before = generations.read(session, scopes)
        replay(scene, number, "bot", agrees=False, message="x" * 1000)
        replay(scene, number, "bot", message="")
        with scene.services.db.read() as session:
            assert generations.read(session, scopes)[2] == before[2] + 2
        for asked in (None, number):
            page = scene.services.probes.list(adapter=scene.adapter(), number=asked, who=scene.who("will"))
            assert [(one.agrees, one.message, one.number) for one in page.items] == [(True, "", number)]
        assert not {space: sizes for space, sizes in differing(people).items() if space == scene.space}


class TestSignatures:
    def test_one_of_the_listed_keys_must_have_signed_these_bytes(self, scene: Scene, pair: Pair, other: Pair) -> None:
        number = scene.publish()
        scene.policy(signed_by=[pair.public.read_text()])
        outcome, message = only(scene, number, "signature")
        assert (outcome, "it has no signature by" in message, "adapterctl sign" in message) == ("failed", True, True)
        add(scene, number, sign(manifest_of(scene, number), other.private))
        assert "none of its 1 signatures is by" in only(scene, number, "signature")[1]
        key_id = sign(manifest_of(scene, number), pair.private).key_id
        # The registry has no keys of its own here, so it stores what somebody else calls by this key's id.
        forged = sign(manifest_of(scene, number), other.private)
        add(scene, number, SignedManifest(key_id=key_id, bundle=forged.bundle))
        assert only(scene, number, "signature")[0] == "failed"
        with pytest.raises(PromotionRefused, match="signed by the key of the policy"):
            scene.move(number)
        add(scene, number, sign(manifest_of(scene, number), pair.private))
        assert only(scene, number, "signature") == ("passed", f"signed by {key_id[:12]}")
        assert scene.move(number).number == number
        scene.policy(signed_by=[other.public.read_text(), pair.public.read_text()])
        (rule,) = rules(scene, number, "signature")
        assert (rule.rule, rule.outcome) == ("signed by one of 2 keys of the policy", "passed")

    def test_a_bundle_that_does_not_verify_hides_no_signature_that_does(
        self, scene: Scene, pair: Pair, other: Pair
    ) -> None:
        """Whoever may write can store one under any id of a key, so it must not keep others from counting."""
        number = scene.publish()
        scene.policy(signed_by=[pair.public.read_text(), other.public.read_text()])
        mine, theirs = (sign(manifest_of(scene, number), one.private) for one in (pair, other))
        # The one that is looked at first was made by neither, though it says so.
        first, second = sorted((mine, theirs), key=lambda one: one.key_id)
        bundle = first.bundle.replace(signature_of(first), signature_of(second))
        add(scene, number, SignedManifest(key_id=first.key_id, bundle=bundle))
        assert only(scene, number, "signature")[0] == "failed"
        add(scene, number, second)
        assert only(scene, number, "signature") == ("passed", f"signed by {second.key_id[:12]}")

    def test_without_the_library_it_is_unknown_and_known_again_with_it(
        self, scene: Scene, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        number = scene.publish()
        scene.policy(signed_by=[pair.public.read_text()])
        add(scene, number, sign(manifest_of(scene, number), pair.private))
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "model_signing", None)
            outcome, message = only(scene, number, "signature")
            assert (outcome, "pip install 'adapterctl[signing]'" in message) == ("unknown", True)
            assert check(scene, number).outcome == "refused"
        assert only(scene, number, "signature")[0] == "passed"


def signature_of(signed: SignedManifest) -> str:
    """The signature of a bundle, without what it is over."""
    return str(json.loads(signed.bundle)["dsseEnvelope"]["signatures"][0]["sig"])


def manifest_of(scene: Scene, number: int) -> Manifest:
    with scene.services.db.read() as session:
        return read_manifest(session, digest_of(scene, number))


def add(scene: Scene, number: int, signed: SignedManifest) -> None:
    scene.services.signatures.add(digest_of(scene, number), signed=signed, who=scene.who("will"))
