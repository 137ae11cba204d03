"""The proxy does what its plans say, and lets through what they don't speak of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest
from faults.plans import READING, SENDING, Fault, Head, Plan, Script, Strike
from faults.proxy import FaultProxy
from support.answering import Handler, answering

BODY = bytes(range(256)) * 400
ETAG = '"whole"'


class Store(Handler):
    """Answers one body to every GET, with ranges, and keeps what is PUT."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]
    hosts: set[str]

    def do_GET(self) -> None:
        """Answer."""
        self.hosts.add(self.headers["Host"])
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.answer(206 if "Range" in self.headers else 200, BODY[first:], ETag=ETAG)

    def do_PUT(self) -> None:
        """Keep a whole body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) < int(self.headers["Content-Length"]):
            self.close_connection = True
            return
        self.kept[self.path] = body
        self.answer(200)


@pytest.fixture
def store() -> type[Store]:
    return type("EmptyStore", (Store,), {"kept": {}, "hosts": set()})


@pytest.fixture
def proxy(store: type[Store]) -> Iterator[FaultProxy]:
    with answering(store) as server, FaultProxy() as proxy:
        proxy.upstream = ("127.0.0.1", server.server_port)
        yield proxy


@pytest.fixture
def http_client(proxy: FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        yield client


def test_without_a_plan_all_passes_unchanged(proxy: FaultProxy, store: type[Store], http_client: httpx.Client) -> None:
    for _ in range(3):
        assert http_client.get("/x").content == BODY
        assert http_client.put("/y?sig=1", content=BODY).status_code == 200
    assert store.kept == {"/y?sig=1": BODY}
    # The signature covers the host by which the client knows the store.
    assert store.hosts == {proxy.url.removeprefix("http://")}
    assert [head.target for head in proxy.requests] == ["/x", "/y?sig=1"] * 3


def once(proxy: FaultProxy, fault: Fault, method: str, **more: float) -> None:
    proxy.plan = Script([Strike(fault, **more)], method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", [0, 1])
def test_a_cut_answer_is_no_answer(proxy: FaultProxy, http_client: httpx.Client, variant: int) -> None:
    once(proxy, Fault.CUT_RESPONSE, "GET", at=0.3, variant=variant)
    with pytest.raises(httpx.HTTPError):
        http_client.get("/x")
    assert http_client.get("/x").content == BODY


def test_a_truncated_answer_says_that_it_is_whole(proxy: FaultProxy, http_client: httpx.Client) -> None:
    once(proxy, Fault.TRUNCATED, "GET", at=0.25)
    answer = http_client.get("/x")
    assert answer.status_code == 200
    assert answer.content == BODY[: len(BODY) // 4]
    assert http_client.get("/x").content == BODY


def test_a_corrupt_answer_differs_in_one_bit(proxy: FaultProxy, http_client: httpx.Client) -> None:
    once(proxy, Fault.CORRUPT_RESPONSE, "GET", at=0.999, variant=3)
    found = http_client.get("/x").content
    at = int(len(BODY) * 0.999)
    assert found == BODY[:at] + bytes([BODY[at] ^ 8]) + BODY[at + 1 :]


def test_a_corrupt_request_reaches_the_store_with_one_bit_changed(
    proxy: FaultProxy, store: type[Store], http_client: httpx.Client
) -> None:
    once(proxy, Fault.CORRUPT_REQUEST, "PUT", at=0.0, variant=7)
    assert http_client.put("/y", content=BODY).status_code == 200
    assert store.kept["/y"] == bytes([BODY[0] ^ 128]) + BODY[1:]


def test_a_cut_request_is_not_stored(proxy: FaultProxy, store: type[Store], http_client: httpx.Client) -> None:
    once(proxy, Fault.CUT_REQUEST, "PUT", at=0.7)
    with pytest.raises(httpx.HTTPError):
        http_client.put("/y", content=BODY)
    assert store.kept == {}


def test_a_swallowed_answer_leaves_the_bytes_stored(
    proxy: FaultProxy, store: type[Store], http_client: httpx.Client
) -> None:
    once(proxy, Fault.SWALLOWED, "PUT")
    with pytest.raises(httpx.HTTPError):
        http_client.put("/y", content=BODY)
    assert store.kept["/y"] == BODY


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize(("fault", "status"), [(Fault.UNAVAILABLE, 503), (Fault.EXPIRED, 403)])
def test_refusals_never_reach_the_store(
    proxy: FaultProxy, store: type[Store], http_client: httpx.Client, fault: Fault, status: int, variant: int
) -> None:
    once(proxy, fault, "GET", variant=variant)
    assert http_client.get("/x").status_code == status
    assert http_client.get("/x").content == BODY
    once(proxy, fault, "PUT", variant=0)
    assert http_client.put("/y", content=BODY).status_code == status
    assert store.kept == {}


def test_a_replaced_object_has_another_etag_and_other_bytes_and_comes_back(
    proxy: FaultProxy, http_client: httpx.Client
) -> None:
    once(proxy, Fault.REPLACED, "GET", variant=1)
    other = http_client.get("/x")
    assert hashlib.sha256(other.content).digest() != hashlib.sha256(BODY).digest()
    assert other.headers["etag"] != ETAG
    assert http_client.get("/x", headers={"Range": "bytes=5-", "If-Match": ETAG}).status_code == 412
    back = http_client.get("/x", headers={"Range": "bytes=5-", "If-Match": ETAG})
    assert (back.status_code, back.content) == (206, BODY[5:])


def test_a_plan_is_the_same_for_the_same_seed_ends_and_knows_every_fault() -> None:
    heads = [Head(b"", (method, "/x", "HTTP/1.1"), {}) for method in ("GET", "PUT")]

    def drawn(seed: int) -> list[Strike | None]:
        plan = Plan(seed)
        return [plan.draw(heads[number % 2]) for number in range(200)]

    assert drawn(5) == drawn(5)
    plans = [drawn(seed) for seed in range(60)]
    assert max(sum(strike is not None for strike in plan) for plan in plans) <= 8
    assert {strike.kind for plan in plans for strike in plan if strike} == {*READING, *SENDING} == set(Fault)
