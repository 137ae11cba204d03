"""Every setting of the registry, read in one place.

>>> Settings(database_url="sqlite:////tmp/r.sqlite3", storage_url="file:///tmp/artifacts", auth="none").auth
'none'
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from registry.deadlines import Timeouts
from registry.errors import Invalid
from registry.removal.lifetimes import Lifetimes
from sdk.environment import Count, NotNegative, Positive, Switch, read_settings

_EXAMPLES = {
    "database_url": "postgresql+psycopg://user@host/registry",
    "storage_url": "s3://bucket/prefix",
}


def _none_or_text(text: str) -> str | None:
    return None if text == "none" else text


def _fits_s3(size_bytes: int) -> int:
    if not 5 * 1024**2 <= size_bytes <= 5 * 1024**3:
        raise ValueError(
            "is not between 5 MiB and 5 GiB, which is what S3 accepts for a part; set it to a value in between"
        )
    return size_bytes


#: A whole number above 0; "none" for no limit.
_Limit = Annotated[Count | None, BeforeValidator(_none_or_text)]


@dataclass(frozen=True)
class Settings:
    """What a registry process runs with. `from_env` reads each from `REGISTRY_<NAME>`."""

    #: SQLAlchemy URL of PostgreSQL, or of an SQLite file; it may contain a password, and is never shown.
    database_url: str = field(repr=False)
    #: `file:///folder` or `s3://bucket/prefix`.
    storage_url: str
    s3_endpoint_url: str | None = None
    #: The endpoint in presigned URLs, if clients reach the store by another name.
    s3_public_endpoint_url: str | None = None
    s3_region: str | None = None
    #: Whether the bucket is in the URL's path or before its host.
    s3_addressing_style: Literal["path", "virtual", "auto"] = "path"
    #: Whether boto3 adds a CRC32 to requests that need none; several stores refuse it.
    s3_checksum_mode: Literal["when_required", "when_supported"] = "when_required"
    #: Server-side encryption of every object; None: the bucket's default.
    s3_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    s3_kms_key_id: str | None = None
    #: The account that must own the bucket.
    s3_bucket_owner: str | None = None
    #: Larger files are sent in parts of this size, in bytes.
    part_bytes: Annotated[int, AfterValidator(_fits_s3)] = 64 * 1024 * 1024
    #: What happens to a version that admission refuses: "refuse" keeps nothing, "quarantine" keeps it for an admin.
    gate: Literal["refuse", "quarantine"] = "refuse"
    #: A PEM file of EC public keys, or a folder of `*.pem`: versions that none of these keys has signed are refused.
    signing_keys: str | None = None
    #: `redis://…`, which may contain a password and is never shown; None: jobs wait until a worker asks.
    broker_url: str | None = field(default=None, repr=False)
    auth: Literal["token", "none"] = "token"
    #: How clients reach this server; needed by folder storage behind HTTP.
    public_url: str | None = None
    #: Hosts for which a server answers, separated by commas, in addition to that of `public_url` and loopback;
    #: `*.DOMAIN`: all below it, `*`: all.
    allowed_hosts: str | None = None
    #: How long to wait for PostgreSQL, in seconds; `Timeouts` explains each of them.
    database_connect_s: Positive = Timeouts.connect_s
    database_statement_s: Positive = Timeouts.statement_s
    database_lock_s: Positive | None = None
    database_deadline_s: Positive = Timeouts.deadline_s
    #: How long to wait for one of this process's connections to the database, in seconds; None: it depends on the kind
    #: of database.
    database_pool_s: Positive | None = None
    #: How many connections to the database one process has at most.
    database_connections: Count = 15
    #: "omit" for a pooler that refuses connections with `options`: then the pooler or the server has to set these
    #: limits.
    database_startup_options: Literal["send", "omit"] = "send"
    #: How long to wait for one answer of the S3 store, with all tries, in seconds.
    storage_deadline_s: Positive = 9.0
    #: How long the bytes of a file that is read from the S3 store may pause, in seconds.
    storage_stall_s: Positive = 30.0
    #: How many threads of one process may wait for the S3 store at a time.
    storage_calls: Count = 32
    #: How long the broker may take to connect, and for each answer, in seconds.
    broker_timeout_s: Positive = 1.0
    #: How long PostgreSQL may take for one transaction of `gc`, in seconds.
    gc_statement_s: Positive = 60.0
    #: How long PostgreSQL may take for the statements of all migrations, in seconds.
    migration_s: Positive = 3600.0
    #: How long each statement of a migration waits for a lock on PostgreSQL, in seconds.
    migration_lock_s: Positive = 30.0
    #: How long a job is held after its worker's last heartbeat, in seconds.
    lease_s: Positive = 60.0
    #: After how many attempts a job whose workers vanish is given up.
    max_attempts: Count = 3
    #: How long one attempt at a job may run if the job was submitted without a timeout, in seconds.
    job_timeout_default_s: Positive = 86_400.0
    #: The longest timeout that a job may be submitted with, in seconds.
    job_timeout_max_s: Positive = 604_800.0
    #: How often a server process looks for silent workers and forgotten jobs, in seconds; 0: never, another process does.
    reconcile_s: NotNegative = 5.0
    #: How long a checkpoint is kept after a later one of its job, in hours. The last is kept.
    checkpoint_hours: Positive = 168.0
    #: How many days these are kept: the events and the attempts of a job after its end, failed pushes, what sweeps keep of
    #: their members, the rights of revoked and expired tokens, and entries of the audit trail, which are only removed if `audit_folder` has them.
    keep_events_days: Positive = 90.0
    keep_attempts_days: Positive = 365.0
    keep_failed_days: Positive = 30.0
    keep_sweeps_days: Positive = 90.0
    keep_tokens_days: Positive = 90.0
    keep_audit_days: Positive = 400.0
    #: Where old entries of the audit trail are written before they leave the database; None: they stay in it.
    audit_folder: str | None = None
    #: How many requests per second one token may send to one server process, twice as many at once; 0: no limit.
    rate_limit_per_s: NotNegative = 0.0
    #: Connections of one server process, in all and from one address.
    max_connections: Count = 2000
    max_connections_per_address: Count = 256
    #: Whether a proxy in front counts the connections of an address, and waits for slow clients itself.
    behind_proxy: Switch = False
    #: A server process whose event loop does nothing for this long is ended, in seconds; 0: never, for a debugger.
    silent_s: NotNegative = 20.0
    #: Addresses and networks, separated by commas, of proxies whose `X-Forwarded-For` says who is asking.
    trusted_proxies: str | None = None
    #: How many wrong tokens per minute one address may send before its failures are answered with 429.
    failed_logins_per_minute: Count = 20
    #: How many streams and long polls one server process may have, in all and for one token.
    max_streams: Count = 1000
    max_streams_per_token: Count = 32
    #: The limits of a namespace if none are set for it or for all: names of adapters, bytes of all kinds, jobs that
    #: wait or run, bytes of records in the database. None: no limit. An embedded registry has none.
    default_max_adapters: _Limit = 10_000
    default_max_bytes: _Limit = 1_000_000_000_000
    default_max_jobs: _Limit = 10_000
    default_max_record_bytes: _Limit = 1024 * 1024 * 1024
    #: Whether this process changes nothing, whatever the switch in the database says.
    read_only: Switch = False
    #: Home folder of an embedded registry; None behind HTTP.
    embedded_home: str | None = None

    @property
    def timeouts(self) -> Timeouts:
        """How long to wait for the database."""
        return Timeouts(
            connect_s=self.database_connect_s,
            statement_s=self.database_statement_s,
            lock_s=self.database_lock_s,
            deadline_s=self.database_deadline_s,
            pool_s=self.database_pool_s,
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
            sweeps_days=self.keep_sweeps_days,
            tokens_days=self.keep_tokens_days,
            audit_days=self.keep_audit_days,
            audit_folder=self.audit_folder,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from the environment.

        Raises Invalid with a sentence for each that is missing or has a bad value.
        """
        variables = {
            setting.name: f"REGISTRY_{setting.name.upper()}"
            for setting in fields(cls)
            if setting.name != "embedded_home"
        }
        return read_settings(
            cls, variables, os.environ if environ is None else environ, refused=Invalid, examples=_EXAMPLES
        )
