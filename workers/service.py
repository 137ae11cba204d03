"""A worker beside a server: it works when it is told, or asks by itself."""

from __future__ import annotations

import logging
import time

from sdk.client import Client
from sdk.errors import Unavailable
from workers import machine, runner
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)


def drain(hint: str | None = None) -> int:
    """Work until the registry has nothing for this worker; return how many jobs there were."""
    settings = WorkerSettings.from_env()
    client = Client()
    done = 0
    while runner.work_once(client, machine.describe(settings, client.cache), hint):
        done += 1
        hint = None
    return done


def ask_forever(settings: WorkerSettings) -> None:
    """Ask for work at intervals, for a registry without a broker."""
    client = Client()
    while True:
        try:
            worked = runner.work_once(client, machine.describe(settings, client.cache))
        except Unavailable as error:
            _log.warning("%s", error)
            worked = False
        if not worked:
            time.sleep(settings.ask_every_s)
