"""Backup and restore, by the very commands of docs/registry.md, while publishers publish."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import pages, processes, registries
from support.adapters import base_registration, save_adapter
from support.fixtures import S3Place
from support.registries import World

from registry.access.audit.service import AuditQuery
from registry.db.database import head_revision
from registry.principal import SYSTEM, Role
from registry.storage import Storage, open_storage
from sdk.client import Client
from sdk.errors import NotFound
from sdk.stack.postgres import PostgresServer

#: What the page's `aws s3 sync FROM TO` does, for a machine without the program: copies what is not there yet.
AWS = f"""#!{sys.executable}
import sys
import boto3
from botocore.config import Config

assert sys.argv[1:3] == ["s3", "sync"], sys.argv
(from_bucket, from_prefix), (to_bucket, to_prefix) = (url.removeprefix("s3://").split("/", 1) for url in sys.argv[3:])
s3 = boto3.client("s3", config=Config(s3={{"addressing_style": "path"}}))
def keys(bucket, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{{prefix}}/")
    return {{item["Key"].removeprefix(f"{{prefix}}/") for page in pages for item in page.get("Contents", [])}}
for key in sorted(keys(from_bucket, from_prefix) - keys(to_bucket, to_prefix)):
    source = {{"Bucket": from_bucket, "Key": f"{{from_prefix}}/{{key}}"}}
    s3.copy_object(Bucket=to_bucket, Key=f"{{to_prefix}}/{{key}}", CopySource=source)
"""


@dataclass
class Publisher:
    """Pushes adapters, each of its own bytes, and remembers where they came from."""

    client: Client
    folder: Path
    #: Ref to the folder that was pushed.
    pushed: dict[str, Path] = field(default_factory=dict)
    _seeds: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))

    def push(self) -> str:
        seed = next(self._seeds)
        folder = save_adapter(self.folder / str(seed), seed)
        ref = self.client.push(folder, "team/code-review", base="tiny").ref
        self.pushed[ref] = folder
        return ref

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Go on publishing while the block runs."""
        stop, failures = threading.Event(), []

        def work() -> None:
            while not stop.is_set():
                try:
                    self.push()
                except BaseException as error:
                    failures.append(error)
                    raise

        before = len(self.pushed)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failures
        assert len(self.pushed) > before


@dataclass(frozen=True)
class Case:
    """One kind of registry, and what the page's commands want to know of the old and the new one."""

    kind: str
    env: Mapping[str, str]
    database_url: str
    storage_url: str
    storage: Storage | None
    new_database_url: str
    new_storage_url: str
    new_storage: Storage | None

    def run(self, name: str) -> str:
        """Run the commands that the page shows; return what they print."""
        done = processes.finished(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            pages.block("registry.md", f"{self.kind}-{name}"),
            env=self.env,
            timeout_s=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def sqlite_and_folder(tmp_path: Path) -> Case:
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    for folder in (old, backup):
        folder.mkdir()
    database_url, storage_url = f"sqlite:///{old / 'registry.sqlite3'}", (old / "artifacts").as_uri()
    env = processes.environment(
        PATH=f"{processes.BIN}{os.pathsep}{os.environ['PATH']}",
        REGISTRY_DATABASE_URL=database_url,
        REGISTRY_STORAGE_URL=storage_url,
        REGISTRY_PUBLIC_URL="http://127.0.0.1:1",
        ARTIFACTS=str(old / "artifacts"),
        BACKUP=str(backup),
        NEW=str(new),
    )
    return Case(
        kind="sqlite",
        env=env,
        database_url=database_url,
        storage_url=storage_url,
        storage=None,
        new_database_url=f"sqlite:///{new / 'registry.sqlite3'}",
        new_storage_url=(new / "artifacts").as_uri(),
        new_storage=None,
    )


@pytest.fixture
def postgres_and_s3(tmp_path: Path, postgres_server: PostgresServer, s3: S3Place) -> Iterator[Case]:
    programs, backup = tmp_path / "bin", tmp_path / "backup"
    for folder in (programs, backup):
        folder.mkdir()
    (programs / "aws").write_text(AWS)
    (programs / "aws").chmod(0o755)
    databases = [f"test_{uuid.uuid4().hex}" for _ in range(2)]
    old_url, new_url = (postgres_server.create_database(name) for name in databases)
    new_storage_url = f"{s3.url}-new"

    def storage(url: str) -> Storage:
        return open_storage(url, s3=s3.options)

    folders = [str(programs), str(processes.BIN), str(postgres_server.programs), os.environ["PATH"]]
    env = processes.environment(
        PATH=os.pathsep.join(folders),
        REGISTRY_DATABASE_URL=old_url.replace("+psycopg", ""),
        REGISTRY_STORAGE_URL=s3.url,
        REGISTRY_S3_ENDPOINT_URL=s3.endpoint_url,
        AWS_ENDPOINT_URL_S3=s3.endpoint_url,
        AWS_DEFAULT_REGION=s3.region,
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
        BACKUP=str(backup),
        BACKUP_URL=f"{s3.url}-backup",
        NEW_DATABASE_URL=new_url.replace("+psycopg", ""),
        NEW_STORAGE_URL=new_storage_url,
    )
    yield Case(
        kind="postgres",
        env=env,
        database_url=old_url,
        storage_url=s3.url,
        storage=storage(s3.url),
        new_database_url=new_url,
        new_storage_url=new_storage_url,
        new_storage=storage(new_storage_url),
    )
    for name in databases:
        postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite_and_folder", "postgres_and_s3"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


def digests_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of the weights in a folder: what makes each push another."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def old_world(case: Case, folder: Path, stack: ExitStack) -> World:
    world: World = stack.enter_context(
        registries.served(folder, database_url=case.database_url, storage_url=case.storage_url, storage=case.storage)
    )
    return world


def number_of(ref: str) -> int:
    return int(ref.partition("@v")[2])


def collect_at_once(case: Case) -> dict[str, Any]:
    """What a collection without grace would remove from the new registry."""
    env = {
        **case.env,
        "REGISTRY_DATABASE_URL": case.new_database_url,
        "REGISTRY_STORAGE_URL": case.new_storage_url,
    }
    said = processes.run("adapter-registry", "gc", "--dry-run", "--grace-hours", "0", env=env)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.mark.slow
def test_what_was_backed_up_while_people_published_is_whole_after_a_restore(case: Case, tmp_path: Path) -> None:
    with ExitStack() as stack:
        old = old_world(case, tmp_path / "old-server", stack)
        token = old.token(Role.WRITER)
        with closing(Client(old.url, token, cache=tmp_path / "old-cache")) as client:
            old.admin.bases.register(base_registration())
            publisher = Publisher(client, tmp_path / "adapters")
            before = [publisher.push() for _ in range(3)]
            client.set_alias("team/code-review", "production", 2)
            revoked = old.services.tokens.create(name="gone", grants={"*": Role.WRITER}, who=SYSTEM)
            old.services.tokens.revoke(revoked.id, who=SYSTEM)
            with publisher.beside():
                case.run("database")
            late = publisher.push()
            with publisher.beside():
                case.run("files")
    said = case.run("restore")
    assert said.splitlines()[0] == head_revision()
    report = json.loads(said.partition("\n")[2])
    assert report["rows_without_blob"] == {"count": 0, "digests": [], "versions": []}
    assert report["blobs"] == report["blobs_without_row"]["count"] == 0

    with (
        registries.served(
            tmp_path / "new-server",
            database_url=case.new_database_url,
            storage_url=case.new_storage_url,
            storage=case.new_storage,
        ) as new,
        closing(Client(new.url, token, cache=tmp_path / "new-cache")) as client,
    ):
        kept = [version.ref for version in client.versions("team/code-review")]
        assert set(before) <= set(kept) <= set(publisher.pushed)
        assert sorted(kept, key=number_of) == [f"team/code-review@v{number}" for number in range(1, len(kept) + 1)]
        for ref in kept:
            assert digests_of(client.pull(ref)) == digests_of(publisher.pushed[ref])
        assert client.get("team/code-review@production").number == 2
        (revocation,) = new.services.audit.list(AuditQuery(action="token.revoke"), who=SYSTEM).items
        assert revocation.subject == revoked.id

        # What came after the dump is unknown; its number is given again, and its bytes are strays.
        with pytest.raises(NotFound):
            client.get(late)
        report = collect_at_once(case)
        assert report["blobs_without_row"]["count"] >= 1
        assert report["rows_without_blob"]["count"] == 0
        again = client.push(publisher.pushed[late], "team/code-review", base="tiny")
        assert again.number == len(kept) + 1 <= number_of(late)
        assert digests_of(client.pull(again.ref)) == digests_of(publisher.pushed[late])


@pytest.mark.slow
def test_a_backup_of_files_that_lacks_some_is_told(sqlite_and_folder: Case, tmp_path: Path) -> None:
    case = sqlite_and_folder
    with ExitStack() as stack:
        old = old_world(case, tmp_path / "old-server", stack)
        old.admin.bases.register(base_registration())
        ref = Publisher(old.writer, tmp_path / "adapters").push()
        files = old.writer.get(ref).info.files
        case.run("database")
        case.run("files")
    weights = next(file.sha256 for file in files if file.path.endswith(".safetensors"))
    (kept,) = (Path(case.env["BACKUP"]) / "artifacts" / "blobs" / "sha256" / weights[:2]).glob(f"{weights}*")
    kept.unlink()
    report = json.loads(case.run("restore").partition("\n")[2])
    assert report["rows_without_blob"] == {"count": 1, "digests": [weights], "versions": [ref]}
