"""The registry in a folder: made and migrated on first use, and never without a runner while jobs wait."""

from __future__ import annotations

import fcntl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from support.adapters import base_registration, digest

from registry.app.embedded import open_embedded
from registry.app.services import Services
from registry.artifacts.models import Blob
from registry.datasets.models import Dataset, DatasetAccess
from registry.db.schema_version import head_revision
from registry.errors import Unavailable
from registry.jobs.models import Job
from registry.principal import LOCAL
from registry.queue.local import LOCK_FILE
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission


def services_of(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


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
    with pytest.raises(Unavailable, match="set ADAPTERCTL_URL=local:DIR to another one one"):
        open_embedded(tmp_path / "file" / "home")


def test_a_home_with_waiting_jobs_gets_a_runner_unless_one_is_at_work(tmp_path: Path) -> None:
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
        # The runner that this starts finds the lock taken.
        job = services.jobs.submit(submission=JobSubmission(request=request), who=LOCAL)
        queue = services.jobs._queue
        (first,) = queue._started  # type: ignore[attr-defined]
        assert first.wait(60) == 0
        services.jobs.revive()
        assert first.poll() == 0
        assert queue._started == [first]  # type: ignore[attr-defined]
        with services.db.write() as session:
            session.execute(update(Job).values(state="cancelled"))
        services.jobs.revive()
        assert queue._started == [first]  # type: ignore[attr-defined]
        assert services.jobs.get(job.id, who=LOCAL).state == "cancelled"
    services.db.close()


def test_no_command_imports_numpy_with_the_registry() -> None:
    program = "import sys, registry.app.embedded, registry.app.application; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
