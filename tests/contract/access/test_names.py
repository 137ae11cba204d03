"""What people may learn of names that are not theirs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract.access.helpers import SOON_S
from support.people import bare_http, new_adapter, package, training
from support.registries import World

from registry.errors import Conflict
from registry.principal import LOCAL, SYSTEM, Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed, Unauthenticated
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget, MergeRequest
from sdk.schemas.jobs import JobSubmission


@dataclass
class Hidden:
    """What is asked about in a namespace that the caller may not see."""

    space: str
    publication: Publication
    data: str

    @property
    def name(self) -> str:
        """The adapter that is or is not there."""
        return f"{self.space}/secret"

    def requests(self) -> list[tuple[str, str, dict[str, str], Any]]:
        """Method, path, query and body of everything that names it."""
        name, ref = self.name, f"{self.name}@v1"
        alias = {"adapter": name, "alias": "production", "expect": None, "reason": ""}
        move = {"ref": ref, "reason": ""}
        jobs = [
            training(name, self.data),
            JobSubmission(request=MergeRequest(ref=ref)),
            JobSubmission(request=EvaluationRequest(targets=[EvaluationTarget(ref=ref)], data=self.data)),
        ]
        published = self.publication.model_copy(update={"adapter": name})
        return [
            *[("GET", "/resolve", {"ref": found}, None) for found in (ref, name, f"{name}@production")],
            ("GET", "/resolve", {"ref": f"{name}@sha256:{self.publication.manifest.digest}"}, None),
            *[("GET", path, {"adapter": name}, None) for path in ("/versions", "/aliases", "/aliases/history")],
            ("GET", "/retention", {"adapter": name}, None),
            ("GET", "/adapters", {"namespace": self.space}, None),
            ("GET", "/adapters", {"prefix": name}, None),
            ("GET", "/aliases/protected", {}, None),
            ("GET", "/quotas", {"namespace": self.space}, None),
            ("GET", f"/manifests/{self.publication.manifest.digest}/files", {}, None),
            ("GET", "/evaluations", {"digest": self.publication.manifest.digest}, None),
            ("PUT", "/aliases", {}, {**alias, "number": 1}),
            ("POST", "/aliases/rollback", {}, {**alias, "expect": 1}),
            ("POST", "/aliases/remove", {}, alias),
            *[("POST", f"/aliases/{verb}", {}, {"scope": name, "alias": "beta"}) for verb in ("protect", "unprotect")],
            *[("POST", f"/version/{verb}", {}, move) for verb in ("archive", "restore", "delete", "release")],
            ("PATCH", "/version", {}, {"ref": ref, "note": "x"}),
            ("POST", "/versions", {}, published.model_dump(mode="json")),
            *[("POST", "/jobs", {}, job.model_dump(mode="json")) for job in jobs],
            ("PUT", "/quotas", {"namespace": self.space}, {"max_jobs": 3}),
            ("POST", "/tokens", {}, {"name": "x", "grants": [{"namespace": self.space, "role": "reader"}]}),
        ]

    def ask(self, http: httpx.Client) -> list[tuple[str, int, bytes]]:
        """Send all of them; return what came back."""
        answers = []
        for method, path, query, body in self.requests():
            answer = http.request(method, f"/api/v1{path}", params=query, json=body)
            answers.append((f"{method} {path} {json.dumps(query)}", answer.status_code, answer.content))
        return answers


@pytest.mark.parametrize("role", list(Role))
def test_nobody_learns_whether_a_name_that_they_may_not_see_is_taken(
    people: World, admin: Client, space: str, tmp_path: Path, rows: Path, role: Role
) -> None:
    """The answer before a foreign adapter is made and the one after are the same, byte for byte."""
    data = admin.datasets.add(rows, namespace=space).digest
    folder = new_adapter(tmp_path)
    secret = Hidden(f"x-{space}", package(folder, tmp_path, "a"), data)
    made = people.services.tokens.create(name="spy", grants={space: role}, who=LOCAL)
    with bare_http(people.url, made.secret) as spy:
        before = secret.ask(spy)
        admin.push(folder, secret.name, base="tiny")
        admin.set_alias(secret.name, "production", 1)
        admin.aliases.protect(secret.name, "beta")
        admin.quotas.set(secret.space, max_jobs=5)
        after = secret.ask(spy)
    assert before == after
    for asked, status, body in before:
        expected = (404, 403) if "/adapters" not in asked and "evaluations" not in asked else (200,)
        if asked.startswith("GET /aliases/protected"):
            expected = (200,)
        assert status in expected, (asked, body)
    assert admin.get(secret.name).info.aliases == ["production"]
    assert admin.get(secret.name).info.digest == secret.publication.manifest.digest


class TestNames:
    """Over HTTP and on both databases; what else holds of names is in `unit/registry/test_token_names.py`."""

    def test_of_many_that_take_a_name_at_once_one_has_it(self, people: World, space: str) -> None:
        def take(number: int) -> bool:
            try:
                grants = {space: Role.READER, f"{space}-{number}": Role.READER}
                people.services.tokens.create(name="mine", grants=grants, who=SYSTEM)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(16))) == 1

    def test_one_that_can_not_be_seen_is_refused_by_its_field(self, admin: Client, space: str) -> None:
        for name in ("ci\u202e", " ci", "registry", "n" * 101):
            with pytest.raises(InvalidInput) as caught:
                admin.tokens.create(name, {space: "reader"})
            assert caught.value.param == "name"

    def test_a_namespace_is_shut_within_a_second(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer, guest = acting(**{space: Role.WRITER}), acting(**{space: Role.READER, f"{space}-2": Role.READER})
        for client in (writer, guest):
            client.tokens.whoami()
        done = admin.tokens.revoke_namespace(space)
        assert [one.revoked for one in done.lost] == [True, False]
        time.sleep(SOON_S)
        with pytest.raises(Unauthenticated):
            writer.tokens.whoami()
        assert [grant.namespace for grant in guest.tokens.whoami().grants] == [f"{space}-2"]
        with pytest.raises(NotAllowed):
            guest.tokens.revoke_namespace(space)
