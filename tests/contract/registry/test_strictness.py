"""What is refused: bodies that are wrong, and roles that may not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract.registry.helpers import submission
from support.adapters import base_registration
from support.calls import claim, worker_info
from support.registries import World
from support.stored import names_of

from registry.http.bodies import MAX_BODY_BYTES
from registry.principal import Role
from sdk.errors import NotAllowed
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Completion, Heartbeat, HeartbeatReply


class TestStrictness:
    """Bodies are taken as they are or refused; nothing is coerced, and nothing that is refused is a 500."""

    def training(self, rows: DatasetView, **spec: Any) -> dict[str, Any]:
        request: dict[str, Any] = submission("strict", rows).request.model_dump(mode="json")
        request["spec"] |= spec
        return {"request": request}

    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({"rank": False}, "rank"),
            ({"rank": "8"}, "rank"),
            ({"rank": 8.0}, "rank"),
            ({"rank": 0}, "rank"),
            ({"alpha": "16"}, "alpha"),
            ({"lr": True}, "lr"),
            ({"rnak": 8}, "rnak"),
            ({"targets": ["q_proj"]}, "targets"),
            ({"targets": "q_proj;rm"}, "targets"),
        ],
    )
    def test_values_of_another_type_are_refused_by_name(
        self, world: World, rows: DatasetView, spec: dict[str, Any], param: str
    ) -> None:
        answer = world.http.post("/api/v1/jobs", json=self.training(rows, **spec))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "param"}
        assert error["code"] == "invalid"
        assert error["param"].endswith(f"spec.{param}")

    @pytest.mark.parametrize(
        "text",
        [
            '{"a": NaN}',
            '{"a": Infinity}',
            '{"a": 1e400}',
            '{"a": -1e999}',
            '{"a": 99999999999999999999}',
            '{"a": "x\\u0000y"}',
            '{"\\u0000": 1}',
            '{"a": "\\ud800"}',
            '{"a": ["\\udc00"]}',
            '{"a": 1, "a": 2}',
            '{"a": ' + "[" * 300 + "]" * 300 + "}",
            "[" * 90_000 + "]" * 90_000,
            '{"a": ' + "9" * 5000 + "}",
            '{"a": 1',
            "",
            "null",
            "[]",
            '"x"',
            '{"a": 1} {"b": 2}',
            "{'a': 1}",
        ],
        ids=lambda text: text[:20],
    )
    def test_json_that_means_nothing_is_invalid(self, world: World, text: str) -> None:
        registration = base_registration("free").model_dump_json()
        # In a free dictionary, where no field would refuse it.
        for body in (text, registration.replace('{"model_type":"llama","hidden_size":6}', text or "?")):
            answer = world.http.post("/api/v1/bases", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["code"] == "invalid"

    @pytest.mark.parametrize("body", [b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}'])
    def test_other_encodings_are_invalid(self, world: World, body: bytes) -> None:
        answer = world.http.post("/api/v1/bases", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")

    def test_a_body_that_is_too_large_is_invalid(self, world: World) -> None:
        for path, limit_bytes in (("jobs", MAX_BODY_BYTES), ("bases", 4 * 2**20), ("jobs/x/complete", 4 * 2**20)):
            pieces = [b'{"a": "', *[b"x" * 2**16] * (limit_bytes // 2**16), b'"}']
            within = b"".join(pieces[:-2]) + b'"}'
            answer = world.http.post(f"/api/v1/{path}", content=within, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
            self.is_too_large(world, path, pieces)

    def is_too_large(self, world: World, path: str, pieces: list[bytes]) -> None:
        # With its length declared, and in chunks of a length that nobody knows.
        for content in (b"".join(pieces), iter(pieces)):
            answer = world.http.post(f"/api/v1/{path}", content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
            assert "larger" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        "said",
        [
            None,
            b"",
            b"text/plain",
            b"application/json\xa0",
            b"application/json;charset=utf-16",
            b"application/json; charset=utf-8; charset=latin-1",
            b"application/json, application/json",
            b"application/merge-patch+json",
            b"application/x-www-form-urlencoded",
        ],
        ids=repr,
    )
    def test_a_body_that_is_not_called_json_is_refused(self, world: World, said: bytes | None) -> None:
        headers = [] if said is None else [(b"Content-Type", said)]
        twice = b'{"blobs": [], "blobs": []}'
        answer = world.http.post("/api/v1/uploads", content=twice, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert "Content-Type: application/json" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        "said",
        [
            b"application/json",
            b"Application/JSON",
            b'application/json ; charset="UTF-8"',
            b"application/json;charset=utf-8",
        ],
    )
    def test_json_by_each_of_its_names_is_checked(self, world: World, said: bytes) -> None:
        headers = {b"Content-Type": said}
        answer = world.http.post("/api/v1/uploads", content=b'{"blobs": [], "blobs": []}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        assert "twice" in answer.json()["error"]["message"]
        answer = world.http.post("/api/v1/uploads", content=b'{"blobs": []}', headers=headers)
        assert answer.json()["error"]["param"] == "blobs"

    def test_two_content_types_are_refused(self, guarded: World) -> None:
        headers = [(b"Content-Type", b"application/json"), (b"Content-Type", b"text/plain")]
        answer = guarded.http.post("/api/v1/uploads", content=b'{"blobs": []}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")

    def test_a_body_that_no_route_reads_is_checked_too(self, world: World) -> None:
        answer = world.http.request("DELETE", "/api/v1/bases", content=b"<xml/>")
        assert answer.status_code == 415
        assert world.http.post("/api/v1/jobs/x/cancel", content=b"").status_code == 404

    @pytest.mark.parametrize(
        ("kind", "spec", "said"),
        [
            # 206 bytes that never ended, and 16 KB that took twenty seconds.
            ("evaluation", {"regex": "(?:(?:(?:(?:){4000}){4000}){4000}){4000}"}, "something that can be empty"),
            ("evaluation", {"regex": "(?:(?:(?:a{4000}){4000}){4000}){4000}"}, "repeat counts are too high"),
            ("training", {"layers_to_transform": "0-65535," * 1777 + "1"}, "more than 65536 numbers"),
            ("training", {"trainable_token_indices": "0-65535," * 1777 + "1"}, "more than 65536 numbers"),
            ("training", {"rank_pattern": ",".join(f"m{at}=4" for at in range(2000))}, "more than 1024 modules"),
        ],
        ids=["empty groups", "groups", "layers", "tokens", "ranks"],
    )
    def test_options_that_would_take_long_are_refused_in_little_time(
        self, world: World, rows: DatasetView, kind: str, spec: dict[str, Any], said: str
    ) -> None:
        body = self.training(rows, **spec)
        if kind == "evaluation":
            body = {"request": {"kind": kind, "targets": [{"base": {"id": "tiny"}}], "data": rows.digest, "spec": spec}}
        began = time.process_time()
        answer = world.http.post("/api/v1/jobs", json=body)
        assert time.process_time() - began < 2
        assert answer.status_code == 422
        assert said in answer.json()["error"]["message"]

    @pytest.mark.alone
    @pytest.mark.parametrize("key", ["unknown", "blobs"])
    def test_a_body_with_many_faults_is_refused_in_little_time(self, world: World, key: str) -> None:
        path, values = ("versions", "0,") if key == "unknown" else ("uploads", "{},")
        body = f'{{"{key}": [{(values * 45_000)[:-1]}]}}'
        began = time.monotonic()
        answer = world.http.post(f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert time.monotonic() - began < 3
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        assert len(answer.content) < 2000

    @pytest.mark.parametrize(
        "path",
        [
            "/base?name=%00",
            "/resolve?ref=a%00",
            "/versions?adapter=%00",
            "/adapters?after=%00",
            "/evaluations?digest=%00",
            "/jobs/%00",
            "/jobs/a%00/events",
            "/datasets/%00/file",
            "/manifests/%00/files",
            "/jobs?limit=0",
            "/jobs?limit=999999999999999999999",
            "/jobs?state=lost",
            "/jobs/x/events?after=99999999999999999999",
            "/jobs/x/events?wait_s=nan",
            "/base?name=%ED%A0%80",
            "/base",
        ],
    )
    def test_queries_that_mean_nothing_are_refused(self, world: World, path: str) -> None:
        answer = world.http.get(f"/api/v1{path}")
        assert answer.status_code in (404, 422), answer.text
        assert set(answer.json()["error"]) == {"code", "message", "param"}

    def test_numbers_that_no_column_holds_are_refused(self, world: World, rows: DatasetView) -> None:
        dataset = {"digest": rows.digest, "size_bytes": rows.size_bytes, "format": "jsonl", "upload": "x"}
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/datasets", dataset | {"rows": 2**70}),
            ("/datasets", dataset | {"size_bytes": 2**62}),
            ("/jobs/x/heartbeat", {"attempt": 2**70}),
            ("/jobs/x/fail", {"attempt": 2**40, "reason": "data", "message": ""}),
            ("/uploads", {"blobs": [{"sha256": rows.digest, "size_bytes": 2**63}]}),
            ("/jobs/claim", {"worker": worker_info().model_dump() | {"memory_bytes": 2**64}}),
        ]
        for path, body in bodies:
            answer = world.http.post(f"/api/v1{path}", json=body)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert "error" in answer.json()

    def test_texts_that_no_column_holds_are_refused_or_kept(self, world: World) -> None:
        body = {"worker": worker_info().model_dump() | {"version": "9" * 5000, "kinds": []}}
        # SQLite keeps what PostgreSQL has no room for; neither fails.
        assert world.http.post("/api/v1/jobs/claim", json=body).status_code in (204, 422)

    def test_what_is_not_there_answers_as_an_error_does(self, world: World) -> None:
        for method, path, status in (("GET", "/api/v1/nothing", 404), ("DELETE", "/api/v1/bases", 405)):
            answer = world.http.request(method, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"code", "message", "param"}

    def test_every_answer_says_its_version(self, world: World) -> None:
        for path in ("/healthz", "/readyz", "/api/v1/bases", "/api/v1/nothing"):
            assert world.http.get(path).headers["X-Adapterctl-Version"]
        assert world.http.get("/readyz").json()["status"] == "ready"


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "allowed"),
        [(Role.READER, False), (Role.WRITER, False), (Role.PROMOTER, False), (Role.WORKER, True), (Role.ADMIN, True)],
    )
    def test_only_workers_claim(self, guarded: World, role: Role, allowed: bool) -> None:
        client = guarded.client(role)
        if allowed:
            claim(client, kinds=["merge"])
        else:
            for act in (
                lambda: claim(client),
                lambda: client.call("POST", "/jobs/x/heartbeat", HeartbeatReply, body=Heartbeat(attempt=1)),
                lambda: client.call("POST", "/jobs/x/complete", JobView, body=Completion(attempt=1)),
            ):
                with pytest.raises(NotAllowed, match="role of: admin, worker"):
                    act()
        client.close()

    def test_bytes_stream_past_the_limit_of_bodies(self, http_sqlite: World, tmp_path: Path) -> None:
        big = tmp_path / "big"
        with big.open("wb") as file:
            file.truncate(MAX_BODY_BYTES + 1)
        sha256, size = hash_file(big)
        http_sqlite.writer.uploader.upload({sha256: big}, "uploading")
        storage = http_sqlite.services.artifacts.storage
        (sent,) = names_of(storage, sha256)
        stored = storage.stat(sent)
        assert stored.size_bytes == size

    def test_signed_urls_are_the_only_way_to_bytes(self, guarded: World, adapter: Path, name: str) -> None:
        guarded.admin.bases.register(base_registration())
        version = guarded.writer.push(adapter, name, base="tiny")
        for origin in guarded.writer.versions.locate(version.digest):
            assert origin.url.startswith("http://127.0.0.1:")
            bare, _, query = origin.url.partition("?")
            assert httpx.get(bare).status_code == 403
            other = "00" if query[-2:] != "00" else "11"
            assert httpx.get(f"{bare}?{query[:-2]}{other}").status_code == 403
            assert httpx.get(origin.url).status_code == 200
