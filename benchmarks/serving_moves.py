"""Aliases that move in a served registry, with the gateway's door in front of a real engine: what streams get, and how long it takes.

    python -m benchmarks.serving_moves OUT [--base DIR] [--trained ADAPTERS] [--only small|heavy] [local] [llama.cpp] [vllm]

A registry's server, `adapterctl serve` and the engine are processes of their own, with keys and tokens; callers are OpenAI's client.
First, 16 streams without an end and one that asks the base, while an alias moves 20 times between two versions and 3 times to versions
that were never loaded. Each answer is held against what PEFT alone answers. Then another alias moves 5 times to adapters of
50 MB that the engine doesn't have, while four streams run: the time is from before the alias is set to the first token of the first
answer of the new version. Those versions are in the gateway's cache, and all have a record, so that each move is proved. Beside that time are the seconds of
the processor until then, of all processes and of the busiest one: on a machine that does nothing else, it takes at least those of the busiest.

OUT keeps adapters, prompts and the registry, and may be used again. `--base`: the folder of SmolLM2-135M-Instruct; without it, it is
fetched. `--trained`: a folder with v1 to v5 or more, as `adapterctl pull` writes them, over that base; without it, random ones
move. vLLM runs in build/vllm, which `make serve-peers` makes. Prints a JSON line for each engine, and writes the gateway's own lines to
OUT/serve-ENGINE-ADAPTER.log.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import httpx
import psutil
from support import processes
from support.command_line import CommandLine
from support.engines import LLAMA_CPP, LOCAL, VLLM, VllmServer, decoder
from support.served_models import ServedModels
from support.waiting import wait_until

from benchmarks.serving_models import large, trained
from benchmarks.serving_streams import Streams
from benchmarks.training import example
from sdk.client import Client
from sdk.errors import NotFound

#: Streams, moves between versions that are loaded, and those that are never loaded before; then streams beside the measured moves.
STREAMS, MOVES, FRESH, BESIDE = 16, 20, 3, 4
#: The alias that moves, and two adapters that have it.
ALIAS, SMALL, LARGE = "production", "small", "heavy"
#: The most that vLLM takes of a rank: what it computes on a CPU grows with it, for whatever adapter.
RANKS = {SMALL: "16", LARGE: "64"}
#: Versions of 50 MB, of which the first is served and each other one is moved to.
_LARGE_VERSIONS = 6


@dataclass(frozen=True)
class Shelf:
    """A registry that answers, with two adapters whose versions have records."""

    url: str
    client: Client
    #: Commands with the gateway's token, and those with an admin's.
    gateway: CommandLine
    admin: CommandLine
    small: ServedModels
    large: ServedModels


@contextmanager
def shelf(out: Path, small: ServedModels, large_: ServedModels) -> Iterator[Shelf]:
    """Serve a registry with both adapters; they are pushed and measured unless an earlier run did that."""
    settings = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{out / 'registry.sqlite3'}",
        REGISTRY_STORAGE_URL=(out / "artifacts").as_uri(),
        REGISTRY_AUTH="token",
    )
    _registry(settings, "db", "upgrade")
    tokens = {
        role: _registry(settings, "token", "create", "--role", role, "--name", f"{role}-{secrets.token_hex(4)}")
        for role in ("admin", "server")
    }
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    with processes.running("adapter-registry", "serve", "--port", str(port), env=settings, log=out / "registry.log"):
        processes.wait_until_healthy(url, log=out / "registry.log", timeout_s=120)
        gateway, admin = (CommandLine(out, url=url, token=tokens[role], cwd=out) for role in ("server", "admin"))
        client = Client(url, tokens["admin"])
        try:
            for models in (small, large_):
                _fill(admin, client, models)
            yield Shelf(url, client, gateway, admin, small, large_)
        finally:
            client.close()


def _registry(settings: dict[str, str], *args: str) -> str:
    return processes.finished(processes.BIN / "adapter-registry", *args, env=settings, check=True).stdout.strip()


def _fill(admin: CommandLine, client: Client, models: ServedModels) -> None:
    for ref, folder in models.adapters.items():
        with suppress(NotFound):
            if client.versions.served_probe(ref) is not None:
                continue
        name, _at, number = ref.partition("@v")
        if int(number) > len(_versions(admin, name)):
            admin.ok("push", str(folder), name, "--base", str(models.base))
        admin.ok("verify", ref, "--probe", "--record", "--base", str(models.base))


def _versions(admin: CommandLine, name: str) -> list[str]:
    return admin.run("versions", name, "--format", "quiet").stdout.split()


class Gateway:
    """`adapterctl serve` while it runs."""

    def __init__(self, url: str, key: str, shelf: Shelf) -> None:
        self.url, self._shelf = url, shelf
        self.http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    async def means(self, model: str) -> str | None:
        """Return the version that a model means now."""
        answer = (await self.http.get(f"models/{model}")).raise_for_status()
        version: str | None = answer.json()["adapterctl"]["version"]
        return version

    async def base(self) -> str:
        """Return the base's model."""
        models = (await self.http.get("models")).raise_for_status().json()["data"]
        return next(str(each["id"]) for each in models if each["id"].startswith("base:"))

    async def move(self, name: str, number: int) -> float:
        """Move an alias in the registry; return the seconds until requests get the version."""
        begun_s = time.monotonic()
        await asyncio.to_thread(self._shelf.client.set_alias, name, ALIAS, number)
        async with asyncio.timeout(900):
            while await self.means(f"{name}@{ALIAS}") != f"{name}@v{number}":
                await asyncio.sleep(0.02)
        return time.monotonic() - begun_s


@contextmanager
def serving(shelf: Shelf, kind: str, out: Path, key: str, name: str) -> Iterator[str]:
    """Run the gateway for one adapter in front of an engine; yield its URL."""
    (out / "key").write_text(key + "\n")
    shelf.client.set_alias(name, ALIAS, 1)
    port, log = processes.free_port(), out / f"serve-{kind}-{name}.log"
    command = ["adapterctl", "serve", f"{name}@{ALIAS}", "--engine", kind]
    command += ["--key-file", str(out / "key"), "--port", str(port)]
    env, url = dict(shelf.gateway.env), f"http://127.0.0.1:{port}/v1"
    server = VllmServer(shelf.small.base, out, options=("--max-lora-rank", RANKS[name])) if kind == VLLM else None
    try:
        if server is not None:
            server.start()
            (out / "shared").mkdir(exist_ok=True)
            command += ["--at", server.url, "--shared", str(out / "shared")]
            env["ADAPTERCTL_ENGINE_KEY"] = server.key
        with processes.running(*command, env=env, log=log) as process:
            wait_until(lambda: process.poll() is not None or url in log.read_text(), log.read_text, 300)
            yield url
    finally:
        if server is not None:
            server.kill()


async def measure(shelf: Shelf, url: str, key: str, name: str) -> dict[str, Any]:
    """Return what happened."""
    gateway, decode = Gateway(url, key, shelf), decoder(shelf.small.base)
    streams = Streams(url, key, shelf.small if name == SMALL else shelf.large, decode)
    try:
        found = await (_many(gateway, streams) if name == SMALL else _fresh(gateway, streams))
        # What is asked last shows whether the engine is alive.
        last, _first_s = await streams.ask(f"{name}@{ALIAS}")
        found["alive"] = last == await gateway.means(f"{name}@{ALIAS}") and not streams.answers.errors
        return found
    finally:
        await asyncio.gather(streams.close(), gateway.http.aclose())


async def _many(gateway: Gateway, streams: Streams) -> dict[str, Any]:
    for number in (2, 1):
        await gateway.move(SMALL, number)
    begun_s, load = time.monotonic(), os.getloadavg()[0]
    streams.begin(f"{SMALL}@{ALIAS}", STREAMS)
    streams.begin(await gateway.base(), 1)
    await streams.answered(STREAMS)
    pointed_s, fresh_s = [], []
    for move in range(MOVES):
        number = 2 - move % 2
        pointed_s.append(await gateway.move(SMALL, number))
        await streams.answered(STREAMS // 4)
    for number in range(3, 3 + FRESH):
        fresh_s.append(await gateway.move(SMALL, number))
        await streams.answered(2, f"{SMALL}@v{number}")
    await streams.end()
    return {
        "many": streams.answers.document(),
        "many_took_s": round(time.monotonic() - begun_s, 1),
        "loaded_moves_s": _shown(pointed_s),
        "fresh_moves_s": _shown(fresh_s),
        "load_many": [load, os.getloadavg()[0]],
    }


async def _fresh(gateway: Gateway, streams: Streams) -> dict[str, Any]:
    load = os.getloadavg()[0]
    streams.begin(f"{LARGE}@{ALIAS}", BESIDE)
    await streams.answered(BESIDE)
    moved_s, first_s, spent_s, busiest_s = [], [], [], []
    for number in range(2, _LARGE_VERSIONS + 1):
        before, at_first = _processor(), dict[int, float]()
        moved_s.append(await gateway.move(LARGE, number))
        version, to_first_s = await streams.ask(
            f"{LARGE}@{ALIAS}",
            on_first=lambda found=at_first: found.update(_processor()),  # type: ignore[misc]
        )
        if version != f"{LARGE}@v{number}":
            raise RuntimeError(f"{version} answers after the move to v{number}")
        first_s.append(moved_s[-1] + to_first_s)
        spent = [now - before.get(pid, 0.0) for pid, now in at_first.items()]
        spent_s.append(sum(spent))
        busiest_s.append(max(spent))
        await streams.answered(BESIDE, f"{LARGE}@v{number}")
    await streams.end()
    return {
        "beside": streams.answers.document(),
        "large_moves_s": _shown(moved_s),
        "large_first_answer_s": _shown(first_s),
        "large_processor_s": _shown(spent_s),
        "large_busiest_process_s": _shown(busiest_s),
        "load_large": [load, os.getloadavg()[0]],
    }


def _processor() -> dict[int, float]:
    """Return the seconds of the processor that this process and those below it have taken."""
    found = {}
    this = psutil.Process()
    for each in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            found[each.pid] = float(times.user + times.system)
    return found


def _shown(seconds: list[float]) -> dict[str, Any]:
    return {"median": round(median(seconds), 3), "all": [round(each, 3) for each in seconds]}


def main() -> None:
    """Measure the engines that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--only", action="append", choices=[SMALL, LARGE], help="one of the two measurements")
    parser.add_argument("kinds", nargs="*", metavar="ENGINE")
    given = parser.parse_intermixed_args()
    out: Path = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    base = (given.base or example("base").make_base(out)).absolute()
    if given.trained is None:
        small = large(base, out, SMALL, 2 + FRESH)
    else:
        small = trained(base, given.trained.absolute(), out, SMALL)
    with shelf(out, small, large(base, out, LARGE, _LARGE_VERSIONS)) as filled:
        for kind, name in itertools.product(given.kinds or [LOCAL, LLAMA_CPP, VLLM], given.only or [SMALL, LARGE]):
            key = secrets.token_hex(16)
            with serving(filled, kind, out, key, name) as url:
                figures = asyncio.run(measure(filled, url, key, name))
            print(json.dumps({"engine": kind, "adapter": name, **figures}), flush=True)


if __name__ == "__main__":
    main()
