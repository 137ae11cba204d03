"""`adapter-registry doctor` against real stores: a sound one, one that lets strangers in, and settings that are wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.fixtures import S3Place
from support.migrated import migrated_file

from registry.settings import Settings
from registry.storage import open_storage
from sdk.stack.seaweed import SeaweedServer


@pytest.fixture
def env(tmp_path: Path, s3: S3Place) -> dict[str, str]:
    """A registry on SQLite over a bucket, its schema made."""
    found = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        REGISTRY_STORAGE_URL=s3.url,
        REGISTRY_S3_ENDPOINT_URL=s3.endpoint_url,
        AWS_DEFAULT_REGION=s3.region,
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
        PATH=os.environ["PATH"],
    )
    migrated_file(tmp_path / "registry.sqlite3")
    return found


def examine(env: dict[str, str], **changed: str) -> tuple[int, dict[str, Any], str]:
    """Run it; return the exit code, the findings by name, and everything that was said."""
    done = processes.run("adapter-registry", "doctor", "--format", "json", env={**env, **changed}, timeout_s=120)
    findings = json.loads(done.stdout)
    return done.returncode, {finding["what"]: finding for finding in findings}, done.stdout + done.stderr


def failed(findings: dict[str, Any]) -> set[str]:
    return {what for what, finding in findings.items() if finding["outcome"] == "failed"}


def test_a_sound_store_passes_and_nothing_is_left_in_it(env: dict[str, str], s3: S3Place) -> None:
    code, findings, _ = examine(env)
    assert (code, failed(findings)) == (0, set())
    assert len(findings) == 13
    with closing(open_storage(s3.url, s3=s3.options)) as storage:
        assert list(storage.list()) == []
        assert storage.sweep(older_than_s=-60) == 0


def test_a_store_without_identities_is_found_out(
    env: dict[str, str], run_server: Callable[[Callable[[Path], SeaweedServer]], SeaweedServer]
) -> None:
    class Open(SeaweedServer):
        """Checks no signature: it knows nobody."""

        def _command(self) -> list[str]:
            return [part for part in super()._command() if not part.startswith("-s3.config")]

    store = run_server(Open)
    store.create_bucket("adapterctl")
    code, findings, _ = examine(env, REGISTRY_S3_ENDPOINT_URL=store.url)
    assert code == 9
    assert {"storage: strangers are refused", "storage: expired URLs are refused"} <= failed(findings)
    assert "identities" in findings["storage: strangers are refused"]["message"]


@pytest.mark.parametrize(
    ("changed", "what", "advice"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "0" * 40}, "storage: reached", "keys"),
        ({"REGISTRY_STORAGE_URL": "s3://no-such-bucket"}, "storage: reached", "REGISTRY_STORAGE_URL"),
        ({"REGISTRY_S3_PUBLIC_ENDPOINT_URL": "http://127.0.0.1:9"}, "storage: a file can be stored", "PUBLIC_ENDPOINT"),
        ({"REGISTRY_BROKER_URL": "redis://:hunter2@127.0.0.1:9/0"}, "broker", "REGISTRY_BROKER_URL"),
        ({"REGISTRY_DATABASE_URL": "sqlite:////tmp/adapterctl-doctor-none/r.sqlite3"}, "database", "check the folder"),
    ],
    ids=["keys", "bucket", "public endpoint", "broker", "database"],
)
def test_what_is_wrong_is_named_with_what_to_do(
    env: dict[str, str], s3: S3Place, changed: dict[str, str], what: str, advice: str
) -> None:
    code, findings, said = examine(env, **changed)
    assert (code, failed(findings)) == (9, {what})
    assert advice in findings[what]["message"]
    assert s3.secret_key not in said
    assert "hunter2" not in said
    assert "Signature" not in said


def test_a_folder_is_tried_without_a_server(env: dict[str, str], tmp_path: Path) -> None:
    code, findings, _ = examine(env, REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri())
    assert (code, failed(findings)) == (0, set())
    assert findings["storage: it can be read back"]["message"] == "by copying"


def test_what_others_on_the_machine_can_read_is_said(env: dict[str, str], tmp_path: Path) -> None:
    artifacts, database = tmp_path / "artifacts", tmp_path / "registry.sqlite3"
    artifacts.mkdir()
    artifacts.chmod(0o755)
    database.chmod(0o644)
    code, findings, _ = examine(env, REGISTRY_STORAGE_URL=artifacts.as_uri())
    assert (code, failed(findings)) == (0, set())
    assert findings["database"]["outcome"] == findings["storage: reached"]["outcome"] == "warning"
    assert findings["database"]["message"].endswith(f"run: chmod 600 {database}")
    assert findings["storage: reached"]["message"].endswith(f"run: chmod 700 {artifacts}")


@pytest.mark.parametrize(
    "changed",
    [
        {"REGISTRY_S3_ADDRESSING_STYLE": "host"},
        {"REGISTRY_S3_CHECKSUM_MODE": "always"},
        {"REGISTRY_S3_ENCRYPTION": "rot13"},
        {"REGISTRY_GATE": "open"},
        {"REGISTRY_PART_BYTES": "1000"},
        {"REGISTRY_PART_BYTES": str(6 * 1024**3)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_that_can_not_be_is_refused_at_the_start(env: dict[str, str], changed: dict[str, str]) -> None:
    done = processes.run("adapter-registry", "doctor", env={**env, **changed})
    assert (done.returncode, done.stdout) == (2, "")
    assert next(iter(changed)) in done.stderr
    assert "set it to" in done.stderr


def test_settings_of_s3_are_read() -> None:
    given = {
        "REGISTRY_DATABASE_URL": "sqlite:////r.sqlite3",
        "REGISTRY_STORAGE_URL": "s3://bucket",
        "REGISTRY_S3_ADDRESSING_STYLE": "virtual",
        "REGISTRY_S3_CHECKSUM_MODE": "when_supported",
        "REGISTRY_S3_ENCRYPTION": "aws:kms",
        "REGISTRY_S3_KMS_KEY_ID": "key-1",
        "REGISTRY_S3_BUCKET_OWNER": "123456789012",
        "REGISTRY_PART_BYTES": "10000000",
    }
    settings = Settings.from_env(given)
    assert (settings.s3_addressing_style, settings.s3_checksum_mode) == ("virtual", "when_supported")
    assert (settings.s3_encryption, settings.s3_kms_key_id) == ("aws:kms", "key-1")
    assert (settings.s3_bucket_owner, settings.part_bytes) == ("123456789012", 10_000_000)
