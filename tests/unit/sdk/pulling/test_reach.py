"""What a remote registry says is not simply done: places of this machine, plain http, redirects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import small
from support.answering import Answering, Handler, serving

from sdk.allowed_locations import Reach
from sdk.api.transport import VERSION, VERSION_HEADER
from sdk.cli import cli
from sdk.client import Client
from sdk.errors import AdapterctlError, InvalidInput, Unavailable, VerificationFailed
from sdk.formats.adapter_files import SERVING_FILES
from sdk.pulling.cache import Cache
from sdk.pulling.http import HttpClient
from sdk.pulling.puller import Puller
from sdk.pulling.source import HttpSource

CONTENT = b'{"prompt": "a", "completion": "b"}\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: Of none of the tokens that exist.
TOKEN = "actl_of-a-user"


@pytest.mark.parametrize(
    ("registry", "insecure", "url", "allowed"),
    [
        ("https://r.example", False, "https://s3.example/x", True),
        ("https://r.example", False, "https://r.example/api/v1/resolve", True),
        ("https://r.example", False, "http://s3.example/x", False),
        # A service of this machine is not the registry's to talk to.
        ("https://r.example", False, "http://127.0.0.1:9000/x", False),
        ("https://r.example", False, "http://localhost/x", False),
        ("https://r.example", True, "http://s3.example/x", True),
        ("http://r.example", True, "http://s3.example/x", True),
        ("http://r.example", False, "http://r.example/api/v1/resolve", False),
        ("http://r.example", False, "https://s3.example/x", True),
        ("http://127.0.0.1:8080", False, "http://127.0.0.1:8080/api/v1", True),
        ("http://127.0.0.1:8080", False, "http://127.0.0.1:8333/x", True),
        ("http://localhost:8080", False, "http://localhost:8080/api/v1", True),
        ("http://[::1]:8080", False, "http://[::1]:8080/api/v1", True),
        ("http://127.0.0.1:8080", False, "http://s3.example/x", False),
        ("http://127.0.0.1.example", False, "http://127.0.0.1.example/api/v1", False),
        ("http://2130706433.example", False, "http://2130706433.example/x", False),
        ("http://127.0.0.1:8080", False, "http://127.0.0.1:8080@evil.example/x", False),
        *[
            (registry, insecure, url, False)
            for registry in ("https://r.example", "http://127.0.0.1:8080")
            for insecure in (False, True)
            for url in (
                "file:///etc/passwd",
                "FILE:///etc/passwd",
                "file:x",
                "ftp://h/x",
                "data:,x",
                "/etc/passwd",
                "",
                "http://[",
            )
        ],
        ("local:home", False, "file:///home/artifacts/x", True),
        ("local:home", False, "http://127.0.0.1:9000/x", True),
    ],
)
def test_where_a_registry_may_send_its_clients(registry: str, insecure: bool, url: str, allowed: bool) -> None:
    reach = Reach(registry, insecure)
    if allowed:
        reach.require(url)
        return
    with pytest.raises((InvalidInput, VerificationFailed)):
        reach.require(url)


# A registry that is none of ours.


class _Answers(Handler):
    def do_GET(self) -> None:
        self.body()
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        status, headers, body = self.server.answer(self.path)  # type: ignore[attr-defined]
        kind = {"Content-Type": "application/json", VERSION_HEADER: VERSION}
        self.answer(status, json.dumps(body).encode(), **{**kind, **headers})

    do_POST = do_PUT = do_CONNECT = do_GET


class Fake(Answering):
    """Answers as a test says, and keeps what it was asked."""

    asked: list[tuple[str, dict[str, str]]]
    answer: Callable[[str], tuple[int, dict[str, str], Any]]


@contextmanager
def fake(answer: Callable[[str], tuple[int, dict[str, str], Any]]) -> Iterator[Fake]:
    with serving(Fake(("127.0.0.1", 0), _Answers)) as server:
        server.asked, server.answer = [], answer  # type: ignore[method-assign]
        yield server


def naming(place: str) -> Callable[[str], tuple[int, dict[str, str], Any]]:
    """A registry that wants everything sent to one place, and fetched from there."""

    def answer(path: str) -> tuple[int, dict[str, str], Any]:
        at = {"sha256": SHA256, "size_bytes": len(CONTENT), "url": place, "headers": {}}
        if path.endswith("/uploads"):
            return 200, {}, {"id": "u", "put": [at], "parts": []}
        return 200, {}, at if "/datasets/" in path else [at]

    return answer


@pytest.mark.parametrize("proxied", [False, True])
class TestPlacesOfThisMachine:
    """A fake registry names files: one to be written, with bytes of its choice's length, and one to be read."""

    @pytest.fixture(autouse=True)
    def _proxy(self, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if proxied:
            # Bytes then go by another library.
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def test_nothing_is_written_where_it_says(self, tmp_path: Path) -> None:
        source, target = tmp_path / "rows.jsonl", tmp_path / "home" / ".ssh" / "authorized_keys"
        source.write_bytes(CONTENT)
        with fake(naming(target.as_uri())) as registry:
            client = Client(registry.url, TOKEN, cache=tmp_path / "cache")
            with pytest.raises(VerificationFailed, match="gives a location on this machine"):
                client.uploader.upload({SHA256: source}, "sending")
            client.close()
        assert not target.parent.exists()

    def test_a_part_is_not_either(self, tmp_path: Path) -> None:
        source, target = tmp_path / "rows.jsonl", tmp_path / "target"
        source.write_bytes(CONTENT)

        def answer(path: str) -> tuple[int, dict[str, str], Any]:
            if path.endswith("/parts"):
                return 200, {}, [{"sha256": SHA256, "size_bytes": len(CONTENT), "url": target.as_uri()}]
            parts = {"sha256": SHA256, "size_bytes": len(CONTENT), "part_bytes": 2**20, "missing": [1]}
            return 200, {}, {"id": "u", "put": [], "parts": [parts]}

        with fake(answer) as registry:
            client = Client(registry.url, TOKEN, cache=tmp_path / "cache")
            with pytest.raises(VerificationFailed, match="gives a location on this machine"):
                client.uploader.upload({SHA256: source}, "sending")
            client.close()
        assert not target.exists()

    def test_nothing_is_read_where_it_says(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(CONTENT)
        from sdk.schemas.manifest import Manifest, ManifestFile

        file = ManifestFile(path="model.safetensors", size_bytes=len(CONTENT), sha256=SHA256)
        manifest = Manifest(kind="merged", base_fingerprint="f" * 64, files=[file])
        with fake(naming(secret.as_uri())) as registry:
            client = Client(registry.url, TOKEN, cache=tmp_path / "cache")
            for ask in (
                lambda: client.puller.save(manifest, tmp_path / "out", beside={}),
                lambda: client.puller.fill_cache(manifest),
            ):
                with pytest.raises(VerificationFailed, match="nothing was read or written"):
                    ask()
            client.close()
        assert not (tmp_path / "out").exists()
        assert not Cache(tmp_path / "cache").blob(SHA256).exists()


# Plain http.


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Who would see what goes to another machine."""
    with fake(lambda _path: (200, {}, {"name": "ana", "grants": []})) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        yield server


class TestPlainHttp:
    URL = "http://registry.example"

    def puller(self, tmp_path: Path, *, insecure: bool = False) -> Puller:
        from sdk.config import Config

        config = Config(self.URL, TOKEN, insecure)
        http = HttpClient(config.reach)
        return Puller(HttpSource(config, http), Cache(tmp_path / "cache"), self.URL, http=http)

    def test_the_token_is_not_sent(self, proxy: Fake, tmp_path: Path) -> None:
        client = Client(self.URL, TOKEN, cache=tmp_path / "cache")
        for ask in (client.tokens.whoami, client.adapters, lambda: self.puller(tmp_path).pull("a@v1")):
            with pytest.raises(InvalidInput, match="accept that with insecure= or ADAPTERCTL_INSECURE=1") as caught:
                ask()
            assert caught.value.param == "url"
        assert proxy.asked == []

    @pytest.mark.parametrize("accepted", ["argument", "environment", "profile"])
    def test_it_is_for_who_has_accepted_it(
        self, proxy: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: str
    ) -> None:
        from sdk import config

        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        if accepted == "environment":
            monkeypatch.setenv("ADAPTERCTL_INSECURE", "1")
        if accepted == "profile":
            config.write_profile(config.Config(self.URL, TOKEN, insecure=True))
        client = Client(self.URL, TOKEN, cache=tmp_path / "cache", insecure=accepted == "argument")
        assert client.tokens.whoami().name == "ana"
        client.close()
        ((_, headers),) = proxy.asked
        assert headers["Authorization"] == f"Bearer {TOKEN}"
        # What a profile accepts holds for its own registry.
        if accepted == "profile":
            with pytest.raises(InvalidInput):
                Client("http://other.example", TOKEN, cache=tmp_path / "cache").tokens.whoami()

    @pytest.mark.parametrize("args", [["--insecure", "login"], ["login", "--insecure"]])
    def test_login_remembers_it(self, proxy: Fake, tmp_path: Path, args: list[str]) -> None:
        env = {"XDG_CONFIG_HOME": str(tmp_path), "ADAPTERCTL_TOKEN": TOKEN, "ADAPTERCTL_INSECURE": ""}
        refused = CliRunner(env=env).invoke(cli, ["login", self.URL])
        assert isinstance(refused.exception, InvalidInput)
        assert proxy.asked == []
        done = CliRunner(env=env).invoke(cli, [*args, self.URL], catch_exceptions=False)
        assert done.exit_code == 0
        kept = json.loads((tmp_path / "adapterctl" / "profile.json").read_text())
        assert kept == {"url": self.URL, "token": TOKEN, "insecure": True}


def test_a_redirect_does_not_carry_the_token_away(tmp_path: Path) -> None:
    with fake(lambda _path: (200, {}, {"name": "eve", "grants": []})) as elsewhere:
        with fake(lambda path: (307, {"Location": f"{elsewhere.url}{path}"}, {})) as registry:
            client = Client(registry.url, TOKEN, cache=tmp_path / "cache")
            source = HttpSource(client.config, HttpClient(client.reach))
            for ask in (client.tokens.whoami, lambda: source.resolve("a@v1")):
                with pytest.raises(AdapterctlError):
                    ask()
            client.close()
        assert len(registry.asked) == 2
        assert elsewhere.asked == []


def test_bytes_that_are_to_be_fetched_elsewhere_are_not(tmp_path: Path) -> None:
    """A storage may not send a client on either."""
    with fake(lambda _path: (200, {}, {})) as elsewhere:
        with fake(lambda _path: (302, {"Location": elsewhere.url}, {})) as storage:
            from sdk.pulling.download import fetch
            from sdk.schemas.artifacts import Transfer

            origin = Transfer(sha256=SHA256, size_bytes=len(CONTENT), url=f"{storage.url}/x")
            with pytest.raises(Unavailable, match="HTTP 302"):
                fetch(origin, tmp_path / "file")
        assert elsewhere.asked == []


# Links in folders that are sent.


class TestLinks:
    @pytest.fixture
    def client(self, tmp_path: Path) -> Iterator[Client]:
        client = Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache")
        yield client
        client.close()

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "secret.json"
        path.write_text('{"password": "x"}')
        return path

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_an_adapter_s_file_that_leads_out_is_not_sent(self, client: Client, tmp_path: Path, name: str) -> None:
        base = small.write_base(tmp_path / "base")
        folder = small.write_adapter(tmp_path / "adapter")
        moved = (folder / name).rename(tmp_path / f"moved-{name}")
        (folder / name).symlink_to(moved)
        with pytest.raises(InvalidInput, match=f"adapter/{name} is a link that leads out of its folder") as caught:
            client.push(folder, "a", base=base)
        assert str(moved) in caught.value.message
        # Within the folder a link leads nowhere else.
        (folder / name).unlink()
        inner = moved.rename(folder / f"inner-{name}")
        (folder / name).symlink_to(inner.name)
        assert client.push(folder, "a", base=base).number == 1

    @pytest.mark.parametrize("name", [*SERVING_FILES, "tokenizer_config.json"])
    def test_what_is_served_with_it_that_leads_out_is_not_sent(
        self, client: Client, tmp_path: Path, secret: Path, name: str
    ) -> None:
        base = small.write_base(tmp_path / "base")
        folder = small.write_adapter(tmp_path / "adapter")
        (folder / name).symlink_to(secret)
        with pytest.raises(InvalidInput, match=f"adapter/{name} is a link that leads out of its folder"):
            client.push(folder, "a", base=base)

    def test_a_file_of_a_base_that_leads_out_is_not_sent(self, client: Client, tmp_path: Path, secret: Path) -> None:
        base = small.write_base(tmp_path / "base")
        (base / "tokenizer.json").unlink()
        (base / "tokenizer.json").symlink_to(secret)
        with pytest.raises(InvalidInput, match=r"base/tokenizer\.json is a link that leads out of its folder"):
            client.bases.add(base, upload=True)
        assert client.bases() == []
        # Of a base that stays where it lies, the config alone goes out.
        assert client.bases.add(base).facts == "hashed"
        (base / "config.json").rename(tmp_path / "config.json")
        (base / "config.json").symlink_to(tmp_path / "config.json")
        with pytest.raises(InvalidInput, match=r"base/config\.json is a link that leads out of its folder"):
            client.bases.add(base)

    def test_a_hub_s_cache_is_pushed_as_it_lies(self, client: Client, tmp_path: Path) -> None:
        """Each file of `snapshots/COMMIT` is a link into the `blobs` of its own repository; another's are none of it."""
        base = hub_cache(small.write_base(tmp_path / "b"), tmp_path / "hub/models--org--base")
        adapter = hub_cache(small.write_adapter(tmp_path / "a"), tmp_path / "hub/models--org--adapter")
        assert (adapter / "adapter_config.json").is_symlink()
        assert client.push(adapter, "a", base=base).number == 1
        (adapter / "adapter_model.safetensors").unlink()
        (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "hub/models--org--base/blobs/model.safetensors")
        with pytest.raises(InvalidInput, match="leads out of its folder"):
            client.push(adapter, "a", base=base)

    def test_a_folder_or_a_dataset_that_was_named_itself_may_be_a_link(self, client: Client, tmp_path: Path) -> None:
        (tmp_path / "base").symlink_to(small.write_base(tmp_path / "real-base"))
        (tmp_path / "adapter").symlink_to(small.write_adapter(tmp_path / "real-adapter"))
        assert client.push(tmp_path / "adapter", "a", base=tmp_path / "base").number == 1
        (tmp_path / "real.jsonl").write_bytes(CONTENT)
        (tmp_path / "rows.jsonl").symlink_to(tmp_path / "real.jsonl")
        assert client.datasets.add(tmp_path / "rows.jsonl").digest == SHA256


def hub_cache(source: Path, repository: Path) -> Path:
    """Lay a folder out as huggingface_hub does; return the snapshot's folder."""
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    return snapshot
