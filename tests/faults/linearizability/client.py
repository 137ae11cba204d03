"""A client of a registry, as a process of its own: calls at random, and writes down each with when it began and ended.

    python -m faults.linearizability.client CONFIG

Its records are lines of JSON: object, op, args, answer, began, ended. A call that nothing answered, or a server in trouble,
has neither answer nor end; one that was never sent is left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx

#: How long an answer is waited for, in seconds. A server that was stopped answers once it goes on.
_PATIENCE_S = 3.0
#: Pause after a call that came to nothing, and after each, in seconds.
_AGAIN_S, _PACE_S = 0.1, 0.005
#: After so many calls a client publishes to another adapter: once an adapter has all contents, nothing more happens to it.
_CALLS_A_ROUND = 60


@dataclass
class Config:
    """What a client is told."""

    url: str
    #: Of a writer, and of a worker.
    writer: str
    worker: str
    seed: str
    #: What names begin with that no other run has.
    prefix: str
    #: Which kinds of objects it calls.
    kinds: list[str]
    #: Aliases as adapter and name.
    aliases: list[tuple[str, str]]
    #: How many versions their adapters have.
    versions: int
    #: Bodies of publications by the digest of what they publish, for whichever adapter.
    contents: dict[str, dict[str, Any]]
    #: Bodies of completions, by job.
    jobs: dict[str, dict[str, Any]]
    #: Where it writes, and what ends it once it is there.
    record: str
    stop: str

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Unknown(Exception):  # noqa: N818 - it reads as what happened
    """What came of a call is not known: it may take effect still."""


class Unsent(Exception):  # noqa: N818 - it reads as what happened
    """There was no server to send a call to."""


class Caller:
    """Sends calls and writes them down."""

    def __init__(self, url: str, token: str, record: Callable[[dict[str, Any]], None]) -> None:
        self._http = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=_PATIENCE_S, trust_env=False
        )
        self._record = record

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, on: str, op: str, args: list[Any], ask: Callable[[Caller], Any]) -> Any:
        """Make one call and write it down; return the answer, or None where there was none."""
        began = time.monotonic()
        try:
            answer = ask(self)
            self.write(on, op, args, answer, began, time.monotonic())
            return answer
        except Unsent:
            pass
        except Unknown:
            self.write(on, op, args, None, began, None)
        time.sleep(_AGAIN_S)
        return None

    def write(self, on: str, op: str, args: list[Any], answer: Any, began: float, ended: float | None) -> None:
        """Write a call down."""
        self._record({"object": on, "op": op, "args": args, "answer": answer, "began": began, "ended": ended})

    def send(self, method: str, path: str, body: Any = None, **given: Any) -> Any:
        """Send a request; return its JSON, or the code of an error that says what came of it."""
        try:
            answer = self._http.request(method, path, json=body, **given)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unsent from error
        except httpx.HTTPError as error:
            raise Unknown from error
        if answer.status_code >= 500:
            raise Unknown
        said = answer.json() if answer.content else None
        if answer.is_success:
            return said
        return said["error"]["code"]


# Aliases.


def call_alias(caller: Caller, config: Config, random: Random, named: dict[str, int]) -> None:
    """Move an alias, move it back, or look what it names."""
    adapter, alias = random.choice(config.aliases)
    on = f"alias {adapter}@{alias}"
    last = named.get(on, 0)
    expect = random.choice((None, last, last, 0))
    op = random.choices(("set", "rollback", "resolve", "history"), (4, 3, 5, 0.3))[0]
    if op == "resolve":
        found = caller.call(
            on, op, [], lambda to: _named(to.send("GET", "/resolve", params={"ref": f"{adapter}@{alias}"}))
        )
    elif op == "history":
        caller.call(on, op, [], lambda to: history_of(to, adapter, alias))
        return
    else:
        body = {"adapter": adapter, "alias": alias, "expect": expect}
        if op == "set":
            number = random.randint(1, config.versions)
            found = caller.call(
                on, op, [number, expect], lambda to: _number(to.send("PUT", "/aliases", {**body, "number": number}))
            )
        else:
            body["expect"] = last if expect is None else expect
            found = caller.call(
                on, op, [body["expect"]], lambda to: _number(to.send("POST", "/aliases/rollback", body))
            )
    if isinstance(found, int):
        named[on] = found


def history_of(to: Caller, adapter: str, alias: str) -> Any:
    """All moves of an alias, the first one first, in one answer."""
    found = to.send("GET", "/aliases/history", params={"adapter": adapter, "alias": alias, "limit": 1000})
    return [[move["kind"], move["from_number"] or 0, move["to_number"]] for move in reversed(found["items"])]


def _number(said: Any) -> Any:
    return said if isinstance(said, str) else said["number"]


def _named(said: Any) -> Any:
    """What a ref names: 0 for nothing."""
    return 0 if said == "not_found" else _number(said)


# Numbers.


def call_numbers(caller: Caller, config: Config, random: Random, round_: int) -> None:
    """Publish something, or look what there is."""
    adapter = f"{config.prefix}-numbers-{round_}"
    on = f"numbers {adapter}"
    op = random.choices(("publish", "latest", "list"), (6, 2, 1))[0]
    if op == "publish":
        content = random.choice(list(config.contents))
        body = {**config.contents[content], "adapter": adapter}
        caller.call(on, op, [content], lambda to: _published(to.send("POST", "/versions", body)))
    elif op == "latest":
        caller.call(on, op, [], lambda to: _named(to.send("GET", "/resolve", params={"ref": adapter})))
    else:
        caller.call(on, op, [], lambda to: numbers_of(to, adapter))


def numbers_of(to: Caller, adapter: str) -> Any:
    """The numbers that an adapter has given, each with the digest of what has it, in one answer."""
    found = to.send("GET", "/versions", params={"adapter": adapter, "limit": 1000})
    if found == "not_found":
        return []
    return sorted([version["number"], version["digest"]] for version in found["items"])


def _published(said: Any) -> Any:
    return said if isinstance(said, str) else [said["version"]["number"], said["existing"]]


# Jobs.


class Worker:
    """One worker, which may hold several jobs, and calls also for some that it has lost."""

    def __init__(self, caller: Caller, config: Config, random: Random) -> None:
        self._caller = caller
        self._config = config
        self._random = random
        #: Attempts that it was given, the last ones last.
        self._given: list[tuple[str, int]] = []
        self._claims = 0

    def act(self) -> None:
        """Claim a job, or call for one that was given; mostly one of the last."""
        random = self._random
        op = random.choices(("claim", "heartbeat", "release", "complete", "fail", "show"), (4, 4, 3, 0.4, 0.2, 3))[0]
        if op == "claim" or not self._given:
            self._claim()
        elif op == "show":
            show_job(self._caller, random.choice(list(self._config.jobs)))
        else:
            job, attempt = random.choice(self._given[-4:])
            body = {
                "heartbeat": {"attempt": attempt},
                "release": {"attempt": attempt},
                "fail": {"attempt": attempt, "reason": "data", "message": "the rows are odd"},
                "complete": {**self._config.jobs[job], "attempt": attempt},
            }[op]
            self._caller.call(f"job {job}", op, [attempt], lambda to: _done(to.send("POST", f"/jobs/{job}/{op}", body)))

    def _claim(self) -> None:
        """Claim; a claim without an answer is sent again as the same one, as workers do, and is one call."""
        self._claims += 1
        key = f"{self._config.seed}-{self._claims}"
        info = {
            "name": f"worker-{self._config.seed}",
            "device": "cpu",
            "memory_bytes": 2**40,
            "free_memory_bytes": 2**40,
        }
        began, sent = time.monotonic(), False
        for _ in range(8):
            try:
                said = self._caller.send("POST", "/jobs/claim", {"worker": info}, headers={"Idempotency-Key": key})
                sent = True
                if said != "conflict":
                    break
            except Unsent:
                pass
            except Unknown:
                sent = True
            time.sleep(_AGAIN_S)
        else:
            said = None
        if said is not None:
            on, attempt = f"job {said['job']}", said["attempt"]
            self._caller.write(on, "claim", [], attempt, began, time.monotonic())
            self._given.append((said["job"], attempt))
        elif sent:
            # The lease of what it was given may have run out meanwhile; which job that was, nobody knows.
            self._caller.write("any job", "claim", [], None, began, None)


def show_job(caller: Caller, job: str) -> None:
    """Look how a job stands."""
    caller.call(f"job {job}", "show", [], lambda to: _standing(to.send("GET", f"/jobs/{job}")))


def _standing(said: Any) -> Any:
    return said if isinstance(said, str) else [said["state"], said["attempt"]]


def _done(said: Any) -> Any:
    return "done" if not isinstance(said, str) else "stale" if said == "stale_attempt" else said


def main() -> None:
    """Call until told to stop."""
    given = json.loads(Path(sys.argv[1]).read_text())
    config = Config(**given)
    random = Random(config.seed)
    stop = Path(config.stop)
    named: dict[str, int] = {}
    calls = 0
    # A line each: who watches counts them.
    with Path(config.record).open("w", buffering=1) as file:

        def record(call: dict[str, Any]) -> None:
            file.write(json.dumps(call) + "\n")

        writer, caller = (Caller(config.url, token, record) for token in (config.writer, config.worker))
        worker = Worker(caller, config, random)
        while not stop.exists():
            kind = random.choice(config.kinds)
            if kind == "alias":
                call_alias(writer, config, random, named)
            elif kind == "numbers":
                call_numbers(writer, config, random, calls // _CALLS_A_ROUND)
            else:
                worker.act()
            calls += 1
            time.sleep(_PACE_S)


if __name__ == "__main__":
    main()
