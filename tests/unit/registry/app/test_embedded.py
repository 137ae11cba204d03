"""The registry in a folder: made and migrated on first use, and never without a runner while jobs wait."""

from __future__ import annotations

import fcntl
import stat
import sys
import time
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from support import processes
from support.adapters import base_registration, digest

from registry.app.embedded import open_embedded
from registry.app.services import Services
from registry.artifacts.models import Blob
from registry.datasets.models import Dataset, DatasetAccess
from registry.db.database import head_revision
from registry.errors import Unavailable
from registry.jobs.models import Job
from registry.principal import LOCAL
from registry.queue.local import LOCK_FILE
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission


def services_of(app: FastAPI) -> Services:
    return app.state.services


def test_a_new_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    services = services_of(open_embedded(home))
    assert services.db.revision() == head_revision()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert list(home.glob("logs/*")) == []
    services.db.close()


def test_bytes_of_an_embedded_registry_have_no_routes(tmp_path: Path) -> None:
    app = open_embedded(tmp_path)
    assert not [path for path in app.openapi()["paths"] if "blobs" in path]
    location = services_of(app).artifacts.storage.put_location("0" * 64, 1)
    assert location.url.startswith((tmp_path / "artifacts").as_uri())
    services_of(app).db.close()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="set ADAPTERCTL_URL=local:DIR to another one"):
        open_embedded(tmp_path / "file" / "home")


def test_a_home_with_waiting_jobs_gets_a_runner_unless_one_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        services = services_of(open_embedded(tmp_path))
        services.bases.register(base=base_registration(), who=LOCAL)
        with services.db.write() as session:
            session.add(Blob(sha256=digest("rows"), size_bytes=1))
            session.flush()
            session.add(Dataset(digest=digest("rows"), size_bytes=1, format="jsonl", created_by="x"))
            session.flush()
            session.add(DatasetAccess(digest=digest("rows"), namespace="-"))
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        request = TrainingRequest(adapter="a", base=base, data=digest("rows"))
        job = services.jobs.submit(submission=JobSubmission(request=request), who=LOCAL)
        queue = services.jobs._queue
        services.jobs.revive()
        assert queue._started == []  # type: ignore[attr-defined]
        with services.db.write() as session:
            session.execute(update(Job).values(state="cancelled"))
        fcntl.flock(lock, fcntl.LOCK_UN)
        services.jobs.revive()
        assert queue._started == []  # type: ignore[attr-defined]
        started: list[int] = []
        monkeypatch.setattr(queue, "_start", started.append)
        for state, lease_until_s, not_before_s, starts in (
            ("queued", None, None, True),
            ("queued", None, time.time() + 60, False),
            ("queued", None, time.time() - 60, True),
            # The one at work may have been killed, which is known only once its lease is over.
            ("running", time.time() + 60, None, False),
            ("running", time.time() - 60, None, True),
            ("cancelled", None, None, False),
        ):
            with services.db.write() as session:
                session.execute(update(Job).values(state=state, lease_until_s=lease_until_s, not_before_s=not_before_s))
            started.clear()
            services.jobs.revive()
            assert len(started) == starts, (state, lease_until_s, not_before_s)
        assert services.jobs.get(job.id, who=LOCAL).state == "cancelled"
    services.db.close()


@pytest.mark.slow
def test_no_command_imports_numpy_with_the_registry() -> None:
    program = "import sys, registry.app.embedded, registry.app.application; print('numpy' in sys.modules)"
    assert processes.finished(sys.executable, "-c", program).stdout == "False\n"
