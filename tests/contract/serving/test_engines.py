"""What the gateway relies on, of each engine: the real ones, over a real base, held to what PEFT alone answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engines import EngineInLoop, complete, decoder, llama_cpp, up
from support.served_models import TOKENS, ServedModels

from sdk.gateway.engines.engine import EngineRefused, InferenceEngine
from sdk.gateway.moves.probe import BaseScores, prove


@pytest.fixture(scope="module")
def models(first_of: Callable[[int], ServedModels]) -> ServedModels:
    return first_of(3)


@pytest.fixture
def scene(running: EngineInLoop) -> Callable[[Callable[[InferenceEngine], Coroutine[Any, Any, None]]], None]:
    """Runs something with an engine that has no version."""
    runner, engine = running

    def run(body: Callable[[InferenceEngine], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            for name in await engine.loaded():
                await engine.release(name)
            async with asyncio.timeout(300):
                await body(engine)

        runner.run(whole())

    return run


Scene = Callable[[Callable[[InferenceEngine], Coroutine[Any, Any, None]]], None]


async def answer(engine: InferenceEngine, models: ServedModels, name: str, at: int = 0, **more: Any) -> str:
    """Return the text of a version's answer, of the base with ""."""
    found = await complete(engine, name or None, models.prompts[at], TOKENS, **more)
    text: str = found["choices"][0]["text"]
    return text


async def load_all(engine: InferenceEngine, models: ServedModels) -> None:
    for name, folder in models.adapters.items():
        await engine.load(name, folder)


class TestEngine:
    """Every engine."""

    def test_facts_name_the_engine_and_its_context(self, scene: Scene) -> None:
        async def body(engine: InferenceEngine) -> None:
            facts = await engine.facts()
            assert facts.engine in ("local", "llama.cpp", "vllm")
            assert facts.context_tokens == 256

        scene(body)

    def test_versions_and_base_side_by_side_answer_as_peft_does(self, scene: Scene, models: ServedModels) -> None:
        async def body(engine: InferenceEngine) -> None:
            await load_all(engine, models)
            assert await engine.loaded() == models.adapters.keys()
            names = [name for name in models.expected for _ in models.prompts]
            texts = await asyncio.gather(
                *(answer(engine, models, name, at % len(models.prompts)) for at, name in enumerate(names))
            )
            expected = [
                decoded(models, models.expected[name][at % len(models.prompts)]) for at, name in enumerate(names)
            ]
            assert list(texts) == expected

        scene(body)

    def test_scores_are_those_of_peft_for_what_it_would_write_and_what_not(
        self, scene: Scene, models: ServedModels
    ) -> None:
        async def body(engine: InferenceEngine) -> None:
            await load_all(engine, models)
            # Beside streams, as they are when a version is proved: what an engine computes for them is in the same batches.
            streams = asyncio.gather(*(answer(engine, models, name) for name in [*models.expected] * 3))
            # llama.cpp has probabilities in 32 bits, and no smaller ones.
            least = -80.0
            found = await asyncio.gather(
                *(engine.score(name or None, models.prompts[0], models.expected[""][0]) for name in models.scores)
            )
            await streams
            for (name, expected), scores in zip(models.scores.items(), found, strict=True):
                assert [max(least, each) for each in scores] == pytest.approx(
                    [max(least, each) for each in expected], abs=2e-3
                ), name

        scene(body)

    def test_answers_in_float32_prove_a_version_by_few_tokens_and_never_another(
        self, scene: Scene, models: ServedModels
    ) -> None:
        async def body(engine: InferenceEngine) -> None:
            await load_all(engine, models)
            streams = asyncio.gather(*(answer(engine, models, name) for name in models.expected))
            (name, record), (_, other) = [*models.records.items()][:2]
            right, wrong = await asyncio.gather(
                *(prove(engine, name, each, held=BaseScores()) for each in (record, other))
            )
            await streams
            assert (right.outcome, right.tokens, wrong.outcome) == ("passed", 4, "failed"), (right, wrong)

        scene(body)

    def test_a_prompt_that_fills_the_context_is_refused_and_one_token_less_is_answered(
        self, scene: Scene, models: ServedModels
    ) -> None:
        async def body(engine: InferenceEngine) -> None:
            most = (await engine.facts()).context_tokens
            upstream = engine.route(None)
            for length, status in ((most - 1, 200), (most, 400), (most + 1, 400), (8, 200)):
                prompt = [each % 7 + 5 for each in range(length)]
                for stream in (False, True):
                    fields = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": stream, **upstream.fields}
                    answer = await upstream.client.post("/v1/completions", json=fields)
                    assert answer.status_code == status, (length, stream, answer.text)
                    assert "error" not in answer.text or status == 400

        scene(body)

    def test_loading_twice_and_releasing_what_is_not_loaded_are_fine(self, scene: Scene, models: ServedModels) -> None:
        async def body(engine: InferenceEngine) -> None:
            folder = models.adapters["sql@v1"]
            await engine.load("sql@v1", folder)
            await engine.load("sql@v1", folder)
            assert await engine.loaded() == {"sql@v1"}
            await engine.release("sql@v1")
            await engine.release("sql@v1")
            await engine.release("other@v1")
            assert await engine.loaded() == frozenset()
            with pytest.raises(KeyError):
                engine.route("sql@v1")
            with pytest.raises(KeyError):
                await engine.score("sql@v1", [1], [2])

        scene(body)

    def test_a_released_number_that_means_another_folder_answers_as_that(
        self, scene: Scene, models: ServedModels
    ) -> None:
        async def body(engine: InferenceEngine) -> None:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            assert await answer(engine, models, "sql@v1") == decoded(models, models.expected["sql@v1"][0])
            await engine.release("sql@v1")
            await engine.load("sql@v1", models.adapters["sql@v2"])
            assert await answer(engine, models, "sql@v1") == decoded(models, models.expected["sql@v2"][0])

        scene(body)

    def test_an_answer_outlives_the_load_and_the_release_of_others(self, scene: Scene, models: ServedModels) -> None:
        async def body(engine: InferenceEngine) -> None:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            await engine.load("sql@v2", models.adapters["sql@v2"])

            async def keep_asking() -> list[str]:
                return [await answer(engine, models, "sql@v1") for _ in range(12)]

            asking = asyncio.create_task(keep_asking())
            await engine.load("sql@v3", models.adapters["sql@v3"])
            await engine.release("sql@v2")
            await engine.release("sql@v3")
            assert set(await asking) == {decoded(models, models.expected["sql@v1"][0])}

        scene(body)

    def test_a_folder_that_is_pruned_while_it_is_loaded_hurts_nothing(
        self, scene: Scene, models: ServedModels, tmp_path: Path
    ) -> None:
        async def body(engine: InferenceEngine) -> None:
            folder = tmp_path / "pruned"
            shutil.copytree(models.adapters["sql@v1"], folder)
            await engine.load("sql@v1", folder)
            shutil.rmtree(folder)
            await engine.load("sql@v2", models.adapters["sql@v2"])
            for name in ("sql@v1", "sql@v2", "sql@v1"):
                assert await answer(engine, models, name) == decoded(models, models.expected[name][0])

        scene(body)

    @pytest.mark.parametrize("fault", ["torn", "no weights", "not json", "rank", "dora"])
    def test_what_cannot_be_served_is_refused_and_leaves_nothing(
        self, scene: Scene, models: ServedModels, tmp_path: Path, fault: str
    ) -> None:
        folder = broken(models.adapters["sql@v1"], tmp_path / "broken", fault)

        async def body(engine: InferenceEngine) -> None:
            if fault == "dora" and (await engine.facts()).engine == "local":
                pytest.skip("the local engine serves DoRA")
            await engine.load("sql@v2", models.adapters["sql@v2"])
            with pytest.raises(EngineRefused) as refused:
                await engine.load("sql@v9", folder)
            assert len(str(refused.value)) > 20
            assert await engine.loaded() == {"sql@v2"}
            with pytest.raises(KeyError):
                engine.route("sql@v9")
            assert await answer(engine, models, "sql@v2") == decoded(models, models.expected["sql@v2"][0])

        scene(body)

    def test_a_stream_of_a_version_is_its_text_in_pieces(self, scene: Scene, models: ServedModels) -> None:
        async def body(engine: InferenceEngine) -> None:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            upstream = engine.route("sql@v1")
            body = {"model": "-", "prompt": models.prompts[0], "max_tokens": TOKENS, "temperature": 0, "stream": True}
            pieces = []
            with upstream.running:
                async with upstream.client.stream(
                    "POST", "/v1/completions", json={**body, **upstream.fields}
                ) as stream:
                    async for line in stream.aiter_lines():
                        if line.startswith("data: {"):
                            pieces += [each.get("text", "") for each in json.loads(line[6:])["choices"]]
            assert len(pieces) > 3
            assert "".join(pieces) == decoded(models, models.expected["sql@v1"][0])

        scene(body)


def test_llama_cpp_that_is_killed_comes_back_with_all_of_its_versions(models: ServedModels, tmp_path: Path) -> None:
    async def body() -> None:
        async with up(llama_cpp(models.base, models.base.parent / "store")) as engine:
            await load_all(engine, models)
            os.kill(engine.pid, signal.SIGKILL)
            while await is_up(engine):
                await asyncio.sleep(0.01)
            await engine.facts()
            assert await engine.loaded() == models.adapters.keys()
            for name in models.adapters:
                assert await answer(engine, models, name) == decoded(models, models.expected[name][0])

    asyncio.run(body())


def test_llama_cpp_comes_back_after_its_old_temporary_files_were_removed(models: ServedModels, tmp_path: Path) -> None:
    async def body() -> None:
        async with up(llama_cpp(models.base, models.base.parent / "store")) as engine:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            for file in temporary.rglob("adapterctl-gguf-*/*.gguf"):
                file.unlink()
            await engine.load("sql@v2", models.adapters["sql@v2"])
            assert await engine.loaded() == {"sql@v1", "sql@v2"}
            answer = await complete(engine, "sql@v1", models.prompts[0], TOKENS)
            assert answer["choices"][0]["text"] == decoder(models.base)(models.expected["sql@v1"][0])

    # Too long a path for a socket.
    temporary = tmp_path / ("temporary" * 12)
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(temporary))
        asyncio.run(body())


def test_no_third_process_of_llama_cpp_is_started_while_requests_run_in_the_first(
    models: ServedModels, tmp_path: Path
) -> None:
    async def body() -> None:
        async with up(llama_cpp(models.base, models.base.parent / "store", drain_s=0.3)) as engine:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            first = engine.route("sql@v1")
            with first.running:
                await engine.load("sql@v2", models.adapters["sql@v2"])
                # What runs in the older process still gets its answers.
                assert (await first.client.get("/health")).status_code == 200
                with pytest.raises(EngineRefused, match="older one of two processes"):
                    await engine.load("sql@v3", models.adapters["sql@v3"])
            await engine.load("sql@v3", models.adapters["sql@v3"])
            assert await engine.loaded() == models.adapters.keys()

    asyncio.run(body())


def test_new_process_of_llama_cpp_gets_no_request_before_somebody_asks_for_its_version(
    models: ServedModels, tmp_path: Path
) -> None:
    async def body() -> None:
        async with up(llama_cpp(models.base, models.base.parent / "store")) as engine:
            await engine.load("sql@v1", models.adapters["sql@v1"])
            assert await answer(engine, models, "sql@v1") == decoded(models, models.expected["sql@v1"][0])
            old = engine.pid
            await engine.load("sql@v2", models.adapters["sql@v2"])
            assert await engine.loaded() == {"sql@v1", "sql@v2"}
            # More texts at once than there are slots.
            names = ["", "sql@v2", "sql@v1"] * 2
            found = await asyncio.gather(
                *(engine.score(name or None, models.prompts[0], models.expected[""][0]) for name in names)
            )
            for name, scores in zip(names, found, strict=True):
                least = [max(-80.0, each) for each in scores]
                assert least == pytest.approx([max(-80.0, each) for each in models.scores[name]], abs=2e-3), name
            with pytest.raises(KeyError):
                await engine.score("sql@v3", [1], [2])
            with pytest.raises(KeyError):
                engine.route("sql@v3")
            assert await answer(engine, models, "sql@v1") == decoded(models, models.expected["sql@v1"][0])
            assert await answer(engine, models, "") == decoded(models, models.expected[""][0])
            assert engine.pid == old
            assert await answer(engine, models, "sql@v2") == decoded(models, models.expected["sql@v2"][0])
            new = engine.pid
            assert new != old
            # One that is refused goes, and nobody was moved to its process.
            await engine.load("sql@v3", models.adapters["sql@v3"])
            await engine.release("sql@v3")
            assert await engine.loaded() == {"sql@v1", "sql@v2"}
            assert await answer(engine, models, "") == decoded(models, models.expected[""][0])
            assert engine.pid == new

    asyncio.run(body())


async def is_up(engine: InferenceEngine) -> bool:
    try:
        await engine.loaded()
    except httpx.HTTPError:
        return False
    return True


def decoded(models: ServedModels, tokens: list[int]) -> str:
    return decoder(models.base)(tokens)


def broken(folder: Path, target: Path, fault: str) -> Path:
    """Copy an adapter with a fault."""
    shutil.copytree(folder, target)
    weights, config = target / "adapter_model.safetensors", target / "adapter_config.json"
    if fault == "torn":
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "not json":
        config.write_text("{")
    elif fault == "rank":
        # Its tensors have another one.
        config.write_text(json.dumps({**json.loads(config.read_text()), "r": 32}))
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    return target
