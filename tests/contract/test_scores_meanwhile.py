"""Scores that are recorded while a version with the same bytes is published, restored or released: neither misses the other,
whichever comes first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from contract.promotion.scene import Scene
from sqlalchemy import ColumnElement, and_, event, select, text, update
from sqlalchemy.orm import Session
from support.people import SEEDS
from support.registries import World
from support.waiting import wait_until

from registry.access.models import AuditEntry
from registry.catalog.models import Version
from registry.db.database import Database
from registry.principal import LOCAL
from registry.promotion.tries import tried_of
from registry.search.adapters import AdapterSearch
from sdk.schemas.catalog import VersionMove

# Over SQLite a transaction that writes is alone.
pytestmark = pytest.mark.parametrize("people", ["postgresql"], indirect=True, scope="module")

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
Act = Callable[[], object]


class Case(NamedTuple):
    """How a version appears and how its bytes are scored, the audit trail's word for the first, and the adapter's name."""

    appear: Act
    record: Act
    action: str
    name: str


def interleaved(db: Database, noted: ColumnElement[bool], first: Act, second: Act) -> None:
    """Do `first` up to the commit of what is `noted` in the audit trail, then `second` until it is done or waits for a lock, then the rest."""
    written, other = threading.Event(), threading.Event()

    def is_done() -> bool:
        with db.read() as session:
            return other.is_set() or bool(session.scalar(_WAITING))

    def pause(session: Session) -> None:
        is_first = threading.current_thread().name.startswith("first")
        if is_first and not written.is_set() and session.scalar(select(AuditEntry.pk).where(noted)):
            written.set()
            wait_until(is_done, timeout_s=30)

    event.listen(Session, "before_commit", pause)
    try:
        with ThreadPoolExecutor(1, "first") as one, ThreadPoolExecutor(1, "second") as two:
            doing = one.submit(first)
            wait_until(lambda: written.is_set() or doing.done(), timeout_s=30)
            assert not doing.done(), "it was not noted"
            meanwhile = two.submit(second)
            meanwhile.add_done_callback(lambda _: other.set())
            doing.result()
            meanwhile.result()
    finally:
        event.remove(Session, "before_commit", pause)


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


def restoring(scene: Scene, data: str) -> Case:
    scene.publish()
    scene.ask_for_scores(1, data)
    held = scene.claim()
    move, states = VersionMove(ref=f"{scene.adapter()}@v1"), scene.services.version_states
    states.move(move, "archived", who=LOCAL)
    return Case(lambda: states.move(move, "ready", who=LOCAL), lambda: scene.hand_in(held, 0.5), "version.restore", "a")


def publishing(scene: Scene, data: str) -> Case:
    """The same bytes get a second name."""
    seed = next(SEEDS)
    scene.publish(seed=seed)
    scene.ask_for_scores(1, data)
    held = scene.claim()
    return Case(lambda: scene.publish("copy", seed=seed), lambda: scene.hand_in(held, 0.5), "version.publish", "copy")


def releasing(scene: Scene, data: str) -> Case:
    """The same bytes have a second name in quarantine."""
    seed = next(SEEDS)
    scene.publish(seed=seed)
    scene.publish("copy", seed=seed)
    with scene.services.db.write() as session:
        of = (Version.adapter_pk == scene.adapter_pk(session, "copy"),)
        digest = session.scalars(select(Version.digest).where(*of)).one()
        session.execute(update(Version).where(*of).values(state="quarantined", number=None))
    scene.ask_for_scores(1, data)
    held = scene.claim()
    move = VersionMove(ref=f"{scene.adapter('copy')}@sha256:{digest}")
    release = scene.services.version_states.release
    return Case(
        lambda: release(move=move, who=scene.who("boss")), lambda: scene.hand_in(held, 0.5), "version.release", "copy"
    )


@pytest.mark.parametrize("case", [restoring, publishing, releasing])
@pytest.mark.parametrize("scores_first", [True, False], ids=["scores first", "version first"])
def test_version_and_scores_of_its_bytes_written_at_once_find_each_other(
    scene: Scene, case: Callable[[Scene, str], Case], scores_first: bool
) -> None:
    data = scene.rows()
    appear, record, action, name = case(scene, data)
    db, here = scene.services.db, AuditEntry.namespace == scene.space
    if scores_first:
        interleaved(db, and_(here, AuditEntry.action == "evaluation.record"), record, appear)
    else:
        of_it = AuditEntry.subject.startswith(scene.adapter(name) + "@")
        interleaved(db, and_(here, of_it, AuditEntry.action == action), appear, record)
    entries = AdapterSearch(db).find(namespace=scene.space, who=LOCAL).page.items
    (entry,) = (one for one in entries if one.name == scene.adapter(name))
    assert entry.score is not None
    assert entry.score.value == 0.5
    # And it counts as a try under that name, of which policies allow so many.
    with db.read() as session:
        assert [one.dataset for one in tried_of(session, scene.adapter(name))] == [data]
