"""What tests of rules over rows share: versions whose scores of each row are given, and what the gate says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from contract.promotion.scene import SPEC, Scene
from sqlalchemy import select
from support import calls
from support.payloads import Payload, make_payload
from support.people import SEEDS
from support.scored_rows import CONDITIONS, report_of, write_file

from registry.catalog.versions.lifecycle import VersionState
from registry.evaluations.models import Evaluation
from registry.principal import LOCAL
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration
from sdk.schemas.catalog import VersionMove
from sdk.schemas.decisions import Decision, PromotionCheck, RuleOutcome
from sdk.schemas.evaluation import Conditions, EvaluationSpec, RowScore
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.work import ClaimRequest, Completion

#: Enough for the default of `min_rows`.
MANY = 120
#: A floor that a loss of 1 keeps, and a margin.
LOW = {"loss": {"at_most": 1.2}}
CLOSE = {"loss": {"not_worse_than": 0.1}}
#: How rows with answers are scored.
ANSWERED = EvaluationSpec(generate_rows=MANY, metrics=["rouge_l"])
#: What scores without answers are made under.
PLAIN = CONDITIONS.model_copy(update={"generated_rows": 0, "max_new_tokens": 0})
#: How rows with further columns are read, and what their scores are made under.
COLUMNS = "prompt=prompt,completion=completion"
NAMED = SPEC.model_copy(update={"columns": COLUMNS})
NAMED_PLAIN = PLAIN.model_copy(update={"columns": COLUMNS})


def row_scores(
    loss: float = 1.0, *, rouge: float | None = None, count: int = MANY, noise: float = 0.05, seed: int = 1
) -> list[RowScore]:
    """Rows with the same difficulty for every version, around a loss and a score of answers."""
    hard = np.random.default_rng(7).normal(0.0, 0.3, count)
    own = np.random.default_rng(seed).normal(0.0, noise, count)
    losses = np.maximum(0.01, loss + hard + own - (hard + own).mean())
    texts = rouge is not None
    shown = np.clip((rouge or 0.0) - (hard + own - (hard + own).mean()) / 3, 0.0, 1.0)
    return [
        RowScore(
            row=row,
            loss_sum=float(4 * losses[row]),
            tokens=4,
            prediction=f"said {row}" if texts else None,
            scores={"rouge_l": float(shown[row])} if texts else {},
        )
        for row in range(count)
    ]


def rule(data: str, metrics: Mapping[str, Any], *, spec: EvaluationSpec = SPEC, **said: Any) -> dict[str, Any]:
    """A policy's rule over rows."""
    return {"data": data, "evaluation": spec.model_dump(mode="json"), "metrics": dict(metrics), **said}


def hand_scores(
    scene: Scene,
    target: str,
    data: str,
    rows: Sequence[RowScore],
    *,
    spec: EvaluationSpec = SPEC,
    conditions: Conditions = PLAIN,
    by: str = "bot",
    **said: Any,
) -> str:
    """Have one target scored, with these scores of its rows; return the id of the record."""
    request = EvaluationRequest(targets=[EvaluationTarget(ref=target)], data=data, only=True, spec=spec, again=True)
    services = scene.services
    services.jobs.submit(submission=JobSubmission(request=request), who=scene.who("will"))
    return hand_in(scene, {target: rows}, conditions=conditions, by=by, **said)[target]


def hand_in(
    scene: Scene,
    rows: Mapping[str, Sequence[RowScore]],
    *,
    conditions: Conditions = PLAIN,
    by: str = "bot",
    **said: Any,
) -> dict[str, str]:
    """Take the next job, and hand in the scores of its targets; return the id of each record."""
    services, who = scene.services, scene.who(by)
    held = services.claims.claim(claim=ClaimRequest(worker=calls.worker_info(f"{scene.space}-{by}")), who=who)
    assert held is not None
    results = []
    for target in held.targets:
        path = scene.folder / f"rows-{next(SEEDS)}"
        file = write_file(path, rows[target.label])
        sent = scene._send(
            {file.digest: path.read_bytes()}, by, [BlobSpec(sha256=file.digest, size_bytes=file.size_bytes)]
        )
        report = report_of(rows[target.label], file, conditions=conditions, **said)
        results.append(calls.scored(target, report=report, upload=sent.id))
    completion = Completion(attempt=held.attempt, evaluations=results)
    services.claims.complete(job_id=held.job, completion=completion, who=who)
    with services.db.read() as session:
        made = session.scalars(select(Evaluation).where(Evaluation.job_id == held.job))
        return {row.label: row.id for row in made}


def check(scene: Scene, number: int, *, name: str = "a", alias: str = "live", by: str = "ann") -> Decision:
    """What would be decided about a move."""
    asked = PromotionCheck(adapter=scene.adapter(name), alias=alias, number=number)
    return scene.services.gate.check(check=asked, who=scene.who(by))


def lines(decision: Decision) -> list[tuple[str, str]]:
    """Each rule's outcome and its kind."""
    return [(one.kind, one.outcome) for one in decision.rules]


def only(decision: Decision) -> RuleOutcome:
    """The one rule of a decision."""
    (found,) = decision.rules
    return found


def publish(scene: Scene, name: str = "a", *, payload: Payload | None = None, by: str = "will", **said: Any) -> int:
    """Publish an adapter with what is said of it; return its number."""
    made = payload or make_payload(next(SEEDS))
    sent = scene._send(made.files, by, made.blobs)
    publication = made.publication(scene.adapter(name), sent.id, **said)
    return scene.services.publisher.publish(publication=publication, who=scene.who(by)).version.number or 0


def add_rows(scene: Scene, rows: Sequence[Mapping[str, str]]) -> str:
    """Add a dataset with these rows; return its digest."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    sent = scene._send({sha256: content}, "will", [BlobSpec(sha256=sha256, size_bytes=len(content))])
    registration = DatasetRegistration(
        digest=sha256,
        size_bytes=len(content),
        format="jsonl",
        rows=len(rows),
        shape="prompt-completion",
        upload=sent.id,
        namespace=scene.space,
        name=f"rows-{next(SEEDS)}",
    )
    return scene.services.datasets.register(dataset=registration, who=scene.who("will")).digest


def new_rows(count: int = MANY, **columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows that no other test has, with further columns."""
    seed = next(SEEDS)
    return [
        {
            # So that none is nearly another one.
            "prompt": hashlib.sha256(f"{seed} {row}".encode()).hexdigest(),
            "completion": f"{row + 1}",
            **{name: values[row] for name, values in columns.items()},
        }
        for row in range(count)
    ]


def ref(scene: Scene, number: int = 1, name: str = "a") -> str:
    """What a version is called."""
    return f"{scene.adapter(name)}@v{number}"


def scored(scene: Scene, data: str, loss: float = 1.0, **said: Any) -> int:
    """Publish a version, and have it scored."""
    number = publish(scene)
    hand_scores(scene, ref(scene, number), data, row_scores(loss, seed=next(SEEDS), **said))
    return number


def ask_for(scene: Scene, data: str, metrics: dict[str, Any], **said: Any) -> None:
    """Set the policy of the alias."""
    spec = said.pop("spec", SPEC)
    scene.policy(require=[rule(data, metrics, spec=spec, **said)])


def delete(scene: Scene, number: int) -> None:
    """Delete a version."""
    scene.services.version_states.move(VersionMove(ref=ref(scene, number)), VersionState.DELETED, who=LOCAL)
