"""A credential is seen by whom it was given to and by nobody else: no log, message, row or event repeats one.

Server, worker and every command run as processes of their own, with every logger at debug level. What was secret is
known exactly: the tokens, the keys, and every presigned URL that came by at the proxy between them and the storage.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from faults.plans import Endless, Fault, Head, Plan
from faults.proxy import FaultProxy
from support import processes, registries, tiny
from support.adapters import base_registration, lora_tensors, save_adapter
from support.fixtures import S3Place
from support.forks import ForkServer

from sdk.client import Client

pytestmark = pytest.mark.slow

TALKATIVE = Path(__file__).parent / "hooks" / "talkative"
#: What the query of a presigned URL looks like, of either kind of storage, plain or quoted.
MARKS = re.compile(r"X-Amz-Signature(=|%3D)|X-Amz-Security-Token(=|%3D)|[?&]sig=|\bsig=[0-9a-f]{64}|%26sig%3D")
#: The parts of such a query that are the credential; the rest is known to everybody.
SECRET_PARTS = ("X-Amz-Signature", "X-Amz-Security-Token", "sig")


@dataclass
class Run:
    """A registry in processes of its own, and all that was said in its life."""

    folder: Path
    url: str
    proxy: FaultProxy
    secrets: dict[str, str]
    env: dict[str, str]
    #: Forks of a process that talks.
    forks: ForkServer
    said: dict[str, str] = field(default_factory=dict)

    def run(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `adapterctl` to its end."""
        return self.forks.run(["adapterctl", *args], env={**self.env, **more}, cwd=None, timeout_s=300)

    def command(self, *args: str, ends: int = 0) -> str:
        """Run `adapterctl` and keep all that it says; return its standard output."""
        done = self.run(*args)
        self.said[f"{len(self.said)}: adapterctl {' '.join(args[:2])}"] = done.stdout + done.stderr
        assert done.returncode == ends, f"{args}: {done.stderr}\n{self.tail()}"
        return done.stdout

    def fail(self, plan: Plan, *commands: tuple[str, ...]) -> None:
        """Run commands at once while a plan happens, keep all that they say; none of them succeeds."""
        self.proxy.plan = plan
        try:
            with ThreadPoolExecutor() as pool:
                done = list(pool.map(lambda args: self.run(*args), commands))
        finally:
            self.proxy.plan = None
        for args, process in zip(commands, done, strict=True):
            self.said[f"{len(self.said)}: failing adapterctl {' '.join(args[:2])}"] = process.stdout + process.stderr
            assert process.returncode in {7, 9}, process.stderr

    def tail(self) -> str:
        """The ends of the server's and the worker's logs."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.log")))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Everything that was written anywhere, with where that was."""
        yield from self.said.items()
        logs = [*self.folder.glob("*.log"), *(self.folder / "talk").glob("*.log")]
        yield from ((path.name, path.read_text(errors="replace")) for path in logs)
        yield from rows_of(self.folder / "registry.sqlite3")


def rows_of(database: Path) -> Iterator[tuple[str, str]]:
    """Every value of every table that holds text, or can."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"jobs", "job_events", "audit_entries", "blobs", "keyed_requests"} <= set(tables)
        for table in tables:
            cursor = connection.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    yield f"{table}.{name}", str(value)
    # The files themselves, for what was there and is not a row any more.
    for path in database.parent.glob(f"{database.name}*"):
        yield path.name, path.read_bytes().decode("latin-1")


def signatures(heads: Iterable[Head]) -> set[str]:
    """What made the URLs that came by credentials."""
    queries = [parse_qsl(urlsplit(head.target).query) for head in heads]
    return {value for query in queries for name, value in query if name in SECRET_PARTS}


def findings(texts: Iterable[tuple[str, str]], secrets: Iterable[str]) -> list[str]:
    """Where something secret was written, and what stood before it; the secret itself is not shown."""
    wanted = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
    found = []
    for where, text in texts:
        for secret in wanted:
            if (at := text.find(secret)) >= 0:
                found.append(f"{where}: …{text[max(0, at - 150) : at]}[{len(secret)} secret characters]")
        if (mark := MARKS.search(text)) is not None:
            found.append(f"{where}: …{text[max(0, mark.start() - 150) : mark.end()]}")
    return found


@pytest.fixture
def seaweed(s3: S3Place, tmp_path: Path) -> Iterator[Run]:
    """Over SeaweedFS, with a worker."""
    store = urlsplit(s3.endpoint_url)
    env = {
        "REGISTRY_STORAGE_URL": s3.url,
        "REGISTRY_S3_ENDPOINT_URL": s3.endpoint_url,
        "REGISTRY_S3_REGION": s3.region,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy())
        proxy.upstream = (store.hostname or "", store.port or 0)
        run = _start(stack, tmp_path, proxy, {**env, "REGISTRY_S3_PUBLIC_ENDPOINT_URL": proxy.url})
        run.secrets["the store's secret key"] = s3.secret_key
        worker_env = run.env | {
            "ADAPTERCTL_TOKEN": run.secrets["worker"],
            "ADAPTERCTL_CACHE": str(tmp_path / "node-cache"),
        }
        log = tmp_path / "worker.log"
        stack.enter_context(processes.running("adapter-worker", "start", "--name", "node", env=worker_env, log=log))
        yield run


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Run]:
    """Over a folder that the registry serves, in one process."""
    root = tmp_path / "artifacts"
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy())
        given = {"REGISTRY_STORAGE_URL": root.as_uri(), "REGISTRY_PUBLIC_URL": proxy.url}
        run = _start(stack, tmp_path, proxy, given, processes_count=1)
        served = urlsplit(run.url)
        proxy.upstream = (served.hostname or "", served.port or 0)
        run.secrets["the signing key"] = (root / "signing.key").read_text().strip()
        yield run


def _start(
    stack: ExitStack, folder: Path, proxy: FaultProxy, given: dict[str, str], *, processes_count: int = 2
) -> Run:
    (folder / "talk").mkdir()
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    paths = os.pathsep.join(filter(None, (str(TALKATIVE), os.environ.get("PYTHONPATH"))))
    talk = {"PYTHONPATH": paths, "TALKATIVE_FOLDER": str(folder / "talk")}
    env = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{folder / 'registry.sqlite3'}",
        **{"REGISTRY_PUBLIC_URL": url, **talk, **given},
    )
    forks = ForkServer.of_run(f"talk-{uuid.uuid4().hex[:8]}", env, preloads="support.forks:preload")

    def manage(*args: str) -> subprocess.CompletedProcess[str]:
        return forks.run(["adapter-registry", *args], env=env, cwd=None, timeout_s=300)

    assert manage("db", "upgrade").returncode == 0
    made = manage("token", "create", "--role", "admin")
    assert made.returncode == 0, made.stderr
    secrets = {"admin": made.stdout.strip()}
    log = folder / "server.log"
    serve = ("adapter-registry", "serve", "--port", str(port), "--workers", str(processes_count))
    stack.enter_context(processes.running(*serve, env=env, log=log))
    processes.wait_until_healthy(url, log=log)
    for role in ("writer", "worker"):
        secrets[role] = _new_token(url, secrets["admin"], role)
    user = processes.environment(
        ADAPTERCTL_URL=url,
        ADAPTERCTL_TOKEN=secrets["writer"],
        ADAPTERCTL_CACHE=str(folder / "cache"),
        HOME=str(folder),
        **talk,
    )
    return Run(folder, url, proxy, secrets, user, forks)


def _new_token(url: str, admin: str, role: str) -> str:
    body = {"name": role, "grants": [{"namespace": "*", "role": role}]}
    answer = httpx.post(f"{url}/api/v1/tokens", json=body, headers={"Authorization": f"Bearer {admin}"}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["secret"])


def send(run: Run) -> None:
    """Push: something new, the same again, and what is refused."""
    folder = run.folder
    client = Client(run.url, run.secrets["admin"], cache=folder / "cache-of-the-test")
    with closing(client):
        client.bases.register(base_registration())
    good = save_adapter(folder / "good")
    run.command("push", str(good), "team/small", "--base", "tiny")
    run.command("push", str(good), "team/small", "--base", "tiny", "--format", "json")
    zeroed = {name: value * (0 if "lora_B" in name else 1) for name, value in lora_tensors().items()}
    run.command("push", str(save_adapter(folder / "zeroed", tensors=zeroed)), "team/small", "--base", "tiny", ends=7)


def fail_at_once(run: Run) -> None:
    """What goes wrong and is not tried again for long."""
    run.fail(Endless([Fault.CORRUPT_RESPONSE]), ("pull", "team/small", "-o", str(run.folder / "corrupt")))
    run.fail(Endless([Fault.EXPIRED]), ("pull", "team/small", "-o", str(run.folder / "expired")))


def fail_after_long(run: Run) -> None:
    """What is tried again for seconds, by both commands at a time."""
    other = save_adapter(run.folder / "other", seed=1)
    run.fail(
        Endless((Fault.UNAVAILABLE, Fault.EXPIRED, Fault.CUT_REQUEST, Fault.CUT_RESPONSE)),
        ("push", str(other), "team/failing", "--base", "tiny"),
        ("pull", "team/small", "-o", str(run.folder / "failing")),
    )


def fetch(run: Run) -> None:
    """Pull, verify, look; as a stranger, too."""
    folder = run.folder
    run.command("pull", "team/small@v1", "-o", str(folder / "pulled"))
    run.command("verify", str(folder / "pulled"))
    run.command("verify", "team/small@v1")
    run.command("pull", "team/none", ends=3)
    run.command("list", "--format", "json")
    run.command("versions", "team/small")
    run.command("show", "team/small@v1", "--format", "json")
    done = run.run("list", ADAPTERCTL_TOKEN="actl_" + "0" * 43)
    run.said["list by a stranger"] = done.stdout + done.stderr
    assert done.returncode == 5


def submit(run: Run, base: Path) -> str:
    """Submit a training, and return its job while the worker goes about it."""
    folder = run.folder
    rows = tiny.write_rows(folder / "rows.jsonl")
    run.command("base", "add", str(base), "--upload", "--namespace", "team")
    steps = ("--max-steps", "1", "--batch-size", "1", "--grad-accum", "1", "--max-length", "64", "--rank", "2")
    made = run.command(
        *("train", "team/trained", "--base", "tiny-llama", "--data", str(rows), *steps, "--lr", "1e-2"),
        *("--detach", "--format", "json"),
    )
    return str(json.loads(made)["job"])


def finish(run: Run, job: str) -> None:
    """Wait for a job, and look at it from every side."""
    run.command("jobs", "wait", job, "--timeout", "240")
    run.command("jobs", "show", job, "--format", "json")
    run.command("jobs", "logs", job)
    run.command("jobs", "list")
    run.command("pull", "team/trained@v1", "-o", str(run.folder / "trained"))


@pytest.mark.parametrize("kind", ["seaweed", "folder"])
def test_no_credential_is_written_anywhere(kind: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(kind)
    send(run)
    fail_at_once(run)
    if kind == "folder":
        fetch(run)
    else:
        with ThreadPoolExecutor() as pool:
            making = pool.submit(tiny.save_llama, run.folder / "tiny-llama")
            fail_after_long(run)
            base = making.result()
        job = submit(run, base)
        # The worker is busy meanwhile.
        fetch(run)
        finish(run, job)
    audit = httpx.get(f"{run.url}/api/v1/audit", headers={"Authorization": f"Bearer {run.secrets['admin']}"})
    assert audit.status_code == 200
    run.said["the audit trail"] = audit.text
    presigned = signatures(run.proxy.requests)
    assert len(presigned) >= 4
    texts = list(run.texts())
    # What is looked through is what it is thought to be.
    spoken = "".join(text for where, text in texts if where.endswith(".log"))
    for logger in ("DEBUG httpcore", "DEBUG sqlalchemy", *["DEBUG botocore"] * (kind == "seaweed")):
        assert logger in spoken
    found = findings(texts, {*presigned, *run.secrets.values()})
    if found:
        pytest.fail("\n".join(sorted(set(found))[:40]))


def test_a_scan_finds_what_it_looks_for() -> None:
    texts = [("log", "GET http://h/k?X-Amz-Signature=abcdef"), ("row", "x actl_abc%2Bdef"), ("none", "sha256 abc")]
    found = findings(texts, {"actl_abc+def"})
    assert [line.partition(":")[0] for line in found] == ["log", "row"]
    assert "abc" not in found[1].replace("[", "")


def test_a_secret_that_is_given_out_for_a_key_is_kept_nowhere(tmp_path: Path) -> None:
    """A token that is created again with its `Idempotency-Key` gets another secret: neither is in the database."""
    with registries.served(tmp_path) as world:
        made = [world.admin.tokens.create("ci", {"team": "reader"}, idempotency_key=key) for key in ("one", "one")]
        assert made[0].id == made[1].id
        secrets = {token.secret for token in made}
        assert len(secrets) == 2
        assert findings(rows_of(tmp_path / "registry.sqlite3"), secrets) == []
