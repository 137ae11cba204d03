"""The OpenAPI document is what the registry does: requests made from it, good and bad, are answered as it says."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup
from support import registries
from support.adapters import base_registration, digest, save_adapter
from support.openapi_promises import broken
from support.registries import World
from support.schemas import ASSETS
from support.soak import SOAKING, scale

from registry.principal import SYSTEM, Role
from sdk.schemas.catalog import Publication
from sdk.schemas.work import Assignment, ClaimRequest

#: Requests of a soak that are made from the document.
REQUESTS = 6_400
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
#: Operations that generated clients call by these names.
NAMES = {
    "register_base", "list_bases", "get_base", "resolve_ref", "list_adapters", "publish_version", "list_versions",
    "annotate_version", "get_norms", "archive_version", "restore_version", "delete_version", "release_version", "move_alias",
    "list_aliases", "rollback_alias", "remove_alias", "list_alias_moves", "list_protected", "protect_alias",
    "unprotect_alias", "begin_upload", "ask_parts", "locate_files", "register_dataset", "list_datasets", "get_dataset", "locate_dataset",
    "remove_dataset", "submit_job", "list_jobs", "get_job", "read_job_events", "cancel_job", "claim_job", "hold_job",
    "complete_job", "fail_job", "list_evaluations", "trace_lineage", "whoami", "create_token", "list_tokens",
    "revoke_token", "revoke_namespace", "get_quota", "set_quota", "list_audit", "get_retention", "set_retention", "clear_retention",
    "collect_garbage", "search_versions", "sign_manifest", "list_signatures", "healthz", "readyz", "stream_job_events", "read_metrics",
}  # fmt: skip
#: Keys of requests that no other has.
KEYS = itertools.count()
METHODS = ("get", "put", "post", "patch", "delete")


@dataclass
class Seeded:
    """A registry with something of everything, and what its things are called."""

    world: World
    token: str
    #: Field or parameter to values that lead somewhere.
    known: dict[str, list[Any]]
    #: Operation to bodies that lead somewhere.
    bodies: dict[str, list[Any]]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    folder = tmp_path_factory.mktemp("openapi")
    # Every route is asked with wrong tokens.
    limits = {"failed_logins_per_minute": 100_000, "allowed_hosts": "testserver,localhost"}
    with registries.served(folder, **limits) as world:
        yield _seed(world, folder)


def _seed(world: World, folder: Path) -> Seeded:
    client = world.client(Role.ADMIN)
    client.bases.register(base_registration())
    adapters = ["code-review", "team/code-review"]
    digests, publications = [], []
    for name, seed in itertools.product(adapters, range(3)):
        version = client.push(save_adapter(folder / "adapters" / f"{name}-{seed}", seed), name, base="tiny")
        digests.append(version.digest)
        said = {"adapter": "team/again", "manifest": version.info.manifest, "lora": version.info.lora}
        publications.append(Publication.model_validate(said).model_dump(mode="json"))
    for name in adapters:
        client.set_alias(name, "production", 1)
        client.set_alias(name, "production", 2)
        client.versions.annotate(f"{name}@v1", tags={"language": "python"}, note="noted")
        client.versions.archive(f"{name}@v3")
    client.aliases.protect("team/*", "production")
    client.quotas.set("team", max_jobs=100_000)
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    data = client.datasets.add(rows).digest
    jobs = [client.submit_training(name, base="tiny", data=rows, rank=2).id for name in adapters for _ in range(2)]
    client.jobs.cancel(jobs[0])
    worker = {"name": "w1", "device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**34}
    claimed = client.call("POST", "/jobs/claim", Assignment, body=ClaimRequest.model_validate({"worker": worker}))
    training = {"kind": "training", "adapter": "code-review", "base": {"id": "tiny"}, "data": data}
    token = world.services.tokens.create(name="ci", grants={"team": Role.READER}, who=SYSTEM)
    client.close()
    refs = [f"{name}@{selector}" for name in adapters for selector in ("v1", "v2", "latest", "production")]
    known = {
        "adapter": adapters,
        "alias": ["production", "staging"],
        "base": ["tiny", digest("tiny: base")],
        "data": [data],
        "digest": [*digests, data],
        "job": jobs,
        "job_id": jobs,
        "name": ["tiny", digest("tiny: base")],
        "namespace": ["team", "-"],
        "number": [1, 2],
        "of": [*refs, "base:tiny", f"data:{data}"],
        "ref": refs,
        "scope": ["*", "team/*", *adapters],
        "token_id": [token.id],
    }
    bodies = {
        "publish_version": publications,
        "submit_job": [{"request": training}, {"request": {"kind": "merge", "ref": "code-review@v1"}}],
        "claim_job": [{"worker": worker}],
        "hold_job": [{"attempt": claimed.attempt}],
    }
    return Seeded(world, world.token(Role.ADMIN), known, bodies)


@pytest.fixture(scope="module")
def document(seeded: Seeded) -> dict[str, Any]:
    return httpx.get(f"{seeded.world.url}/openapi.json", timeout=60).raise_for_status().json()


@pytest.fixture
def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, said) for path, methods in document["paths"].items() for method, said in methods.items()]


Operations = list[tuple[str, str, dict[str, Any]]]


class TestDocument:
    def test_every_operation_says_what_it_does_and_how_it_fails(self, operations: Operations) -> None:
        for path, method, said in operations:
            where = f"{method} {path}"
            assert said["summary"], where
            assert said["description"], where
            for status, answer in said["responses"].items():
                assert answer["description"], (where, status)
                assert "X-Adapterctl-Version" in answer["headers"], (where, status)
            if path.startswith("/api/v1/"):
                assert said["security"] == [{"HTTPBearer": []}], where
                assert said["tags"], where
                for status in ("401", "403", "404", "409", "413", "422", "429", "500", "503"):
                    schema = said["responses"][status]["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorReply"}, (where, status)
                assert "WWW-Authenticate" in said["responses"]["401"]["headers"]
                assert "Retry-After" in said["responses"]["429"]["headers"]

    def test_names_are_unique_and_stay(self, operations: Operations) -> None:
        names = [said["operationId"] for _, _, said in operations]
        assert len(set(names)) == len(names)
        assert set(names) >= NAMES
        assert all(name.isidentifier() and name == name.lower() for name in names)

    def test_tags_are_explained_and_used(self, document: dict[str, Any], operations: Operations) -> None:
        used = {tag for _, _, said in operations for tag in said["tags"]}
        assert used == {tag["name"] for tag in document["tags"]}

    def test_bodies_have_examples_that_are_valid_and_understood(
        self, seeded: Seeded, document: dict[str, Any], operations: Operations
    ) -> None:
        with httpx.Client(base_url=seeded.world.url, headers=seeded.headers) as http:
            for path, method, said in operations:
                if "requestBody" not in said:
                    continue
                content = said["requestBody"]["content"]["application/json"]
                rules = {**content["schema"], "components": document["components"]}
                jsonschema_rs.validator_for(rules).validate(content["example"])
                parameters = {one["name"]: _example_of(one) for one in said.get("parameters", [])}
                target = path.format(**parameters)
                query = {
                    one["name"]: parameters[one["name"]] for one in said.get("parameters", []) if one["in"] == "query"
                }
                answer = http.request(method, target, params=query, json=content["example"])
                # What it names may not be there; that it is not a request at all is another thing.
                understood = answer.is_success or answer.json()["error"]["code"] in (
                    "not_found",
                    "conflict",
                    "stale_attempt",
                )
                assert understood, (path, answer.text)

    def test_parameters_have_examples_or_rules(self, operations: Operations) -> None:
        for path, method, said in operations:
            for parameter in said.get("parameters", []):
                where = (method, path, parameter["name"])
                if parameter["in"] == "path" or parameter.get("required"):
                    assert _example_of(parameter) is not None, where
                assert (
                    parameter.get("description")
                    or _example_of(parameter) is not None
                    or "default" in parameter["schema"]
                )

    def test_fields_are_described_by_their_comments(self, document: dict[str, Any]) -> None:
        schemas = document["components"]["schemas"]
        assert schemas["Publication"]["properties"]["upload"]["description"].startswith(
            "The session in which its files"
        )
        # Of a class above it, and over two lines.
        assert schemas["AliasMove"]["properties"]["expect"]["description"].endswith("nothing is done; None: any.")
        assert schemas["Publication"]["properties"]["method"]["description"].endswith('"unknown" without one.')
        assert "next" in schemas["Page_VersionView_"]["properties"]
        assert schemas["Page_VersionView_"]["properties"]["next"]["description"].startswith(
            "Where the next page begins"
        )

    def test_keys_are_documented_where_they_are_taken(self, operations: Operations) -> None:
        for path, method, said in operations:
            names = {parameter["name"].lower() for parameter in said.get("parameters", [])}
            takes = said["operationId"] in ("submit_job", "submit_sweep", "retry_job", "claim_job", "create_token")
            assert ("idempotency-key" in names) == takes, (method, path)


class TestPromises:
    @pytest.mark.parametrize(
        "kept", [None, *sorted(ASSETS.glob("openapi_*.json"))], ids=lambda kept: kept and kept.stem
    )
    def test_nothing_that_clients_rely_on_is_gone(self, document: dict[str, Any], kept: Path | None) -> None:
        earlier = document if kept is None else json.loads(kept.read_bytes())
        assert broken(earlier, document) == []

    def test_what_is_gone_or_newly_needed_is_named(self, document: dict[str, Any]) -> None:
        later = copy.deepcopy(document)
        del later["paths"]["/api/v1/jobs/{job_id}/cancel"]
        parameters = later["paths"]["/api/v1/jobs"]["get"]["parameters"]
        parameters[:] = [one for one in parameters if one["name"] != "state"]
        parameters.append({"in": "query", "name": "why", "required": True, "schema": {}})
        submission = later["components"]["schemas"]["JobSubmission"]
        del submission["properties"]["priority"]
        submission["required"] = [*submission["required"], "needs"]
        assert broken(document, later) == [
            "get /api/v1/jobs takes no state",
            "get /api/v1/jobs needs why",
            "post /api/v1/jobs/{job_id}/cancel is gone",
            "JobSubmission has no priority",
            "JobSubmission needs needs",
        ]
        assert broken(later, later) == []


def _example_of(parameter: dict[str, Any]) -> Any:
    if "examples" in parameter:
        return next(iter(parameter["examples"].values()))["value"]
    return parameter.get("example", (parameter["schema"].get("examples") or [None])[0])


class TestDoor:
    def test_no_token_and_a_wrong_one_open_nothing(self, seeded: Seeded, operations: Operations) -> None:
        revoked = seeded.world.services.tokens.create(name="gone", grants={"*": Role.ADMIN}, who=SYSTEM)
        seeded.world.services.tokens.revoke(revoked.id, who=SYSTEM)
        given = [None, "Bearer wrong", "Bearer", f"Basic {seeded.token}", seeded.token, f"Bearer {revoked.secret}"]
        with httpx.Client(base_url=seeded.world.url) as http:
            for path, method, said in operations:
                target = path.replace("{", "").replace("}", "")
                for authorization in given:
                    headers = {} if authorization is None else {"Authorization": authorization}
                    answer = http.request(method, target, headers=headers, json={} if "requestBody" in said else None)
                    if path.startswith("/api/v1/") or path == "/metrics":
                        assert answer.status_code == 401, (method, path, authorization)
                        assert answer.headers["www-authenticate"] == "Bearer"
                        assert answer.json()["error"]["code"] == "unauthenticated"
                    else:
                        assert answer.status_code == 200

    def test_other_methods_are_answered_with_those_that_there_are(
        self, seeded: Seeded, document: dict[str, Any]
    ) -> None:
        with httpx.Client(base_url=seeded.world.url, headers=seeded.headers) as http:
            for path, methods in document["paths"].items():
                for method in set(METHODS) - set(methods):
                    answer = http.request(method, path.replace("{", "").replace("}", ""))
                    if answer.status_code == 405:
                        allowed = {one.strip().lower() for one in answer.headers["allow"].split(",")}
                        assert allowed >= set(methods), (method, path)
                        assert method not in allowed, (method, path)
                    else:
                        # Another route's path may be read as this one's.
                        assert answer.status_code == 404, (method, path, answer.status_code)
                    assert set(answer.json()) == {"error"}, (method, path)


class TestConformance:
    @pytest.mark.soak
    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
    def test_requests_made_from_the_document_are_answered_as_it_says(
        self, seeded: Seeded, mode: GenerationMode
    ) -> None:
        schema = schemathesis.openapi.from_asgi("/openapi.json", seeded.world.app)
        # Parameters that no route has are passed over, and who sends a request is another test's matter.
        schema.config.generation.allow_extra_parameters = False
        schema.config.generation.with_security_parameters = False
        found = [result.ok() for result in schema.get_all_operations()]
        if mode == GenerationMode.NEGATIVE:
            # Where nothing is given, nothing wrong can be.
            found = [one for one in found if one.query or one.path_parameters or one.headers or one.body]
        each = math.ceil(scale(REQUESTS) / len(found) / len(GenerationMode))
        seen: Counter[tuple[str, int]] = Counter()
        failures = [failure for one in found if (failure := _try(one, mode, each, seeded, seen)) is not None]
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} of {len(found)} operations are not as documented", failures)
        # An operation that takes few different requests is not asked for more.
        assert seen.total() >= 0.8 * scale(REQUESTS) / len(GenerationMode)
        statuses = {status for _, status in seen}
        if mode == GenerationMode.POSITIVE:
            assert {200, 201, 204, 404, 422} <= statuses
        else:
            assert 422 in statuses


def _try(
    operation: schemathesis.APIOperation,
    mode: GenerationMode,
    each: int,
    seeded: Seeded,
    seen: Counter[tuple[str, int]],
) -> FailureGroup | None:
    """Send so many requests of an operation; return what is wrong with the answers."""
    checks = list(CHECKS.get_by_names(CHECKED))

    @settings(
        max_examples=each,
        deadline=None,
        database=None,
        derandomize=not SOAKING,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def run(case: schemathesis.Case, data: st.DataObject) -> None:
        _let_nothing_wait(case)
        if mode == GenerationMode.POSITIVE:
            _lead_somewhere(case, data, seeded)
        answer = case.call(headers=seeded.headers)
        seen[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=checks)

    try:
        run()
    except FailureGroup as failures:
        return failures
    return None


def _let_nothing_wait(case: schemathesis.Case) -> None:
    if isinstance(case.query, dict) and case.query.get("wait_s"):
        case.query["wait_s"] = 0.01 if isinstance(case.query["wait_s"], (int, float)) else case.query["wait_s"]
    if case.operation.definition.raw["operationId"] == "stream_job_events" and isinstance(case.query, dict):
        given = case.query.get("for_s", 0.01)
        if given is None or isinstance(given, (int, float)):
            case.query["for_s"] = min(given or 0.01, 0.01)


def _lead_somewhere(case: schemathesis.Case, data: st.DataObject, seeded: Seeded) -> None:
    """Put things that exist in the place of most that are made up."""
    bodies = seeded.bodies.get(case.operation.definition.raw["operationId"])
    if bodies and data.draw(st.booleans()):
        case.body = copy.deepcopy(data.draw(st.sampled_from(bodies)))
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict):
            for name in sorted(set(place) & set(seeded.known)):
                if data.draw(st.integers(0, 3)):
                    place[name] = data.draw(st.sampled_from(seeded.known[name]))
    if case.headers and "Idempotency-Key" in case.headers and data.draw(st.booleans()):
        # Simple keys come again and again, and answer nothing but that.
        case.headers["Idempotency-Key"] = f"{next(KEYS)}"
