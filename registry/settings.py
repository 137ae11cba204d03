"""Every setting of the registry, read in one place.

>>> Settings(database_url="sqlite:////tmp/r.sqlite3", storage_url="file:///tmp/artifacts", auth="none").auth
'none'
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from registry.deadlines import Timeouts
from registry.errors import Invalid
from registry.removal.row_lifetimes import Lifetimes

_CHOICES = {
    "auth": ("token", "none"),
    "gate": ("refuse", "quarantine"),
    "s3_addressing_style": ("path", "virtual", "auto"),
    "s3_checksum_mode": ("when_required", "when_supported"),
    "s3_encryption": ("AES256", "aws:kms", "aws:kms:dsse"),
    "database_startup_options": ("send", "omit"),
}
_NUMBERS = {
    "lease_s": float,
    "keep_events_days": float,
    "keep_attempts_days": float,
    "keep_failed_days": float,
    "keep_collected_days": float,
    "keep_tokens_days": float,
    "keep_audit_days": float,
    "max_attempts": int,
    "job_timeout_default_s": float,
    "job_timeout_max_s": float,
    "reconcile_s": float,
    "checkpoint_hours": float,
    "rate_limit_per_s": float,
    "part_bytes": int,
    "database_connect_s": float,
    "database_statement_s": float,
    "database_lock_s": float,
    "database_idle_s": float,
    "database_tcp_s": float,
    "database_deadline_s": float,
    "database_pool_s": float,
    "database_connections": int,
    "storage_deadline_s": float,
    "storage_stall_s": float,
    "storage_calls": int,
    "broker_timeout_s": float,
    "gc_statement_s": float,
    "migration_s": float,
    "migration_lock_s": float,
    "max_connections": int,
    "max_connections_per_address": int,
    "max_head_bytes": int,
    "max_headers": int,
    "max_url_bytes": int,
    "head_timeout_s": float,
    "body_grace_s": float,
    "min_bytes_per_s": float,
    "keep_alive_s": float,
    "failed_logins_per_minute": int,
    "max_streams": int,
    "max_streams_per_token": int,
    "default_max_adapters": int,
    "default_max_bytes": int,
    "default_max_jobs": int,
}
#: Where 0 means: no limit, or never.
_MAY_BE_ZERO = ("rate_limit_per_s", "reconcile_s", "min_bytes_per_s")
#: Where "none" means: no limit.
_MAY_BE_NONE = ("default_max_adapters", "default_max_bytes", "default_max_jobs")
#: Of what S3 takes in one request.
_LEAST_PART_BYTES, _MOST_PART_BYTES = 5 * 1024**2, 5 * 1024**3


@dataclass(frozen=True)
class Settings:
    """What a registry process runs with. `from_env` reads each from `REGISTRY_<NAME>`."""

    #: SQLAlchemy URL of PostgreSQL, or of an SQLite file.
    database_url: str
    #: `file:///folder` or `s3://bucket/prefix`.
    storage_url: str
    s3_endpoint_url: str | None = None
    #: The endpoint that presigned URLs carry, where clients reach the store by another name.
    s3_public_endpoint_url: str | None = None
    s3_region: str | None = None
    #: Whether the bucket stands in the URL's path or before its host.
    s3_addressing_style: Literal["path", "virtual", "auto"] = "path"
    #: Whether boto3 adds a CRC32 to requests that need none; several stores refuse it.
    s3_checksum_mode: Literal["when_required", "when_supported"] = "when_required"
    #: Server-side encryption of every object; None: as the bucket does by itself.
    s3_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    s3_kms_key_id: str | None = None
    #: The account that must own the bucket.
    s3_bucket_owner: str | None = None
    #: Larger files are sent in parts of this size, in bytes.
    part_bytes: int = 64 * 1024 * 1024
    #: What becomes of a version that the gate refuses: "refuse" keeps nothing, "quarantine" keeps it for an admin.
    gate: Literal["refuse", "quarantine"] = "refuse"
    #: A PEM file of EC public keys, or a folder of `*.pem`: versions without a signature by one of them are refused.
    signing_keys: str | None = None
    #: `redis://…`; None: jobs wait until a worker asks.
    broker_url: str | None = None
    auth: Literal["token", "none"] = "token"
    #: How clients reach this server; needed by folder storage behind HTTP.
    public_url: str | None = None
    #: How long PostgreSQL is waited for, in seconds; what each is, `Timeouts` says. None: as it says.
    database_connect_s: float | None = None
    database_statement_s: float | None = None
    database_lock_s: float | None = None
    database_idle_s: float | None = None
    database_tcp_s: float | None = None
    database_deadline_s: float | None = None
    #: How long one waits for a connection of this process to the database, in seconds; None: as `Timeouts` says.
    database_pool_s: float | None = None
    #: How many connections one process has to the database at most, beside the four that answer `resolve`.
    database_connections: int = 15
    #: "omit" for a pooler that refuses connections which say `options`: then it, or the server, has to set such limits.
    database_startup_options: Literal["send", "omit"] = "send"
    #: How long one answer of the S3 store is waited for, with all tries, in seconds.
    storage_deadline_s: float = 9.0
    #: How long a file that is read from the S3 store may stand still, in seconds.
    storage_stall_s: float = 30.0
    #: Threads of one process that may wait for the S3 store at a time.
    storage_calls: int = 16
    #: How long the broker may take to connect, and for each answer, in seconds.
    broker_timeout_s: float = 1.0
    #: How long PostgreSQL may take for one transaction of `gc`, in seconds.
    gc_statement_s: float = 60.0
    #: How long PostgreSQL may take for the statements of all migrations, in seconds.
    migration_s: float = 3600.0
    #: How long each statement of a migration waits for a lock on PostgreSQL, in seconds.
    migration_lock_s: float = 30.0
    #: How long a job is held after its worker's last heartbeat, in seconds.
    lease_s: float = 60.0
    #: Attempts after which a job whose workers vanish is given up.
    max_attempts: int = 3
    #: How long one attempt at a job may run that was submitted without a timeout, in seconds.
    job_timeout_default_s: float = 86_400.0
    #: The longest timeout that a job may be submitted with, in seconds.
    job_timeout_max_s: float = 604_800.0
    #: How often a server process looks for silent workers and forgotten jobs, in seconds; 0: never, another process does.
    reconcile_s: float = 5.0
    #: How long a checkpoint is kept after a later one of its job, in hours. The last is kept.
    checkpoint_hours: float = 168.0
    #: How many days the events and the attempts of a job are kept after its end, pushes that failed, the rights of tokens
    #: that are over, and entries of the audit trail, which go only where `audit_folder` has them.
    keep_events_days: float = 90.0
    keep_attempts_days: float = 365.0
    keep_failed_days: float = 30.0
    keep_collected_days: float = 30.0
    keep_tokens_days: float = 90.0
    keep_audit_days: float = 400.0
    #: Where old entries of the audit trail are written before they leave the database; None: they stay in it.
    audit_folder: str | None = None
    #: Requests that one token may send in a second to one server process, twice as many at once; 0: no limit.
    rate_limit_per_s: float = 0.0
    #: Connections of one server process, in all and from one address.
    max_connections: int = 2000
    max_connections_per_address: int = 256
    #: Of a request's line and headers together, in bytes; how many headers; and the URL alone, in bytes.
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    max_url_bytes: int = 16 * 1024
    #: How long a request's headers may take to come in, in seconds.
    head_timeout_s: float = 10.0
    #: How long a body may take to begin, in seconds, and how fast it must come from then on; 0: as slowly as it likes.
    body_grace_s: float = 10.0
    min_bytes_per_s: float = 1024.0
    #: How long a connection on which nothing is asked is kept, in seconds.
    keep_alive_s: float = 5.0
    #: Addresses and networks, separated by commas, of proxies whose `X-Forwarded-For` says who is asking.
    trusted_proxies: str | None = None
    #: Wrong tokens that one address may send in a minute before its failures are answered with 429.
    failed_logins_per_minute: int = 20
    #: Streams and long polls of one server process, in all and of one token.
    max_streams: int = 1000
    max_streams_per_token: int = 32
    #: The limits of a namespace for which nobody has set any, nor for all: names of adapters, bytes of all kinds, jobs that
    #: wait or run. None: no limit. An embedded registry has none.
    default_max_adapters: int | None = 10_000
    default_max_bytes: int | None = 1_000_000_000_000
    default_max_jobs: int | None = 10_000
    #: Whether this process changes nothing, whatever the switch in the database says.
    read_only: bool = False
    #: Home folder of an embedded registry; None behind HTTP.
    embedded_home: str | None = None

    @property
    def timeouts(self) -> Timeouts:
        """How long the database is waited for."""
        given = {
            "connect_s": self.database_connect_s,
            "statement_s": self.database_statement_s,
            "lock_s": self.database_lock_s,
            "idle_s": self.database_idle_s,
            "tcp_s": self.database_tcp_s,
            "deadline_s": self.database_deadline_s,
            "pool_s": self.database_pool_s,
        }
        known = {name: seconds for name, seconds in given.items() if seconds is not None}
        return Timeouts(
            **known,
            migration_s=self.migration_s,
            migration_lock_s=self.migration_lock_s,
            connections=self.database_connections,
            tells=self.database_startup_options == "send",
        )

    @property
    def lifetimes(self) -> Lifetimes:
        """How long rows are kept."""
        return Lifetimes(
            events_days=self.keep_events_days,
            attempts_days=self.keep_attempts_days,
            failed_days=self.keep_failed_days,
            collected_days=self.keep_collected_days,
            tokens_days=self.keep_tokens_days,
            audit_days=self.keep_audit_days,
            audit_folder=self.audit_folder,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from the environment.

        Raises Invalid for one that is missing or has a bad value.
        """
        env = os.environ if environ is None else environ
        given = {
            field.name: env[f"REGISTRY_{field.name.upper()}"]
            for field in fields(cls)
            if env.get(f"REGISTRY_{field.name.upper()}")
        }
        given.pop("embedded_home", None)
        for name, example in (
            ("database_url", "postgresql+psycopg://user@host/registry"),
            ("storage_url", "s3://bucket/prefix"),
        ):
            if name not in given:
                variable = f"REGISTRY_{name.upper()}"
                raise Invalid(f"{variable} is not set; set it, for example {variable}={example}", param=variable)
        for name, choices in _CHOICES.items():
            variable = f"REGISTRY_{name.upper()}"
            if name in given and given[name] not in choices:
                raise Invalid(
                    f"{variable}={given[name]!r} is none of {', '.join(choices)}; set it to one of them", param=variable
                )
        if given.get("read_only", "0") not in ("0", "1"):
            raise Invalid("REGISTRY_READ_ONLY is neither 0 nor 1; set it to one of them", param="REGISTRY_READ_ONLY")
        read_only = given.pop("read_only", "0") == "1"
        numbers: dict[str, float | None] = {name: None for name in _MAY_BE_NONE if given.get(name) == "none"}
        given = {name: value for name, value in given.items() if name not in numbers}
        for name, kind in _NUMBERS.items():
            if name in given:
                variable = f"REGISTRY_{name.upper()}"
                try:
                    number = kind(given.pop(name))
                except ValueError:
                    raise Invalid(f"{variable} is no number; set it to one", param=variable) from None
                if not (0 < number < math.inf or (name in _MAY_BE_ZERO and number == 0)):
                    raise Invalid(f"{variable} is no number above 0; set it to one", param=variable)
                numbers[name] = number
        if not _LEAST_PART_BYTES <= (numbers.get("part_bytes") or _LEAST_PART_BYTES) <= _MOST_PART_BYTES:
            raise Invalid(
                "REGISTRY_PART_BYTES is not between 5 MiB and 5 GiB, the parts that S3 takes; set it to one in between",
                param="REGISTRY_PART_BYTES",
            )
        return cls(**given, **numbers, read_only=read_only)  # type: ignore[arg-type]
