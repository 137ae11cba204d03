"""Decisions about aliases: what was found, with numbers, when one was to move, or when somebody asked."""

from __future__ import annotations

import builtins

from sdk.api import promotion
from sdk.api.promotion import DecisionRoutes
from sdk.given_values import build, require_numbered
from sdk.names import check_alias, check_number, parse_ref
from sdk.objects import Evaluation, Job, Registry
from sdk.schemas.decisions import Decision, PromotionCheck
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.jobs import JobView
from sdk.schemas.wire import digest_of
from sdk.submitting.job_options import JobOptions


class DecisionsAPI(DecisionRoutes):
    """Decisions. Called, it lists the last ones about an adapter's aliases."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def check(self, ref: str, alias: str, *, expect: str | int | None = None) -> Decision:
        """Decide whether an alias of the adapter would move to the version that `ref` names now, without moving it.

        It would if `outcome` is "passed". `missing` are the evaluations that would make unknown rules known. Raises NotFound,
        NotAllowed for anybody who may not move it, Conflict if it doesn't name `expect` (0: none), Unavailable.
        """
        question = build(
            PromotionCheck,
            adapter=parse_ref(ref).adapter,
            alias=check_alias(alias),
            number=require_numbered(ref, self._registry.get(ref).number),
            expect=None if expect is None else check_number(expect),
        )
        return promotion.check(self._registry.transport, question)

    def submit_missing(self, decision: Decision) -> builtins.list[Job[builtins.list[Evaluation]]]:
        """Submit the evaluations that a decision misses, as ordinary jobs; those of an earlier call that still wait or run are not
        submitted again. Raises what `submit_evaluation` does.
        """
        return [Job(self._submitted(request), self._registry) for request in decision.missing]

    def _submitted(self, request: EvaluationRequest) -> JobView:
        key = digest_of(request.model_dump(mode="json"))
        while True:
            view = self._registry.submitter.submit(request, JobOptions(0, key=key))
            if not view.state.is_final:
                return view
            # The same key gives the same job, which has ended, and the scores are still missing.
            key = digest_of([key, view.id])
