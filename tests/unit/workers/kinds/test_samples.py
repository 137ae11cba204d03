"""Samples of an evaluation: whatever was asked for and generated, what is handed in fits into a body."""

from __future__ import annotations

import json

import pytest
from support.adapters import digest
from support.scored_rows import CONDITIONS

from registry.door.strict_json import parse_strictly
from registry.http.bodies import LARGER, MAX_BODY_BYTES, limit_of
from sdk.formats.cut_texts import CUT
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, Sample
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.work import Completion, EvaluationResult
from workers.kinds.evaluation import within

_MOST_BYTES = 4 * 2**20


def report(*samples: Sample) -> EvaluationReport:
    metrics = {f"a_metric_with_a_long_name_{number}": 1.0 / 3 for number in range(16)}
    libraries = dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes", "safetensors"), "2.11.0+cu130")
    return EvaluationReport(
        metrics=metrics, precision="bfloat16", samples=list(samples), libraries=libraries, conditions=CONDITIONS
    )


def alike(text: str) -> Sample:
    return Sample(prompt=text, reference=text, completion=text)


def most(model: type, field: str, kind: str) -> int:
    """The most that a schema lets a field be."""
    return next(getattr(bound, kind) for bound in model.model_fields[field].metadata if hasattr(bound, kind))  # type: ignore[attr-defined]


def test_no_route_takes_more_than_four_mebibytes() -> None:
    assert max(MAX_BODY_BYTES, *(limit.size_bytes for _, limit in LARGER)) == _MOST_BYTES


@pytest.mark.parametrize("letter", ["a", "\U0001f600", "\n", "\x01"], ids=ascii)
def test_the_largest_completion_that_a_job_can_ask_for_fits(letter: str) -> None:
    targets = most(EvaluationRequest, "targets", "max_length")
    samples = most(EvaluationSpec, "keep_samples", "le")
    reports = within([report(*[alike(letter * 5000)] * samples)] * targets)
    results = [
        EvaluationResult(
            label=f"{'a' * 64}/{'b' * 64}@v1000000", digest=digest("x"), base_fingerprint=digest("y"), report=r
        )
        for r in reports
    ]
    body = Completion(attempt=1, evaluations=results).model_dump_json().encode()
    limit = limit_of("/api/v1/jobs/0123456789abcdef/complete")
    assert _MOST_BYTES // 2 < len(body) <= limit.size_bytes <= _MOST_BYTES
    assert Completion.model_validate(parse_strictly(body, max_values=limit.values)).evaluations == results
    kept = reports[-1].samples[-1]
    assert kept.prompt.endswith(CUT)
    assert kept.prompt.removesuffix(CUT) == letter * (len(kept.prompt) - len(CUT))


def test_what_fits_stays_as_it_is() -> None:
    given = [report(alike("a" * 100)), report(), report(alike("é" * 50), alike(""))]
    assert within(given, 3 * 200) == given


def test_the_longest_texts_are_cut_first() -> None:
    short, long = Sample(prompt="what?", reference="this", completion="that"), alike("x" * 1000)
    cut = within([report(short, long)], 400)[0].samples
    assert cut[0] == short
    assert cut[1] == alike("x" * ((400 - 13) // 3 - len(CUT.encode())) + CUT)


def test_a_cut_falls_between_characters_and_escapes() -> None:
    # Each place within an escape, a letter of four bytes and the mark of a cut.
    for most_bytes in (*range(60, 80), *range(80, 160, 9)):
        found = within([report(alike('\U0001f600"\n' * 40))], most_bytes)[0].samples[0]
        size = sum(len(json.dumps(text, ensure_ascii=False).encode()) - 2 for text in found.model_dump().values())
        assert most_bytes - 3 * 5 < size <= most_bytes
