"""What the registry does by itself: it scores new versions and moves aliases to them, once each, whoever is killed meanwhile."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from contract.promotion.databases import IN_PROCESS_ON_BOTH, opened_alone
from contract.promotion.scene import Scene, floor
from contract.sweeps.helpers import killed
from sqlalchemy import select
from support import calls, registries
from support.adapters import base_registration
from support.registries import World
from support.usage import differing

from registry.app.services import Services
from registry.datasets.signatures import SignedDatasets
from registry.errors import StaleAttempt
from registry.jobs.models import Job
from registry.principal import LOCAL, SYSTEM
from registry.promotion.automatic.scoring import Scoring
from registry.promotion.automatic.service import Automatic
from registry.promotion.models import AutomaticRow, DecisionRow
from registry.promotion.shared_rows import RowSharing
from registry.queue import NoQueue
from sdk.schemas.access import QuotaLimits
from sdk.schemas.approvals import ApprovalRequest

BY_ITSELF: dict[str, Any] = {"evaluate": "on_ready", "promote": "automatic", "cap": 3}


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry of these tests alone: what follows policies by itself follows all that there are."""
    with opened_alone(request, tmp_path_factory) as found:
        yield found


@dataclass
class Shop:
    """A namespace whose policies are followed."""

    scene: Scene
    data: str

    def go_on(self) -> int:
        """Follow policies; what waits is looked at again at once."""
        return automatic_of(self.scene.services).go_on()

    def limit(self, jobs: int) -> None:
        """Let the namespace have so many unfinished jobs."""
        self.scene.services.quotas.set(self.scene.space, limits=QuotaLimits(max_jobs=jobs), who=LOCAL)

    def jobs(self) -> Sequence[Job]:
        """The jobs that the registry has submitted by itself."""
        mine = select(Job).where(Job.owner == SYSTEM.owner, Job.namespace == self.scene.space)
        with self.scene.services.db.read() as session:
            return session.scalars(mine.order_by(Job.created_at)).all()

    def row(self, number: int, *, alias: str = "live") -> AutomaticRow:
        """The last that was noted about a version."""
        with self.scene.services.db.read() as session:
            rows = select(AutomaticRow).where(AutomaticRow.alias == alias, AutomaticRow.number == number)
            pk = self.scene.adapter_pk(session)
            return session.scalars(rows.where(AutomaticRow.adapter_pk == pk).order_by(AutomaticRow.at.desc())).first()

    def rows(self) -> Sequence[AutomaticRow]:
        """All that is noted of the adapter."""
        with self.scene.services.db.read() as session:
            mine = select(AutomaticRow).where(AutomaticRow.adapter_pk == self.scene.adapter_pk(session))
            return session.scalars(mine).all()

    def decisions(self) -> Sequence[DecisionRow]:
        """All decisions by the registry."""
        with self.scene.services.db.read() as session:
            mine = select(DecisionRow).where(DecisionRow.adapter_pk == self.scene.adapter_pk(session))
            return session.scalars(mine.where(DecisionRow.decided_by == SYSTEM.name).order_by(DecisionRow.pk)).all()


def automatic_of(services: Services) -> Automatic:
    """Return what follows policies, and looks at what waits without delay."""
    sharing = RowSharing(
        services.db, SignedDatasets(services.db, services.artifacts, services.reading), services.reading
    )
    scoring = Scoring(services.db, services.jobs, sharing)
    return Automatic(services.db, services.gate, scoring, may_write=lambda: True, again_after=timedelta(0))


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Shop:
    scene = Scene(world, tmp_path / "files")
    scene.publish()
    return Shop(scene, scene.rows())


class TestScoring:
    @IN_PROCESS_ON_BOTH
    def test_new_version_is_scored_once_behind_all_others(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, evaluate="on_ready"))
        number = shop.scene.publish()
        assert shop.go_on() == 1
        assert shop.go_on() == 0
        (job,) = shop.jobs()
        assert (job.kind, job.priority, job.created_by) == ("evaluation", -100, SYSTEM.name)
        assert [view.state for view in shop.scene.work(0.5)] == ["succeeded"]
        assert (shop.row(number).state, len(shop.jobs())) == ("scored", 1)
        assert shop.scene.named() is None

    @IN_PROCESS_ON_BOTH
    def test_version_from_before_the_policy_is_not_scored(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        assert shop.go_on() == 0
        # Another version of a policy that asked for it before makes nothing older new.
        shop.scene.publish()
        shop.scene.policy(**floor(shop.data, 0.9, **BY_ITSELF))
        assert shop.go_on() == 1
        (job,) = shop.jobs()
        assert job.subject == f"{shop.scene.adapter()}@v2"

    def test_version_from_while_a_policy_asked_for_nothing_is_not_scored(self, shop: Shop) -> None:
        automatic = automatic_of(shop.scene.services)
        for by_itself in (BY_ITSELF, {}):
            shop.scene.policy(**floor(shop.data, **by_itself))
            assert automatic.go_on() == 0
        between = shop.scene.publish()
        # What it knows of earlier versions of the policy is of no other use than to read these once.
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        assert automatic.go_on() == automatic_of(shop.scene.services).go_on() == 0
        number = shop.scene.publish()
        assert automatic.go_on() == 1
        assert (shop.row(between), shop.row(number).state) == (None, "scoring")

    def test_job_that_fails_is_noted_and_not_submitted_again(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        shop.go_on()
        held = shop.scene.claim()
        assert held is not None
        shop.scene.fail(held)
        assert shop.go_on() == 1
        assert shop.row(number).state == "failed"
        assert held.job in str(shop.row(number).message)
        assert (shop.go_on(), len(shop.jobs()), shop.scene.named()) == (0, 1, None)

    def test_namespace_without_room_is_named_and_tried_again_later(self, shop: Shop) -> None:
        shop.scene.ask_for_scores(1, shop.data)
        shop.limit(1)
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        assert shop.go_on() == 1
        assert (shop.row(number).state, shop.jobs()) == ("waiting", [])
        assert "1 of 1 unfinished jobs" in str(shop.row(number).message)
        # Nothing is new, and it is said once.
        assert shop.go_on() == 0
        assert shop.scene.audited("alias.automatic") == [SYSTEM.name]
        shop.limit(10)
        assert shop.go_on() == 1
        assert shop.row(number).state == "scoring"

    def test_two_aliases_wait_for_one_job(self, shop: Shop) -> None:
        for alias in ("live", "next"):
            shop.scene.policy(alias, **floor(shop.data, evaluate="on_ready"))
        number = shop.scene.publish()
        shop.go_on()
        assert len(shop.jobs()) == 1
        shop.scene.work(0.5)
        assert [shop.row(number, alias=alias).state for alias in ("live", "next")] == ["scored", "scored"]


class TestMoving:
    def test_alias_moves_to_a_version_that_passes(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        shop.go_on()
        shop.scene.work(0.5)
        assert (shop.scene.named(), shop.row(number).state) == (number, "moved")
        moved = [row for row in shop.decisions() if row.moved]
        assert [(row.number, row.outcome, row.token_id) for row in moved] == [(number, "passed", None)]
        assert shop.scene.audited("alias.set") == [SYSTEM.name]

    def test_version_that_fails_is_refused_once_for_each_set_of_policies(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        shop.go_on()
        shop.scene.work(2.0)
        assert (shop.scene.named(), shop.row(number).state) == (None, "refused")
        refused = shop.decisions()[-1]
        assert refused.id in str(shop.row(number).message)
        assert (shop.go_on(), len(shop.decisions())) == (0, len(shop.decisions()))
        shop.scene.policy(**floor(shop.data, 3.0, **BY_ITSELF))
        shop.go_on()
        assert (shop.scene.named(), len(shop.jobs())) == (number, 1)
        # Of the policies that stood before, nothing is kept.
        assert [row.state for row in shop.rows()] == ["moved"]
        assert shop.scene.space not in differing(shop.scene.world)

    def test_rows_about_what_is_older_than_what_it_names_are_removed(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        first = shop.scene.publish()
        shop.go_on()
        shop.scene.work(2.0)
        assert shop.row(first).state == "refused"
        second = shop.scene.publish()
        shop.go_on()
        shop.scene.work(0.5)
        assert (shop.scene.named(), [row.number for row in shop.rows()]) == (second, [second])
        assert shop.scene.space not in differing(shop.scene.world)

    def test_namespace_without_room_for_a_note_keeps_nobody_waiting(self, shop: Shop, tmp_path: Path) -> None:
        other = Scene(shop.scene.world, tmp_path / "other")
        other.publish()
        for scene, data in ((shop.scene, shop.data), (other, other.rows())):
            scene.policy(**floor(data, evaluate="on_ready"))
            scene.publish()
        used = shop.scene.services.quotas.get(shop.scene.space, who=LOCAL).records_bytes
        shop.scene.services.quotas.set(shop.scene.space, limits=QuotaLimits(max_record_bytes=used), who=LOCAL)
        assert shop.go_on() == 1
        assert shop.rows() == []
        assert Shop(other, "").row(2).state == "scoring"

    def test_without_evaluate_it_waits_for_scores_by_others(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, promote="automatic", cap=3))
        number = shop.scene.publish()
        assert shop.go_on() == 1
        assert (shop.row(number).state, shop.jobs()) == ("waiting", [])
        shop.scene.score(number, shop.data, 0.5)
        shop.go_on()
        assert shop.scene.named() == number

    def test_cap_ends_it(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **{**BY_ITSELF, "cap": 1}))
        first, second = shop.scene.publish(), shop.scene.publish()
        shop.go_on()
        assert len(shop.jobs()) == 1
        shop.scene.work(2.0)
        states = [shop.row(number).state for number in (first, second)]
        assert states == ["refused", "refused"]
        assert "the cap of" in str(shop.row(second).message)
        assert len(shop.jobs()) == 1

    def test_what_a_person_undid_is_not_done_again(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        first, second = shop.scene.publish(), shop.scene.publish()
        shop.go_on()
        shop.scene.work(0.5)
        assert shop.scene.named() == second
        shop.scene.roll_back(second)
        shop.scene.policy(**floor(shop.data, 0.9, **BY_ITSELF))
        shop.go_on()
        assert shop.scene.named() == first

    def test_veto_keeps_it_waiting(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        veto = ApprovalRequest(adapter=shop.scene.adapter(), alias="live", number=number, kind="disapprove")
        given = shop.scene.services.approvals.give(request=veto, who=shop.scene.who("ann"))
        shop.go_on()
        shop.scene.work(0.5)
        assert (shop.scene.named(), shop.row(number).state) == (None, "waiting")
        shop.scene.services.approvals.withdraw(ident=given.id, who=shop.scene.who("ann"))
        shop.go_on()
        assert shop.scene.named() == number


@IN_PROCESS_ON_BOTH
class TestKills:
    def test_process_may_be_killed_before_and_after_each_commit(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        kills = 0
        for loss in (None, 0.5):
            held = None if loss is None else shop.scene.claim()
            if held is not None:
                shop.scene.hand_in(held, 0.5)
            while True:
                with killed(monkeypatch, after=False) as before:
                    shop.go_on()
                with killed(monkeypatch, after=True) as after:
                    shop.go_on()
                kills += before.count + after.count
                if not after.count:
                    break
        assert kills > 4
        assert (shop.scene.named(), shop.row(number).state, len(shop.jobs())) == (number, "moved", 1)
        assert len([row for row in shop.decisions() if row.moved]) == 1
        assert shop.scene.audited("alias.set") == [SYSTEM.name]

    def test_several_processes_at_once_do_everything_once(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **{**BY_ITSELF, "cap": 2}))
        numbers = [shop.scene.publish() for _ in range(3)]
        settings = shop.scene.services.settings
        storage = shop.scene.services.artifacts.storage
        others = [Services(settings, storage=storage, queue=NoQueue()) for _ in range(3)]
        try:
            everybody = [automatic_of(services) for services in others]
            calls.at_once([one.go_on for one in everybody], refused=StaleAttempt)
            # As many as the cap allows, whoever came first.
            assert len(shop.jobs()) == 2
            while (held := shop.scene.claim()) is not None:
                shop.scene.hand_in(held, 0.5)
            calls.at_once([one.go_on for one in everybody], refused=StaleAttempt)
            shop.go_on()
        finally:
            for services in others:
                services.db.close()
        assert len(shop.jobs()) == 2
        moved = [row.number for row in shop.decisions() if row.moved]
        assert len(set(moved)) == len(moved)
        assert {row.state for row in shop.rows()} <= {"moved", "refused", "overtaken"}
        assert {row.number for row in shop.rows()} <= set(numbers)
        assert shop.scene.space not in differing(shop.scene.world)


class TestModes:
    def test_runner_of_a_folder_follows_policies_before_it_ends(self, shop: Shop) -> None:
        shop.scene.policy(**floor(shop.data, **BY_ITSELF))
        number = shop.scene.publish()
        held = shop.scene.claim()
        assert held is not None
        shop.scene.hand_in(held, 0.5)
        assert shop.scene.claim() is None
        assert shop.scene.named() == number

    def test_next_command_in_a_folder_starts_a_runner_for_them(self, tmp_path: Path) -> None:
        # A folder of its own: no job of another test waits there.
        class Asked(NoQueue):
            revived = 0

            def revive(self) -> None:
                self.revived += 1

        queue = Asked()
        with registries.embedded(tmp_path / "home") as world:
            world.admin.bases.register(base_registration())
            scene = Scene(world, tmp_path / "files")
            command = Services(world.services.settings, storage=world.services.artifacts.storage, queue=queue)
            scene.publish()
            scene.policy(**floor(scene.rows(), evaluate="on_ready"))
            command.jobs.revive()
            assert queue.revived == 0
            scene.publish()
            command.jobs.revive()
            assert queue.revived == 1
            command.db.close()

    def test_reconciler_of_a_server_follows_them_and_tells_the_broker(self, shop: Shop, valkey_url: str) -> None:
        here = shop.scene.services
        settings = replace(here.settings, embedded_home=None, broker_url=valkey_url)
        server = Services(settings, storage=here.artifacts.storage)
        try:
            shop.scene.policy(**floor(shop.data, **BY_ITSELF))
            number = shop.scene.publish()
            assert server.reconciler.sweep()["promotions_begun"] == 1
            server.automatic.wait()
            (job,) = shop.jobs()
            with redis.Redis.from_url(valkey_url) as client:
                bodies = [base64.b64decode(json.loads(raw)["body"]) for raw in client.lrange("gpu", 0, -1)]
            assert [job.id] in [json.loads(body)[0] for body in bodies]
            # A worker with a hint takes it; nobody asks an idle one.
            held = server.claims.claim(claim=shop.scene.wants(hint=job.id), who=shop.scene.who("bot"))
            assert held is not None
            shop.scene.hand_in(held, 0.5)
            assert shop.scene.named() is None
            server.reconciler.sweep()
            server.automatic.wait()
            assert shop.scene.named() == number
        finally:
            server.db.close()
