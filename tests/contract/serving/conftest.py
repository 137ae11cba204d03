"""One base with five versions, and one engine of each kind over it: files that try them make none of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from support import torch_forks
from support.engines import LLAMA_CPP, LOCAL, VLLM, EngineInLoop, engine_of, require_torch
from support.served_models import ServedModels


@pytest.fixture(scope="session")
def five_versions(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    """Not to be changed. What llama.cpp makes of its base is written beside it, once."""
    require_torch()
    made: ServedModels = torch_forks.call(
        "support.served_models:make_tiny", tmp_path_factory.mktemp("models"), versions=5
    )
    return made


@pytest.fixture(scope="session")
def first_of(five_versions: ServedModels) -> Callable[[int], ServedModels]:
    """The same with the first so many versions alone."""

    def first(count: int) -> ServedModels:
        names = {"", *list(five_versions.adapters)[:count]}

        def of_them(value: Any) -> Any:
            return {name: each for name, each in value.items() if name in names} if isinstance(value, dict) else value

        given = {field.name: of_them(getattr(five_versions, field.name)) for field in fields(five_versions)}
        return replace(five_versions, **given)

    return first


@pytest.fixture(scope="session", params=[LOCAL, LLAMA_CPP, VLLM])
def running(
    request: pytest.FixtureRequest, five_versions: ServedModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineInLoop]:
    """An engine of one kind that is up. Tests may leave versions in it, and kill it."""
    with (
        torch_forks.programs_as_forks(),
        engine_of(request.param, five_versions, tmp_path_factory.mktemp("engine")) as make,
        asyncio.Runner() as runner,
    ):
        engine = make()
        runner.run(engine.facts())
        try:
            yield runner, engine
        finally:
            runner.run(engine.close())
