"""Settings come from the environment, and a bad one is named."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from sqlalchemy import QueuePool

from registry.app.services import Services
from registry.db.database import Database
from registry.db.postgres import parameters
from registry.deadlines import Timeouts
from registry.errors import Invalid, Unavailable
from registry.queue import NoQueue, open_queue
from registry.queue.broker import CeleryQueue
from registry.settings import Settings
from registry.storage.s3 import S3Storage

ENV = {"REGISTRY_DATABASE_URL": "sqlite:////tmp/none.sqlite3", "REGISTRY_STORAGE_URL": "s3://bucket/prefix"}


def test_what_is_set_is_read_and_the_rest_has_defaults() -> None:
    settings = Settings.from_env(
        ENV
        | {
            "REGISTRY_S3_ENDPOINT_URL": "http://s3:8333",
            "REGISTRY_S3_PUBLIC_ENDPOINT_URL": "https://s3.example",
            "REGISTRY_S3_REGION": "eu",
            "REGISTRY_BROKER_URL": "redis://broker",
            "REGISTRY_PUBLIC_URL": "https://registry.example",
            "REGISTRY_ALLOWED_HOSTS": "api,*.internal.example",
            "REGISTRY_LEASE_S": "12.5",
            "REGISTRY_MAX_ATTEMPTS": "5",
            "REGISTRY_AUTH": "none",
        }
    )
    assert settings == Settings(
        database_url="sqlite:////tmp/none.sqlite3",
        storage_url="s3://bucket/prefix",
        s3_endpoint_url="http://s3:8333",
        s3_public_endpoint_url="https://s3.example",
        s3_region="eu",
        broker_url="redis://broker",
        public_url="https://registry.example",
        allowed_hosts="api,*.internal.example",
        lease_s=12.5,
        max_attempts=5,
        auth="none",
    )
    assert Settings.from_env(ENV) == Settings(database_url=settings.database_url, storage_url=settings.storage_url)


def test_every_setting_but_the_home_can_be_set() -> None:
    given = {
        "part_bytes": "10000000",
        "gate": "quarantine",
        "read_only": "1",
        "behind_proxy": "1",
        "s3_addressing_style": "auto",
        "s3_checksum_mode": "when_supported",
        "s3_encryption": "AES256",
        "database_startup_options": "omit",
        "auth": "none",
    }
    env = {f"REGISTRY_{field.name.upper()}": given.get(field.name, "7") for field in fields(Settings)}
    settings = Settings.from_env(env)
    assert settings.embedded_home is None
    assert [field.name for field in fields(Settings) if getattr(settings, field.name) == field.default] == [
        "embedded_home"
    ]


def test_a_default_limit_may_be_none_and_no_other_number_may() -> None:
    names = ("default_max_adapters", "default_max_bytes", "default_max_jobs", "default_max_record_bytes")
    assert [getattr(Settings.from_env(ENV), name) for name in names] == [10_000, 10**12, 10_000, 2**30]
    for name in names:
        variable = f"REGISTRY_{name.upper()}"
        assert getattr(Settings.from_env(ENV | {variable: "none"}), name) is None
        assert getattr(Settings.from_env(ENV | {variable: "12"}), name) == 12
        for wrong in ("0", "-1", "1.5", "None", "1TB"):
            with pytest.raises(Invalid, match=variable):
                Settings.from_env(ENV | {variable: wrong})
    with pytest.raises(Invalid, match=r"REGISTRY_LEASE_S is not a number; set it to one$"):
        Settings.from_env(ENV | {"REGISTRY_LEASE_S": "none"})


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.from_env(ENV | {"REGISTRY_BROKER_URL": "", "REGISTRY_AUTH": ""}) == Settings.from_env(ENV)


@pytest.mark.parametrize("name", ["REGISTRY_DATABASE_URL", "REGISTRY_STORAGE_URL"])
def test_what_is_missing_is_named_with_an_example(name: str) -> None:
    with pytest.raises(Invalid, match=f"{name} is not set; set it, for example {name}=") as caught:
        Settings.from_env({key: value for key, value in ENV.items() if key != name})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGISTRY_AUTH", "off"),
        ("REGISTRY_AUTH", "None"),
        ("REGISTRY_READ_ONLY", "yes"),
        ("REGISTRY_MAX_CONNECTIONS", "0"),
        ("REGISTRY_BEHIND_PROXY", "yes"),
        ("REGISTRY_MAX_STREAMS", "2.5"),
        ("REGISTRY_LEASE_S", "soon"),
        ("REGISTRY_LEASE_S", "nan"),
        ("REGISTRY_LEASE_S", "inf"),
        ("REGISTRY_LEASE_S", "0"),
        ("REGISTRY_LEASE_S", "-5"),
        ("REGISTRY_MAX_ATTEMPTS", "1.5"),
        ("REGISTRY_MAX_ATTEMPTS", "5.0"),
        ("REGISTRY_MAX_ATTEMPTS", "0"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Invalid, match=name) as caught:
        Settings.from_env(ENV | {name: value})
    assert caught.value.param == name


def test_all_that_is_wrong_is_said_at_once_and_no_secret_with_it() -> None:
    wrong = {
        "REGISTRY_STORAGE_URL": "",
        "REGISTRY_AUTH": "off",
        "REGISTRY_PART_BYTES": "1",
        "REGISTRY_RATE_LIMIT_PER_S": "-1",
        "REGISTRY_READ_ONLY": "yes",
        "REGISTRY_LEASE_S": "inf",
        "REGISTRY_MAX_ATTEMPTS": "9" * 5000,
    }
    secrets = {
        "REGISTRY_DATABASE_URL": "postgresql://user:hunter2@db/registry",
        "REGISTRY_BROKER_URL": "redis://:hunter2@b",
    }
    with pytest.raises(Invalid) as caught:
        Settings.from_env(secrets | wrong)
    assert sorted(caught.value.message.split(". ")) == [
        "REGISTRY_AUTH is 'off'; set it to 'token' or 'none'",
        "REGISTRY_LEASE_S is not a finite number; set it to one",
        "REGISTRY_MAX_ATTEMPTS is not a whole number; set it to one",
        "REGISTRY_PART_BYTES is not between 5 MiB and 5 GiB, which is what S3 accepts for a part; set it to a value in between",
        "REGISTRY_RATE_LIMIT_PER_S is not a number from 0 on; set it to one",
        "REGISTRY_READ_ONLY is neither 0 nor 1; set it to one of them",
        "REGISTRY_STORAGE_URL is not set; set it, for example REGISTRY_STORAGE_URL=s3://bucket/prefix",
    ]
    assert caught.value.param == "REGISTRY_STORAGE_URL"
    assert "hunter2" not in repr(Settings.from_env(ENV | secrets))


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://host/db", "mongodb://x", "sqlite://", "sqlite:///:memory:", "oracle://x", "http://x"],
)
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="neither postgresql:") as caught:
        Database(url).engine  # noqa: B018
    assert caught.value.param == "REGISTRY_DATABASE_URL"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_postgresql_is_reached_by_the_driver_that_is_installed(scheme: str) -> None:
    engine = Database(f"{scheme}://user:p%40ss@host:1/name").engine
    assert engine.dialect.driver == "psycopg"
    assert engine.url.password == "p@ss"


@pytest.mark.parametrize("url", ["amqp://broker", "localhost:6379", "sqs://"])
def test_a_broker_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        open_queue(url)
    assert caught.value.param == "REGISTRY_BROKER_URL"
    assert isinstance(open_queue(None), NoQueue)


@pytest.mark.parametrize("url", ["ftp://x", "file://host/x", "s3:///prefix", "nonsense"])
def test_a_storage_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Services(Settings(database_url=ENV["REGISTRY_DATABASE_URL"], storage_url=url, auth="none"), queue=NoQueue())
    assert caught.value.param == "REGISTRY_STORAGE_URL"


def test_how_long_a_database_is_waited_for_is_a_setting() -> None:
    assert Settings.from_env(ENV).timeouts == Timeouts()
    given = {
        "REGISTRY_DATABASE_CONNECT_S": "7",
        "REGISTRY_DATABASE_STATEMENT_S": "20",
        "REGISTRY_DATABASE_LOCK_S": "2.5",
        "REGISTRY_DATABASE_DEADLINE_S": "25",
        "REGISTRY_DATABASE_STARTUP_OPTIONS": "omit",
        "REGISTRY_MIGRATION_S": "60",
        "REGISTRY_MIGRATION_LOCK_S": "8",
        "REGISTRY_DATABASE_POOL_S": "1.5",
        "REGISTRY_DATABASE_CONNECTIONS": "3",
    }
    found = Settings.from_env(ENV | given).timeouts
    rest = Timeouts(migration_s=60, migration_lock_s=8, pool_s=1.5, connections=3, tells=False)
    assert found == replace(rest, connect_s=7, statement_s=20, lock_s=2.5, deadline_s=25)
    sent = parameters(found, {"connect_timeout": "4", "options": "-c search_path=x"})
    # What the URL says goes first.
    assert (sent["connect_timeout"], sent["options"], sent["tcp_user_timeout"]) == ("4", "-c search_path=x", 6000)
    assert parameters(Timeouts(), {"options": "-c lock_timeout=1"})["options"].endswith(" -c lock_timeout=1")


@pytest.mark.parametrize("scheme", ["sqlite:////tmp/none.sqlite3", "postgresql://user@db/registry"])
@pytest.mark.parametrize("most", [2, 15, 20])
def test_a_process_has_so_many_connections_and_waits_so_long_for_one(scheme: str, most: int) -> None:
    pool = Database(scheme, Timeouts(connections=most, pool_s=0.25)).engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.size() + pool._max_overflow, pool.timeout()) == (most, 0.25)


def test_who_finds_no_connection_is_told_after_the_time_that_is_set(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'r.sqlite3'}", Timeouts(connections=1, pool_s=0.1))
    began = time.monotonic()
    with db.read(), pytest.raises(Unavailable, match="is overloaded"), db.read():
        pass
    assert time.monotonic() - began < 5
    db.close()


def test_store_and_broker_are_given_the_settings_on_them() -> None:
    given = {"REGISTRY_STORAGE_CALLS": "3", "REGISTRY_BROKER_TIMEOUT_S": "2.5", "REGISTRY_BROKER_URL": "redis://broker"}
    settings = Settings.from_env(ENV | {"REGISTRY_S3_REGION": "eu"} | given)
    services = Services(settings)
    storage, queue = services.artifacts.storage, services.jobs._queue
    assert isinstance(storage, S3Storage)
    assert isinstance(queue, CeleryQueue)
    assert storage._calls._places._free._value == 3
    assert queue._celery.conf.broker_transport_options["socket_timeout"] == 2.5
    assert queue._celery.conf.broker_transport_options["socket_connect_timeout"] == 2.5
    services.db.close()
    storage.close()
