"""Attacks by what is recorded: the same bytes published again, with much to say about them."""

from __future__ import annotations

import json

import httpx
from faults.attacks.evil import SPACE, Attack, Evil, Send

from registry.http.bodies import LONGEST_BODY_BYTES
from registry.principal import Role

#: How much is said about a version each time: almost as much as a body may have.
_TRAINING_BYTES = LONGEST_BODY_BYTES - 4096
#: Its bodies are in each other's way: 408, 429 and 503 say so.
_STATUSES = frozenset({200, 201, 408, 429, 503})
#: Versions of the same bytes; each may have records of a few such publications.
_ADAPTERS = 8


def _published_again(evil: Evil) -> Send:
    info = evil.client.get(evil.desk.push("again")).info
    said = {"manifest": info.manifest.model_dump(mode="json"), "lora": info.lora.model_dump(mode="json")}
    bodies = [
        json.dumps({"adapter": f"{SPACE}/again-{number}", **said, "training": {"text": "x" * _TRAINING_BYTES}}).encode()
        for number in range(_ADAPTERS)
    ]

    def send(http: httpx.Client, number: int) -> httpx.Response:
        turn, way = divmod(number, 5)
        adapter = f"{SPACE}/again-{turn % _ADAPTERS}"
        match way:
            case 0:
                headers = {"Content-Type": "application/json"}
                return http.post("/api/v1/versions", content=bodies[turn % _ADAPTERS], headers=headers)
            case 1:
                return http.get("/api/v1/versions", params={"adapter": adapter, "limit": 1000})
            case 2:
                return http.get("/api/v1/search", params={"q": f"name ~ {SPACE}/again*", "limit": 100})
            case 3:
                return http.get("/api/v1/resolve", params={"ref": adapter})
        return http.get("/api/v1/lineage", params={"of": adapter})

    # Those that are asked for are there.
    with httpx.Client(
        base_url=evil.served.url, headers={"Authorization": f"Bearer {evil.tokens[Role.WRITER]}"}, timeout=60
    ) as http:
        for turn in range(_ADAPTERS):
            send(http, 5 * turn).raise_for_status()
    return send


ATTACKS = {"7: the same bytes again, with 4 MiB": Attack(Role.WRITER, _published_again, _STATUSES)}
