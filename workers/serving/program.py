"""The engine program: reads its configuration, loads the base, and answers until nobody needs it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import select
import signal
import sys
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sdk.imports import begin_program, nothing_collected
from sdk.schemas.failures import FailureReason
from sdk.worker_program import PARENT_VARIABLE
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import nothing_searched
from workers.pipelines.sandbox import die_with_parent, leave_network
from workers.serving.configuration import EngineConfiguration
from workers.serving.decoding.errors import ServingError
from workers.serving.door.activity import Activity, unneeded
from workers.serving.door.listening import ListeningSocket
from workers.serving.door.refusals import RequestRefused
from workers.serving.texts.prompts import PromptRenderers

if TYPE_CHECKING:
    import uvicorn

    from workers.serving.door.engine import ServedEngine

#: What takes long to import, and what it needs when it answers.
_LIBRARIES = (
    "workers.serving.starting",
    "workers.serving.door.routes",
    "uvicorn",
    "transformers.models.auto.modeling_auto",
)
#: Connections that nobody uses stay: whoever keeps them would otherwise send a request into one that is being closed.
_KEEP_ALIVE_S = 3600
#: For how long running answers may go on after SIGTERM, and how many connections there may be.
_DRAIN_S, _MOST_CONNECTIONS = 2, 1024


def main() -> int:
    """Serve by the configuration on standard input. Prints one line: `{"ready"}`, or `{"refused", "reason"}` with a sentence.
    Returns the exit code.
    """
    begin_program()
    # Before libraries start threads.
    leave_network()
    if (parent := os.environ.get(PARENT_VARIABLE)) is not None:
        die_with_parent(parent)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    with ExitStack() as held:
        renderer = None
        if not select.select([sys.stdin], [], [], 0)[0]:
            # Whoever started this is finding out meanwhile what it is to hold.
            renderer = PromptRenderers()
            held.callback(renderer.close)
            _import_libraries()
        if not (line := sys.stdin.buffer.readline()):
            return 0
        try:
            configuration = EngineConfiguration.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            return _refused(
                f"the configuration can't be used ({place}: {first['msg']}); correct it", FailureReason.SPEC
            )
        try:
            listening = ListeningSocket(Path(configuration.socket))
        except RequestRefused as error:
            return _refused(error.message, FailureReason.SPEC)
        held.callback(listening.close)
        if renderer is None:
            # It imports its libraries while this process imports others.
            renderer = PromptRenderers()
            held.callback(renderer.close)
        return _serve(configuration, listening, renderer)


def _import_libraries() -> None:
    with nothing_collected(ever=True), nothing_searched():
        for name in _LIBRARIES:
            importlib.import_module(name)


def _serve(configuration: EngineConfiguration, listening: ListeningSocket, renderer: PromptRenderers) -> int:
    try:
        with nothing_collected(ever=True), nothing_searched():
            from workers.serving.starting import start_engine

            engine, facts = start_engine(configuration, renderer)
    except (PipelineError, ServingError) as error:
        reason = error.reason if isinstance(error, PipelineError) else FailureReason.BASE
        return _refused(str(error), reason)
    try:
        listening.listen()
        _say({"ready": {**facts, "pid": os.getpid(), "context_tokens": engine.context_tokens}})
        asyncio.run(_answer(configuration, listening, engine, facts))
    finally:
        engine.close()
    return 0


async def _answer(
    configuration: EngineConfiguration, listening: ListeningSocket, engine: ServedEngine, facts: dict[str, Any]
) -> None:
    import uvicorn

    from workers.serving.door.routes import EngineRoutes

    activity = Activity()
    routes = EngineRoutes(engine, activity, facts=facts)
    server = uvicorn.Server(
        uvicorn.Config(
            routes.app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
            limit_concurrency=_MOST_CONNECTIONS,
        )
    )
    # uvicorn sends itself the signal again that it ended by; the socket is still to be removed then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    watching = asyncio.create_task(_end_unneeded(configuration, activity, server))
    try:
        await server.serve(sockets=[listening.socket])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _end_unneeded(configuration: EngineConfiguration, activity: Activity, server: uvicorn.Server) -> None:
    await unneeded(activity, idle_s=configuration.idle_s, least_bytes=configuration.least_memory_bytes)
    server.should_exit = True


def _refused(message: str, reason: FailureReason) -> int:
    _say({"refused": message, "reason": reason.value})
    return 0


def _say(line: dict[str, Any]) -> None:
    # Whoever started it may be gone. What can't be written for another reason, such as a full disk, nobody would ever read.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
