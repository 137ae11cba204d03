"""docs/registry.md and the code say the same: settings, states, roles, errors, addresses."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.waiting import wait_until

from registry import principal
from registry.app.application import create_app
from registry.artifacts import uploads
from registry.catalog.versions.lifecycle import MOVES, VersionState
from registry.door.strict_json import MAX_DEPTH
from registry.errors import STATUS
from registry.http.bodies import MAX_BODY_BYTES
from registry.principal import Role
from registry.settings import Settings
from sdk.errors import CLASS_OF
from sdk.schemas.removal import GcRequest

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "registry.md").read_text()


def table(*columns: str) -> list[list[str]]:
    """The rows of the table whose head begins with `columns`."""
    head = re.escape("| " + " | ".join(columns))
    found = re.search(rf"^{head}.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None, f"the page has no table {columns}"
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_every_setting_is_named_with_its_default() -> None:
    shown = {variable: default for variable, default, _ in table("variable", "default")}
    settings = {field.name: field.default for field in fields(Settings) if field.name != "embedded_home"}
    assert set(shown) == {f"REGISTRY_{name.upper()}" for name in settings}
    for name, default in settings.items():
        told = shown[f"REGISTRY_{name.upper()}"]
        if default is MISSING:
            assert told == "none, required"
        elif isinstance(default, str):
            assert told == default
        elif default:
            assert float(told) == default


def test_the_moves_of_versions_are_the_legal_ones() -> None:
    shown = {(begin, end) for begin, end, *_ in table("from", "to")}
    assert shown == {(begin.value, end.value) for begin, ends in MOVES.items() for end in ends}
    assert {row[0] for row in table("state", "means")} == set(VersionState)


def test_the_roles_are_what_they_may_do() -> None:
    roles = re.search(r"^\| may \| (.*) \|$", PAGE, re.MULTILINE)
    names = [Role(name) for name in roles[1].split(" | ")]
    assert set(names) == set(Role)
    shown = {
        row[0].partition(":")[0]: {name for name, cell in zip(names, row[1:], strict=True) if cell == "yes"}
        for row in table("may")
    }
    assert shown == {action: set(allowed) for action, allowed in principal._MAY.items()}


def test_every_error_is_named_with_its_status_and_exit() -> None:
    shown = {code: (int(status), int(exit_code)) for code, status, exit_code, _ in table("code", "HTTP")}
    assert shown == {code.value: (status, CLASS_OF[code].exit_code) for code, status in STATUS.items()}


def test_the_actions_of_the_audit_trail_are_those_that_are_recorded() -> None:
    shown = {action for row in table("actions", "are") for action in re.findall(r"[a-z]+\.[a-z]+", row[0])}
    code = "\n".join(path.read_text() for path in Path(principal.__file__).parent.rglob("*.py"))
    written = set(re.findall(r'(?:who|SYSTEM),\s*"([a-z]+\.[a-z]+)"', code)) | set(
        re.findall(r'"(retention\.[a-z]+)"', code)
    )
    # Those of which only the noun is a literal.
    verbs = {f"version.{verb}" for verb in ("archive", "restore", "delete")}
    kinds = {f"alias.{kind}" for kind in ("set", "rollback", "remove")}
    assert {"version.publish", "gc.run"} < written
    assert shown == written | verbs | kinds


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (r"bodies of (\d+) MiB", MAX_BODY_BYTES // 1024**2),
        (r"nested (\d+) deep", MAX_DEPTH),
        (r"open for (\d+) hours", uploads._SESSION.total_seconds() / 3600),
        (r"`--grace-hours` ago stays; (\d+) by default", GcRequest(dry_run=True).grace_hours),
    ],
)
def test_the_numbers_are_those_of_the_code(said: str, meant: float) -> None:
    found = re.search(said, PAGE.replace("\n", " "))
    assert float(found[1]) == meant


def test_the_addresses_to_watch_want_no_token(tmp_path: Path) -> None:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        storage_url=(tmp_path / "artifacts").as_uri(),
        public_url="http://127.0.0.1:1",
    )
    app = create_app(settings)
    client = TestClient(app)
    answers = {address: client.get(address).status_code for address, *_ in table("address", "answers")}
    assert answers == {"/healthz": 200, "/readyz": 503}
    app.state.services.db.upgrade()
    # It is looked at once a second.
    wait_until(lambda: client.get("/readyz").status_code == 200, timeout_s=30)
    app.state.services.db.close()
