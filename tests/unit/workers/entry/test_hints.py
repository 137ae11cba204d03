"""What is taken for a hint of the registry, and what a worker does with everything else in its queue."""

from __future__ import annotations

import base64
import copy
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from support import processes
from support.workplace import Running, wait_until

from registry.queue.broker import TASK as SENT
from registry.queue.broker import CeleryQueue
from workers.entry.hints import TASK, is_hint


def test_both_sides_call_the_task_the_same() -> None:
    assert TASK == SENT


def encoded(*parts: Any) -> str:
    return base64.b64encode(json.dumps(parts).encode()).decode()


@pytest.fixture(scope="module")
def hint(valkey_url: str) -> dict[str, Any]:
    """A message as the registry sends it."""
    with redis.Redis.from_url(valkey_url) as broker:
        broker.delete("gpu")
        CeleryQueue(valkey_url).announce("3f1c2a9b7d20", "gpu")
        found: dict[str, Any] = json.loads(broker.rpop("gpu"))  # type: ignore[arg-type]
    return found


def test_what_the_registry_sends_is_one(hint: dict[str, Any]) -> None:
    assert is_hint(hint)


@pytest.mark.parametrize("message", [None, 5, "x", [], {}, [1, 2], {"body": "x"}, {"headers": {}, "properties": 7}])
def test_another_form_is_none(message: Any) -> None:
    assert not is_hint(message)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("headers", "task"), "celery.backend_cleanup"),
        (("headers", "task"), ["adapterctl.work"]),
        (("headers", "id"), 5),
        (("headers",), None),
        (("headers", "eta"), "2999-01-01T00:00:00"),
        (("headers", "expires"), "nonsense"),
        (("headers", "timelimit"), [0.001, None]),
        (("content-type",), "application/x-python-serialize"),
        (("properties", "body_encoding"), "rot13"),
        (("properties", "delivery_tag"), None),
        (("properties", "delivery_info"), None),
        (("body",), "!"),
        (("body",), encoded(["x"], {}, {}) + "A" * 100_000),
        (("body",), encoded(["x", "y"], {}, {})),
        (("body",), encoded([], {"hint": "x"}, {})),
        (("body",), encoded([7], {}, {})),
        (("body",), encoded(["x"], {}, {"chain": [{"task": TASK}]})),
        (("body",), base64.b64encode(b"[" * 10_000).decode()),
    ],
)
def test_what_the_registry_would_not_send_is_none(hint: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    changed = copy.deepcopy(hint)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not is_hint(changed)


@pytest.fixture
def worker(tmp_path: Path, empty_valkey_url: str) -> Iterator[Running]:
    """A worker whose registry is away, so that each hint leaves a line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = processes.environment(
        ADAPTERCTL_URL=f"http://127.0.0.1:{port}",
        ADAPTERCTL_TOKEN="none",
        ADAPTERCTL_CACHE=str(tmp_path / "cache"),
        HOME=str(tmp_path),
        REGISTRY_BROKER_URL=empty_valkey_url,
    )
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        command = [str(processes.BIN / "adapter-worker"), "start", "--queue", "gpu", "--name", "gpu-1"]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    running = Running(process, log)
    try:
        wait_until(lambda: "ready." in running.text, lambda: running.text)
        yield running
    finally:
        running.kill()


@pytest.mark.slow
def test_garbage_in_the_queue_is_dropped_and_the_next_hint_taken(
    worker: Running, hint: dict[str, Any], empty_valkey_url: str
) -> None:
    garbage = [b"", b"\xff\xfe", b"not json", b"7", b"[]", b"{}", b"[" * 100_000, b'{"body": null}', os.urandom(10**6)]
    for path, value in (("headers", None), ("properties", {}), ("content-type", "x/y"), ("body", "!")):
        garbage.append(json.dumps({**hint, path: value}).encode())
    unknown = {**hint["headers"], "task": "os.system"}
    garbage.append(json.dumps({**hint, "headers": unknown}).encode())
    # Without an id Celery would look for one.
    garbage.append(json.dumps({**hint, "headers": {"task": "os.system"}}).encode())
    with redis.Redis.from_url(empty_valkey_url) as broker:
        for message in garbage:
            broker.lpush("gpu", message)
        pidbox = f"/{urlsplit(empty_valkey_url).path[1:]}.celery.pidbox"
        # What is published before Celery has subscribed reaches nobody.
        wait_until(lambda: broker.publish(pidbox, b"7") > 0, lambda: worker.text)
        Celery(broker=empty_valkey_url, set_as_current=False).send_task(TASK, args=["3f1c"], queue="gpu")
        # It is acknowledged once the pool has it.
        wait_until(lambda: " received" in worker.text and broker.hlen("unacked") == 0, lambda: worker.text)
        assert broker.llen("gpu") == 0
    assert worker.process.poll() is None
    # And the one for the control of workers, which is not a command, and is read whenever Celery comes to it.
    wait_until(lambda: worker.text.count("dropped") > len(garbage), lambda: worker.text)
    assert worker.text.count("dropped") == len(garbage) + 1
    assert "Traceback" not in worker.text
