"""The bare base and the version in production are scored beside what an evaluation is asked for, unless it is told not to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import calls
from support.fixtures import Limits
from support.merging_desk import MergingDesk, value
from support.scored_rows import fresh, report_of
from support.small import write_adapter

from registry.jobs.kinds import evaluation
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidBase, JobFailed
from sdk.objects import failed_targets, scored_beside
from sdk.schemas.evaluation import EvaluationFailure
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.work import Assignment


@pytest.fixture
def desk(acting: Callable[..., Client], space: str, tmp_path: Path) -> MergingDesk:
    return MergingDesk.open(acting(**{space: Role.PROMOTER}), acting(**{space: Role.WORKER}), space, tmp_path)


def targets(desk: MergingDesk, refs: list[str], rows: Path, **said: Any) -> list[tuple[str, str | None]]:
    """What a job scores, and as what the registry added it."""
    view = desk.writer.submit_evaluation(refs, data=rows, **said).view
    assert view.subject == " ".join(refs).replace(desk.base.fingerprint, desk.base.id)
    return marked(view)


def marked(view: JobView) -> list[tuple[str, str | None]]:
    found = [EvaluationTarget.model_validate(one) for one in view.request["targets"]]
    return [(one.label, one.beside) for one in found]


def promote(desk: MergingDesk, ref: str) -> None:
    name, _, number = ref.partition("@")
    desk.writer.set_alias(name, "production", int(number[1:]))


def complete(desk: MergingDesk, held: Assignment, *fails: str) -> JobView:
    """Hand in scores of all targets but some."""
    failure = EvaluationFailure(reason="adapter", message="its files don't fit")
    results = [
        calls.scored(
            target, **({"failure": failure} if target.label in fails else {"report": report_of(fresh(), None)})
        )
        for target in held.targets
    ]
    return calls.complete(desk.worker, held, evaluations=results)


def test_the_bare_base_and_production_come_last_and_are_pinned(desk: MergingDesk, rows: Path) -> None:
    old, new, base = desk.push(), desk.push(), f"base:{desk.base.id}"
    assert targets(desk, [new], rows) == [(new, None), (base, "base")]
    promote(desk, old)
    job = desk.writer.submit_evaluation(new, data=rows, precision="native")
    assert marked(job.view) == [(new, None), (base, "base"), (old, "production")]
    assert scored_beside(job.view) == {base: "base", old: "production"}
    # What is promoted later is not what the job was accepted with.
    promote(desk, new)
    desk.claim()
    held = desk.claim()
    assert [target.label for target in held.targets] == [new, base, old]
    assert complete(desk, held).state == "succeeded"
    assert [one.ref for one in job.result()] == [new, base, old]


def test_nothing_is_scored_twice(desk: MergingDesk, rows: Path) -> None:
    old, new, base = desk.push(), desk.push(), f"base:{desk.base.id}"
    promote(desk, old)
    assert targets(desk, [new, old], rows) == [(new, None), (old, None), (base, "base")]
    by_fingerprint = f"base:{desk.base.fingerprint}"
    assert targets(desk, [by_fingerprint, new], rows) == [(base, None), (new, None), (old, "production")]
    assert targets(desk, [by_fingerprint], rows) == [(base, None)]


def test_each_name_brings_its_own(desk: MergingDesk, rows: Path) -> None:
    ours, theirs, base = [desk.push(), desk.push()], [desk.push("b"), desk.push("b")], f"base:{desk.base.id}"
    promote(desk, ours[0])
    promote(desk, theirs[0])
    added = [(base, "base"), (ours[0], "production"), (theirs[0], "production")]
    assert targets(desk, [ours[1], theirs[1]], rows) == [(ours[1], None), (theirs[1], None), *added]


def test_only_leaves_them_out_and_a_retry_asks_for_the_same(desk: MergingDesk, rows: Path) -> None:
    old, new, base = desk.push(), desk.push(), f"base:{desk.base.id}"
    promote(desk, old)
    assert targets(desk, [new], rows, only=True) == [(new, None)]
    job = desk.writer.submit_evaluation(new, data=rows)
    promote(desk, new)
    job.cancel()
    assert marked(job.retry().view) == [(new, None), (base, "base"), (old, "production")]


def test_what_a_caller_says_of_it_is_ignored(desk: MergingDesk, rows: Path) -> None:
    ref = desk.push()
    data = desk.writer.datasets.add(rows, namespace=desk.space).digest
    request = EvaluationRequest(targets=[EvaluationTarget(ref=ref, beside="production")], data=data, only=True)
    view = desk.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
    assert marked(view) == [(ref, None)]


def test_production_that_can_t_be_scored_is_left_out(desk: MergingDesk, rows: Path) -> None:
    said = {"quant_method": "gptq", "bits": 4}
    other = MergingDesk.open(desk.writer, desk.worker, desk.space, desk.tmp_path / "other", quantization_config=said)
    old, new, base = other.push(), desk.push(), f"base:{desk.base.id}"
    promote(desk, old)
    with pytest.raises(InvalidBase):
        desk.writer.submit_evaluation(old, data=rows)
    assert targets(desk, [new], rows) == [(new, None), (base, "base")]


def test_they_give_way_where_a_job_has_no_room(desk: MergingDesk, rows: Path, limits: Limits) -> None:
    limits(evaluation, MOST_TARGETS=3)
    refs = [desk.push(f"n{number}") for number in range(2)]
    promote(desk, refs[0])
    others = [desk.push("n0") for _ in range(3)]
    data = desk.writer.datasets.add(rows, namespace=desk.space).digest
    for asked, added in ((3, []), (2, [(f"base:{desk.base.id}", "base")])):
        request = EvaluationRequest(targets=[EvaluationTarget(ref=other) for other in others[:asked]], data=data)
        view = desk.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
        assert marked(view)[asked:] == added


def test_nobody_sees_more_by_it(desk: MergingDesk, acting: Callable[..., Client], rows: Path) -> None:
    """The same name in another namespace has another production; who may not write sees none at all."""
    other = f"{desk.space}-x"
    there = MergingDesk.open(
        acting(**{other: Role.PROMOTER}), acting(**{other: Role.WORKER}), other, desk.tmp_path / "there"
    )
    promote(there, there.push())
    ref = desk.push()
    assert [label for label, _ in targets(desk, [ref], rows)] == [ref, f"base:{desk.base.id}"]


def test_what_is_beside_loses_its_scores_and_no_job(desk: MergingDesk, rows: Path) -> None:
    old, new, base = desk.push(), desk.push(), f"base:{desk.base.id}"
    promote(desk, old)
    job = desk.writer.submit_evaluation(new, data=rows, precision="native")
    assert complete(desk, desk.claim(), old).state == "succeeded"
    assert [one.ref for one in job.result()] == [new, base]
    assert failed_targets(desk.writer.jobs.view(job.id), beside=True) == [(old, "adapter", "its files don't fit")]
    job = desk.writer.submit_evaluation(new, data=rows, precision="native", again=True)
    complete(desk, desk.claim(), new)
    with pytest.raises(JobFailed, match=f"scored 2 of 3 targets, whose scores are kept; {new}: its files"):
        job.result()


def test_each_base_is_held_as_the_first_adapter_over_it_was_trained(desk: MergingDesk, rows: Path) -> None:
    other = MergingDesk.open(desk.writer, desk.worker, desk.space, desk.tmp_path / "other")
    folder = write_adapter(desk.tmp_path / "packed", value=value())
    recipe, name = QuantizationRecipe(), desk.named("b")
    packed = desk.writer.push(folder, name, base=other.base.fingerprint, quantization=recipe).ref
    wide = desk.push()
    desk.writer.submit_evaluation([packed, wide], data=rows)
    held = desk.claim()
    wide_report = report_of(fresh(), None)
    narrow = wide_report.model_copy(update={"precision": "nf4"})
    results = [
        calls.scored(target, report=narrow if target.base.fingerprint == other.base.fingerprint else wide_report)
        for target in held.targets
    ]
    assert calls.complete(desk.worker, held, evaluations=results).state == "succeeded"
