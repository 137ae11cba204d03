"""A vLLM that somebody else runs: what is wrong with it is said at the start, and it may be started again at any time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.engines import VllmServer, complete, decoder, require_peers, up, vllm_server
from support.moving import MovingWorld
from support.served_models import TOKENS, ServedModels

from sdk.gateway.engines.engine import EngineRefused, InferenceEngine
from sdk.gateway.engines.vllm import VllmEngine
from sdk.gateway.engines.vllm_base import is_base


@pytest.fixture(scope="module")
def peers() -> None:
    require_peers()


@pytest.fixture(scope="module")
def models(peers: None, first_of: Callable[[int], ServedModels]) -> ServedModels:
    # As many as the engine has places: --max-loras is 4.
    return first_of(4)


@pytest.fixture(scope="module")
def server(models: ServedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with vllm_server(models.base, tmp_path_factory.mktemp("vllm")) as server:
        yield server


def refusal_of(engine: InferenceEngine) -> str:
    """Return why an engine isn't taken."""

    async def ask() -> str:
        try:
            with pytest.raises(EngineRefused) as refused:
                await engine.facts()
            return str(refused.value)
        finally:
            await engine.close()

    return asyncio.run(ask())


def test_a_folder_that_the_engine_does_not_see_is_found_at_the_start(server: VllmServer, tmp_path: Path) -> None:
    reason = refusal_of(server.engine(tmp_path, shared_as="/nowhere/at/all"))
    assert "doesn't see" in reason
    assert "--shared DIR=PATH" in reason


def test_a_folder_that_is_called_otherwise_there_is_used_under_both_names(
    server: VllmServer, models: ServedModels, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").symlink_to(tmp_path / "here")

    async def body() -> None:
        async with up(server.engine(tmp_path / "here", shared_as=str(tmp_path / "there"))) as engine:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            assert await engine.loaded() == {"sql@v1"}
            await engine.release("sql@v1")

    asyncio.run(body())


def test_a_wrong_key_is_refused(server: VllmServer, tmp_path: Path) -> None:
    assert "key" in refusal_of(VllmEngine(server.url, shared=tmp_path, api_key="wrong", wait_s=1))


def test_a_second_gateway_is_refused_by_the_folder_or_by_what_the_engine_has(
    server: VllmServer, models: ServedModels, tmp_path: Path
) -> None:
    async def body() -> None:
        async with up(server.engine(tmp_path / "one")) as first:
            await first.load("sql@v1", models.adapters["sql@v1"])
            for folder in ("one", "two"):
                second = server.engine(tmp_path / folder)
                with pytest.raises(EngineRefused, match="another gateway"):
                    await second.facts()
                await second.close()
            # Nothing of the first one's was touched.
            assert await first.loaded() == {"sql@v1"}
            await first.release("sql@v1")

    asyncio.run(body())


def test_what_a_killed_gateway_left_in_the_engine_is_taken_out_by_the_next(
    server: VllmServer, models: ServedModels, tmp_path: Path
) -> None:
    async def body() -> None:
        async with up(server.engine(tmp_path)) as first:
            await first.load("sql@v1", models.adapters["sql@v1"])
        world = MovingWorld(server.engine(tmp_path, stay_s=0.0), models, decode=decoder(models.base))
        await world.moves.start()
        try:
            assert await world.engine.loaded() == frozenset()
            await world.moved(2)
            assert await world.ask(0) == "sql@v2"
            await world.engine.release("sql@v2")
            await world.engine.loaded()
            left = {each.name for each in (tmp_path / "adapterctl-serving").iterdir() if not is_base(each.name)}
            assert left == {".lock"}
        finally:
            await world.moves.close()

    asyncio.run(body())


def test_the_base_stays_the_base_beside_adapters_in_every_place(
    models: ServedModels, server: VllmServer, tmp_path: Path
) -> None:
    """With as many versions loaded as vLLM has places, the last of them is one's own."""

    async def body() -> None:
        async with up(server.engine(tmp_path)) as engine:
            # Those before may have left versions in some places; the newest two fill any that are left.
            for name, folder in models.adapters.items():
                await engine.load(name, folder)
                jobs = [(each, at) for each in ("", name) for at in range(len(models.prompts))] * 2
                answers = await asyncio.gather(
                    *(complete(engine, each or None, models.prompts[at], TOKENS) for each, at in jobs)
                )
                texts = [each["choices"][0]["text"] for each in answers]
                assert texts == [decoder(models.base)(models.expected[each][at]) for each, at in jobs]
                scores = await asyncio.gather(
                    *(
                        engine.score(each or None, models.prompts[0], models.expected[""][0])
                        for each in ("", name, "", name)
                    )
                )
                assert scores[0] == pytest.approx(models.scores[""], abs=2e-3)
                assert scores[1] == pytest.approx(models.scores[name], abs=2e-3)
            assert await engine.loaded() == models.adapters.keys()
        # The next gateway asks for the base as this one did, from the first request on.
        async with up(server.engine(tmp_path)) as engine:
            assert is_base(engine.route(None).fields["model"])
            for name in await engine.loaded():
                await engine.release(name)

    asyncio.run(body())


def test_an_engine_that_is_killed_and_started_again_has_all_names_back_within_ten_seconds(
    server: VllmServer, models: ServedModels, tmp_path: Path
) -> None:
    async def body() -> None:
        world = MovingWorld(server.engine(tmp_path), models, decode=decoder(models.base))
        await world.moves.start()
        try:
            await world.moved(1)
            assert await world.ask(0, "sql@v2") == "sql@v2"
            server.kill()
            while world.moves.trouble is None:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.start)
            up_s = time.monotonic()
            assert [await world.ask(0), await world.ask(1, "sql@v2")] == ["sql@v1", "sql@v2"]
            print(f"\nvllm: all names back {time.monotonic() - up_s:.1f} s after it was up")
            assert time.monotonic() - up_s < 10
            for name in sorted(await world.engine.loaded()):
                await world.engine.release(name)
        finally:
            await world.moves.close()

    asyncio.run(body())


def test_an_engine_that_takes_no_adapters_is_refused(models: ServedModels, tmp_path: Path) -> None:
    with vllm_server(models.base, tmp_path, VLLM_ALLOW_RUNTIME_LORA_UPDATING="0") as server:
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in refusal_of(server.engine(tmp_path / "shared"))


def test_an_url_where_nothing_or_something_else_answers_is_refused(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=other.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{other.server_port}"
    assert "doesn't answer as vLLM does" in refusal_of(VllmEngine(url, shared=tmp_path, wait_s=1))
    other.shutdown()
    other.server_close()
    assert "start vLLM, or give its URL" in refusal_of(VllmEngine(url, shared=tmp_path, wait_s=0))
