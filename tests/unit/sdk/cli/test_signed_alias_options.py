"""Options of signed aliases that don't go together, or can't be used; nothing is asked of a registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.keys import Pair, make_key

from sdk.cli import cli
from sdk.client import Client
from sdk.errors import AdapterctlError


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return make_key(tmp_path)


@pytest.mark.parametrize(
    ("given", "exit_code", "says"),
    [
        ("pull a@production --max-age 7d", 2, "--max-age belongs to --require-signed-alias"),
        ("pull a@production --require-signed-alias {public} --max-age 7", 2, "'7' is not an age; write"),
        ("pull a@production --require-signed-alias {private}", 2, "is a private key; write the public half"),
        ("pull a@production --require-signed-alias none.pem", 3, "there is no key"),
        ("pull a@v1 --require-signed-alias {public}", 2, "a@v1 is not an alias, so nobody states what it names"),
        ("pull a --require-signed-alias {public} --offline", 2, "a@latest is not an alias"),
        ("pull a@production --require-signed-alias {public} --offline", 3, "pull it once without --offline"),
        ("promote a@v1 production --renew --expect 0", 2, "--renew moves nothing; give it with --sign alone"),
        ("promote a@v1 production --renew --reason x", 2, "--renew moves nothing; give it with --sign alone"),
        ("promote a@v1 production --renew", 2, "there is no key to sign with; give --sign"),
        ("promote a@v1 production --sign none.pem", 3, "there is no key"),
        ("promote a@v1 production --sign {public}", 2, "is a public key; sign with the private one"),
    ],
)
def test_what_can_not_be_done_is_said(
    given: str, exit_code: int, says: str, keys: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'home'}")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADAPTERCTL_SIGNING_KEY", raising=False)
    asked: list[str] = []
    monkeypatch.setattr(Client, "get", lambda _self, ref: asked.append(ref))
    command = given.format(public=keys.public, private=keys.private).split()
    done = CliRunner().invoke(cli, command)
    refused = done.exception
    if isinstance(refused, AdapterctlError):
        assert (refused.exit_code, done.output) == (exit_code, "")
        assert says in refused.message
    else:
        assert (done.exit_code, done.stdout) == (exit_code, "")
        assert says in " ".join(done.stderr.split())
    assert asked == []
