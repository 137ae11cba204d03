"""A worker fetches bases of a model hub for whoever asks: with its own token only those that it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes
from support.answering import Handler, answering
from support.small import write_base

from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.schemas.work import BaseSource

COMMIT = "0" * 40
TOKEN = "hf_of-the-node"

OBTAIN = """
import sys
from pathlib import Path
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.schemas.work import BaseSource
from workers.node.bases import obtain
from workers.settings import WorkerSettings
source = BaseSource.model_validate_json(sys.argv[1])
client = Client("https://registry.example", "adp_of-the-worker", cache=Path("cache"))
try:
    obtain(client, source, Path("view"), lambda _: None, settings=WorkerSettings.from_env())
    print("obtained", sorted(path.name for path in Path("view").iterdir()))
except AdapterctlError as error:
    print(type(error).__name__, error.message)
"""


def obtain(source: BaseSource, folder: Path, endpoint: str, **variables: str) -> str:
    """Have a process with a hub token obtain a base; return what it says."""
    env = processes.environment(
        HF_ENDPOINT=endpoint,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(folder / "hf-home"),
        HF_TOKEN=TOKEN,
        HOME=str(folder),
        **variables,
    )
    done = processes.run("python", "-c", OBTAIN, source.model_dump_json(), env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def named(repository: str, revision: str = COMMIT) -> BaseSource:
    """A base of which only its name on a hub is known."""
    return BaseSource(id=repository, revision=revision, fingerprint=None, location=f"hf://{repository}@{revision}")


class _Gated(Handler):
    """A hub on which nothing may be seen, and which keeps what tokens it was sent."""

    tokens: list[str | None]

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            type(self).tokens.append(self.headers.get("Authorization"))
        self.answer(401, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Gated.tokens = []
    with answering(_Gated) as server:
        yield server.url


@pytest.mark.parametrize(
    ("listed", "repository", "sent"),
    [
        ("", "meta-llama/gated", False),
        ("org/base", "meta-llama/gated", False),
        ("org/base, meta-llama/*", "meta-llama/gated", True),
        ("*", "meta-llama/gated", True),
    ],
)
def test_the_token_is_sent_for_what_is_listed(
    listed: str, repository: str, sent: bool, endpoint: str, tmp_path: Path
) -> None:
    said = obtain(named(repository), tmp_path, endpoint, ADAPTER_WORKER_HUB_REPOSITORIES=listed)
    assert "ADAPTER_WORKER_HUB_REPOSITORIES" in said
    assert set(_Gated.tokens) == {f"Bearer {TOKEN}" if sent else None}


@pytest.mark.parametrize("revision", [COMMIT, "main"])
@pytest.mark.parametrize(("listed", "given"), [("", False), ("org/other", False), ("corp/secret", True)])
def test_what_was_fetched_with_a_token_is_not_for_who_merely_names_it(
    revision: str, listed: str, given: bool, endpoint: str, tmp_path: Path
) -> None:
    _fill_hub_cache(tmp_path, "corp/secret")
    said = obtain(named("corp/secret", revision), tmp_path, endpoint, ADAPTER_WORKER_HUB_REPOSITORIES=listed)
    assert said.startswith("obtained" if given else "NotFound"), said


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_base_that_was_renamed_is_fetched_from_where_it_lies(
    revision: str | None, endpoint: str, tmp_path: Path
) -> None:
    folder = _fill_hub_cache(tmp_path, "org/base")
    scanned = scan_base(folder, cache=Cache(tmp_path / "scanned"))
    source = BaseSource(
        id="corp/smol",
        revision=revision,
        fingerprint=scanned.registration.fingerprint,
        location=f"hf://org/base@{COMMIT}",
    )
    # By the name of the repository, and not by what the base is called here.
    said = obtain(source, tmp_path, endpoint, ADAPTER_WORKER_HUB_REPOSITORIES="org/base")
    assert said.startswith("obtained ['config.json', 'model.safetensors', 'tokenizer.json']"), said
    assert obtain(source, tmp_path, endpoint, ADAPTER_WORKER_HUB_REPOSITORIES="corp/smol").startswith("NotFound")


def test_what_is_no_name_of_a_repository_is_not_found(endpoint: str, tmp_path: Path) -> None:
    source = named("a/b/c").model_copy(update={"fingerprint": "0" * 64, "location": "hf://../../etc@main"})
    assert obtain(source, tmp_path, endpoint).startswith("NotFound the model hub has no ../../etc at main")


def _fill_hub_cache(folder: Path, repository: str) -> Path:
    """Put a base into the hub's own cache, as a download with the node's token leaves it; return its snapshot."""
    root = folder / "hf-home" / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return write_base(root / "snapshots" / COMMIT)
