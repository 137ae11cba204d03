"""Pages for tokens of programs, of versions with very many aliases, while nothing may be written, and with texts that turn what
follows them.
"""

from __future__ import annotations

import re

import pytest
from contract.pages.conftest import ONE_DATABASE, Opening
from contract.promotion.scene import Scene
from sqlalchemy import insert, select

from registry.catalog.models import Alias, Version
from registry.db.types import utc_now
from registry.principal import LOCAL, Role
from registry.web.document import MOST_NAMES

pytestmark = ONE_DATABASE

#: It shows what follows from the right to the left.
TURN = "\u202e"
_ACTION = re.compile(r"/ui/actions/|/(?:cancel|retry|pause|go)\"")


@pytest.mark.parametrize("role", [Role.WORKER, Role.SERVER])
def test_token_of_a_program_reads_pages_and_changes_nothing(scene: Scene, opening: Opening, role: Role) -> None:
    scene.publish()
    scene.move(1)
    job = scene.ask_for_scores(1, scene.rows())
    scene.hire("program", role)
    program, will = opening("program"), opening("will")
    own = program.form(program.get("/ui/adapters"), "/ui/sign-out").fields["csrf"]
    adapter, shown = scene.adapter(), f"/ui/jobs/{job.id}"
    for address in ("/ui/adapters", f"/ui/adapters/{adapter}", f"/ui/adapters/{adapter}/v1", shown, "/ui/workers"):
        page = program.get(address)
        assert page.status_code == 200, address
        assert not _ACTION.search(page.text), address
    asked = will.get(f"/ui/actions/promote?adapter={adapter}&number=1")
    forms = [will.form(asked, "/ui/actions/promote/check"), will.form(will.get(shown), f"{shown}/cancel")]
    assert [program.send(form, csrf=own).status_code for form in forms] == [403, 403]
    scene.work(0.5)


def test_very_many_aliases_stay_few_on_every_page(scene: Scene, opening: Opening) -> None:
    scene.publish()
    with scene.services.db.write() as session:
        adapter = scene.adapter_pk(session)
        version = session.scalar(select(Version.pk).where(Version.adapter_pk == adapter))
        about = {"adapter_pk": adapter, "version_pk": version, "moved_by": "ann", "moved_at": utc_now()}
        session.execute(insert(Alias), [{**about, "name": f"canary-{number:04}-{'x' * 40}"} for number in range(990)])
    # What is stored of the version has them all from now on.
    scene.move(1, "production")
    reader, name = opening("ann"), scene.adapter()
    for address, shown in {
        f"/ui/adapters/{name}": 50,
        f"/ui/adapters/{name}/v1": MOST_NAMES,
        f"/ui/compare?refs={name}@v1": MOST_NAMES,
        f"/ui/actions/archive?adapter={name}&number=1": MOST_NAMES,
        f"/ui/actions/promote?adapter={name}&number=1": 50,
        "/ui/adapters": 0,
    }.items():
        page = reader.get(address)
        assert page.status_code == 200
        assert len(set(re.findall(r"canary-\d+", page.text))) <= shown, address
        assert len(page.content) < 80_000, address
    # Also the last of them can be chosen, and is named by the page that follows.
    last = f"canary-0989-{'x' * 40}"
    scene.publish()
    form = reader.form(reader.get(f"/ui/actions/promote?adapter={name}&number=2"), "/ui/actions/promote/check")
    done = reader.send(reader.form(reader.send(form, alias=last), "/ui/actions/promote"))
    assert f"{name}@{last} names {name}@v2" in reader.get(done.headers["Location"]).text


def test_while_nothing_may_be_written_every_action_says_why_and_reports_are_saved(
    scene: Scene, opening: Opening
) -> None:
    for number in (1, 2):
        scene.publish()
        scene.move(number)
    scene.policy("other", approvals=1)
    data = scene.rows()
    scene.score(1, data, 0.5)
    job = scene.ask_for_scores(2, data)
    boss, ben, name = opening("boss"), opening("ben"), scene.adapter()
    comparing = f"/ui/compare?refs={name}@v1+{name}@v2"

    def form(address: str, action: str, reader=boss):
        return reader, reader.form(reader.get(address), action)

    def action(verb: str, query: str, reader=boss):
        return form(f"/ui/actions/{verb}?adapter={name}&{query}", f"/ui/actions/{verb}", reader)

    _, check = form(f"/ui/actions/promote?adapter={name}&number=1", "/ui/actions/promote/check")
    forms = [
        (boss, check),
        (boss, boss.form(boss.send(check, alias="live"), "/ui/actions/promote")),
        action("roll-back", "alias=live"),
        action("approve", "number=2", ben),
        action("archive", "number=1"),
        form(f"/ui/jobs/{job.id}", f"/ui/jobs/{job.id}/cancel"),
    ]
    _, report = form(comparing, "/ui/reports")
    switch = scene.services.read_only
    switch.turn_on(reason="moving the disk", who=LOCAL)
    try:
        answers = [
            reader.send(sent, **({"kind": "approve"} if "approve" in sent.action else {})) for reader, sent in forms
        ]
        assert {one.status_code for one in answers} == {503}
        assert all("moving the disk" in one.text for one in answers)
        assert [boss.send(report, rows=rows).status_code for rows in ("0", "3")] == [200, 503]
        assert boss.get(comparing).status_code == 200
    finally:
        switch.turn_off(who=LOCAL)
    assert scene.named() == 2
    scene.work(0.5)


def test_text_that_turns_what_follows_turns_nothing_but_stays_in_forms(scene: Scene, opening: Opening) -> None:
    scene.publish(description=f"before {TURN}after", tags={"kind": f"a{TURN}b"})
    scene.move(1, reason=f"well {TURN}read \U0001f600 e\u0301 \u0627\u0644")
    scene.move(1, "canary")
    reader, name = opening("ann"), scene.adapter()
    for address in ("/ui/adapters", f"/ui/adapters/{name}", f"/ui/adapters/{name}/v1", f"/ui/history?adapter={name}"):
        assert TURN not in reader.get(address).text, address
    history = reader.get(f"/ui/history?adapter={name}").text
    assert "well \ufffdread \U0001f600 e\u0301 \u0627\u0644" in history
    assert f'value="name ~ {TURN}*"' in reader.get(f"/ui/adapters?filter=name ~ {TURN}*").text


def test_address_that_can_name_nothing_is_answered_with_a_reason(opening: Opening) -> None:
    reader = opening()
    names = ("A", "a/b/c", "a" * 5000, "%00", "%FF", "a//b", "/", f"a/v{'9' * 5000}", f"a/v{'9' * 19}/rows")
    answers = {
        f"{below}{name[:20]}": reader.get(f"/ui/{below}{name}").status_code
        for below in ("adapters/", "adapter/")
        for name in names
    }
    assert {address: status for address, status in answers.items() if status not in (404, 422)} == {}
