"""A server that is killed while it does what a form of a page asks for has done all of it, or nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from contract.pages.conftest import ONE_DATABASE, Opening
from contract.promotion.scene import Scene, floor
from sqlalchemy import func, select
from support.forks import ForkServer
from support.page_readers import PageForm, PageReader

from registry.access.models import AuditEntry
from registry.catalog.models import Adapter, Alias, AliasMoveRow
from registry.promotion.models import DecisionRow

pytestmark = ONE_DATABASE

#: Another process of the registry, which sends itself a form, and is killed by itself before its nth change or commit.
_KILLED = """
import json, os, signal, sys
from fastapi.testclient import TestClient
from sqlalchemy import event
from registry.app.application import create_app
from registry.settings import Settings
given = json.loads(sys.argv[1])
app = create_app(Settings(**given["settings"]))
left = given["moment"]
def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def changes(_connection, _cursor, statement, *_):
    if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
        count()
engine = app.state.services.db.engine
event.listen(engine, "before_cursor_execute", changes)
event.listen(engine, "commit", count)
browser = TestClient(app, base_url=given["url"], follow_redirects=False)
answer = browser.post(given["action"], data=given["fields"], headers={"Origin": given["url"], "Cookie": given["cookie"]})
print(answer.status_code)
"""
#: More changes than any form makes.
_MOST = 60


def test_promotion_from_a_page_is_whole_or_not_there_wherever_the_server_is_killed(
    scene: Scene, opening: Opening, tmp_path: Path
) -> None:
    scene.publish()
    data = scene.rows()
    scene.score(1, data, 0.5)
    scene.policy(**floor(data))
    reader = opening("ann")
    asked = reader.get(f"/ui/actions/promote?adapter={scene.adapter()}&number=1")
    shown = reader.send(reader.form(asked, "/ui/actions/promote/check"), alias="live")
    form = reader.form(shown, "/ui/actions/promote")
    assert _records(scene) == (0, 0, 0, 0)
    for moment in range(1, _MOST):
        status, answered = _killed(scene, reader, form, moment, tmp_path)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert _records(scene) == (0, 0, 0, 0), moment
    # It was killed before each of several changes, and before the commit of them.
    assert (answered, _records(scene)) == ("303", (1, 1, 1, 1))
    assert moment > 4
    assert reader.send(form).status_code == 303
    assert _records(scene) == (1, 1, 1, 1)


def _killed(scene: Scene, reader: PageReader, form: PageForm, moment: int, folder: Path) -> tuple[int, str]:
    """Let a process be killed at some moment of sending a form; return its status, and what the form was answered."""
    settings = scene.services.settings
    names = ("database_url", "storage_url", "auth", "public_url")
    given = {
        "settings": {name: getattr(settings, name) for name in names},
        "moment": moment,
        "url": scene.world.url,
        "action": form.action,
        "fields": form.fields,
        "cookie": reader.cookie,
    }
    command = ["python", "-c", _KILLED, json.dumps(given)]
    done = ForkServer.of_this_process().run(command, env=dict(os.environ), cwd=folder, timeout_s=60)
    return done.returncode, str(done.stdout).strip()


def _records(scene: Scene) -> tuple[int, ...]:
    """How many aliases, moves and decisions to move an adapter has, and how many of them are audited."""
    of = select(Adapter.pk).where(Adapter.name == scene.adapter()).scalar_subquery()
    audited = (AuditEntry.namespace == scene.space, AuditEntry.action == "alias.set")
    counts = (
        select(func.count()).select_from(Alias).where(Alias.adapter_pk == of),
        select(func.count()).select_from(AliasMoveRow).where(AliasMoveRow.adapter_pk == of),
        select(func.count()).select_from(DecisionRow).where(DecisionRow.adapter_pk == of, DecisionRow.moved),
        select(func.count()).select_from(AuditEntry).where(*audited),
    )
    with scene.services.db.read() as session:
        return tuple(session.scalar(count) or 0 for count in counts)
