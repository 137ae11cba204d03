"""What these tests share: a namespace with people in it, over the services of a registry, without HTTP in between."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session
from support import calls
from support.payloads import make_payload
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, report_of, write_file

from registry.access.models import AuditEntry
from registry.app.services import Services
from registry.catalog.models import Adapter
from registry.datasets.signatures import SignedDatasets
from registry.principal import LOCAL, Principal, Role
from registry.promotion.gate import Gate
from registry.promotion.question import Bench, RuleFamily
from registry.promotion.rules.known import FAMILIES
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback, AliasView
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration, UploadView
from sdk.schemas.evaluation import EvaluationSpec, RowScore
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.policies import PolicyDocument, PolicySetting, PolicyView
from sdk.schemas.work import Assignment, ClaimRequest, Completion, Failure

#: How many rows each dataset has.
ROWS = 24
SPEC = EvaluationSpec(generate_rows=0)
#: The names of all who have a role in a namespace.
STAFF: Mapping[str, Role] = {
    "boss": Role.ADMIN,
    "ann": Role.PROMOTER,
    "ben": Role.PROMOTER,
    "cat": Role.PROMOTER,
    "will": Role.WRITER,
    "bot": Role.WORKER,
}
_SPACES = itertools.count(1)


def floor(data: str, most_loss: float = 1.0, **said: Any) -> dict[str, Any]:
    """What a policy says that asks for a loss on some rows."""
    rule = {
        "data": data,
        "min_rows": 20,
        "evaluation": SPEC.model_dump(mode="json"),
        "metrics": {"loss": {"at_most": most_loss, "point": True}},
    }
    return {"require": [rule], **said}


def gate_of(services: Services, families: Mapping[str, RuleFamily], **given: Any) -> Gate:
    """A gate that asks further families of rules as well."""
    signed = SignedDatasets(services.db, services.artifacts, services.reading)
    bench = Bench(services.db, services.artifacts, services.evaluation_rows, services.reading, signed)
    return Gate(services.db, bench, families={**FAMILIES, **families}, **given)


class _Secrets(dict[str, str]):
    """Secrets by name; who is on the staff gets a token when somebody first asks for it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.secrets)
        self._scene = scene

    def __missing__(self, name: str) -> str:
        if name not in STAFF:
            raise KeyError(name)
        self._scene.hire(name, STAFF[name])
        return self[name]


@dataclass
class Scene:
    """A namespace, with secrets by name."""

    world: World
    folder: Path
    space: str = field(default_factory=lambda: f"scene{next(_SPACES)}")
    secrets: dict[str, str] = field(default_factory=dict)
    #: Another gate than that of the services.
    gate: Gate | None = None
    services: Services = field(init=False)

    def __post_init__(self) -> None:
        self.services = self.world.services
        self.gate = self.gate or self.services.gate
        self.folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.secrets, _Secrets):
            self.secrets = _Secrets(self)

    # People.

    def hire(self, name: str, role: Role) -> str:
        """Give somebody a token; return its id."""
        made = self.services.tokens.create(name=f"{self.space} {name}", grants={self.space: role}, who=LOCAL)
        self.secrets[name] = made.secret
        return made.id

    def fire(self, name: str) -> None:
        """Revoke somebody's token."""
        token = self.who(name).token_id
        assert token is not None
        self.services.tokens.revoke(token, who=LOCAL)

    def role_of(self, name: str) -> Role | None:
        """The role that somebody has in the namespace."""
        return self.who(name).grants.get(self.space)

    def who(self, name: str) -> Principal:
        """Whoever has this name, as a request by them is understood. Raises Unauthenticated."""
        return LOCAL if name == "root" else self.services.tokens.check(self.secrets[name])

    # Versions, rows and scores.

    def adapter(self, name: str = "a") -> str:
        return f"{self.space}/{name}"

    def publish(self, name: str = "a", *, by: str = "will", seed: int | None = None, **said: Any) -> int:
        """Publish an adapter whose bytes nobody has, or all that were made from the same seed; return its number."""
        payload = make_payload(next(SEEDS) if seed is None else seed)
        sent = self._send(payload.files, by, payload.blobs)
        publication = payload.publication(self.adapter(name), sent.id, **said)
        published = self.services.publisher.publish(publication=publication, who=self.who(by))
        return published.version.number or 0

    def rows(self, *, by: str = "will", count: int = ROWS) -> str:
        """Add rows that nobody trains on; return their digest."""
        seed = next(SEEDS)
        lines = (json.dumps({"prompt": f"{seed} {n}", "completion": "c"}) + "\n" for n in range(count))
        content = "".join(lines).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        sent = self._send({sha256: content}, by, [BlobSpec(sha256=sha256, size_bytes=len(content))])
        registration = DatasetRegistration(
            digest=sha256,
            size_bytes=len(content),
            format="jsonl",
            rows=count,
            shape="prompt-completion",
            upload=sent.id,
            namespace=self.space,
            name=f"rows-{seed}",
        )
        return self.services.datasets.register(dataset=registration, who=self.who(by)).digest

    def ask_for_scores(
        self, number: int, data: str, name: str = "a", *, by: str = "will", spec: EvaluationSpec = SPEC
    ) -> JobView:
        """Ask for the scores of a version."""
        request = EvaluationRequest(
            targets=[EvaluationTarget(ref=f"{self.adapter(name)}@v{number}")],
            data=data,
            only=True,
            spec=spec,
            again=True,
        )
        return self.services.jobs.submit(submission=JobSubmission(request=request), who=self.who(by))

    def claim(self) -> Assignment | None:
        """Take the next job."""
        return self.services.claims.claim(claim=self.wants(), who=self.who("bot"))

    def wants(self, *, hint: str | None = None) -> ClaimRequest:
        """What a worker asks with."""
        return ClaimRequest(worker=calls.worker_info(self.space), hint=hint)

    def hand_in(self, held: Assignment, loss: float) -> JobView:
        """Hand in scores of all targets with this loss, and with those of each row."""
        results = []
        for target in held.targets:
            rows = [RowScore(row=n, loss_sum=4 * loss, tokens=4) for n in range(ROWS)]
            path = self.folder / f"rows-{next(SEEDS)}"
            file = write_file(path, rows)
            sent = self._send(
                {file.digest: path.read_bytes()}, "bot", [BlobSpec(sha256=file.digest, size_bytes=file.size_bytes)]
            )
            conditions = CONDITIONS.model_copy(update={"generated_rows": 0, "max_new_tokens": 0})
            report = report_of(rows, file, conditions=conditions)
            results.append(calls.scored(target, report=report, upload=sent.id))
        completion = Completion(attempt=held.attempt, evaluations=results)
        return self.services.claims.complete(job_id=held.job, completion=completion, who=self.who("bot"))

    def fail(self, held: Assignment, reason: str = "data") -> JobView:
        """Give a job up."""
        failure = Failure.model_validate({"attempt": held.attempt, "reason": reason, "message": "so it is"})
        return self.services.claims.fail(job_id=held.job, failure=failure, who=self.who("bot"))

    def score(self, number: int, data: str, loss: float, name: str = "a") -> JobView:
        """Score a version; jobs that wait are done first, with the same loss."""
        self.ask_for_scores(number, data, name)
        return self.work(loss)[-1]

    def work(self, loss: float) -> list[JobView]:
        """Do all jobs that wait."""
        done = []
        while (held := self.claim()) is not None:
            done.append(self.hand_in(held, loss))
        return done

    def _send(self, files: Mapping[str, bytes], by: str, blobs: list[BlobSpec]) -> UploadView:
        sent = self.services.uploads.begin(blobs=blobs, who=self.who(by), namespace=self.space)
        for put in sent.put:
            _put(put.url, files[put.sha256])
        return sent

    def adapter_pk(self, session: Session, name: str = "a") -> int:
        """The key of an adapter."""
        return session.scalars(select(Adapter.pk).where(Adapter.name == self.adapter(name))).one()

    def audited(self, action: str) -> list[str]:
        """Who did this in the namespace, in the order in which it was done."""
        rows = select(AuditEntry.actor).where(AuditEntry.action == action, AuditEntry.namespace == self.space)
        with self.services.db.read() as session:
            return list(session.scalars(rows.order_by(AuditEntry.pk)))

    # Policies and moves.

    def policy(self, alias: str = "live", scope: str | None = None, *, by: str = "boss", **asked: Any) -> PolicyView:
        """Set a policy."""
        document = PolicyDocument.model_validate({"alias": alias, **asked})
        setting = PolicySetting(scope=scope or self.adapter(), policy=document)
        return self.services.policies.set(setting=setting, who=self.who(by))

    def move(self, number: int, alias: str = "live", name: str = "a", *, by: str = "ann", **said: Any) -> AliasView:
        """Point an alias at a version."""
        body = AliasMove(adapter=self.adapter(name), alias=alias, number=number, **said)
        return self.gate.move(move=body, who=self.who(by))

    def roll_back(
        self, expect: int, alias: str = "live", name: str = "a", *, by: str = "ann", **said: Any
    ) -> AliasView:
        """Point an alias at what it named before."""
        body = AliasRollback(adapter=self.adapter(name), alias=alias, expect=expect, **said)
        return self.gate.rollback(rollback=body, who=self.who(by))

    def remove(self, alias: str = "live", name: str = "a", *, by: str = "ann", **said: Any) -> None:
        """Take an alias away."""
        body = AliasRemoval(adapter=self.adapter(name), alias=alias, **said)
        self.gate.remove(removal=body, who=self.who(by))

    def named(self, alias: str = "live", name: str = "a") -> int | None:
        """The number that an alias names."""
        there = self.services.aliases.list(adapter=self.adapter(name), who=LOCAL)
        return next((view.number for view in there if view.alias == alias), None)


def _put(url: str, content: bytes) -> None:
    """Send bytes to where a registry in this process, or a server, wants them."""
    if not url.startswith("file:"):
        httpx.put(url, content=content).raise_for_status()
        return
    path = Path(unquote(urlsplit(url).path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
