"""The same application in the caller's process, over an SQLite file and a folder: no server, no settings."""

from __future__ import annotations

from pathlib import Path

from registry.app.lean_imports import lean_imports

with lean_imports():
    from fastapi import FastAPI

    from registry.app.application import create_app
    from registry.app.left_work import LeftWork, left_work
    from registry.app.services import Services
    from registry.errors import Unavailable
    from registry.queue import Queue
    from registry.settings import Settings

#: Registry and runner share a machine and a clock, so a killed runner can be replaced soon.
_LEASE_S = 20.0
#: Only its owner waits for a laptop, and a CPU may train for days.
_TIMEOUT_S, _LONGEST_TIMEOUT_S = 7 * 86_400.0, 365 * 86_400.0


#: Its database, in its folder.
DATABASE_FILE = "registry.sqlite3"


def open_embedded(
    home: Path, *, shows_pages: bool = False, queue: Queue | None = None, revives: bool = True
) -> FastAPI:
    """Open the registry in the folder `home`; a new one is created and migrated. `shows_pages`: also with pages for browsers.
    `queue` is asked for a runner, instead of starting one.

    If jobs wait and no runner is at work, one is started: so a killed runner loses nothing. Whoever opens it without that
    calls `do_what_is_left` soon. Raises Unavailable if the folder can't be used.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        home = home.resolve()
    except OSError as error:
        raise Unavailable(
            f"the folder {home} can't be created ({error.strerror}); set ADAPTERCTL_URL=local:DIR to another one"
        ) from error
    settings = Settings(
        database_url=f"sqlite:///{home / DATABASE_FILE}",
        storage_url=(home / "artifacts").as_uri(),
        auth="none",
        embedded_home=str(home),
        lease_s=_LEASE_S,
        job_timeout_default_s=_TIMEOUT_S,
        job_timeout_max_s=_LONGEST_TIMEOUT_S,
    )
    app = create_app(settings, shows_pages=shows_pages, queue=queue)
    services: Services = app.state.services
    services.db.upgrade()
    if revives:
        do_what_is_left(services)
    return app


def do_what_is_left(services: Services) -> None:
    """Have a runner started if one may be needed, and forget what is due."""
    if revive_if_left(services).expiry:
        # There is no process that sweeps here: the first call of a day does it.
        services.expiry.run_if_due()


def revive_if_left(services: Services) -> LeftWork:
    """Have a runner started if one may be needed; return what may be left to do."""
    left = left_work(services.db)
    if left.jobs:
        services.jobs.revive()
    return left
