"""The registry's server and the workers of a stack, as processes; and the tokens of the admin and of the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sdk.stack.errors import ServerError
from sdk.stack.local_process import LocalProcess, new_secret, write_private
from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports, http_status, is_connected
from sdk.stack.postgres import PostgresServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer
from sdk.version import API

_BUCKET = "adapterctl"
_DATABASE = "registry"
_SERVER_PROCESSES = 2
_ROLES = ("admin", "worker")
#: Variables with these prefixes are not passed on: they are settings of another registry, or keys to stores.
_KEPT_AWAY = ("ADAPTERCTL_", "REGISTRY_", "AWS_")


class RegistryServer(LocalServer):
    """`adapter-registry serve` over the three servers of its stack."""

    name = "registry"
    # The server gives open requests 10 s to finish.
    stop_signals: ClassVar = ((signal.SIGTERM, 15.0),)

    def __init__(
        self, directory: Path, *, postgres: PostgresServer, valkey: ValkeyServer, seaweed: SeaweedServer
    ) -> None:
        super().__init__(directory)
        self._postgres = postgres
        self._valkey = valkey
        self._seaweed = seaweed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.kept['port']}"

    @property
    def database_url(self) -> str:
        """The registry's database, as psql and psycopg spell it."""
        return self._postgres.url_of(_DATABASE).replace("+psycopg", "", 1)

    @property
    def tokens(self) -> dict[str, str]:
        """The tokens of the admin and of the workers, those that have been made."""
        try:
            return dict(json.loads(self._tokens_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def prepare_database(self) -> None:
        """Make the registry's database, its schema and the tokens, if they are missing. PostgreSQL must be ready."""
        if not self._postgres.has_database(_DATABASE):
            self._postgres.create_database(_DATABASE)
        self._run("db", "upgrade")
        for role in _ROLES:
            if role not in self.tokens:
                self._make_token(role)

    def prepare_bucket(self) -> None:
        """Make the registry's bucket, if it is missing. SeaweedFS must be ready."""
        self._seaweed.create_bucket(_BUCKET)

    def token_of(self, role: str) -> str:
        """Return the token of a role, made if there is none. The registry's database must be there."""
        if role not in self.tokens:
            self._make_token(role)
        return self.tokens[role]

    def renew_tokens(self) -> None:
        """Replace tokens that the registry refuses, for example after they were revoked. The registry must be ready."""
        for role, token in self.tokens.items():
            if http_status(self.kept["port"], f"{API}/whoami", token=token) == 401:
                self._make_token(role)

    def _choose(self) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"port": port}

    def _command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.kept["port"]), "--workers", str(_SERVER_PROCESSES)]
        return _program("registry.ops.entry", "serve", *where)

    def _healthy(self) -> bool:
        return http_status(self.kept["port"], "/readyz") == 200

    def _environment(self) -> dict[str, str]:
        return inherited_environment() | {
            "REGISTRY_AUTH": "token",
            "REGISTRY_BROKER_URL": self._valkey.url,
            "REGISTRY_DATABASE_URL": self.database_url,
            "REGISTRY_S3_ENDPOINT_URL": self._seaweed.url,
            "REGISTRY_S3_REGION": self._seaweed.region,
            "REGISTRY_STORAGE_URL": f"s3://{_BUCKET}",
            "AWS_ACCESS_KEY_ID": self._seaweed.access_key,
            "AWS_SECRET_ACCESS_KEY": self._seaweed.secret_key,
            # The user's configuration for AWS is meant for AWS, not for this store.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def _tokens_path(self) -> Path:
        return self.directory / "tokens.json"

    def _make_token(self, role: str) -> None:
        secret = self._run("token", "create", "--role", role, "--name", role, "--replace").strip()
        write_private(self._tokens_path, json.dumps({**self.tokens, role: secret}) + "\n")

    def _run(self, *arguments: str) -> str:
        """Run a command of `adapter-registry` to its end and return what it printed."""
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            _program("registry.ops.entry", *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=self.directory,
            env=self._environment(),
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise ServerError(
                f"adapter-registry {' '.join(arguments)} exited with {done.returncode}: {said[-1] if said else ''}"
            )
        return done.stdout


class GatewayServer(LocalServer):
    """`adapterctl serve` for some versions, with a token of the role server and a key of its own."""

    name = "gateway"
    # Running requests have 30 s.
    stop_signals: ClassVar = ((signal.SIGTERM, 40.0),)

    def __init__(self, directory: Path, refs: Sequence[str], *, registry: RegistryServer) -> None:
        super().__init__(directory)
        self.refs = tuple(refs)
        self._registry = registry

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.kept['port']}/v1"

    @property
    def key(self) -> str:
        """What callers send."""
        return str(self.kept["key"])

    def _choose(self) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"port": port, "key": f"sk-{new_secret()}"}

    def _prepare(self) -> None:
        write_private(self._key_path, self.key + "\n")

    def _command(self) -> list[str]:
        where = ["--port", str(self.kept["port"]), "--key-file", str(self._key_path)]
        return _program("sdk.cli", "serve", *self.refs, *where)

    def _healthy(self) -> bool:
        # It isn't ready while its engine starts, which may take minutes.
        return http_status(self.kept["port"], "/healthz") == 200

    def _environment(self) -> dict[str, str]:
        cache = os.environ.get("ADAPTERCTL_CACHE")
        return inherited_environment() | {
            "ADAPTERCTL_URL": self._registry.url,
            "ADAPTERCTL_TOKEN": self._registry.token_of("server"),
            **({"ADAPTERCTL_CACHE": cache} if cache else {}),
        }

    @property
    def _key_path(self) -> Path:
        return self.directory / "key"


class WorkerProcess(LocalProcess):
    """`adapter-worker start`, which gets the registry's URL, a worker's token and the broker, but no access to the
    database or the store.
    """

    # It saves a checkpoint and hands its job back.
    stop_signals: ClassVar = ((signal.SIGTERM, 30.0),)

    def __init__(self, directory: Path, number: int, *, registry: RegistryServer, valkey: ValkeyServer) -> None:
        super().__init__(directory)
        self.name = f"worker-{number}"
        self.number = number
        self._registry = registry
        self._valkey = valkey

    def _command(self) -> list[str]:
        return _program("workers.entry.cli", "start", "--name", self.name)

    def _healthy(self) -> bool:
        pid = self.pid
        return pid is not None and is_connected(pid, self._valkey.kept["port"])

    def _environment(self) -> dict[str, str]:
        cache = os.environ.get("ADAPTERCTL_CACHE")
        return inherited_environment() | {
            "ADAPTERCTL_URL": self._registry.url,
            "ADAPTERCTL_TOKEN": self._registry.tokens["worker"],
            "REGISTRY_BROKER_URL": self._valkey.url,
            # Clients are on this machine too, so they see every folder under the same path.
            "ADAPTER_WORKER_SHARED_PATHS": os.environ.get("ADAPTER_WORKER_SHARED_PATHS", "/"),
            # Workers use the hub token of the user who started the stack.
            "ADAPTER_WORKER_HUB_REPOSITORIES": os.environ.get("ADAPTER_WORKER_HUB_REPOSITORIES", "*"),
            **({"ADAPTERCTL_CACHE": cache} if cache else {}),
        }


def inherited_environment() -> dict[str, str]:
    """Return the user's environment for our own programs, without settings of another registry or its store."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_KEPT_AWAY)}
    # A proxy can't reach this machine's own servers.
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(filter(None, [kept.get(name), "127.0.0.1"]))
    return kept


def _program(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs the `main` of one of our modules, which `sdk` may start but not import."""
    # -P: no modules are looked for in the folder that it runs in.
    return [sys.executable, "-P", "-c", f"from {module} import main; main()", *arguments]
