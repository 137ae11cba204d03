"""What one namespace sends keeps nobody else waiting, and takes a bounded amount of memory.

Each attack is sent by several connections while somebody of another namespace asks whether the server is healthy and
writes a little, and does the same with an idle server. `make soak` does each for half a minute, with eight of them.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from faults.attacks import records, rows, submitted
from faults.attacks.beside import Victim, victim_of, waiting
from faults.attacks.evil import Attack, Evil, Send, evil_in
from support.soak import SOAKING
from support.wire import Served, serving

from registry.principal import Role

#: By the number of what was found once. The sixth, scores that decide about other people's comparisons, is no load.
ATTACKS = {**submitted.ATTACKS, **rows.ATTACKS, **records.ATTACKS}
CONNECTIONS = 8 if SOAKING else 2
#: How long each attack takes, in seconds.
ATTACKED_S = 30.0 if SOAKING else 0.5
#: Beyond what the same takes on an idle server, in seconds.
MOST_HEALTH_S, MOST_WRITE_S = 1.0, 3.0
#: Above what a server takes at rest, in bytes.
MOST_MEMORY_BYTES = 256 * 1024**2

# Who waits how long is what is looked at, so nothing else may take the machine meanwhile.
pytestmark = [pytest.mark.alone, pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Town:
    """A server with its attackers and their victim, and an idle one with another victim."""

    evil: Evil
    victims: tuple[Victim, Victim]
    rest_bytes: int

    @property
    def served(self) -> Served:
        """The server that is attacked."""
        return self.evil.served


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folders = [tmp_path_factory.mktemp(name) for name in ("attacked", "idle")]
    with (
        serving(folders[0]) as attacked,
        serving(folders[1]) as idle,
        evil_in(attacked, folders[0] / "evil") as evil,
        victim_of(attacked, folders[0] / "victim") as victim,
        victim_of(idle, folders[1] / "victim") as other,
    ):
        # What is imported and prepared with the first requests is not what an attack takes.
        for served in (attacked, idle):
            for path in ("/api/v1/bases", "/api/v1/jobs", "/metrics", "/docs", "/openapi.json"):
                served.ask("GET", path)
            served.ask("POST", "/api/v1/versions", json={"unknown": [0] * 40_000})
        yield Town(evil, (victim, other), attacked.resident_bytes())


def note(figures: Mapping[str, object]) -> None:
    """Keep figures in the file that `ADAPTERCTL_ATTACKS` names, if it does."""
    if path := os.environ.get("ADAPTERCTL_ATTACKS"):
        with Path(path).open("a") as file:
            file.write(json.dumps(figures) + "\n")


def attack(town: Town, one: Attack, send: Send, ends: threading.Event, numbers: Iterator[int]) -> dict[int, int]:
    """Send until the end; return how many answers of each status came."""
    seen: dict[int, int] = {}
    headers = {"Authorization": f"Bearer {town.evil.tokens[one.role]}"}
    with httpx.Client(base_url=town.served.url, headers=headers, timeout=300) as http:
        while not ends.is_set():
            answer = send(http, next(numbers))
            assert answer.status_code in one.statuses, f"{answer.url}: {answer.text[:500]}"
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    return seen


def test_honest_submit_and_plan_over_a_very_large_base_are_quick(town: Town) -> None:
    """By processor time, of the server and of the client; it comes first, when nothing of the base is known."""
    evil, served = town.evil, town.served
    body, headers = submitted.int8(evil), {"Authorization": f"Bearer {evil.tokens[Role.WRITER]}"}
    spent_s = {}
    for what in ("submit", "plan"):
        began_s = served.processor_s() + time.process_time()
        if what == "submit":
            httpx.post(f"{served.url}/api/v1/jobs", json=body, headers=headers, timeout=60).raise_for_status()
        else:
            assert evil.client.plan(submitted.llama_405b(evil)).parameters > 400e9
        spent_s[what] = served.processor_s() + time.process_time() - began_s
    note({"honest": spent_s})
    assert spent_s["submit"] <= 1.0
    assert spent_s["plan"] <= 2.0


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_keeps_nobody_waiting(town: Town, name: str) -> None:
    one, ends, numbers = ATTACKS[name], threading.Event(), itertools.count()
    send = one.prepare(town.evil)
    town.served.forget_peak()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            with waiting(*town.victims) as (attacked, idle):
                attacks = [pool.submit(attack, town, one, send, ends, numbers) for _ in range(CONNECTIONS)]
                ends.wait(ATTACKED_S)
        finally:
            ends.set()
        seen = [found.result() for found in attacks]
    peak_bytes = town.served.peak_bytes() - town.rest_bytes
    statuses = {status: sum(found.get(status, 0) for found in seen) for status in set().union(*seen)}
    slowest = {waited: (max(found), max(getattr(idle, waited))) for waited, found in vars(attacked).items()}
    figures = {"attack": name, "statuses": statuses, "asked": len(attacked.health_s), "peak_mib": peak_bytes >> 20}
    note({**figures, **slowest})
    assert statuses.keys() - {409}
    for waited, most_s in (("health_s", MOST_HEALTH_S), ("write_s", MOST_WRITE_S)):
        theirs_s, control_s = slowest[waited]
        assert theirs_s <= control_s + most_s, waited
    assert peak_bytes <= MOST_MEMORY_BYTES
    # The process is the one that was attacked from the beginning.
    assert town.served.resident_bytes()
    assert "Traceback" not in town.served.log.read_text()
