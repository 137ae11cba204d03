"""The OpenAPI document is what the registry does: requests made from it, good and bad, are answered as it says."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from support import registries
from support.adapters import base_registration, digest, save_adapter
from support.registries import World
from support.soak import SOAKING, scale

from registry.auth.principal import SYSTEM, Role

#: Requests of a soak that are made from the document.
REQUESTS = 6_000
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
#: Operations that generated clients call by these names.
NAMES = {
    "register_base", "list_bases", "get_base", "resolve_ref", "list_adapters", "publish_version", "list_versions",
    "annotate_version", "archive_version", "restore_version", "delete_version", "release_version", "move_alias",
    "list_aliases", "rollback_alias", "remove_alias", "list_alias_moves", "list_protected", "protect_alias",
    "unprotect_alias", "begin_upload", "locate_files", "register_dataset", "list_datasets", "locate_dataset",
    "remove_dataset", "submit_job", "list_jobs", "get_job", "read_job_events", "cancel_job", "claim_job", "hold_job",
    "complete_job", "fail_job", "list_evaluations", "trace_lineage", "whoami", "create_token", "list_tokens",
    "revoke_token", "get_quota", "set_quota", "list_audit", "get_retention", "set_retention", "clear_retention",
    "collect_garbage", "search_versions", "healthz", "readyz",
}  # fmt: skip
METHODS = ("get", "put", "post", "patch", "delete")


@dataclass
class Seeded:
    """A registry with something of everything, and what its things are called."""

    world: World
    token: str
    #: Field or parameter to values that lead somewhere.
    known: dict[str, list[Any]]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    folder = tmp_path_factory.mktemp("openapi")
    database_url = f"sqlite:///{folder / 'registry.sqlite3'}"
    with registries.served(folder, database_url=database_url, storage_url=(folder / "artifacts").as_uri()) as world:
        yield Seeded(world, world.token(Role.ADMIN), _seed(world, folder))


def _seed(world: World, folder: Path) -> dict[str, list[Any]]:
    client = world.client(Role.ADMIN)
    client.register_base(base_registration())
    adapters = ["code-review", "team/code-review"]
    digests = []
    for name, seed in itertools.product(adapters, range(3)):
        digests.append(client.push(save_adapter(folder / "adapters" / f"{name}-{seed}", seed), name, base="tiny").digest)
    for name in adapters:
        client.set_alias(name, "production", 1)
        client.set_alias(name, "production", 2)
        client.annotate(f"{name}@v1", tags={"language": "python"}, note="noted")
        client.archive(f"{name}@v3")
    client.protect_alias("team/*", "production")
    client.set_quota("team", max_jobs=100_000)
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    data = client.add_data(rows).digest
    jobs = [client.submit_training(name, base="tiny", data=rows, rank=2).id for name in adapters for _ in range(2)]
    client.cancel_job(jobs[0])
    token = world.services.tokens.create(name="ci", grants={"team": Role.READER}, who=SYSTEM)
    client.close()
    refs = [f"{name}@{selector}" for name in adapters for selector in ("v1", "v2", "latest", "production")]
    return {
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


@pytest.fixture(scope="module")
def document(seeded: Seeded) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{seeded.world.url}/openapi.json").raise_for_status().json()
    return found


@pytest.fixture
def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, said) for path, methods in document["paths"].items() for method, said in methods.items()]


Operations = list[tuple[str, str, dict[str, Any]]]


class TestConformance:
    @pytest.mark.soak
    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
    def test_requests_made_from_the_document_are_answered_as_it_says(self, seeded: Seeded, mode: GenerationMode) -> None:
        schema = schemathesis.openapi.from_asgi("/openapi.json", seeded.world.app)
        found = [result.ok() for result in schema.get_all_operations()]
        if mode == GenerationMode.NEGATIVE:
            # Where nothing is given, nothing wrong can be.
            found = [one for one in found if one.query or one.path_parameters or one.headers or one.body]
        each = math.ceil(scale(REQUESTS) / len(found) / len(GenerationMode))
        seen: Counter[tuple[str, int]] = Counter()
        failures = [failure for one in found if (failure := _try(one, mode, each, seeded, seen)) is not None]
        if failures:
            raise ExceptionGroup(f"{len(failures)} of {len(found)} operations are not as documented", failures)
        # An operation that takes few different requests is not asked for more.
        assert seen.total() >= 0.8 * scale(REQUESTS) / len(GenerationMode)
        print("SEEN", sorted(seen.items()))
        statuses = {status for _, status in seen}
        if mode == GenerationMode.POSITIVE:
            assert {200, 201, 204, 404, 422} <= statuses
        else:
            assert {404, 422} <= statuses


def _try(
    operation: schemathesis.APIOperation, mode: GenerationMode, each: int, seeded: Seeded, seen: Counter[tuple[str, int]]
) -> AssertionError | None:
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
        _lead_somewhere(case, data, seeded.known)
        answer = case.call(headers=seeded.headers)
        seen[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=checks)

    try:
        run()
    except AssertionError as failure:
        return failure
    return None


def _lead_somewhere(case: schemathesis.Case, data: st.DataObject, known: dict[str, list[Any]]) -> None:
    """Put things that exist in the place of most that are made up, and let nothing wait."""
    places = [case.path_parameters, case.query, case.body]
    for place in places:
        if isinstance(place, dict):
            for name in sorted(set(place) & set(known)):
                if data.draw(st.integers(0, 3)):
                    place[name] = data.draw(st.sampled_from(known[name]))
    if isinstance(case.query, dict) and "wait_s" in case.query:
        case.query["wait_s"] = 0
