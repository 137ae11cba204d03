"""The process whose costs are measured: it takes orders by line, and answers each size with one line.

It ends in the middle of an order that takes too much; whoever gave it starts another one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from faults.growth.asking import Desk
from faults.growth.measuring import measured
from faults.growth.places import Place, places_of
from faults.growth.planted import PLANTED
from faults.growth.readers import READERS
from faults.growth.states import STATES, encoded
from faults.growth.values import BY_KIND, dumped

from registry.door.limits import MOST_URL_BYTES
from registry.http.bodies import LARGER, MAX_BODY_BYTES
from sdk.errors import AdapterctlError


def most_bytes(place: Place) -> int:
    """How much may be sent there."""
    if place.is_query:
        return MOST_URL_BYTES - 500
    return next((limit.size_bytes for pattern, limit in LARGER if pattern.fullmatch(place.path)), MAX_BODY_BYTES)


#: What only a worker may do.
WORKERS = frozenset(
    {
        "claim_job",
        "hold_job",
        "complete_job",
        "fail_job",
        "release_job",
        "record_checkpoint",
        "append_points",
        "greet",
        "leave",
    }
)


class Bench:
    """Carries out orders."""

    def __init__(self, folder: Path, answer: Callable[[Any], None]) -> None:
        self._folder = folder
        self._answer = answer
        self._desk: Desk | None = None

    @property
    def desk(self) -> Desk:
        """The registry; made when it is first needed."""
        if self._desk is None:
            self._desk = Desk(self._folder / "registry")
            asyncio.run(self._warm(self._desk))
            gc.collect()
            gc.freeze()
        return self._desk

    @staticmethod
    async def _warm(desk: Desk) -> None:
        """What is only made for the first request is not a request's doing."""
        await desk.ask("post", "/api/v1/jobs", body=json.dumps(desk.bodies["submit_job"]).encode())
        await desk.ask("get", "/api/v1/search", query="filter=rank%20%3D%208")

    def places(self) -> list[Place]:
        """Every place of every route, in one order."""
        found = places_of(self.desk.document(), self.desk.bodies, self.desk.variants)
        return sorted(found, key=lambda place: (place.name, place.kind, place.path))

    def carry_out(self, order: dict[str, Any]) -> None:
        """Answer with the costs of an order's sizes, one by one."""
        if "list" in order:
            self._answer([[place.name, place.kind, most_bytes(place)] for place in self.places()])
        elif "place" in order:
            self._fill(order)
        elif "state" in order:
            self._meet(order)
        elif "planted" in order:
            self._do(order)
        else:
            self._read(order)

    def _fill(self, order: dict[str, Any]) -> None:
        place, make = self.places()[order["place"]], BY_KIND[order["kind"]][order["value"]]
        for size_bytes in order["sizes"]:
            value = make(size_bytes)
            body, query = None, ""
            if place.is_query:
                text = value if isinstance(value, str) else dumped(value)
                query = f"{place.keys[0]}={quote(text)}"
            else:
                body = dumped(place.filled(value)).encode(errors="surrogatepass")
            if len(body or query) > 1.5 * most_bytes(place):
                break
            sent = len(body or query)
            as_worker = place.operation in WORKERS
            work = partial(self.desk.ask, place.method, place.path, body=body, query=query, as_worker=as_worker)
            self._answer(asdict(asyncio.run(measured(sent, work))))

    def _meet(self, order: dict[str, Any]) -> None:
        state = STATES[order["state"]]
        request = state.requests[order["request"]]
        for size_bytes in order["sizes"]:
            try:
                name = state.build(self.desk, size_bytes)
            except (AdapterctlError, ValueError):
                # Nobody can put that there.
                break
            body = None if request.body is None else encoded(request.body(name, self.desk.parameters["data"]))
            work = partial(self.desk.ask, request.method, request.path, body=body, query=request.query(name))
            self._answer(asdict(asyncio.run(measured(size_bytes, work))))

    def _do(self, order: dict[str, Any]) -> None:
        planted = PLANTED[order["planted"]]
        for size_bytes in order["sizes"]:

            async def work() -> int:
                await asyncio.to_thread(planted, size_bytes)  # noqa: B023
                return 200

            self._answer(asdict(asyncio.run(measured(size_bytes, work))))

    def _read(self, order: dict[str, Any]) -> None:
        reader = READERS[order["reader"]]
        make = reader.files[order["value"]]
        for size_bytes in order["sizes"]:
            path = self._folder / f"file{reader.suffix}"
            path.unlink(missing_ok=True)
            make(path, size_bytes)

            async def work() -> int:
                return await asyncio.to_thread(reader.read, path)  # noqa: B023

            self._answer(asdict(asyncio.run(measured(reader.size_of(path), work))))


def main() -> None:
    """Carry out orders until there are no more."""

    def answer(said: Any) -> None:
        print(json.dumps(said), flush=True)

    bench = Bench(Path(sys.argv[1]), answer)
    try:
        for line in sys.stdin:
            bench.carry_out(json.loads(line))
            answer(None)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # The registry's server has threads that would keep this process alive.
        os._exit(sys.exc_info()[0] is not None)


if __name__ == "__main__":
    main()
