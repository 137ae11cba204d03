"""A namespace in which every text that somebody may write is an attack on whoever reads it in a browser."""

from __future__ import annotations

import json
from pathlib import Path

from contract.promotion.judged import ANSWERED, LOW, hand_scores, row_scores, rule
from contract.promotion.scene import Scene
from support import calls
from support.people import training
from support.registries import World

from registry.principal import LOCAL, Role
from sdk.schemas.aliases import AliasMove
from sdk.schemas.approvals import ApprovalRequest
from sdk.schemas.catalog import Annotation
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.work import ClaimRequest, Failure, Heartbeat

#: An element that no page of ours has, in the ways in which text gets out of where it stands; `?` is who wrote it.
ATTACKS = (
    "?\"'><xss>",
    "?</script><xss><script>alert(1)</script>",
    "?{{ 7 * 7 }}{% raw %}<xss onload=alert(1)>",
    "?]]></style></title></textarea><xss>",
    "javascript:alert('?')<xss>",
    "?\\u003cxss\\u003e&lt;xss&gt;&#60;xss&#62;",
)


def attack(field: str) -> str:
    """All attacks in one text, with the name of the field that holds it."""
    return " ".join(ATTACKS).replace("?", field)


def short_attack(field: str) -> str:
    """One attack, for names."""
    return f"{field}\"'><xss onclick=alert(1)>"


class HostilePlace:
    """What was written; `space` and `adapter` are ordinary names, since no others are taken."""

    def __init__(self, world: World, folder: Path) -> None:
        self.scene = scene = Scene(world, folder)
        self.space, self.adapter = scene.space, scene.adapter()
        services = world.services
        numbers = [
            scene.publish(
                tags={"kind": short_attack("tag")},
                description=attack("description"),
                training={"objective": short_attack("training")},
                libraries={short_attack("library"): short_attack("release")},
                metrics={short_attack("metric"): 1.5},
                unknown=["dataset"],
            )
            for _ in range(2)
        ]
        for number in numbers:
            note = Annotation(ref=f"{self.adapter}@v{number}", note=attack("note"), tags={"more": short_attack("more")})
            services.version_states.annotate(annotation=note, who=scene.who("boss"))
        self.data = scene.rows(count=120)
        scored = [
            row.model_copy(update={"prediction": attack("prediction")}) for row in row_scores(0.5, rouge=0.5, count=120)
        ]
        for number in numbers:
            ref = f"{self.adapter}@v{number}"
            self.evaluation = hand_scores(scene, ref, self.data, scored, spec=ANSWERED, samples=[])
        scene.policy(require=[rule(self.data, LOW)], approvals=1)
        for number in numbers:
            request = ApprovalRequest(
                adapter=self.adapter, alias="live", number=number, kind="approve", reason=attack("approval")
            )
            services.approvals.give(request=request, who=scene.who("ben"))
        move = AliasMove(adapter=self.adapter, alias="live", number=numbers[0], reason=attack("reason"), override=True)
        services.gate.move(move=move, who=scene.who("boss"))
        self.jobs = [self._job(services, fails=fails) for fails in (True, False)]
        named = services.tokens.create(name=short_attack("token"), grants={self.space: Role.ADMIN}, who=LOCAL)
        self.secret = named.secret

    def _job(self, services, *, fails: bool) -> str:
        scene = self.scene
        body = training(f"{self.space}/trained", self.data)
        submitted = services.jobs.submit(submission=body, who=scene.who("will"))
        info = calls.worker_info(short_attack("worker"), version="<xss>", shared_paths=[f"/{attack('path')}"])
        held = services.claims.claim(claim=ClaimRequest(worker=info), who=scene.who("bot"))
        assert held is not None
        events = [
            NewEvent(kind="log", message=attack("log")),
            NewEvent(kind="progress", progress=Progress(phase=short_attack("phase"), message=attack("progress"))),
        ]
        advice = [{"rule": "flat", "message": attack("advice"), "changes": {short_attack("option"): attack("value")}}]
        beat = Heartbeat.model_validate(
            {
                "attempt": held.attempt,
                "events": [json.loads(event.model_dump_json()) for event in events],
                "advice": advice,
            }
        )
        services.claims.heartbeat(job_id=held.job, beat=beat, who=scene.who("bot"))
        if fails:
            failure = Failure.model_validate({"attempt": held.attempt, "reason": "data", "message": attack("failure")})
            services.claims.fail(job_id=held.job, failure=failure, who=scene.who("bot"))
        return submitted.id
