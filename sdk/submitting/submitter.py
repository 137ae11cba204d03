"""How a job is submitted: its rows are checked and sent, its base is found or registered, then the request is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.api import jobs, sweeps, versions
from sdk.api.transport import Transport
from sdk.errors import InvalidInput
from sdk.formats.objectives import traits_of
from sdk.formats.refs import MemberRef, Ref, namespace_of
from sdk.names import parse_ref, parse_ref_or_member
from sdk.pushing.given_base import GivenBase, given_base, given_base_if_any
from sdk.pushing.pusher import Pusher
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import VersionView
from sdk.schemas.combination import CombineParent, CombineRequest, CombineSpec
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import (
    BaseChoice,
    CheckpointPolicy,
    CheckpointRef,
    DataSource,
    EvaluationRequest,
    EvaluationTarget,
    JobRequest,
    ParentChoice,
    PreviewJobRequest,
    TrainingRequest,
)
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.preview import MOST_JOB_ROWS
from sdk.schemas.sweeps import SweepSubmission, SweepView
from sdk.schemas.training import TrainingSpec
from sdk.submitting.again import continued_spec, recorded_request, refuse_options
from sdk.submitting.data_preview import RowsAsked, RowsOfFile, asked_of, asked_of_rows, locate_rows, trained_on
from sdk.submitting.given_data import (
    GivenData,
    GivenSource,
    RegisteredData,
    TrainingData,
    check_alike,
    check_different,
    find_data,
    sources_of,
)
from sdk.submitting.job_options import JobOptions
from sdk.submitting.sweep_options import SweepOptions
from sdk.validation import (
    build,
    check_held_out,
    check_loss_on,
    check_objective,
    check_samples,
    check_scorable,
    check_together,
    known_labels_of,
    only_row,
)


class JobSubmitter:
    """Submits jobs to one registry. A job that is refused before anything is sent leaves nothing behind.

    `key` is the idempotency key: using it again gives the same job.
    """

    def __init__(
        self, transport: Transport, pusher: Pusher, rendering_of: Callable[[VersionView], dict[str, Any]]
    ) -> None:
        self._transport, self._pusher, self._rendering_of = transport, pusher, rendering_of

    def training_request(
        self,
        adapter: str,
        options: Mapping[str, Any],
        *,
        base: GivenBase | None,
        parent: str | None,
        like: str | None,
        data: TrainingData | None,
        eval_data: str | Path | None,
        test_data: str | Path | None,
        checkpoint: CheckpointPolicy,
        from_checkpoint: CheckpointRef | None = None,
    ) -> TrainingRequest:
        """Return the request of a training of an adapter, whose rows and base are then at the registry.

        Raises InvalidInput, InvalidTargets, NotFound, QuotaExceeded.
        """
        if like is not None:
            inputs = {"base": base, "parent": parent, "data": data, "eval_data": eval_data, "test_data": test_data}
            refuse_options(like, {**inputs, "from_checkpoint": from_checkpoint, **options})
            made = versions.resolve(self._transport, str(parse_ref(like)))
            return recorded_request(self._transport, made, adapter, checkpoint)
        if data is None:
            raise InvalidInput("a training needs data, or like: a version whose training is repeated", param="data")
        continued = None if parent is None else versions.resolve(self._transport, str(parse_ref(parent)))
        if continued is None:
            spec = build(TrainingSpec, **options)
        else:
            spec = continued_spec(continued, options, rendering=self._rendering_of(continued))
        if base is None and continued is None:
            raise InvalidInput("a training needs a base, or a parent to continue", param="base")
        namespace = namespace_of(adapter) or "-"
        check_held_out(spec, eval_data=eval_data)
        given = sources_of(data)
        how: dict[str, Any] = {"columns": spec.columns, "hold_out": spec.hold_out, "alone": len(given) == 1}
        rows = [find_data(self._transport, source.given, namespace, **how) for source in given]
        check_alike(rows)
        check_different(rows, given)
        columns = rows[0].columns
        if (
            spec.hold_out is not None
            and len(rows) == 1
            and isinstance(rows[0], RegisteredData)
            and rows[0].view.rows == 1
        ):
            raise only_row(rows[0].label)
        held_out = {
            param: find_data(
                self._transport,
                path,
                namespace,
                columns=columns,
                param=param,
                known_labels=known_labels_of(rows) or None,
            )
            for param, path in (("eval_data", eval_data), ("test_data", test_data))
            if path is not None
        }
        objective = check_objective(spec.objective, rows)
        for one in rows:
            check_loss_on(spec.loss_on, one)
        for kept in held_out.values():
            objective = check_objective(spec.objective, rows, kept)
            if kept.columns != columns:
                raise InvalidInput(
                    f"the columns of {kept.label} are {kept.columns}, and those of {rows[0].label} {columns}; name "
                    "those to use with --columns, or give held-out rows with the same columns",
                    param="columns",
                )
            check_loss_on(spec.loss_on, kept)
        check_samples(spec, held_out.get("eval_data", rows[0]))
        if columns != spec.columns:
            spec = spec.model_copy(update={"columns": columns})
        if objective is not None:
            check_together(spec, objective)
        if objective not in (None, "sft"):
            # Set even if it follows from the rows, so that a release that doesn't know it is not given the job.
            spec = spec.model_copy(update={"objective": objective})
        if traits_of(objective).has_reference and continued is not None and "dropout" not in options:
            # The reference is the version that the training starts as, without dropout.
            spec = spec.model_copy(update={"dropout": 0.0})
        chosen = self._base(
            base, continued, namespace, spec, causal=objective is not None and traits_of(objective).predicts_tokens
        )
        sent = [self._sent(one, namespace) for one in rows]
        named: dict[str, Any] = {param: self._sent(kept, namespace) for param, kept in held_out.items()}
        return TrainingRequest(
            adapter=adapter,
            base=chosen,
            data=sent[0].digest,
            data_name=sent[0].exact_name,
            sources=_sources(sent, given),
            **dict[str, Any]({param: kept.digest for param, kept in named.items()}),
            **dict[str, Any]({f"{param}_name": kept.exact_name for param, kept in named.items()}),
            spec=spec,
            checkpoint=checkpoint,
            from_checkpoint=from_checkpoint,
            parent=None if continued is None else ParentChoice(ref=continued.ref, digest=continued.digest),
        )

    def _base(
        self,
        base: GivenBase | None,
        continued: VersionView | None,
        namespace: str,
        spec: TrainingSpec,
        *,
        causal: bool,
    ) -> BaseChoice:
        """Return the base of a training: the one that is named, or that of the version that it continues.

        Raises InvalidInput if these are not the same.
        """
        if base is None and continued is not None:
            return BaseChoice.of(continued.base)
        chosen = self._pusher.choose_base(base or GivenBase(""), namespace, spec=spec, causal=causal)
        if continued is not None and chosen.fingerprint != continued.base.fingerprint:
            raise InvalidInput(
                f"{continued.ref} was trained over the base {continued.base.id} ({continued.base.fingerprint[:12]}) and is continued over that "
                "alone; leave base out",
                param="base",
            )
        return chosen

    def evaluation(
        self,
        refs: str | Iterable[str],
        spec: EvaluationSpec,
        *,
        base_namespace: str | None,
        published: bool | None,
        data: str | Path,
        only: bool,
        again: bool,
        job_options: JobOptions,
    ) -> JobView:
        """Submit an evaluation of versions, members of sweeps, and bare bases, `base:NAME`; `base_namespace` and `published` say whose.

        Raises InvalidInput, NotFound, QuotaExceeded.
        """
        given = [refs] if isinstance(refs, str) else list(refs)
        if not given:
            raise InvalidInput("an evaluation needs at least one ref or base:NAME", param="refs")
        bare = {
            ref: given_base(ref.removeprefix("base:"), base_namespace, published)
            for ref in given
            if ref.startswith("base:")
        }
        if not bare:
            given_base_if_any(None, base_namespace, published)
        by_ref = {ref: parse_ref_or_member(ref) for ref in given if ref not in bare}
        # The name of a bare base that is given with refs is looked up in their namespace.
        namespace = next((self._namespace_of(ref) for ref in by_ref.values()), None)
        rows = find_data(self._transport, data, namespace, columns=spec.columns)
        check_loss_on(spec.loss_on, rows)
        check_scorable(spec, rows)
        spec = spec.model_copy(update={"columns": rows.columns})
        targets = [
            EvaluationTarget(ref=str(by_ref[ref]))
            if ref in by_ref
            else EvaluationTarget(base=self._pusher.choose_base(bare[ref], namespace))
            for ref in given
        ]
        sent = self._sent(rows, namespace)
        named = {"data": sent.digest, "data_name": sent.exact_name}
        request = build(EvaluationRequest, targets=targets, only=only, spec=spec, again=again, **named)
        return self.submit(request, job_options)

    def preview(
        self, asked: RowsOfFile | VersionView, *, rows: int, row: int | None, job_options: JobOptions
    ) -> JobView:
        """Submit a preview of rows of a file, or of a version's dataset.

        Raises InvalidInput, NotFound, QuotaExceeded.
        """
        if isinstance(asked, RowsOfFile):
            checked, said = asked_of_rows(self._transport, asked, rows=rows, row=row)
            check_loss_on(asked.spec.loss_on, checked)
            request = _preview_request(said)
            view = self._pusher.obtain_base(asked.base, None)
            sent = self._sent(checked, None)
            update: dict[str, Any] = {"base": BaseChoice.of(view), "data": sent.digest, "data_name": sent.exact_name}
        else:
            digest, said = trained_on(asked), asked_of(asked, rows=rows, row=row, rendering=self._rendering_of(asked))
            request = _preview_request(said)
            locate_rows(self._transport, asked, digest)
            update = {"of": asked.ref, "base": None, "data": digest}
        return self.submit(request.model_copy(update=update), job_options)

    def _namespace_of(self, ref: Ref | MemberRef) -> str:
        """The namespace of a version, or of a member of a sweep. Raises NotFound if the latter isn't there."""
        adapter = ref.adapter if isinstance(ref, Ref) else versions.resolve(self._transport, str(ref)).adapter
        return namespace_of(adapter) or "-"

    def _sent(self, rows: GivenData, namespace: str | None) -> DatasetView:
        """Return the registered dataset of these rows; a file is first added under its name."""
        return rows.view if isinstance(rows, RegisteredData) else self._pusher.send_data(rows, namespace)

    def submit(self, request: JobRequest, job_options: JobOptions) -> JobView:
        submission = build(
            JobSubmission,
            request=request,
            priority=job_options.priority,
            timeout_s=job_options.timeout_s,
            needs=job_options.needs,
            require_worker=job_options.require_worker,
        )
        return jobs.submit(self._transport, submission, key=job_options.key)

    def submit_sweep(self, training: TrainingRequest, asked: SweepOptions, job_options: JobOptions) -> SweepView:
        """Submit a sweep of trainings that are as one, but for the options that vary.

        Raises InvalidInput, QuotaExceeded, Unavailable if the registry lacks a library.
        """
        submission = build(
            SweepSubmission,
            request=asked.request(training),
            priority=job_options.priority,
            timeout_s=job_options.timeout_s,
            needs=job_options.needs,
            require_worker=job_options.require_worker,
        )
        return sweeps.submit(self._transport, submission, key=job_options.key)


def _sources(sent: Sequence[DatasetView], given: Sequence[GivenSource]) -> list[DataSource] | None:
    """Return several datasets in the form of a request; None if there is only one."""
    if len(sent) == 1:
        return None
    return [
        DataSource(data=view.digest, data_name=view.exact_name, weight=source.weight)
        for view, source in zip(sent, given, strict=True)
    ]


def combine_request(
    adapter: str, parents: Mapping[str, float] | Iterable[tuple[str, float]], spec: CombineSpec
) -> CombineRequest:
    """Return the request of a combination. Raises InvalidInput, InvalidRef."""
    pairs = parents.items() if isinstance(parents, Mapping) else parents
    given = [build(CombineParent, ref=str(parse_ref(ref)), weight=_number(weight, of=ref)) for ref, weight in pairs]
    return build(CombineRequest, adapter=adapter, parents=given, spec=spec)


def _number(weight: Any, *, of: str) -> float:
    """Return a weight. Raises InvalidInput if it is not a finite number."""
    if isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight):
        return float(weight)
    raise InvalidInput(
        f"the weight of {of} is {str(weight)[:40]!a}, which is not a number; write it as {of}=0.5", param="parents"
    )


def _preview_request(asked: RowsAsked) -> PreviewJobRequest:
    """Return a request whose base and rows are still to be named. Raises InvalidInput."""
    if asked.options["row"] is None and asked.options["rows"] > MOST_JOB_ROWS:
        raise InvalidInput(
            f"a job shows at most {MOST_JOB_ROWS} rows; give fewer, or a single one with --row", param="rows"
        )
    named = {"base": BaseChoice(id="-"), "data": "0" * 64, "template_date": asked.day}
    return build(PreviewJobRequest, **named, **asked.options)
