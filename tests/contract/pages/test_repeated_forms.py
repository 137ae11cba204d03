"""A form that is sent again, by a double click or from another tab, does nothing a second time, and says what is true."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from contract.pages.conftest import ONE_DATABASE, Opening
from contract.promotion.scene import Scene, floor
from sqlalchemy import select
from support.page_readers import PageForm, PageReader
from support.people import training

from registry.access.models import AuditEntry
from registry.principal import LOCAL
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepRequest, SweepSubmission


def audited(scene: Scene) -> list[str]:
    """What was done in the namespace, in words of the audit trail."""
    rows = select(AuditEntry.action).where(AuditEntry.namespace == scene.space).order_by(AuditEntry.pk)
    with scene.services.db.read() as session:
        return list(session.scalars(rows))


def done_by(scene: Scene, act: Callable[[], Any]) -> list[str]:
    before = len(audited(scene))
    act()
    return audited(scene)[before:]


def twice_at_once(reader: PageReader, form: PageForm, **given: str) -> list[httpx.Response]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: reader.send(form, **given), range(2)))


class TestAliases:
    """Moves of aliases."""

    def confirmed(self, scene: Scene, opening: Opening, number: int) -> tuple[PageReader, PageForm]:
        reader = opening("ann")
        asked = reader.get(f"/ui/actions/promote?adapter={scene.adapter()}&number={number}")
        shown = reader.send(reader.form(asked, "/ui/actions/promote/check"), alias="live")
        return reader, reader.form(shown, "/ui/actions/promote")

    def test_double_click_on_promote_moves_it_once_and_says_so(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        data = scene.rows()
        scene.score(1, data, 0.5)
        scene.policy(**floor(data))
        reader, form = self.confirmed(scene, opening, 1)
        answers: list[httpx.Response] = []
        done = done_by(scene, lambda: answers.extend(twice_at_once(reader, form, reason="good")))
        assert done == ["alias.set"]
        answers.append(reader.send(form, reason="good"))
        assert [one.status_code for one in answers] == [303, 303, 303]
        page = reader.get(answers[-1].headers["Location"]).text
        assert f"{scene.adapter()}@live names {scene.adapter()}@v1 already, by decision" in page
        assert "came more than once, and moved it once" in page
        assert len(scene.services.aliases.history(adapter=scene.adapter(), alias="live", who=LOCAL).items) == 1

    @ONE_DATABASE
    def test_the_same_move_of_somebody_else_is_a_lost_one(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        reader, form = self.confirmed(scene, opening, 1)
        scene.move(1, by="ben", reason="mine")
        lost = reader.send(form)
        assert lost.status_code == 409
        assert "names v1 already" in lost.text

    @ONE_DATABASE
    def test_double_click_on_roll_back_goes_back_once(self, scene: Scene, opening: Opening) -> None:
        for number in range(1, 4):
            scene.publish()
            scene.move(number)
        reader = opening("ann")
        address = f"/ui/actions/roll-back?adapter={scene.adapter()}&alias=live"
        form = reader.form(reader.get(address), "/ui/actions/roll-back")
        assert done_by(scene, lambda: twice_at_once(reader, form)) == ["alias.rollback"]
        again = reader.send(form)
        assert again.status_code == 303
        assert f"names {scene.adapter()}@v2 already" in reader.get(again.headers["Location"]).text
        assert scene.named() == 2


@ONE_DATABASE
def test_approving_withdrawing_archiving_and_restoring_twice_is_done_once(scene: Scene, opening: Opening) -> None:
    scene.publish()
    scene.publish()
    scene.policy(approvals=1)
    ben, will = opening("ben"), opening("will")
    approving = f"/ui/actions/approve?adapter={scene.adapter()}&number=2"
    form = ben.form(ben.get(approving), "/ui/actions/approve")
    answers: list[httpx.Response] = []
    assert done_by(scene, lambda: answers.extend(twice_at_once(ben, form, kind="approve"))) == ["alias.approve"]
    form = ben.form(ben.get(approving), "/ui/actions/withdraw")
    assert done_by(scene, lambda: answers.extend(twice_at_once(ben, form))) == ["alias.withdraw"]
    for verb in ("archive", "restore"):
        form = will.form(will.get(f"/ui/actions/{verb}?adapter={scene.adapter()}&number=2"), f"/ui/actions/{verb}")
        assert done_by(scene, lambda form=form: answers.extend(twice_at_once(will, form))) == [f"version.{verb}"]
    assert {one.status_code for one in answers} == {303}


class TestJobsAndSweeps:
    """Cancelling, trying again, pausing."""

    pytestmark = ONE_DATABASE

    def test_cancelling_a_running_job_twice_asks_its_worker_once(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        job = scene.ask_for_scores(1, scene.rows())
        held = scene.claim()
        assert held is not None
        will = opening("will")
        form = will.form(will.get(f"/ui/jobs/{job.id}"), f"/ui/jobs/{job.id}/cancel")
        assert done_by(scene, lambda: twice_at_once(will, form)) == ["job.cancel"]
        assert "has been asked to stop" in will.get(will.send(form).headers["Location"]).text
        scene.hand_in(held, 0.5)

    def test_trying_again_twice_makes_one_job(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        job = scene.ask_for_scores(1, scene.rows())
        held = scene.claim()
        assert held is not None
        scene.fail(held)
        will = opening("will")
        form = will.form(will.get(f"/ui/jobs/{job.id}"), f"/ui/jobs/{job.id}/retry")
        answers = [*twice_at_once(will, form), will.send(form)]
        assert {one.status_code for one in answers} == {303}
        assert len({one.headers["Location"] for one in answers}) == 1
        scene.work(0.5)

    def test_buttons_of_a_sweep_pressed_twice_do_it_once(self, scene: Scene, opening: Opening) -> None:
        data = scene.rows()
        told = training(scene.adapter("swept"), data).request.model_copy(update={"eval_data": scene.rows()})
        request = SweepRequest(training=told, settings={"lr": Values(values=[1e-4, 2e-4])})
        sweep = scene.services.sweeps.submit(submission=SweepSubmission(request=request), who=scene.who("will")).id
        will = opening("will")
        for verb in ("pause", "go", "cancel"):
            form = will.form(will.get(f"/ui/sweeps/{sweep}"), f"/ui/sweeps/{sweep}/{verb}")
            answers: list[httpx.Response] = []
            done = done_by(scene, lambda form=form, answers=answers: answers.extend(twice_at_once(will, form)))
            assert [one for one in done if one.startswith("sweep.")] == [f"sweep.{verb}"]
            assert {one.status_code for one in answers} == {303}
