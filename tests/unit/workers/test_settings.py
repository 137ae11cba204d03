"""A worker's settings and its log lines."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import processes

from sdk.errors import InvalidInput
from sdk.pulling.cache import Cache
from workers.node import machine
from workers.settings import WorkerSettings, parse_queues

VARIABLES = (
    "NAME",
    "QUEUES",
    "GRACE_S",
    "WARM",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "SHARED_PATHS",
    "HUB_REPOSITORIES",
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_BROKER_URL", raising=False)
    for name in VARIABLES:
        # Set first, so that what the test itself sets is taken back too.
        monkeypatch.setenv(f"ADAPTER_WORKER_{name}", "")
        monkeypatch.delenv(f"ADAPTER_WORKER_{name}")


def test_the_defaults() -> None:
    settings = WorkerSettings.from_env()
    assert settings.queues == ("gpu", "cpu")
    assert settings.grace_s == 30
    assert settings.warm
    assert (settings.log_level, settings.log_format) == ("INFO", "text")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADAPTER_WORKER_GRACE_S", "soon"),
        ("ADAPTER_WORKER_GRACE_S", "0"),
        ("ADAPTER_WORKER_GRACE_S", "nan"),
        ("ADAPTER_WORKER_WARM", "yes"),
        ("ADAPTER_WORKER_QUANTIZED_CACHE", "small"),
        ("ADAPTER_WORKER_LOG_FORMAT", "xml"),
        ("ADAPTER_WORKER_LOG_LEVEL", "LOUD"),
        ("ADAPTER_WORKER_QUEUES", "gpu,tpu"),
        ("ADAPTER_WORKER_QUEUES", ","),
        ("ADAPTER_WORKER_HUB_REPOSITORIES", "meta-llama"),
        ("ADAPTER_WORKER_HUB_REPOSITORIES", "org/a/b"),
        ("ADAPTER_WORKER_HUB_REPOSITORIES", "org/*, ;"),
        ("REGISTRY_BROKER_URL", "amqp://user:hunter2@host"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_not_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as raised:
        WorkerSettings.from_env()
    assert raised.value.message.startswith(f"{name} ")
    assert raised.value.param == name
    assert "hunter2" not in raised.value.message


def test_all_that_is_set_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "REGISTRY_BROKER_URL": "rediss://:hunter2@broker",
        "ADAPTER_WORKER_NAME": "gpu-1",
        "ADAPTER_WORKER_SHARED_PATHS": "/data::/models",
        "ADAPTER_WORKER_HUB_REPOSITORIES": " org/*, meta-llama/x ",
        "ADAPTER_WORKER_QUEUES": "cpu",
        "ADAPTER_WORKER_GRACE_S": "12.5",
        "ADAPTER_WORKER_WARM": "0",
        "ADAPTER_WORKER_QUANTIZED_CACHE": "0",
        "ADAPTER_WORKER_WORDNET": "/data/wordnet",
        "ADAPTER_WORKER_LOG_LEVEL": "DEBUG",
        "ADAPTER_WORKER_LOG_FORMAT": "json",
    }
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    settings = WorkerSettings.from_env()
    assert settings == WorkerSettings(
        name="gpu-1",
        broker_url="rediss://:hunter2@broker",
        shared_paths=("/data", "/models"),
        hub_repositories=("org/*", "meta-llama/x"),
        queues=("cpu",),
        grace_s=12.5,
        warm=False,
        quantized_cache=False,
        wordnet=Path("/data/wordnet"),
        log_level="DEBUG",
        log_format="json",
    )
    assert "hunter2" not in repr(settings)


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_WORKER_QUEUES", "tpu")
    monkeypatch.setenv("ADAPTER_WORKER_GRACE_S", "86400")
    with pytest.raises(InvalidInput) as raised:
        WorkerSettings.from_env()
    assert raised.value.message == (
        "ADAPTER_WORKER_QUEUES is not a list of queues: there is no queue tpu; choose from gpu, cpu. "
        "ADAPTER_WORKER_GRACE_S is not a number below 86400; set it to one"
    )


def test_queues_are_kept_in_one_order() -> None:
    assert parse_queues(" cpu , gpu,cpu") == ("gpu", "cpu")
    assert parse_queues("cpu") == ("cpu",)


def test_a_worker_says_what_it_listens_to(tmp_path: Path) -> None:
    settings = replace(WorkerSettings.from_env(), name="w", queues=("cpu",))
    assert machine.worker_info(settings, Cache(tmp_path)).queues == ["cpu"]


SPEAK = """
import logging, threading
from workers.node import logs
from workers.settings import WorkerSettings
logs.configure(WorkerSettings.from_env())
log = logging.getLogger("workers.test")
log.info("before")
with logs.about("0123456789ab", 3):
    thread = threading.Thread(target=log.warning, args=("within %s", "a thread"))
    thread.start()
    thread.join()
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it broke")
    logging.getLogger("celery.worker").info("of the broker")
log.debug("too quiet")
log.info("after")
"""


def spoken(log_format: str) -> list[str]:
    done = processes.finished(
        sys.executable,
        "-c",
        SPEAK,
        env=processes.environment(ADAPTER_WORKER_LOG_FORMAT=log_format),
        timeout_s=60,
        check=True,
    )
    return done.stderr.splitlines()


def test_lines_of_an_attempt_say_which_as_text() -> None:
    lines = spoken("text")
    assert lines[0].endswith(" INFO workers.test before")
    assert lines[1].endswith(" WARNING workers.test job=0123456789ab attempt=3 within a thread")
    assert "ValueError: why" in lines
    assert lines[-2].endswith(" INFO celery.worker of the broker")
    assert lines[-1].endswith(" INFO workers.test after")


@pytest.mark.slow
def test_lines_of_an_attempt_say_which_as_json() -> None:
    before, within, broke, _, after = (json.loads(line) for line in spoken("json"))
    assert {key: value for key, value in before.items() if key != "at"} == {
        "level": "INFO",
        "logger": "workers.test",
        "message": "before",
    }
    assert (within["message"], within["job"], within["attempt"]) == ("within a thread", "0123456789ab", 3)
    assert "ValueError: why" in broke["exception"]
    assert "job" not in after
    assert logging.getLevelName(logging.INFO) == after["level"]
