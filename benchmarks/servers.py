"""The servers that are measured: ours and MLflow's, each in a folder of its own, ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from startup import ROOT, peer_environment

#: Processes of each server.
WORKERS = 2

_BIN = Path(sys.executable).parent
#: uvloop and httptools for the cured MLflow alone: were they in the peers' environment, uvicorn would take them unasked.
_CURE = ROOT / "build" / "peers-cure"
#: What uvicorn says once in each of its processes.
_UP = "Application startup complete"
#: MLflow makes its tables at the first start.
_START_S = 120.0
_STOP_S = 20.0


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server that answers."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        """Where it is found."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> str:
        """Its database, as MLflow's own client opens it without a server."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@dataclass(frozen=True)
class RegistryServer:
    """A server of ours that answers, and a token of each role."""

    port: int
    folder: Path
    tokens: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where it is found."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def registry_server(database_url: str | None = None, **settings: str) -> Iterator[RegistryServer]:
    """Run `adapter-registry serve` with tokens, on SQLite or the database that is given, and a folder.

    `settings` go before these, by the names of their variables.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        environment = environment_of(
            **{
                "REGISTRY_DATABASE_URL": database_url or f"sqlite:///{folder / 'registry.sqlite3'}",
                "REGISTRY_STORAGE_URL": (folder / "artifacts").as_uri(),
                "REGISTRY_AUTH": "token",
                # All who watch have one token here.
                "REGISTRY_MAX_STREAMS_PER_TOKEN": "1000",
                **settings,
            }
        )
        command = str(_BIN / "adapter-registry")
        _output([command, "db", "upgrade"], environment)
        # Named for the port: a database may have the tokens of a server before this one.
        tokens = {
            role: _output([command, "token", "create", "--role", role, "--name", f"{role}-{port}"], environment)
            for role in ("reader", "writer", "admin")
        }
        with _running([command, "serve", "--port", str(port), "--workers", str(WORKERS)], environment, folder):
            yield RegistryServer(port, folder, tokens)


@contextmanager
def mlflow_server(*, cured: bool, artifacts: str | None = None, **settings: str) -> Iterator[MlflowServer]:
    """Run `mlflow server` on SQLite as it is, or `cured` of the 40 ms that each of its answers waits otherwise.

    uvicorn's processes on plain asyncio accept sockets without TCP_NODELAY; on uvloop they set it. Artifacts pass through
    it, as they do by default, to a folder or to the URL `artifacts`; `settings` are variables of its environment.
    """
    scripts = peer_environment()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        command = [str(scripts / "mlflow"), "server", "--port", str(port), "--workers", str(WORKERS)]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
        # Its process for jobs has nothing to do here and would only take time from all three.
        environment = environment_of(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **settings)
        if cured:
            environment["PYTHONPATH"] = str(_cure(scripts))
            command += ["--uvicorn-opts", "--loop uvloop --http httptools"]
        with _running(command, environment, folder):
            yield MlflowServer(port, folder)


def peer_version(package: str) -> str:
    """Return the version of a peer that is measured."""
    script = f"from importlib.metadata import version; print(version('{package}'))"
    return _output([str(peer_environment() / "python"), "-c", script], environment_of())


def mlflow_version() -> str:
    """Return the version of the MLflow that is measured."""
    return peer_version("mlflow")


def environment_of(**given: str) -> dict[str, str]:
    """Return the environment without settings of ours, MLflow's or S3's, with `given` on top."""
    others = ("ADAPTERCTL_", "REGISTRY_", "MLFLOW_", "AWS_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore", **given}


def _cure(scripts: Path) -> Path:
    """Return a folder with uvloop and httptools for the peers' Python, made once."""
    if not (_CURE / "httptools").is_dir():
        install = [scripts / "python", "-m", "pip", "install", "--quiet", "--target", _CURE, "uvloop", "httptools"]
        subprocess.run(install, check=True)
    return _CURE


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Run a server until the block ends; it begins once every process of the server is up."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_up(process, log)
        yield
    finally:
        # The session is the server's own: whatever it started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while log.read_text(errors="replace").count(_UP) < WORKERS:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)
