"""Scores that are recorded already answer an evaluation of the same target on the same rows, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import calls
from support.merging_desk import MergingDesk
from support.scored_rows import CONDITIONS, evaluated, fresh, report_of, write_file

from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.jobs import JobView
from sdk.schemas.wire import read
from sdk.schemas.work import Assignment, EvaluationResult
from workers.kinds.evaluation import recorded_scores


def again(desk: MergingDesk, refs: list[str], rows: Path, **said: Any) -> Assignment:
    desk.writer.submit_evaluation(refs, data=rows, precision="native", **{"only": True, **said})
    return desk.claim()


def hand_in(desk: MergingDesk, held: Assignment, *idents: str) -> JobView:
    results = [calls.scored(target, recorded=ident) for target, ident in zip(held.targets, idents, strict=True)]
    return calls.complete(desk.worker, held, evaluations=results)


def candidates(client: Client, held: Assignment) -> list[list[str]]:
    """The ids of what a worker finds of each target."""
    request = read(EvaluationRequest, held.request.model_dump())
    found = [recorded_scores(client, request, target, namespace=held.namespace) for target in held.targets]
    return [[one.id for one in each] for each in found]


def test_a_worker_finds_them_and_the_job_is_answered_with_them(desk: MergingDesk, rows: Path) -> None:
    ref, base = desk.push(), f"base:{desk.base.fingerprint}"
    idents = [evaluated(desk, target, rows, fresh()) for target in (base, ref)]
    newest = evaluated(desk, ref, rows, fresh())
    held = again(desk, [ref, base], rows)
    request = read(EvaluationRequest, held.request.model_dump())
    found = [recorded_scores(desk.worker, request, target, namespace=desk.space) for target in held.targets]
    assert [[one.id for one in each] for each in found] == [[newest, idents[1]], [idents[0]]]
    assert found[0][0].conditions == CONDITIONS
    done = hand_in(desk, held, newest, idents[0])
    assert done.state == "succeeded"
    assert done.result == {"evaluations": [newest, idents[0]], "recorded": [newest, idents[0]]}
    assert [one.id for one in desk.writer.job(held.job).result()] == [newest, idents[0]]
    # The job made none; its result names them, as docs/evaluation.md says.
    assert desk.writer.evaluations(job=held.job) == []
    named = (desk.writer.jobs.view(held.job).result or {})["evaluations"]
    assert [desk.writer.evaluations.get(ident).id for ident in named] == [newest, idents[0]]
    # Nothing was added to the record.
    assert len(desk.writer.evaluations(digest=desk.writer.get(ref).digest)) == 2


def test_what_kept_no_text_is_told_and_takes_the_place_of_no_texts(desk: MergingDesk, rows: Path) -> None:
    ref = desk.push()
    told = evaluated(desk, ref, rows, fresh())
    silent = evaluated(
        desk, ref, rows, [one.model_copy(update={"prediction": None}) for one in fresh()], spec={"keep_samples": 0}
    )
    held = again(desk, [ref], rows)
    request = read(EvaluationRequest, held.request.model_dump())
    (target,) = held.targets
    found = recorded_scores(desk.worker, request, target, namespace=desk.space)
    assert [(one.id, one.texts) for one in found] == [(silent, False), (told, True)]
    # Those that have both take the place of both, except for the first, by which promotions are decided.
    newest = evaluated(desk, ref, rows, fresh())
    assert [one.id for one in desk.writer.evaluations(digest=target.digest) if one.rows_digest] == [told, newest]


def test_those_to_be_made_again_are_not_answered_with_earlier_ones(desk: MergingDesk, rows: Path) -> None:
    ref = desk.push()
    ident = evaluated(desk, ref, rows, fresh())
    held = again(desk, [ref], rows, again=True)
    assert candidates(desk.worker, held) == [[]]
    with pytest.raises(InvalidInput, match="are to be made again"):
        hand_in(desk, held, ident)


@pytest.mark.parametrize("other", ["version", "rows", "nothing"])
def test_scores_of_something_else_are_refused(desk: MergingDesk, rows: Path, tmp_path: Path, other: str) -> None:
    ref = desk.push()
    data = tmp_path / "other.jsonl"
    data.write_text('{"prompt": "other", "completion": "b"}\n')
    ident = evaluated(desk, desk.push() if other == "version" else ref, data if other == "rows" else rows, fresh())
    held = again(desk, [ref], rows)
    assert candidates(desk.worker, held)[0] == ([ident] if other == "nothing" else [])
    with pytest.raises(InvalidInput, match="are not those of"):
        hand_in(desk, held, "nothing" if other == "nothing" else ident)
    assert desk.writer.jobs.view(held.job).state == "running"


def test_a_worker_of_all_namespaces_finds_those_of_the_job_s_own(
    desk: MergingDesk, rows: Path, acting: Callable[..., Client], space: str
) -> None:
    other = f"{space}-x"
    writer, worker = acting(**{other: Role.WRITER}), acting(**{other: Role.WORKER})
    there = replace(
        desk,
        writer=writer,
        worker=worker,
        space=other,
        base=writer.bases.add(desk.folder, namespace=other, upload=True),
    )
    base = f"base:{desk.base.fingerprint}"
    here, elsewhere = evaluated(desk, base, rows, fresh()), evaluated(there, base, rows, fresh())
    everywhere = acting(**{"*": Role.WORKER})
    for at, ident in ((desk, here), (there, elsewhere)):
        assert candidates(everywhere, again(at, [base], rows)) == [[ident]]


def test_scores_of_another_namespace_lose_their_target_alone(desk: MergingDesk, rows: Path) -> None:
    ref, base = desk.push(), f"base:{desk.base.fingerprint}"
    foreign = "ab" * 6
    held = again(desk, [ref, base], rows, metrics=["rouge_l", "chrf"])
    path = desk.tmp_path / "rows-fresh"
    file = write_file(path, handed_in := fresh())
    scored, named = (
        EvaluationResult(label=target.label, digest=target.digest, base_fingerprint=desk.base.fingerprint, **said)
        for target, said in zip(
            held.targets,
            (
                {
                    "report": report_of(handed_in, file),
                    "upload": desk.worker.uploader.upload({file.digest: path}, "sending", desk.space),
                },
                {"recorded": foreign},
            ),
            strict=True,
        )
    )
    done = calls.complete(desk.worker, held, evaluations=[scored, named])
    assert done.state == "succeeded"
    (ident,) = done.result["evaluations"]
    assert desk.writer.evaluations.rows(ident) == handed_in
    (failed,) = done.result["failed"]
    assert failed["ref"] == held.targets[1].label
    assert "named scores that are not those of" in failed["message"]
    assert foreign not in str(done.result)
