"""`adapterctl serve` by the commands of docs/serving.md, over real engines, asked by the client of OpenAI."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import Popen

import openai
import pytest
from support import pages, processes, torch_forks
from support.command_line import CommandLine
from support.engines import VllmServer, require_peers, require_torch
from support.forks import Fork
from support.waiting import wait_until

from sdk.api import served_probes
from sdk.client import Client
from sdk.objects import Version
from sdk.process_starts import process_started_at
from sdk.schemas.serving import ServedProbe, ServedProbeRecord

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PAGE = "serving.md"
KEY = "the-key-of-the-test-0123456789"
CANARY = "canary words of a caller"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The adapters of the page: `code-review@v2` and `sql@v1` with records of what they answer, `code-review@v1` without."""
    folder = tmp_path_factory.mktemp("serving")
    require_torch()
    models = torch_forks.call("support.served_models:make_tiny", folder)
    place = CommandLine(folder, cwd=folder)
    with closing(Client(place.url, cache=folder / "cache")) as client:
        for made, name in (("sql@v1", "code-review"), ("sql@v2", "code-review"), ("sql@v3", "sql")):
            pushed = client.push(models.adapters[made], name, base=models.base)
            if pushed.ref != "code-review@v1":
                served_probes.record(client.transport, record_of(pushed, models.records[made]))
        client.set_alias("code-review", "production", version=2)
    (folder / "key").write_text(KEY + "\n")
    return place


def record_of(version: Version, probe: ServedProbe) -> ServedProbeRecord:
    """Return what `adapterctl verify REF --probe --record` sends of a version."""
    info = version.info
    return ServedProbeRecord(
        adapter=info.adapter, number=info.number, digest=version.digest, base=info.base.fingerprint, probe=probe
    )


@contextmanager
def serving(
    place: CommandLine, words: list[str], *, forked: bool = False, **env: str
) -> Iterator[tuple[Popen[bytes] | Fork, Path, openai.OpenAI]]:
    """Run a command of the page at a free port until it answers; yield it, its output, and a client with the key.

    `forked`: what imports torch or all of our client is a fork; the engine that isn't ours is as it is.
    """
    port, log = processes.free_port(), place.folder / "serve.log"
    command = pages.with_options(words, port=port, key_file=place.folder / "key")
    url, run = f"http://127.0.0.1:{port}/v1", processes.running_fork if forked else processes.running
    with (
        run(*command, env={**place.env, **env, **(torch_forks.for_commands() if forked else {})}, log=log) as process,
        openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client,
    ):
        wait_until(lambda: has_ended(process) or url in log.read_text(), log.read_text)
        yield process, log, client


def has_ended(process: Popen[bytes] | Fork) -> bool:
    """Whether what was started is gone."""
    return process.poll() is not None if isinstance(process, Popen) else process_started_at(process.pid) is None


def asked(client: openai.OpenAI, model: str) -> str:
    """Ask something, and return which version has answered."""
    answer = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": CANARY}], max_tokens=2, temperature=0
    )
    assert answer.parse().model == model
    return str(answer.headers["x-adapterctl-version"])


def test_an_alias_moves_under_a_caller_and_a_signal_ends_it(place: CommandLine) -> None:
    (command,) = pages.commands(PAGE, "serve")
    assert command[-2:] == ["--key-file", "./key"]
    with serving(place, [*command, "--unprobed"]) as (process, log, client):
        assert asked(client, "code-review@production") == "code-review@v2"
        assert [model.id for model in client.models.list()][:2] == ["base:base", "code-review@production"]
        place.ok("alias", "set", "code-review", "production", "v1")
        wait_until(lambda: asked(client, "code-review@production") == "code-review@v1", log.read_text)
        pieces = client.completions.create(model="code-review@v2", prompt=CANARY, max_tokens=4, stream=True)
        assert {piece.model for piece in pieces} == {"code-review@v2"}
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            client.completions.create(model="code-review@v9", prompt=CANARY)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-another").models.list()
        # A second one finds the port taken.
        port = str(client.base_url.port)
        taken = place.refused(9, *command[1:], "--port", port)
        assert re.search(rf"port {port} on 127.0.0.1 can't be used .*; choose another with --port", taken)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    place.ok("alias", "set", "code-review", "production", "v2")
    lines = log.read_text()
    assert "code-review@production: code-review@v2; seen " in lines
    assert "code-review@production: code-review@v2 → code-review@v1 (unprobed); seen " in lines
    assert CANARY not in lines
    assert KEY not in lines


def test_llama_cpp_serves_by_the_page_s_command(place: CommandLine) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp, which is llama.cpp, has no wheel for this system")
    (command,) = pages.commands(PAGE, "llama.cpp")
    with serving(place, command, forked=True) as (_process, log, client):
        assert [asked(client, name) for name in ("code-review@production", "sql")] == ["code-review@v2", "sql@v1"]
        # What has no record isn't served unproved.
        with pytest.raises(openai.InternalServerError, match="nobody has measured what code-review@v1 answers"):
            asked(client, "code-review@v1")
    assert "code-review@production: code-review@v2; seen " in log.read_text()


def test_vllm_serves_by_the_page_s_commands(place: CommandLine, tmp_path: Path) -> None:
    require_peers()
    ((setting, _python, *start),), ((key, *serve),) = (pages.commands(PAGE, name) for name in ("vllm", "vllm-serve"))
    assert serve[serve.index("--shared") + 1] == "/srv/loras=/loras"
    (tmp_path / "srv").mkdir()
    (tmp_path / "loras").symlink_to(tmp_path / "srv")
    base = place.folder / "base"
    server = VllmServer(base, tmp_path, **dict([setting.split("=")]))
    # And what a small processor needs.
    small = pages.with_options(
        start, model=base, host="127.0.0.1", port=server.port, max_model_len=256, dtype="float32"
    )
    try:
        server.start(words=[*small, "--enforce-eager"])
        words = pages.with_options(serve, at=server.url, shared=f"{tmp_path / 'srv'}={tmp_path / 'loras'}")
        with serving(place, words, **dict([key.split("=")])) as (_process, _log, client):
            assert [asked(client, name) for name in ("code-review", "base:base")] == ["code-review@v2", "base:base"]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["code-review@v9"], 3, "v9"),
        (["nothing"], 3, "nothing"),
        (["code-review", "--engine", "vllm"], 2, "--at URL --shared DIR"),
        (["code-review", "--at", "http://127.0.0.1:1"], 2, "leave --at and --shared out"),
        (["code-review", "--host", "0.0.0.0", "--no-key"], 2, "only this machine may ask"),
        (["code-review", "--key-file", "missing"], 2, "can't be read"),
        (["code-review@sha256:" + "a" * 64], 2, "name the version"),
        (["code-review", "--allow-host", "a b"], 2, "is not a host"),
    ],
)
def test_bad_input_is_refused_before_an_engine_starts(
    place: CommandLine, arguments: list[str], status: int, sentence: str
) -> None:
    assert sentence in place.refused(status, "serve", *arguments, "--port", str(processes.free_port()))
