"""What one token sends does not keep others waiting; `make soak` does this for half a minute."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.soak import scale
from support.wire import Served, serving

from registry.access.tokens import Tokens
from registry.principal import SYSTEM, Role


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("costs")) as found:
        yield found


def waits_s(served: Served) -> float:
    """How long another client waits for `/healthz`, without the delay that other work on the machine causes."""
    delayed_s = served.delayed_s()
    return served.healthy_s() - (served.delayed_s() - delayed_s)


@pytest.mark.soak
@pytest.mark.parametrize("role", [Role.READER, Role.WRITER])
def test_others_are_answered_beside_requests_that_once_froze_a_server(served: Served, role: Role) -> None:
    token = Tokens(served.database).create(name=f"attacker {role}", grants={"team": role}, who=SYSTEM).secret
    nested, ranges = "(?:(?:(?:(?:){4000}){4000}){4000}){4000}", "0-65535," * 1777 + "1"
    data = "0" * 64
    requests = [
        {"kind": "evaluation", "targets": [{"base": {"id": "b"}}], "data": data, "spec": {"regex": nested}},
        {
            "kind": "evaluation",
            "targets": [{"base": {"id": "b"}}],
            "data": data,
            "spec": {"regex": "a{4000}" * 142},
        },
        {
            "kind": "training",
            "adapter": "a",
            "base": {"id": "b"},
            "data": data,
            "spec": {"layers_to_transform": ranges},
        },
    ]
    wanted = {403} if role is Role.READER else {422}
    ends = threading.Event()

    def attack() -> set[int]:
        seen = set()
        with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
            for request in itertools.cycle(requests):
                if ends.is_set():
                    return seen
                seen.add(http.post("/api/v1/jobs", json={"request": request}).status_code)
        return seen

    with ThreadPoolExecutor(8) as pool:
        attacks = [pool.submit(attack) for _ in range(8)]
        try:
            waited_s = [waits_s(served) for _ in range(scale(600, share=60))]
        finally:
            ends.set()
        assert set().union(*(one.result() for one in attacks)) == wanted
    assert max(waited_s) < 1
